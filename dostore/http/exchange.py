"""Requests and their answers, whoever makes them: by parts, bounded, with deadlines; foreign errors
end here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

# What comes is no answer; exported nowhere else.
from twisted.web._newclient import ParseError
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from dostore.errors import NodeUnavailable
from dostore.http.body import AnswerBody, Broken, StreamedBody

#: Time to wait for an answer or for progress.
ANSWER_TIMEOUT_S = 10.0

#: Bytes of the body of an answer that is an error.
MAX_ERROR_BYTES = 4096

#: What a request may fail by; see :func:`translate`.
FOREIGN = (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)

Block = bytes | memoryview
Field = tuple[bytes, bytes]


class NotConnected(NodeUnavailable):
    """No connection could be made."""


class Fields:
    """The header fields of an answer.

    :param lines: of each field, by its name in lower case.
    """

    __slots__ = ("_lines",)

    def __init__(self, lines: Mapping[bytes, Sequence[bytes]]) -> None:
        self._lines = lines

    @classmethod
    def of(cls, headers: Headers) -> Fields:
        """Those that twisted.web has."""
        return cls({name.lower(): lines for name, lines in headers.getAllRawHeaders()})

    def getRawHeaders(self, name: bytes, default: Sequence[bytes] = ()) -> Sequence[bytes]:
        """The lines of a field, by its name in lower case."""
        return self._lines.get(name, default)

    def __contains__(self, name: bytes) -> bool:
        """Whether there is such a field, by its name in lower case."""
        return name in self._lines

    def items(self) -> Iterable[tuple[bytes, Sequence[bytes]]]:
        """Each field, with its lines."""
        return self._lines.items()


@frozen(slots=True)
class Answer:
    """An answer whose body is there.

    :ivar headers: the lines of each field, by its name in lower case.
    """

    status: int
    headers: Fields = field(repr=False)
    body: bytes = field(repr=False)


@frozen(slots=True)
class Streamed:
    """An answer whose body is arriving; it must be read to its end or abandoned."""

    status: int
    headers: Fields = field(repr=False)
    length: int | None
    body: AnswerBody = field(repr=False)


def length_of(response: IResponse) -> int | None:
    """Bytes of the body, if that is told; else it ends by itself."""
    return response.length if isinstance(response.length, int) else None


def translate(error: BaseException, address: str) -> Exception:
    """What one of the FOREIGN errors is in our tree: NotConnected, Broken when another connection
    may do, NodeUnavailable; CancelledError when it is but the end of what was given up here.
    """
    if _was_cancelled(error):
        return CancelledError()
    text = f"{address} cannot be reached: {_reason(error)}."
    if isinstance(error, (ConnectError, DNSLookupError)):
        return NotConnected(text)
    if isinstance(error, (ResponseNeverReceived, RequestTransmissionFailed)):
        return Broken(text)
    return NodeUnavailable(text)


def _was_cancelled(error: BaseException) -> bool:
    return isinstance(_innermost(error), (CancelledError, ConnectingCancelledError))


def _reason(error: BaseException) -> str:
    innermost = _innermost(error)
    if isinstance(innermost, ConnectError) and isinstance(innermost.osError, int):
        return os.strerror(innermost.osError).lower()
    if isinstance(innermost, ConnectionClosed):
        return "the connection broke"
    if isinstance(innermost, ParseError):
        return "it does not speak HTTP"
    return str(innermost).rstrip(".") or type(innermost).__name__


def _innermost(error: BaseException) -> BaseException:
    reasons = getattr(error, "reasons", None)
    if reasons and isinstance(reasons[0], Failure) and reasons[0].value is not None:
        return _innermost(reasons[0].value)
    return error


class Upload:
    """A request whose body is being written, and its answer.

    :param on_end: called once, when the connection is not used any more.
    :param timeout_s: how long it may take the answer's body to go on.
    """

    def __init__(
        self,
        body: StreamedBody,
        responding: Deferred[IResponse],
        clock: IReactorTime,
        on_end: Callable[[], None] = lambda: None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._body = body
        self._clock = clock
        self._on_end: Callable[[], None] | None = on_end
        self._outcome: IResponse | Failure | None = None
        self._waiter: Deferred[None] | None = None
        self._responding = responding
        _ = responding.addBoth(self._responded)

    def _responded(self, outcome: IResponse | Failure) -> None:
        self._outcome = outcome
        if isinstance(outcome, Failure):
            self._end()
        # An answer before the end says that the rest is not wanted.
        self._body.stopProducing()
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    async def write(self, pieces: Sequence[Block]) -> None:
        """Send pieces.

        :raises Answered: the answer is there before its time.
        :raises NodeUnavailable: the connection broke, or takes nothing for too long.
        """
        try:
            await self._body.write(pieces)
        except Broken:
            if isinstance(self._outcome, Failure):
                self._outcome.raiseException()
            if self._outcome is not None:
                raise Answered(await self._answer()) from None
            raise

    async def finish(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Send nothing more; the answer.

        :raises NodeUnavailable: there is none, or not in time.
        """
        self._body.finish()
        if self._outcome is None:
            waiter = self._waiter = Deferred()
            timer = self._clock.callLater(
                timeout_s,
                waiter.errback,
                NodeUnavailable(f"There was no answer in {timeout_s:g} s."),
            )
            try:
                await waiter
            finally:
                self._waiter = None
                if timer.active():
                    timer.cancel()
        if isinstance(self._outcome, Failure):
            self._outcome.raiseException()
        return await self._answer()

    async def _answer(self) -> Answer:
        response = self._outcome
        assert response is not None and not isinstance(response, Failure), "it has come"
        arriving = AnswerBody(self._clock, self._timeout_s, length=None, limit=MAX_ERROR_BYTES)
        response.deliverBody(arriving)
        try:
            data = await arriving.read_all()
        finally:
            arriving.abandon()
            self._end()
        return Answer(response.code, Fields.of(response.headers), data)

    def abandon(self) -> None:
        """Cut the connection, unless the answer was read. Idempotent."""
        if self._outcome is None:
            self._responding.cancel()
        elif not isinstance(self._outcome, Failure) and self._on_end is not None:
            late = AnswerBody(self._clock, 0.0, length=None, limit=0)
            self._outcome.deliverBody(late)
            late.abandon()
        self._end()


class Answered(Exception):
    """An answer came before all of its request was sent; it is no success."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer
