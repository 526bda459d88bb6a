"""Runs the tests, a few trial processes beside each other: ``python -m tests [WORDS...]``.

Tests that start real servers wait most of the time, so several processes run at once. Each package
is one, but of ``tests.system`` each module; modules that share servers which a process starts once
are one too, wherever they lie. With words, only groups whose names hold one of them run.

What a group prints goes to ``.cache/tests/<group>.log``, and here too when it has failed. Each
group closes with trial's own count.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field, frozen

ROOT = Path(__file__).parent.parent

#: How many groups run at once: one more than there are processors, as most of them wait.
LANES = 1 + (os.cpu_count() or 1)

#: A group that takes longer than this many seconds hangs, and is ended.
PATIENCE_S = 1200.0

#: What begins first, for it takes longest; the rest follow by name.
FIRST = (
    "shared-cluster",
    "clusters",
    "servers",
    "adapters",
    "system.test_crash",
    "faults",
    "system.test_client",
    "system.test_memory",
    "service",
    "system.test_packed",
    "system.test_benchmarks",
)

#: Modules that import one of these share a process with others that do, as they share what it
#: starts; the first that is found counts.
_SHARED = {
    "tests.support.shared_cluster": "shared-cluster",
    "tests.support.clusters": "clusters",
    "tests.support.broker": "servers",
    "tests.support.elastic ": "servers",
    "tests.support.rabbitmq_server": "servers",
    "tests.support.elasticsearch_server": "servers",
}

_LOGS = ROOT / ".cache" / "tests"
_POLL_S = 0.05

#: One that is told to end has so long for it.
_GRACE_S = 60.0


@frozen(slots=True)
class Group:
    """Test modules that one process runs.

    :ivar modules: as trial takes them.
    """

    name: str
    modules: tuple[str, ...]

    def command(self) -> list[str]:
        """What runs it. The tests of core are to take every branch of it, which is counted."""
        counted = ["-m", "coverage", "run"] if self.name == "core" else []
        folder = f"--temp-directory={_LOGS / self.name}"
        trial = ["-m", "twisted.trial", "--reporter=timing", folder]
        return [sys.executable, *counted, *trial, *self.modules]


@define
class Outcome:
    """How a group has ended.

    :ivar status: the exit status.
    :ivar seconds: how long it took.
    :ivar processor_seconds: of it and of the processes that it started and waited for.
    :ivar log: where its output is.
    """

    group: Group
    status: int
    seconds: float
    processor_seconds: float
    log: Path

    def told(self) -> str:
        """One line."""
        used = f"{self.seconds:.0f} s, {self.processor_seconds:.0f} s of processor time"
        return f"{self.group.name}: {used}" + (
            f", exit status {self.status}" if self.status else ""
        )


def groups(folder: Path) -> list[Group]:
    """All test modules below a folder, each in one group; those that begin first come first."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found.setdefault(_group_of(parts, path.read_text()), []).append(".".join(("tests", *parts)))
    place = {name: number for number, name in enumerate(FIRST)}
    names = sorted(found, key=lambda name: (place.get(name, len(place)), name))
    return [Group(name, tuple(found[name])) for name in names]


def _group_of(parts: Sequence[str], source: str) -> str:
    if parts[0] == "core":
        return "core"
    for imported, name in _SHARED.items():
        if f"from {imported}" in source:
            return name
    if parts[0] == "system":
        return ".".join(parts)
    return parts[0] if len(parts) > 1 else "unit"


@define
class Lanes:
    """Runs groups, a few at a time.

    :ivar logs: the folder that takes what they print.
    :ivar say: told of each that has ended, one at a time.
    """

    waiting: deque[Group]
    logs: Path
    say: Callable[[Outcome], None]
    outcomes: list[Outcome] = field(factory=list)
    _running: set[subprocess.Popen[bytes]] = field(factory=set)
    _lock: threading.Lock = field(factory=threading.Lock)

    def run(self, count: int) -> None:
        """Run all of them; on return none runs any more, whatever has happened."""
        threads = [threading.Thread(target=self._lane, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self.waiting.clear()
            for process in list(self._running):
                _send(process.pid, signal.SIGINT)
            for thread in threads:
                thread.join()

    def _lane(self) -> None:
        while True:
            try:
                group = self.waiting.popleft()
            except IndexError:
                return
            outcome = self._one(group)
            with self._lock:
                self.outcomes.append(outcome)
                self.say(outcome)

    def _one(self, group: Group) -> Outcome:
        log = self.logs / f"{group.name}.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                group.command(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            self._running.add(process)
            try:
                status, used = _wait(process, began + PATIENCE_S)
            finally:
                self._running.discard(process)
        return Outcome(group, status, time.monotonic() - began, used, log)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, float]:
    """The exit status and the processor time of a process.

    Past the deadline it is told to end as by Ctrl-C, so that what it has started ends too, and
    is killed when it does not.
    """
    signals = [signal.SIGKILL, signal.SIGINT]
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime
        if signals and time.monotonic() > deadline:
            _send(process.pid, signals.pop())
            deadline += _GRACE_S
        time.sleep(_POLL_S)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _print(outcome: Outcome) -> None:
    """What is to be seen of a group: all of it when it has failed, its count when it has not."""
    text = outcome.log.read_text(errors="replace")
    print(f"== {outcome.told()}")
    if outcome.status:
        print(text)
    else:
        print(text.rstrip().rpartition("\n")[2])
    sys.stdout.flush()


def main(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the groups; the exit status."""
    # Whoever runs this in the background may have it ignored, and so would all the groups.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _LOGS.mkdir(parents=True, exist_ok=True)
    chosen = list(_chosen(groups(ROOT / "tests"), words))
    lanes = Lanes(deque(chosen), _LOGS, _print)
    began = time.monotonic()
    lanes.run(int(environ.get("DOSTORE_TEST_LANES", LANES)))
    failed = [each for each in lanes.outcomes if each.status]
    used = sum(each.processor_seconds for each in lanes.outcomes)
    seconds = time.monotonic() - began
    print(f"{len(chosen)} groups: {seconds:.0f} s, {used:.0f} s of processor time")
    for outcome in failed:
        print(f"failed: {outcome.told()}; {outcome.log.relative_to(ROOT)}")
    return 1 if failed or len(lanes.outcomes) < len(chosen) else 0


def _chosen(every: Iterable[Group], words: Sequence[str]) -> Iterator[Group]:
    return (each for each in every if not words or any(word in each.name for word in words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
