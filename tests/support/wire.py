"""A network in memory: the real client's connections to real servers, cut where a test wants it."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IConsumer, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from dostore.web.connections import Connections
from tests.support.http import Client

#: What goes over the wire in one turn of the reactor.
SEGMENT_BYTES = 65536


@define
class Fate:
    """What becomes of a connection.

    :ivar refused: there is none.
    :ivar silent: it is made, and nothing that is sent over it arrives.
    :ivar up: it breaks after so many bytes to the server; None: it does not.
    :ivar down: it breaks after so many bytes from the server.
    """

    refused: bool = False
    silent: bool = False
    up: int | None = None
    down: int | None = None


@implementer(IAgentEndpointFactory)
class Wire:
    """Connects an agent with servers.

    :ivar servers: what listens, by host and port; others refuse connections.
    :ivar fates: of the next connections, in their order; of those after them nothing is wrong.
    :ivar connections: all that were tried: host and port.
    :ivar sent: bytes that were put on the way to each server.
    :ivar heads: the requests' header sections, in their order.
    :ivar ends: the servers' ends of the connections.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.servers: dict[str, Connections] = {}
        self.fates: deque[Fate] = deque()
        self.connections: list[str] = []
        self.sent: dict[str, int] = {}
        self.heads: list[str] = []
        self.ends: list[_ServerEnd] = []
        self.agent = Agent.usingEndpointFactory(clock, self)

    def endpointForURI(self, uri: URI) -> Any:
        """See IAgentEndpointFactory."""
        return _Endpoint(self, f"{uri.host.decode()}:{uri.port}")

    def connect(self, address: str, factory: Any) -> Deferred[Any]:
        """A connection, if there is one."""
        self.connections.append(address)
        fate = self.fates.popleft() if self.fates else Fate()
        if fate.refused or address not in self.servers:
            return fail(ConnectionRefusedError(111))
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        protocol.makeConnection(_ClientEnd(self, address, fate, protocol))
        return succeed(protocol)


class _Endpoint:
    """See IStreamClientEndpoint."""

    def __init__(self, wire: Wire, address: str) -> None:
        self._wire = wire
        self._address = address

    def connect(self, factory: Any) -> Deferred[Any]:
        """See IStreamClientEndpoint."""
        return self._wire.connect(self._address, factory)


class _ServerEnd(Client):
    """The server's transport; what the server sends goes to the client's protocol."""

    def __init__(self, factory: Connections, clock: Clock, other: _ClientEnd) -> None:
        self.other = other
        super().__init__(factory, clock)

    def take(self, size: int | None = None) -> None:
        """See Client."""
        data, self.dataBuffer = self.dataBuffer, b""
        self.other.arrive(data)
        self._sent()

    def _lose(self, reason: type[Exception]) -> None:
        super()._lose(reason)
        self.other.lose(ConnectionDone)


@implementer(ITransport, IConsumer)
class _ClientEnd:
    """The client's transport."""

    disconnecting = False

    def __init__(self, wire: Wire, address: str, fate: Fate, protocol: Any) -> None:
        self._wire = wire
        self._address = address
        self._fate = fate
        self._protocol = protocol
        self._out: deque[bytes] = deque()
        self._in: deque[bytes] = deque()
        self._producer: Any = None
        self._paused = False
        self._lost = False
        self._up = self._down = 0
        self._head = b""
        self._server: _ServerEnd | None = None
        if not fate.silent:
            self._server = _ServerEnd(wire.servers[address], wire.clock, self)
            wire.ends.append(self._server)

    # To the server

    def write(self, data: bytes) -> None:
        """See ITransport."""
        for at in range(0, len(data), SEGMENT_BYTES):
            self._out.append(data[at : at + SEGMENT_BYTES])
        self._note_head(data)
        self._wire.clock.callLater(0, self._send)
        if self._producer is not None and len(self._out) > 1:
            self._producer.pauseProducing()

    def _note_head(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, end, _ = self._head.partition(b"\r\n\r\n")
            if end:
                self._wire.heads.append(head.decode("latin-1"))
                self._head = None  # type: ignore[assignment]

    def writeSequence(self, pieces: Any) -> None:
        """See ITransport."""
        self.write(b"".join(pieces))

    def _send(self) -> None:
        if self._lost or not self._out:
            return
        data = self._out.popleft()
        limit = self._fate.up
        if limit is not None:
            data = data[: limit - self._up]
        self._up += len(data)
        self._wire.sent[self._address] = self._wire.sent.get(self._address, 0) + len(data)
        if self._server is not None:
            self._server.send(data)
        if self._up == limit:
            self._break()
        elif self._out:
            self._wire.clock.callLater(0, self._send)
        elif self._producer is not None:
            self._producer.resumeProducing()

    # From the server

    def arrive(self, data: bytes) -> None:
        """The server has sent something."""
        self._in.append(data)
        self._wire.clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        while self._in and not self._paused and not self._lost:
            data = self._in.popleft()
            limit = self._fate.down
            if limit is not None:
                data = data[: limit - self._down]
            self._down += len(data)
            self._protocol.dataReceived(data)
            if self._down == limit:
                self._break()

    def pauseProducing(self) -> None:
        """See IPushProducer."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See IPushProducer."""
        self._paused = False
        self._wire.clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        """See IPushProducer."""
        self.loseConnection()

    # The end

    def _break(self) -> None:
        self.lose(ConnectionLost)
        if self._server is not None:
            self._server.close()

    def lose(self, reason: type[Exception]) -> None:
        """The connection is gone, after what has come."""
        if not self._lost:
            self._deliver()
        if not self._lost:
            self._lost = True
            self._protocol.connectionLost(Failure(reason()))

    def loseConnection(self) -> None:
        """See ITransport."""
        self._wire.clock.callLater(0, self._close)

    def abortConnection(self) -> None:
        """See ITCPTransport."""
        self._wire.clock.callLater(0, self._close)

    def _close(self) -> None:
        if self._server is not None and not self._server.lost:
            self._server.close()
        self.lose(ConnectionDone)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See IConsumer."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """See IConsumer."""
        self._producer = None

    def getPeer(self) -> IPv4Address:
        """See ITransport."""
        return IPv4Address("TCP", "127.0.0.1", 1)

    def getHost(self) -> IPv4Address:
        """See ITransport."""
        return IPv4Address("TCP", "127.0.0.1", 2)
