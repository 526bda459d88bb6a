"""Connections that go to another process: which, with what, and what is left of them here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from dostore.web.api.site import build_factory
from dostore.web.channel import Channel
from dostore.web.passing import PassOn, head_of
from dostore.web.request import Request
from dostore.web.resource import Resource
from tests.support.http import Client, Gate, HttpTestCase, parse_answer, request_bytes


class Neighbour:
    """Passing, with a process that is only noted.

    :ivar mine: beginnings of paths that are answered here.
    :ivar taken: what each connection came with.
    """

    serves_all = False

    def __init__(self) -> None:
        self.mine: tuple[bytes, ...] = (b"/objects/",)
        self.willing = True
        self.taken: list[bytes] = []
        self.gone: list[Channel] = []
        self.answers: list[tuple[int, bool]] = []

    def keeps(self, request: Request) -> bool:
        """See Passing."""
        return request.method == b"GET" and request.path.startswith(self.mine)

    def answered(self, request: Request, at_once: bool) -> None:
        """See Passing."""
        self.answers.append((request.status, at_once))

    def take(self, channel: Channel, descriptor: int, data: bytes) -> bool:
        """See Passing."""
        if self.willing:
            self.taken.append(data)
        elif self.serves_all:
            # Whatever made it leave does so no more.
            self.mine = (b"/",)
        return self.willing

    def ended(self, channel: Channel) -> None:
        """See Passing."""
        self.gone.append(channel)


class Socket:
    """What a transport reads and writes."""

    closed = False

    def close(self) -> None:
        """Give the descriptor back."""
        self.closed = True


class Detachable(Client):
    """A client whose connection can leave the process."""

    def __init__(self, *args: object, **more: object) -> None:
        self.socket = Socket()
        self.protocol: object = None
        super().__init__(*args, **more)  # type: ignore[arg-type]

    def fileno(self) -> int:
        """A number of no file."""
        return 1 << 20

    def stopReading(self) -> None:
        """See a transport."""
        self.paused = True

    def stopWriting(self) -> None:
        """See a transport."""


class PassingTests(HttpTestCase):
    """A server that answers some requests, beside another that answers the rest."""

    def setUp(self) -> None:
        """Make the other one."""
        self.neighbour = Neighbour()
        super().setUp()
        self.factory.passing = self.neighbour

    def connect(self, *, reading: bool = True) -> Detachable:
        """A new client."""
        client = Detachable(self.factory, self.clock, reading=reading)
        self.clients.append(client)
        return client

    def assertPassed(self, client: Detachable, data: bytes) -> None:
        """It is at the other server, with these bytes, and nothing of it is here."""
        self.assertEqual(self.neighbour.taken, [data])
        self.assertTrue(client.socket.closed)
        self.assertFalse(client.lost)
        self.assertEqual(self.factory.connection_count, 0)
        self.assertEqual(self.factory.running, set())
        self.assertEqual(self.neighbour.gone, [])

    def test_what_is_kept_is_answered(self) -> None:
        """A request that is answered here stays, and how it was answered is told."""
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        self.settle()
        self.assertEqual(client.answer().status, 404)
        self.assertEqual(self.neighbour.taken, [])
        self.assertEqual(self.neighbour.answers, [(404, True)])

    def test_with_its_body(self) -> None:
        """A PUT goes with all that has come of its body, whatever it is."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"X": " y "}, b"one\r\n\r\ntwo"))
        head = b"PUT /objects/a HTTP/1.1\r\nhost:localhost\r\nx:y\r\ncontent-length:10\r\n\r\n"
        self.assertPassed(client, head + b"one\r\n\r\ntwo")

    def test_with_what_was_sent_ahead(self) -> None:
        """Requests that were sent ahead go with it, and those before it are answered here."""
        client = self.connect()
        ahead = request_bytes("GET", "/objects/b")
        client.send(
            request_bytes("GET", "/objects/a") + request_bytes("GET", "/health/live") + ahead
        )
        self.settle()
        self.assertPassed(client, b"GET /health/live HTTP/1.1\r\nhost:localhost\r\n\r\n" + ahead)
        self.assertEqual([answer.status for answer in client.answers()], [404])

    def test_late(self) -> None:
        """A request that turns out not to be answered here goes, with what came meanwhile."""

        async def handle(request: Request) -> None:
            await gate.deferred
            raise PassOn

        gate = Gate()
        factory = self.factory = build_factory(
            self.store,  # type: ignore[arg-type]
            clock=self.clock,
        )
        router = factory.handle.__self__  # type: ignore[attr-defined]
        self.patch(router, "_find", lambda path: (_resource(handle), b""))
        factory.passing = self.neighbour
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a?version=2"), b"GET /objects/")
        gate.open()
        self.settle()
        head = b"GET /objects/a?version=2 HTTP/1.1\r\nhost:localhost\r\n\r\n"
        self.assertPassed(client, head + b"GET /objects/")

    def test_after_what_is_still_to_be_sent(self) -> None:
        """It waits until the client has taken the answers before, for they come first."""
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a") + request_bytes("GET", "/metrics"))
        self.settle()
        self.assertEqual(self.neighbour.taken, [])
        client.read_on()
        self.settle()
        self.assertPassed(client, b"GET /metrics HTTP/1.1\r\nhost:localhost\r\n\r\n")

    def test_a_client_that_goes_away_before(self) -> None:
        """Of a connection that is lost while it waits to go, nothing is passed on."""
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a") + request_bytes("GET", "/metrics"))
        client.close()
        self.settle()
        self.assertEqual(self.neighbour.taken, [])
        self.assertEqual(self.neighbour.gone, [client.channel])

    def test_nobody_to_go_to(self) -> None:
        """A connection that the other server cannot take is told to try again."""
        self.neighbour.willing = False
        client = self.connect()
        client.send(request_bytes("GET", "/metrics"))
        self.settle()
        self.assertEqual(client.answer().status, 503)
        self.assertTrue(client.ended)

    def test_nobody_to_go_to_from_where_all_is_answered(self) -> None:
        """It is answered here then, at once or when all before is sent, and so is what follows."""
        self.neighbour.willing, self.neighbour.serves_all = False, True
        for reading in (True, False):
            self.neighbour.mine = (b"/objects/",)
            client = self.connect(reading=reading)
            client.send(request_bytes("GET", "/objects/a") + request_bytes("GET", "/metrics"))
            client.send(request_bytes("GET", "/health/live"))
            client.read_on()
            self.settle()
            self.assertEqual([answer.status for answer in client.answers()], [404, 200, 200])

    def test_what_arrives_with_bytes(self) -> None:
        """A connection that comes from another process goes on with what that had received."""
        channel = self.factory.make_channel(False)
        assert channel is not None
        channel.handed = request_bytes("GET", "/objects/a")
        self.patch(self.factory, "buildProtocol", lambda addr: channel)
        client = self.connect()
        self.assertEqual(client.answer().status, 404)

    def test_a_header_section_made_again(self) -> None:
        """It says the same as the first: made of it again, it does not change."""
        client = self.connect()
        seen: list[bytes] = []

        def keeps(request: Request) -> bool:
            seen.append(head_of(request))
            return True

        self.patch(self.neighbour, "keeps", keeps)
        client.send(
            b"GET http://localhost/objects/%61?version=1&x HTTP/1.1\r\nHost:  localhost\r\n"
            b"accept: a\r\nX-1:\r\nAccept:\tb, c \r\n\r\n"
        )
        client.send(seen[0])
        self.settle()
        self.assertEqual(
            seen,
            [
                b"GET /objects/%61?version=1&x HTTP/1.1\r\nhost:localhost\r\naccept:a\r\n"
                b"accept:b, c\r\nx-1:\r\n\r\n"
            ]
            * 2,
        )
        _, rest = parse_answer(client.received, "GET", False)
        self.assertEqual(parse_answer(rest, "GET", False)[0].status, 404)


def _resource(method: Callable[[Request], Coroutine[Any, Any, None]]) -> Resource:
    async def get(request: Request, rest: bytes) -> None:
        await method(request)

    return Resource("objects", {b"GET": get})
