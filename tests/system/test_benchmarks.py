"""The benchmarks measure what they say, all of it. How fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import bodies
from benchmarks.bare_files import SCHEME, Damaged, SixFiles
from benchmarks.client import Job, LoadError, run
from benchmarks.document import renewed
from benchmarks.rows import FULL, SHAPES, rows
from benchmarks.stores import known_options
from tests.support.cases import SyncTestCase, slow
from tests.support.processes import ROOT

MIB = bodies.MIB

#: One of each kind: what is sent, what is read, with two drives lost, and of many names.
MEASURED = ("put-4k-16", "get-4k-16-lost", "list", "start")

#: For each shape.
PROMISED = {
    *(f"put-{size}-{n}" for size in ("4k", "64k") for n in (16, 64)),
    *(f"get-{size}-{n}" for size in ("4k", "64k") for n in (16, 64)),
    *(f"{method}-1m-{n}" for method in ("put", "get") for n in (8, 16, 64)),
    *(f"{method}-large-{n}" for method in ("put", "get") for n in (1, 4)),
    *("put-large-8x", "put-4k-1", "get-4k-1", "get-byte-16", "list", "start"),
    *("get-4k-16-lost", "get-64k-16-lost", "get-1m-8-lost", "get-large-1-lost"),
    *("put-4k-16-nosync", "put-64k-16-nosync", "put-1m-8-nosync", "put-large-1-nosync"),
}

#: What is measured once there is such an option.
OPTIONAL = {
    "--pack-below": {"put-4k-16-packed", "get-4k-16-packed", "put-64k-16-packed"},
    "--workers": {"get-4k-16-workers", "put-4k-16-workers"},
    "--compression": {"put-1m-8-gzip", "get-1m-8-gzip", "put-1m-8-noise"},
    "--copies-below": {"put-4k-16-copies", "get-4k-16-copies"},
}


class CommandTests(SyncTestCase):
    """The command of ``make bench``."""

    def test_no_workload_is_missing(self) -> None:
        """Every promised row is there in each shape, also those of the options that there are."""
        for shape in SHAPES:
            keys = {row.key.removeprefix("cluster-") for row in rows(FULL, shape)}
            wanted = set(PROMISED)
            for option, more in OPTIONAL.items():
                if shape == "embedded" and option in known_options("dostore-api"):
                    wanted |= more
            self.assertEqual(wanted - keys, set())

    @slow
    def test_rows(self) -> None:
        """A row of each kind is measured beside its reference, what both did is read back and
        compared, and nothing but the report is left.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        self.addCleanup(shutil.rmtree, folder)
        report, chart = folder / "report.json", folder / "chart.svg"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks", "--quick", "--seconds=0.1"),
                *("--shape=embedded", "--only", *MEASURED),
                *(f"--json={report}", f"--chart={chart}"),
            ],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(report.read_text())
        self.assertEqual(set(told["rows"]), set(MEASURED))
        for key, row in told["rows"].items():
            self.assertIn(f"{key}: {row['title']}", done.stdout)
            for who in ("store", "reference"):
                series = row[who]
                self.assertTrue(series["median"] > 0 and series["peak_bytes"] > MIB, key)
                self.assertTrue(all(each["count"] > 0 for each in series["runs"]), key)
                self.assertTrue(row["verified"][who] > 0, f"{key}: {who} was not verified")
            self.assertTrue(row["ratio"] > 0, key)
        self.assertTrue(all(rate > 0 for rate in told["rates"].values()))
        ElementTree.fromstring(chart.read_text())
        self.assertEqual(sorted(path.name for path in folder.iterdir()), [chart.name, report.name])

    def test_unknown_row(self) -> None:
        """A row that there is not is an error, and not an empty table."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "--only", "no-such-row"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        self.assertEqual((done.returncode, done.stdout), (2, ""))


class ReferenceTests(SyncTestCase):
    """What the store is compared with does its work."""

    def setUp(self) -> None:
        """Make six files."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.addCleanup(shutil.rmtree, self.folder)
        self.files = SixFiles(self.folder, 2 * MIB, sync=True)

    def body(self, number: int, size: int) -> memoryview:
        """A content."""
        return memoryview(bodies.part(1, number, 0, size))

    def test_contents(self) -> None:
        """Contents of any size are read back, also without two shards, and verify."""
        sizes = (1, 4096, 65536, 300_000, MIB)
        kept = self.files.keep([self.body(number, size) for number, size in enumerate(sizes)])
        for number, (size, stored) in enumerate(zip(sizes, kept, strict=True)):
            for lost in (False, True):
                found = b"".join(self.files.read(stored, lost=lost))
                self.assertEqual(found, bytes(self.body(number, size)))
            self.assertEqual(stored.sha256, bodies.sha256(1, number, size))
            self.assertTrue(self.files.verify(stored))
            at = size // 2
            self.assertEqual(self.files.read_byte(stored, at), self.body(number, size)[at : at + 1])

    def test_stream(self) -> None:
        """A content that comes in a stream is the same as one that is there as a whole."""
        data = bodies.part(1, 2, 0, 5 * MIB + 12345)
        ours, theirs = socket.socketpair()
        sender = threading.Thread(target=ours.sendall, args=(data[100:],))
        sender.start()
        stored = self.files.keep_stream(theirs, len(data), data[:100])
        sender.join()
        ours.close()
        theirs.close()
        self.assertTrue(self.files.verify(stored))
        for lost in (False, True):
            pieces = [b"".join(each) for each in self.files.read_stream(stored, lost=lost)]
            self.assertEqual(b"".join(pieces), data)

    def test_damage_is_found(self) -> None:
        """One wrong byte in any of the six files is found."""
        (stored,) = self.files.keep([self.body(3, 65536)])
        for index in range(SCHEME.shards):
            path = self.folder / str(index)
            before = path.read_bytes()
            path.write_bytes(before[:77] + bytes([before[77] ^ 1]) + before[78:])
            with self.assertRaises(Damaged):
                self.files.verify(stored)
            path.write_bytes(before)
        self.assertTrue(self.files.verify(stored))

    def test_written_over(self) -> None:
        """What was written over is not said to be verified."""
        (first,) = self.files.keep([self.body(4, MIB)])
        newest = [self.files.keep([self.body(5 + number, MIB)])[0] for number in range(9)]
        self.assertEqual((self.files.verify(first), self.files.verify(newest[-1])), (False, True))


class Liar(threading.Thread):
    """Answers each request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.start()

    def run(self) -> None:
        """Answer until the client hangs up."""
        client, _ = self._listener.accept()
        with self._listener, client:
            while client.recv(65536):
                client.sendall(self._answer)


class ClientTests(SyncTestCase):
    """The client takes no wrong answer for a right one."""

    def ask(self, answer: bytes, **job: Any) -> None:
        """One request to a server that answers so."""
        how: dict[str, Any] = {"method": "GET", "size": 4096, "salt": 7, "count": 1} | job
        run(Job(port=Liar(answer).port, head="GET /%d HTTP/1.1\r\n\r\n", **how))

    def test_right(self) -> None:
        """The content that was asked for will do."""
        self.ask(ok(bodies.part(7, 0, 0, 4096)))
        self.ask(ok(bodies.part(7, 0, 0, 4096)), check=True)

    def test_wrong(self) -> None:
        """Another content, a length that is not right, a byte that is not, another status: all are
        told.
        """
        right = bodies.part(7, 0, 0, 4096)
        changed = right[:2000] + bytes([right[2000] ^ 1]) + right[2001:]
        for answer, job in (
            (ok(bodies.part(8, 0, 0, 4096)), {}),
            (ok(right[:-1]), {}),
            (ok(right) + b"more", {}),
            (ok(changed), {"check": True}),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", {}),
            (ok(b"{}\n" * 3), {"lines": 4}),
        ):
            with self.assertRaises(LoadError):
                self.ask(answer, **job)

    def test_lines(self) -> None:
        """Lines are counted, also those that come in chunks."""
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.ask(ok(b"{}\n" * 4), lines=4)
        self.ask(chunked + b"6\r\n{}\n{}\n\r\n3\r\n{}\n\r\n0\r\n\r\n", lines=3)


def ok(body: bytes) -> bytes:
    """An answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class DocumentTests(SyncTestCase):
    """Tables in documents."""

    def test_tables(self) -> None:
        """The rows that a place names are put there in its order; all else stays."""
        runs = [{"rate": 1.0}]
        series = {"median": 1234.5, "runs": runs, "p50_ms": 1.0, "p99_ms": 20.0, "others": 0.01}
        series |= {"cpu_us": 100.0, "services_cpu_us": 0.0, "client_cpu_us": 9.0}
        series |= {"peak_bytes": 50 * MIB}
        row = {"shape": "embedded", "unit": "/s", "ratio": 0.5, "date": "2026-01-02 03:04"}
        told = {
            "machine": {"processors": 2, "model": "m", "system": "s", "python": "p"}
            | {"file_system": "ext4"},
            "rows": {
                key: row | {"title": title, "store": series, "reference": series}
                for key, title in (("a-1", "first"), ("a-2", "second"), ("b", "third"))
            },
        }
        place = ".. measured in short: b a-*\n\nold\n.. end of what was measured\n"
        text = f"Before\n\n{place}\nAfter\n"
        made = renewed(text, told)
        self.assertRegex(made, r"(?s)Before\n\n.. measured in.*third .*1,234/s.*first.*second.*")
        self.assertNotIn("old", made)
        self.assertTrue(made.endswith(".. end of what was measured\n\nAfter\n"))
        self.assertEqual(renewed(made, told), made)
        other = text.replace("b a-*", "c")
        self.assertEqual(renewed(other, told), other)
