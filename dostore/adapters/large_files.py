"""Large files, written and read past the system's cache.

A large file would push many small ones out of the cache; and where the cache has to grow for it, as
in a virtual machine that touches its memory for the first time, copying to it takes longer than the
drive. So what is written much at a time, and what is read of a large file, goes to and from the
drive directly (O_DIRECT), by buffers that are used again and again. A file system that does not
know how (tmpfs) is used as ever. A file that is read again soon goes to the cache all the same, so
that who asks for it often has it from there.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence

from dostore.adapters.files import Files

#: Less than this at a time is written through the cache: whoever writes a little may do so often.
DIRECT_WRITE_BYTES = 64 * 1024

#: A file up to this size is read through the cache, so that it stays there.
CACHED_FILE_BYTES = 4 << 20

#: Less than this is read through the cache wherever it is: whoever reads a little here and there
#: may come back for it.
DIRECT_READ_BYTES = 128 * 1024

#: Bytes of one direct read or write at most. A call costs as much as 100 KiB of them, and a thread
#: that makes one gives the interpreter away and has to wait for it after that.
BUFFER_BYTES = 1 << 20

#: Of offset, length and address of a direct read or write; no drive asks for more.
ALIGNMENT = 4096

#: Buffers that are kept for the next call: one for each thread that is likely to be in one.
_KEPT_BUFFERS = 16

#: So many files are remembered that were read past the cache: half a gigabyte or more.
_REMEMBERED_FILES = 512

#: How a file system or drive says that it does not do this directly.
_NOT_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP}

Block = bytes | memoryview


class _Lent(ctypes.c_ubyte * BUFFER_BYTES):  # type: ignore[misc]
    """The bytes of a buffer, as long as anybody has a view of some of them."""

    origin: Buffers
    buffer: mmap.mmap

    def __del__(self) -> None:
        """The last view is gone."""
        self.origin.give_back(self.buffer)


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

    def lend(self) -> memoryview:
        """A view of one that is given back when nobody has this view, or a part of it, any more."""
        buffer = self.take()
        lent = _Lent.from_buffer(buffer)
        lent.origin, lent.buffer = self, buffer
        return memoryview(lent).cast("B")

    def give_back(self, buffer: mmap.mmap) -> None:
        """It is not used any more."""
        self._free.append(buffer)


#: Those of all drives of the process.
BUFFERS = Buffers()


class LargeWrites:
    """The bytes of one file, as they come.

    The caller opens the file, and sees to it that one thread is in here at a time.

    :param position: where the next bytes go, and the file's descriptor stands; by default its
        beginning.
    """

    __slots__ = ("_buffers", "_direct", "_files", "_position", "_refused", "_rest")

    def __init__(self, files: Files, buffers: Buffers = BUFFERS, position: int = 0) -> None:
        self._files = files
        self._buffers = buffers
        #: What was appended and is not written yet: less than ALIGNMENT.
        self._rest = b""
        self._position = position
        self._direct = False
        self._refused = False

    def write(self, fd: int, pieces: Sequence[Block]) -> None:
        """Append pieces; the last bytes may be held until :meth:`flush`."""
        if self._rest:
            pieces, self._rest = [self._rest, *pieces], b""
        if self._refused or sum(map(len, pieces)) < DIRECT_WRITE_BYTES:
            self._write_cached(fd, pieces)
            return
        buffer = self._buffers.take()
        try:
            with memoryview(buffer) as view:
                self._write_all(fd, pieces, view)
        finally:
            self._buffers.give_back(buffer)

    def _write_all(self, fd: int, pieces: Sequence[Block], buffer: memoryview) -> None:
        # What went through the cache ends anywhere; a direct write begins at a multiple.
        gap = -self._position % ALIGNMENT
        filled = 0
        for piece in pieces:
            rest = memoryview(piece)
            if gap:
                self._write_cached(fd, [rest[:gap]])
                rest, gap = rest[gap:], max(0, gap - len(rest))
            while rest:
                taken = rest[: BUFFER_BYTES - filled]
                buffer[filled : filled + len(taken)] = taken
                filled += len(taken)
                rest = rest[len(taken) :]
                if filled == BUFFER_BYTES:
                    self._write_buffer(fd, buffer)
                    filled = 0
        whole = filled - filled % ALIGNMENT
        if whole:
            self._write_buffer(fd, buffer[:whole])
        self._rest = bytes(buffer[whole:filled])

    def _write_buffer(self, fd: int, buffer: memoryview) -> None:
        if self._refused:
            self._write_cached(fd, [buffer])
            return
        try:
            if not self._direct:
                self._files.set_direct(fd, True)
                self._direct = True
            self._position += self._files.write(fd, [buffer])
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
            self._refused = True
            self._through_the_cache(fd)
            # Some of it may have been written.
            self._files.seek(fd, self._position)
            self._write_cached(fd, [buffer])

    def _write_cached(self, fd: int, pieces: Sequence[Block]) -> None:
        self._through_the_cache(fd)
        self._position += self._files.write(fd, pieces)

    def _through_the_cache(self, fd: int) -> None:
        if self._direct:
            self._direct = False
            self._files.set_direct(fd, False)

    def flush(self, fd: int) -> None:
        """Hand all that was appended to the system, so that a sync makes it durable."""
        rest, self._rest = self._rest, b""
        if rest:
            self._write_cached(fd, [rest])


class Lately:
    """Files that were read past the cache not long ago. Any number of threads may be in here.

    :param size: how many are remembered.
    """

    def __init__(self, size: int = _REMEMBERED_FILES) -> None:
        self._size = size
        self._files: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._lock = threading.Lock()

    def again(self, fd: int) -> bool:
        """Whether the file was asked for before; from now on it was."""
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        with self._lock:
            known = file in self._files
            self._files[file] = None
            self._files.move_to_end(file)
            if len(self._files) > self._size:
                self._files.popitem(last=False)
        return known


LATELY = Lately()


class LargeReads:
    """Reads of one open file. Any number of threads may be in here at a time.

    The caller closes the file, and does not read from it otherwise once this was used.

    :param size: bytes of the file.
    :param lately: remembers the file; the second time it is read through the cache.
    """

    __slots__ = (
        "_buffers",
        "_direct",
        "_fd",
        "_files",
        "_kept",
        "_large",
        "_lately",
        "_refused",
        "_size",
    )

    def __init__(
        self,
        files: Files,
        fd: int,
        size: int,
        buffers: Buffers = BUFFERS,
        lately: Lately = LATELY,
    ) -> None:
        self._size = size
        self._large = size > CACHED_FILE_BYTES
        self._files = files
        self._fd = fd
        self._buffers = buffers
        self._lately = lately
        self._direct = False
        self._kept = False
        self._refused = False

    def read(self, size: int, offset: int) -> Block:
        """Up to ``size`` bytes at ``offset``, fewer only at the end of the file.

        Of a large file they stay in the buffer that the drive has put them in: nobody copies them.
        """
        much = self._large and size >= DIRECT_READ_BYTES
        if self._refused or not (much or self._direct):
            return self._files.pread(self._fd, size, offset)
        pieces = []
        while size:
            here = min(size, BUFFER_BYTES - offset % ALIGNMENT)
            piece = self._read_piece(here, offset)
            pieces.append(piece)
            if len(piece) < here:
                break
            offset += here
            size -= here
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_piece(self, size: int, offset: int) -> memoryview:
        """What is in one buffer."""
        # Outwards to multiples, of which what was not asked for is cut away.
        skipped = offset % ALIGNMENT
        stop = skipped + size
        view = self._buffers.lend()
        count = self._read_into(view[: -(-stop // ALIGNMENT) * ALIGNMENT], offset - skipped)
        return view[skipped : min(stop, count)]

    def _read_into(self, view: memoryview, offset: int) -> int:
        there = min(len(view), self._size - offset)
        if (
            not (self._direct or self._kept)
            and there > 0
            and not self._files.is_cached(self._fd, there, offset)
        ):
            self._kept = self._lately.again(self._fd)
            if not self._kept:
                self._go_direct()
        try:
            return self._files.read_into(self._fd, view, offset)
        except OSError as error:
            if error.errno not in _NOT_DIRECT or self._refused:
                raise
            self._files.set_direct(self._fd, False)
            self._direct, self._refused = False, True
            return self._files.read_into(self._fd, view, offset)

    def _go_direct(self) -> None:
        if self._refused:
            return
        try:
            self._files.set_direct(self._fd, True)
            self._direct = True
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
            self._refused = True
