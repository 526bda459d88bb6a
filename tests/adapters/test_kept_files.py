"""dostore.adapters.kept_files: what is kept open is read as if it were opened each time."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from dostore.adapters.kept_files import KeptFiles
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.memory import keep_files_in_memory, opened


class KeptFilesTests(SyncTestCase):
    """Files of ten bytes, of which two are kept, on a machine that has all in memory."""

    def setUp(self) -> None:
        """Three files."""
        super().setUp()
        keep_files_in_memory(self)
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        for name in "abc":
            (self.folder / name).write_bytes(name.encode() * 10)
        self.files = FaultyFiles()
        self.kept = KeptFiles(self.files, 2)
        self.addCleanup(lambda: any(map(os.close, self.kept.take_all())))

    def read(self, name: str, size: int = 10) -> bytes | None:
        """What is read, of a kept file if it is; None when it cannot be."""
        buffer = memoryview(bytearray(size))
        parts = [(0, [buffer], size)]
        done = self.kept.read(name, parts)
        if done is None:
            done = self.kept.open(name, str(self.folder / name), parts)
        return bytes(buffer) if done else None

    def test_once(self) -> None:
        """It is opened once, and read as often as is wished."""
        self.assertEqual(opened(lambda: self.assertEqual(self.read("a"), b"a" * 10)), 1)
        self.assertEqual(opened(lambda: self.assertEqual(self.read("a"), b"a" * 10)), 0)

    def test_the_oldest_goes(self) -> None:
        """Those that were read last are kept, and all others closed."""
        before = len(os.listdir("/proc/self/fd"))
        for name in "abac":
            self.read(name)
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (2, before + 2))
        self.assertEqual(opened(lambda: (self.read("a"), self.read("c"))), 0)
        self.assertEqual(opened(lambda: self.read("b")), 1)

    def test_whatever_happens_to_it(self) -> None:
        """A file that was removed, moved, replaced or written to is opened by its path again."""
        path = self.folder / "a"
        for change, found in (
            (path.unlink, None),
            (lambda: path.rename(self.folder / "x"), None),
            (lambda: (self.folder / "b").rename(path), b"b" * 10),
            (lambda: path.write_bytes(b"other text"), b"other text"),
            (lambda: path.write_bytes(b"short"), None),
            (lambda: os.utime(path), b"a" * 10),
        ):
            path.write_bytes(b"a" * 10)
            self.assertEqual(self.read("a"), b"a" * 10)
            # The next change has another time than the last.
            os.utime(path, ns=(1, 1))
            self.assertEqual(self.read("a"), b"a" * 10)
            change()
            self.assertEqual(self.read("a"), found)

    def test_not_there(self) -> None:
        """What cannot be opened or read without a wait is not kept."""
        before = len(os.listdir("/proc/self/fd"))
        self.assertIsNone(self.read("none"))
        self.assertIsNone(self.read("a", 11))
        with mock.patch.object(os, "preadv", side_effect=BlockingIOError):
            self.assertIsNone(self.read("b"))
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (0, before))

    def test_none_is_kept(self) -> None:
        """Where none is to be kept, each is opened and closed, and so is one that shall not be."""
        before = len(os.listdir("/proc/self/fd"))
        buffer = memoryview(bytearray(10))
        self.assertTrue(
            self.kept.open("a", str(self.folder / "a"), [(0, [buffer], 10)], keep=False)
        )
        self.kept = KeptFiles(self.files, 0)
        self.assertEqual(self.read("a"), b"a" * 10)
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (0, before))

    def test_drop(self) -> None:
        """One that is dropped is closed; another need not be there."""
        before = len(os.listdir("/proc/self/fd"))
        self.read("a")
        self.kept.drop("a")
        self.kept.drop("b")
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (0, before))
