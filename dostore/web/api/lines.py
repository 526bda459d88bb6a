"""Listings as JSON lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from dostore.core.model import Version
from dostore.service.listing import CommonPrefix
from dostore.web.request import Request

CONTENT_TYPE = (b"Content-Type", b"application/x-ndjson")

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def line(entry: Version | CommonPrefix) -> bytes:
    """One entry of a listing, with its line end."""
    members: dict[str, object]
    if isinstance(entry, CommonPrefix):
        members = {"Prefix": entry.prefix}
    else:
        members = {
            "Name": entry.name,
            "Version": entry.number,
            "Size": entry.size,
            "Hash": str(entry.content.hash) if entry.content else "",
            "Created": entry.created,
            "ContentType": entry.content_type,
            "Meta": dict(entry.meta),
        }
        if entry.deleted:
            members["Deleted"] = True
    return _encode(members).encode("utf-8") + b"\n"


async def stream(request: Request, pages: AsyncIterator[Sequence[Any]]) -> None:
    """Answer with the entries of all pages; the next page is fetched when the last one is sent.

    An error before the first page is raised before the answer has begun.
    """
    async with aclosing(pages):  # type: ignore[type-var]
        page = await _next(pages)
        sink = request.begin(200, [CONTENT_TYPE], None)
        while page is not None and request.method != b"HEAD":
            await sink.write([b"".join(map(line, page))])
            page = await _next(pages)
    request.finish()


async def _next(pages: AsyncIterator[Sequence[Any]]) -> Sequence[Any] | None:
    """The next page, or None.

    ``anext(pages, None)`` would fail where a page waits for a Deferred whose result is a tuple:
    CPython (seen in 3.11.7) takes the tuple for the arguments of ``send()``.
    """
    async for page in pages:
        return page
    return None
