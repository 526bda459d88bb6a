"""A range of a content and the blocks around it, read from plain shards to where they belong.

Where a block is in the file of a shard that is stored without compression, and where the footer is,
the content alone tells. So nothing has to be read first to know what to read: blocks and footer
come by one read of each shard, straight to their places among the others' blocks, and are verified
there. What is not as it has to be is for who looks at the footer first (``shardfile``): it may be
damaged, compressed, or of another format.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from dostore.core.model import Content
from dostore.core.shardfile import (
    ENTRY_BYTES,
    PAGE_BLOCKS,
    PAGE_BYTES,
    PLAIN,
    REFERENCE_BYTES,
    TRAILER_BYTES,
    check_of,
    entry_of,
    reference_of,
    trailer_head,
)

#: Part of a file: its offset, the buffers that it is read to, and how many bytes it has.
Part = tuple[int, Sequence[memoryview], int]


@define(slots=True, eq=False)
class Window:
    """Some blocks of a content: of consecutive shards and consecutive stripes.

    What tells of the blocks is read with them, to a buffer for ``told_bytes``: the page that has
    their entries, unless the footer has them, the footer, and a byte that must not be there.

    :ivar stripes: of the whole content.
    :ivar first: the number of the window's first stripe.
    :ivar count: how many stripes it has.
    :ivar shards: which shards.
    :ivar last_block: bytes of each block of the last of its stripes.
    :ivar shard_bytes: bytes of the blocks of one shard.
    :ivar before: how many bytes of all the blocks come before those that are wanted.
    :ivar pages: how many pages stand between the blocks of a whole shard.
    :ivar page: the number of the page that has the entries; ``pages``: the footer has them.
    """

    content: Content
    stripes: int
    first: int
    count: int
    shards: range
    last_block: int
    shard_bytes: int
    before: int
    pages: int
    page: int

    @classmethod
    def around(cls, content: Content, start: int, stop: int) -> Window | None:
        """The window of the bytes ``start`` … ``stop - 1``, at least one.

        :returns: None when there is a page between its blocks.
        """
        scheme, size = content.scheme, content.size
        stripe_size = scheme.stripe_size
        if size == stop - start <= stripe_size:
            # The most frequent by far.
            block = -(-size // scheme.k)
            touched = range(-(-size // block))
            return cls(content, 1, 0, 1, touched, block, block, 0, 0, 0)
        first, last = start // stripe_size, (stop - 1) // stripe_size
        shards = scheme.touched(size, start, stop)
        return cls._of(content, first, last, shards, start - first * stripe_size)

    @classmethod
    def of_shard(cls, content: Content, index: int) -> Window | None:
        """The window of a whole shard, a parity shard too.

        :returns: see :meth:`around`; None also when it has no block at all.
        """
        last = content.scheme.stripe_count(content.size) - 1
        return None if last < 0 else cls._of(content, 0, last, range(index, index + 1), 0)

    @classmethod
    def _of(
        cls, content: Content, first: int, last: int, shards: range, before: int
    ) -> Window | None:
        scheme, size = content.scheme, content.size
        stripes = scheme.stripe_count(size)
        page = first // PAGE_BLOCKS
        if page != last // PAGE_BLOCKS:
            return None
        last_block = scheme.block_length(scheme.stripe_length(size, last))
        shard_bytes = (last - first) * scheme.block_size + last_block
        if before:
            # Only of one stripe, not all shards have bytes of the range.
            before -= shards.start * last_block
        pages = stripes // PAGE_BLOCKS
        count = last - first + 1
        return cls(
            content, stripes, first, count, shards, last_block, shard_bytes, before, pages, page
        )

    @property
    def size(self) -> int:
        """Bytes of all the blocks."""
        return len(self.shards) * self.shard_bytes

    @property
    def told_bytes(self) -> int:
        """Bytes of the buffer for what tells of a shard's blocks."""
        page = PAGE_BYTES if self.page < self.pages else 0
        return page + self._entry_bytes + self.pages * REFERENCE_BYTES + TRAILER_BYTES + 1

    @property
    def _entry_bytes(self) -> int:
        return (self.stripes - self.pages * PAGE_BLOCKS) * ENTRY_BYTES

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

    def parts(self, places: Sequence[memoryview], told: memoryview) -> list[Part]:
        """What to read of a shard's file.

        :param told: a buffer of ``told_bytes``.
        """
        scheme, size = self.content.scheme, self.shard_bytes
        if self.first + self.count == self.stripes and self.page == self.pages:
            return [(self.offset, (*places, told), size + len(told) - 1)]
        parts: list[Part] = [(self.offset, places, size)]
        if self.page < self.pages:
            parts.append((self._page_offset, (told[:PAGE_BYTES],), PAGE_BYTES))
            told = told[PAGE_BYTES:]
        end = scheme.shard_size(self.content.size) + self.pages * PAGE_BYTES
        parts.append((end, (told,), len(told) - 1))
        return parts

    @property
    def _page_offset(self) -> int:
        block_bytes = (self.page + 1) * PAGE_BLOCKS * self.content.scheme.block_size
        return block_bytes + self.page * PAGE_BYTES

    @property
    def offset(self) -> int:
        """Where in a shard's file the first of the window's blocks is."""
        return self.first * self.content.scheme.block_size + self.page * PAGE_BYTES

    def entries(self, told: memoryview) -> bytes | None:
        """What was told of all the blocks of the shard; None when that is on pages."""
        return None if self.pages else bytes(told[: self._entry_bytes])

    def are_told(self, places: Sequence[memoryview], entries: bytes) -> bool:
        """Whether blocks that were read are as :meth:`entries` told."""
        if self.count < self.stripes:
            entries = entries[self.first * ENTRY_BYTES : (self.first + self.count) * ENTRY_BYTES]
        return entries == b"".join(map(entry_of, places))

    def is_sound(self, index: int, places: Sequence[memoryview], told: memoryview) -> bool:
        """Whether what was read is the blocks of a plain shard of the content, and tells of them.

        :param told: see :meth:`parts`.
        """
        data = bytes(told[:-1])
        entries = b"".join(map(entry_of, places))
        start = (self.first - self.page * PAGE_BLOCKS) * ENTRY_BYTES
        stop = start + len(entries)
        middle = b""
        if self.page == self.pages:
            entries = data[:start] + entries + data[stop : self._entry_bytes]
            if self.pages:
                middle = data[self._entry_bytes : -TRAILER_BYTES]
        else:
            page, data = data[:PAGE_BYTES], data[PAGE_BYTES:]
            if page[start:stop] != entries:
                return False
            entries, middle = data[: self._entry_bytes], data[self._entry_bytes : -TRAILER_BYTES]
            at = self.page * REFERENCE_BYTES
            if middle[at : at + REFERENCE_BYTES] != reference_of(self._page_offset, page):
                return False
        head = trailer_head(self.content, index, PLAIN, self.stripes % PAGE_BLOCKS, self.pages)
        checked = b"".join((entries, middle, head))
        return data == checked + check_of(checked)
