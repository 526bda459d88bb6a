"""A server on loopback that answers whatever a test wants, whatever it is asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

the_reactor: Any = reactor

_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]+)")


class _Connection(Protocol):
    """One connection; each request's header section is answered once."""

    factory: Liar
    transport: Any

    def __init__(self) -> None:
        self._head = b""
        self._body_left = 0

    def connectionMade(self) -> None:
        """A client has come."""
        self.factory.open.append(self)

    def dataReceived(self, data: bytes) -> None:
        """Answer when a header section is complete."""
        self.factory.received += data
        body = min(self._body_left, len(data))
        self._body_left -= body
        self._head += data[body:]
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            self._head = b""
            length = _LENGTH.search(head)
            self._body_left = max(0, int(length[1]) - len(rest)) if length else 0
            self.factory.heads.append(head)
            self.factory.answer(self.transport, head)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client has gone."""
        self.factory.open.remove(self)
        if not self.factory.open:
            waiters, self.factory.waiters = self.factory.waiters, []
            for waiter in waiters:
                waiter.callback(None)


class Liar(Factory):
    """Listens.

    :param answer: is given the transport and the header section of each request.
    :ivar heads: the header sections of the requests so far.
    :ivar open: the connections.
    """

    protocol = _Connection  # type: ignore[assignment]
    noisy = False

    def __init__(self, answer: Callable[[Any, bytes], object]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.received = b""
        self.open: list[_Connection] = []
        self.waiters: list[Deferred[None]] = []
        self._port = the_reactor.listenTCP(0, self, interface="127.0.0.1")

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port.getHost().port}"

    async def all_gone(self) -> None:
        """Return when no client is connected."""
        if self.open:
            waiter: Deferred[None] = Deferred()
            self.waiters.append(waiter)
            await waiter

    async def stop(self) -> None:
        """Close everything."""
        await self._port.stopListening()
        for connection in list(self.open):
            connection.transport.abortConnection()
        await self.all_gone()


def answering(data: bytes, *, close: bool = False) -> Callable[[Any, bytes], None]:
    """An answer that is always the same."""

    def answer(transport: Any, head: bytes) -> None:
        transport.write(data)
        if close:
            transport.loseConnection()

    return answer


def response(
    status: int, fields: dict[str, str] | None = None, body: bytes = b"", length: int | None = None
) -> bytes:
    """A well-formed answer, but for its length if that is told."""
    named = {"Content-Length": str(len(body) if length is None else length), **(fields or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1") + body
