"""How servers are connected to by address and by name."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, DNSLookupError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport

from dostore.http.endpoint import server_endpoint
from tests.support.cases import SyncTestCase


class _Resolver:
    """Names are looked up by the test.

    :ivar asked: who wants to know, by name.
    """

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def resolveHostName(self, receiver: Any, name: str, portNumber: int) -> None:
        """See IHostnameResolver."""
        self.asked[name] = receiver

    def answer(self, name: str, *addresses: str) -> None:
        """A name is looked up."""
        for address in addresses:
            self.asked[name].addressResolved(IPv4Address("TCP", address, 80))
        self.asked[name].resolutionComplete()


class EndpointTests(SyncTestCase):
    """Endpoints in a reactor without sockets."""

    def setUp(self) -> None:
        """No connection yet."""
        super().setUp()
        self.names = _Resolver()
        self.reactor = MemoryReactorClock()
        self.reactor.nameResolver = cast(Any, self.names)

    def connect(self, host: str) -> Deferred[Any]:
        """Begin to connect."""
        endpoint = server_endpoint(self.reactor, host, 80, 2.0)
        connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(Protocol))
        return connecting

    def connected_to(self) -> list[tuple[str, int]]:
        """Where connections were begun to."""
        return [(client[0], client[1]) for client in self.reactor.tcpClients]

    def test_addresses_are_not_looked_up(self) -> None:
        """Neither an IPv4 nor an IPv6 address is asked for like a name."""
        for host in ("10.0.0.1", "::1"):
            _ = self.connect(host).addErrback(lambda _: None)
        self.assertEqual(self.names.asked, {})
        self.assertEqual(self.connected_to(), [("10.0.0.1", 80), ("::1", 80)])

    def test_names(self) -> None:
        """A name is looked up, and what it stands for is connected to."""
        connecting = self.connect("drive-1.example")
        self.names.answer("drive-1.example", "10.0.0.1")
        self.assertEqual(self.connected_to(), [("10.0.0.1", 80)])
        factory: Any = self.reactor.tcpClients[0][2]
        factory.buildProtocol(None).makeConnection(StringTransport())
        self.assertIsInstance(self.successResultOf(connecting), Protocol)

    def test_no_such_name(self) -> None:
        """A name that stands for nothing is an error."""
        connecting = self.connect("nowhere.example")
        self.names.answer("nowhere.example")
        self.failureResultOf(connecting, DNSLookupError)

    def test_given_up(self) -> None:
        """Who gives up, before or after the name is known, learns no more than that."""
        for known in (False, True):
            connecting = self.connect("drive-1.example")
            if known:
                self.names.answer("drive-1.example", "10.0.0.1")
            connecting.cancel()
            self.failureResultOf(connecting, ConnectingCancelledError)
