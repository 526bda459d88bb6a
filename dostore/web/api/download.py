"""The bytes of a version as an answer: all of them, maybe as gzip, one range, or several."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from dostore.core.codings import AS_THEY_ARE, Codings, may_shrink
from dostore.core.httpfields import format_gzip_etag
from dostore.core.model import Version
from dostore.core.ranges import Multipart, Span, if_range_holds, parse_ranges
from dostore.errors import Corrupt
from dostore.ports import IWorkers
from dostore.service.readable import Readable
from dostore.service.reading import ContentReader
from dostore.web.encoding import (
    CONTENT_ENCODING,
    MIN_BYTES,
    GzipSink,
    compress,
    is_worth_it,
    looks_worth_it,
)
from dostore.web.request import LARGE_BYTES, Header, Request

#: Fields of an answer that the gzip form has otherwise, or not at all: ranges are not of it.
_NOT_OF_GZIP = frozenset((b"ETag", b"Accept-Ranges"))


async def send(
    store: Readable, request: Request, version: Version, headers: Sequence[Header]
) -> None:
    """Answer a GET, or a HEAD with the same headers, by the bytes that its Range asks for.

    :param headers: all but what depends on the range: Content-Type is among those.
    """
    spans: tuple[Span, ...] = ()
    if b"range" in request.fields and if_range_holds(request.fields.get(b"if-range", ()), version):
        spans = parse_ranges(request.fields[b"range"], version.size)
    if len(spans) > 1:
        await _send_parts(store, request, version, headers, spans)
        return
    headers = [*headers, (b"Content-Type", version.content_type.encode("ascii"))]
    status, span = 200, (0, version.size)
    if spans:
        status, span = 206, (spans[0].start, spans[0].stop)
        headers.append((b"Content-Range", spans[0].content_range()))
    codings = AS_THEY_ARE if spans else Codings.of(request.fields)
    if codings.gzip and _may_be_gzip(request, version, codings):
        await _send_compressed(store, request, version, headers, codings)
    elif request.method == b"HEAD":
        await _send_head(store, request, version, status, headers, span)
    elif (body := store.read_now(version, span)) is not None:
        request.respond(status, headers, body)
    else:
        await _send_span(store, request, version, status, headers, span)


async def _send_span(
    store: Readable,
    request: Request,
    version: Version,
    status: int,
    headers: Sequence[Header],
    span: tuple[int, int],
) -> None:
    """Answer by the bytes as they are, which are to be waited for."""
    if span == (0, version.size) and (body := await store.fetch(version)) is not None:
        request.respond(status, headers, body)
        return
    reader = await store.open(version, span)
    try:
        await _send_reader(request, status, headers, reader)
    finally:
        await reader.close()


async def _send_reader(
    request: Request, status: int, headers: Sequence[Header], reader: ContentReader
) -> None:
    if reader.size < LARGE_BYTES:
        request.respond(status, headers, await _read_all(reader))
    else:
        await reader.send(request.begin(status, headers, reader.size))
        request.finish()


async def _send_head(
    store: Readable,
    request: Request,
    version: Version,
    status: int,
    headers: Sequence[Header],
    span: tuple[int, int],
) -> None:
    """Answer a HEAD as the GET would be, whose first bytes are read to know that they can be."""
    start, stop = span
    (content,) = version.contents
    first = (start, min(stop, start + content.scheme.stripe_size))
    if store.read_now(version, first) is None:
        await (await store.open(version, first)).close()
    request.respond(status, headers, length=stop - start)


async def _read_all(reader: ContentReader) -> bytes:
    """What a reader reads, which is little."""
    body = b"".join(await reader.read())
    # A range may lie across two batches.
    while len(body) < reader.size and (more := await reader.read()):
        body += b"".join(more)
    _check_length(len(body), reader)
    return body


def _check_length(length: int, reader: ContentReader) -> None:
    if length != reader.size:
        raise Corrupt(f"{length} bytes were read of {reader.size}.")


# With gzip


def _may_be_gzip(request: Request, version: Version, codings: Codings) -> bool:
    """Whether gzip is to be tried for a client that takes it."""
    # A client of HTTP/1.0 would not see where a body without a length was cut.
    return request.version == b"HTTP/1.1" and (
        not codings.identity or (version.size >= MIN_BYTES and may_shrink(version.content_type))
    )


async def _send_compressed(
    store: Readable,
    request: Request,
    version: Version,
    headers: Sequence[Header],
    codings: Codings,
) -> None:
    """Answer by gzip, or by the bytes as they are when they do not shrink and will do."""
    body: bytes | memoryview | None = None
    if version.size < LARGE_BYTES:
        body = store.read_now(version)
        if body is None:
            body = await store.fetch(version)
    if body is not None:
        await _send_small_compressed(store.workers, request, version, headers, body, codings)
        return
    reader = await store.open(version)
    try:
        if reader.size < LARGE_BYTES:
            body = await _read_all(reader)
            await _send_small_compressed(store.workers, request, version, headers, body, codings)
        elif not codings.identity or looks_worth_it(reader.peek()):
            await _send_large_compressed(store.workers, request, version, headers, reader)
        elif request.method == b"HEAD":
            request.respond(200, headers, length=reader.size)
        else:
            await _send_reader(request, 200, headers, reader)
    finally:
        await reader.close()


async def _send_small_compressed(
    workers: IWorkers,
    request: Request,
    version: Version,
    headers: Sequence[Header],
    body: bytes | memoryview,
    codings: Codings,
) -> None:
    compressed = await compress(body, workers)
    if codings.identity and not is_worth_it(len(body), len(compressed)):
        request.respond(200, headers, body)
    else:
        request.respond(200, _gzip_headers(version, headers), compressed)


async def _send_large_compressed(
    workers: IWorkers,
    request: Request,
    version: Version,
    headers: Sequence[Header],
    reader: ContentReader,
) -> None:
    sink = request.begin(200, _gzip_headers(version, headers), None)
    if request.method != b"HEAD":
        gzip = GzipSink(sink, workers)
        await reader.send(gzip)
        _check_length(gzip.taken, reader)
        await gzip.finish()
    request.finish()


def _gzip_headers(version: Version, headers: Sequence[Header]) -> list[Header]:
    """The headers of the gzip form, made from those of the content as it is."""
    (content,) = version.contents
    return [
        *(header for header in headers if header[0] not in _NOT_OF_GZIP),
        (b"ETag", format_gzip_etag(content.hash)),
        (b"X-Object-Size", b"%d" % version.size),
        CONTENT_ENCODING,
    ]


# Parts


async def _send_parts(
    store: Readable,
    request: Request,
    version: Version,
    headers: Sequence[Header],
    spans: tuple[Span, ...],
) -> None:
    """Answer by multipart/byteranges; one part is open at a time."""
    boundary = secrets.token_hex(16).encode("ascii")
    parts = Multipart(spans, version.content_type.encode("ascii"), boundary)
    content_type = (b"Content-Type", b"multipart/byteranges; boundary=" + boundary)
    # Whether the object can be read is known before the answer begins.
    reader = await store.open(version, (spans[0].start, spans[0].stop))
    try:
        sink = request.begin(206, [*headers, content_type], parts.length)
        if request.method != b"HEAD":
            for number, span in enumerate(spans):
                if number:
                    await reader.close()
                    reader = await store.open(version, (span.start, span.stop))
                await sink.write([parts.head(span)])
                await reader.send(sink)
            await sink.write([parts.tail()])
        request.finish()
    finally:
        await reader.close()
