"""HTTP to another server of the cluster: requests that are signed, bounded and have deadlines.

What comes back is trusted in nothing: header sections and bodies are bounded, foreign errors become
NodeUnavailable, and nothing is waited for without a deadline.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse

from dostore.adapters.http_body import AnswerBody, Broken, StreamedBody, WholeBody
from dostore.adapters.http_pool import IDLE_CONNECTIONS
from dostore.adapters.http_pool import HttpPool as HttpPool
from dostore.core.signing import NONCE_BYTES, Signable, Signer
from dostore.errors import NodeUnavailable
from dostore.fanout import with_timeout

#: Time to wait for an answer or for progress, and to wait for an answer that needs no disk.
ANSWER_TIMEOUT_S = 10.0
QUICK_TIMEOUT_S = 2.0

#: Bytes of the body of an answer that is an error.
MAX_ERROR_BYTES = 4096

#: Requests to one server at the same time, streams not counted; more wait their turn.
MAX_REQUESTS = IDLE_CONNECTIONS

#: Bodies that may be on their way to or from one server, over one link.
MAX_STREAMS = 1024

_FOREIGN = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)

T = TypeVar("T")

Block = bytes | memoryview
Field = tuple[bytes, bytes]


@frozen(slots=True)
class Answer:
    """An answer whose body is there.

    :ivar headers: the lines of each field, by its name in lower case.
    """

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


@frozen(slots=True)
class Streamed:
    """An answer whose body is arriving; it must be read to its end or abandoned."""

    status: int
    headers: Headers = field(repr=False)
    length: int | None
    body: AnswerBody = field(repr=False)


class HttpLink:
    """Requests to one server.

    :param address: host and port, as the server itself tells them.
    :param signer: signs each request; None: nothing is signed.
    :param now: the time of day in seconds since the epoch, for signatures.
    :param on_trouble: told the address when the server breaks off or does not answer in time, which
        one that is only busy does too.
    :param on_refused: told it when the server takes no connection.
    """

    def __init__(
        self,
        address: str,
        pool: HttpPool,
        *,
        signer: Signer | None,
        clock: IReactorTime,
        now: Callable[[], float],
        on_trouble: Callable[[str], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.address = address
        self.clock = clock
        self._pool = pool
        self._signer = signer
        self._now = now
        self._on_trouble = on_trouble
        self._on_refused = on_refused
        self._host = address.encode("ascii")
        self._turns = DeferredSemaphore(MAX_REQUESTS)
        self._streams = 0

    async def ask(
        self,
        method: bytes,
        target: bytes,
        fields: Sequence[Field] = (),
        body: Sequence[Block] | None = None,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        limit: int = MAX_ERROR_BYTES,
        again: bool = True,
    ) -> Answer:
        """A request and its whole answer.

        :param limit: the most bytes that the answer's body may have.
        :param again: it may be sent a second time, when a connection that had been idle breaks.
        :raises NodeUnavailable: there is no answer, or not within ``timeout_s``.
        """

        async def attempt(agent: IAgent) -> Answer:
            producer = None if body is None else WholeBody(body)
            response = await self._request(agent, method, target, fields, producer)
            length = _length_of(response)
            arriving = AnswerBody(self.clock, timeout_s, length=length, limit=limit)
            response.deliverBody(arriving)
            try:
                data = await arriving.read_all()
            except Broken:
                self.trouble()
                raise
            finally:
                arriving.abandon()
            return Answer(response.code, response.headers, data)

        async def attempts() -> Answer:
            # More at the same time would each make a connection, and not be served any sooner.
            await self._turns.acquire()
            try:
                return await attempt(self._pool.agent)
            except Broken:
                if not again:
                    raise
                return await attempt(self._pool.fresh)
            finally:
                self._turns.release()

        return await self._in_time(attempts(), timeout_s)

    async def stream(self, method: bytes, target: bytes, fields: Sequence[Field] = ()) -> Streamed:
        """A request and the beginning of its answer.

        :raises NodeUnavailable: there is no answer, or not in time, or too many streams are open.
        """
        self._open_stream()

        async def attempts() -> IResponse:
            try:
                return await self._request(self._pool.agent, method, target, fields, None)
            except Broken:
                return await self._request(self._pool.fresh, method, target, fields, None)

        try:
            response = await self._in_time(attempts(), ANSWER_TIMEOUT_S, self._let_go)
        except BaseException:
            self._end_stream()
            raise
        length = _length_of(response)
        arriving = AnswerBody(self.clock, ANSWER_TIMEOUT_S, length=length, on_end=self._end_stream)
        response.deliverBody(arriving)
        return Streamed(response.code, response.headers, length, arriving)

    def upload(self, method: bytes, target: bytes, fields: Sequence[Field] = ()) -> Upload:
        """A request whose body is written piece by piece, over a connection of its own.

        :raises NodeUnavailable: too many streams are open.
        """
        self._open_stream()
        body = StreamedBody(self.clock, ANSWER_TIMEOUT_S)
        responding = Deferred.fromCoroutine(
            self._request(self._pool.fresh, method, target, fields, body)
        )
        return Upload(body, responding, self.clock, self._end_stream)

    def trouble(self) -> None:
        """The server breaks off or hangs."""
        self._on_trouble(self.address)

    def _open_stream(self) -> None:
        if self._streams >= MAX_STREAMS:
            raise NodeUnavailable(f"{MAX_STREAMS} streams to {self.address} are open already.")
        self._streams += 1

    def _end_stream(self) -> None:
        self._streams -= 1

    async def _let_go(self, response: IResponse) -> None:
        """An answer came too late."""
        late = AnswerBody(self.clock, 0.0, length=None, limit=0)
        response.deliverBody(late)
        late.abandon()

    async def _request(
        self,
        agent: IAgent,
        method: bytes,
        target: bytes,
        fields: Sequence[Field],
        body: IBodyProducer | None,
    ) -> IResponse:
        headers = Headers()
        headers.addRawHeader(b"Host", self._host)
        digest = b""
        for name, value in fields:
            headers.addRawHeader(name, value)
            if name == b"Digest":
                digest = value
        if self._signer is not None:
            what = Signable(method, self._host.lower(), target, digest)
            signature = self._signer.sign(what, self._now(), secrets.token_bytes(NONCE_BYTES))
            headers.addRawHeader(b"Authorization", signature)
        url = b"http://" + self._host + target
        try:
            return await agent.request(method, url, headers, body)
        except (ConnectingCancelledError, *_FOREIGN) as error:
            if _was_cancelled(error):
                raise CancelledError() from error
            if isinstance(error, (ConnectError, DNSLookupError)):
                self._on_refused(self.address)
            else:
                self.trouble()
            text = f"{self.address} cannot be reached: {_reason(error)}."
            if isinstance(error, (ResponseNeverReceived, RequestTransmissionFailed)):
                raise Broken(text) from error
            raise NodeUnavailable(text) from error

    async def _in_time(
        self,
        coro: Coroutine[Any, Any, T],
        timeout_s: float,
        release: Callable[[T], Coroutine[Any, Any, object]] | None = None,
    ) -> T:
        def late() -> NodeUnavailable:
            self.trouble()
            return NodeUnavailable(f"{self.address} gave no answer in {timeout_s:g} s.")

        return await with_timeout(coro, timeout_s, self.clock, late, release)


def _length_of(response: IResponse) -> int | None:
    """Bytes of the body, if that is told; else it ends by itself."""
    return response.length if isinstance(response.length, int) else None


def _was_cancelled(error: BaseException) -> bool:
    """Whether it is but the end of a request that was given up here."""
    return isinstance(_innermost(error), (CancelledError, ConnectingCancelledError))


def _reason(error: BaseException) -> str:
    innermost = _innermost(error)
    return str(innermost).rstrip(".") or type(innermost).__name__


def _innermost(error: BaseException) -> BaseException:
    reasons = getattr(error, "reasons", None)
    if reasons and isinstance(reasons[0], Failure) and reasons[0].value is not None:
        return _innermost(reasons[0].value)
    return error


class Upload:
    """A request whose body is being written, and its answer.

    :param on_end: called once, when the connection is not used any more.
    """

    def __init__(
        self,
        body: StreamedBody,
        responding: Deferred[IResponse],
        clock: IReactorTime,
        on_end: Callable[[], None],
    ) -> None:
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
        arriving = AnswerBody(self._clock, ANSWER_TIMEOUT_S, length=None, limit=MAX_ERROR_BYTES)
        response.deliverBody(arriving)
        try:
            data = await arriving.read_all()
        finally:
            arriving.abandon()
            self._end()
        return Answer(response.code, response.headers, data)

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
