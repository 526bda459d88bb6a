"""Listings as JSON lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from dostore.core.codings import Codings
from dostore.core.model import Version
from dostore.ports import IByteSink, IWorkers
from dostore.service.listing import CommonPrefix
from dostore.web.encoding import CONTENT_ENCODING, MIN_BYTES, VARY, GzipSink
from dostore.web.request import Request

CONTENT_TYPE = (b"Content-Type", b"application/x-ndjson")

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

#: A string as JSON, by C code where there is any.
_text = json.encoder.encode_basestring


def line(entry: Version | CommonPrefix) -> bytes:
    """One entry of a listing, with its line end."""
    # What json would make of a dict, member by member: that takes three times as long.
    if isinstance(entry, CommonPrefix):
        return f'{{"Prefix":{_text(entry.prefix)}}}\n'.encode()
    content_hash = entry.content.hash if entry.content else ""
    meta = _encode(dict(entry.meta)) if entry.meta else "{}"
    deleted = ',"Deleted":true' if entry.deleted else ""
    return (
        f'{{"Name":{_text(entry.name)},"Version":{entry.number},"Size":{entry.size},'
        f'"Hash":"{content_hash}","Created":{_text(entry.created)},'
        f'"ContentType":{_text(entry.content_type)},"Meta":{meta}{deleted}}}\n'
    ).encode()


async def stream(request: Request, pages: AsyncIterator[Sequence[Any]], workers: IWorkers) -> None:
    """Answer with the entries of all pages; the next page is fetched when the last one is sent.

    An error before the first page is raised before the answer has begun.

    :param workers: threads that compress, for a client that takes gzip.
    """
    async with aclosing(pages):  # type: ignore[type-var]
        lines = await _next_lines(pages)
        headers = [CONTENT_TYPE, VARY]
        zipped = _is_gzip_wanted(request, lines)
        if zipped:
            headers.append(CONTENT_ENCODING)
        sink: IByteSink = request.begin(200, headers, None)
        if request.method != b"HEAD":
            gzip = GzipSink(sink, workers) if zipped else None
            sink = gzip or sink
            while lines:
                await sink.write([lines])
                lines = await _next_lines(pages)
            if gzip is not None:
                await gzip.finish()
    request.finish()


def _is_gzip_wanted(request: Request, lines: bytes) -> bool:
    """Whether a listing that begins with ``lines`` is compressed: JSON always shrinks."""
    codings = Codings.of(request.fields)
    return (
        codings.gzip
        and request.version == b"HTTP/1.1"
        and (len(lines) >= MIN_BYTES or not codings.identity)
    )


async def _next_lines(pages: AsyncIterator[Sequence[Any]]) -> bytes:
    """The lines of the next page; none at the end."""
    page = await _next(pages)
    return b"" if page is None else b"".join(map(line, page))


async def _next(pages: AsyncIterator[Sequence[Any]]) -> Sequence[Any] | None:
    """The next page, or None.

    ``anext(pages, None)`` would fail where a page waits for a Deferred whose result is a tuple:
    CPython (seen in 3.11.7) takes the tuple for the arguments of ``send()``.
    """
    async for page in pages:
        return page
    return None
