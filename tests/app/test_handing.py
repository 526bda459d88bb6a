"""Which process gets a connection; with processes that only note what they get."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.address import IPv4Address

from dostore.app.handing import QUICK_REQUESTS, QUICK_REQUESTS_AGAIN, HandOut, adopt
from dostore.web.channel import Channel
from dostore.web.connections import HttpLimits
from dostore.web.passing import Passing
from tests.support.http import HttpTestCase, request_bytes
from tests.web.test_passing import Detachable

PEER = IPv4Address("TCP", "127.0.0.1", 40000)


class Other:
    """A process.

    :ivar got: what it was given: whether there was room, and what had come.
    """

    def __init__(self) -> None:
        self.count = 0
        self.ready = True
        self.willing = True
        self.got: list[tuple[bool, bytes]] = []

    def give(self, descriptor: int, full: bool, data: bytes) -> bool:
        """See Taker."""
        if self.willing:
            self.count += 1
            self.got.append((full, data))
        return self.willing


class Adopting:
    """A reactor that joins channels to nothing."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.channels: list[Any] = []

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        """See IReactorSocket."""
        if self.error is not None:
            raise self.error
        self.channels.append(factory.buildProtocol(PEER))


class HandOutTestCase(HttpTestCase):
    """A front with two other processes."""

    limits = HttpLimits(max_connections=6)

    def setUp(self) -> None:
        """Put the front before them."""
        super().setUp()
        self.others = [Other(), Other()]
        self.hand_out = HandOut(self.factory, self.others)

    def connect(self, *, reading: bool = True) -> Detachable:
        """A new client."""
        factory: Any = self.hand_out
        client = Detachable(factory, self.clock, reading=reading)
        if isinstance(client.protocol, Channel):
            # It could not be given.
            client.channel = client.protocol
        if isinstance(client.channel, Channel):
            self.clients.append(client)
        return client

    @property
    def counts(self) -> list[int]:
        """How many connections each has, the front first."""
        return [self.factory.connection_count, *(other.count for other in self.others)]


class NewConnectionTests(HandOutTestCase):
    """Connections that were just accepted."""

    def test_who_has_the_fewest_gets_the_next(self) -> None:
        """They are spread evenly; the front is the last to get one."""
        seen = []
        for _ in range(6):
            self.connect()
            seen.append(self.counts)
        self.assertEqual(seen[:3], [[0, 1, 0], [0, 1, 1], [1, 1, 1]])
        self.assertEqual(seen[-1], [2, 2, 2])

    def test_one_that_is_given_is_not_here_any_more(self) -> None:
        """The front closes its descriptor, and tells nobody that the connection is closed."""
        client = self.connect()
        self.assertTrue(client.socket.closed)
        self.assertFalse(client.lost)
        self.assertEqual(self.others[0].got, [(False, b"")])

    def test_processes_that_are_not_ready(self) -> None:
        """They get none."""
        self.others[0].ready = False
        for _ in range(4):
            self.connect()
        self.assertEqual(self.counts, [2, 0, 2])

    def test_one_that_cannot_be_given(self) -> None:
        """The front serves it itself."""
        for other in self.others:
            other.willing = False
        client = self.connect()
        self.assertIs(client.channel.__class__, Channel)
        client.send(request_bytes("GET", "/health/live"))
        self.settle()
        self.assertEqual(client.answer().status, 200)

    def test_the_limit_is_one_for_all(self) -> None:
        """One too many takes the place of an idle one of the front."""
        first = [self.connect() for _ in range(6)]
        self.connect()
        self.settle()
        self.assertEqual(self.counts, [2, 2, 2])
        self.assertEqual(sum(client.lost for client in first), 1)

    def test_when_the_front_has_none_that_is_idle(self) -> None:
        """The process that has the most has to find one that is, or refuses it."""
        gate = self.gate("find")
        self.others[0].count, self.others[1].count = 2, 3
        client = self.connect()
        self.assertIsInstance(client.channel, Channel)
        client.send(request_bytes("GET", "/objects/a"))
        self.connect()
        self.assertEqual(self.others[1].got, [(True, b"")])
        gate.open()
        self.settle()

    def test_refused_by_the_front(self) -> None:
        """Where no process can take it, it is told to try again."""
        for other in self.others:
            other.willing, other.count = False, 3
        client = self.connect()
        self.settle()
        self.assertEqual(client.answer().status, 503)

    def test_none_while_it_stops(self) -> None:
        """No connection is taken any more."""
        self.factory.draining = True
        self.assertTrue(self.connect().refused)


class OldConnectionTests(HandOutTestCase):
    """Connections that change process."""

    limits = HttpLimits()

    def at_front(self, count: int) -> list[Detachable]:
        """So many connections of the front."""
        for other in self.others:
            other.ready = False
        clients = [self.connect() for _ in range(count)]
        for other in self.others:
            other.ready = True
        return clients

    def get(self, client: Detachable, times: int, path: str = "/objects/a") -> None:
        """Send GETs one after the other."""
        for _ in range(times):
            client.send(request_bytes("GET", path))
            self.settle()

    def put(self) -> None:
        """Have an object."""
        (client,) = self.at_front(1)
        client.send(request_bytes("PUT", "/objects/a", body=b"x"))
        self.settle()
        self.assertEqual(client.answer("PUT").status, 200)
        client.close()
        self.clients.remove(client)

    def test_readers_are_given_to_readers(self) -> None:
        """After some GETs in a row a connection goes to who has fewer, with the next one."""
        self.put()
        client, _ = self.at_front(2)
        self.get(client, QUICK_REQUESTS)
        self.assertEqual(self.counts, [2, 0, 0])
        self.get(client, 1)
        self.assertEqual(self.counts, [1, 1, 0])
        self.assertEqual(
            self.others[0].got, [(False, b"GET /objects/a HTTP/1.1\r\nhost:localhost\r\n\r\n")]
        )
        self.assertEqual(len(client.answers()), QUICK_REQUESTS)

    def test_only_to_who_has_fewer(self) -> None:
        """A process that would then have more does not get it."""
        self.put()
        client, _ = self.at_front(2)
        for other in self.others:
            other.count = 1
        self.get(client, QUICK_REQUESTS + 5)
        self.assertEqual(self.counts, [2, 1, 1])

    def test_only_readers(self) -> None:
        """One that writes now and then, or asks for what is not there, or something else, stays."""
        self.put()
        clients = self.at_front(3)
        self.get(clients[0], 50, "/objects/none")
        self.get(clients[1], 50, "/health/live")
        for _ in range(4):
            self.get(clients[2], QUICK_REQUESTS - 1)
            clients[2].send(request_bytes("DELETE", "/objects/none"))
            self.settle()
        self.assertEqual(self.counts, [3, 0, 0])

    def test_none_while_it_stops(self) -> None:
        """Then each stays where it is."""
        self.put()
        client, _ = self.at_front(2)
        self.get(client, QUICK_REQUESTS)
        self.factory.draining = True
        client.send(request_bytes("GET", "/objects/a"))
        self.settle()
        self.assertEqual(self.others[0].got, [])

    def come_back(self, late: bool) -> Any:
        """The channel of a connection that was given back."""
        reactor = Adopting()
        one, other = socket.socketpair()
        self.addCleanup(other.close)
        self.hand_out.come_back(reactor, one.detach(), late, b"GET /")
        (channel,) = reactor.channels
        self.addCleanup(self.factory.disconnected, channel)
        return channel

    def test_given_back(self) -> None:
        """The front goes on with what had come."""
        channel = self.come_back(late=False)
        self.assertEqual((channel.handed, channel.quick), (b"GET /", 0))
        self.assertEqual(self.counts, [1, 0, 0])

    def test_given_back_for_what_could_not_be_read(self) -> None:
        """It is long before it goes again."""
        self.assertEqual(self.come_back(late=True).quick, QUICK_REQUESTS - QUICK_REQUESTS_AGAIN)

    def test_a_client_that_went_away_on_the_way(self) -> None:
        """Nothing is left of it."""
        reactor = Adopting()
        reactor.error = OSError(107, os.strerror(107))
        channel = self.factory.make_channel(False)
        assert channel is not None
        one, other = socket.socketpair()
        adopt(reactor, one.detach(), channel, b"")
        self.assertEqual(other.recv(1), b"")
        other.close()
        self.assertEqual(self.factory.connection_count, 0)

    def test_it_is_the_fronts_passing(self) -> None:
        """It promises what connections ask of it."""
        passing: Passing = self.hand_out
        self.assertIs(self.factory.passing, passing)
