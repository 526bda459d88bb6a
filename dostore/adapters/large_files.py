"""Large files, written and read past the system's cache.

A large file would push many small ones out of the cache; and where the cache has to grow for it, as
in a virtual machine that touches its memory for the first time, copying to it takes longer than the
drive. So what comes after its first megabytes goes to and from the drive directly (O_DIRECT), by
buffers that are used again and again. A file system that does not know how (tmpfs) is used as ever.
"""

from __future__ import annotations

import errno
import mmap
from collections import deque
from collections.abc import Sequence

from dostore.adapters.files import Files

#: The first bytes of a file go through the cache, so that a file of no more than that stays there.
DIRECT_AFTER_BYTES = 4 << 20

#: Less than this is read through the cache wherever it is: whoever reads a little here and there
#: may come back for it.
DIRECT_READ_BYTES = 128 * 1024

#: Bytes of one direct read or write. Twice as much is no faster where it was measured.
BUFFER_BYTES = 256 * 1024

#: Of offset, length and address of a direct read or write; no drive asks for more.
ALIGNMENT = 4096

#: Buffers that are kept for the next file.
_KEPT_BUFFERS = 24

#: How a file system or drive says that it does not do this directly.
_NOT_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP}

Block = bytes | memoryview


class Buffers:
    """Aligned buffers of BUFFER_BYTES. Any thread may take one and give it back."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=_KEPT_BUFFERS)

    def take(self) -> mmap.mmap:
        """One that nobody uses."""
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, BUFFER_BYTES)

    def give_back(self, buffer: mmap.mmap) -> None:
        """It is not used any more."""
        self._free.append(buffer)


#: Those of all drives of the process.
BUFFERS = Buffers()


class LargeWrites:
    """The bytes of one file from its beginning on, as they come.

    The caller opens the file, sees to it that one thread is in here at a time, and calls
    :meth:`release` at the end.
    """

    __slots__ = ("_buffer", "_buffers", "_direct", "_files", "_filled", "_position", "_refused")

    def __init__(self, files: Files, buffers: Buffers = BUFFERS) -> None:
        self._files = files
        self._buffers = buffers
        self._buffer: mmap.mmap | None = None
        self._filled = 0
        self._position = 0
        self._direct = False
        self._refused = False

    def write(self, fd: int, pieces: Sequence[Block]) -> None:
        """Append pieces; the last bytes may stay in the buffer until :meth:`flush`."""
        if self._refused or self._position < DIRECT_AFTER_BYTES:
            self._position += self._files.write(fd, pieces)
            return
        for piece in pieces:
            self._add(fd, memoryview(piece))

    def _add(self, fd: int, piece: memoryview) -> None:
        if self._buffer is None:
            # The cached part ends anywhere; a direct write begins at a multiple.
            gap = min(-self._position % ALIGNMENT, len(piece))
            if gap:
                self._position += self._files.write(fd, [piece[:gap]])
                piece = piece[gap:]
        while piece:
            if self._refused:
                self._position += self._files.write(fd, [piece])
                return
            if self._buffer is None:
                self._buffer = self._buffers.take()
            taken = piece[: BUFFER_BYTES - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            piece = piece[len(taken) :]
            if self._filled == BUFFER_BYTES:
                self._write_buffer(fd)

    def _write_buffer(self, fd: int) -> None:
        assert self._buffer is not None, "there is one while something is in it"
        with memoryview(self._buffer) as view:
            try:
                if not self._direct:
                    self._files.set_direct(fd, True)
                    self._direct = True
                self._files.write(fd, [view])
            except OSError as error:
                if error.errno not in _NOT_DIRECT:
                    raise
                self._through_the_cache(fd)
                self._refused = True
                self._files.seek(fd, self._position)
                self._files.write(fd, [view])
        self._position += self._filled
        self._filled = 0
        if self._refused:
            self.release()

    def flush(self, fd: int) -> None:
        """Hand all that was appended to the system, so that a sync makes it durable."""
        self._through_the_cache(fd)
        if self._buffer is not None and self._filled:
            with memoryview(self._buffer)[: self._filled] as view:
                self._position += self._files.write(fd, [view])
            self._filled = 0

    def _through_the_cache(self, fd: int) -> None:
        if self._direct:
            self._direct = False
            self._files.set_direct(fd, False)

    def release(self) -> None:
        """Nothing more is written. Idempotent."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._buffers.give_back(buffer)


class LargeReads:
    """Reads of one open file. Any number of threads may be in here at a time.

    The caller closes the file, and does not read from it otherwise once this was used.
    """

    __slots__ = ("_buffers", "_direct", "_fd", "_files", "_refused")

    def __init__(self, files: Files, fd: int, buffers: Buffers = BUFFERS) -> None:
        self._files = files
        self._fd = fd
        self._buffers = buffers
        self._direct = False
        self._refused = False

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer only at the end of the file."""
        far = offset >= DIRECT_AFTER_BYTES and size >= DIRECT_READ_BYTES
        if self._refused or not (far or self._direct):
            return self._files.pread(self._fd, size, offset)
        buffer = self._buffers.take()
        pieces = []
        try:
            with memoryview(buffer) as view:
                while size:
                    # Outwards to multiples, of which what was not asked for is cut away.
                    skipped = offset % ALIGNMENT
                    here = min(size, BUFFER_BYTES - skipped)
                    end = -(-(skipped + here) // ALIGNMENT) * ALIGNMENT
                    count = self._read_into(view[:end], offset - skipped)
                    piece = bytes(view[skipped : min(skipped + here, count)])
                    pieces.append(piece)
                    if len(piece) < here:
                        break
                    offset += here
                    size -= here
        finally:
            self._buffers.give_back(buffer)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_into(self, view: memoryview, offset: int) -> int:
        if not self._direct:
            try:
                count = self._files.read_into(self._fd, view, offset, wait=False)
            except BlockingIOError:
                count = 0
            if count == len(view):
                return count
            self._go_direct()
        try:
            return self._files.read_into(self._fd, view, offset, wait=True)
        except OSError as error:
            if error.errno not in _NOT_DIRECT or self._refused:
                raise
            self._files.set_direct(self._fd, False)
            self._direct, self._refused = False, True
            return self._files.read_into(self._fd, view, offset, wait=True)

    def _go_direct(self) -> None:
        try:
            self._files.set_direct(self._fd, True)
            self._direct = True
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
            self._refused = True
