"""A TCP proxy that counts what it passes on, and stops when it is enough."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_STEP_BYTES = 64 * 1024

#: Little is on its way in the sockets' own buffers.
_BUFFER_BYTES = 128 * 1024


class HoldingProxy:
    """Passes any number of connections on to a server; used as a context manager.

    :ivar port: where it listens, on loopback.
    :ivar up: bytes that were passed on to the server.
    :ivar down: bytes that were passed on to clients.
    :param hold_up: after so many bytes to the server nothing more is passed on to it, until
        :meth:`release`; None: all is.
    :param hold_down: the same for those to clients.
    """

    def __init__(
        self, host: str, port: int, *, hold_up: int | None = None, hold_down: int | None = None
    ) -> None:
        self.up = self.down = 0
        self._upstream = (host, port)
        self._limits = {"up": hold_up, "down": hold_down}
        self._lock = threading.Lock()
        self._held = threading.Event()
        self._released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        """What a client is told."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        _shut(self._listener)
        self._listener.close()
        for each in list(self._sockets):
            _shut(each)
        for thread in list(self._threads):
            thread.join(30.0)
        for each in self._sockets:
            each.close()

    def wait_held(self, timeout_s: float = 240.0) -> None:
        """Return when a limit is reached.

        :raises AssertionError: it is not in time.
        """
        if not self._held.wait(timeout_s):
            raise AssertionError(f"only {self.up} bytes went up and {self.down} down")

    def release(self) -> None:
        """Hold nothing any more."""
        self._released.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                # Closed: that is all.
                return
            try:
                server = socket.create_connection(self._upstream)
            except OSError:
                # The client sees what it would see without the proxy, or nearly so.
                client.close()
                continue
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            self._sockets += [client, server]
            for way, source, sink in (("up", client, server), ("down", server, client)):
                thread = threading.Thread(target=self._pass, args=(way, source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(_STEP_BYTES):
                with self._lock:
                    limit = self._limits[way]
                    is_over = limit is not None and getattr(self, way) >= limit
                if is_over and not self._released.is_set():
                    self._held.set()
                    # Until then an end on the other side counts, too.
                    while not self._released.wait(0.05):
                        if _is_gone(source):
                            raise ConnectionResetError
                sink.sendall(data)
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(data))
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side broke off: the other shall see that, too.
            _shut(source)
            _shut(sink)


def _is_gone(source: socket.socket) -> bool:
    """Whether the other end has closed the connection, as far as can be seen."""
    try:
        source.setblocking(False)
        return not source.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        source.setblocking(True)


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        # It may be closed already.
        each.shutdown(socket.SHUT_RDWR)
