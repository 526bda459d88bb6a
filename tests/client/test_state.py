"""What is kept between two runs of the command."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attrs import evolve

from dostore.client.sources import Identity
from dostore.client.state import Fetching, Kept, Sending, state_folder
from tests.support.client import ClientTestCase

HASH = "2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="
SENDING = Sending("n", "/f", 5, 10**18, 77, HASH, "/temp/abc-_9", "[]")
FETCHING = Fetching("n", "/f", 3, 5, HASH)


class StateTests(ClientTestCase):
    """Files in a folder."""

    def setUp(self) -> None:
        """See ClientTestCase."""
        super().setUp()
        self.kept = Kept(self.folder / "state", lambda: 1e9)

    def test_where(self) -> None:
        """As the XDG Base Directory Specification has it."""
        self.assertEqual(state_folder({"XDG_STATE_HOME": "/s", "HOME": "/h"}), Path("/s/dostore"))
        for given in ("", "relative"):
            self.assertEqual(
                state_folder({"XDG_STATE_HOME": given, "HOME": "/h"}),
                Path("/h/.local/state/dostore"),
            )
        self.assertIsNone(state_folder({"HOME": ""}))

    def test_kept_and_dropped(self) -> None:
        """What was kept comes back until it is dropped, each for itself."""
        self.kept.keep_sending(SENDING)
        self.kept.keep_fetching(FETCHING)
        self.assertEqual(self.kept.sending("n", "/f"), SENDING)
        self.assertEqual(self.kept.fetching("/f"), FETCHING)
        self.assertEqual(SENDING.identity, Identity(5, 10**18, 77))
        self.assertEqual(str(FETCHING.content_hash), HASH)
        for name, path in (("n", "/g"), ("m", "/f")):
            self.assertIsNone(self.kept.sending(name, path))
        self.assertIsNone(self.kept.fetching("/g"))
        self.kept.drop_sending("n", "/f")
        self.assertIsNone(self.kept.sending("n", "/f"))
        self.assertEqual(self.kept.fetching("/f"), FETCHING)
        self.kept.drop_fetching("/f")
        self.kept.drop_fetching("/f")
        self.assertEqual(self.state_files(), [])

    def test_private(self) -> None:
        """Nobody else can read it: who has the path of an upload can send to it."""
        os.umask(os.umask(0o000))
        self.kept.keep_sending(SENDING)
        (file,) = (self.folder / "state").iterdir()
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        self.assertEqual(file.parent.stat().st_mode & 0o077, 0)

    def test_strange_paths(self) -> None:
        """A file's name need not be text."""
        sending = evolve(SENDING, path="/\udcff\n")
        self.kept.keep_sending(sending)
        self.assertEqual(self.kept.sending("n", "/\udcff\n"), sending)

    def test_damaged(self) -> None:
        """What cannot have been kept is as if it were not there."""
        self.kept.keep_sending(SENDING)
        (file,) = (self.folder / "state").iterdir()
        good = json.loads(file.read_text())
        for change in (
            {"format": 2},
            {"name": "m"},
            {"path": 5},
            {"size": -1},
            {"size": "5"},
            {"mtime_ns": None},
            {"inode": True},
            {"hash": "x"},
            {"hash": 5},
            {"upload": "/objects/a"},
            {"upload": "/temp/"},
            {"upload": "/temp/a b"},
            {"upload": "/temp/../objects/a"},
            {"upload": "/temp/" + "a" * 5000},
            {"upload": 5},
            {"more": 1},
        ):
            file.write_text(json.dumps({**good, **change}))
            self.assertIsNone(self.kept.sending("n", "/f"), change)
        for text in ("", "{", "[]", "7", "[" * 10**5, '"' + "x" * 10**5 + '"'):
            file.write_text(text)
            self.assertIsNone(self.kept.sending("n", "/f"))
        file.write_text(json.dumps(good))
        self.assertEqual(self.kept.sending("n", "/f"), SENDING)

    def test_damaged_downloads(self) -> None:
        """The same for what is being got."""
        self.kept.keep_fetching(FETCHING)
        (file,) = (self.folder / "state").iterdir()
        good = json.loads(file.read_text())
        for change in ({"path": "/g"}, {"name": 5}, {"version": "1"}, {"size": None}, {"hash": ""}):
            file.write_text(json.dumps({**good, **change}))
            self.assertIsNone(self.kept.fetching("/f"), change)

    def test_nowhere(self) -> None:
        """Where nothing can be kept, that is told, and nothing else happens."""
        kept = Kept(None, lambda: 1e9)
        self.assertIn("HOME", kept.trouble)
        kept.keep_sending(SENDING)
        kept.drop_sending("n", "/f")
        kept.sweep()
        self.assertIsNone(kept.sending("n", "/f"))
        self.file("file", b"")
        kept = Kept(self.folder / "file" / "state", lambda: 1e9)
        self.assertEqual(kept.trouble, "")
        kept.keep_sending(SENDING)
        self.assertIn("file/state cannot be written: Not a directory", kept.trouble)
        kept.trouble = ""
        kept.drop_sending("n", "/f")
        self.assertIn("cannot be written", kept.trouble)

    def test_old(self) -> None:
        """What no server can still have is removed."""
        self.kept.sweep()
        self.kept.keep_sending(SENDING)
        self.kept.keep_fetching(FETCHING)
        for file, age_days in zip(sorted((self.folder / "state").iterdir()), (30, 32), strict=True):
            os.utime(file, (1e9 - age_days * 86400,) * 2)
        self.kept.sweep()
        self.assertEqual(len(self.state_files()), 1)
        self.assertEqual(self.kept.fetching("/f"), FETCHING)
        os.mkdir(self.folder / "state" / "x")
        os.utime(self.folder / "state" / "x", (0, 0))
        self.kept.sweep()
        self.assertIn("cannot be tidied", self.kept.trouble)
