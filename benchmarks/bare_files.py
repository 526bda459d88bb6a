"""Six files that hold shards one after the other: the least that keeping contents takes.

The files are written once in full before anything is measured, so that a sync has bytes to wait
for and nothing else. They are written over from the beginning when they are full.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from attrs import frozen

from benchmarks.bodies import MIB
from dostore.core.scheme import Scheme
from dostore.core.stripes import StripeCoder

SCHEME = Scheme()

#: Large contents begin at a multiple, so that they can be written past the system's cache.
_ALIGNMENT = 4096

#: Large contents are received, written and read so many bytes at a time.
_BATCH_BYTES = MIB
_BUFFERS = 8


class Damaged(Exception):
    """What was read back is not what was written."""


@frozen(slots=True)
class Stored:
    """A content.

    :ivar offset: of its shards, in all six files.
    :ivar round: how often the files had been written in full before.
    """

    offset: int
    size: int
    sha256: bytes
    round: int


class SixFiles:
    """The files.

    :param room_bytes: of each.
    """

    def __init__(self, folder: Path, room_bytes: int, *, sync: bool) -> None:
        folder.mkdir(parents=True)
        self._room = room_bytes
        self._sync = sync
        self._coder = StripeCoder(SCHEME)
        self._pool = ThreadPoolExecutor(SCHEME.shards)
        self._lock = threading.Lock()
        self._end = 0
        self._round = 0
        paths = [folder / str(index) for index in range(SCHEME.shards)]
        self._files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
        for file in self._files:
            for offset in range(0, room_bytes, MIB):
                os.pwrite(file, bytes(MIB), offset)
        self._sync_all()
        # Large contents go past the cache, where the file system can.
        try:
            self._direct = [os.open(path, os.O_RDWR | os.O_DIRECT) for path in paths]
        except OSError:
            self._direct = self._files

    def _sync_all(self) -> None:
        for _ in self._pool.map(os.fdatasync, self._files):
            continue

    def _claim(self, size: int, alignment: int = 1) -> int:
        """Room for a shard of ``size`` bytes in each file."""
        if self._end + size + alignment > self._room:
            self._end = 0
            self._round += 1
        offset = -(-self._end // alignment) * alignment
        self._end = offset + size
        return offset

    # Contents that are there as a whole

    def keep(self, bodies: Sequence[memoryview]) -> list[Stored]:
        """Hash, encode and write contents, and sync once for all of them."""
        found: list[Stored] = []
        columns: list[list[bytes | memoryview]] = [[] for _ in self._files]
        begin = None
        for body in bodies:
            offset = self._claim(SCHEME.shard_size(len(body)))
            if begin is not None and offset < begin:
                self._write(columns, begin)
                columns, begin = [[] for _ in self._files], None
            begin = offset if begin is None else begin
            digest = hashlib.sha256(body).digest()
            for column, blocks in zip(columns, self._coder.encode(body), strict=True):
                column.extend(blocks)
            found.append(Stored(offset, len(body), digest, self._round))
        if begin is not None:
            self._write(columns, begin)
        if self._sync:
            self._sync_all()
        return found

    def _write(self, columns: Sequence[Sequence[bytes | memoryview]], offset: int) -> None:
        for file, pieces in zip(self._files, columns, strict=True):
            os.pwritev(file, pieces, offset)

    def read(self, stored: Stored, *, lost: bool) -> list[memoryview]:
        """The bytes of a content.

        :param lost: the first m shards are not there.
        """
        first = SCHEME.m if lost else 0
        return self._read(stored, range(first, first + SCHEME.k))

    def _read(self, stored: Stored, chosen: Sequence[int]) -> list[memoryview]:
        length = SCHEME.shard_size(stored.size)
        shards = {
            index: memoryview(os.pread(self._files[index], length, stored.offset))
            for index in chosen
        }
        return self._join(shards, stored.size)

    def _join(self, shards: dict[int, memoryview], size: int) -> list[memoryview]:
        """Data blocks in their order, those of shards that are not there decoded."""
        pieces = []
        at = 0
        for stripe in range(SCHEME.stripe_count(size)):
            left = SCHEME.stripe_length(size, stripe)
            row = SCHEME.block_length(left)
            blocks = {index: shard[at : at + row] for index, shard in shards.items()}
            whole = self._coder.rebuild(blocks, range(SCHEME.k))
            for index in range(SCHEME.k):
                piece = memoryview(whole[index])[: min(row, left)]
                left -= len(piece)
                pieces.append(piece)
            at += row
        return pieces

    def read_byte(self, stored: Stored, position: int) -> memoryview:
        """One byte of a content."""
        stripe, within = divmod(position, SCHEME.stripe_size)
        row = SCHEME.block_length(SCHEME.stripe_length(stored.size, stripe))
        index, at = divmod(within, row)
        offset = stored.offset + stripe * SCHEME.block_size + at
        return memoryview(os.pread(self._files[index], 1, offset))

    def verify(self, stored: Stored) -> bool:
        """Whether a content is still there; then it can be rebuilt from any four of its shards.

        Of a large one, only from the first four and the last, for it takes long.

        :raises Damaged: it cannot.
        """
        behind = self._round - stored.round
        if behind > 1 or (behind == 1 and stored.offset < self._end):
            return False
        every = list(itertools.combinations(range(SCHEME.shards), SCHEME.k))
        for chosen in every if stored.size <= _BATCH_BYTES else (every[0], every[-1]):
            hasher = hashlib.sha256()
            for at in range(0, stored.size, _BATCH_BYTES):
                for piece in self._read(_piece(stored, at), chosen):
                    hasher.update(piece)
            if hasher.digest() != stored.sha256:
                raise Damaged(f"shards {chosen} at {stored.offset} are not what was hashed")
        return True

    # Contents that come and go in a stream

    def keep_stream(self, source: socket.socket, size: int, head: bytes) -> Stored:
        """Receive, hash, encode and write a content, each on a thread of its own."""
        with self._lock:
            offset = self._claim(SCHEME.shard_size(size), _ALIGNMENT)
            stored_round = self._round
        hasher = hashlib.sha256()
        free: SimpleQueue[mmap.mmap] = SimpleQueue()
        for _ in range(_BUFFERS):
            free.put(mmap.mmap(-1, _BATCH_BYTES))
        # A direct write takes memory that begins at a page.
        pages = [mmap.mmap(-1, _BATCH_BYTES // SCHEME.k) for _ in range(SCHEME.m)]
        with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as writing:
            written: deque[Future[None]] = deque()
            for at in range(0, size, _BATCH_BYTES):
                count = min(_BATCH_BYTES, size - at)
                buffer = free.get()
                view = memoryview(buffer)[:count]
                have = len(head)
                view[:have], head = head, b""
                while have < count:
                    have += source.recv_into(view[have:])
                hashed = hashing.submit(hasher.update, view)
                place = offset + at // SCHEME.k
                written.append(writing.submit(self._write_batch, view, place, pages))
                give_back = _Both(free, buffer)
                for job in (hashed, written[-1]):
                    job.add_done_callback(give_back)
                while written and written[0].done():
                    written.popleft().result()
            for job in written:
                job.result()
        if self._sync:
            self._sync_all()
        return Stored(offset, size, hasher.digest(), stored_round)

    def _write_batch(self, view: memoryview, offset: int, pages: Sequence[mmap.mmap]) -> None:
        shards = self._coder.encode(view)
        direct = len(view) == _BATCH_BYTES
        files = self._direct if direct else self._files
        if direct:
            for page, blocks in zip(pages, shards[SCHEME.k :], strict=True):
                page.seek(0)
                page.write(b"".join(blocks))
            shards[SCHEME.k :] = [[memoryview(page)] for page in pages]
        jobs = [
            self._pool.submit(os.pwritev, file, blocks, offset)
            for file, blocks in zip(files, shards, strict=True)
        ]
        for job in jobs:
            job.result()

    def read_stream(self, stored: Stored, *, lost: bool) -> Iterator[list[memoryview]]:
        """The bytes of a content, some at a time; the next are read meanwhile."""
        with ThreadPoolExecutor(1) as reading:
            following: Future[list[memoryview]] | None = None
            for at in range(0, stored.size, _BATCH_BYTES):
                current, following = following, reading.submit(self._read_batch, stored, at, lost)
                if current is not None:
                    yield current.result()
            if following is not None:
                yield following.result()

    def _read_batch(self, stored: Stored, at: int, lost: bool) -> list[memoryview]:
        return self.read(_piece(stored, at), lost=lost)


def _piece(stored: Stored, at: int) -> Stored:
    """A batch of stripes of a content, as if it were a content of its own."""
    size = min(_BATCH_BYTES, stored.size - at)
    return Stored(stored.offset + at // SCHEME.k, size, b"", stored.round)


class _Both:
    """Gives a buffer back when it was called twice: it is hashed, and it is written."""

    def __init__(self, free: SimpleQueue[mmap.mmap], buffer: mmap.mmap) -> None:
        self._free = free
        self._buffer = buffer
        self._calls = itertools.count(1)

    def __call__(self, _: Future[None]) -> None:
        if next(self._calls) == 2:
            self._free.put(self._buffer)
