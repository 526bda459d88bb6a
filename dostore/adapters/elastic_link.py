"""Requests to Elasticsearch or OpenSearch: several addresses, bounded in time and in bytes.

Everything that can go wrong between this process and the answer's JSON ends here, as a
MetadataUnavailable; what the JSON says is for others.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import field, frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

# Raised to callers by a connection that is just closing, but exported nowhere else.
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from dostore.errors import ConfigError, MetadataUnavailable

log = Logger()

DEFAULT_PORT = 9200

NDJSON = "application/x-ndjson"
_JSON = "application/json"

#: Longest piece of an answer's own words that is passed on.
_MAX_QUOTE = 300

_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+")

_TOO_SLOW = "it does not answer in time"

_RETRIED_STATUSES = (429, 500, 502, 503, 504)


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


@frozen(slots=True)
class Address:
    """Where a server is.

    :ivar url: scheme, host, port and maybe a path; neither user nor password.
    :ivar authorization: what the header of that name says, or None. A secret.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)


@frozen(slots=True)
class Answer:
    """What a server answered: a status below 500, and JSON."""

    status: int
    body: dict[str, Any]


class NoAnswer(MetadataUnavailable):
    """No server could be made to answer.

    :ivar sent: some server may have got the request, and may still act on it.
    """

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class Refused(MetadataUnavailable):
    """A server answered, and what it said will not change by asking again."""


class AnswerTooLarge(MetadataUnavailable):
    """The answer has more bytes than are taken: ask for less."""


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Read what ES_SERVER says: addresses with commas between, each ``host:port`` or a URL.

    :raises ConfigError: one of them is none. Never tells what stands before an ``@``.
    """
    addresses = tuple(_parse_address(part.strip()) for part in text.split(",") if part.strip())
    if not addresses:
        raise ConfigError("ES_SERVER names no server. Write it like elastic.example:9200.")
    return addresses


def _parse_address(text: str) -> Address:
    url = text if "://" in text else f"http://{text}"
    wrong = ConfigError(
        f"ES_SERVER has the address '{text.rpartition('@')[2]}', which is none. Write it like "
        "elastic.example:9200 or https://user:password@elastic.example:9200."
    )
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
        host = parts.hostname
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        # The reason may quote the password.
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise wrong
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host) or re.search(r"[^!-~]", parts.path):
        raise wrong
    if ":" in user or re.search("[\x00-\x1f\x7f]", user + password):
        raise wrong
    authorization = None
    if parts.username is not None:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        authorization = f"Basic {secret}"
    bracketed = f"[{host}]" if ":" in host else host
    return Address(f"{parts.scheme}://{bracketed}:{port}{parts.path.rstrip('/')}", authorization)


def open_link(
    reactor: Any, addresses: Sequence[Address], limits: LinkLimits | None = None
) -> ElasticLink:
    """A link by TCP or TLS with connections that are kept open."""
    limits = limits or LinkLimits()
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = limits.connections
    # What is to be tried again is decided here.
    pool.retryAutomatically = False
    agent = Agent(reactor, connectTimeout=limits.connect_timeout_s, pool=pool)
    return ElasticLink(HTTPClient(_Plain(agent)), addresses, reactor, limits, pool)


@implementer(IAgent)
class _Plain:
    """Asks for answers that are not compressed.

    treq asks for gzip always; on a local network that costs both ends more time than it saves.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See IAgent."""
        plain = headers.copy() if headers is not None else Headers()
        plain.removeHeader("Accept-Encoding")
        return self._agent.request(method, uri, plain, bodyProducer)


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
    ) -> Answer:
        """Send a request, again and elsewhere when it fails, until the total time is over.

        :param path: from ``/`` on, escaped, with its query.
        :param once: send it to one server once; whoever calls decides whether it may be repeated.
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
            foreign: _NotElastic | None = None
            why = ""
            for server in self._order():
                left = deadline - self._clock.seconds()
                if left <= 0:
                    break
                timeout = min(limits.attempt_timeout_s, left)
                try:
                    answer = await self._attempt(server, method, path, body, content_type, timeout)
                except _Failed as failure:
                    self._failed(server, failure)
                    sent = sent or failure.sent
                    why = failure.why
                    foreign = failure if isinstance(failure, _NotElastic) else foreign
                    if once:
                        break
                else:
                    server.works()
                    return answer
            if foreign is not None:
                raise Refused(foreign.why)
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

    def _failed(self, server: _Server, failure: _Failed) -> None:
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
            raise _Failed(_TOO_SLOW, sent=connected) from error
        except (ResponseFailed, RequestTransmissionFailed) as error:
            if not expired and any(reason.check(CancelledError) for reason in error.reasons):
                raise CancelledError from error
            raise _Failed(_TOO_SLOW if expired else "the connection broke off") from error
        except (ConnectError, DNSLookupError, RequestNotSent) as error:
            raise _Failed(_words(error), sent=False) from error
        except (ConnectionClosed, OSError) as error:
            raise _Failed(_words(error)) from error
        finally:
            if timer.active():
                timer.cancel()
        return _interpret(status, kind, data)

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
            server.address.url + path,
            headers=headers,
            data=body or None,
            allow_redirects=False,
            unbuffered=True,
        )
        data = await _read(response, self._limits.max_answer_bytes)
        kinds = response.headers.getRawHeaders("Content-Type") or [""]
        return response.code, str(kinds[0]), data


class _Server:
    """One address and how it does."""

    def __init__(self, address: Address) -> None:
        self.address = address
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


class _Failed(Exception):
    """One attempt failed; another server, or a later moment, may do better."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class _NotElastic(_Failed):
    """What answered is something else; waiting will not change that."""


def _words(error: BaseException) -> str:
    # Twisted's own text may hold the address, which is not the client's business.
    return re.sub(r"\B([A-Z][a-z])", r" \1", type(error).__name__.removesuffix("Error")).lower()


def _interpret(status: int, kind: str, data: bytes) -> Answer:
    """Tell answers from refusals and from what is no answer of Elasticsearch."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    cause, reason = _error_of(body)
    if status in (403, 429):
        check_block(f"{cause} {reason}")
    if status in (401, 403):
        raise Refused("Elasticsearch refuses the user or password in ES_SERVER. Correct them.")
    if status == 413:
        raise Refused(
            "Something before Elasticsearch takes no requests of this size. Raise its limit to "
            "16 MiB."
        )
    if status in _RETRIED_STATUSES:
        # A 429 is given before anything is done.
        raise _Failed(f"it answers {status} {cause}".rstrip(), sent=status != 429)
    if not isinstance(body, dict) or status >= 500 or 300 <= status < 400:
        known = _CONTENT_TYPE.match(kind)
        raise _NotElastic(
            f"What ES_SERVER names answers with status {status} and "
            f"{known[0] if known else 'nothing'} that is not Elasticsearch's JSON. "
            "Correct ES_SERVER."
        )
    return Answer(status, body)


def check_block(reason: str) -> None:
    """See whether the reason why something is not done is that writing is blocked.

    :raises Refused: it is.
    """
    if reason.startswith("cluster_block_exception"):
        raise Refused(
            "The metadata index cannot be written now: a disk of Elasticsearch is nearly full, or "
            "its operator blocked writing. Free space there, or lift the block (index.blocks.*). "
            f"It says: {reason}"
        )


def _error_of(body: object) -> tuple[str, str]:
    """The type and the reason of an error that Elasticsearch tells; empty when there is none."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("type", ""))[:_MAX_QUOTE], str(error.get("reason", ""))[:_MAX_QUOTE]


def error_of(answer: Answer) -> tuple[str, str]:
    """The type and the reason of the error that an answer tells; empty when it tells none."""
    return _error_of(answer.body)


async def _read(response: IResponse, limit: int) -> bytes:
    """The whole body.

    :raises AnswerTooLarge: it has more than ``limit`` bytes; the connection is closed.
    """
    collector = _Collector(limit)
    response.deliverBody(collector)
    return await collector.whole


class _Collector(Protocol):
    """Collects a body up to a limit."""

    def __init__(self, limit: int) -> None:
        self.whole: Deferred[bytes] = Deferred(self._cancel)
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def _cancel(self, _: object) -> None:
        self._abort()

    def _abort(self) -> None:
        self._pieces.clear()
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """A piece of the body came."""
        self._size += len(data)
        if self.whole.called:
            return
        if self._size > self._limit:
            self._abort()
            self.whole.errback(
                AnswerTooLarge(f"Elasticsearch's answer has more than {self._limit} bytes.")
            )
            return
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionClosed())) -> None:  # noqa: B008
        """The body ended, or broke off."""
        if self.whole.called:
            return
        # A body without a length ends with its connection; whether it is whole, its JSON tells.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)
