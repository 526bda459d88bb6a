"""``/locate/<hash>``: who holds which shard."""

from __future__ import annotations

import json

from dostore.core.queries import parse_hash_path
from dostore.service.objects import ObjectStore
from dostore.web.request import Request
from dostore.web.resource import Resource

_JSON = (b"Content-Type", b"application/json")


class Locate:
    """Where the contents of a store are."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.resource = Resource("locate", {b"GET": self.get, b"HEAD": self.get})

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET /locate/<hash>``: an address for each shard that somebody holds."""
        held = await self._store.locate(parse_hash_path(rest))
        addresses = {str(index): held[index][0] for index in sorted(held) if held[index]}
        request.respond(200, [_JSON], json.dumps(addresses).encode() + b"\n")
