"""A log of shards on one drive: a folder of segments that are appended to, synced and read again.

``docs/shard-log.rst`` tells the format. Everything here blocks; whoever uses it sees to it that one
thread at a time appends. Errors are the system's own OSError.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol

from attrs import frozen

from dostore.adapters.files import Files
from dostore.core.names import ShardName
from dostore.core.shardlog import (
    ALIGNMENT,
    HEADER_BYTES,
    Form,
    Gap,
    Kind,
    R,
    SegmentHeader,
    encode_head,
    padding,
    parse_header,
    records,
)

#: The file of a segment that is not used any more, kept for the next one: its blocks are on the
#: drive already, so that a sync writes the records and nothing else.
FREE_NAME = "free"

#: A file that is larger than this is not kept.
_FREE_BYTES = 64 << 20

#: So much of a file is filled with zeros ahead of the records, for the same reason.
_AHEAD_BYTES = 1 << 20

#: Or allocated, where files are not used again: that writes nothing.
_ALLOCATED_BYTES = 4 << 20

#: A segment is read by pieces of this size.
_WINDOW_BYTES = 256 * 1024

#: Where that fails, by pieces of this size.
_SECTORS_BYTES = 4096

FULL = {errno.ENOSPC, errno.EDQUOT}

Piece = bytes | memoryview

#: Makes the bytes of records, and tells where they end, given the segment's seed, where they begin
#: and up to where it is synced.
Encode = Callable[[int, int, int], tuple[Sequence[Piece], int]]


class IEntry(Protocol):
    """What is to be appended."""

    @property
    def body(self) -> bytes | memoryview:
        """What follows the head."""

    def head(self, seed: int, offset: int, synced: int, time_ms: int) -> bytes:
        """The head, when the record begins at ``offset``."""


@frozen(slots=True)
class Entry:
    """A record of a journal that is to be appended."""

    kind: Kind
    name: ShardName
    body: bytes = b""

    def head(self, seed: int, offset: int, synced: int, time_ms: int) -> bytes:
        """See IEntry."""
        return encode_head(seed, offset, synced, self.kind, self.name, time_ms, self.body)


class Records:
    """Entries as records.

    :ivar offsets: where each begins, once they are encoded.
    """

    def __init__(self, form: Form[R], entries: Sequence[IEntry], time_ms: int) -> None:
        self.offsets: list[int] = []
        self._record_size = form.record_size
        self._entries = entries
        self._time_ms = time_ms

    def encode(self, seed: int, offset: int, synced: int) -> tuple[list[Piece], int]:
        """See Encode."""
        pieces: list[Piece] = []
        for entry in self._entries:
            self.offsets.append(offset)
            body = entry.body
            pieces.append(entry.head(seed, offset, synced, self._time_ms))
            length = len(body)
            if length:
                pieces.append(body)
                if length % ALIGNMENT:
                    pieces.append(padding(length))
            offset += self._record_size(length)
        return pieces, offset


class AppendLog(Generic[R]):
    """The segments in one folder.

    :param folder: absolute; it need not be there before :meth:`append`.
    :param form: of the records.
    :param reuse: fill the file with zeros ahead of the records, and use files again: worth it for
        segments that do not live long. Else what is ahead of them is allocated.
    :ivar numbers: of the segments that are there, the open one at the end.
    :ivar end: where the open segment ends.
    :ivar synced: what is before this offset of it is durable.
    :ivar seed: its seed.
    """

    def __init__(self, folder: str, files: Files, form: Form[R], *, reuse: bool) -> None:
        self.folder = folder
        self.form = form
        self.numbers: list[int] = []
        self.end = 0
        self.synced = 0
        self.seed = 0
        self._files = files
        self._reuse = reuse
        self._fd: int | None = None
        self._room = 0
        self._next = 1

    def load(self) -> list[int]:
        """Find the segments that are there; none of them is appended to any more."""
        self.close()
        self.numbers = sorted(int(n) for n in self._files.list(self.folder) if n.isdecimal())
        self._next = max([self._next, *(number + 1 for number in self.numbers)])
        return list(self.numbers)

    def path(self, number: int) -> str:
        """The file of a segment."""
        return os.path.join(self.folder, str(number))

    @property
    def room(self) -> int:
        """Bytes that the open segment's file has, or had when it was closed."""
        return self._room

    @property
    def next_number(self) -> int:
        """Of the next segment that begins."""
        return self._next

    @property
    def is_open(self) -> bool:
        """Whether there is a segment to append to."""
        return self._fd is not None

    def append(
        self, entries: Sequence[IEntry], time_ms: int, *, sync: bool, spare: int = 0
    ) -> list[int]:
        """Append entries in one piece; where each record begins in the open segment.

        :param spare: see :meth:`write`.
        """
        records = Records(self.form, entries, time_ms)
        self.write(records.encode, sync=sync, spare=spare)
        return records.offsets

    def write(self, encode: Encode, *, sync: bool, spare: int = 0) -> None:
        """Append records in one piece.

        After an error none of them counts, unless a reader finds it.

        :param spare: there must be so much room after them, when files are not used again.
        """
        if self._fd is None:
            self._begin()
        fd = self._fd
        assert fd is not None, "there is one now"
        pieces, end = encode(self.seed, self.end, self.synced)
        if end + spare > self._room:
            self._make_room(fd, end, end + spare)
        self._files.write_at(fd, pieces, self.end)
        if sync:
            self.sync(end)
        self.end = end

    def _make_room(self, fd: int, least: int, end: int) -> None:
        """Have blocks for what is up to ``end``; on a full drive, at least up to ``least``."""
        if self._reuse:
            zeros = end - self._room + _AHEAD_BYTES
            self._files.write_at(fd, [bytes(zeros)], self._room)
            self._room += zeros
            return
        for until in (end + _ALLOCATED_BYTES, end):
            try:
                self._files.allocate(fd, self._room, until - self._room)
            except OSError as error:
                if error.errno not in FULL or until == end:
                    raise
            else:
                self._room = until
                return

    def sync(self, end: int | None = None) -> None:
        """Make what was appended durable.

        After an error nobody knows what of the segment is: nothing more is appended to it.
        """
        if self._fd is None:
            return
        try:
            self._files.sync(self._fd)
        except OSError:
            self.close()
            raise
        self.synced = self.end if end is None else end

    def _begin(self) -> None:
        """Make the next segment, durably, and open it."""
        header = SegmentHeader(self._next, secrets.randbits(64), self.form.number)
        path, free = self.path(header.number), os.path.join(self.folder, FREE_NAME)
        reused = self._reuse and self._files.exists(free)
        fd = self._files.open(free if reused else path, os.O_RDWR | os.O_CREAT)
        try:
            room = self._files.size(fd) if reused else 0
            self._files.write_at(fd, [header.encode()], 0)
            self._files.sync(fd)
            if reused:
                self._files.rename(free, path)
            self._files.sync_folder(self.folder)
        except OSError:
            self._files.close(fd)
            raise
        self._fd, self.seed = fd, header.seed
        self._next += 1
        self._room = max(room, HEADER_BYTES)
        self.end = self.synced = HEADER_BYTES
        self.numbers.append(header.number)

    def close(self) -> None:
        """Append no more to the open segment; the next one begins when it is needed."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)

    def end_segment(self) -> None:
        """The same, and give back what is allocated after the records."""
        if self._fd is not None and self._room > self.end:
            self._files.truncate(self._fd, self.end)
            self._room = self.end
        self.close()

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget segments, durably and in their order."""
        free = os.path.join(self.folder, FREE_NAME)
        for number in numbers:
            path = self.path(number)
            if self._reuse and self._files.path_size(path) <= _FREE_BYTES:
                self._files.rename(path, free)
            else:
                self._files.unlink(path)
            self.numbers.remove(number)
        if numbers:
            self._files.sync_folder(self.folder)

    def read(self, number: int) -> Segment[R]:
        """Open a segment for reading."""
        return Segment(self.path(number), number, self._files, self.form)


class Segment(Generic[R]):
    """A segment that is read, through a window that moves forward.

    :ivar size: bytes of its file.
    """

    def __init__(self, path: str, number: int, files: Files, form: Form[R]) -> None:
        self.number = number
        self._files = files
        self._form = form
        self._fd = files.open(path, os.O_RDONLY)
        self._window = b""
        self._start = 0
        self.size = files.size(self._fd)

    def header(self) -> SegmentHeader | None:
        """Its header, maybe of another format; None: it is not what was written."""
        header = parse_header(self.read(0, HEADER_BYTES))
        return header if header is not None and header.number == self.number else None

    def found(self) -> Iterator[R | Gap]:
        """See shardlog.records; nothing when the segment's header is not what was written."""
        header = self.header()
        if header is not None and header.format == self._form.number:
            yield from self.found_after(header.seed, HEADER_BYTES)

    def found_after(self, seed: int, start: int) -> Iterator[R | Gap]:
        """The same from an offset on at which a record begins."""
        yield from records(self._form, seed, self.size, self.read, start)

    def sync(self) -> None:
        """Make what is in it durable."""
        self._files.sync(self._fd)

    def body(self, record: R) -> bytes | None:
        """What a record was written with; None: it is damaged."""
        body = self.read(record.body, record.length)
        return body if record.is_whole(body) else None

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at an offset, fewer at the end."""
        at = offset - self._start
        if at < 0 or at + size > len(self._window):
            self._window = self._pread(max(size, _WINDOW_BYTES), offset)
            self._start, at = offset, 0
        return self._window[at : at + size]

    def _pread(self, size: int, offset: int) -> bytes:
        """Bytes at an offset; zeros, which match no check, where the drive cannot read them."""
        try:
            return self._files.pread(self._fd, size, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        pieces = []
        for start in range(offset, min(offset + size, self.size), _SECTORS_BYTES):
            length = min(_SECTORS_BYTES, offset + size - start, self.size - start)
            try:
                pieces.append(self._files.pread(self._fd, length, start))
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                pieces.append(bytes(length))
        return b"".join(pieces)

    def close(self) -> None:
        """Release the file."""
        self._files.close(self._fd)
