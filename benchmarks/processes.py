"""What processes take of the machine, by what /proc says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = os.cpu_count() or 1


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for each in found:
        try:
            tasks = list(Path(f"/proc/{each}/task").iterdir())
            for task in tasks:
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that processes have used, user and system.

    One that has ended counts for nothing: a broker starts programs that live for a moment.
    """
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def machine_cpu_seconds() -> float:
    """Processor time that the whole machine has used, or was kept from using by its host."""
    user, nice, system, _, _, *more = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(more)) / _TICKS


def share_of_machine(cpu: float, seconds: float) -> float:
    """What processor time is of all that the machine's cores have in so many seconds."""
    return max(0.0, cpu) / (seconds * _CORES)


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory in use now. What processes share is counted once in each."""
    return sum(_status_kib(pid, "VmRSS") for pid in pids) * 1024


def peak_resident_bytes(pids: Iterable[int]) -> int:
    """The most that was in use since :func:`forget_peak`."""
    return sum(_status_kib(pid, "VmHWM") for pid in pids) * 1024


def forget_peak(pids: Iterable[int]) -> None:
    """Begin the peak anew."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0
