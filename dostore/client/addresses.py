"""Where the API servers are, as a user writes it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from attrs import field, frozen

from dostore.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:12345"

#: More are a mistake in a variable.
MAX_SERVERS = 64

_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}")
_V6 = re.compile("[0-9A-Fa-f:.]{2,45}")
_PATH = re.compile("(?:/[A-Za-z0-9._~%-]+)*")


@frozen(slots=True)
class Address:
    """An API server.

    :ivar base: its URL without a slash at the end; what is asked for is appended.
    :ivar host: what the Host field says, and what the server is called.
    """

    base: bytes = field(repr=False)
    host: str

    def __str__(self) -> str:
        return self.host


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Read URLs that commas or blanks separate.

    :raises ConfigError: there is none, or one cannot be.
    """
    found = list(dict.fromkeys(_parse(word) for word in re.split(r"[,\s]+", text) if word))
    if not found:
        raise ConfigError(f"There is no URL of a server. Give one, such as {DEFAULT_URL}.")
    if len(found) > MAX_SERVERS:
        raise ConfigError(f"{len(found)} URLs are too many; give at most {MAX_SERVERS}.")
    return tuple(found)


def _parse(word: str) -> Address:
    def wrong(why: str) -> ConfigError:
        return ConfigError(f"{word!r} {why}. Write the URL of a server as {DEFAULT_URL}.")

    url = word if "://" in word else f"http://{word}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise wrong("is no URL") from error
    if parts.scheme.lower() == "https":
        raise ConfigError(
            f"{word!r} asks for TLS, which this client does not speak. Use http://, in a network"
            " that you trust or through a tunnel."
        )
    if parts.scheme.lower() != "http":
        raise wrong("is no URL of HTTP")
    if parts.username is not None or parts.query or parts.fragment or "?" in url or "#" in url:
        raise wrong("has more than host, port and path")
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path):
        raise wrong("has a path that is not plain")
    if port == 0:
        raise wrong("has port 0")
    shown = _host(host)
    if shown is None:
        raise wrong("has no host that can be")
    if port is not None:
        shown += f":{port}"
    return Address(f"http://{shown}{path}".encode("ascii"), shown)


def _host(host: str) -> str | None:
    if ":" in host:
        return f"[{host}]" if _V6.fullmatch(host) else None
    try:
        plain = host.encode("ascii") if host.isascii() else host.encode("idna")
    except UnicodeError:
        return None
    return plain.decode("ascii") if _HOST.fullmatch(plain) else None
