"""The shard file: blocks, then a footer that describes them. See ``docs/shard-format.rst``.

::

    file    = group* tail
    group   = block x 1024, page                page = entry x 1024
    tail    = block x (0 … 1023), footer        footer = entry*, page reference*, trailer
    entry   = stored length (u32), check of the plain block (16 bytes)
    page reference = offset (u64), check (16 bytes)

Numbers are little-endian, checks are XXH3-128. The pages between the blocks keep the footer, and
with it the memory of a writer and of a reader, small: a shard of 100 GB has one of at most 57 KB.

A block whose stored length is less than its plain one is compressed. Checks and name are those of
the plain bytes: what is handed out is what was checked, and a shard's name tells nothing of how it
is stored.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import xxhash
from attrs import field, frozen

from dostore.core.compression import Shrinker, inflate
from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import Scheme
from dostore.errors import BadShard, NewerFormat

MAJOR = 1
MINOR = 0
MAGIC = b"DOSTSHRD"

_ENTRY = struct.Struct("<I16s")
_REFERENCE = struct.Struct("<Q16s")
#: magic, major, minor, k, m, index, compression, block size, entries, pages, content size, content
#: hash
_TRAILER_HEAD = struct.Struct("<8sHHBBBBIIIQ32s")
#: The same, and the check of all before it in the footer.
_TRAILER = struct.Struct(_TRAILER_HEAD.format + "16s")

PAGE_BLOCKS = 1024
PAGE_BYTES = PAGE_BLOCKS * _ENTRY.size
TRAILER_BYTES = _TRAILER.size
CHECK_BYTES = 16
ENTRY_BYTES = _ENTRY.size
REFERENCE_BYTES = _REFERENCE.size

#: Compression: all blocks are stored as they are, or some are deflated.
PLAIN = 0
DEFLATED = 1

Block = bytes | memoryview


#: A block's check: XXH3-128, 16 bytes, in the byte order of its canonical form. No function of our
#: own, for it is called for every block.
check_of: Callable[[Block], bytes] = xxhash.xxh3_128_digest


def hash_of_shard(blocks: Sequence[Block]) -> bytes:
    """The shard hash of all the blocks of a shard; see :meth:`ShardFileBuilder.finish`."""
    if len(blocks) == 1:
        return hashlib.sha256(blocks[0]).digest()
    return hashlib.sha256(b"".join(map(check_of, blocks))).digest()


def trailer_head(content: Content, index: int, compression: int, entries: int, pages: int) -> bytes:
    """The trailer of a shard's footer, but for the check at its end."""
    scheme = content.scheme
    return _TRAILER_HEAD.pack(
        MAGIC,
        MAJOR,
        MINOR,
        scheme.k,
        scheme.m,
        index,
        compression,
        scheme.block_size,
        entries,
        pages,
        content.size,
        content.hash.digest,
    )


def entry_of(block: Block) -> bytes:
    """The entry of a block that is stored as it is."""
    return _ENTRY.pack(len(block), check_of(block))


def reference_of(offset: int, page: Block) -> bytes:
    """The reference to a page."""
    return _REFERENCE.pack(offset, check_of(page))


class ShardFileBuilder:
    """Turns a shard's blocks into the bytes of its file. Blocking work of about 20 us a MiB, or of
    a millisecond where it compresses.

    :param level: to compress blocks by; None: not to.
    """

    def __init__(self, index: int, scheme: Scheme, level: int | None = None) -> None:
        self.index = index
        self._scheme = scheme
        self._shrinker = None if level is None else Shrinker(level)
        self._deflated = False
        self._entries: list[bytes] = []
        self._references: list[bytes] = []
        self._offset = 0
        self._blocks = 0
        self._plain = 0
        self._hash = hashlib.sha256()
        self._first: Block | None = None

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._offset

    @property
    def blocks(self) -> int:
        """Blocks so far."""
        return self._blocks

    @property
    def plain_size(self) -> int:
        """Bytes of those blocks."""
        return self._plain

    def add(self, blocks: Iterable[Block], entries: list[bytes] | None = None) -> list[Block]:
        """The bytes to append to the file for the next blocks of the shard.

        :param blocks: whole blocks; only the shard's last may be shorter than the scheme's.
        :param entries: takes the entry of each block, for :meth:`go_on`.
        """
        pieces: list[Block] = []
        for block in blocks:
            check = check_of(block)
            self._first = bytes(block) if self._blocks == 0 else None
            shrunk = None if self._shrinker is None else self._shrinker.shrink(block)
            stored = block if shrunk is None else shrunk
            entry = _ENTRY.pack(len(stored), check)
            if entries is not None:
                entries.append(entry)
            pieces.append(stored)
            if page := self._count(len(stored), len(block), check, entry):
                pieces.append(page)
        return pieces

    def _count(self, stored: int, plain: int, check: bytes, entry: bytes) -> bytes | None:
        """Take note of a block; the page to write after it, if there is one."""
        self._plain += plain
        self._deflated = self._deflated or stored < plain
        self._hash.update(check)
        self._entries.append(entry)
        self._blocks += 1
        self._offset += stored
        return self._page() if len(self._entries) == PAGE_BLOCKS else None

    def go_on(self, entries: bytes, plain_lengths: Iterable[int]) -> None:
        """Take up a shard that another builder began, by the entries that it gave for its blocks.

        When it is one block, :meth:`keep_first` has to tell which.

        :param plain_lengths: of those blocks.
        :raises BadShard: no block can be as an entry says.
        """
        for (stored, check), plain in zip(_ENTRY.iter_unpack(entries), plain_lengths, strict=True):
            if not 0 < stored <= plain:
                raise BadShard("An entry tells of a block that cannot be.")
            self._count(stored, plain, check, _ENTRY.pack(stored, check))

    def keep_first(self, block: Block) -> None:
        """Tell the plain bytes of the only block of a shard that was taken up."""
        self._first = bytes(block)

    def group_offset(self, group: int) -> int:
        """Where in the file the first of the PAGE_BLOCKS blocks of a group is."""
        if group == 0:
            return 0
        offset, _ = _REFERENCE.unpack(self._references[group - 1])
        return int(offset) + PAGE_BYTES

    def _page(self) -> bytes:
        page = b"".join(self._entries)
        self._references.append(reference_of(self._offset, page))
        self._offset += len(page)
        self._entries.clear()
        return page

    def finish(self, content: Content) -> tuple[bytes, ShardName]:
        """The footer, and the name of the file.

        :raises ValueError: the blocks are not a shard of such a content.
        """
        if (self._scheme, self._blocks, self._plain) != (
            content.scheme,
            content.scheme.stripe_count(content.size),
            content.scheme.shard_size(content.size),
        ):
            raise ValueError(
                f"{self._blocks} blocks of {self._plain} bytes are no shard of {content.size} bytes"
            )
        compression = DEFLATED if self._deflated else PLAIN
        footer = b"".join((*self._entries, *self._references)) + trailer_head(
            content, self.index, compression, len(self._entries), len(self._references)
        )
        footer += check_of(footer)
        # A shard of one block is named by its bytes, so that sha256sum can tell it and the name is
        # the same whatever the format; a longer one by its checks, which costs no second SHA-256.
        digest = (
            self._hash.digest() if self._blocks > 1 else hashlib.sha256(self._first or b"").digest()
        )
        return footer, ShardName(content.hash, self.index, digest)


def plain_shard(content: Content, index: int, block: Block) -> tuple[bytes, ShardName]:
    """All bytes of the file of a shard that is one block, stored as it is, and the file's name.

    It is what the builder makes, in a fraction of the time.

    :raises ValueError: the block is not a shard of such a content.
    """
    scheme, size = content.scheme, content.size
    if len(block) != scheme.block_length(size) or not 0 < size <= scheme.stripe_size:
        raise ValueError(f"a block of {len(block)} bytes is no shard of {size} bytes")
    footer = entry_of(block) + trailer_head(content, index, PLAIN, 1, 0)
    name = ShardName(content.hash, index, hashlib.sha256(block).digest())
    return b"".join((block, footer, check_of(footer))), name


@frozen(slots=True)
class Page:
    """The entries of consecutive blocks.

    :ivar first: the number of the first block.
    :ivar lengths: plain bytes of each block.
    :ivar offsets: where each block begins in the file, and where the last one ends.
    """

    first: int
    lengths: Sequence[int] = field(repr=False)
    offsets: Sequence[int] = field(repr=False)
    checks: Sequence[bytes] = field(repr=False)

    @property
    def count(self) -> int:
        """How many blocks the page speaks of."""
        return len(self.checks)

    def span(self, first: int, count: int) -> tuple[int, int]:
        """Offset and length in the file of ``count`` blocks from number ``first`` on."""
        start = self.offsets[first - self.first]
        return start, self.offsets[first - self.first + count] - start

    def plain(self, first: int, count: int, stored: Block) -> Block:
        """The plain bytes of blocks, as read from their span, compared with their checks.

        :raises BadShard: one is not what was written, or bytes are missing.
        """
        view = memoryview(stored)
        at = first - self.first
        base = self.offsets[at]
        blocks: list[Block] = []
        deflated = False
        for number in range(at, at + count):
            block: Block = view[self.offsets[number] - base : self.offsets[number + 1] - base]
            if self.offsets[number + 1] - self.offsets[number] < self.lengths[number]:
                deflated = True
                try:
                    block = inflate(block, self.lengths[number])
                except BadShard as error:
                    raise BadShard(
                        f"Block {self.first + number} is damaged. {error.detail}"
                    ) from error
            if check_of(block) != self.checks[number]:
                raise BadShard(f"Block {self.first + number} does not match its check.")
            blocks.append(block)
        return b"".join(blocks) if deflated else stored


@frozen(slots=True)
class Footer:
    """A verified footer.

    :ivar deflated: whether blocks may be compressed.
    :ivar last: the entries of the blocks that are on no page.
    :ivar size: bytes of the footer.
    """

    info: ShardInfo
    deflated: bool
    last: Page
    size: int
    _references: bytes = field(repr=False)

    @property
    def pages(self) -> int:
        """How many pages stand between the blocks."""
        return len(self._references) // _REFERENCE.size

    def page_span(self, number: int) -> tuple[int, int]:
        """Offset and length in the file of page ``number``."""
        offset, _ = _REFERENCE.unpack_from(self._references, number * _REFERENCE.size)
        return offset, PAGE_BYTES

    def page(self, number: int, data: Block) -> Page:
        """Read page ``number`` from the bytes of its span.

        :raises BadShard: it does not match its check.
        """
        offset, check = _REFERENCE.unpack_from(self._references, number * _REFERENCE.size)
        if len(data) != PAGE_BYTES or check_of(data) != check:
            raise BadShard(f"Page {number} does not match its check.")
        first = number * PAGE_BLOCKS
        start = self.page_span(number - 1)[0] + PAGE_BYTES if number else 0
        content = self.info.content
        lengths = content.scheme.block_lengths(content.size, first, PAGE_BLOCKS)
        page = page_of(first, start, data, lengths, deflated=self.deflated)
        if page.offsets[-1] != offset:
            raise BadShard(f"Page {number} is not where its blocks end.")
        return page


def page_of(
    first: int, start: int, data: Block, lengths: Sequence[int], *, deflated: bool = True
) -> Page:
    """The entries of consecutive blocks, not verified by themselves.

    :param first: the number of the first block.
    :param start: where in the file it begins.
    :param lengths: plain bytes of each block.
    :param deflated: whether blocks may be compressed.
    :raises BadShard: no block can be as an entry says.
    """
    entries = list(_ENTRY.iter_unpack(data))
    stored = [length for length, _ in entries]
    if stored != lengths and not (deflated and _can_be(stored, lengths)):
        raise BadShard("An entry tells of a block that cannot be.")
    offsets = list(accumulate(stored, initial=start))
    return Page(first, lengths, offsets, [check for _, check in entries])


def _can_be(stored: Sequence[int], plain: Sequence[int]) -> bool:
    """Whether blocks can be compressed to those lengths."""
    return all(0 < s <= p for s, p in zip(stored, plain, strict=True))


def footer_size(trailer: bytes) -> int:
    """How many bytes of the file's end are the footer, by the file's last TRAILER_BYTES.

    Nothing is verified yet but that this looks like a trailer.

    :raises BadShard: it does not.
    """
    if len(trailer) != TRAILER_BYTES:
        raise BadShard("The file is shorter than a footer.")
    magic, *_, entries, pages, _, _, _ = _TRAILER.unpack(trailer)
    if magic != MAGIC:
        raise BadShard("The file does not end with a shard's footer.")
    if entries >= PAGE_BLOCKS:
        raise BadShard("The footer claims more entries than a page takes.")
    return TRAILER_BYTES + int(entries) * _ENTRY.size + int(pages) * _REFERENCE.size


def parse_footer(footer: bytes, file_size: int) -> Footer:
    """Verify and read a footer.

    :param footer: the last ``footer_size`` bytes of the file.
    :param file_size: bytes of the whole file.
    :raises BadShard: a byte of it was changed, or the file was cut or grown.
    :raises NewerFormat: it is whole, but of a format that this program does not know.
    """
    if (
        footer_size(footer[-TRAILER_BYTES:]) != len(footer)
        or check_of(footer[:-CHECK_BYTES]) != footer[-CHECK_BYTES:]
    ):
        raise BadShard("The footer does not match its check.")
    (_, major, _, k, m, index, compression, block_size, entries, pages, size, digest, _) = (
        _TRAILER.unpack_from(footer, len(footer) - TRAILER_BYTES)
    )
    if major != MAJOR or compression not in (PLAIN, DEFLATED):
        raise NewerFormat(
            f"The shard has format {major} with compression {compression}; this program reads "
            f"format {MAJOR}. Upgrade dostore on this machine."
        )
    try:
        scheme = Scheme(k, m, block_size)
    except ValueError as error:
        raise BadShard(f"The footer's scheme is impossible: {error}") from error
    first = pages * PAGE_BLOCKS
    if index >= scheme.shards or first + entries != scheme.stripe_count(size):
        raise BadShard("The footer does not describe a shard.")
    at = entries * _ENTRY.size
    references = footer[at : at + pages * _REFERENCE.size]
    page_ends = [offset + PAGE_BYTES for offset, _ in _REFERENCE.iter_unpack(references)]
    start = page_ends[-1] if page_ends else 0
    deflated = compression == DEFLATED
    lengths = scheme.block_lengths(size, first, entries)
    last = page_of(first, start, footer[:at], lengths, deflated=deflated)
    if last.offsets[-1] + len(footer) != file_size or max(page_ends, default=0) > file_size:
        raise BadShard("The footer does not describe this file.")
    content = Content(ContentHash(digest), size, scheme)
    return Footer(ShardInfo(content, index), deflated, last, len(footer), references)


def footer_of_one(
    content: Content, index: int, stored: int, check: bytes, *, deflated: bool
) -> Footer:
    """The footer of a shard of one block, or none, made of what it says.

    :param stored: bytes of the block as it is stored.
    :param check: of the plain block.
    :raises BadShard: there is no such shard.
    """
    scheme = content.scheme
    blocks = scheme.stripe_count(content.size)
    plain = scheme.shard_size(content.size)
    can_be = 0 < stored <= plain if deflated else stored == plain
    if index >= scheme.shards or blocks > 1 or not can_be:
        raise BadShard("There is no such shard.")
    last = Page(0, (plain,)[:blocks], (0, stored)[: blocks + 1], (check,)[:blocks])
    size = TRAILER_BYTES + blocks * _ENTRY.size
    return Footer(ShardInfo(content, index), deflated, last, size, b"")
