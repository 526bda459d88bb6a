"""The metadata log's bytes: segments of records, snapshot footers, and which records count.

Nothing here reads or writes a file. Bytes that are not what was written have one outcome: reading
stops and an :class:`End` says why; nothing is raised. ``docs/metadata-log.rst`` is the normative
text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from attrs import frozen
from xxhash import xxh3_64_intdigest

from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import InvalidRequest

FORMAT = 1

#: The largest payload of one record, in bytes. A batch is kept well below it.
MAX_PAYLOAD_BYTES = 16 << 20

#: The largest number of a version, of a record or of a term: what SQLite's integers hold.
MAX_NUMBER = (1 << 63) - 1

_SEGMENT_MAGIC = b"dostoreL"
_SNAPSHOT_MAGIC = b"dostoreS"
_HEADER = struct.Struct("<8sI16sQQQQ")
_FOOTER = struct.Struct("<8sI16sQQQ16s")
_CHECK = struct.Struct("<Q")
_RECORD = struct.Struct("<IQ")
HEADER_BYTES = _HEADER.size + _CHECK.size
FOOTER_BYTES = _FOOTER.size + _CHECK.size
RECORD_OVERHEAD_BYTES = _RECORD.size + _CHECK.size


class End(Enum):
    """Why reading stopped."""

    CLEAN = "ends after a whole record"
    TORN = "ends in the middle of a record"
    GARBLED = "does not match its check"
    NEWER_FORMAT = "was written by a newer release"


@frozen(slots=True)
class SegmentHeader:
    """What the first bytes of a segment say.

    :ivar store_id: the 16 bytes of the store's uuid.
    :ivar term: the segment's own number; a later segment has a higher one.
    :ivar first_seq: records of lower terms with this sequence number or a higher one are void.
    :ivar carried_from: the number of the segment's first record, ``first_seq`` or less; those below
        ``first_seq`` repeat records of lower terms.
    :ivar created_ms: when the store of versions began, in milliseconds since the epoch.
    """

    store_id: bytes
    term: int
    first_seq: int
    carried_from: int
    created_ms: int

    def encode(self) -> bytes:
        """The header's HEADER_BYTES bytes."""
        body = _HEADER.pack(
            _SEGMENT_MAGIC,
            FORMAT,
            self.store_id,
            self.term,
            self.first_seq,
            self.carried_from,
            self.created_ms,
        )
        return body + _CHECK.pack(xxh3_64_intdigest(body))

    @property
    def seed(self) -> int:
        """The seed of the records' checks, so that a record counts in its own segment only."""
        return xxh3_64_intdigest(self.encode())

    @classmethod
    def parse(cls, data: bytes) -> SegmentHeader | End:
        """Read a header from the first HEADER_BYTES of ``data``."""
        fields = _checked(_HEADER, _SEGMENT_MAGIC, data)
        if isinstance(fields, End):
            return fields
        _, term, first_seq, carried_from, created_ms = fields
        sound = 0 < term <= MAX_NUMBER and 0 < carried_from <= first_seq <= MAX_NUMBER
        return cls(*fields) if sound and created_ms <= MAX_NUMBER else End.GARBLED


@frozen(slots=True)
class SnapshotFooter:
    """The last bytes of a snapshot file; before it stand ``size`` bytes of a database.

    :ivar term: the term of the last record that the database holds.
    :ivar seq: the number of that record.
    :ivar digest: the XXH3-128 of the database's bytes.
    """

    store_id: bytes
    term: int
    seq: int
    size: int
    digest: bytes

    def encode(self) -> bytes:
        """The footer's FOOTER_BYTES bytes."""
        body = _FOOTER.pack(
            _SNAPSHOT_MAGIC, FORMAT, self.store_id, self.term, self.seq, self.size, self.digest
        )
        return body + _CHECK.pack(xxh3_64_intdigest(body))

    @classmethod
    def parse(cls, data: bytes, file_size: int) -> SnapshotFooter | End:
        """Read a footer from the last FOOTER_BYTES of a file of ``file_size`` bytes."""
        fields = _checked(_FOOTER, _SNAPSHOT_MAGIC, data)
        if isinstance(fields, End):
            return fields
        footer = cls(*fields)
        if footer.size + FOOTER_BYTES != file_size or footer.seq > MAX_NUMBER:
            return End.GARBLED
        return footer


def _checked(form: struct.Struct, magic: bytes, data: bytes) -> tuple[Any, ...] | End:
    """The fields of a checked structure after its magic and format."""
    if len(data) < form.size + _CHECK.size:
        return End.TORN
    body = data[: form.size]
    fields = form.unpack(body)
    (check,) = _CHECK.unpack_from(data, form.size)
    if fields[0] != magic or check != xxh3_64_intdigest(body):
        return End.GARBLED
    if fields[1] > FORMAT:
        return End.NEWER_FORMAT
    return fields[2:]


@frozen(slots=True)
class Record:
    """One committed batch.

    :ivar seq: its number: 1, 2, 3, … over the life of the store.
    :ivar payload: its versions, see :func:`decode_versions`.
    """

    seq: int
    payload: bytes


def encode_record(seed: int, record: Record) -> bytes:
    """A record as it stands in the segment whose header has ``seed``.

    :raises ValueError: when its payload is larger than MAX_PAYLOAD_BYTES.
    """
    if len(record.payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record's payload has at most {MAX_PAYLOAD_BYTES} bytes")
    body = _RECORD.pack(len(record.payload), record.seq) + record.payload
    return body + _CHECK.pack(xxh3_64_intdigest(body, seed))


class SegmentReader:
    """Reads a segment from pieces of any size.

    :ivar header: what the header said, as soon as it was read and found sound.
    :ivar offset: how many bytes from the start on are sound: header and whole records.
    :ivar end: why reading stopped, None while it may go on.
    """

    def __init__(self) -> None:
        self.header: SegmentHeader | None = None
        self.offset = 0
        self.end: End | None = None
        self._buffer = b""
        self._seed = 0
        self._next_seq = 0

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes; the whole records that they complete, none once reading stopped."""
        if self.end is not None:
            return []
        self._buffer += data
        position = 0
        if self.header is None:
            if len(self._buffer) < HEADER_BYTES:
                return []
            header = SegmentHeader.parse(self._buffer)
            if isinstance(header, End):
                self.end = header
                return []
            self.header, self._seed, self._next_seq = header, header.seed, header.carried_from
            position = HEADER_BYTES
        records: list[Record] = []
        position = self._records(position, records)
        self.offset += position
        self._buffer = self._buffer[position:]
        return records

    def _records(self, position: int, records: list[Record]) -> int:
        """Cut records from the buffer; the position after the last whole one."""
        buffer = self._buffer
        while len(buffer) - position >= RECORD_OVERHEAD_BYTES:
            length, seq = _RECORD.unpack_from(buffer, position)
            if length > MAX_PAYLOAD_BYTES or seq != self._next_seq:
                self.end = End.GARBLED
                break
            check_at = position + _RECORD.size + length
            if len(buffer) < check_at + _CHECK.size:
                break
            body = buffer[position:check_at]
            if _CHECK.unpack_from(buffer, check_at)[0] != xxh3_64_intdigest(body, self._seed):
                self.end = End.GARBLED
                break
            records.append(Record(seq, body[_RECORD.size :]))
            self._next_seq += 1
            position = check_at + _CHECK.size
        return position

    def finish(self) -> End:
        """Say that there are no more bytes; why reading stopped, :attr:`offset` says where."""
        if self.end is None:
            whole = self.header is not None and not self._buffer
            self.end = End.CLEAN if whole else End.TORN
        return self.end


def encode_version(version: Version) -> bytes:
    """A version as one element of a record's payload.

    :raises InvalidRequest: when a text in it has no UTF-8 form.
    """
    content = version.content
    row = [
        version.name,
        version.number,
        version.created,
        version.content_type,
        dict(version.meta),
        content
        and [
            str(content.hash),
            content.size,
            content.scheme.k,
            content.scheme.m,
            content.scheme.block_size,
        ],
    ]
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "A name, content type or metadata value is not valid Unicode. Send it as UTF-8."
        ) from error


def join_versions(encoded: Sequence[bytes]) -> bytes:
    """A record's payload from what :func:`encode_version` gave."""
    return b"[" + b",".join(encoded) + b"]"


def decode_versions(payload: bytes) -> list[Version] | None:
    """The versions of a payload, in the order in which they were made; None when it is not one."""
    try:
        rows = json.loads(payload.decode())
        return [_version(row) for row in rows] if isinstance(rows, list) else None
    except (ValueError, TypeError, RecursionError, InvalidRequest):
        return None


def _version(row: object) -> Version:
    """One decoded element; ValueError, TypeError or InvalidRequest when it is not one."""
    if not isinstance(row, list):
        raise TypeError("a version is a list")
    name, number, created, content_type, meta, stored = row
    if not isinstance(meta, dict):
        raise TypeError("the keys of a version are an object")
    for text in (name, created, content_type, *meta, *meta.values()):
        if not isinstance(text, str):
            raise TypeError("a text is missing")
        text.encode()
    content = None
    if stored is not None:
        content_hash, size, k, m, block_size = stored
        scheme = Scheme(_integer(k), _integer(m), _integer(block_size))
        content = Content(ContentHash.parse(content_hash), _integer(size), scheme)
    if _integer(number) == 0:
        raise ValueError("versions count from 1")
    return Version(name, number, content, created, content_type, meta)


def _integer(value: object) -> int:
    """``value`` when it is an integer that the store can hold."""
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError("a number is wrong")
    return value


@frozen(slots=True, order=True)
class TermStart:
    """A term, and the record from which on it makes those of lower terms void."""

    term: int
    first_seq: int


def is_void(term: int, seq: int, starts: Iterable[TermStart]) -> bool:
    """Whether record ``seq`` of ``term`` was given up: a later term began at or before it."""
    return any(start.term > term and start.first_seq <= seq for start in starts)


def last_seq(term: int, starts: Iterable[TermStart]) -> int | None:
    """The last record of ``term`` that is not void; None when no later term bounds it."""
    return min((s.first_seq - 1 for s in starts if s.term > term), default=None)
