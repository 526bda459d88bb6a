"""Who may ask: requests to a data server are signed with the cluster's secret."""

from __future__ import annotations

from collections.abc import Callable

from dostore.core.signing import Signable, Verifier
from dostore.errors import DostoreError
from dostore.web.connections import Handler
from dostore.web.request import Request
from dostore.web.resource import answer_error

#: What a load balancer or supervisor asks, without the secret, and learns nothing by.
_OPEN = frozenset({b"/health/live"})


class Guard:
    """Lets signed requests through to a handler.

    :param address: by which API servers know this server: what was signed for another is refused.
    :param now: the time of day in seconds since the epoch.
    """

    def __init__(
        self, handler: Handler, verifier: Verifier, address: bytes, now: Callable[[], float]
    ) -> None:
        self._handler = handler
        self._verifier = verifier
        self._address = address.lower()
        self._now = now

    async def handle(self, request: Request) -> None:
        """Answer a request, or refuse it."""
        if request.path not in _OPEN:
            try:
                self._check(request)
            except DostoreError as error:
                request.route = "refused"
                answer_error(request, error)
                return
        await self._handler(request)

    def _check(self, request: Request) -> None:
        target = request.path + b"?" + request.query if request.query else request.path
        host = (request.field(b"host") or b"").lower()
        digest = request.field(b"digest") or b""
        what = Signable(request.method, host, target, digest)
        # One that was signed for another server is one that was signed for nothing here.
        authorization = request.field(b"authorization") if host == self._address else None
        self._verifier.check(what, authorization, self._now())
