"""Lines of the access log, in the combined format, without anything secret."""

from __future__ import annotations

import re

from dostore.web.request import Request

#: Query parameters whose values are logged. Those of others may be signatures.
_PLAIN_PARAMETERS = frozenset({b"version", b"prefix", b"after", b"limit", b"delimiter"})

_UPLOADS = b"/temp/"

_UNPRINTABLE = re.compile(rb'[^\x20-\x7e]|["\\]')


def access_line(request: Request, moment: str) -> str:
    """One line. Of the header fields only Referer, without its query, and User-Agent are in it."""
    referer = (request.field(b"referer") or b"-").partition(b"?")[0]
    target = request.path
    if target.startswith(_UPLOADS):
        # Who knows its token can go on with an upload, or give it up.
        target = _UPLOADS + b"..."
    if request.query:
        target += b"?" + b"&".join(map(_public, request.query.split(b"&")))
    host = getattr(request.peer, "host", "-")
    # 499 stands for a client that went away before it was answered.
    return (
        f'{host} - - [{moment}] "{_quote(request.method)} {_quote(target)}'
        f' {_quote(request.version)}" {request.status or 499} {request.bytes_sent or "-"}'
        f' "{_quote(referer)}" "{_quote(request.field(b"user-agent") or b"-")}"\n'
    )


def _public(parameter: bytes) -> bytes:
    name, equals, _ = parameter.partition(b"=")
    if name in _PLAIN_PARAMETERS:
        return parameter
    return name + b"=..." if equals else b"..."


def _quote(text: bytes) -> str:
    return _UNPRINTABLE.sub(lambda match: b"\\x%02x" % match[0][0], text).decode("ascii")
