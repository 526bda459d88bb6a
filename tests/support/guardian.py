"""Ends processes, and removes folders, when the process that started them is gone, however it went.

A program that is killed runs no cleanup; its end of a pipe is closed all the same. So a small
process waits at the other end. It is told, a line each, ``+<pid>`` (the leader of a process group
to end), ``-<pid>`` (it has ended) and ``/<folder>`` (to remove at the end).
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_ATTEMPTS = 40
_PAUSE_S = 0.05


class Guardian:
    """The end that tells."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__).absolute())],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        # Not waited for at exit by itself: what it guards must end before this process does.
        atexit.register(self.end)

    def watch(self, pid: int) -> None:
        """A process that leads a group was started."""
        self._tell(f"+{pid}")

    def forget(self, pid: int) -> None:
        """It has ended, and was waited for."""
        self._tell(f"-{pid}")

    def remove(self, folder: str | os.PathLike[str]) -> None:
        """Remove a folder and all that is in it at the end."""
        self._tell(os.fspath(Path(folder).absolute()))

    def end(self) -> None:
        """End all now."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            raise AssertionError("the guardian has no stdin")
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


def guard(lines: Iterable[str]) -> None:
    """The end that waits: read to the end of ``lines``, then end and remove."""
    pids: set[int] = set()
    folders: list[str] = []
    for line in lines:
        kind, rest = line[0], line[1:].rstrip("\n")
        if kind == "+":
            pids.add(int(rest))
        elif kind == "-":
            pids.discard(int(rest))
        else:
            folders.append(kind + rest)
    for pid in pids:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for folder in folders:
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder in which a process that was killed may still be writing its last."""
    for _ in range(_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    # Whoever ends the tests may mean all their children; this one is told by the end of the pipe.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    guard(sys.stdin)
