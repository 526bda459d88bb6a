"""``GET`` and ``HEAD`` of objects."""

from __future__ import annotations

from dostore.core.codings import Codings
from dostore.core.httpfields import Conditions
from dostore.core.names import parse_object_name
from dostore.core.queries import parse_version_number
from dostore.service.readable import Readable
from dostore.web.api.download import send
from dostore.web.api.identity import identity
from dostore.web.encoding import VARY
from dostore.web.request import Request
from dostore.web.resource import Resource

#: What a browser makes of an object must not touch what belongs to others.
_SANDBOX = (b"Content-Security-Policy", b"sandbox; default-src 'none'")
_RANGES = (b"Accept-Ranges", b"bytes")


class Reads:
    """The objects of a store, to be read."""

    def __init__(self, store: Readable) -> None:
        self._store = store
        self.resource = Resource("objects", {b"GET": self.get, b"HEAD": self.get})

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET`` and ``HEAD /objects/<name>[?version=N]``."""
        name = parse_object_name(rest)
        version = await self._store.find(name, parse_version_number(request.query))
        conditions = Conditions.parse(request.fields)
        if conditions is not None:
            etag = conditions.not_modified(version, gzip=Codings.of(request.fields).gzip)
            if etag is not None:
                request.respond(304, [*identity(version, etag), VARY])
                return
        headers = [*identity(version), _RANGES, _SANDBOX, VARY]
        for key, value in version.meta.items():
            headers.append((b"X-Object-Meta-" + key.encode("ascii"), value.encode("ascii")))
        await send(self._store, request, version, headers)
