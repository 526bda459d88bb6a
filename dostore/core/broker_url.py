"""Where the broker is: ``amqp://user:password@host:port/vhost``."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from dostore.errors import ConfigError

DEFAULT_PORT = 5672

_FORM = "Write it as amqp://user:password@host:port/vhost."
_CONTROL = re.compile("[\x00-\x20\x7f]")


@frozen(slots=True)
class BrokerUrl:
    """A broker, and who one is there. Its text forms do not tell the password."""

    host: str
    port: int = DEFAULT_PORT
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + ("" if self.vhost == "/" else f" ({self.vhost})")


def parse_broker_url(text: str) -> BrokerUrl:
    """Read RABBITMQ_SERVER. Parts may be percent-escaped; those left out are RabbitMQ's own.

    :raises ConfigError: it is something else. The text itself is not repeated in the error, for it
        may hold a password.
    """
    if _CONTROL.search(text) or not text.isascii():
        raise ConfigError(f"RABBITMQ_SERVER holds a space or a control character. {_FORM}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"RABBITMQ_SERVER has no proper host or port. {_FORM}") from error
    if parts.scheme == "amqps":
        raise ConfigError("RABBITMQ_SERVER asks for TLS, which is not there yet. Use amqp://.")
    if parts.scheme != "amqp":
        raise ConfigError(f"RABBITMQ_SERVER does not begin with amqp://. {_FORM}")
    if parts.query or parts.fragment:
        raise ConfigError(f"RABBITMQ_SERVER has more after the vhost. {_FORM}")
    if not parts.hostname:
        raise ConfigError(f"RABBITMQ_SERVER has no host. {_FORM}")
    if port == 0:
        raise ConfigError("RABBITMQ_SERVER has port 0. RabbitMQ's is 5672.")
    return BrokerUrl(
        parts.hostname,
        DEFAULT_PORT if port is None else port,
        "guest" if parts.username is None else unquote(parts.username),
        "guest" if parts.password is None else unquote(parts.password),
        unquote(parts.path[1:]) or "/",
    )
