"""One request to one API server, by treq: bounded, with deadlines, foreign errors translated."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

import dostore
from dostore.client.addresses import Address
from dostore.client.failures import BadAnswer
from dostore.errors import NodeUnavailable
from dostore.fanout import with_timeout
from dostore.http.body import AnswerBody, StreamedBody, TooLong
from dostore.http.exchange import (
    FOREIGN,
    MAX_ERROR_BYTES,
    Answer,
    Field,
    Fields,
    Streamed,
    Upload,
    length_of,
    translate,
)
from dostore.http.plain import PlainAgent

#: Time to connect, over whatever network.
CONNECT_TIMEOUT_S = 10.0

#: Time to wait for an answer to begin, and in which a body must go on.
SILENCE_S = 60.0

#: What treq is told that every server is called: it does not know what to do with IPv6 addresses.
_SERVER = "http://server"

_AGENT = f"dostore/{dostore.__version__}".encode("ascii")


@implementer(IAgent)
class _ToServer:
    """Sends requests to one server, whatever server their URI names."""

    def __init__(self, agent: IAgent, base: bytes) -> None:
        self._agent = agent
        self._base = base

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See IAgent."""
        url = self._base + uri.removeprefix(_SERVER.encode("ascii"))
        return self._agent.request(method, url, headers, bodyProducer)


class Link:
    """Requests to one server.

    :param agent: makes requests, over connections that are kept.
    :param clock: the reactor, or a clock.
    """

    def __init__(self, address: Address, agent: IAgent, clock: Any) -> None:
        self.address = address
        self._clock = clock
        self._agent = PlainAgent(_ToServer(agent, address.base))

    async def ask(
        self,
        method: str,
        target: str,
        fields: Sequence[Field] = (),
        *,
        limit: int = MAX_ERROR_BYTES,
    ) -> Answer:
        """A request without a body and its whole answer.

        :param target: from ``/`` on, escaped, with its query.
        :param limit: the most bytes that the answer's body may have.
        :raises NodeUnavailable: there is no answer, or not in time.
        :raises BadAnswer: it is longer than it may be.
        """
        streamed = await self._begin(method, target, fields, limit)
        try:
            data = await streamed.body.read_all()
        except TooLong as error:
            raise BadAnswer(f"{error.detail} Is that a dostore server?") from error
        finally:
            streamed.body.abandon()
        return Answer(streamed.status, streamed.headers, data)

    async def stream(self, method: str, target: str, fields: Sequence[Field] = ()) -> Streamed:
        """A request and the beginning of its answer, whose body must be read or abandoned.

        :raises NodeUnavailable: there is no answer, or not in time.
        """
        return await self._begin(method, target, fields)

    def upload(
        self, method: str, target: str, fields: Sequence[Field], length: int | None
    ) -> Upload:
        """A request whose body is written piece by piece; in chunks when its length is not known.

        What the upload's methods raise is told there.
        """
        body = StreamedBody(self._clock, SILENCE_S, length)
        responding = Deferred.fromCoroutine(self._request(method, target, fields, body))
        return Upload(body, responding, self._clock, timeout_s=SILENCE_S)

    async def _begin(
        self,
        method: str,
        target: str,
        fields: Sequence[Field],
        limit: int | None = None,
    ) -> Streamed:
        response = await self._in_time(self._request(method, target, fields, None))
        # That of a HEAD is the length of the body of a GET.
        length = None if method == "HEAD" else length_of(response)
        arriving = AnswerBody(self._clock, SILENCE_S, length=length, limit=limit)
        response.deliverBody(arriving)
        return Streamed(response.code, Fields.of(response.headers), length, arriving)

    async def _request(
        self,
        method: str,
        target: str,
        fields: Sequence[Field],
        body: IBodyProducer | None,
    ) -> IResponse:
        headers = Headers({b"User-Agent": [_AGENT]})
        for name, value in fields:
            headers.addRawHeader(name, value)
        # A client keeps the cookies that it is sent, and nobody wants those.
        http = HTTPClient(self._agent)
        try:
            response: IResponse = await http.request(
                method,
                _SERVER + target,
                headers=headers,
                data=body,
                allow_redirects=False,
                unbuffered=True,
                reactor=self._clock,
            )
        except FOREIGN as foreign:
            raise translate(foreign, str(self.address)) from foreign
        return response

    async def _in_time(self, request: Coroutine[Any, Any, IResponse]) -> IResponse:
        def late() -> NodeUnavailable:
            return NodeUnavailable(f"{self.address} gave no answer in {SILENCE_S:g} s.")

        async def let_go(response: IResponse) -> None:
            unwanted = AnswerBody(self._clock, 0.0, length=None, limit=0)
            response.deliverBody(unwanted)
            unwanted.abandon()

        return await with_timeout(request, SILENCE_S, self._clock, late, let_go)
