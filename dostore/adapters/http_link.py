"""HTTP to another server of the cluster: requests that are signed, bounded and have deadlines.

What comes back is trusted in nothing: header sections and bodies are bounded, foreign errors become
NodeUnavailable, and nothing is waited for without a deadline.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from dostore.core.signing import NONCE_BYTES, Signable, Signer
from dostore.errors import NodeUnavailable
from dostore.fanout import with_timeout
from dostore.http.body import AnswerBody, Broken
from dostore.http.exchange import (
    ANSWER_TIMEOUT_S,
    FOREIGN,
    MAX_ERROR_BYTES,
    Answer,
    Block,
    Field,
    Fields,
    NotConnected,
    Streamed,
    length_of,
    translate,
)
from dostore.http.pool import IDLE_CONNECTIONS, HttpPool

#: Time to wait for an answer that needs no disk.
QUICK_TIMEOUT_S = 2.0

#: Requests to one server at the same time, streams not counted; more wait their turn.
MAX_REQUESTS = IDLE_CONNECTIONS

#: Bodies that may be on their way to or from one server, over one link.
MAX_STREAMS = 1024

_HAVE_BODIES = frozenset({b"PUT", b"POST", b"PATCH"})

_LINE = b"%b: %b\r\n"

T = TypeVar("T")


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

        async def attempt(fresh: bool) -> Answer:
            request = self._whole(method, target, fields, body)
            try:
                return await self._pool.direct.ask(
                    self.address, request, limit=limit, bodiless=method == b"HEAD", fresh=fresh
                )
            except NotConnected:
                self._on_refused(self.address)
                raise
            except NodeUnavailable:
                self.trouble()
                raise

        async def attempts() -> Answer:
            # More at the same time would each make a connection, and not be served any sooner.
            await self._turns.acquire()
            try:
                return await attempt(False)
            except Broken:
                if not again:
                    raise
                return await attempt(True)
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
                return await self._request(self._pool.agent, method, target, fields)
            except Broken:
                return await self._request(self._pool.fresh, method, target, fields)

        try:
            response = await self._in_time(attempts(), ANSWER_TIMEOUT_S, self._let_go)
        except BaseException:
            self._end_stream()
            raise
        length = length_of(response)
        arriving = AnswerBody(self.clock, ANSWER_TIMEOUT_S, length=length, on_end=self._end_stream)
        response.deliverBody(arriving)
        return Streamed(response.code, Fields.of(response.headers), length, arriving)

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
    ) -> IResponse:
        headers = Headers()
        for name, value in self._signed(method, target, fields):
            headers.addRawHeader(name, value)
        url = b"http://" + self._host + target
        try:
            return await agent.request(method, url, headers)
        except FOREIGN as foreign:
            error = translate(foreign, self.address)
            if isinstance(error, NotConnected):
                self._on_refused(self.address)
            elif isinstance(error, NodeUnavailable):
                self.trouble()
            raise error from foreign

    def _whole(
        self,
        method: bytes,
        target: bytes,
        fields: Sequence[Field],
        body: Sequence[Block] | None,
    ) -> list[Block]:
        """A whole request."""
        named = self._signed(method, target, fields)
        if body is not None or method in _HAVE_BODIES:
            named.append((b"Content-Length", b"%d" % sum(map(len, body or ()))))
        lines = [b"%b %b HTTP/1.1\r\n" % (method, target), *map(_LINE.__mod__, named), b"\r\n"]
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a line of a request has a line break in it")
        return [head, *(body or ())]

    def _signed(self, method: bytes, target: bytes, fields: Sequence[Field]) -> list[Field]:
        """All fields of a request but that with its length."""
        named = [(b"Host", self._host), *fields]
        if self._signer is not None:
            digest = next((value for name, value in fields if name == b"Digest"), b"")
            what = Signable(method, self._host.lower(), target, digest)
            signature = self._signer.sign(what, self._now(), secrets.token_bytes(NONCE_BYTES))
            named.append((b"Authorization", signature))
        return named

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
