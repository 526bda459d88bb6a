"""A log of shards on one drive: a folder of segments that are appended to, synced and read again.

``docs/shard-log.rst`` tells the format. Everything here blocks; whoever uses it sees to it that one
thread at a time appends. Errors are the system's own OSError.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence

from attrs import frozen

from dostore.adapters.files import Files
from dostore.core.names import ShardName
from dostore.core.shardlog import (
    HEADER_BYTES,
    Gap,
    Kind,
    Record,
    SegmentHeader,
    encode_head,
    padding,
    parse_header,
    record_size,
    records,
)

#: The file of a segment that is not used any more, kept for the next one: its blocks are on the
#: drive already, so that a sync writes the records and nothing else.
FREE_NAME = "free"

#: A file that is larger than this is not kept.
_FREE_BYTES = 64 << 20

#: So much of a file is filled with zeros ahead of the records, for the same reason.
_AHEAD_BYTES = 1 << 20

#: A segment is read by pieces of this size.
_WINDOW_BYTES = 256 * 1024

#: Where that fails, by pieces of this size.
_SECTORS_BYTES = 4096


@frozen(slots=True)
class Entry:
    """What is to be appended."""

    kind: Kind
    name: ShardName
    body: bytes = b""


class AppendLog:
    """The segments in one folder.

    :param folder: absolute; it need not be there before :meth:`append`.
    :param ahead: fill the file with zeros ahead of the records, and use files again: worth it for
        segments that do not live long.
    :ivar numbers: of the segments that are there, the open one at the end.
    :ivar end: where the open segment ends.
    """

    def __init__(self, folder: str, files: Files, *, ahead: bool) -> None:
        self.folder = folder
        self.numbers: list[int] = []
        self.end = 0
        self._files = files
        self._ahead = ahead
        self._fd: int | None = None
        self._room = 0
        self._synced = 0
        self._seed = 0
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
    def is_open(self) -> bool:
        """Whether there is a segment to append to."""
        return self._fd is not None

    def append(self, entries: Sequence[Entry], time_ms: int, *, sync: bool) -> list[int]:
        """Append entries in one piece; where each record begins in the open segment.

        After an error none of them counts, unless a reader finds it.
        """
        if self._fd is None:
            self._begin()
        fd = self._fd
        assert fd is not None, "there is one now"
        offset = self.end
        offsets: list[int] = []
        pieces: list[bytes] = []
        for entry in entries:
            offsets.append(offset)
            body = entry.body
            pieces.append(
                encode_head(self._seed, offset, self._synced, entry.kind, entry.name, time_ms, body)
            )
            if body:
                pieces.append(body)
                if rest := padding(len(body)):
                    pieces.append(rest)
            offset += record_size(len(body))
        if self._ahead and offset > self._room:
            zeros = offset - self._room + _AHEAD_BYTES
            self._files.write_at(fd, [bytes(zeros)], self._room)
            self._room += zeros
        self._files.write_at(fd, pieces, self.end)
        if sync:
            self.sync(offset)
        self.end = offset
        return offsets

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
        self._synced = self.end if end is None else end

    def _begin(self) -> None:
        """Make the next segment, durably, and open it."""
        header = SegmentHeader(self._next, secrets.randbits(64))
        path, free = self.path(header.number), os.path.join(self.folder, FREE_NAME)
        reused = self._ahead and self._files.exists(free)
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
        self._fd, self._seed = fd, header.seed
        self._next += 1
        self._room = max(room, HEADER_BYTES)
        self.end = self._synced = HEADER_BYTES
        self.numbers.append(header.number)

    def close(self) -> None:
        """Append no more to the open segment; the next one begins when it is needed."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget segments, durably and in their order."""
        free = os.path.join(self.folder, FREE_NAME)
        for number in numbers:
            path = self.path(number)
            if self._ahead and self._files.path_size(path) <= _FREE_BYTES:
                self._files.rename(path, free)
            else:
                self._files.unlink(path)
            self.numbers.remove(number)
        if numbers:
            self._files.sync_folder(self.folder)

    def read(self, number: int) -> Segment:
        """Open a segment for reading."""
        return Segment(self.path(number), number, self._files)


class Segment:
    """A segment that is read, through a window that moves forward."""

    def __init__(self, path: str, number: int, files: Files) -> None:
        self.number = number
        self._files = files
        self._fd = files.open(path, os.O_RDONLY)
        self._window = b""
        self._start = 0
        self._size = files.size(self._fd)

    def found(self) -> Iterator[Record | Gap]:
        """See shardlog.records; nothing when the segment's header is not what was written."""
        header = parse_header(self.read(0, HEADER_BYTES))
        if header is not None and header.number == self.number:
            yield from records(header, self._size, self.read)

    def body(self, record: Record) -> bytes | None:
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
        for start in range(offset, min(offset + size, self._size), _SECTORS_BYTES):
            length = min(_SECTORS_BYTES, offset + size - start, self._size - start)
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
