"""Volumes: the log of small shards that stay in it. See ``docs/volumes.rst``, which is normative.

The segments are those of ``shardlog``; the heads of the records are shorter here, and hints tell of
records without their bodies. Nothing here reads or writes a file.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from attrs import define, frozen
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from dostore.core.shardlog import HEADER_BYTES, AnyRecord, Form, Kind

FORMAT = 2

_MAGIC = b"dSR\x02"
_U64 = (1 << 64) - 1

#: magic, kind, index, k, m, length of the body, block size, size or volume, major, minor,
#: compression, carried, synced, time, content hash, check of the body; and the check of all before
_HEAD = struct.Struct("<4sBBBBIIIBBBBQQ32s16s")
_CHECK = struct.Struct("<Q")

#: What of a head says what is in the record.
_SHAPE = struct.Struct("<4sBBBBIIIBBB")

HEAD_BYTES = _HEAD.size + _CHECK.size

#: No packed shard is larger; a head that claims more is damaged.
MAX_BODY_BYTES = 4 << 20

#: Records with a body.
BODIES = frozenset({Kind.WRITTEN, Kind.PACKED})

_KINDS = {int(kind): kind for kind in Kind}
_NO_CHECK = xxh3_128_digest(b"")


def encode_head(seed: int, offset: int, *fields: object) -> bytes:
    """A head that begins at ``offset``.

    :param fields: from the kind to the check of the body, as ``docs/volumes.rst`` lists them.
    """
    head = _HEAD.pack(_MAGIC, *fields)
    return head + _CHECK.pack(xxh3_64_intdigest(head, (seed + offset) & _U64))


@define(slots=True)
class Entry:
    """A record that is to be written.

    :ivar digest: the content's hash.
    :ivar check: of the body.
    :ivar size: of the content, when the record is PACKED; the volume that a change tells of.
    :ivar time_ms: None: when it is written.
    """

    kind: Kind
    digest: bytes
    index: int
    body: bytes | memoryview = b""
    check: bytes = _NO_CHECK
    k: int = 0
    m: int = 0
    block_size: int = 0
    size: int = 0
    major: int = 0
    minor: int = 0
    compression: int = 0
    carried: bool = False
    time_ms: int | None = None

    def head(self, seed: int, offset: int, synced: int, time_ms: int) -> bytes:
        """The head of the record, when it begins at ``offset``."""
        return encode_head(
            seed,
            offset,
            self.kind,
            self.index,
            self.k,
            self.m,
            len(self.body),
            self.block_size,
            self.size,
            self.major,
            self.minor,
            self.compression,
            self.carried,
            synced,
            time_ms if self.time_ms is None else self.time_ms,
            self.digest,
            self.check,
        )


def change(
    kind: Kind,
    digest: bytes,
    index: int,
    volume: int,
    time_ms: int | None = None,
    *,
    carried: bool = False,
) -> Entry:
    """A record without a body, that tells of a shard whose record is in ``volume``."""
    return Entry(kind, digest, index, size=volume, carried=carried, time_ms=time_ms)


@frozen(slots=True, kw_only=True)
class VolumeRecord(AnyRecord):
    """One of a volume.

    :ivar size: see Entry.
    """

    head_bytes = HEAD_BYTES

    index: int
    k: int
    m: int
    block_size: int
    size: int
    major: int
    minor: int
    compression: int
    carried: bool
    digest: bytes

    def again(self, body: bytes, time_ms: int) -> Entry:
        """The same in another place."""
        return Entry(
            self.kind,
            self.digest,
            self.index,
            body,
            self.check,
            self.k,
            self.m,
            self.block_size,
            self.size,
            self.major,
            self.minor,
            self.compression,
            self.carried,
            time_ms,
        )


def parse_head(seed: int, offset: int, data: bytes) -> VolumeRecord | None:
    """Read HEAD_BYTES that begin at ``offset``; None: no whole head of a record was written there
    in this volume.
    """
    if len(data) != HEAD_BYTES or data[: len(_MAGIC)] != _MAGIC:
        return None
    head = data[: _HEAD.size]
    if _CHECK.unpack_from(data, _HEAD.size)[0] != xxh3_64_intdigest(head, (seed + offset) & _U64):
        return None
    _, kind, index, k, m, length, block_size, size, major, minor, compression, carried, *rest = (
        _HEAD.unpack(head)
    )
    if kind not in _KINDS or length > MAX_BODY_BYTES:
        return None
    synced, time_ms, digest, check = rest
    return VolumeRecord(
        offset=offset,
        kind=_KINDS[kind],
        index=index,
        k=k,
        m=m,
        length=length,
        block_size=block_size,
        size=size,
        major=major,
        minor=minor,
        compression=compression,
        carried=bool(carried),
        synced=synced,
        time_ms=time_ms,
        digest=digest,
        check=check,
    )


def is_head_of(seed: int, offset: int, data: bytes, entry: Entry) -> bool:
    """Whether these HEAD_BYTES, which begin at ``offset``, are a head of that entry, whenever it
    was written.
    """
    if len(data) != HEAD_BYTES:
        return False
    shape = _SHAPE.pack(
        _MAGIC,
        entry.kind,
        entry.index,
        entry.k,
        entry.m,
        len(entry.body),
        entry.block_size,
        entry.size,
        entry.major,
        entry.minor,
        entry.compression,
    )
    head = data[: _HEAD.size]
    return (
        head.startswith(shape)
        and head.endswith(entry.digest + entry.check)
        and _CHECK.unpack_from(data, _HEAD.size)[0]
        == xxh3_64_intdigest(head, (seed + offset) & _U64)
    )


#: The form of a volume's records.
VOLUME = Form(FORMAT, _MAGIC, HEAD_BYTES, parse_head)


# Hints

#: content hash, index, kind, offset in units of 8, length or volume, time
HINT = struct.Struct(">32sBBIIQ")
HINT_BYTES = HINT.size

#: In a hint's kind: it was carried.
CARRIED = 128

#: Offsets are counted in these.
UNIT = 8

#: magic, seed, begin, end, entries
_CHUNK = struct.Struct("<8sQQQQ")
_CHUNK_MAGIC = b"dostoreH"
_CHUNK_CHECK_BYTES = 16


def hint_of(record: VolumeRecord) -> bytes:
    """What a hint tells of a record."""
    return HINT.pack(
        record.digest,
        record.index,
        record.kind | (CARRIED if record.carried else 0),
        record.offset // UNIT,
        record.length if record.kind in BODIES else record.size,
        record.time_ms,
    )


def encode_chunk(seed: int, begin: int, end: int, hints: Sequence[bytes]) -> bytes:
    """A chunk of a hint.

    :param begin: where the first record is; see ``docs/volumes.rst``.
    :param end: where the next record is.
    """
    data = b"".join([_CHUNK.pack(_CHUNK_MAGIC, seed, begin, end, len(hints)), *hints])
    return data + xxh3_128_digest(data)


@frozen(slots=True)
class Hints:
    """What the hint of a volume tells.

    :ivar seed: of the volume; None: it tells nothing.
    :ivar end: where the first record is of which it does not tell.
    :ivar entries: HINT_BYTES for each record.
    :ivar size: where in its file the next chunk belongs.
    """

    seed: int | None
    end: int
    entries: bytes
    size: int


def parse_hints(data: bytes, seed: int | None) -> Hints:
    """Read a hint as far as it is whole.

    :param seed: of the volume; None: it is not known.
    """
    end = HEADER_BYTES
    at = 0
    entries: list[bytes] = []
    while at + _CHUNK.size <= len(data):
        magic, its_seed, begin, its_end, count = _CHUNK.unpack_from(data, at)
        stop = at + _CHUNK.size + count * HINT_BYTES
        if (
            (magic, begin) != (_CHUNK_MAGIC, end)
            or seed not in (None, its_seed)
            or data[stop : stop + _CHUNK_CHECK_BYTES] != xxh3_128_digest(data[at:stop])
        ):
            break
        seed, end = its_seed, its_end
        entries.append(data[at + _CHUNK.size : stop])
        at = stop + _CHUNK_CHECK_BYTES
    return Hints(seed if entries else None, end, b"".join(entries), at)
