"""What Elasticsearch and what stands before it answers: JSON, refusals, and what is neither."""

from __future__ import annotations

import json
import re
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from dostore.errors import MetadataUnavailable

#: Longest piece of an answer's own words that is passed on.
_MAX_QUOTE = 300

_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+")

_RETRIED_STATUSES = (429, 500, 502, 503, 504)


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
    """A server answered, and what it said will not change by asking again.

    :ivar sent: the answer does not tell whether what was asked for was done.
    """

    def __init__(self, detail: str, *, sent: bool = False) -> None:
        super().__init__(detail)
        self.sent = sent


class AnswerTooLarge(MetadataUnavailable):
    """The answer has more bytes than are taken: ask for less."""


class AttemptFailed(Exception):
    """One attempt failed; another server, or a later moment, may do better."""

    def __init__(self, why: str, *, sent: bool = True) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class NotElastic(AttemptFailed):
    """What answered is something else; waiting will not change that."""


def interpret(status: int, kind: str, data: bytes) -> Answer:
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
        raise AttemptFailed(f"it answers {status} {cause}".rstrip(), sent=status != 429)
    if not isinstance(body, dict) or status >= 500 or 300 <= status < 400:
        known = _CONTENT_TYPE.match(kind)
        raise NotElastic(
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


async def read_body(response: IResponse, limit: int) -> bytes:
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
