"""Resumable uploads: ``POST /objects/<name>`` opens one, ``/temp/<token>`` is one."""

from __future__ import annotations

from dostore.core.datafields import parse_size
from dostore.core.httpfields import parse_content_type, parse_digest, parse_meta, write_check
from dostore.core.names import parse_object_name
from dostore.core.ranges import parse_part
from dostore.errors import InvalidRequest, LengthRequired, RangeNotSatisfiable, TooLarge
from dostore.service.objects import ObjectStore
from dostore.service.uploads import Progress, Wanted
from dostore.web.api.identity import identity, refuse_version
from dostore.web.problem import CONTENT_TYPE, problem
from dostore.web.request import Header, Request
from dostore.web.resource import Resource

_CONDITIONS = (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")

#: How much is held changes with every part.
_NOT_KEPT = (b"Cache-Control", b"no-store")


class UploadParts:
    """The resumable uploads of a store.

    :param max_object_bytes: a larger object is refused.
    """

    def __init__(self, store: ObjectStore, *, max_object_bytes: int) -> None:
        self._uploads = store.uploads
        self._max_object_bytes = max_object_bytes
        self.resource = Resource(
            "upload", {b"HEAD": self.head, b"PUT": self.put, b"DELETE": self.delete}
        )

    async def open(self, request: Request, rest: bytes) -> None:
        """``POST /objects/<name>`` with ``Digest`` and ``Size``."""
        name = parse_object_name(rest)
        refuse_version(request)
        fields = request.fields
        digest = parse_digest(fields.get(b"digest", ()))
        size = parse_size(request.field(b"size"), "Size")
        if digest is None or size is None:
            raise InvalidRequest(
                "A POST opens a resumable upload: send Digest: SHA-256=… and Size: <bytes>, and no"
                " body. PUT takes an object in one request."
            )
        if size > self._max_object_bytes:
            raise TooLarge(
                f"The object is larger than {self._max_object_bytes} bytes, the most that is taken."
            )
        if request.body_length or request.chunked:
            raise InvalidRequest(
                "The POST that opens an upload has no body. PUT the parts to the Location that it"
                " is answered with."
            )
        # What is malformed is told now.
        write_check(fields)
        wanted = Wanted(
            parse_content_type(fields.get(b"content-type", ())),
            parse_meta(fields),
            {
                field.decode("ascii"): [line.decode("latin-1") for line in fields[field]]
                for field in _CONDITIONS
                if field in fields
            },
        )
        opened = await self._uploads.open(name, digest, size, wanted)
        if isinstance(opened, str):
            location = (b"Location", b"/temp/" + opened.encode("ascii"))
            request.respond(201, [location, _offset(0), _NOT_KEPT])
        else:
            request.respond(200, identity(opened, dated=False))

    async def head(self, request: Request, rest: bytes) -> None:
        """``HEAD /temp/<token>``: how much is held."""
        progress = await self._uploads.progress(_token(rest))
        headers = [*_standing(progress), (b"Content-Type", b"application/octet-stream")]
        request.begin(200, headers, progress.held)
        request.finish()

    async def put(self, request: Request, rest: bytes) -> None:
        """``PUT /temp/<token>``: a part. All that can be wrong is, before the body is asked for."""
        first, length = parse_part(request.fields.get(b"range", ()))
        if request.body_length is None and not request.chunked:
            raise LengthRequired("Send Content-Length, or the body in chunks.")
        if None not in (length, request.body_length) and length != request.body_length:
            raise InvalidRequest("The body's length is not that of its Range.")
        try:
            progress = await self._uploads.receive(
                _token(rest), first, request.body_length, request.body
            )
        except RangeNotSatisfiable as error:
            request.respond(
                416,
                [
                    CONTENT_TYPE,
                    _offset(error.size),
                    (b"Content-Range", b"bytes */%d" % error.size),
                    _NOT_KEPT,
                ],
                problem(416, error.title, error.detail, held=error.size),
            )
            return
        request.respond(200, _standing(progress))

    async def delete(self, request: Request, rest: bytes) -> None:
        """``DELETE /temp/<token>``: the upload is given up."""
        await self._uploads.drop(_token(rest))
        request.respond(204, [])


def _token(rest: bytes) -> str:
    return rest.decode("latin-1")


def _offset(held: int) -> Header:
    return (b"Upload-Offset", b"%d" % held)


def _standing(progress: Progress) -> list[Header]:
    headers = [_offset(progress.held), _NOT_KEPT]
    if progress.version is not None:
        headers += identity(progress.version, dated=False)
    return headers
