"""Requests that are there as a whole, and answers that are wanted as a whole, at the least cost.

A connection sends one request and takes one answer at a time: what servers of this program send,
which is HTTP/1.1 with a length or in chunks, and nothing else. All of an answer is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from socket import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Client
from twisted.python.failure import Failure

from dostore.core.chunked import ChunkedDecoder
from dostore.errors import InvalidRequest, NodeUnavailable
from dostore.http.body import Broken
from dostore.http.endpoint import server_endpoint
from dostore.http.exchange import Answer, Block, Fields, NotConnected

#: Time to connect, within a local network.
CONNECT_TIMEOUT_S = 2.0

#: Bytes of the header section of an answer.
MAX_HEAD_BYTES = 16 * 1024

#: Idle connections to one server. They are closed before that server closes them.
IDLE_CONNECTIONS = 64
IDLE_S = 30.0

#: Bytes that are read at a time, for answers that may be long and others.
_LARGE_READ_BYTES = 256 * 1024
_READ_BYTES = 64 * 1024

#: Bytes that are written at a time, when the socket did not take all at once.
_SEND_BYTES = 1 << 20

#: How many pieces one system call takes (Linux's IOV_MAX).
_MAX_PIECES = 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9][0-9])(?: [^\r\n]*)?\Z")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\Z")
_LENGTH = re.compile(rb"[0-9]{1,15}\Z")

_NO_BODY = frozenset({204, 304})


class _Malformed(Exception):
    """What came is no answer that a server of this program gives."""


class _Connection(Protocol):
    """One connection.

    :ivar idle_since: when its last answer was complete.
    """

    transport: Any

    def __init__(self, pool: DirectPool, address: str) -> None:
        self._pool = pool
        self.address = address
        self.idle_since = 0.0
        #: To write to directly; None: the transport is more than a TCP connection.
        self._socket: socket | None = None
        self._answer: Deferred[Answer] | None = None
        self._limit = 0
        self._bodiless = False
        self._head = b""
        self._status = 0
        self._fields: dict[bytes, list[bytes]] = {}
        self._left = 0
        self._chunks: ChunkedDecoder | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def connectionMade(self) -> None:
        """See Protocol."""
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        if type(self.transport) is Client:
            self._socket = self.transport.getHandle()
            self.transport.SEND_LIMIT = _SEND_BYTES

    def ask(self, request: Sequence[Block], limit: int, bodiless: bool) -> Deferred[Answer]:
        """Send a request; its answer. Cancelling cuts the connection.

        :param bodiless: the answer has no body, whatever it says.
        """
        answer = self._answer = Deferred(lambda _: self._cut())
        self._limit = limit
        self._bodiless = bodiless
        self._status = self._size = 0
        self.transport.bufferSize = _LARGE_READ_BYTES if limit > _READ_BYTES else _READ_BYTES
        self._send(request)
        return answer

    def _send(self, request: Sequence[Block]) -> None:
        """Write, and at once what the socket takes: no copy is made of that, and to have the
        reactor find out that it takes some costs more than all else about a small request.
        """
        sent = 0
        transport = self.transport
        if (
            self._socket is not None
            and len(request) <= _MAX_PIECES
            # Of a request that was answered before its end, some may still be on its way.
            and not (transport.dataBuffer or transport._tempDataLen)
        ):
            try:
                sent = self._socket.sendmsg(request)
            except OSError:
                # It takes nothing now, or never will again: the transport will see.
                sent = 0
        for piece in request:
            if sent >= len(piece):
                sent -= len(piece)
            else:
                transport.write(bytes(memoryview(piece)[sent:]))
                sent = 0

    def _cut(self) -> None:
        self._answer = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """See Protocol."""
        if self._answer is None:
            # Nothing was asked.
            self.transport.abortConnection()
            return
        try:
            if not self._status:
                rest = self._take_head(data)
                if rest is None:
                    return
                data = rest
            self._take_body(data)
        except (_Malformed, InvalidRequest) as error:
            self._fail(NodeUnavailable(f"{self.address} sent no proper answer: {error}."))

    def _take_head(self, data: bytes) -> bytes | None:
        """What comes after the header section; None when that has not ended."""
        data = self._head + data if self._head else data
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES + 4)
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise _Malformed("its header section does not end")
            self._head = data
            return None
        self._head = b""
        first, *lines = data[:end].split(b"\r\n")
        # One that tells to go on was not asked for, and could come without an end.
        match = _STATUS.match(first)
        if match is None:
            raise _Malformed("there is no status, or a strange one")
        fields: dict[bytes, list[bytes]] = {}
        for line in lines:
            field = _FIELD.match(line)
            if field is None:
                raise _Malformed("a header field is malformed")
            name = field[1].lower()
            if name in fields:
                fields[name].append(field[2])
            else:
                fields[name] = [field[2]]
        self._fields = fields
        self._status = int(match[1])
        self._expect()
        return data[end + 4 :]

    def _expect(self) -> None:
        """Find out how long the body is."""
        lengths = self._fields.get(b"content-length", ())
        codings = self._fields.get(b"transfer-encoding", ())
        self._chunks = None
        self._left = 0
        if self._bodiless or self._status in _NO_BODY:
            return
        if codings:
            if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
                raise _Malformed("where its body ends cannot be known")
            self._chunks = ChunkedDecoder()
        elif len(lengths) == 1 and _LENGTH.match(lengths[0]):
            self._left = int(lengths[0])
            self._check(self._left)
        else:
            raise _Malformed("its body has no length, or several")

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise _Malformed(f"it is longer than {self._limit} bytes")

    def _take_body(self, data: bytes) -> None:
        if self._chunks is not None:
            pieces = self._chunks.feed(data)
            self._pieces += pieces
            self._size += sum(map(len, pieces))
            self._check(self._size)
            if self._chunks.ended:
                self._end(self._chunks.rest)
            return
        if len(data) <= self._left:
            rest = b""
        else:
            data, rest = data[: self._left], data[self._left :]
        if data:
            self._pieces.append(data)
            self._left -= len(data)
        if not self._left:
            self._end(rest)

    def _end(self, rest: bytes) -> None:
        """The answer is complete."""
        answer, self._answer = self._answer, None
        pieces, self._pieces = self._pieces, []
        closes = any(b"close" in line.lower() for line in self._fields.get(b"connection", ()))
        if rest or closes:
            self.transport.loseConnection()
        else:
            self._pool.give(self)
        if answer is not None:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            answer.callback(Answer(self._status, Fields(self._fields), body))

    def _fail(self, error: NodeUnavailable) -> None:
        answer = self._answer
        self._cut()
        if answer is not None:
            answer.errback(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See Protocol."""
        self._pool.lost(self)
        answer, self._answer = self._answer, None
        if answer is not None:
            middle = "in the middle of an answer" if self._status else "before it answered"
            answer.errback(Broken(f"{self.address} broke the connection {middle}."))


class DirectPool:
    """Connections to servers, kept open and used again.

    Those that are idle are closed before the servers do it.
    """

    def __init__(self, reactor: Any, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._reactor = reactor
        self._connect_timeout_s = connect_timeout_s
        #: By address, the one that was used last at the end.
        self._idle: dict[str, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._timer: IDelayedCall | None = None
        self._gone: list[Deferred[None]] = []

    async def ask(
        self,
        address: str,
        request: Sequence[Block],
        *,
        limit: int,
        bodiless: bool = False,
        fresh: bool = False,
    ) -> Answer:
        """Send a request to a server; its answer.

        :param request: all of it, header section and body.
        :param limit: the most bytes that the answer's body may have.
        :param bodiless: the answer to such a request has no body.
        :param fresh: over a new connection.
        :raises NotConnected: no connection could be made.
        :raises Broken: the connection broke before the answer was complete.
        :raises NodeUnavailable: what came is no answer.
        """
        idle = self._idle.get(address)
        if idle and not fresh:
            connection = idle.pop()
        else:
            connection = await self._connect(address)
        return await connection.ask(request, limit, bodiless)

    async def _connect(self, address: str) -> _Connection:
        host, _, port = address.rpartition(":")
        endpoint = server_endpoint(
            self._reactor, host.strip("[]"), int(port), self._connect_timeout_s
        )
        factory = Factory.forProtocol(lambda: _Connection(self, address))
        # Else each connection is two lines in the log.
        factory.noisy = False
        try:
            connection: Any = await endpoint.connect(factory)
        except ConnectingCancelledError as error:
            raise CancelledError from error
        except (ConnectError, DNSLookupError) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise NotConnected(f"{address} cannot be reached: {reason}.") from error
        self._all.add(connection)
        made: _Connection = connection
        return made

    def give(self, connection: _Connection) -> None:
        """A connection has nothing to do."""
        idle = self._idle.setdefault(connection.address, [])
        if len(idle) >= IDLE_CONNECTIONS:
            connection.transport.loseConnection()
            return
        connection.idle_since = self._reactor.seconds()
        idle.append(connection)
        if self._timer is None:
            self._timer = self._reactor.callLater(IDLE_S, self._close_idle)

    def lost(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        idle = self._idle.get(connection.address, [])
        if connection in idle:
            idle.remove(connection)
        if not self._all:
            gone, self._gone = self._gone, []
            for waiter in gone:
                waiter.callback(None)

    def _close_idle(self) -> None:
        """Close those that have been idle for long; look again when the next will have been."""
        self._timer = None
        until_s = self._reactor.seconds() - IDLE_S
        oldest: list[float] = []
        for address, idle in list(self._idle.items()):
            kept = [connection for connection in idle if connection.idle_since > until_s]
            for connection in idle[: len(idle) - len(kept)]:
                connection.transport.loseConnection()
            if kept:
                self._idle[address] = kept
                oldest.append(kept[0].idle_since)
            else:
                del self._idle[address]
        if oldest:
            self._timer = self._reactor.callLater(min(oldest) - until_s, self._close_idle)

    async def close(self) -> None:
        """Close the connections that are idle, and cut the others."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for connection in list(self._all):
            connection.transport.abortConnection()
        self._idle.clear()
        if self._all:
            waiter: Deferred[None] = Deferred()
            self._gone.append(waiter)
            await waiter
