"""A network namespace of one's own: whatever addresses a test wants, and nobody else's ports."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence

_CLONE_NEWNET = 0x40000000


class Network:
    """A new namespace, in which this thread is until it leaves, and what it starts stays.

    It ends by itself with the last process in it.

    :param addresses: those of its loopback device, with their prefix lengths, besides 127.0.0.1.
    :raises OSError: this user may not make one, or there is no ``ip`` here.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        # os.unshare and os.setns are there from Python 3.12 on.
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if self._libc.unshare(_CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            os.close(self._before)
            raise OSError(error, f"no network namespace: {os.strerror(error)}")
        try:
            _ip("link", "set", "lo", "up")
            for address in addresses:
                _ip("address", "add", address, "dev", "lo")
        except (OSError, subprocess.CalledProcessError) as error:
            self.leave()
            raise OSError(f"no addresses in the namespace: {error}") from error

    def leave(self) -> None:
        """Have this thread back where it was."""
        if self._libc.setns(self._before, _CLONE_NEWNET) != 0:
            raise AssertionError(os.strerror(ctypes.get_errno()))
        os.close(self._before)


def _ip(*arguments: str) -> None:
    # It is outside many users' PATH.
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "ip"
    subprocess.run([program, *arguments], check=True, capture_output=True, timeout=30)
