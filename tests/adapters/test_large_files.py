"""Large files past the system's cache: every byte is right, wherever a file begins and ends."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from dostore.adapters.files import Files
from dostore.adapters.large_files import (
    ALIGNMENT,
    BUFFER_BYTES,
    CACHED_FILE_BYTES,
    DIRECT_READ_BYTES,
    DIRECT_WRITE_BYTES,
    Buffers,
    LargeReads,
    LargeWrites,
    Lately,
)
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles


class WatchedFiles(Files):
    """Files that count what goes past the cache.

    :ivar refusal: the errno that going past it fails with; 0: it does not.
    :ivar refused_writes: that of reads and writes that go past it; 0: they do not fail.
    :ivar direct: the descriptors that go past it now.
    :ivar told: what the system said of whether parts of files are cached.
    """

    def __init__(self) -> None:
        self.refusal = 0
        self.refused_writes = 0
        self.direct: set[int] = set()
        self.told: list[bool] = []
        self.direct_writes = self.direct_reads = 0

    def is_cached(self, fd: int, size: int, offset: int) -> bool:
        """See Files."""
        self.told.append(super().is_cached(fd, size, offset))
        return self.told[-1]

    def set_direct(self, fd: int, direct: bool) -> None:
        """See Files."""
        if direct and self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        super().set_direct(fd, direct)
        if direct:
            self.direct.add(fd)
        else:
            self.direct.discard(fd)

    def write(self, fd: int, pieces: list[bytes | memoryview]) -> int:  # type: ignore[override]
        """See Files."""
        if fd in self.direct:
            if self.refused_writes:
                raise OSError(self.refused_writes, os.strerror(self.refused_writes))
            self.direct_writes += 1
        return super().write(fd, pieces)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """See Files."""
        if fd in self.direct:
            if self.refused_writes:
                raise OSError(self.refused_writes, os.strerror(self.refused_writes))
            self.direct_reads += 1
        return super().read_into(fd, buffer, offset)


class LargeTestCase(SyncTestCase):
    """A file in a folder of its own, and buffers of its own."""

    def setUp(self) -> None:
        """Make the folder."""
        super().setUp()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.path = folder / "file"
        self.files = WatchedFiles()
        self.buffers = Buffers()
        self.random = random.Random(11)

    def forget_cache(self) -> None:
        """Have the system drop what it remembers of the file."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


class LargeWritesTests(LargeTestCase):
    """Pieces to files."""

    def write(self, pieces: list[bytes | memoryview], at_a_time: int = 3) -> bytes:
        """Write the pieces; what the file holds."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            large = LargeWrites(self.files, self.buffers)
            for start in range(0, len(pieces), at_a_time):
                large.write(fd, pieces[start : start + at_a_time])
            large.flush(fd)
        finally:
            self.files.direct.discard(fd)
            os.close(fd)
        return self.path.read_bytes()

    def pieces(self, sizes: list[int]) -> list[bytes | memoryview]:
        """Random pieces of these sizes."""
        return [self.random.randbytes(size) for size in sizes]

    def test_all_sizes(self) -> None:
        """Whatever the pieces' sizes and their sum, the file is the pieces, one after the other."""
        for total in (
            0,
            1,
            ALIGNMENT,
            DIRECT_WRITE_BYTES - 1,
            DIRECT_WRITE_BYTES,
            DIRECT_WRITE_BYTES + 1,
            BUFFER_BYTES - 1,
            BUFFER_BYTES,
            BUFFER_BYTES + 1,
            5 * BUFFER_BYTES + 4097,
        ):
            for piece in (65536, 50_001, 1_000_003, BUFFER_BYTES + 4095, 1000):
                sizes = [piece] * (total // piece) + [total % piece]
                pieces = self.pieces(sizes)
                self.assertTrue(self.write(pieces) == b"".join(pieces), f"{total} by {piece}")

    def test_direct_and_back(self) -> None:
        """What comes is written directly, in one go, and the end through the cache."""
        pieces = self.pieces([65536] * 200 + [10])
        self.assertEqual(self.write(pieces), b"".join(pieces))
        self.assertEqual(self.files.direct_writes, 67)
        self.assertEqual(self.files.direct, set())

    def test_little_is_cached(self) -> None:
        """What comes in little pieces is not written directly, but what comes between them is."""
        little, much = [DIRECT_WRITE_BYTES // 4 - 1] * 3, [65536] * 3
        self.write(self.pieces(little * 9))
        self.assertEqual(self.files.direct_writes, 0)
        pieces = self.pieces((little + much + much + little) * 5 + little)
        self.assertEqual(self.write(pieces), b"".join(pieces))
        self.assertEqual(self.files.direct_writes, 10)

    def test_no_buffer_is_held(self) -> None:
        """However many files are being written, buffers are needed only for the calls under way."""
        buffer = self.buffers.take()
        self.buffers.give_back(buffer)
        self.write(self.pieces([100_001] * 7))
        self.assertIs(self.buffers.take(), buffer)

    def test_refused(self) -> None:
        """A file system that cannot, or can but does not, is written to through the cache."""
        for self.files.refusal, self.files.refused_writes in (
            (errno.EINVAL, 0),
            (errno.EOPNOTSUPP, 0),
            (0, errno.EINVAL),
        ):
            pieces = self.pieces([50_001] * 200)
            self.assertEqual(self.write(pieces), b"".join(pieces))

    def test_other_errors(self) -> None:
        """Any other error comes out, and another attempt is not made."""
        self.files.refused_writes = errno.EIO
        with self.assertRaises(OSError) as caught:
            self.write(self.pieces([65536] * 200))
        self.assertEqual(caught.exception.errno, errno.EIO)

    def test_full_drive(self) -> None:
        """ENOSPC of a direct write is one of the write."""
        files = FaultyFiles()
        files.fail(str(self.path.parent), errno.ENOSPC, operations={"write"}, after=20)
        fd = files.open(str(self.path), os.O_WRONLY | os.O_CREAT)
        large = LargeWrites(files, self.buffers)
        with self.assertRaises(OSError) as caught:
            for piece in self.pieces([65536] * 2000):
                large.write(fd, [piece])
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        files.close(fd)

    def test_buffers_are_used_again(self) -> None:
        """A buffer that was given back is the next one taken."""
        first = self.buffers.take()
        second = self.buffers.take()
        self.assertIsNot(first, second)
        self.buffers.give_back(first)
        self.assertIs(self.buffers.take(), first)

    def test_what_is_lent_comes_back(self) -> None:
        """A buffer is not used again while anybody has a part of it, and then it is."""
        part = self.buffers.lend()[5:10]
        part[:] = b"bytes"
        self.buffers.lend()[5:10] = b"other"
        self.assertEqual(part, b"bytes")
        free = len(self.buffers._free)
        del part
        self.assertEqual(len(self.buffers._free), free + 1)


class LargeReadsTests(LargeTestCase):
    """Files to bytes."""

    def setUp(self) -> None:
        """Have a file that ends at no multiple of anything."""
        super().setUp()
        self.data = self.random.randbytes(CACHED_FILE_BYTES + 3 * BUFFER_BYTES + 12_345)
        self.path.write_bytes(self.data)
        self.fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)
        self.lately = Lately(1)
        self.reads = self.open()

    def open(self) -> LargeReads:
        """Reads of the file."""
        return LargeReads(self.files, self.fd, len(self.data), self.buffers, self.lately)

    def check(self, size: int, offset: int) -> None:
        """A read gives what slicing gives."""
        got = self.reads.read(size, offset)
        self.assertTrue(got == self.data[offset : offset + size], f"{size} at {offset}")

    def check_all(self) -> None:
        """Reads of many sizes at many places."""
        end = len(self.data)
        for offset in (0, 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 4097, end - 200_000, end):
            for size in (1, 4096, DIRECT_READ_BYTES, 4 * 65536, 262_145, 1_000_003, 20 * 65536):
                self.check(size, offset)
        for _ in range(50):
            self.check(self.random.randrange(1, 1_500_000), self.random.randrange(end))

    def test_cached(self) -> None:
        """What is in memory is taken from there."""
        self.check_all()
        # The system may say of what is there that it is not, if it moves it at that moment.
        self.assertEqual(self.files.direct_reads > 0, not all(self.files.told))
        self.assertTrue(self.files.told)

    def test_not_cached(self) -> None:
        """What is not is read from the drive, past the cache, which stays as it was."""
        self.forget_cache()
        self.check(4 * 65536, 65536)
        self.assertGreater(self.files.direct_reads, 0)
        self.assertFalse(self.files.is_cached(self.fd, 1, 65536))
        self.assertFalse(self.files.is_cached(self.fd, 1, 6 * 65536))
        self.check_all()

    def test_read_again(self) -> None:
        """Who comes back soon has it read through the cache; not so if others came between."""
        other = self.path.with_name("other")
        other.touch()
        for between, direct in ((False, False), (True, True)):
            self.lately = Lately(1)
            self.forget_cache()
            self.reads = self.open()
            self.check(8 * 65536, 0)
            if between:
                with other.open("rb") as file:
                    self.lately.again(file.fileno())
            self.files.direct.clear()
            self.files.set_direct(self.fd, False)
            self.files.direct_reads = 0
            self.reads = self.open()
            self.check_all()
            self.assertEqual(self.files.direct_reads > 0, direct)

    def test_little_is_read_through_the_cache(self) -> None:
        """Small reads, and those of files that are not large."""
        self.forget_cache()
        self.check(DIRECT_READ_BYTES - 1, len(self.data) // 2)
        small = LargeReads(self.files, self.fd, CACHED_FILE_BYTES, self.buffers)
        self.assertEqual(small.read(4 * 65536, 0), self.data[: 4 * 65536])
        self.assertEqual(self.files.direct_reads, 0)

    def test_refused(self) -> None:
        """A file system that cannot, or can but does not, is read through the cache."""
        for self.files.refusal, self.files.refused_writes in (
            (errno.EINVAL, 0),
            (0, errno.EINVAL),
        ):
            self.lately = Lately()
            self.reads = self.open()
            self.forget_cache()
            self.check_all()
            self.assertEqual(self.files.direct, set())

    def test_other_errors(self) -> None:
        """EIO comes out."""
        self.forget_cache()
        self.files.refused_writes = errno.EIO
        with self.assertRaises(OSError) as caught:
            self.reads.read(4 * 65536, 65536)
        self.assertEqual(caught.exception.errno, errno.EIO)
