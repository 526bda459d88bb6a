"""HTTP/1 connections whose requests are handled while their bodies arrive.

This is the only module that knows how twisted.web works inside; ``tests/web/test_internals.py``
pins what it uses. ``http.HTTPChannel`` parses; it calls a request's ``gotLength`` after the header
section, ``handleContentChunk`` for each piece of the body and ``requestReceived`` after the last.
Its own request class would keep the body in a file until then. Ours gives the pieces to a handler
that runs since the end of the header section.
"""

from __future__ import annotations

import fcntl
import re
import sys
import termios
from collections.abc import Sequence
from socket import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from dostore.core.chunked import ChunkedDecoder
from dostore.errors import IncompleteBody, InvalidRequest
from dostore.streams import ConsumerSink, IBodyFlow
from dostore.web.passing import leave, pass_on
from dostore.web.problem import CONTENT_TYPE, RETRY_AFTER_S, problem
from dostore.web.request import LARGE_BYTES, Request

if TYPE_CHECKING:
    from dostore.web.connections import Connections

LARGE_READ_BYTES = 1 << 20
LARGE_SEND_BYTES = 256 * 1024

#: Pipelined input beyond this waits in the kernel.
PIPELINED_BYTES = 16 * 1024

#: A client that sends many requests at once gets so many answers before others have their turn.
ANSWERS_A_TURN = 16

_MAX_FIELD_NAME_BYTES = 256
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++\Z")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*+\Z")

#: Why input is not read at the moment.
_HOLD_BODY, _HOLD_PIPELINE, _HOLD_OUTPUT, _HOLD_LEAVING = 1, 2, 4, 8


@implementer(IHalfCloseableProtocol, IBodyFlow)
class Channel(http.HTTPChannel):
    """A connection from a client.

    :ivar deaf: what comes in is dropped.
    :ivar turned_away: it is one too many and gets 503, whatever it asks for.
    :ivar handed: what another process had received of it, and not answered.
    :ivar leaving: the same, while it waits to be passed on to another.
    :ivar passed: it was.
    :ivar number: what another process calls it.
    :ivar quick: how many requests were answered at once, one after the other.
    """

    factory: Connections
    requestFactory = Request  # type: ignore[assignment]
    #: ITCPTransport, IPushProducer and IConsumer at once.
    transport: Any

    deaf = False
    turned_away = False
    handed = b""
    leaving = b""
    passed = False
    number = 0
    quick = 0
    _closing = False
    _registered = True
    _half_closed = False
    _holds = 0
    _next_waits = False
    _pipelined = 0
    _dropped = 0
    _answered_now = 0
    _starting: Request | None = None
    #: To write to directly; None: the transport is more than a TCP connection.
    _socket: socket | None = None

    # The life of a connection

    def connectionMade(self) -> None:
        """A client has connected."""
        super().connectionMade()  # type: ignore[no-untyped-call]
        if type(self.transport) is Server:
            self._socket = self.transport.getHandle()
        if self.turned_away:
            self.refuse(503, "Unavailable", "Too many connections. Try again in a moment.")
        elif self.handed:
            data, self.handed = self.handed, b""
            self.dataReceived(data)
        else:
            self._watch()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self.deaf = self._closing = True
        self.factory.disconnected(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.requests.clear()

    def readConnectionLost(self) -> None:
        """The client sends no more but may still read: a request that is whole gets its answer."""
        self._half_closed = True
        request: Request | None = self.requests[0] if self.requests else None
        if self.deaf or request is None or not request.head_complete or request.answered:
            self.loseConnection()
        elif not request.body.ended:
            self.deaf = True
            request.body_failed(
                IncompleteBody("The body is shorter than its length. Send the whole of it.")
            )

    def writeConnectionLost(self) -> None:
        """The half-close of :meth:`linger` is done."""

    def loseConnection(self) -> None:
        """Close when all that was written is sent, or after the write timeout."""
        if not self._closing:
            self.deaf = self._closing = True
            self.factory.watch_output(self)
            self._unregister()
            self.transport.loseConnection()

    def _unregister(self) -> None:
        """Have the transport not wait for us when it is to close after its last byte."""
        if self._registered:
            self._registered = False
            self.transport.unregisterProducer()

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self.deaf = self._closing = True
        self.transport.abortConnection()

    def linger(self) -> None:
        """Send what was written and let the client read it: closing on unread input would reset the
        connection and take the answer away from it.
        """
        self.deaf = True
        self.persistent = False
        self._buffer = b""
        self._dataBuffer = []
        if self._half_closed:
            self.loseConnection()
        elif not self._closing:
            self.release(self._holds)
            self._unregister()
            self.transport.loseWriteConnection()
            self.factory.lingering.start(self)

    def refuse(self, status: int, title: str, detail: str) -> None:
        """Answer to what is no proper request, and close."""
        if self.deaf:
            return
        self.factory.refused[status] += 1
        body = problem(status, title, detail)
        head = self.factory.common_head(status) + b"%b: %b\r\n" % CONTENT_TYPE
        if status == 503:
            head += b"Retry-After: %d\r\n" % RETRY_AFTER_S
        head += b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        self.send((head, body))
        self.linger()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._refuse_size()
        else:
            self.refuse(400, "Bad request", "The request line or a header field is malformed.")

    def _refuse_size(self) -> None:
        self.refuse(
            431,
            "Header section too large",
            f"Request line and header fields take at most {self.totalHeadersSize} bytes and"
            f" {self.maxHeaders} lines. Send less.",
        )

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come from the client."""
        if self.deaf:
            self._drop(len(data))
        elif self._busyReceiving:
            self._buffer += data
        else:
            self._answered_now = 0
            super().dataReceived(data)  # type: ignore[no-untyped-call]
            if self._starting is not None:
                request, self._starting = self._starting, None
                request.start()
            if self.line_mode and b"\n" in self._buffer:
                # LineReceiver waits for CR LF; this LF has no CR before it.
                self._respondToBadRequestAndDisconnect()
            self._watch()

    def _watch(self) -> None:
        """Have the right deadline run while no request is being handled."""
        if self.deaf:
            queue = None
        elif self.requests:
            queue = None if self.requests[0].head_complete else self.factory.heads
        elif self._buffer:
            queue = self.factory.heads
        else:
            queue = self.factory.idle
            if self._half_closed or (self.factory.draining and not self._next_waits):
                self.loseConnection()
                return
        self.factory.watch(self, queue)

    def lineReceived(self, line: bytes) -> None:
        """A line of a header section."""
        if self.deaf:
            return
        if self.requests and line.startswith((b" ", b"\t")):
            self.refuse(400, "Bad request", "A header field is folded. Write it in one line.")
        else:
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line is too long."""
        if self.requests:
            self._refuse_size()
        else:
            self.refuse(414, "URI too long", "The request line is too long. Shorten the target.")

    def headerReceived(self, line: bytes) -> bool:
        """Take a header field; False when it is malformed, which was answered then."""
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        fields = self.requests[0].fields
        self._receivedHeaderCount += 1
        if not (
            colon
            and len(name) <= _MAX_FIELD_NAME_BYTES
            and _TOKEN.match(name)
            and _FIELD_VALUE.match(value)
        ):
            self._respondToBadRequestAndDisconnect()
        elif self._receivedHeaderCount > self.maxHeaders:
            self._refuse_size()
        else:
            name = name.lower()
            if name == b"content-length":
                self._take_length(value)
            elif name == b"transfer-encoding":
                self._take_coding(value)
            if name in fields:
                fields[name].append(value)
            else:
                fields[name] = [value]
        return not self.deaf

    def _take_length(self, value: bytes) -> None:
        if self._transferDecoder is not None or not value.isdigit():
            self.refuse(
                400, "Bad request", "The body's length is given twice, or is no decimal number."
            )
        elif len(value) > 19:
            self.refuse(413, "Too large", "No body can be as long as Content-Length says.")
        else:
            self.length = int(value)
            self._transferDecoder = http._IdentityTransferDecoder(
                self.length, self.requests[0].handleContentChunk, self._finishRequestBody
            )

    def _take_coding(self, value: bytes) -> None:
        if self._transferDecoder is not None:
            self.refuse(400, "Bad request", "Send Content-Length or Transfer-Encoding, and once.")
        elif value.lower() != b"chunked":
            self.refuse(501, "Not implemented", "Of the transfer codings, only chunked is known.")
        else:
            self.length = None
            self._transferDecoder = ChunkedDecoder()

    def allHeadersReceived(self) -> None:
        """The header section is complete."""
        request: Request = self.requests[0]
        request.begin_request(self._command, self._path, self._version)
        fields = request.fields
        if not self._path.isascii():
            self.refuse(400, "Bad request", "The target is not ASCII. Percent-escape it.")
        elif len(fields.get(b"host", ())) != 1 and (
            self._version == b"HTTP/1.1" or b"host" in fields
        ):
            self.refuse(400, "Bad request", "There is not exactly one Host field.")
        elif b"transfer-encoding" in fields and self._version != b"HTTP/1.1":
            self.refuse(400, "Bad request", "HTTP/1.0 has no Transfer-Encoding.")
        elif fields.get(b"expect", [b"100-continue"])[0].lower() != b"100-continue":
            self.refuse(417, "Expectation failed", "Only 'Expect: 100-continue' can be met.")
        elif self.factory.passing is not None and not self.factory.passing.keeps(request):
            pass_on(self, request)
        else:
            self.persistent = self._version == b"HTTP/1.1" and not (
                b"connection" in fields and _lists(fields[b"connection"], b"close")
            )
            request.gotLength(self.length)
            if self.length is None or self.length:
                self._starting = request
                if self.length is not None and self.length >= LARGE_BYTES:
                    self.transport.bufferSize = LARGE_READ_BYTES

    def rawDataReceived(self, data: bytes) -> None:
        """Bytes have come that are part of a body, or of a request after the one under way."""
        if self._handlingRequest:
            self._dataBuffer.append(data)
            self._pipelined += len(data)
            if self._pipelined > PIPELINED_BYTES:
                self.hold(_HOLD_PIPELINE)
            return
        if self.requests[0].answered:
            self._drop(len(data))
        decoder: Any = self._transferDecoder
        if isinstance(decoder, ChunkedDecoder):
            self._decode(decoder, data)
        else:
            decoder.dataReceived(data)

    def _decode(self, decoder: ChunkedDecoder, data: bytes) -> None:
        try:
            pieces = decoder.feed(data)
        except InvalidRequest as error:
            self._break_body(error)
            return
        if len(pieces) * 4096 <= len(data):
            self.transport.bufferSize = LARGE_READ_BYTES
        else:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            self.requests[0].handleContentChunk(piece)
        if decoder.ended and not self.deaf:
            self._finishRequestBody(decoder.rest)  # type: ignore[no-untyped-call]

    def _break_body(self, error: InvalidRequest) -> None:
        """Where the body ends cannot be known any more, nor where another request begins."""
        request: Request = self.requests[0]
        self.deaf = True
        if request.answered:
            self.loseConnection()
        else:
            request.body_failed(error)

    def take_unread(self) -> bytes:
        """What has come and was not looked at, which is then not here any more."""
        data = b"".join(self._dataBuffer) + self._buffer
        self._dataBuffer = []
        self._buffer = b""
        return data

    def drop_body(self) -> None:
        """The request is answered, but its body is still coming: receive and forget it."""
        if self.persistent:
            self.factory.lingering.start(self)
        else:
            self.linger()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > self.factory.limits.discard_bytes:
            self.abort()

    def requestDone(self, request: Request) -> None:
        """The request has come as a whole and is answered as a whole: on to the next."""
        del self.requests[0]
        # The time until the next request, or for it, begins now.
        self.factory.watch(self, None)
        self.factory.lingering.stop(self)
        self._dropped = 0
        self.transport.bufferSize = FileDescriptor.bufferSize
        self.transport.SEND_LIMIT = FileDescriptor.SEND_LIMIT
        if not self.persistent:
            self.loseConnection()
            return
        self._answered_now += 1
        if self._waitingForTransport:
            # Answers to the next would pile up behind this one.
            self._next_waits = True
        elif self._answered_now >= ANSWERS_A_TURN and (self._buffer or self._dataBuffer):
            self._next_waits = True
            self.factory.clock.callLater(0, self._take_turn)
        else:
            self._next_request()

    def _take_turn(self) -> None:
        """The other connections have had their turn."""
        self._answered_now = 0
        if self._next_waits and not (self._waitingForTransport or self._closing):
            self._next_request()

    def _next_request(self) -> None:
        self._handlingRequest = False
        self._next_waits = False
        data = b"".join(self._dataBuffer)
        self._dataBuffer = []
        self._pipelined = 0
        if self._holds:
            self.release(self._holds)
        self.setLineMode(data)  # type: ignore[no-untyped-call]
        if not self._busyReceiving:
            self._watch()

    # IBodyFlow

    def begin_body(self) -> None:
        """See IBodyFlow."""
        # The client may be gone: whoever reads is told so.
        request: Request | None = self.requests[0] if self.requests else None
        if request is not None and request.expects_continue:
            request.expects_continue = False
            if not (self._closing or request.begun or request.body.received):
                self.send((b"HTTP/1.1 100 Continue\r\n\r\n",))

    def pause_body(self) -> None:
        """See IBodyFlow."""
        self.hold(_HOLD_BODY)

    def resume_body(self) -> None:
        """See IBodyFlow."""
        self.release(_HOLD_BODY)

    def await_body(self, waiting: bool) -> None:
        """See IBodyFlow."""
        if waiting and not self._closing:
            self.factory.bodies.start(self)
        else:
            self.factory.bodies.stop(self)

    def hold(self, reason: int) -> None:
        """Read nothing from the client until the reason is released."""
        if not (self._holds or self._closing or self._half_closed):
            self._networkProducer.pauseProducing()
        self._holds |= reason

    def release(self, reason: int) -> None:
        """One reason not to read, or several, are gone."""
        held, self._holds = self._holds, self._holds & ~reason
        if held and not (self._holds or self._closing or self._half_closed):
            self._networkProducer.resumeProducing()

    # Output

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write, and at once what the socket takes: to have the reactor find out that it takes some
        costs more than most answers. What it does not take the transport keeps, as ever.
        """
        transport = self.transport
        sent = 0
        if (
            self._socket is not None
            and not (self._closing or transport.dataBuffer or transport._tempDataLen)
            and transport.connected
        ):
            try:
                sent = self._socket.sendmsg(pieces)
            except OSError:
                # It takes nothing now, or never will again: the transport will see.
                sent = 0
        if sent < sum(map(len, pieces)):
            rest = b"".join(pieces)
            transport.write(rest[sent:] if sent else rest)

    def begin_stream(self, sink: ConsumerSink, large: bool) -> None:
        """An answer is going to be written piece by piece."""
        self.registerProducer(sink, True)  # type: ignore[no-untyped-call]
        if self._waitingForTransport:
            sink.pauseProducing()
        if large:
            self.transport.SEND_LIMIT = LARGE_SEND_BYTES

    def end_stream(self) -> None:
        """All pieces are written."""
        self.unregisterProducer()  # type: ignore[no-untyped-call]

    def pauseProducing(self) -> None:
        """The transport holds as much as it likes to."""
        self._waitingForTransport = True
        self.factory.watch_output(self)
        if self._requestProducer is not None:
            self._requestProducer.pauseProducing()
        if not self.requests:
            self.hold(_HOLD_OUTPUT)

    def resumeProducing(self) -> None:
        """The transport has sent all."""
        self._waitingForTransport = False
        self.factory.stalled.stop(self)
        if self.leaving and not self._closing:
            leave(self)
            return
        self.release(_HOLD_OUTPUT)
        if self._requestProducer is not None:
            self._requestProducer.resumeProducing()
        if self._next_waits and not self._waitingForTransport:
            self._next_request()

    @property
    def is_open(self) -> bool:
        """Whether it is neither closed nor to be."""
        return not self._closing

    def is_sent(self) -> bool:
        """Whether the kernel has all that was written."""
        transport = self.transport
        return not (len(transport.dataBuffer) - transport.offset + transport._tempDataLen)

    def wait_for_output(self) -> None:
        """Read nothing more, and have :meth:`resumeProducing` called when all is sent."""
        self.hold(_HOLD_LEAVING)
        self.transport.producerPaused = True
        self.factory.watch_output(self)

    def forget_transport(self) -> None:
        """The connection goes on elsewhere: whatever is still called here does nothing."""
        self._closing = True
        self._unregister()

    def unsent_bytes(self) -> int:
        """How much of what was written the client has not taken, here and in the kernel."""
        transport = self.transport
        held: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        try:
            # The kernel holds megabytes for a slow client and takes no more from us meanwhile.
            queued = fcntl.ioctl(transport.getHandle().fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return held
        return held + int.from_bytes(queued, sys.byteorder)


def _lists(lines: Sequence[bytes], token: bytes) -> bool:
    """Whether a comma-separated field has ``token``."""
    return any(item.strip(b" \t").lower() == token for line in lines for item in line.split(b","))
