"""HTTP/1 connections whose requests are handled while their bodies arrive.

A request's header section is read as a whole (``core/requesthead``); its handler runs from then on,
and gets the pieces of the body as they come. What a client sends before it has its answer waits,
a little of it here and the rest in the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.core.chunked import ChunkedDecoder
from dostore.core.requesthead import read_head
from dostore.errors import DostoreError, IncompleteBody, InvalidRequest
from dostore.streams import IBodyFlow
from dostore.web.outgoing import Outgoing
from dostore.web.passing import leave, pass_on
from dostore.web.request import LARGE_BYTES, Request

if TYPE_CHECKING:
    from dostore.web.connections import Connections

#: So much is read at once, so that a small content comes with its header section in one piece, if
#: it is there: it is not put together from pieces then, and is written with those that came in the
#: same turn.
READ_BYTES = 160 * 1024
LARGE_READ_BYTES = 1 << 20

#: Pipelined input beyond this waits in the kernel.
PIPELINED_BYTES = 16 * 1024

#: A client that sends many requests at once gets so many answers before others have their turn.
ANSWERS_A_TURN = 16

#: Why input is not read at the moment.
_HOLD_BODY, _HOLD_PIPELINE, _HOLD_OUTPUT, _HOLD_LEAVING = 1, 2, 4, 8


@implementer(IHalfCloseableProtocol, IPushProducer, IBodyFlow)
class Channel(Outgoing):
    """A connection from a client.

    :ivar request: the one that is under way.
    :ivar persistent: another may follow it.
    :ivar deaf: what comes in is dropped.
    :ivar turned_away: it is one too many and gets 503, whatever it asks for.
    :ivar handed: what another process had received of it, and not answered.
    :ivar leaving: the same, while it waits to be passed on to another.
    :ivar passed: it was.
    :ivar number: what another process calls it.
    :ivar late: it is passed on only now that an answer was tried.
    :ivar quick: how many requests were answered at once, one after the other.
    """

    factory: Connections

    request: Request | None = None
    persistent = True
    deaf = False
    turned_away = False
    handed = b""
    leaving = b""
    passed = False
    late = False
    number = 0
    quick = 0
    _half_closed = False
    _holds = 0
    _next_waits = False
    _dropped = 0
    _answered_now = 0
    #: What has come and was not taken.
    _input = b""
    #: Bytes of it that are no whole header section.
    _looked_at = 0
    _taking = False
    #: All of the request has come.
    _whole = False
    #: What is to come of its body: bytes, or chunks.
    _left = 0
    _decoder: ChunkedDecoder | None = None
    _starting: Request | None = None

    # The life of a connection

    def connectionMade(self) -> None:
        """A client has connected."""
        super().connectionMade()
        self.transport.bufferSize = READ_BYTES
        self.transport.registerProducer(self, True)
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
        self._rest = []
        self.factory.disconnected(self)
        if self.request is not None:
            self.request.connectionLost(reason)
            self.request = None

    def readConnectionLost(self) -> None:
        """The client sends no more but may still read: a request that is whole gets its answer."""
        self._half_closed = True
        request = self.request
        if self.deaf or request is None or request.answered:
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
            self._hand_over_rest()
            self.deaf = self._closing = True
            self.factory.watch_output(self)
            self._unregister()
            self.transport.loseConnection()

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
        self._input = b""
        if self._half_closed:
            self.loseConnection()
        elif not self._closing:
            self.release(self._holds)
            self._hand_over_rest()
            self._unregister()
            self.transport.loseWriteConnection()
            self.factory.lingering.start(self)

    def refuse(self, status: int, title: str, detail: str) -> None:
        """Answer to what is no proper request, and close."""
        if self.deaf:
            return
        self.send(self.factory.refusal(status, title, detail))
        self.linger()

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come from the client."""
        if self.deaf:
            self._drop(len(data))
        else:
            self._answered_now = 0
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Make of the input what can be made of it now."""
        self._input = self._input + data if self._input else data
        if self._taking:
            return
        self._taking = True
        try:
            while self._input and not self.deaf:
                request = self.request
                if request is not None and not self._whole:
                    self._take_body(request)
                elif request is not None or self._next_waits:
                    if len(self._input) > PIPELINED_BYTES:
                        self.hold(_HOLD_PIPELINE)
                    break
                elif not self._take_head():
                    break
        finally:
            self._taking = False
        if self._starting is not None:
            request, self._starting = self._starting, None
            request.start()
        self._watch()

    def _watch(self) -> None:
        """Have the right deadline run while no request is being handled."""
        if self.deaf or self.request is not None:
            queue = None
        elif self._input:
            queue = self.factory.heads
        else:
            queue = self.factory.idle
            if self._half_closed or (self.factory.draining and not self._next_waits):
                self.loseConnection()
                return
        self.factory.watch(self, queue)

    def _take_head(self) -> bool:
        """Begin a request, if its header section is there; whether it is."""
        try:
            found = read_head(self._input, self._looked_at, self.factory.head_limits)
        except DostoreError as error:
            self.refuse(error.status, error.title, error.detail)
            return False
        if found is None:
            self._looked_at = len(self._input)
            return False
        head, end = found
        self._looked_at = 0
        self._input = self._input[end:]
        self.persistent = head.persistent
        request = self.request = Request(self, head)
        if self.factory.passing is not None and not self.factory.passing.keeps(request):
            pass_on(self, request)
            return True
        if head.length == 0:
            self._end_body(request)
            return True
        self._whole = False
        self._starting = request
        if head.length is None:
            self._decoder = ChunkedDecoder()
        else:
            self._left = head.length
            if head.length >= LARGE_BYTES:
                self.transport.bufferSize = LARGE_READ_BYTES
        return True

    def _take_body(self, request: Request) -> None:
        """Bytes have come that are part of a body."""
        data, self._input = self._input, b""
        if request.answered:
            self._drop(len(data))
        left = self._left
        if self._decoder is not None:
            self._decode(self._decoder, data, request)
        elif len(data) < left:
            self._left -= len(data)
            request.body.feed(data)
        else:
            self._input = data[left:]
            request.body.feed(data[:left])
            self._end_body(request)

    def _decode(self, decoder: ChunkedDecoder, data: bytes, request: Request) -> None:
        try:
            pieces = decoder.feed(data)
        except InvalidRequest as error:
            self._break_body(request, error)
            return
        if len(pieces) * 4096 <= len(data):
            self.transport.bufferSize = LARGE_READ_BYTES
        else:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            request.body.feed(piece)
        if decoder.ended and not self.deaf:
            self._input = decoder.rest
            self._end_body(request)

    def _end_body(self, request: Request) -> None:
        """The request has come as a whole."""
        self._whole = True
        self._decoder = None
        if not self.deaf:
            request.body_ended()

    def _break_body(self, request: Request, error: InvalidRequest) -> None:
        """Where the body ends cannot be known any more, nor where another request begins."""
        self.deaf = True
        if request.answered:
            self.loseConnection()
        else:
            request.body_failed(error)

    def take_unread(self) -> bytes:
        """What has come and was not looked at, which is then not here any more."""
        data, self._input = self._input, b""
        return data

    def stay(self, data: bytes) -> None:
        """It was to leave, and cannot: go on here with what had come."""
        self.deaf = False
        self.request = None
        self.quick = 0
        self.release(self._holds)
        data, self._input = data + self._input, b""
        self._take(data)

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

    def request_done(self) -> None:
        """The request has come as a whole and is answered as a whole: on to the next."""
        self.request = None
        # The time until the next request, or for it, begins now.
        self.factory.watch(self, None)
        self.factory.lingering.stop(self)
        self._dropped = 0
        self.transport.bufferSize = READ_BYTES
        self.transport.SEND_LIMIT = FileDescriptor.SEND_LIMIT
        if not self.persistent:
            self.loseConnection()
            return
        self._answered_now += 1
        if self._full:
            # Answers to the next would pile up behind this one.
            self._next_waits = True
        elif self._answered_now >= ANSWERS_A_TURN and self._input:
            self._next_waits = True
            self.factory.clock.callLater(0, self._take_turn)
        else:
            self._next_request()

    def _take_turn(self) -> None:
        """The other connections have had their turn."""
        if self._next_waits and not (self._full or self._closing):
            self._next_request()

    def _next_request(self) -> None:
        self._next_waits = False
        if self._holds:
            self.release(self._holds)
        if not self._taking:
            self._answered_now = 0
            self._take(b"")

    # IBodyFlow

    def begin_body(self) -> None:
        """See IBodyFlow."""
        # The client may be gone: whoever reads is told so.
        if self.request is not None and not self._closing:
            self.request.ask_for_body()

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
            self.transport.pauseProducing()
        self._holds |= reason

    def release(self, reason: int) -> None:
        """One reason not to read, or several, are gone."""
        held, self._holds = self._holds, self._holds & ~reason
        if held and not (self._holds or self._closing or self._half_closed):
            self.transport.resumeProducing()

    # Output

    def pauseProducing(self) -> None:
        """The transport holds as much as it likes to."""
        self._full = True
        self.factory.watch_output(self)
        if self._sink is not None:
            self._sink.pauseProducing()
        if self.request is None:
            self.hold(_HOLD_OUTPUT)

    def resumeProducing(self) -> None:
        """The transport has sent all."""
        if not self._send_rest():
            return
        self._full = False
        self.factory.stalled.stop(self)
        if self.leaving and not self._closing:
            leave(self)
            return
        self.release(_HOLD_OUTPUT)
        if self._sink is not None:
            self._sink.resumeProducing()
        if self._next_waits and not self._full:
            self._next_request()

    def wait_for_output(self) -> None:
        """Read nothing more, and have :meth:`resumeProducing` called when all is sent."""
        self.hold(_HOLD_LEAVING)
        self.transport.producerPaused = True
        self.factory.watch_output(self)

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`connectionLost` follows."""
        if self._sink is not None:
            self._sink.stopProducing()
