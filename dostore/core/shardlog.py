"""The log of small shards: segments of records. See ``docs/shard-log.rst``, which is normative.

::

    segment = header, record*, whatever was there before
    record  = head, the very bytes of a shard file (or none), zeros up to a multiple of 8

Format 1, the journal's, is all here; format 2, that of volumes, has heads of its own in
``volumelog``. Nothing here reads or writes a file. Every check in a segment is seeded with a number
that is the segment's own, so that what is left of an older segment in the same file is never taken
for its.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import ClassVar, Generic, TypeVar

from attrs import frozen
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from dostore.core.names import ContentHash, ShardName

FORMAT = 1

#: Formats that are known; format 2 is that of volumes.
NEWEST_FORMAT = 2

_SEGMENT_MAGIC = b"dostoreJ"
_RECORD_MAGIC = b"dSR\x01"
_U64 = (1 << 64) - 1

#: magic, format, number, seed, check of all before it
_HEADER = struct.Struct("<8sQQQQ")
_CHECK = struct.Struct("<Q")
HEADER_BYTES = _HEADER.size

#: magic, kind, index, zeros, length of the body, synced, time, content hash, shard hash, check of
#: the body; and the check of all before it
_HEAD = struct.Struct("<4sBBHQQQ32s32s16s")
HEAD_BYTES = _HEAD.size + _CHECK.size

#: Records begin at multiples of this.
ALIGNMENT = 8

#: No shard in a log is larger; a head that claims more is damaged.
MAX_BODY_BYTES = 64 << 20

#: How much is looked through at a time for the next record after damage.
_STEP_BYTES = 256 * 1024

#: Bytes of a segment from an offset on; fewer only where it ends.
Read = Callable[[int, int], bytes]


class Kind(IntEnum):
    """What a record says of a shard."""

    #: It was written; these are its bytes.
    WRITTEN = 1
    #: It was moved to ``garbage/``, which can give it back.
    REMOVED = 2
    #: It was brought back from there.
    RESTORED = 3
    #: It is gone for good.
    DROPPED = 4
    #: It is gone from ``garbage/``.
    PURGED = 5
    #: A collector shall take it for as young as the record.
    RENEWED = 6
    #: It was written; this is its only block, if it has one. In volumes only.
    PACKED = 7


_KINDS = {int(kind): kind for kind in Kind if kind is not Kind.PACKED}


@frozen(slots=True)
class SegmentHeader:
    """What a segment begins with.

    :ivar number: a later segment of the same log has a higher one.
    :ivar seed: of its checks; chosen by chance.
    :ivar format: of its records' heads; maybe a newer one than is known.
    """

    number: int
    seed: int
    format: int = FORMAT

    def encode(self) -> bytes:
        """The bytes."""
        head = _HEADER.pack(_SEGMENT_MAGIC, self.format, self.number, self.seed, 0)[: -_CHECK.size]
        return head + _CHECK.pack(xxh3_64_intdigest(head))


def parse_header(data: bytes) -> SegmentHeader | None:
    """Read a segment's first HEADER_BYTES; None: they are no whole header."""
    if len(data) != HEADER_BYTES:
        return None
    magic, version, number, seed, check = _HEADER.unpack(data)
    if (magic, check) != (_SEGMENT_MAGIC, xxh3_64_intdigest(data[: -_CHECK.size])):
        return None
    return SegmentHeader(number, seed, version)


@frozen(slots=True, kw_only=True)
class AnyRecord:
    """What records of all formats have in common, as they were found: of a body only the length and
    the check are known.

    :ivar offset: where it begins in its segment.
    :ivar synced: every record before this offset was synced when this one was written.
    :ivar time_ms: when that was, in milliseconds since the epoch.
    """

    head_bytes: ClassVar[int]

    kind: Kind
    offset: int
    length: int
    synced: int
    time_ms: int
    check: bytes

    @property
    def body(self) -> int:
        """Where its body begins."""
        return self.offset + self.head_bytes

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.body + self.length + -self.length % ALIGNMENT

    def is_whole(self, body: bytes) -> bool:
        """Whether these are the bytes that it was written with."""
        return len(body) == self.length and xxh3_128_digest(body) == self.check


R = TypeVar("R", bound=AnyRecord)


@frozen(slots=True)
class Form(Generic[R]):
    """How a format's records begin.

    :ivar number: of the format.
    :ivar magic: the first bytes of a head.
    :ivar head_bytes: its length.
    :ivar parse: reads the head that begins at an offset, given the segment's seed; None: no whole
        head was written there in this life of the segment.
    """

    number: int
    magic: bytes
    head_bytes: int
    parse: Callable[[int, int, bytes], R | None]

    def record_size(self, length: int) -> int:
        """Bytes of a record with a body of ``length`` bytes."""
        return self.head_bytes + length + -length % ALIGNMENT


@frozen(slots=True, kw_only=True)
class Record(AnyRecord):
    """One of a journal."""

    head_bytes = HEAD_BYTES

    name: ShardName


@frozen(slots=True)
class Gap:
    """Bytes between records that are no record."""

    offset: int
    end: int


def record_size(length: int) -> int:
    """Bytes of a record with a body of ``length`` bytes."""
    return HEAD_BYTES + length + -length % ALIGNMENT


def encode_head(
    seed: int,
    offset: int,
    synced: int,
    kind: Kind,
    name: ShardName,
    time_ms: int,
    body: bytes = b"",
) -> bytes:
    """The head of a record that begins at ``offset``; its body follows, then :func:`padding`."""
    head = _HEAD.pack(
        _RECORD_MAGIC,
        kind,
        name.index,
        0,
        len(body),
        synced,
        time_ms,
        name.content_hash.digest,
        name.shard_hash,
        xxh3_128_digest(body),
    )
    return head + _CHECK.pack(xxh3_64_intdigest(head, (seed + offset) & _U64))


def padding(length: int) -> bytes:
    """What comes after a body of ``length`` bytes."""
    return bytes(-length % ALIGNMENT)


def parse_head(seed: int, offset: int, data: bytes) -> Record | None:
    """Read HEAD_BYTES that begin at ``offset``; None: no whole head of a record was written there
    in this life of the segment.
    """
    if len(data) != HEAD_BYTES or data[: len(_RECORD_MAGIC)] != _RECORD_MAGIC:
        return None
    head = data[: _HEAD.size]
    if _CHECK.unpack_from(data, _HEAD.size)[0] != xxh3_64_intdigest(head, (seed + offset) & _U64):
        return None
    _, kind, index, _, length, synced, time_ms, content, shard, check = _HEAD.unpack(head)
    if kind not in _KINDS or length > MAX_BODY_BYTES:
        return None
    name = ShardName(ContentHash(content), index, shard)
    return Record(
        kind=_KINDS[kind],
        name=name,
        offset=offset,
        length=length,
        synced=synced,
        time_ms=time_ms,
        check=check,
    )


#: The form of a journal's records.
JOURNAL = Form(FORMAT, _RECORD_MAGIC, HEAD_BYTES, parse_head)


def records(
    form: Form[R], seed: int, size: int, read: Read, start: int = HEADER_BYTES
) -> Iterator[R | Gap]:
    """The records of a segment of ``size`` bytes, in order, and the gaps between them.

    What comes after the last whole head is no gap: nothing tells that there was more. Bodies are
    not looked at.

    :param start: where a record begins.
    """
    offset = start
    while offset + form.head_bytes <= size:
        record = form.parse(seed, offset, read(offset, form.head_bytes))
        if record is not None and record.body + record.length <= size:
            yield record
            offset = record.end
            continue
        found = _next_record(form, seed, offset + ALIGNMENT, size, read)
        if found is None:
            return
        yield Gap(offset, found)
        offset = found


def _next_record(form: Form[R], seed: int, offset: int, size: int, read: Read) -> int | None:
    """Where the next whole head is, at ``offset`` or after it."""
    while offset + form.head_bytes <= size:
        # Pieces overlap, so that a head is whole in one of them.
        piece = read(offset, _STEP_BYTES + form.head_bytes)
        at = piece.find(form.magic)
        while 0 <= at < _STEP_BYTES:
            here = offset + at
            head = piece[at : at + form.head_bytes]
            if here % ALIGNMENT == 0 and form.parse(seed, here, head):
                return here
            at = piece.find(form.magic, at + 1)
        offset += _STEP_BYTES
    return None
