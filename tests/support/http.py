"""A client's bytes and the real factory, joined in memory under a clock that the test turns."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.web.api.site import build_factory
from dostore.web.connections import Connections, HttpLimits
from tests.support.cases import SyncTestCase
from tests.support.memory_store import MemoryStore

#: What a TCP transport reads at a time, and holds before it asks its producer to pause.
BUFFER_BYTES = 65536


@frozen
class Answer:
    """One answer, parsed.

    :ivar headers: by their names in lower case.
    :ivar complete: the body came to its end.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    head: bytes


@implementer(ITransport, IPushProducer, IConsumer)
class Client:
    """A client as the server's transport, with the behaviour of Twisted's TCP transports.

    :ivar received: what the client has read so far.
    :ivar reading: whether it reads what the server sends, at once.
    :ivar refused: the connection was closed before it began.
    :ivar ended: the server has sent its last byte.
    :ivar aborted: the server has cut the connection.
    :ivar lost: the connection is gone.
    """

    SEND_LIMIT = 131072
    connected = True

    def __init__(self, factory: Connections, clock: Clock, *, reading: bool = True) -> None:
        self.clock = clock
        self.reading = reading
        self.received = b""
        self.dataBuffer = b""
        self.offset = 0
        self._tempDataLen = 0
        self.bufferSize = BUFFER_BYTES
        self.writes: list[bytes] = []
        self.paused = False
        self.pauses = 0
        self.disconnecting = False
        self.aborted = False
        self.ended = False
        self.lost = False
        self._ending = False
        self._closing_by: type[Exception] | None = None
        self._inbox = b""
        self._sent_end = False
        self._producer: Any = None
        self.producerPaused = False
        channel = factory.buildProtocol(self.getPeer())
        self.channel: Any = channel
        self.refused = channel is None
        if channel is not None:
            channel.makeConnection(self)

    # What a test does

    def send(self, *pieces: bytes) -> None:
        """Send, each piece in a segment of its own."""
        for piece in pieces:
            self._inbox += piece
            self._deliver()

    @property
    def unread(self) -> int:
        """Bytes that were sent and that the server has not read."""
        return len(self._inbox)

    def take(self, size: int | None = None) -> None:
        """Read what the server has sent, or its next ``size`` bytes."""
        taken = self.dataBuffer if size is None else self.dataBuffer[:size]
        self.dataBuffer = self.dataBuffer[len(taken) :]
        self.received += taken
        self._sent()

    def read_on(self) -> None:
        """From now on, read everything at once."""
        self.reading = True
        self.take()

    def half_close(self) -> None:
        """Send nothing more, but go on reading."""
        self._sent_end = True
        self._deliver()

    def close(self) -> None:
        """Go away."""
        self._lose(ConnectionDone)

    def answers(self, *methods: str) -> list[Answer]:
        """What was received, parsed; ``methods`` names those of the requests, GET where not."""
        found = []
        rest = self.received
        asked = list(methods)
        while rest:
            answer, rest = parse_answer(rest, asked.pop(0) if asked else "GET", self.ended)
            found.append(answer)
        return found

    def answer(self, method: str = "GET") -> Answer:
        """The one answer that was received."""
        (answer,) = self.answers(method)
        return answer

    # What a transport does

    def _deliver(self) -> None:
        while self._inbox and not (self.paused or self.lost or self.disconnecting or self.aborted):
            piece, self._inbox = self._inbox[: self.bufferSize], self._inbox[self.bufferSize :]
            self.channel.dataReceived(piece)
        if self._sent_end and not (self._inbox or self.lost or self.disconnecting):
            self._sent_end = False
            self.channel.readConnectionLost()

    def write(self, data: bytes) -> None:
        """See ITransport."""
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if self.lost or self.aborted or self.ended or self._ending:
            return
        self.writes.append(data)
        self.dataBuffer += data
        if self.reading:
            self.take()
        elif self._producer is not None and len(self.dataBuffer) > self.bufferSize:
            self.producerPaused = True
            self._producer.pauseProducing()

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        """See ITransport."""
        self.write(b"".join(pieces))

    def _sent(self) -> None:
        if self.dataBuffer:
            return
        if self.producerPaused and self._producer is not None:
            self.producerPaused = False
            self._producer.resumeProducing()
        elif self.disconnecting and self._producer is None:
            self._lose_soon(ConnectionDone)
        elif self._ending:
            self.ended = True

    def loseConnection(self) -> None:
        """See ITransport."""
        if self.lost or self.disconnecting:
            return
        self.disconnecting = True
        if self.ended or not self.dataBuffer:
            self._lose_soon(ConnectionDone)

    def loseWriteConnection(self) -> None:
        """See ITCPTransport."""
        self._ending = True
        if not self.dataBuffer:
            self.ended = True

    def abortConnection(self) -> None:
        """See ITCPTransport."""
        self.aborted = True
        self._lose_soon(ConnectionAborted)

    def _lose_soon(self, reason: type[Exception]) -> None:
        if self._closing_by is None:
            self._closing_by = reason
            self.clock.callLater(0, self._lose, reason)

    def _lose(self, reason: type[Exception]) -> None:
        if not self.lost:
            self.lost = self.ended = True
            if self._producer is not None:
                self._producer.stopProducing()
                self._producer = None
            self.channel.connectionLost(Failure(reason()))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See IConsumer."""
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._producer = producer

    def unregisterProducer(self) -> None:
        """See IConsumer."""
        self._producer = None
        self.producerPaused = False
        self._sent()

    def pauseProducing(self) -> None:
        """See IPushProducer."""
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        """See IPushProducer."""
        self.paused = False
        if self._inbox:
            self.clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        """See IPushProducer."""
        self.loseConnection()

    def getHandle(self) -> Client:
        """See ISystemHandle: there is none."""
        return self

    def fileno(self) -> int:
        """There is no descriptor."""
        raise OSError(errno.EBADF, "this is no socket")

    def getPeer(self) -> IPv4Address:
        """See ITransport."""
        return IPv4Address("TCP", "127.0.0.1", 40000)

    def getHost(self) -> IPv4Address:
        """See ITransport."""
        return IPv4Address("TCP", "127.0.0.1", 12345)


def parse_answer(data: bytes, method: str, ended: bool) -> tuple[Answer, bytes]:
    """The first answer in ``data``, and what comes after it."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        raise AssertionError(f"this is no answer: {data!r}")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status_text, _ = first.split(" ", 2)
    if version != "HTTP/1.1":
        raise AssertionError(f"this is no status line: {first!r}")
    status = int(status_text)
    headers: dict[str, str] = {}
    for line in lines:
        name, value = line.split(": ", 1)
        if name.lower() in headers:
            raise AssertionError(f"{name} is there twice")
        headers[name.lower()] = value
    if method == "HEAD" or status in (100, 204, 304):
        return Answer(status, headers, b"", True, head), rest
    if headers.get("transfer-encoding") == "chunked":
        body, complete, rest = _dechunk(rest)
        return Answer(status, headers, body, complete, head), rest
    if "content-length" in headers:
        length = int(headers["content-length"])
        return Answer(status, headers, rest[:length], len(rest) >= length, head), rest[length:]
    return Answer(status, headers, rest, ended, head), b""


def _dechunk(data: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while True:
        line, end, after = data.partition(b"\r\n")
        if not end:
            return body, False, b""
        size = int(line, 16)
        if size == 0:
            return body, after[:2] == b"\r\n", after[2:]
        body += after[:size]
        if after[size : size + 2] != b"\r\n":
            return body, False, b""
        data = after[size + 2 :]


def request_bytes(
    method: str, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> bytes:
    """A request with a Host, and with a Content-Length when it has a body."""
    fields = {"Host": "localhost", **(headers or {})}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body or b"")


class Gate:
    """What a store waits at.

    :ivar deferred: what it awaits; several may.
    """

    def __init__(self) -> None:
        self.deferred: Deferred[None] = Deferred()

    def open(self) -> None:
        """Let all go on."""
        self.deferred.callback(None)


class HttpTestCase(SyncTestCase):
    """A server over a store in memory. Nothing of it may be left when a test ends."""

    limits = HttpLimits()
    require_digest = False

    def setUp(self) -> None:
        """Build the server."""
        super().setUp()
        self.clock = Clock()
        self.store = MemoryStore()
        self.factory = self.build()
        self.clients: list[Client] = []
        self.addCleanup(self._check_nothing_left)

    def build(self) -> Connections:
        """The factory under test."""
        return build_factory(
            self.store,  # type: ignore[arg-type]
            clock=self.clock,
            limits=self.limits,
            require_digest=self.require_digest,
        )

    def connect(self, *, reading: bool = True) -> Client:
        """A new client."""
        client = Client(self.factory, self.clock, reading=reading)
        self.clients.append(client)
        return client

    def tick(self, seconds: int) -> None:
        """Let time pass, second by second."""
        self.clock.pump([1.0] * seconds)

    def settle(self) -> None:
        """Let happen what happens in the reactor's next turns."""
        self.clock.pump([0.0] * 4)

    def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """The answer to a request on a connection of its own."""
        client = self.connect()
        client.send(request_bytes(method, target, headers, body))
        self.settle()
        answer = client.answer(method)
        client.close()
        return answer

    def gate(self, step: str) -> Gate:
        """Have the store wait at a step until the gate is opened."""
        gate = Gate()
        self.store.gates[step] = gate.deferred
        return gate

    def _check_nothing_left(self) -> None:
        for client in self.clients:
            if not client.refused:
                client.close()
        self.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.factory.running, set())
        self.assertEqual(self.factory.connection_count, 0)
        self.assertEqual([r.closed for r in self.store.readers if r.closed != 1], [])


def until(clock: Clock, condition: Callable[[], bool], turns: int = 100) -> None:
    """Turn the reactor until ``condition`` holds."""
    for _ in range(turns):
        if condition():
            return
        clock.advance(0)
    raise AssertionError("it never came to that")
