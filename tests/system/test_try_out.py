"""``make cluster``: the program that it runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.cases import SyncTestCase, slow
from tests.support.ports import free_ports
from tests.support.processes import ROOT, wait_until
from tests.support.rabbitmq_server import guardian

_PATIENCE_S = 240.0


@slow
class TryOutTests(SyncTestCase):
    """One folder, over two starts."""

    def setUp(self) -> None:
        """A folder, and ports that nobody has."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.port = free_ports(17)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it tells what to try."""
        self.said = self.folder / "said"
        with open(self.said, "wb") as said:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "deploy.cluster"),
                    *(f"--folder={self.folder / 'kept'}", f"--port={self.port}"),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guardian().watch(process.pid)
        self.addCleanup(self.end, process)

        def told() -> bool:
            self.assertIsNone(process.poll(), self.said.read_text())
            return "Ctrl-C" in self.said.read_text()

        wait_until("it tells what to try", told, _PATIENCE_S)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it, when it runs; the guardian of its own ends what it started."""
        if process.poll() is None:
            process.kill()
            process.wait()
        guardian().forget(process.pid)

    def curl(self, line: str) -> str:
        """What a command line with curl in it prints."""
        done = subprocess.run(
            ["bash", "-c", line.replace("curl ", "curl -fsS ")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def pids(self) -> list[int]:
        """The processes that have the folder in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.folder).encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def test_two_starts(self) -> None:
        """What it tells to try works; what is kept is there again; if one server dies, all end."""
        process = self.start()
        said = self.said.read_text()
        self.assertEqual(said.count(" ready; log: "), 10, said)
        (line,) = re.findall(r"^    (curl .*)$", said, re.MULTILINE)
        readme = (ROOT / "README.rst").read_text()
        self.assertEqual(self.curl(line), readme)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(_PATIENCE_S), 0)
        self.assertEqual(self.pids(), [])

        process = self.start()
        self.assertEqual(self.curl(line.partition("&& ")[2]), readme)
        victim = next(pid for pid in self.pids() if b"dostore-data" in _command(pid))
        os.kill(victim, signal.SIGKILL)
        self.assertEqual(process.wait(_PATIENCE_S), 1)
        self.assertIn("has ended", self.said.read_text())
        self.assertEqual(self.pids(), [])


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
