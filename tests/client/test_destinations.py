"""Where objects are written, and where they never are, whatever a server says."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dostore.client.destinations import (
    PART_SUFFIX,
    FileSink,
    Place,
    StreamSink,
    Target,
    relative_parts,
)
from dostore.client.failures import LocalTrouble, ReaderGone
from dostore.core.names import ContentHash
from tests.support.client import ClientTestCase


class PartsTests(ClientTestCase):
    """Names as paths below a folder."""

    def test_below_the_prefix(self) -> None:
        """What all names share, up to a slash, is left out."""
        for name, prefix, expected in (
            ("a/b/c", "a/b/", ("c",)),
            ("a/b/c", "a/b", ("b", "c")),
            ("a/bee/c", "a/b", ("bee", "c")),
            ("a/b/c", "", ("a", "b", "c")),
            ("a", "a", ("a",)),
            ("...", "", ("...",)),
            ("a\\..\\b", "", ("a\\..\\b",)),
            ("é/日本", "", ("é", "日本")),
        ):
            self.assertEqual(relative_parts(name, prefix), expected)

    def test_ways_out(self) -> None:
        """What could lead out of the folder, or has no file, is refused."""
        for name, prefix in (
            ("../a", ""),
            ("a/../../b", ""),
            ("a/..", ""),
            ("..", ""),
            (".", ""),
            ("a/./b", ""),
            ("/etc/passwd", ""),
            ("//a", ""),
            ("a//b", ""),
            ("a/", ""),
            ("a/b/", "a/b/"),
            ("a/b/../c", "a/b/"),
            ("a\0b", ""),
            ("x" * 256, ""),
            ("é" * 125, ""),
            ("a" + PART_SUFFIX, ""),
        ):
            error = self.assertRaises(LocalTrouble, relative_parts, name, prefix)
            self.assertIn("--to FILE", error.detail)

    @given(st.text(min_size=1), st.integers(0, 10))
    def test_anything(self, name: str, length: int) -> None:
        """Whatever the name and the prefix: a path below the folder, or an error."""
        try:
            parts = relative_parts(name, name[:length])
        except (LocalTrouble, UnicodeEncodeError):
            return
        path = os.path.normpath(os.path.join("/target", *parts))
        self.assertTrue(path.startswith("/target/"), path)
        self.assertEqual(len(Path(path).parts), 2 + len(parts))


class TargetTests(ClientTestCase):
    """Files below a folder."""

    def setUp(self) -> None:
        """A folder, and one that is none of the client's business."""
        super().setUp()
        self.outside = self.folder / "outside"
        self.outside.mkdir()
        self.target = Target(str(self.folder / "new" / "target"))
        self.addCleanup(self.target.close)
        self.inside = self.folder / "new" / "target"

    def place(self, *parts: str) -> Place:
        """A place, until the end of the test."""
        place = self.target.place(parts)
        self.addCleanup(place.close)
        return place

    def write(self, place: Place, data: bytes) -> None:
        """Write a file."""
        sink = self.finish(FileSink.open(place, self.workers))
        self.finish(sink.write(data))
        self.finish(sink.finish())
        sink.close()

    def test_written(self) -> None:
        """Folders are made, and the file is there from one moment to the next."""
        place = self.place("a", "b", "c")
        self.assertEqual(place.path, str(self.inside / "a/b/c"))
        self.assertIsNone(place.size())
        sink = self.finish(FileSink.open(place, self.workers))
        self.finish(sink.write(b"12"))
        self.finish(sink.write(b"345"))
        self.assertEqual(os.listdir(self.inside / "a/b"), ["c" + PART_SUFFIX])
        self.finish(sink.finish())
        sink.close()
        sink.close()
        self.assertEqual((self.inside / "a/b/c").read_bytes(), b"12345")
        self.assertEqual(os.listdir(self.inside / "a/b"), ["c"])
        self.assertEqual(place.size(), 5)
        self.assertEqual(place.hash(), ContentHash(hashlib.sha256(b"12345").digest()))
        self.write(place, b"6")
        self.assertEqual((self.inside / "a/b/c").read_bytes(), b"6")

    def test_links_on_the_way(self) -> None:
        """No link below the folder is followed, wherever it is on the way."""
        os.symlink(self.outside, self.inside / "link")
        (self.inside / "a").mkdir()
        os.symlink("../../../outside", self.inside / "a" / "link")
        for parts in (("link", "x"), ("a", "link", "x"), ("link", "y", "x")):
            error = self.assertRaises(LocalTrouble, self.place, *parts)
            self.assertIn("is a file or a link", error.detail)
        self.assertEqual(os.listdir(self.outside), [])

    def test_links_in_its_place(self) -> None:
        """A link where the file or its part would be is not written through."""
        victim = self.outside / "victim"
        victim.write_bytes(b"mine")
        os.symlink(victim, self.inside / "x")
        os.symlink(victim, self.inside / ("y" + PART_SUFFIX))
        os.link(victim, self.inside / ("z" + PART_SUFFIX))
        self.assertRaises(LocalTrouble, self.place("x").size)
        for name in "yz":
            self.assertRaises(LocalTrouble, self.place(name).open_part)
        self.assertEqual(victim.read_bytes(), b"mine")

    def test_file_and_folder(self) -> None:
        """Where a name is a file it can be no folder, and the other way round."""
        self.write(self.place("a"), b"x")
        error = self.assertRaises(LocalTrouble, self.place, "a", "b")
        self.assertIn("a is a file or a link", error.detail)
        self.write(self.place("c", "d"), b"x")
        error = self.assertRaises(LocalTrouble, self.place("c").size)
        self.assertIn("is a folder, and cannot be a file too", error.detail)

    def test_no_regular_file(self) -> None:
        """Nothing is written into a pipe that is where the file would be."""
        os.mkfifo(self.inside / "x")
        os.mkfifo(self.inside / ("y" + PART_SUFFIX))
        self.assertRaises(LocalTrouble, self.place("x").size)
        self.assertRaises(LocalTrouble, self.place("y").open_part)

    def test_one_at_a_time(self) -> None:
        """Two processes cannot write one file at the same time."""
        descriptor = self.place("a").open_part()
        error = self.assertRaises(LocalTrouble, self.place("a").open_part)
        self.assertIn("another dostore", error.detail)
        os.close(descriptor)
        os.close(self.place("a").open_part())

    def test_folders_that_cannot_be(self) -> None:
        """What the system refuses is told."""
        self.file("file", b"")
        error = self.assertRaises(LocalTrouble, Target, str(self.folder / "file" / "x"))
        self.assertIn("Not a directory", error.detail)
        error = self.assertRaises(LocalTrouble, Place.of, str(self.folder / "none" / "x"))
        self.assertIn("No such file or directory", error.detail)
        self.assertRaises(LocalTrouble, Place.of, str(self.folder / ("x" * 250)))

    def test_named_by_the_user(self) -> None:
        """A link that the user names is followed: what it leads to is written."""
        (self.outside / "real").write_bytes(b"old")
        os.symlink(self.outside / "real", self.folder / "link")
        place = Place.of(str(self.folder / "link"))
        self.addCleanup(place.close)
        self.write(place, b"new")
        self.assertTrue((self.folder / "link").is_symlink())
        self.assertEqual((self.outside / "real").read_bytes(), b"new")
        self.assertEqual(place.title, str(self.folder / "link"))

    def test_rights(self) -> None:
        """A new file has the rights that any other would have."""
        before = os.umask(0o027)
        self.addCleanup(os.umask, before)
        self.write(self.place("a"), b"x")
        self.assertEqual(stat.S_IMODE((self.inside / "a").stat().st_mode), 0o640)


class SinkTests(ClientTestCase):
    """Writing a file that may be there in part."""

    def sink(self) -> FileSink:
        """A sink for a file."""
        place = Place.of(str(self.folder / "f"))
        self.addCleanup(place.close)
        sink = self.finish(FileSink.open(place, self.workers))
        self.addCleanup(sink.close)
        return sink

    def test_resume(self) -> None:
        """What is there counts, but for the last byte: the server shall say what it has."""
        for there, size, held in (
            (b"", 5, 0),
            (b"123", 5, 3),
            (b"12345", 5, 4),
            (b"1234567", 5, 4),
        ):
            self.file("f" + PART_SUFFIX, there)
            sink = self.sink()
            self.assertEqual(sink.left, len(there))
            self.finish(sink.resume(size))
            self.assertEqual(sink.held, held)
            self.finish(sink.write(b"12345"[held:]))
            self.assertEqual(sink.hash(), ContentHash(hashlib.sha256(b"12345").digest()))
            self.finish(sink.finish())
            sink.close()
            self.assertEqual((self.folder / "f").read_bytes(), b"12345")

    def test_restart(self) -> None:
        """What was there is gone, from the file and from the hash."""
        self.file("f" + PART_SUFFIX, b"old")
        sink = self.sink()
        self.finish(sink.resume(10))
        self.finish(sink.restart())
        self.finish(sink.write(b"new"))
        self.assertEqual(sink.hash(), ContentHash(hashlib.sha256(b"new").digest()))
        self.finish(sink.discard())
        self.finish(sink.discard())
        self.assertEqual(os.listdir(self.folder), [])

    def test_full(self) -> None:
        """A disk that is full is told."""
        sink = self.sink()
        sink.close()
        error = self.assertRaises(LocalTrouble, self.finish, sink.write(b"x"))
        self.assertIn("f cannot be written: Bad file descriptor.", error.detail)

    def test_streams(self) -> None:
        """What goes into a pipe is hashed; when nobody reads it that is told."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        sink = StreamSink(writing, "Standard output", self.workers)
        self.finish(sink.restart())
        self.finish(sink.write(b"123"))
        self.finish(sink.finish())
        self.assertEqual(sink.held, 3)
        self.assertEqual(os.read(reading, 10), b"123")
        os.close(reading)
        self.assertRaises(ReaderGone, self.finish, sink.write(b"4"))
        self.assertEqual(sink.hash(), ContentHash(hashlib.sha256(b"123").digest()))
        self.finish(sink.discard())
        sink.close()
        full = os.open("/dev/full", os.O_WRONLY)
        self.addCleanup(os.close, full)
        error = self.assertRaises(
            LocalTrouble, self.finish, StreamSink(full, "It", self.workers).write(b"x")
        )
        self.assertEqual(error.detail, "It cannot be written: No space left on device.")
