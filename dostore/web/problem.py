"""The body of every answer that is an error (RFC 9457)."""

from __future__ import annotations

import json

#: What a client is told to wait before it repeats what may succeed later.
RETRY_AFTER_S = 5

CONTENT_TYPE = (b"Content-Type", b"application/problem+json")


def problem(status: int, title: str, detail: str, **more: object) -> bytes:
    """An ``application/problem+json`` document.

    :param more: members besides title, status and detail.
    """
    return json.dumps({"title": title, "status": status, "detail": detail, **more}).encode() + b"\n"
