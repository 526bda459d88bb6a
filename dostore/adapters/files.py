"""The system calls on drives, in one place, so that tests can make any of them fail or hang.

Everything here blocks and is called on worker threads. Errors are the system's own OSError;
adapters translate them at their border.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from dostore.core.window import Part

#: A file that ends elsewhere than at a multiple of this has been read to its end.
_SECTOR_BYTES = 512

#: How many pieces one system call takes (Linux's IOV_MAX).
_MAX_PIECES = 1024

#: How many names of a folder are told at a time.
_NAMES = 4096


# PyDLL keeps the interpreter lock: this call never waits, and giving the lock to another thread for
# its two microseconds can cost milliseconds until it comes back.
_libc = ctypes.PyDLL(None)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

#: fcntl.fcntl gives it away.
_fcntl = ctypes.PyDLL(None, use_errno=True).fcntl
_fcntl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]

# And this one keeps it not, for it waits.
_libc_waiting = ctypes.CDLL(None, use_errno=True)

_KERNEL = tuple(int(part) for part in re.findall("[0-9]+", os.uname().release)[:2])

_CACHESTAT = ctypes.c_long(451)

#: struct cachestat_range and struct cachestat of <linux/mman.h>; of the latter, the first number is
#: that of cached pages.
_CachestatRange = ctypes.c_uint64 * 2
_Cachestat = ctypes.c_uint64 * 5
_OPENAT2 = ctypes.c_long(437)
_AT_FDCWD = ctypes.c_long(-100)
_RESOLVE_CACHED = 0x20
#: struct open_how of <linux/openat2.h>: flags, mode, resolve.
_HOW = ctypes.create_string_buffer(
    struct.pack("=QQQ", os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_CACHED), 24
)
_HOW_BYTES = ctypes.c_long(24)


def _open_cached(path: str) -> int:
    """A descriptor, or -1 when opening could wait, fails, or the kernel (before 5.12) cannot
    tell."""
    return int(_syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), _HOW, _HOW_BYTES))


class Files:
    """Blocking file operations; paths are absolute."""

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        """A file descriptor, closed on exec."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def write(self, fd: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Write all the pieces at the descriptor's position; the number of bytes."""
        total = sum(map(len, pieces))
        written = os.writev(fd, pieces[:_MAX_PIECES]) if pieces else 0
        if written < total:
            # Rare (too many pieces, a signal, a nearly full drive): go on with what is left, which
            # raises ENOSPC if that is why.
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(fd, rest) :]
        return total

    def write_at(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        """Write all the pieces at an offset; the number of bytes. The position stays."""
        total = sum(map(len, pieces))
        written = os.pwritev(fd, pieces[:_MAX_PIECES], offset) if pieces else 0
        if written < total:
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                count = os.pwrite(fd, rest, offset + total - len(rest))
                rest = rest[count:]
        return total

    def set_direct(self, fd: int, direct: bool) -> None:
        """Have an open file be read and written past the system's cache (O_DIRECT), or through it
        again. Nothing else of what can be set so may be set of it.

        :raises OSError: EINVAL: the file system does not know how.
        """
        if _fcntl(fd, fcntl.F_SETFL, os.O_DIRECT if direct else 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def seek(self, fd: int, offset: int) -> None:
        """Set where the next :meth:`write` goes."""
        os.lseek(fd, offset, os.SEEK_SET)

    def truncate(self, fd: int, size: int) -> None:
        """Have an open file end after ``size`` bytes."""
        os.ftruncate(fd, size)

    def allocate(self, fd: int, offset: int, size: int) -> None:
        """Have the blocks for a part of an open file, which reads as zeros until it is written; the
        file is at least so long then. A file system that does not know how is left alone.
        """
        try:
            os.posix_fallocate(fd, offset, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer only at the end of the file."""
        data = os.pread(fd, size, offset)
        if len(data) == size or not data:
            return data
        pieces = [data]
        have = len(data)
        while have < size and (more := os.pread(fd, size - have, offset + have)):
            pieces.append(more)
            have += len(more)
        return b"".join(pieces)

    def is_cached(self, fd: int, size: int, offset: int) -> bool:
        """Whether all of a part of an open file is in the system's cache. To ask reads nothing: a
        read with RWF_NOWAIT would have the kernel read ahead, megabytes of it.

        :returns: False also when the kernel (before 6.5) cannot tell.
        """
        span = _CachestatRange(offset, size)
        counts = _Cachestat()
        if _syscall(_CACHESTAT, ctypes.c_long(fd), span, counts, ctypes.c_long(0)):
            return False
        pages = (offset + size - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
        return int(counts[0]) >= pages

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from ``offset`` on; how many bytes, fewer at the end of the file."""
        count = os.preadv(fd, [buffer], offset)
        while 0 < count < len(buffer) and count % _SECTOR_BYTES == 0:
            more = os.preadv(fd, [buffer[count:]], offset + count)
            if not more:
                break
            count += more
        return count

    def read_cached(self, path: str, buffer: bytearray) -> bytes | None:
        """A whole file, if that takes no wait for a disk; this method and the next three are the
        only ones that may be called on the reactor's thread.

        Neither the way to the file nor its bytes are read from a drive: what is not in memory
        already is refused by the kernel (openat2 with RESOLVE_CACHED, preadv2 with RWF_NOWAIT).

        :param buffer: longer than the longest file to read.
        :returns: None when it cannot be had so, for whatever reason: read it on a thread.
        """
        fd = _open_cached(path)
        if fd < 0:
            return None
        try:
            size = os.fstat(fd).st_size
            if size >= len(buffer) or os.preadv(fd, [buffer], 0, os.RWF_NOWAIT) != size:
                return None
            return bytes(memoryview(buffer)[:size])
        except OSError:
            # EAGAIN: not in memory. EOPNOTSUPP: this file system cannot tell. And EIO and the like
            # are met again, and dealt with, on the thread.
            return None
        finally:
            os.close(fd)

    def open_now(self, path: str) -> int:
        """Open a file for reading, if that takes no wait for a disk; on the reactor's thread.

        :returns: the descriptor; -1 when it cannot be had so, for whatever reason.
        """
        return _open_cached(path)

    def read_parts_now(self, fd: int, parts: Sequence[Part]) -> bool:
        """Read parts of an open file, if that takes no wait for a disk; on the reactor's thread.

        :returns: whether each part was there, with as many bytes as it has to have. If not, some
            may have been read.
        """
        try:
            for offset, buffers, size in parts:
                if os.preadv(fd, buffers, offset, os.RWF_NOWAIT) != size:
                    return False
        except OSError:
            return False
        return True

    def pread_cached(self, fd: int, size: int, offset: int, buffer: bytearray) -> bytes | None:
        """Bytes at an offset, if that takes no wait for a disk; may be called on the reactor's
        thread.

        :param buffer: at least so long.
        :returns: None when they cannot be had so, for whatever reason: read them on a thread.
        """
        with memoryview(buffer)[:size] as view:
            try:
                if os.preadv(fd, [view], offset, os.RWF_NOWAIT) == size:
                    return bytes(view)
            except OSError:
                # As with read_cached.
                pass
        return None

    def changed_ns(self, fd: int) -> int:
        """When an open file was last changed in any way, its name included, in nanoseconds."""
        return os.fstat(fd).st_ctime_ns

    def size(self, fd: int) -> int:
        """Bytes in an open file."""
        return os.fstat(fd).st_size

    def identity(self, file: int | str) -> tuple[int, int]:
        """Which file a descriptor or path stands for: its device and inode numbers."""
        stat = os.stat(file)
        return stat.st_dev, stat.st_ino

    def signature(self, file: int | str) -> tuple[int, int, int]:
        """What differs when a file's bytes were changed: its inode number, size in bytes and time
        of change in nanoseconds.
        """
        stat = os.stat(file)
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def path_size(self, path: str) -> int:
        """Bytes in the file at ``path``."""
        return os.stat(path).st_size

    def sync(self, fd: int) -> None:
        """Make an open file's bytes and size durable."""
        os.fdatasync(fd)

    def sync_file_system(self, fd: int) -> bool:
        """Make all that was written to a file's file system durable, the names of files too.

        :returns: False when the kernel (before 5.8) would not tell of bytes that could not be
            written: nothing is sure then.
        """
        if _KERNEL < (5, 8):
            return False
        if _libc_waiting.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return True

    def sync_folder(self, path: str) -> None:
        """Make a folder's entries (creations, renames, removals) durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing the target."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents; it may be there already."""
        os.makedirs(path, mode=0o750, exist_ok=True)

    def list(self, path: str) -> list[str]:
        """The names in a folder, in no order."""
        return os.listdir(path)

    def names(self, path: str) -> Iterator[Sequence[str]]:
        """The names in a folder, some at a time: all of a million take 150 MB."""
        with os.scandir(path) as entries:
            while some := [entry.name for entry in islice(entries, _NAMES)]:
                yield some

    def exists(self, path: str) -> bool:
        """Whether there is something at ``path``."""
        return os.path.lexists(path)

    def is_folder(self, path: str) -> bool:
        """Whether ``path`` is a folder."""
        return os.path.isdir(path)

    def modified(self, path: str) -> float:
        """When a file was last changed, in seconds since the epoch."""
        return os.stat(path).st_mtime

    def touch(self, path: str, when_s: float | None = None) -> None:
        """Set a file's time of change to now, or to a time in seconds since the epoch."""
        os.utime(path, None if when_s is None else (when_s, when_s))

    def lock(self, path: str) -> int:
        """A descriptor that holds the exclusive lock of a file, made when missing, until closed.

        :raises BlockingIOError: another process holds it.
        """
        fd = self.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close(fd)
            raise
        return fd

    def free_bytes(self, path: str) -> int:
        """What an unprivileged writer can still put on the drive that holds ``path``."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def read_all(self, path: str, limit: int) -> bytes:
        """A whole file of at most ``limit`` bytes; more is not read."""
        fd = self.open(path, os.O_RDONLY)
        try:
            return self.pread(fd, limit, 0)
        finally:
            self.close(fd)

    def write_durably(self, path: str, data: bytes) -> None:
        """Put a small file in place, whole or not at all, and make it durable."""
        temporary = path + ".new"
        try:
            fd = self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                self.write(fd, [data])
                self.sync(fd)
            finally:
                self.close(fd)
            self.rename(temporary, path)
        except OSError:
            # What failed first is what the caller has to know.
            with suppress(OSError):
                self.unlink(temporary)
            raise
        self.sync_folder(os.path.dirname(path))
