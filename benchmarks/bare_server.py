"""The barest server: it drops what is PUT and answers a GET with bytes that it has at hand.

What it makes with the benchmarks' own clients is what loopback and those clients allow.
``python -m benchmarks.bare_server`` prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
from types import TracebackType

from benchmarks.load import MIB, piece

_HEAD_END = b"\r\n\r\n"
_EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class BareServer:
    """One in a process of its own, while the context lasts.

    :param mib: GET gives so many MiB of nothing; 0: what :func:`benchmarks.load.small` wants.
    :param size: the bytes of a small object.
    """

    def __init__(self, *, mib: int = 0, size: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_server", str(mib), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> BareServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


class _Connection:
    """A client, with what is known of its request."""

    def __init__(self, connected: socket.socket, mib: int, size: int) -> None:
        self.socket = connected
        self._mib = mib
        self._size = size
        self._head = bytearray()
        self._left = 0
        self._chunk = bytearray(MIB)

    def receive(self) -> bool:
        """Take what is there, and answer when it is whole; False at the end."""
        count = self.socket.recv_into(self._chunk)
        if self._left:
            self._left -= count
            if not self._left:
                self.socket.sendall(_EMPTY)
            return count > 0
        self._head += memoryview(self._chunk)[:count]
        head, found, body = bytes(self._head).partition(_HEAD_END)
        if found:
            self._head.clear()
            if head.startswith(b"GET"):
                self._give(head)
            else:
                length = head.lower().partition(b"content-length:")[2]
                self._left = int(length.partition(b"\r\n")[0]) - len(body)
                if not self._left:
                    self.socket.sendall(_EMPTY)
        return count > 0

    def _give(self, head: bytes) -> None:
        length = self._mib * MIB or self._size
        self.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        for _ in range(self._mib):
            self.socket.sendall(self._chunk)
        if not self._mib:
            _, salt, number = head.split()[1].decode().rsplit("/", 2)
            self.socket.sendall(piece(int(salt), int(number), self._size))


def main(mib: int, size: int) -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    selector.register(listener, selectors.EVENT_READ, listener)
    while True:
        for key, _ in selector.select():
            if key.data is None:
                if not os.read(key.fd, 1):
                    return
            elif key.data is listener:
                connected = listener.accept()[0]
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = _Connection(connected, mib, size)
                selector.register(connected, selectors.EVENT_READ, client)
            elif not key.data.receive():
                selector.unregister(key.data.socket)
                key.data.socket.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
