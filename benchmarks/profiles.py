"""Where a server's time goes while a workload runs.

By ``cprofile`` every call of the reactor's thread is counted, by twistd's own means; that makes
small calls look dearer than they are. By ``py-spy``, if it is installed, all threads are looked at
a few hundred times a second, which costs them little.
"""

from __future__ import annotations

import pstats
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve

from benchmarks.bench import Bench
from benchmarks.child import ChildFailed
from benchmarks.measured import Figures
from benchmarks.report import columns
from benchmarks.rows import Row
from benchmarks.stores import Clustered, Served
from benchmarks.workloads import Starting, Workload

PROFILERS = ("cprofile", "py-spy")

_SAMPLES_A_SECOND = 200
_SHOWN = 40

#: Where threads wait for something to do.
_IDLE = ("_work (dostore/adapters/threads", "doPoll", "wait (threading")
_DIGITS = re.compile("-?[0-9]+")

#: Parts of a file's path, and what its functions are put down as; the first that matches.
_LAYERS = (
    ("dostore/web/", "web"),
    ("dostore/service/", "service"),
    ("dostore/core/", "core"),
    ("dostore/adapters/", "adapters"),
    ("dostore/", "dostore, the rest"),
    ("twisted/web/", "twisted.web"),
    ("twisted/internet/defer", "Deferreds"),
    ("twisted/", "twisted, the rest"),
    ("pyeclib", "pyeclib"),
    ("threading.py", "threads"),
    ("concurrent/futures", "threads"),
)


def run(bench: Bench, rows: Sequence[Row], folder: Path, profiler: str) -> None:
    """Profile the servers during each row, and print a summary; the whole is in the folder."""
    folder = folder.absolute()
    for row in rows:
        if isinstance(row.work, Starting) or row.lost:
            print(f"{row.key}: is not profiled")
            continue
        there = folder / row.key
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        served = bench.store(row)
        try:
            figures = _run(bench, served, row, there, profiler)
        finally:
            _end(served, row)
        print(f"\n{row.key}: {row.title}: {figures.cpu_us:,.0f} us of processor time a request")
        for path in sorted(there.iterdir()):
            text = _calls(path, figures.count) if profiler == "cprofile" else _samples(path)
            print(f"\n{path.stem}\n{text}")
            path.with_suffix(".txt").write_text(text)


def _end(served: Served, row: Row) -> None:
    """Stop a store, and remove it unless it was prepared for many rows."""
    if not row.prepared:
        served.close()
        return
    if served.running:
        served.stop()
    if isinstance(served, Clustered):
        served.services.close()


def _run(bench: Bench, served: Served, row: Row, folder: Path, profiler: str) -> Figures:
    """Put there what is read, start again under the profiler, and run."""
    assert not isinstance(row.work, Starting), "starts are not profiled"
    work = evolve(row.work, count=0) if isinstance(row.work, Workload) else row.work
    if row.prepared:
        served.resume()
    else:
        served.start()
    work.prepare(served, bench.client)
    work.measure(served, bench.client, bench.scale.warm_seconds)
    if profiler == "cprofile":
        served.stop()
        served.resume(folder)
        _, figures = bench.figures(served, work, ())
        served.stop()
        return figures
    seconds = max(1, round(bench.scale.seconds))
    sampled = [_sample(pid, folder, seconds) for pid in served.pids()]
    _, figures = bench.figures(served, work, ())
    for each in sampled:
        each.wait(60.0)
    return figures


# py-spy


def _sample(pid: int, folder: Path, seconds: int) -> subprocess.Popen[bytes]:
    program = shutil.which("py-spy") or str(Path(sys.executable).parent / "py-spy")
    if not Path(program).exists():
        raise ChildFailed("py-spy is not installed: pip install py-spy, or use cprofile")
    options = ["--format=raw", f"--duration={seconds}", f"--rate={_SAMPLES_A_SECOND}", "--threads"]
    return subprocess.Popen(
        [program, "record", *options, f"--output={folder / str(pid)}.raw", f"--pid={pid}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _samples(path: Path) -> str:
    """By kind of thread, and by function: in how much of the time one was there, and not idle."""
    threads: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        kind = _DIGITS.sub("", frames[0].rpartition(": ")[2])
        if any(idle in frames[-1] for idle in _IDLE):
            continue
        threads[kind] += int(count)
        functions[kind, frames[-1]] += int(count)
    lines = [(str(count), name) for name, count in threads.most_common()]
    lines += [
        (str(count), f"{kind}: {function}")
        for (kind, function), count in functions.most_common(_SHOWN)
    ]
    return "\n".join(columns([("samples", ""), *lines]))


# cProfile

_Function = tuple[str, int, str]
_Call = tuple[int, int, float, float, object]


def _calls(path: Path, count: int) -> str:
    """By layer, and by function: the time within it, and with what it calls, a request."""
    stats: Mapping[_Function, _Call] = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    waiting = {function for function in stats if "poll" in function[2] and "epoll" in function[2]}
    busy = {function: call for function, call in stats.items() if function not in waiting}
    layers: Counter[str] = Counter()
    for function, call in busy.items():
        layers[_layer(function)] += int(call[2] * 1e9)
    lines = [("us a request", "with what it calls", "calls", "")]
    lines += [(f"{ns / 1e3 / count:,.1f}", "", "", name) for name, ns in layers.most_common()]
    most = sorted(busy.items(), key=lambda item: -item[1][2])
    lines += [_line(function, call, count) for function, call in most[:_SHOWN]]
    return "\n".join(columns(lines))


def _line(function: _Function, call: _Call, count: int) -> tuple[str, str, str, str]:
    path, number, name = function
    where = f"{'/'.join(Path(path).parts[-2:])}:{number} {name}" if number else name
    _, calls, own, total, _ = call
    return (
        f"{own * 1e6 / count:,.1f}",
        f"{total * 1e6 / count:,.1f}",
        f"{calls / count:.2f}",
        where,
    )


def _layer(function: _Function) -> str:
    path, number, name = function
    if not number:
        return f"built in: {name}" if _is_system(name) else "built in"
    return next((layer for part, layer in _LAYERS if part in path), "Python's library")


def _is_system(name: str) -> bool:
    return any(part in name for part in ("_socket", "posix.", "_thread.lock", "_queue", "_hash"))
