"""Files that are put: which they are, and what their objects are called."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from dostore.client.failures import LocalTrouble
from dostore.client.sources import (
    BLOCK_BYTES,
    Passed,
    Source,
    SourceFile,
    check_apart,
    measure,
    walk,
    walk_one,
)
from dostore.core.names import ContentHash
from dostore.errors import ConfigError
from tests.support.client import ClientTestCase


class WalkTests(ClientTestCase):
    """Files and folders."""

    def setUp(self) -> None:
        """Some files."""
        super().setUp()
        for name in ("f/a", "f/b/c", "f/b/d/e", "f/Z", "g"):
            self.file(name, name.encode())
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)

    def names(self, *paths: str, prefix: str = "") -> list[tuple[str, str]]:
        """Path and name of each file found; nothing else is."""
        found = []
        for item in walk(paths, prefix):
            assert isinstance(item, Source), item
            found.append((item.path, item.name))
        return found

    def passed(self, items: Iterable[Source | Passed]) -> list[Passed]:
        """What is not put."""
        return [item for item in items if isinstance(item, Passed)]

    def test_files(self) -> None:
        """A file's object is called as it is, without the folders that it is in."""
        self.assertEqual(self.names("g", "f/b/c"), [("g", "g"), ("f/b/c", "c")])
        self.assertEqual(self.names(str(self.folder / "g"))[0][1], "g")
        self.assertEqual(self.names("g", prefix="p/q/"), [("g", "p/q/g")])
        self.assertEqual(list(walk_one("g", "other")), [Source("g", "other")])

    def test_folders(self) -> None:
        """A folder is put with its own name, in the order of names' bytes."""
        names = ["f/Z", "f/a", "f/b/c", "f/b/d/e"]
        self.assertEqual([name for _, name in self.names("f")], names)
        self.assertEqual([name for _, name in self.names("./f/")], names)
        self.assertEqual([name for _, name in self.names("f/../f//")], names)
        self.assertEqual([name for _, name in self.names("f/b", prefix="x/")], ["x/b/c", "x/b/d/e"])

    def test_the_folder_one_is_in(self) -> None:
        """A folder without a name of its own gives none."""
        os.chdir("f/b")
        for path in (".", "./", "../b/../b/.", "../../f/b/.."):
            self.assertNotIn("/.", "".join(name for _, name in self.names(path)))
        self.assertEqual([name for _, name in self.names(".")], ["c", "d/e"])
        self.assertEqual([name for _, name in self.names("..")], ["Z", "a", "b/c", "b/d/e"])

    def test_links(self) -> None:
        """Links to files are followed, those to folders only when they are named."""
        os.symlink("../g", "f/link")
        os.symlink("b", "f/folder")
        os.symlink("nowhere", "f/broken")
        os.symlink("f", "whole")
        items = list(walk(["f"], ""))
        self.assertIn(Source("f/link", "f/link"), items)
        self.assertEqual(
            [(item.path, item.error) for item in self.passed(items)],
            [("f/broken", None), ("f/folder", None)],
        )
        self.assertIn(
            "whole/b/c", [item.name for item in walk(["whole"], "") if isinstance(item, Source)]
        )

    def test_no_files(self) -> None:
        """What is no file is passed over below a folder, and an error where it is named."""
        os.mkfifo("f/pipe")
        # A socket's path may not be long.
        os.chdir("f")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
        os.chdir("..")
        self.assertEqual(
            [(item.path, item.error) for item in self.passed(walk(["f"], ""))],
            [("f/pipe", None), ("f/socket", None)],
        )
        (item,) = walk(["f/pipe"], "")
        assert isinstance(item, Passed)
        self.assertIsInstance(item.error, LocalTrouble)
        self.assertIn("dostore put -", str(item.error))

    def test_not_there(self) -> None:
        """What is not there is told, and the rest is found."""
        items = list(walk(["none", "g"], ""))
        self.assertEqual(items[1:], [Source("g", "g")])
        assert isinstance(items[0], Passed)
        self.assertEqual(str(items[0].error), "none cannot be read: No such file or directory.")

    def test_names_that_cannot_be(self) -> None:
        """A file whose name cannot be an object's is told, and the rest is found."""
        for name in (b"f/\xff", b"f/new\nline", b"f/\x1b[31m"):
            Path(os.fsdecode(name)).write_bytes(b"")
        items = list(walk(["f"], ""))
        self.assertEqual(len([item for item in items if isinstance(item, Source)]), 4)
        errors = [str(item.error) for item in self.passed(items)]
        self.assertEqual(len(errors), 3)
        for error in errors:
            self.assertIn("--to NAME", error)
        long = [item for item in walk(["f"], "x" * 1022 + "/") if isinstance(item, Source)]
        self.assertEqual(long, [])

    def test_apart(self) -> None:
        """Two files that would be one object are refused."""
        self.file("h/c", b"")
        check_apart(["f/b/c", "g", "f"])
        error = self.assertRaises(ConfigError, check_apart, ["f/b/c", "g", "h/c"])
        self.assertIn("f/b/c and h/c", error.detail)

    def test_measure(self) -> None:
        """Files and bytes are counted."""
        counts: list[tuple[int, int]] = []
        measure(["f", "g", "none"], lambda files, size: counts.append((files, size)))
        self.assertEqual(counts, [(5, 3 + 5 + 7 + 3 + 1)])


class FileTests(ClientTestCase):
    """Reading a file."""

    def open(self, path: str) -> SourceFile:
        """Open a file until the end of the test."""
        file = self.finish(SourceFile.open(path, self.workers))
        self.addCleanup(file.close)
        return file

    def test_hash(self) -> None:
        """The hash of all bytes, told on the way how far it is."""
        data = os.urandom(BLOCK_BYTES * 17 + 1)
        file = self.open(self.file("a", data))
        seen: list[int] = []
        found = self.finish(file.hash(seen.append))
        self.assertEqual(found, ContentHash(hashlib.sha256(data).digest()))
        self.assertEqual(seen, [BLOCK_BYTES * 16, len(data)])
        self.assertEqual(self.finish(file.read(BLOCK_BYTES, 7)), data[BLOCK_BYTES:][:7])
        self.assertEqual(self.finish(file.read(len(data))), b"")

    def test_changes(self) -> None:
        """A file that is not what it was is told."""
        path = self.file("a", b"12345")
        file = self.open(path)
        self.finish(file.check_same())
        self.assertEqual(self.finish(file.read_whole())[0], b"12345")
        for change in (b"1234", b"123456"):
            self.file("a", change)
            self.assertRaises(LocalTrouble, self.finish, file.read_whole())
            self.assertRaises(LocalTrouble, self.finish, file.check_same())

    def test_what_cannot_be_read(self) -> None:
        """A folder, or what fails while it is read."""
        self.assertRaises(LocalTrouble, self.open, str(self.folder))
        file = self.open(self.file("a", b"x"))
        file.close()
        file.close()
        self.assertRaises(LocalTrouble, self.finish, file.read(0))
