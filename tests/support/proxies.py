"""TCP proxies that do to a line what happens to lines: one stops when it is enough, one cuts it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_STEP_BYTES = 64 * 1024

#: Little is on its way in the sockets' own buffers, so that what is lost with them is known.
_BUFFER_BYTES = 128 * 1024

#: To close with this is to have the other side see a reset, and lose what it has not read.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes any number of connections on to a server; used as a context manager.

    :ivar port: where it listens, on loopback.
    :ivar up: bytes that were passed on to the server.
    :ivar down: bytes that were passed on to clients.
    """

    def __init__(self, host: str, port: int) -> None:
        self.up = self.down = 0
        self._upstream = (host, port)
        self._lock = threading.Lock()
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
        _shut(self._listener)
        self._listener.close()
        for each in list(self._sockets):
            _shut(each)
        for thread in list(self._threads):
            thread.join(30.0)
        for each in self._sockets:
            each.close()

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
                if not self._forward(way, source, sink, data):
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # One side broke off: the other shall see that, too.
            self._broke_off(source, sink)

    def _forward(self, way: str, source: socket.socket, sink: socket.socket, data: bytes) -> bool:
        """Pass some bytes on; False: that was the last of the line."""
        sink.sendall(data)
        with self._lock:
            setattr(self, way, getattr(self, way) + len(data))
        return True

    def _broke_off(self, source: socket.socket, sink: socket.socket) -> None:
        _shut(source)
        _shut(sink)


class HoldingProxy(Proxy):
    """Stops when it is enough.

    :param hold_up: after so many bytes to the server nothing more is passed on to it, until
        :meth:`release`; None: all is.
    :param hold_down: the same for those to clients.
    """

    def __init__(
        self, host: str, port: int, *, hold_up: int | None = None, hold_down: int | None = None
    ) -> None:
        super().__init__(host, port)
        self._limits = {"up": hold_up, "down": hold_down}
        self._held = threading.Event()
        self._released = threading.Event()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        super().__exit__(kind, error, trace)

    def wait_held(self, timeout_s: float = 240.0) -> None:
        """Return when a limit is reached.

        :raises AssertionError: it is not in time.
        """
        if not self._held.wait(timeout_s):
            raise AssertionError(f"only {self.up} bytes went up and {self.down} down")

    def release(self) -> None:
        """Hold nothing any more."""
        self._released.set()

    def _forward(self, way: str, source: socket.socket, sink: socket.socket, data: bytes) -> bool:
        with self._lock:
            limit = self._limits[way]
            is_over = limit is not None and getattr(self, way) >= limit
        if is_over and not self._released.is_set():
            self._held.set()
            # Until then an end on the other side counts, too.
            while not self._released.wait(0.05):
                if _is_gone(source):
                    raise ConnectionResetError
        return super()._forward(way, source, sink, data)


class CuttingProxy(Proxy):
    """Cuts its first connection.

    :param cut_after: how many bytes of the client are passed on before the cut; None: all.
    :param reset: the server sees a reset; else an end, after all the bytes that were passed on.
    :param at_cut: called just before the cut.
    """

    def __init__(
        self,
        host: str,
        port: int,
        cut_after: int | None = None,
        *,
        reset: bool = False,
        at_cut: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(host, port)
        self._left = cut_after
        self._reset = reset
        self._at_cut = at_cut
        self._is_cut = False

    def _forward(self, way: str, source: socket.socket, sink: socket.socket, data: bytes) -> bool:
        if way == "down" or self._left is None:
            return super()._forward(way, source, sink, data)
        piece = data[: self._left]
        super()._forward(way, source, sink, piece)
        self._left -= len(piece)
        if not self._left:
            self._cut(source, sink)
        return bool(self._left)

    def _cut(self, client: socket.socket, server: socket.socket) -> None:
        self._is_cut = True
        if self._at_cut is not None:
            self._at_cut()
        with suppress(OSError):
            # It may have ended the line itself.
            if self._reset:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # Else the thread that waits for an answer would keep the socket from being closed.
                server.shutdown(socket.SHUT_RD)
                server.close()
            else:
                server.shutdown(socket.SHUT_WR)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.shutdown(socket.SHUT_RD)
        client.close()

    def _broke_off(self, source: socket.socket, sink: socket.socket) -> None:
        # What was passed on before a cut shall arrive.
        if not self._is_cut:
            super()._broke_off(source, sink)


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
