"""Packed shards: how a shard's file becomes a record of a volume, and how a record is read as one.

A shard of one block has a footer of 104 bytes that follows, but for a few numbers, from the head of
its record; so only the block is kept, and its check when that is not the record's.
"""

from __future__ import annotations

from collections.abc import Sequence

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shardfile import (
    CHECK_BYTES,
    DEFLATED,
    MAJOR,
    MINOR,
    PLAIN,
    TRAILER_BYTES,
    Footer,
    ShardFileBuilder,
    check_of,
    footer_of_one,
    footer_size,
    parse_footer,
)
from dostore.core.shardlog import ALIGNMENT, Kind, padding
from dostore.core.volumelog import (
    BODIES,
    HEAD_BYTES,
    HINT,
    UNIT,
    Entry,
    VolumeRecord,
    encode_head,
    is_head_of,
    parse_head,
)
from dostore.errors import BadShard, NewerFormat

Block = bytes | memoryview


def entry_of_blocks(
    content: Content, index: int, blocks: Sequence[Block], level: int | None = None
) -> Entry:
    """The record of a whole shard.

    :param level: to compress blocks by; None: not to.
    :raises ValueError: the blocks are not a shard of such a content.
    """
    if len(blocks) > 1 or level is not None:
        builder = ShardFileBuilder(index, content.scheme, level)
        pieces = builder.add(blocks)
        footer, _ = builder.finish(content)
        return entry_of_file(b"".join([*pieces, footer]))
    scheme, size = content.scheme, content.size
    block = blocks[0] if blocks else b""
    if len(blocks) != scheme.stripe_count(size) or len(block) != scheme.shard_size(size):
        raise ValueError(f"{len(block)} bytes are no shard of {size} bytes")
    return _entry_of_block(content, index, block, check_of(block), PLAIN)


def is_plain(content: Content, blocks: Sequence[Block]) -> bool:
    """Whether these are a shard of a content, of one block; see PlainShards."""
    scheme, size = content.scheme, content.size
    return (
        len(blocks) == 1
        and 0 < size <= scheme.stripe_size
        and len(blocks[0]) == -(-size // scheme.k)
    )


class PlainShards:
    """Records of shards of one block each, which is not compressed: nearly all that there are.

    Made in one go, this takes a fraction of the time that an Entry for each would.

    :param shards: the content, index and block of each; see :func:`is_plain`.
    :ivar time_ms: of all of them.
    :ivar offsets: where each record begins, once they are encoded.
    :ivar hints: what a hint tells of them.
    """

    def __init__(self, shards: Sequence[tuple[Content, int, Block]], time_ms: int) -> None:
        self.shards = shards
        self.offsets: list[int] = []
        self.hints: list[bytes] = []
        self.time_ms = time_ms

    def encode(self, seed: int, offset: int, synced: int) -> tuple[list[Block], int]:
        """The bytes of all, beginning at ``offset``, and where they end; see AppendLog.write."""
        time_ms = self.time_ms
        pieces: list[Block] = []
        for content, index, block in self.shards:
            scheme, digest, length = content.scheme, content.hash.digest, len(block)
            self.offsets.append(offset)
            pieces.append(
                encode_head(
                    seed,
                    offset,
                    Kind.PACKED,
                    index,
                    scheme.k,
                    scheme.m,
                    length,
                    scheme.block_size,
                    content.size,
                    MAJOR,
                    MINOR,
                    PLAIN,
                    False,
                    synced,
                    time_ms,
                    digest,
                    check_of(block),
                )
            )
            pieces.append(block)
            if length % ALIGNMENT:
                pieces.append(padding(length))
            self.hints.append(
                HINT.pack(digest, index, Kind.PACKED, offset // UNIT, length, time_ms)
            )
            offset += HEAD_BYTES + length + -length % ALIGNMENT
        return pieces, offset


def entry_of_file(data: bytes) -> Entry:
    """The record of a shard whose file has these bytes.

    :raises BadShard: it is damaged.
    """
    footer = parse_footer(data[-footer_size(data[-TRAILER_BYTES:]) :], len(data))
    content, index = footer.info.content, footer.info.index
    if content.scheme.stripe_count(content.size) > 1:
        return Entry(Kind.WRITTEN, content.hash.digest, index, data, check_of(data))
    block = data[: -footer.size]
    if footer.deflated:
        body = footer.last.checks[0] + block
        return _entry_of_block(content, index, body, check_of(body), DEFLATED)
    return _entry_of_block(content, index, block, check_of(block), PLAIN)


def _entry_of_block(
    content: Content, index: int, body: Block, check: bytes, compression: int
) -> Entry:
    scheme = content.scheme
    return Entry(
        Kind.PACKED,
        content.hash.digest,
        index,
        body,
        check,
        scheme.k,
        scheme.m,
        scheme.block_size,
        content.size,
        MAJOR,
        MINOR,
        compression,
    )


def record_of(seed: int, offset: int, data: bytes) -> tuple[VolumeRecord, bytes]:
    """The record that begins at an offset of a volume, and its body.

    :param data: what is there.
    :raises BadShard: it is not whole, or has no body.
    """
    record = parse_head(seed, offset, data[:HEAD_BYTES])
    if record is None or record.kind not in BODIES:
        raise BadShard("There is no record of a shard where it should be.")
    body = data[HEAD_BYTES:]
    if not record.is_whole(body):
        raise BadShard("The record does not match its check.")
    return record, body


def is_packed_block(
    seed: int, offset: int, head: bytes, content: Content, index: int, block: Block
) -> bool:
    """Whether a head and a block are the record of a shard of one plain block.

    So much is known of the shard that its record need not be taken apart: this takes a fraction of
    the time of :func:`record_of` and :func:`shard_of`.
    """
    return is_head_of(
        seed, offset, head, _entry_of_block(content, index, block, check_of(block), PLAIN)
    )


def shard_of(record: VolumeRecord, body: bytes) -> tuple[Footer, bytes]:
    """A shard's footer, and its file from the first byte on as far as there are blocks.

    :param body: verified.
    :raises BadShard: the record cannot be.
    :raises NewerFormat: this program does not know how to read it.
    """
    if record.kind is Kind.WRITTEN:
        footer = parse_footer(body[-footer_size(body[-TRAILER_BYTES:]) :], len(body))
        if (footer.info.content.hash.digest, footer.info.index) != (record.digest, record.index):
            raise BadShard("The file is another shard's.")
        return footer, body
    if record.major != MAJOR or record.compression not in (PLAIN, DEFLATED):
        raise NewerFormat(
            f"The shard has format {record.major} with compression {record.compression}; this"
            f" program reads format {MAJOR}. Upgrade dostore on this machine."
        )
    try:
        scheme = Scheme(record.k, record.m, record.block_size)
    except ValueError as error:
        raise BadShard(f"The record's scheme is impossible: {error}") from error
    content = Content(ContentHash(record.digest), record.size, scheme)
    check, block = record.check, body
    deflated = record.compression == DEFLATED
    if deflated:
        check, block = body[:CHECK_BYTES], body[CHECK_BYTES:]
    return footer_of_one(content, record.index, len(block), check, deflated=deflated), block
