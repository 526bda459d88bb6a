"""``/health/live`` and ``/health/ready``."""

from __future__ import annotations

import json

from dostore.service.objects import ObjectStore
from dostore.web.problem import CONTENT_TYPE, RETRY_AFTER_S, problem
from dostore.web.request import Request
from dostore.web.resource import Resource

_JSON = (b"Content-Type", b"application/json")


class Health:
    """How the process and its store are."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.live = Resource("live", {b"GET": self.get_live, b"HEAD": self.get_live})
        self.ready = Resource("ready", {b"GET": self.get_ready, b"HEAD": self.get_ready})

    async def get_live(self, request: Request, rest: bytes) -> None:
        """``GET /health/live``: the process runs and answers."""
        request.respond(200, [_JSON], b'{"live": true}\n')

    async def get_ready(self, request: Request, rest: bytes) -> None:
        """``GET /health/ready``: it can serve; ``detail`` says so when redundancy is missing."""
        state = await self._store.readiness()
        more = {
            "ready": state.ready,
            "nodes": {"live": state.live, "writable": state.writable, "expected": state.expected},
            "lost": state.lost,
        }
        if state.ready:
            body = json.dumps({**more, "detail": state.detail}).encode() + b"\n"
            request.respond(200, [_JSON], body)
        else:
            request.respond(
                503,
                [CONTENT_TYPE, (b"Retry-After", b"%d" % RETRY_AFTER_S)],
                problem(503, "Not ready", state.detail, **more),
            )
