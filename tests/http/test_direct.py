"""Whole requests and whole answers, over connections that a test plays the server of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from dostore.errors import NodeUnavailable
from dostore.http import direct
from dostore.http.body import Broken
from dostore.http.direct import IDLE_CONNECTIONS, IDLE_S, MAX_HEAD_BYTES, DirectPool
from dostore.http.exchange import Answer, NotConnected
from tests.support.cases import SyncTestCase

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Field:  a b \r\nX-Field: c\r\n\r\nabc"


class _Transport(StringTransport):
    """The client's end of a connection."""

    bufferSize = 0
    dataBuffer = b""
    _tempDataLen = 0

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ITCPTransport."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """See ITCPTransport."""


class _Socket:
    """Takes so many bytes of a request at once.

    :ivar sent: what it took.
    """

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.sent = b""

    def sendmsg(self, pieces: Sequence[bytes | memoryview]) -> int:
        """See socket."""
        if not self.takes:
            raise BlockingIOError
        taken = b"".join(pieces)[: self.takes]
        self.sent += taken
        return len(taken)


class _Endpoint:
    """Connects at once, or not.

    :cvar connections: those that were made, each with its transport.
    """

    connections: ClassVar[list[tuple[Any, _Transport]]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, reactor: object, host: str, port: int, timeout: float) -> None:
        self.where = host, port, timeout

    def connect(self, factory: Any) -> Deferred[Any]:
        """See IStreamClientEndpoint."""
        if self.error is not None:
            return fail(self.error)
        protocol = factory.buildProtocol(None)
        transport = _Transport()
        protocol.makeConnection(transport)
        self.connections.append((protocol, transport))
        made: Deferred[Any] = Deferred()
        made.callback(protocol)
        return made


class DirectPoolTests(SyncTestCase):
    """A pool."""

    def setUp(self) -> None:
        """No connection yet."""
        super().setUp()
        self.clock = Clock()
        self.pool = DirectPool(self.clock)
        self.connections: list[tuple[Any, _Transport]] = []
        self.patch(direct, "server_endpoint", _Endpoint)
        self.patch(_Endpoint, "connections", self.connections)

    def ask(self, *, limit: int = 100, **how: bool) -> Deferred[Answer]:
        """Send a request."""
        return Deferred.fromCoroutine(
            self.pool.ask("host:80", [b"request", memoryview(b" body")], limit=limit, **how)
        )

    def lose(self, number: int) -> None:
        """A connection is gone."""
        self.connections[number][0].connectionLost(Failure(ConnectionLost()))

    def answered(self, *pieces: bytes, **how: Any) -> Answer:
        """What a request is answered when these pieces come."""
        asking = self.ask(**how)
        connection, _ = self.connections[-1]
        for piece in pieces:
            connection.dataReceived(piece)
        return self.successResultOf(asking)

    def test_an_answer(self) -> None:
        """A request goes out in one write; its answer has the status, all fields and the body."""
        answer = self.answered(ANSWER)
        self.assertEqual(self.connections[0][1].value(), b"request body")
        self.assertEqual((answer.status, answer.body), (200, b"abc"))
        self.assertEqual(answer.headers.getRawHeaders(b"x-field"), [b"a b", b"c"])
        self.assertEqual(list(answer.headers.getRawHeaders(b"x-none")), [])

    def test_what_a_socket_takes(self) -> None:
        """What the socket takes of a request goes out at once, the rest by the transport, after
        what that still has of a request from before.
        """
        self.answered(ANSWER)
        connection, transport = self.connections[0]
        for takes in range(14):
            transport.clear()
            connection._socket = _Socket(takes)
            self.answered(ANSWER)
            self.assertEqual(connection._socket.sent, b"request body"[:takes])
            self.assertEqual(transport.value(), b"request body"[takes:])
        transport.clear()
        transport.dataBuffer = b"of the last one"
        self.answered(ANSWER)
        self.assertEqual(transport.value(), b"request body")

    def test_byte_by_byte(self) -> None:
        """It makes no difference how an answer is cut, with a length or in chunks."""
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )
        for data in (ANSWER, chunked):
            answer = self.answered(*(data[at : at + 1] for at in range(len(data))))
            self.assertEqual(answer.body, b"abc")
        self.assertEqual(len(self.connections), 1)

    def test_no_body(self) -> None:
        """The answer to a HEAD and a 204 end with their header section; the connection stays."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        self.assertEqual(self.answered(head, bodiless=True).body, b"")
        self.assertEqual(self.answered(b"HTTP/1.1 204 No Content\r\n\r\n").body, b"")
        empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.assertEqual(self.answered(empty).body, b"")
        self.assertEqual(len(self.connections), 1)

    def test_used_again(self) -> None:
        """A connection takes one request at a time, and the next when it has been answered."""
        first, second = self.ask(), self.ask()
        self.assertEqual(len(self.connections), 2)
        for connection, _ in self.connections:
            connection.dataReceived(ANSWER)
        for asking in (first, second):
            self.successResultOf(asking)
        for _ in range(3):
            self.answered(ANSWER)
        self.assertEqual(len(self.connections), 2)
        asking = self.ask(fresh=True)
        self.assertEqual(len(self.connections), 3)
        self.assertNoResult(asking)
        asking.cancel()
        self.failureResultOf(asking, CancelledError)

    def test_not_used_again(self) -> None:
        """A connection that its server closes, or sends too much on, is not used again."""
        closing = ANSWER.replace(b"X-Field: c", b"Connection: Close")
        for data in (closing, ANSWER + b"x"):
            self.answered(data)
            self.assertTrue(self.connections[-1][1].disconnecting)
        self.answered(ANSWER)
        self.assertEqual(len(self.connections), 3)

    def test_unasked(self) -> None:
        """What comes when nothing was asked ends the connection."""
        self.answered(ANSWER)
        connection, transport = self.connections[0]
        connection.dataReceived(ANSWER)
        self.assertTrue(transport.disconnected)

    def test_malformed(self) -> None:
        """What is no answer, or one whose end cannot be known, is refused and cut."""
        for data in (
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nNo field\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"\r\n\r\n",
        ):
            asking = self.ask()
            connection, transport = self.connections[-1]
            connection.dataReceived(data)
            self.failureResultOf(asking, NodeUnavailable)
            self.assertTrue(transport.disconnected, data)
            connection.dataReceived(b"more")
            self.lose(-1)

    def test_bounds(self) -> None:
        """Neither a header section nor a body is taken beyond its bound, told or not."""
        large = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + 1)
        for data in (
            large,
            large + b"\r\n",
            ANSWER.replace(b"3", b"101"),
            ANSWER.replace(b"3", b"999999999999999999"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101,
        ):
            asking = self.ask(limit=100)
            connection, transport = self.connections[-1]
            connection.dataReceived(data)
            error = self.failureResultOf(asking, NodeUnavailable).value
            self.assertNotIsInstance(error, Broken)
            self.assertTrue(transport.disconnected)

    def test_broken(self) -> None:
        """A connection that breaks before the answer is whole, at whatever place, may be one that
        its server had closed: another may do.
        """
        for cut in (0, 10, len(ANSWER) - 1):
            asking = self.ask()
            self.connections[-1][0].dataReceived(ANSWER[:cut]) if cut else None
            self.lose(-1)
            self.failureResultOf(asking, Broken)

    def test_idle_ones_that_break(self) -> None:
        """An idle connection that is gone is not used."""
        self.answered(ANSWER)
        self.lose(0)
        self.answered(ANSWER)
        self.assertEqual(len(self.connections), 2)

    def test_cancelled(self) -> None:
        """A request that is given up ends its connection."""
        asking = self.ask()
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        connection, transport = self.connections[0]
        self.assertTrue(transport.disconnected)
        connection.dataReceived(ANSWER)
        self.lose(0)

    def test_no_connection(self) -> None:
        """A server that takes no connection is told from one that breaks it."""
        self.patch(_Endpoint, "error", ConnectionRefusedError("Connection refused"))
        error = self.failureResultOf(self.ask(), NotConnected).value
        self.assertIn("host:80 cannot be reached: Connection", str(error))

    def test_idle_for_long(self) -> None:
        """Connections are closed when they have been idle for long, each in its time."""
        first, second = self.ask(), self.ask()
        self.connections[0][0].dataReceived(ANSWER)
        self.clock.advance(10)
        self.connections[1][0].dataReceived(ANSWER)
        for asking in (first, second):
            self.successResultOf(asking)

        def closed() -> list[bool]:
            return [transport.disconnecting for _, transport in self.connections]

        self.clock.advance(IDLE_S - 10)
        self.assertEqual(closed(), [True, False])
        self.clock.advance(9)
        self.answered(ANSWER)
        self.clock.advance(IDLE_S - 1)
        self.assertEqual(closed(), [True, False])
        self.clock.advance(1)
        self.assertEqual(closed(), [True, True])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_so_many_idle(self) -> None:
        """Only so many are kept for later."""
        askings = [self.ask() for _ in range(IDLE_CONNECTIONS + 3)]
        for connection, _ in self.connections:
            connection.dataReceived(ANSWER)
        for asking in askings:
            self.successResultOf(asking)
        closed = [transport.disconnecting for _, transport in self.connections]
        self.assertEqual(sum(closed), 3)

    def test_closed(self) -> None:
        """Closing the pool ends every connection and its timer, and returns when they are gone."""
        self.answered(ANSWER)
        asking = self.ask(fresh=True)
        closing = Deferred.fromCoroutine(self.pool.close())
        self.assertNoResult(closing)
        for number, (_, transport) in enumerate(self.connections):
            self.assertTrue(transport.disconnected)
            self.lose(number)
        self.successResultOf(closing)
        self.failureResultOf(asking, Broken)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(Deferred.fromCoroutine(self.pool.close()))
