"""What the machine is, and how fast it does by itself what a store spends its time with."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from benchmarks.bare_files import SCHEME, SixFiles
from benchmarks.bodies import MIB, RANDOM
from dostore.core.stripes import StripeCoder

_SECONDS = 0.1
_ROUNDS = 3


def described(folder: Path) -> dict[str, object]:
    """The machine, as far as it bears on speed."""
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processors": os.cpu_count(),
        "model": model[0] if model else platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(folder),
    }


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    resolved = str(folder.resolve())
    holding = [(len(at), kind) for at, kind in mounts if resolved.startswith(at)]
    return max(holding)[1]


def rates(folder: Path, seconds: float = _SECONDS) -> Mapping[str, float]:
    """MB of 10⁶ bytes of content a second, on one thread each but for the loopback's two."""
    coder = StripeCoder(SCHEME)
    blocks = {
        index: shard[0] for index, shard in enumerate(coder.encode(RANDOM[: SCHEME.stripe_size]))
    }
    four = {index: bytes(block) for index, block in blocks.items() if index >= SCHEME.m}
    files = SixFiles(folder, 16 * MIB, sync=True)
    stripes = MIB // SCHEME.stripe_size

    def rebuild() -> None:
        for _ in range(stripes):
            coder.rebuild(four, range(SCHEME.k))

    # 4 MiB at a time, as a sync each MiB is what nobody does.
    whole = memoryview(RANDOM * 4)
    measured: dict[str, tuple[int, Callable[[], object]]] = {
        "SHA-256": (MIB, lambda: hashlib.sha256(RANDOM).digest()),
        "encode 4 + 2": (MIB, lambda: coder.encode(RANDOM)),
        "decode, two of four lost": (MIB, rebuild),
        "hash, encode, write six files, sync": (4 * MIB, lambda: files.keep([whole])),
    }
    found = {name: _rate(size, work, seconds) for name, (size, work) in measured.items()}
    return found | {"loopback": median(_loopback(seconds) for _ in range(_ROUNDS))}


def _rate(size: int, work: Callable[[], object], seconds: float) -> float:
    def once() -> float:
        began = time.perf_counter()
        count = 0
        while time.perf_counter() - began < seconds:
            work()
            count += 1
        return count * size / (time.perf_counter() - began) / 1e6

    work()
    return median(once() for _ in range(_ROUNDS))


def _loopback(seconds: float) -> float:
    """From one socket to another by way of TCP, in both directions' worth of processor time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()

    def send() -> None:
        deadline = time.perf_counter() + seconds
        with sender:
            while time.perf_counter() < deadline:
                sender.sendall(RANDOM)

    thread = threading.Thread(target=send)
    began = time.perf_counter()
    thread.start()
    space = bytearray(MIB)
    total = 0
    with receiver:
        while count := receiver.recv_into(space):
            total += count
    thread.join()
    return total / (time.perf_counter() - began) / 1e6
