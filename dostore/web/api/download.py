"""The bytes of a version as an answer: all of them, one range, or several."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from dostore.core.model import Version
from dostore.core.ranges import Multipart, Span, if_range_holds, parse_ranges
from dostore.errors import Corrupt
from dostore.service.objects import ObjectStore
from dostore.service.reading import ContentReader
from dostore.web.request import LARGE_BYTES, Header, Request


async def send(
    store: ObjectStore, request: Request, version: Version, headers: Sequence[Header]
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
    content_type = (b"Content-Type", version.content_type.encode("ascii"))
    if spans:
        (span,) = spans
        headers = [*headers, content_type, (b"Content-Range", span.content_range())]
        reader = await store.open(version, (span.start, span.stop))
        await _send_reader(request, 206, headers, reader)
    else:
        reader = await store.open(version)
        await _send_reader(request, 200, [*headers, content_type], reader)


async def _send_reader(
    request: Request, status: int, headers: Sequence[Header], reader: ContentReader
) -> None:
    try:
        if request.method == b"HEAD":
            request.begin(status, headers, reader.size)
        elif reader.size < LARGE_BYTES:
            body = b"".join(await reader.read())
            # A range may lie across two batches.
            while len(body) < reader.size and (more := await reader.read()):
                body += b"".join(more)
            if len(body) != reader.size:
                raise Corrupt(f"{len(body)} bytes were read of {reader.size}.")
            request.respond(status, headers, body)
            return
        else:
            await reader.send(request.begin(status, headers, reader.size))
        request.finish()
    finally:
        await reader.close()


async def _send_parts(
    store: ObjectStore,
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
