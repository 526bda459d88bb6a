"""How long a start takes, until the first right answer.

What a store's start stands beside is a process that does no more than read the names of all shards
into one table and answer one request: ``python -m benchmarks.starts FOLDER...``.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import bodies, fill, processes
from benchmarks.child import Child, say
from benchmarks.measured import Figures
from benchmarks.stores import Served
from benchmarks.workloads import Starting

_PAUSE_S = 0.005
_PATIENCE_S = 300.0


def of_store(served: Served, work: Starting) -> Figures:
    """Stop a store, and start it."""
    served.stop()
    wanted = bodies.part(fill.SALT, 0, 0, fill.SIZE)
    began = time.perf_counter()
    served.spawn()

    def answers() -> bool:
        try:
            return served.front.request("GET", f"/objects/{work.name}").body == wanted
        except (OSError, http.client.HTTPException):
            return False

    seconds = _until(answers, began)
    served.running = True
    pids = served.pids()
    return _figures(seconds, processes.cpu_seconds(pids), pids)


def of_reference(folders: Sequence[Path]) -> Figures:
    """Start the barest process that knows all shards."""
    began = time.perf_counter()
    child = Child("benchmarks.starts", *map(str, folders))
    try:
        port = child.hear()["port"]
        with socket.create_connection(("127.0.0.1", port)) as client:
            count = int(client.recv(64))
        seconds = time.perf_counter() - began
        pids = [child.process.pid]
        if count != sum(len(os.listdir(folder)) for folder in folders):
            raise AssertionError("it knows other shards than there are")
        return _figures(seconds, processes.cpu_seconds(pids), pids)
    finally:
        child.close()


def _until(holds: Callable[[], bool], began: float) -> float:
    while not holds():
        if time.perf_counter() - began > _PATIENCE_S:
            raise AssertionError(f"it did not answer in {_PATIENCE_S:g} s")
        time.sleep(_PAUSE_S)
    return time.perf_counter() - began


def _figures(seconds: float, cpu: float, pids: Sequence[int]) -> Figures:
    return Figures(
        rate=seconds,
        count=1,
        seconds=seconds,
        p50_ms=seconds * 1e3,
        p99_ms=seconds * 1e3,
        cpu_us=cpu * 1e6,
        services_cpu_us=0.0,
        client_cpu_us=0.0,
        others=0.0,
        resident_bytes=processes.resident_bytes(pids),
        peak_bytes=processes.peak_resident_bytes(pids),
    )


def main(folders: Sequence[str]) -> None:
    """Read the names, tell a client how many there are, and wait for the end of standard input."""
    known = {name: at for at, folder in enumerate(folders) for name in os.listdir(folder)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        say({"port": listener.getsockname()[1]})
        client, _ = listener.accept()
        with client:
            client.sendall(b"%d" % len(known))
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
