"""Free TCP ports of loopback, for whoever starts servers, though several processes do at once."""

from __future__ import annotations

import random
import socket

#: Linux gives outgoing connections ports from 32768 on: so one from here stays free while its
#: server is stopped, and started again.
_LOW, _HIGH = 10_000, 32_000

_ATTEMPTS = 200

#: What keeps other processes from being given the same ports, as long as this one lives.
_reserved: list[socket.socket] = []


def free_port(low: int = _LOW, high: int = _HIGH) -> int:
    """A port that nobody listens on, and that no other caller is given while this process lives."""
    for port in random.sample(range(low, high), min(_ATTEMPTS, high - low)):
        if reserve(port):
            return port
    raise AssertionError(f"no free port between {low} and {high}")


def reserve(port: int) -> bool:
    """Have a port for this process, if nobody has it or listens on it."""
    # A name without a file, which the system takes back when the process is gone.
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0dostore-port-{port}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        mark.close()
        return False
    _reserved.append(mark)
    return True


def free_ports(count: int) -> int:
    """The first of so many ports in a row, all of them free as :func:`free_port` has it."""
    for first in random.sample(range(_LOW, _HIGH - count), _ATTEMPTS):
        if all(reserve(port) for port in range(first, first + count)):
            return first
    raise AssertionError(f"no {count} free ports in a row")
