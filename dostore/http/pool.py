"""Connections to servers, kept open and used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.interfaces import IStreamClientEndpoint as IEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from dostore.http.direct import (
    CONNECT_TIMEOUT_S,
    IDLE_S,
    MAX_HEAD_BYTES,
    DirectPool,
)
from dostore.http.direct import IDLE_CONNECTIONS as IDLE_CONNECTIONS
from dostore.http.endpoint import server_endpoint


class _Bounded(ProtocolWrapper):
    """A connection that is cut when the header section of an answer does not end."""

    _left = MAX_HEAD_BYTES
    _end = b""
    _in_head = True

    def write(self, data: bytes) -> None:
        """A request is sent: what comes next is a header section."""
        self._begin()
        super().write(data)  # type: ignore[no-untyped-call]

    def writeSequence(self, data: Sequence[bytes]) -> None:
        """See write."""
        self._begin()
        super().writeSequence(data)  # type: ignore[no-untyped-call]

    def _begin(self) -> None:
        if not self._in_head:
            self._in_head, self._left, self._end = True, MAX_HEAD_BYTES, b""

    def dataReceived(self, data: bytes) -> None:
        """Count what belongs to a header section."""
        if self._in_head:
            seen = self._end + data
            end = seen.find(b"\r\n\r\n")
            if end < 0:
                end = len(seen)
                self._end = data[-3:] if len(data) >= 3 else seen[-3:]
            else:
                self._in_head = False
            self._left -= end
            # Nobody asked to be told to go on: such answers could come without an end.
            if self._left < 0 or seen.startswith(b"HTTP/1.1 1"):
                self.transport.abortConnection()  # type: ignore[union-attr]
                return
        super().dataReceived(data)  # type: ignore[no-untyped-call]


@implementer(IEndpoint)
class _BoundedEndpoint:
    """Connects to a server by a connection that is bounded."""

    def __init__(self, endpoint: IEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See IStreamClientEndpoint."""
        wrapping = WrappingFactory(factory)
        wrapping.protocol = _Bounded
        # Else each connection is two lines in the log.
        wrapping.noisy = False
        cast(Any, factory).noisy = False
        connecting: Deferred[Any] = self._endpoint.connect(wrapping)
        return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Endpoints by address, each made once."""

    def __init__(self, reactor: Any, connect_timeout_s: float) -> None:
        self._reactor = reactor
        self._connect_timeout_s = connect_timeout_s
        self._made: dict[bytes, _BoundedEndpoint] = {}

    def endpointForURI(self, uri: URI) -> _BoundedEndpoint:
        """See IAgentEndpointFactory."""
        endpoint = self._made.get(uri.netloc)
        if endpoint is None:
            if len(self._made) >= 4096:
                self._made.clear()
            endpoint = self._made[uri.netloc] = _BoundedEndpoint(
                server_endpoint(
                    self._reactor, uri.host.decode("ascii"), uri.port, self._connect_timeout_s
                )
            )
        return endpoint


class HttpPool:
    """The connections to all servers, of HTTP without TLS.

    :ivar agent: makes requests over them.
    :ivar fresh: makes each request over a connection of its own.
    :ivar direct: makes requests that need no more than it can, at less cost, over others.
    """

    def __init__(self, reactor: Any, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = IDLE_CONNECTIONS
        self._pool.cachedConnectionTimeout = IDLE_S  # type: ignore[assignment]
        # A request is signed anew for each try, so trying again is not the pool's affair.
        self._pool.retryAutomatically = False
        endpoints = _Endpoints(reactor, connect_timeout_s)
        self.agent: IAgent = Agent.usingEndpointFactory(reactor, endpoints, self._pool)
        self.fresh: IAgent = Agent.usingEndpointFactory(reactor, endpoints, None)
        self.direct = DirectPool(reactor, connect_timeout_s)

    async def close(self) -> None:
        """Close the connections that are idle."""
        await self.direct.close()
        await self._pool.closeCachedConnections()
