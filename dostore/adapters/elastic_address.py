"""What ES_SERVER says."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from dostore.errors import ConfigError

DEFAULT_PORT = 9200


@frozen(slots=True)
class Address:
    """Where a server is.

    :ivar url: scheme, host, port and maybe a path; neither user nor password.
    :ivar authorization: what the header of that name says, or None. A secret.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Read what ES_SERVER says: addresses with commas between, each ``host:port`` or a URL.

    :raises ConfigError: one of them is none. Never tells what stands before an ``@``.
    """
    addresses = tuple(_parse_address(part.strip()) for part in text.split(",") if part.strip())
    if not addresses:
        raise ConfigError("ES_SERVER names no server. Write it like elastic.example:9200.")
    return addresses


def _parse_address(text: str) -> Address:
    url = text if "://" in text else f"http://{text}"
    wrong = ConfigError(
        f"ES_SERVER has the address '{text.rpartition('@')[2]}', which is none. Write it like "
        "elastic.example:9200 or https://user:password@elastic.example:9200."
    )
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
        host = parts.hostname
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        # The reason may quote the password.
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise wrong
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host) or re.search(r"[^!-~]", parts.path):
        raise wrong
    if ":" in user or re.search("[\x00-\x1f\x7f]", user + password):
        raise wrong
    authorization = None
    if parts.username is not None:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        authorization = f"Basic {secret}"
    bracketed = f"[{host}]" if ":" in host else host
    return Address(f"{parts.scheme}://{bracketed}:{port}{parts.path.rstrip('/')}", authorization)
