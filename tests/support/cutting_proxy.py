"""A TCP proxy that cuts a connection after so many bytes, as a bad line does."""

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


class CuttingProxy:
    """Passes one connection on to a server, and cuts it; used as a context manager.

    :ivar port: where it listens, on loopback.
    :ivar passed: bytes of the client that were given to the server's socket.
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
        self.passed = 0
        self._upstream = (host, port)
        self._left = cut_after
        self._reset = reset
        self._at_cut = at_cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join(30.0)

    def _serve(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            # Closed before anybody came.
            return
        server = socket.create_connection(self._upstream)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._sockets += [client, server]
        back = threading.Thread(target=self._answer, args=(server, client), daemon=True)
        self._threads.append(back)
        back.start()
        try:
            while data := client.recv(_STEP_BYTES):
                piece = data if self._left is None else data[: self._left]
                server.sendall(piece)
                self.passed += len(piece)
                if self._left is not None:
                    self._left -= len(piece)
                    if not self._left:
                        self._cut(client, server)
                        return
        except OSError:
            # One side broke off by itself: the other shall see that too.
            _shut(client)
            _shut(server)

    def _cut(self, client: socket.socket, server: socket.socket) -> None:
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

    @staticmethod
    def _answer(server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(_STEP_BYTES):
                client.sendall(data)
        except OSError:
            # The line was cut meanwhile.
            return


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        # It may be closed already.
        each.shutdown(socket.SHUT_RDWR)
