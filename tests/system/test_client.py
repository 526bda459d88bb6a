"""The ``dostore`` command against real servers: killed, cut off, and tried as a user would."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.support.cases import slow
from tests.support.ports import free_port
from tests.support.processes import (
    ROOT,
    BlockingStoreTestCase,
    Store,
    wait_until,
)
from tests.support.proxies import HoldingProxy

MIB = 1 << 20
LARGE_BYTES = 500_000_000

#: What is on its way in the buffers of four sockets and of three processes when one of them dies.
IN_FLIGHT_BYTES = 16 * MIB

#: Twisted, treq and rich take a good part of it.
MEMORY_BYTES = 160 * MIB

COMMAND = str(Path(sys.executable).parent / "dostore")


@frozen(slots=True)
class Ended:
    """A command that has ended.

    :ivar status: its exit status; negative: the signal that killed it.
    :ivar peak_bytes: the most memory that it used.
    """

    status: int
    out: str
    err: str
    peak_bytes: int


class Running:
    """A ``dostore`` command."""

    def __init__(self, folder: Path, words: Sequence[str], **how: Any) -> None:
        environ = {key: val for key, val in os.environ.items() if not key.startswith("DOSTORE_")}
        environ |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        self._out = folder / "out.txt"
        self._err = folder / "err.txt"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [COMMAND, *words],
                cwd=folder,
                env=environ,
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **how},
            )

    def wait(self) -> Ended:
        """Return when it has ended."""
        peak_bytes = 0
        while self.process.poll() is None:
            peak_bytes = max(peak_bytes, self._peak_bytes())
            time.sleep(0.02)
        return Ended(
            self.process.returncode,
            self._out.read_text(),
            self._err.read_text(),
            peak_bytes,
        )

    def _peak_bytes(self) -> int:
        """The most memory so far; 0 when it has ended. What the system tells of children that have
        ended counts what their parent had when it started them.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def kill(self) -> Ended:
        """SIGKILL, at once."""
        self.process.kill()
        return self.wait()


class CommandTestCase(BlockingStoreTestCase):
    """A folder to work in."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.addCleanup(self._remove_files)

    def _remove_files(self) -> None:
        # They are large.
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()

    def start(self, *words: str, **how: Any) -> Running:
        """Start a command; it is killed at the end if it still runs."""
        running = Running(self.folder, words, **how)

        def kill() -> None:
            if running.process.returncode is None:
                running.kill()

        self.addCleanup(kill)
        return running

    def type(self, *words: str, **how: Any) -> Ended:
        """Run a command to its end."""
        return self.start(*words, **how).wait()

    def succeeds(self, *words: str, **how: Any) -> Ended:
        """Run a command that must succeed."""
        ended = self.type(*words, **how)
        self.assertEqual(ended.status, 0, ended.err)
        return ended

    def large_file(self, size: int = LARGE_BYTES) -> str:
        """A file called "large" of blocks that all differ; its hash."""
        hasher = hashlib.sha256()
        block = bytearray(os.urandom(MIB))
        with open(self.folder / "large", "wb") as file:
            for number in range(-(-size // MIB)):
                block[:8] = number.to_bytes(8, "big")
                piece = block[: size - number * MIB]
                hasher.update(piece)
                file.write(piece)
        return base64.b64encode(hasher.digest()).decode()

    def hash_of(self, path: Path) -> str:
        """The SHA-256 of a file."""
        with open(path, "rb") as file:
            return base64.b64encode(hashlib.file_digest(file, "sha256").digest()).decode()


@slow
class KilledTests(CommandTestCase):
    """A large object, with the command killed on the way there and on the way back."""

    def test_put_and_get(self) -> None:
        """Either goes on where it was killed, and what arrives is right."""
        content_hash = self.large_file()
        store = self.start_store()
        self.put_killed(store, content_hash)
        self.get_killed(store, content_hash)

    def put_killed(self, store: Store, content_hash: str) -> None:
        """Put the file, with a kill in the middle."""
        middle = LARGE_BYTES * 2 // 5
        with HoldingProxy(store.host, store.port, hold_up=middle) as proxy:
            putting = self.start("put", "large", "--url", proxy.url)
            proxy.wait_held()
            self.assertEqual(putting.kill().status, -signal.SIGKILL)
        passed = proxy.up
        self.assertTrue(middle <= passed < LARGE_BYTES // 2)
        self.assertEqual(store.request("HEAD", "/objects/large").status, 404)
        with HoldingProxy(store.host, store.port) as proxy:
            ended = self.succeeds("put", "large", "--json", "--url", proxy.url)
            self.assertLess(passed + proxy.up, LARGE_BYTES + IN_FLIGHT_BYTES)
            # Or the bytes went another way.
            self.assertGreater(passed + proxy.up, LARGE_BYTES - MIB)
        record = json.loads(ended.out)
        self.assertEqual((record["Hash"], record["Version"]), (content_hash, 1))
        self.assertLess(record["Sent"], LARGE_BYTES - passed + IN_FLIGHT_BYTES)
        self.assertTrue(MIB < ended.peak_bytes < MEMORY_BYTES, ended.peak_bytes)
        self.assertEqual(list((self.folder / "state" / "dostore").iterdir()), [])

    def get_killed(self, store: Store, content_hash: str) -> None:
        """Get it back, with a kill in the middle."""
        middle = LARGE_BYTES * 3 // 5
        part = self.folder / "copy.dostore-part"
        with HoldingProxy(store.host, store.port, hold_down=middle) as proxy:
            getting = self.start("get", "large", "--to", "copy", "--url", proxy.url)
            proxy.wait_held()
            wait_until("what came is written", lambda: part.stat().st_size > middle - MIB, 120.0)
            self.assertEqual(getting.kill().status, -signal.SIGKILL)
        passed = proxy.down
        self.assertFalse((self.folder / "copy").exists())
        with HoldingProxy(store.host, store.port) as proxy:
            ended = self.succeeds("get", "large", "--to", "copy", "--url", proxy.url)
            self.assertLess(passed + proxy.down, LARGE_BYTES + IN_FLIGHT_BYTES)
        # The last MiB may not have been written when it was killed.
        self.assertRegex(ended.err, r"large goes on at (299|300) MB of 500 MB\.")
        self.assertEqual(ended.out, "copy: 500 MB from large version 1\n")
        self.assertEqual(self.hash_of(self.folder / "copy"), content_hash)
        self.assertTrue(MIB < ended.peak_bytes < MEMORY_BYTES, ended.peak_bytes)
        self.assertFalse(part.exists())


@slow
class ServerDeathTests(CommandTestCase):
    """The server is killed, and another one takes its place at another address."""

    def test_put(self) -> None:
        """The command goes on by itself with the next URL, and sends little twice."""
        size = 150_000_000
        content_hash = self.large_file(size)
        first = self.start_store()
        second = Store(first.folder, address=f"127.0.0.1:{free_port()}")
        self.addCleanup(second.kill)
        with (
            HoldingProxy(first.host, first.port, hold_up=size // 2) as one,
            HoldingProxy(second.host, second.port) as two,
        ):
            putting = self.start("put", "large", "--url", f"{one.url},{two.url}")
            one.wait_held()
            first.kill()
            one.release()
            second.start()
            ended = putting.wait()
            self.assertEqual(ended.status, 0, ended.err)
            self.assertLess(one.up + two.up, size + IN_FLIGHT_BYTES)
            self.assertGreater(two.up, size // 4)
        self.assertIn("Trying again", ended.err)
        answer = second.request("GET", "/objects/large")
        self.assertEqual(
            base64.b64encode(hashlib.sha256(answer.body).digest()).decode(), content_hash
        )


class FolderTests(CommandTestCase):
    """Folders, there and back."""

    def test_round_trip(self) -> None:
        """What comes back is what went; the second time nothing moves."""
        store = self.start_store()
        tree = self.folder / "tree"
        for name, data in self.files().items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(data)
        (tree / "empty folder").mkdir()
        url = ("--url", store.url)
        ended = self.succeeds("put", "tree", "--to", "backup/", *url)
        self.assertIn(f"{len(self.files())} files with", ended.out)
        self.succeeds("get", "-r", "backup/tree/", "--to", "copy", *url)
        found = {
            str(path.relative_to(self.folder / "copy")): path.read_bytes()
            for path in (self.folder / "copy").rglob("*")
            if path.is_file()
        }
        self.assertEqual(found, self.files())
        for words in (
            ("put", "tree", "--to", "backup/"),
            ("get", "-r", "backup/tree/", "--to", "copy"),
        ):
            ended = self.succeeds(*words, "--json", *url)
            outcomes = [json.loads(line)["Outcome"] for line in ended.out.splitlines()]
            self.assertEqual(outcomes, ["unchanged"] * len(self.files()))
        names = self.succeeds("ls", "-r1", "backup/", *url).out.splitlines()
        self.assertEqual(len(names), len(self.files()))
        self.assertEqual(
            self.succeeds("ls", "-1", "backup/tree/a/", *url).out, "backup/tree/a/b/\n"
        )

    def files(self) -> dict[str, bytes]:
        """Names and bytes."""
        small = {f"many/{number}": b"%d" % number for number in range(40)}
        return {
            "a/b/c.txt": b"text",
            "empty": b"",
            "large": bytes(range(256)) * 40_000,
            "with space + plus%20&?#": b"1",
            "Ünïcödé/日本": b"2",
            "...": b"3",
            **small,
        }


class UserTests(CommandTestCase):
    """What a user sees."""

    def test_exit_statuses(self) -> None:
        """Scripts can tell what went wrong, and people read it in a line."""
        store = self.start_store()
        url = ("--url", store.url)
        (self.folder / "f").write_text("one")
        self.assertEqual(self.succeeds("put", "f", *url).out, "f version 1: 3 bytes from f\n")
        self.assertIn(
            "version      1\n".replace("      ", "   "), self.succeeds("stat", "f", *url).out
        )
        self.assertEqual(self.succeeds("get", "f", "--to", "-", *url).out, "one")
        self.assertEqual(len(self.succeeds("locate", "f", *url).out.splitlines()), 6)
        self.succeeds("rm", "f", *url)
        self.assertIn("deleted", self.succeeds("versions", "f", *url).out)
        for words, status, line in (
            (("get", "f", *url), 3, "dostore: There is no object 'f', or it is deleted."),
            (("ls", "x", *url), 3, "dostore: There is no object whose name begins with 'x'."),
            (
                ("ls", "--url", f"http://127.0.0.1:{free_port()}"),
                4,
                "Is it running there? --url or DOSTORE_URL says where.",
            ),
            (("put", "none", *url), 1, "dostore: none cannot be read: No such file or directory."),
            (("put",), 2, "Error: Missing argument"),
        ):
            ended = self.type(*words)
            self.assertEqual((ended.status, ended.out), (status, ""), ended.err)
            self.assertIn(line, ended.err)

    def test_reader_gone(self) -> None:
        """``dostore ls | head`` ends without a word."""
        store = self.start_store()
        store.request("PUT", "/objects/a", b"x")
        for words in (("ls",), ("get", "a", "--to", "-"), ("ls", "--json")):
            reading, writing = os.pipe()
            os.close(reading)
            ended = self.type(*words, "--url", store.url, stdout=writing)
            os.close(writing)
            self.assertEqual((ended.status, ended.err), (141, ""))

    def test_closed_streams(self) -> None:
        """A socket never takes the place of a stream that is closed."""
        store = self.start_store()
        (self.folder / "f").write_text("one")
        done = subprocess.run(
            ["sh", "-c", f"'{COMMAND}' put f --url {store.url} <&- >&- 2>&-"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.folder)},
            timeout=60,
        )
        self.assertEqual(done.returncode, 0)
        self.assertEqual(store.request("GET", "/objects/f").body, b"one")

    def test_terminal(self) -> None:
        """On a terminal there is a bar; Ctrl-C leaves what the next run needs, and says so."""
        size = 60_000_000
        content_hash = self.large_file(size)
        store = self.start_store()
        terminal, end = pty.openpty()
        self.addCleanup(os.close, terminal)
        with HoldingProxy(store.host, store.port, hold_up=size // 2) as proxy:
            putting = self.start("put", "large", "--url", proxy.url, stdout=end, stderr=end)
            os.close(end)
            proxy.wait_held()
            seen = b""
            deadline = time.monotonic() + 30
            while b"/60.0 MB" not in seen or b"\xe2\x94\x81" not in seen:
                self.assertLess(time.monotonic(), deadline, seen)
                seen += os.read(terminal, 65536)
            putting.process.send_signal(signal.SIGINT)
            self.assertEqual(putting.wait().status, 130)
        seen = b""
        while True:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                # There is nobody at the other end any more.
                break
        self.assertIn(b"Run the same command again, and it goes on here.", seen)
        ended = self.succeeds("put", "large", "--url", store.url)
        self.assertIn("large goes on at", ended.err)
        answer = store.request("HEAD", "/objects/large")
        self.assertEqual(answer.headers["digest"], f"SHA-256={content_hash}")

    def test_terminated(self) -> None:
        """SIGTERM ends it as well, at once."""
        store = self.start_store()
        self.large_file(60_000_000)
        with HoldingProxy(store.host, store.port, hold_up=MIB) as proxy:
            putting = self.start("put", "large", "--url", proxy.url)
            proxy.wait_held()
            putting.process.send_signal(signal.SIGTERM)
            self.assertEqual(putting.wait().status, 143)
