"""``/versions/``: every version, of one object or of all."""

from __future__ import annotations

from dostore.core.names import parse_object_name
from dostore.core.queries import HistoryQuery, ListingQuery
from dostore.service.listing import history, list_versions
from dostore.service.objects import ObjectStore
from dostore.web.api.lines import stream
from dostore.web.request import Request
from dostore.web.resource import Resource


class Versions:
    """The versions in a store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.resource = Resource("versions", {b"GET": self.history, b"HEAD": self.history})
        self.listing = Resource("versions-listing", {b"GET": self.list, b"HEAD": self.list})

    async def history(self, request: Request, rest: bytes) -> None:
        """``GET /versions/<name>?after=&limit=``: oldest first."""
        name = parse_object_name(rest)
        query = HistoryQuery.parse(request.query)
        pages = history(self._store.metadata, name, after=query.after, limit=query.limit)
        await stream(request, pages, self._store.workers)

    async def list(self, request: Request, rest: bytes) -> None:
        """``GET /versions/?prefix=&after=&limit=``."""
        query = ListingQuery.parse(request.query)
        pages = list_versions(
            self._store.metadata, prefix=query.prefix, after=query.after, limit=query.limit
        )
        await stream(request, pages, self._store.workers)
