"""What an answer says of the version that it is about, and what no request may say of one."""

from __future__ import annotations

from dostore.core.httpfields import (
    created_seconds,
    format_digest,
    format_etag,
    format_http_date,
)
from dostore.core.model import Version
from dostore.core.queries import parse_query
from dostore.errors import InvalidRequest
from dostore.web.request import Header, Request


def identity(version: Version, etag: bytes | None = None, *, dated: bool = True) -> list[Header]:
    """Which version it is.

    :param etag: of the form that is meant; None: of the content as it is.
    """
    headers = [(b"X-Object-Version", b"%d" % version.number)]
    if version.content is not None:
        content_hash = version.content.hash
        headers.append((b"Digest", format_digest(content_hash)))
        headers.append((b"ETag", etag or format_etag(content_hash)))
    if dated:
        headers.append((b"Last-Modified", format_http_date(created_seconds(version))))
    return headers


def refuse_version(request: Request) -> None:
    """A client that names a version to be changed must not have another one made instead."""
    if request.query and "version" in parse_query(request.query):
        raise InvalidRequest(
            f"Versions never change: leave ?version= out of a {request.method.decode('ascii')}."
        )
