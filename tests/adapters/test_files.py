"""dostore.adapters.files: the system calls do what their callers rely on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from dostore.adapters import files as files_module
from dostore.adapters.files import Files
from tests.support.cases import SyncTestCase

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL


class FilesCase(SyncTestCase):
    """A folder of the test's own."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.files = Files()

    def path(self, name: str) -> str:
        """The absolute path of a name in the folder."""
        return str(self.folder / name)

    def created(self, name: str) -> int:
        """A new open file, closed with the test."""
        fd = self.files.open(self.path(name), CREATE)
        self.addCleanup(os.close, fd)
        return fd

    def assert_errno(self, number: int, function: Callable[..., object], *args: object) -> None:
        """The call fails with that error of the system."""
        error = self.assertRaises(OSError, function, *args)
        self.assertEqual(error.errno, number)


class ReadWriteTests(FilesCase):
    """Descriptors: open, write, pread, size, sync, close."""

    def test_open(self) -> None:
        """A descriptor is closed on exec, and its file not for everybody."""
        fd = self.created("a")
        self.assertFalse(os.get_inheritable(fd))
        self.assertEqual(os.fstat(fd).st_mode & 0o007, 0)

    def test_missing(self) -> None:
        """Opening what is not there is the system's error."""
        self.assert_errno(errno.ENOENT, self.files.open, self.path("a"), os.O_RDONLY)

    def test_close(self) -> None:
        """A closed descriptor is closed."""
        fd = self.files.open(self.path("a"), CREATE)
        self.files.close(fd)
        self.assert_errno(errno.EBADF, os.fstat, fd)

    def test_write(self) -> None:
        """Pieces are appended in order, and their bytes counted."""
        fd = self.created("a")
        self.assertEqual(self.files.write(fd, [b"one ", memoryview(b"two ")]), 8)
        self.assertEqual(self.files.write(fd, []), 0)
        self.assertEqual(self.files.write(fd, [b""]), 0)
        self.assertEqual(self.files.write(fd, [b"three"]), 5)
        self.assertEqual(Path(self.path("a")).read_bytes(), b"one two three")
        self.assertEqual(self.files.size(fd), 13)
        self.assertEqual(self.files.path_size(self.path("a")), 13)

    def test_many_pieces(self) -> None:
        """More pieces than the system takes at once are written too."""
        pieces = [b"%d," % number for number in range(2 * os.sysconf("SC_IOV_MAX") + 1)]
        fd = self.created("a")
        self.assertEqual(self.files.write(fd, pieces), sum(map(len, pieces)))
        self.assertEqual(Path(self.path("a")).read_bytes(), b"".join(pieces))

    def test_short_writes(self) -> None:
        """When the system writes less than it was given, the rest follows."""
        fd = self.created("a")
        writev, write = os.writev, os.write

        def short_writev(fd: int, pieces: Sequence[bytes]) -> int:
            return writev(fd, [b"".join(pieces)[:5]])

        def short_write(fd: int, data: memoryview) -> int:
            return write(fd, data[:2])

        with (
            mock.patch.object(os, "writev", short_writev),
            mock.patch.object(os, "write", short_write),
        ):
            self.assertEqual(self.files.write(fd, [b"abc", memoryview(b"defgh"), b"ij"]), 10)
        self.assertEqual(Path(self.path("a")).read_bytes(), b"abcdefghij")

    def test_full_in_the_middle(self) -> None:
        """A drive that fills up in the middle of a write fails it."""
        fd = self.created("a")
        full = OSError(errno.ENOSPC, "full")
        with (
            mock.patch.object(os, "writev", return_value=3),
            mock.patch.object(os, "write", side_effect=full),
        ):
            self.assert_errno(errno.ENOSPC, self.files.write, fd, [b"abcdef"])

    def test_full(self) -> None:
        """The system's own full device fails a write."""
        fd = self.files.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, fd)
        self.assert_errno(errno.ENOSPC, self.files.write, fd, [b"a"])

    def test_pread(self) -> None:
        """A read gives the bytes asked for, fewer at the end, none after it."""
        fd = self.created("a")
        self.files.write(fd, [b"0123456789"])
        self.assertEqual(self.files.pread(fd, 4, 3), b"3456")
        self.assertEqual(self.files.pread(fd, 10, 0), b"0123456789")
        self.assertEqual(self.files.pread(fd, 100, 8), b"89")
        self.assertEqual(self.files.pread(fd, 1, 10), b"")
        self.assertEqual(self.files.pread(fd, 0, 0), b"")

    def test_short_reads(self) -> None:
        """When the system reads less than it was asked for, the rest follows."""
        fd = self.created("a")
        self.files.write(fd, [b"0123456789"])
        pread = os.pread

        def short_pread(fd: int, size: int, offset: int) -> bytes:
            return pread(fd, min(size, 3), offset)

        with mock.patch.object(os, "pread", short_pread):
            self.assertEqual(self.files.pread(fd, 8, 1), b"12345678")
            self.assertEqual(self.files.pread(fd, 100, 4), b"456789")

    def test_read_error(self) -> None:
        """An error in the middle of a read is raised, not taken for the end."""
        fd = self.created("a")
        results = [b"012", OSError(errno.EIO, "broken")]
        with mock.patch.object(os, "pread", side_effect=results):
            self.assert_errno(errno.EIO, self.files.pread, fd, 10, 0)

    def test_sync(self) -> None:
        """Files and folders can be synced; a failure is raised, for it means lost bytes."""
        fd = self.created("a")
        self.files.sync(fd)
        self.files.sync_folder(str(self.folder))
        self.assert_errno(errno.ENOENT, self.files.sync_folder, self.path("missing"))
        self.assert_errno(errno.ENOTDIR, self.files.sync_folder, self.path("a"))
        broken = OSError(errno.EIO, "broken")
        with mock.patch.object(os, "fdatasync", side_effect=broken):
            self.assert_errno(errno.EIO, self.files.sync, fd)
        before = set(os.listdir("/proc/self/fd"))
        with mock.patch.object(os, "fsync", side_effect=broken):
            self.assert_errno(errno.EIO, self.files.sync_folder, str(self.folder))
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)


class FolderTests(FilesCase):
    """Names: rename, unlink, list, and what is told of them."""

    def test_rename(self) -> None:
        """A rename replaces its target."""
        Path(self.path("a")).write_bytes(b"new")
        Path(self.path("b")).write_bytes(b"old")
        self.files.rename(self.path("a"), self.path("b"))
        self.assertEqual(self.files.list(str(self.folder)), ["b"])
        self.assertEqual(Path(self.path("b")).read_bytes(), b"new")

    def test_unlink(self) -> None:
        """A removed file is gone; removing it again is the system's error."""
        Path(self.path("a")).touch()
        self.files.unlink(self.path("a"))
        self.assertFalse(self.files.exists(self.path("a")))
        self.assert_errno(errno.ENOENT, self.files.unlink, self.path("a"))

    def test_make_folder(self) -> None:
        """A folder is made with its parents, and making it again is fine."""
        deep = self.path("a/b/c")
        self.files.make_folder(deep)
        self.files.make_folder(deep)
        self.assertTrue(self.files.is_folder(deep))
        self.assertEqual(os.stat(deep).st_mode & 0o007, 0)

    def test_exists(self) -> None:
        """A link to nowhere is something, for it is in the way; but it is no folder."""
        os.symlink("nowhere", self.path("link"))
        self.assertTrue(self.files.exists(self.path("link")))
        self.assertFalse(self.files.is_folder(self.path("link")))
        self.assertFalse(self.files.exists(self.path("a")))

    def test_identity(self) -> None:
        """A file is the same by descriptor, path and link, and another one in its place is not."""
        fd = self.created("a")
        identity = self.files.identity(fd)
        self.assertEqual(self.files.identity(self.path("a")), identity)
        os.link(self.path("a"), self.path("b"))
        self.assertEqual(self.files.identity(self.path("b")), identity)
        self.files.write_durably(self.path("a"), b"another")
        self.assertNotEqual(self.files.identity(self.path("a")), identity)
        self.assertEqual(self.files.identity(fd), identity)

    def test_touch(self) -> None:
        """Touching sets the time of change to now."""
        path = self.path("a")
        Path(path).touch()
        os.utime(path, (1000.5, 1000.5))
        self.assertEqual(self.files.modified(path), 1000.5)
        self.files.touch(path)
        self.assertGreater(self.files.modified(path), 1_600_000_000)

    def test_free_bytes(self) -> None:
        """Free space is counted in bytes, for one who is not root."""
        stat = mock.Mock(f_bavail=7, f_frsize=4096, f_bfree=100)
        with mock.patch.object(os, "statvfs", return_value=stat):
            self.assertEqual(self.files.free_bytes("/"), 28672)
        self.assertGreater(self.files.free_bytes(str(self.folder)), 0)

    def test_read_all(self) -> None:
        """A small file is read whole; of a large one no more than the limit."""
        Path(self.path("a")).write_bytes(b"0123456789")
        self.assertEqual(self.files.read_all(self.path("a"), 10), b"0123456789")
        self.assertEqual(self.files.read_all(self.path("a"), 4), b"0123")
        self.assert_errno(errno.ENOENT, self.files.read_all, self.path("b"), 4)


class ReadCachedTests(FilesCase):
    """read_cached."""

    def setUp(self) -> None:
        """A file of ten bytes, and a buffer for files of fewer than 16."""
        super().setUp()
        Path(self.path("a")).write_bytes(b"0123456789")
        self.buffer = bytearray(16)

    def read(self, name: str = "a") -> bytes | None:
        """Read it, and leave no descriptor open."""
        before = set(os.listdir("/proc/self/fd"))
        data = self.files.read_cached(self.path(name), self.buffer)
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)
        return data

    def on_any_kernel(self) -> None:
        """Have the two system calls work as on a kernel and file system that know them."""
        preadv = os.preadv

        def open_cached(path: str) -> int:
            return os.open(path, os.O_RDONLY)

        def preadv_cached(fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
            self.assertEqual(flags, os.RWF_NOWAIT)
            return preadv(fd, buffers, offset)

        self.patch(files_module, "_open_cached", open_cached)
        self.patch(os, "preadv", preadv_cached)

    def test_real(self) -> None:
        """On this machine, whatever it is, the file comes whole or not at all."""
        self.assertIn(self.read(), (b"0123456789", None))

    def test_missing(self) -> None:
        """A file that is not there is none, and no error."""
        self.assertIsNone(self.read("missing"))
        self.assertEqual(self.read_parts((0, (1,), 1), name="missing"), [])

    def test_whole(self) -> None:
        """What is in memory comes whole, and stays when the buffer is used again."""
        self.on_any_kernel()
        Path(self.path("b")).write_bytes(b"other")
        data = self.read()
        self.assertEqual((self.read("b"), data), (b"other", b"0123456789"))
        Path(self.path("empty")).touch()
        self.assertEqual(self.read("empty"), b"")

    def test_too_long(self) -> None:
        """A file that may be longer than the buffer is left to a thread."""
        self.on_any_kernel()
        Path(self.path("b")).write_bytes(bytes(16))
        self.assertIsNone(self.read("b"))

    def test_partly_in_memory(self) -> None:
        """A file of which only the beginning is in memory is left to a thread."""
        self.on_any_kernel()
        with mock.patch.object(os, "preadv", return_value=4):
            self.assertIsNone(self.read())

    def test_not_in_memory(self) -> None:
        """So is one that would have to be waited for, or whose file system cannot tell."""
        self.on_any_kernel()
        for number in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO):
            with mock.patch.object(os, "preadv", side_effect=OSError(number, "no")):
                self.assertIsNone(self.read())

    def read_parts(self, *parts: tuple[int, tuple[int, ...], int], name: str = "a") -> list[bytes]:
        """What parts of it were read to buffers of some sizes; nothing when they were not."""
        before = set(os.listdir("/proc/self/fd"))
        asked = [
            (offset, [memoryview(bytearray(size)) for size in sizes], total)
            for offset, sizes, total in parts
        ]
        fd = self.files.open_now(self.path(name))
        if fd < 0:
            return []
        done = self.files.read_parts_now(fd, asked)
        os.close(fd)
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)
        return [bytes(buffer) for _, buffers, _ in asked for buffer in buffers] if done else []

    def test_parts(self) -> None:
        """Each part comes to its buffers, or all are left to a thread."""
        self.on_any_kernel()
        self.assertEqual(self.read_parts((0, (2, 3), 5)), [b"01", b"234"])
        self.assertEqual(self.read_parts((1, (2,), 2), (8, (1, 2), 2)), [b"12", b"8", b"9\0"])
        self.assertEqual(self.read_parts((0, (2,), 2), (8, (1, 2), 3)), [])
        self.assertEqual(self.read_parts((0, (2, 3), 4)), [])

    def test_parts_not_in_memory(self) -> None:
        """A part that would have to be waited for leaves all to a thread."""
        self.on_any_kernel()
        preadv = os.preadv
        for number in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO):
            with mock.patch.object(os, "preadv", side_effect=[2, OSError(number, "no")]):
                self.assertEqual(self.read_parts((0, (2,), 2), (8, (2,), 2)), [])
        self.assertIs(os.preadv, preadv)

    def test_old_kernel(self) -> None:
        """A kernel that cannot open without waiting makes every file wait for a thread."""
        self.patch(files_module, "_syscall", lambda *_: -1)
        self.assertIsNone(self.read())


class LockTests(FilesCase):
    """lock."""

    def test_exclusive(self) -> None:
        """A file that is locked is not locked again until its descriptor is closed."""
        fd = self.files.lock(self.path("lock"))
        before = set(os.listdir("/proc/self/fd"))
        self.assertRaises(BlockingIOError, self.files.lock, self.path("lock"))
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)
        self.files.close(fd)
        self.files.close(self.files.lock(self.path("lock")))


class WriteDurablyTests(FilesCase):
    """write_durably."""

    def test_order(self) -> None:
        """The bytes are synced before the rename, and the folder after it."""
        calls: list[str] = []

        class Recorded(Files):
            """Notes what makes things durable."""

            def sync(self, fd: int) -> None:
                calls.append("sync")
                super().sync(fd)

            def rename(self, source: str, target: str) -> None:
                calls.append("rename")
                super().rename(source, target)

            def sync_folder(self, path: str) -> None:
                calls.append("sync folder " + os.path.basename(path))
                super().sync_folder(path)

        Recorded().write_durably(self.path("a"), b"new")
        self.assertEqual(calls, ["sync", "rename", "sync folder " + self.folder.name])
        self.assertEqual(Path(self.path("a")).read_bytes(), b"new")
        self.assertEqual(os.listdir(self.folder), ["a"])

    def test_replaces(self) -> None:
        """What was there is replaced, also over the remains of an earlier attempt."""
        Path(self.path("a")).write_bytes(b"old")
        Path(self.path("a.new")).write_bytes(b"the remains of a longer attempt")
        self.files.write_durably(self.path("a"), b"new")
        self.assertEqual(Path(self.path("a")).read_bytes(), b"new")
        self.assertEqual(os.listdir(self.folder), ["a"])

    def test_failure_leaves_the_old(self) -> None:
        """When it fails up to the rename, the old file stands and nothing is left behind."""
        Path(self.path("a")).write_bytes(b"old")
        broken = OSError(errno.EIO, "broken")
        before = set(os.listdir("/proc/self/fd"))
        for call in ("writev", "fdatasync", "rename"):
            with mock.patch.object(os, call, side_effect=broken):
                self.assert_errno(errno.EIO, self.files.write_durably, self.path("a"), b"new")
            self.assertEqual(Path(self.path("a")).read_bytes(), b"old")
            self.assertEqual(os.listdir(self.folder), ["a"])
        self.assertEqual(set(os.listdir("/proc/self/fd")), before)
