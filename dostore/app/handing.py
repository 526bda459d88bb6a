"""Who of several processes serves a connection: the front, which accepts it, or another."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.interfaces import IAddress, IProtocolFactory
from zope.interface import implementer

from dostore.web.channel import Channel
from dostore.web.connections import Connections
from dostore.web.passing import READS, detach
from dostore.web.request import Request

#: A connection whose requests were so many times in a row what others can answer may go to one.
QUICK_REQUESTS = 16

#: The same for one that came back because they could not.
QUICK_REQUESTS_AGAIN = 4096

_READ = frozenset((200, 206, 304))


class Taker(Protocol):
    """Another process.

    :ivar count: how many connections it has.
    :ivar ready: it takes some.
    """

    @property
    def count(self) -> int: ...  # noqa: D102

    @property
    def ready(self) -> bool: ...  # noqa: D102

    def give(self, descriptor: int, full: bool, data: bytes) -> bool:
        """Give it a connection, with what came of it; the descriptor stays the caller's.

        :param full: another connection must go for it, or else it is refused.
        :returns: whether it was given.
        """


@implementer(IProtocolFactory)
class HandOut:
    """What listens where several processes serve: whoever has the fewest connections gets the next.

    The limit of connections holds for all together. It is also the front's web.passing.Passing.

    :param connections: those that the front serves itself.
    """

    noisy = False
    serves_all = True

    def __init__(self, connections: Connections, takers: Sequence[Taker]) -> None:
        self._connections = connections
        self._takers = takers
        connections.passing = self
        connections.elsewhere = self._elsewhere

    def _elsewhere(self) -> int:
        return sum(taker.count for taker in self._takers)

    # IProtocolFactory

    def doStart(self) -> None:
        """See IProtocolFactory."""
        self._connections.doStart()  # type: ignore[no-untyped-call]

    def doStop(self) -> None:
        """See IProtocolFactory."""
        self._connections.doStop()  # type: ignore[no-untyped-call]

    def buildProtocol(self, addr: IAddress | None) -> protocol.Protocol | None:
        """See IProtocolFactory."""
        connections = self._connections
        if connections.draining:
            return None
        full = connections.is_full
        taker = self._choose(full)
        if taker is None:
            return connections.make_channel(full)
        return _Parting(connections, taker, full)

    def _choose(self, full: bool) -> Taker | None:
        """Who gets a new connection; None: the front."""
        ready = [taker for taker in self._takers if taker.ready]
        if not ready or (full and self._connections.has_idle):
            return None
        if full:
            # Only it can tell which of its connections are idle.
            return max(ready, key=_count)
        taker = min(ready, key=_count)
        return taker if taker.count <= self._connections.connection_count else None

    # Passing

    def keeps(self, request: Request) -> bool:
        """See web.passing.Passing."""
        channel = request.channel
        if channel.quick < QUICK_REQUESTS or request.method not in READS:
            return True
        return self._less_busy() is None

    def _less_busy(self) -> Taker | None:
        """Who would still have fewer connections than the front if it took one of it."""
        if self._connections.draining:
            return None
        ready = [taker for taker in self._takers if taker.ready]
        taker = min(ready, key=_count, default=None)
        if taker is None or taker.count + 1 >= self._connections.connection_count:
            return None
        return taker

    def answered(self, request: Request, at_once: bool) -> None:
        """See web.passing.Passing."""
        channel = request.channel
        quick = at_once and request.method in READS and request.route == "objects"
        if quick and request.status in _READ:
            channel.quick += 1
        elif channel.quick > 0:
            channel.quick = 0

    def take(self, channel: Channel, descriptor: int, data: bytes) -> bool:
        """See web.passing.Passing."""
        taker = self._less_busy()
        return taker is not None and taker.give(descriptor, False, data)

    def ended(self, channel: Channel) -> None:
        """See web.passing.Passing."""

    def come_back(self, reactor: Any, descriptor: int, late: bool, data: bytes) -> None:
        """Serve a connection that another process gives back.

        :param descriptor: it is closed.
        :param late: the process could not answer, though the request was one of its kind.
        """
        channel = self._connections.make_channel(False)
        if channel is None:
            os.close(descriptor)
            return
        if late:
            channel.quick = QUICK_REQUESTS - QUICK_REQUESTS_AGAIN
        adopt(reactor, descriptor, channel, data)


def _count(taker: Taker) -> int:
    return taker.count


class _Parting(protocol.Protocol):
    """A connection that goes to another process as soon as it is there."""

    transport: Any

    def __init__(self, connections: Connections, taker: Taker, full: bool) -> None:
        self._connections = connections
        self._taker = taker
        self._full = full

    def connectionMade(self) -> None:
        """A client has connected."""
        transport = self.transport
        if self._taker.give(transport.fileno(), self._full, b""):
            detach(transport)
            return
        channel = self._connections.make_channel(self._full)
        if channel is None:
            transport.abortConnection()
        else:
            transport.protocol = channel
            channel.makeConnection(transport)  # type: ignore[no-untyped-call]


class _Arriving(protocol.Factory):
    """Makes the channel of one connection."""

    noisy = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """See IProtocolFactory."""
        return self._channel


def adopt(reactor: Any, descriptor: int, channel: Channel, data: bytes) -> None:
    """Have a channel serve a connection that another process had.

    :param descriptor: it is closed.
    :param data: what had come of it, and was not answered.
    """
    channel.handed = data
    with socket.socket(fileno=descriptor) as connection:
        try:
            # It makes a descriptor of its own.
            reactor.adoptStreamConnection(descriptor, connection.family, _Arriving(channel))
        except OSError:
            # The client went away on the way.
            channel.factory.disconnected(channel)
