"""``/objects/``: objects by name, and their listing."""

from __future__ import annotations

from dostore.core.httpfields import (
    parse_content_type,
    parse_digest,
    parse_meta,
    write_check,
)
from dostore.core.names import parse_object_name
from dostore.core.queries import ListingQuery
from dostore.errors import InvalidRequest, LengthRequired, TooLarge
from dostore.service.listing import list_objects
from dostore.service.objects import ObjectStore
from dostore.web.api.identity import identity, refuse_version
from dostore.web.api.lines import stream
from dostore.web.api.reads import Reads
from dostore.web.request import Request
from dostore.web.resource import Method, Resource


class Objects:
    """The objects of a store.

    :param max_object_bytes: a longer body is refused.
    :param require_digest: whether a PUT must have a Digest.
    :param open_upload: what answers a POST.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        max_object_bytes: int,
        require_digest: bool,
        open_upload: Method,
    ) -> None:
        reads = Reads(store).resource
        self._store = store
        self._max_object_bytes = max_object_bytes
        self._require_digest = require_digest
        self.resource = Resource(
            "objects",
            {
                **reads.methods,
                b"PUT": self.put,
                b"POST": open_upload,
                b"DELETE": self.delete,
            },
        )
        # Without a name, PUT, POST and DELETE say what is missing.
        self.listing = Resource(
            "listing",
            {**self.resource.methods, b"GET": self.list, b"HEAD": self.list},
        )

    async def put(self, request: Request, rest: bytes) -> None:
        """``PUT /objects/<name>``. All that can be wrong is, before the body is asked for."""
        name = parse_object_name(rest)
        refuse_version(request)
        fields = request.fields
        digest = parse_digest(fields.get(b"digest", ()))
        if digest is None and self._require_digest:
            raise InvalidRequest("This server takes no object without a Digest. Send SHA-256=….")
        if b"content-range" in fields:
            raise InvalidRequest("A part of an object cannot be put. Send the whole object.")
        content_type = parse_content_type(fields.get(b"content-type", ()))
        meta = parse_meta(fields)
        check = write_check(fields)
        if request.body_length is None and not request.chunked:
            raise LengthRequired("Send Content-Length, or the body in chunks.")
        if (request.body_length or 0) > self._max_object_bytes:
            raise TooLarge(
                f"The body is larger than {self._max_object_bytes} bytes, the most that is taken."
            )
        request.body.limit = self._max_object_bytes
        if check is not None:
            await self._store.precheck(name, check)
        version = await self._store.put(
            name, request.body, digest=digest, content_type=content_type, meta=meta, check=check
        )
        request.respond(200, identity(version, dated=False))

    async def delete(self, request: Request, rest: bytes) -> None:
        """``DELETE /objects/<name>``."""
        name = parse_object_name(rest)
        refuse_version(request)
        version = await self._store.delete(name, write_check(request.fields))
        request.respond(204, [(b"X-Object-Version", b"%d" % version.number)])

    async def list(self, request: Request, rest: bytes) -> None:
        """``GET /objects/?prefix=&after=&limit=&delimiter=``."""
        query = ListingQuery.parse(request.query)
        pages = list_objects(
            self._store.metadata,
            prefix=query.prefix,
            after=query.after,
            limit=query.limit,
            delimiter=query.delimiter,
        )
        await stream(request, pages, self._store.workers)
