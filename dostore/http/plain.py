"""Requests for answers that are not compressed."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer


@implementer(IAgent)
class PlainAgent:
    """Takes out of each request that its sender would take gzip.

    treq asks for it always. Then there would be no ranges, bodies could be larger than they seem,
    and on a local network it costs both ends more time than it saves.

    :param agent: makes the requests.
    """

    def __init__(self, agent: IAgent) -> None:
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
