"""Requests to Elasticsearch or OpenSearch: several addresses, bounded in time and in bytes.

Everything that can go wrong between this process and the answer's JSON ends here, as a
MetadataUnavailable; what the JSON says is for others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen
from hyperlink import URL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

# Raised to callers by a connection that is just closing, but exported nowhere else.
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from dostore.adapters.elastic_address import Address
from dostore.adapters.elastic_answers import (
    Answer,
    AttemptFailed,
    NoAnswer,
    NotElastic,
    Refused,
    interpret,
    read_body,
)
from dostore.http.plain import PlainAgent

log = Logger()

NDJSON = "application/x-ndjson"
_JSON = "application/json"

_TOO_SLOW = "it does not answer in time"


def _nothing(_: Answer) -> str:
    return ""


@frozen(slots=True)
class LinkLimits:
    """How long and how much.

    :ivar connect_timeout_s: for a TCP connection.
    :ivar attempt_timeout_s: for one request to one address, its answer included.
    :ivar total_timeout_s: for all attempts of a call.
    :ivar aside_s: how long an address that failed is tried last.
    :ivar max_answer_bytes: of one answer's body, decompressed.
    :ivar connections: kept open to each address.
    """

    connect_timeout_s: float = 2.0
    attempt_timeout_s: float = 8.0
    total_timeout_s: float = 10.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0
    aside_s: float = 10.0
    max_answer_bytes: int = 64 << 20
    connections: int = 8


def open_link(
    reactor: Any, addresses: Sequence[Address], limits: LinkLimits | None = None
) -> ElasticLink:
    """A link by TCP or TLS with connections that are kept open."""
    limits = limits or LinkLimits()
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = limits.connections
    # What is to be tried again is decided here.
    pool.retryAutomatically = False
    # Else each connection is two lines in the log.
    pool._factory.noisy = False
    agent = Agent(reactor, connectTimeout=limits.connect_timeout_s, pool=pool)
    return ElasticLink(HTTPClient(PlainAgent(agent)), addresses, reactor, limits, pool)


class ElasticLink:
    """Calls that go to the next of several servers, and to another when one fails.

    :ivar failures: how many attempts have failed. Whoever relied on what a server said may look
        again when this has changed.
    """

    def __init__(
        self,
        http: HTTPClient,
        addresses: Sequence[Address],
        clock: IReactorTime,
        limits: LinkLimits | None = None,
        pool: HTTPConnectionPool | None = None,
    ) -> None:
        self._http = http
        self._servers = [_Server(address) for address in addresses]
        self._clock = clock
        self._limits = limits or LinkLimits()
        self._pool = pool
        self._turn = 0
        self.failures = 0

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        if self._pool is not None:
            await self._pool.closeCachedConnections()

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str = _JSON,
        once: bool = False,
        lacks: Callable[[Answer], str] = _nothing,
    ) -> Answer:
        """Send a request, again and elsewhere when it fails, until the total time is over.

        :param path: from ``/`` on, escaped, with its query.
        :param once: send it to one server once; whoever calls decides whether it may be repeated.
        :param lacks: says why an answer is not good enough, so that it is asked for again; ``""``
            when it is.
        :returns: an answer in JSON with a status below 500, but none of 401, 403, 413 and 429.
        :raises NoAnswer: time is over.
        :raises Refused: the request was turned down for good.
        :raises AnswerTooLarge: the answer was.
        """
        limits = self._limits
        deadline = self._clock.seconds() + limits.total_timeout_s
        pause = limits.first_pause_s
        sent = False
        while True:
            foreign: NotElastic | None = None
            why = ""
            for server in self._order():
                left = deadline - self._clock.seconds()
                if left <= 0:
                    break
                timeout = min(limits.attempt_timeout_s, left)
                try:
                    answer = await self._attempt(server, method, path, body, content_type, timeout)
                    if lack := lacks(answer):
                        raise AttemptFailed(lack)
                except AttemptFailed as failure:
                    self._failed(server, failure)
                    sent = sent or failure.sent
                    why = failure.why
                    foreign = failure if isinstance(failure, NotElastic) else foreign
                    if once:
                        break
                else:
                    server.works()
                    return answer
            if foreign is not None:
                raise Refused(foreign.why, sent=True)
            if once or self._clock.seconds() + pause >= deadline:
                raise NoAnswer(
                    f"The metadata store cannot be reached: {why or 'it is too slow'}. "
                    "Try again later.",
                    sent=sent,
                )
            await deferLater(self._clock, pause)
            pause = min(2 * pause, limits.longest_pause_s)

    def _order(self) -> list[_Server]:
        """All servers, the next in turn first, those that failed lately last."""
        self._turn = (self._turn + 1) % len(self._servers)
        turned = self._servers[self._turn :] + self._servers[: self._turn]
        now = self._clock.seconds()
        return sorted(turned, key=lambda server: server.aside_until > now)

    def _failed(self, server: _Server, failure: AttemptFailed) -> None:
        self.failures += 1
        server.fails(failure.why, self._clock.seconds() + self._limits.aside_s)

    async def _attempt(
        self,
        server: _Server,
        method: str,
        path: str,
        body: bytes,
        content_type: str,
        timeout_s: float,
    ) -> Answer:
        exchange = Deferred.fromCoroutine(self._exchange(server, method, path, body, content_type))
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            exchange.cancel()

        timer = self._clock.callLater(timeout_s, expire)
        try:
            status, kind, data = await exchange
        except (CancelledError, ConnectingCancelledError) as error:
            if not expired:
                raise
            connected = not isinstance(error, ConnectingCancelledError)
            raise AttemptFailed(_TOO_SLOW, sent=connected) from error
        except (
            ResponseFailed,
            RequestTransmissionFailed,
            RequestGenerationFailed,
        ) as error:
            if not expired and any(reason.check(CancelledError) for reason in error.reasons):
                raise CancelledError from error
            raise AttemptFailed(_TOO_SLOW if expired else "the connection broke off") from error
        except (ConnectError, DNSLookupError, RequestNotSent) as error:
            raise AttemptFailed(_words(error), sent=False) from error
        except (ConnectionClosed, OSError) as error:
            raise AttemptFailed(_words(error)) from error
        finally:
            if timer.active():
                timer.cancel()
        return interpret(status, kind, data)

    async def _exchange(
        self, server: _Server, method: str, path: str, body: bytes, content_type: str
    ) -> tuple[int, str, bytes]:
        headers: dict[bytes | str, bytes | str] = {"Accept": _JSON}
        if body:
            headers["Content-Type"] = content_type
        if server.address.authorization is not None:
            headers["Authorization"] = server.address.authorization
        response = await self._http.request(
            method,
            _Target(server.base + path),
            headers=headers,
            data=_Bytes(body) if body else None,
            allow_redirects=False,
            unbuffered=True,
        )
        data = await read_body(response, self._limits.max_answer_bytes)
        kinds = response.headers.getRawHeaders("Content-Type") or [""]
        return response.code, str(kinds[0]), data


@implementer(IBodyProducer)
class _Bytes:
    """A body that is there already. treq's own way hands it over bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write all of it; the transport keeps what the network does not take yet."""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """See IBodyProducer; all was written."""

    def resumeProducing(self) -> None:
        """See IBodyProducer; all was written."""

    def stopProducing(self) -> None:
        """See IBodyProducer; all was written."""


class _Target(URL):
    """A URL as it is sent. treq would take it apart, look at the host's every character and put it
    together again for each request: 100 us of 120.
    """

    __slots__ = ("_sent",)
    _sent: str

    def __init__(self, sent: str) -> None:
        object.__setattr__(self, "_sent", sent)

    def to_uri(self) -> URL:
        """What treq does first: nothing, for it is one."""
        return self

    def to_text(self, with_password: bool = False) -> str:
        """What treq does next."""
        return self._sent


class _Server:
    """One address and how it does.

    :ivar base: what its requests' URLs begin with, as they are sent.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.base: str = URL.from_text(address.url).to_uri().to_text()
        self.aside_until = 0.0
        self._sound = True

    def works(self) -> None:
        """It answered."""
        self.aside_until = 0.0
        if not self._sound:
            self._sound = True
            log.info("{url} answers again", url=self.address.url)

    def fails(self, why: str, aside_until: float) -> None:
        """It did not, or not as it should. Logged once until it does."""
        self.aside_until = aside_until
        if self._sound:
            self._sound = False
            log.warn("{url} fails: {why}", url=self.address.url, why=why)


def _words(error: BaseException) -> str:
    # Twisted's own text may hold the address, which is not the client's business.
    return re.sub(r"\B([A-Z][a-z])", r" \1", type(error).__name__.removesuffix("Error")).lower()
