"""The file by which a drive tells what it is."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from dostore.adapters import drive_marker
from dostore.adapters.drive_marker import FILE_NAME, BadMarker, Found, Marker
from dostore.core.scheme import Scheme
from dostore.errors import ConfigError
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.properties import prove

MARKER = Marker("5eed", 3, 4, 2)


class MarkerTests(SyncTestCase):
    """What a marker says and what is refused."""

    def test_round_trip(self) -> None:
        """What is written is read."""
        self.assertEqual(Marker.from_bytes(MARKER.to_bytes(), "/d"), MARKER)

    @prove
    @given(
        st.binary(max_size=200)
        | st.recursive(
            st.none() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["format", "store", "drive", "x"]), inner, max_size=4
                )
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode())
    )
    @example(b'{"format": Infinity}')
    @example(b"[" * 60_000)
    @example(b"")
    def test_anything(self, data: bytes) -> None:
        """Whatever is in the file, the only error is ours, and it names the folder."""
        error = self.assertRaises((BadMarker, ConfigError), Marker.from_bytes, data, "/the/folder")
        self.assertIn("/the/folder", error.detail)

    def test_newer(self) -> None:
        """A newer format is told as such."""
        fields = json.loads(MARKER.to_bytes()) | {"format": drive_marker.FORMAT + 1}
        error = self.assertRaises(ConfigError, Marker.from_bytes, json.dumps(fields).encode(), "/d")
        self.assertIn("newer", error.detail)

    def test_require(self) -> None:
        """Another k + m and another store are refused, with the way out."""
        MARKER.require(None, Scheme(4, 2), "/d")
        MARKER.require("5eed", Scheme(4, 2, 4096), "/d")
        error = self.assertRaises(ConfigError, MARKER.require, None, Scheme(3, 3), "/d")
        self.assertIn("--data-shards 4 --parity-shards 2", error.detail)
        error = self.assertRaises(ConfigError, MARKER.require, "other", Scheme(4, 2), "/d")
        self.assertIn("another store", error.detail)


class NodeMarkerTests(SyncTestCase):
    """The marker of a data server's folder."""

    def test_round_trip(self) -> None:
        """It tells no number and no scheme, and is read as it was written."""
        marker = Marker.made("5eed", 1, None)
        self.assertTrue(marker.is_node)
        self.assertFalse(MARKER.is_node)
        self.assertEqual(Marker.from_bytes(marker.to_bytes(), "/d"), marker)
        self.assertEqual(
            json.loads(marker.to_bytes()), {"format": 1, "kind": "node", "store": "5eed"}
        )

    def test_require(self) -> None:
        """A data server's folder is no drive, a drive is no data server's, and nobody else's is."""
        marker = Marker.made("5eed", 1, None)
        marker.require(None, None, "/d")
        marker.require("5eed", None, "/d")
        error = self.assertRaises(ConfigError, marker.require, None, Scheme(4, 2), "/d")
        self.assertIn("is a data server's", error.detail)
        error = self.assertRaises(ConfigError, MARKER.require, None, None, "/d")
        self.assertIn("is a drive of a store on one machine", error.detail)
        error = self.assertRaises(ConfigError, marker.require, "other", None, "/d")
        self.assertIn("another store", error.detail)


class LookTests(SyncTestCase):
    """What a look at a folder finds."""

    def setUp(self) -> None:
        """A folder."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.files = FaultyFiles()

    def test_folders_made_beforehand(self) -> None:
        """Folders of our names are nothing, as long as they are empty folders."""
        for name in ("objects", "temp", "garbage"):
            (self.folder / name).mkdir()
            self.assertIs(self.look(), Found.EMPTY)
        (self.folder / "objects" / "file").write_bytes(b"")
        self.assertIs(self.look(), Found.UNMARKED)
        (self.folder / "objects" / "file").unlink()
        (self.folder / "temp").rmdir()
        (self.folder / "temp").write_bytes(b"")
        self.assertIs(self.look(), Found.STRANGE)

    def look(self) -> Marker | Found:
        """Look at it."""
        return drive_marker.look(str(self.folder), self.files)

    def test_kinds(self) -> None:
        """A drive, an empty folder, somebody's folder, and none."""
        self.assertIs(self.look(), Found.EMPTY)
        (self.folder / "lost+found").mkdir()
        self.assertIs(self.look(), Found.EMPTY)
        (self.folder / "letters").mkdir()
        self.assertIs(self.look(), Found.STRANGE)
        drive_marker.write(str(self.folder), MARKER, self.files)
        self.assertEqual(self.look(), MARKER)
        self.folder.rename(f"{self.folder}.gone")
        self.assertIs(self.look(), Found.GONE)
        self.folder.write_text("a file")
        self.assertIs(self.look(), Found.GONE)

    def test_crash_while_it_is_made(self) -> None:
        """What a crash leaves at each step of making a drive is taken up by the next start."""
        os.close(drive_marker.lock(str(self.folder), self.files))
        self.assertIs(self.look(), Found.EMPTY)
        for operation in ("write", "sync", "rename"):
            self.files.fail(str(self.folder), errno.EIO, operations={operation, "unlink"})
            self.assertRaises(OSError, drive_marker.write, str(self.folder), MARKER, self.files)
            self.files.lift_all()
            self.assertTrue((self.folder / f"{FILE_NAME}.new").exists())
            self.assertIs(self.look(), Found.EMPTY)

    def test_failing(self) -> None:
        """A drive that fails is neither empty nor gone."""
        self.files.fail(str(self.folder), errno.EIO)
        self.assertRaises(OSError, self.look)

    def test_lock(self) -> None:
        """A second lock is refused until the first is given back, within a process too."""
        first = drive_marker.lock(str(self.folder), self.files)
        error = self.assertRaises(ConfigError, drive_marker.lock, str(self.folder), self.files)
        self.assertIn("in use", error.detail)
        os.close(first)
        os.close(drive_marker.lock(str(self.folder), self.files))
