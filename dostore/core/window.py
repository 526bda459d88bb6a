"""A range of a content and the blocks around it, read from plain shards to where they belong.

Where a block is in the file of a shard that is stored without compression, and where the footer is,
the content alone tells. So nothing has to be read first to know what to read: blocks and footer
come by one read of each shard, straight to their places among the others' blocks, and are verified
there. What is not as it has to be is for who looks at the footer first (``shardfile``): it may be
damaged, compressed, or of another format.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from dostore.core.model import Content
from dostore.core.shardfile import (
    ENTRY_BYTES,
    PAGE_BLOCKS,
    PLAIN,
    TRAILER_BYTES,
    check_of,
    entry_of,
    trailer_head,
)

#: Part of a file: its offset, the buffers that it is read to, and how many bytes it has.
Part = tuple[int, Sequence[memoryview], int]


@frozen(slots=True)
class Window:
    """Some blocks of a content: of consecutive shards and consecutive stripes.

    :ivar stripes: of the whole content.
    :ivar first: the number of the window's first stripe.
    :ivar count: how many stripes it has.
    :ivar shards: which shards.
    :ivar last_block: bytes of each block of the last of its stripes.
    :ivar shard_bytes: bytes of the blocks of one shard.
    :ivar before: how many bytes of all the blocks come before those that are wanted.
    """

    content: Content
    stripes: int
    first: int
    count: int
    shards: range
    last_block: int
    shard_bytes: int
    before: int

    @classmethod
    def around(cls, content: Content, start: int, stop: int) -> Window | None:
        """The window of the bytes ``start`` … ``stop - 1``, at least one.

        :returns: None when the shards are so long that there are pages between their blocks.
        """
        scheme, size = content.scheme, content.size
        stripes = scheme.stripe_count(size)
        if stripes >= PAGE_BLOCKS:
            return None
        stripe_size = scheme.stripe_size
        first, last = start // stripe_size, (stop - 1) // stripe_size
        last_block = scheme.block_length(scheme.stripe_length(size, last))
        shards = scheme.touched(size, start, stop)
        return cls(
            content,
            stripes,
            first,
            last - first + 1,
            shards,
            last_block,
            (last - first) * scheme.block_size + last_block,
            # When there are several stripes, the first shard is 0.
            start - first * stripe_size - shards.start * last_block,
        )

    @classmethod
    def of_shard(cls, content: Content, index: int) -> Window | None:
        """The window of a whole shard, a parity shard too.

        :returns: see :meth:`around`.
        """
        scheme, size = content.scheme, content.size
        stripes = scheme.stripe_count(size)
        if not 0 < stripes < PAGE_BLOCKS:
            return None
        last_block = scheme.block_length(scheme.stripe_length(size, stripes - 1))
        shard = range(index, index + 1)
        return cls(content, stripes, 0, stripes, shard, last_block, scheme.shard_size(size), 0)

    @property
    def size(self) -> int:
        """Bytes of all the blocks."""
        return len(self.shards) * self.shard_bytes

    @property
    def footer_bytes(self) -> int:
        """Bytes of each shard's footer."""
        return self.stripes * ENTRY_BYTES + TRAILER_BYTES

    def places(self, buffer: memoryview, index: int) -> list[memoryview]:
        """Where in a buffer of ``size`` bytes the blocks of a shard belong."""
        length = self.last_block
        place = index - self.shards.start
        if self.count == 1:
            return [buffer[place * length : (place + 1) * length]]
        block = self.content.scheme.block_size
        row = len(self.shards) * block
        above = (self.count - 1) * row
        places = [buffer[at : at + block] for at in range(place * block, above, row)]
        at = above + place * length
        places.append(buffer[at : at + length])
        return places

    def parts(self, places: Sequence[memoryview], footer: memoryview) -> Sequence[Part]:
        """What to read of a shard's file.

        :param footer: one byte longer than the footer: a file with one byte more is none of ours.
        """
        scheme, size = self.content.scheme, self.shard_bytes
        start = self.first * scheme.block_size
        footer_bytes = len(footer) - 1
        if self.first + self.count == self.stripes:
            return ((start, (*places, footer), size + footer_bytes),)
        end = scheme.shard_size(self.content.size)
        return ((start, places, size), (end, (footer,), footer_bytes))

    def is_sound(self, index: int, places: Sequence[memoryview], footer: memoryview) -> bool:
        """Whether what was read is the blocks and the footer of a plain shard of the content.

        :param footer: as for :meth:`parts`.
        """
        told = bytes(footer[:-1])
        start = self.first * ENTRY_BYTES
        checked = b"".join(
            (
                told[:start],
                *map(entry_of, places),
                told[start + self.count * ENTRY_BYTES : self.stripes * ENTRY_BYTES],
                trailer_head(self.content, index, PLAIN, self.stripes, 0),
            )
        )
        return told == checked + check_of(checked)
