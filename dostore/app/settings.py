"""Settings as text, wherever they were given, and what may be written in them.

An option comes before an environment variable, that before the default. An environment variable
that is set to nothing counts as not set.
"""

from __future__ import annotations

import ipaddress
import os.path
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from twisted.python import usage

from dostore.core.broker_url import BrokerUrl, parse_broker_url
from dostore.core.compression import DEFAULT_LEVEL, MAX_LEVEL, MIN_LEVEL
from dostore.core.signing import MIN_SECRET_BYTES
from dostore.errors import ConfigError

T = TypeVar("T")

#: Settings whose environment variables do not begin with DOSTORE_.
_ENVIRONMENT = {"listen": "LISTEN_ADDRESS", "storage-root": "STORAGE_ROOT"}

BROKER_VARIABLE = "RABBITMQ_SERVER"
SECRET_VARIABLE = "DOSTORE_SECRET"
SECRET_FILE_OPTION = "secret-file"

#: A file that is longer holds something else than a secret.
_MAX_SECRET_BYTES = 1024

#: What a process itself has open: logs, databases, the reactor.
RESERVED_FILES = 64
MIN_DEFAULT_CONNECTIONS = 16

_MAX_KEPT_FILES = 8192

#: With fewer, none is left for files that are kept open.
_MANY_OPEN_FILES = 4096

#: Packed shards are read whole.
MAX_PACK_BELOW = 1 << 20

_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,19})([KMGT]?)", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAX_SECONDS = 86400.0
_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_FALSITY = {"0": False, "false": False, "no": False, "off": False}


def environment_variable(name: str) -> str:
    """The environment variable that stands for option ``--name``."""
    return _ENVIRONMENT.get(name, "DOSTORE_" + name.replace("-", "_").upper())


def files_to_keep(open_files: int) -> int:
    """How many files of shards are kept open on top of what they need.

    :param open_files: how many files this process may have open.
    """
    return min(open_files // 4, _MAX_KEPT_FILES) if open_files >= _MANY_OPEN_FILES else 0


class Settings:
    """Finds a setting's text and knows what to call its source in an error."""

    def __init__(self, options: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ

    def find(self, name: str) -> tuple[str, str] | None:
        """Where the setting was given, and its text; None when it was not."""
        option = self._options.get(name)
        if option is not None:
            return f"--{name}", str(option)
        variable = environment_variable(name)
        if self._environ.get(variable):
            return variable, self._environ[variable]
        return None

    def read(self, name: str, default: str, parse: Callable[[str], T]) -> T:
        """What ``parse`` makes of the setting.

        :raises usage.UsageError: ``parse`` raised ValueError.
        """
        source, text = self.find(name) or (f"--{name}", default)
        try:
            return parse(text)
        except ValueError as error:
            raise wrong(source, text, str(error)) from error

    def flag(self, name: str) -> bool:
        """Whether a switch is on. On the command line it can only be switched on."""
        if self._options.get(name):
            return True
        variable = environment_variable(name)
        text = self._environ.get(variable, "")
        if not text:
            return False
        value = (_TRUTH | _FALSITY).get(text.lower())
        if value is None:
            raise wrong(variable, text, "give 1 (on) or 0 (off)")
        return value


def wrong(source: str, text: str, reason: str) -> usage.UsageError:
    """The error for a setting that is no secret."""
    return usage.UsageError(f"{source}: {text!r} cannot be used: {reason}.")


def address(text: str) -> tuple[str, int]:
    """``host:port``, ``[address]:port`` or ``:port``.

    :raises ValueError: it is not.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("write host:port or :port, with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ipaddress.AddressValueError as error:
            raise ValueError("what is in the brackets is no IPv6 address") from error
    if ":" in host:
        raise ValueError("write an IPv6 address in brackets, [::1]:12345")
    if host and not _HOST.fullmatch(host):
        raise ValueError("the host is neither a name nor an address")
    return host, int(port)


def path(text: str) -> str:
    """A path.

    :raises ValueError: there is none.
    """
    if not text.strip():
        raise ValueError("a path is missing")
    return text


def absolute(folder: str, path: str) -> str:
    """``path`` as seen from ``folder``."""
    return os.path.normpath(os.path.join(folder, path))


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """What parses a whole number within limits."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            wanted = str(least) if least == most else f"a whole number from {least} to {most}"
            raise ValueError(f"give {wanted}")
        return int(text)

    return parse


def seconds(least: float) -> Callable[[str], float]:
    """What parses seconds, at least so many."""

    def parse(text: str) -> float:
        if not _SECONDS.fullmatch(text) or not least <= float(text) <= _MAX_SECONDS:
            raise ValueError(f"give seconds, from {least:g} to {_MAX_SECONDS:g}")
        return float(text)

    return parse


def size(text: str) -> int:
    """Bytes, maybe with K, M, G or T after the number.

    :raises ValueError: it is not.
    """
    match = _SIZE.fullmatch(text)
    value = int(match[1]) * _SIZE_UNITS[match[2].upper()] if match else 0
    if not 1 <= value < 1 << 63:
        raise ValueError("give bytes, or a number with K, M, G or T (of 1,024) after it")
    return value


def read_compression_level(settings: Settings) -> int | None:
    """The level to compress shards by; None: they are stored as they are.

    :raises usage.UsageError: the kind or the level is none.
    """
    level = settings.read(
        "compression-level", str(DEFAULT_LEVEL), whole_number(MIN_LEVEL, MAX_LEVEL)
    )
    return level if settings.read("compression", "none", _is_gzip) else None


def read_pack_below(settings: Settings) -> int:
    """Shards of contents of fewer bytes are packed; 0: none are.

    :raises usage.UsageError: it is no such number.
    """
    return settings.read("pack-below", "0", _pack_below)


def _pack_below(text: str) -> int:
    value = 0 if text == "0" else size(text)
    if value > MAX_PACK_BELOW:
        raise ValueError("give 0 or at most 1M: larger shards are better off in files of their own")
    return value


def _is_gzip(text: str) -> bool:
    kinds = {"none": False, "gzip": True}
    if text not in kinds:
        raise ValueError("give none or gzip")
    return kinds[text]


# What may hold a password: never repeated in an error.


def read_broker(environ: Mapping[str, str]) -> BrokerUrl | None:
    """Where the broker is; None when it is not set.

    :raises usage.UsageError: it is malformed.
    """
    text = environ.get(BROKER_VARIABLE)
    if not text:
        return None
    try:
        return parse_broker_url(text)
    except ConfigError as error:
        raise usage.UsageError(error.detail) from None


def read_secret(
    settings: Settings,
    environ: Mapping[str, str],
    folder: str,
    read_file: Callable[[str, int], bytes],
) -> bytes | None:
    """The cluster's secret; None when there is none.

    :param read_file: the first bytes of a file, at most so many.
    :raises usage.UsageError: it is too short, too long, given twice, or its file cannot be read.
    """
    text = environ.get(SECRET_VARIABLE)
    found = settings.find(SECRET_FILE_OPTION)
    if text and found:
        raise usage.UsageError(f"{SECRET_VARIABLE} and {found[0]} are both set. Set one of them.")
    source, secret = SECRET_VARIABLE, (text or "").encode("utf-8", "surrogateescape")
    if found is not None:
        source = found[0]
        try:
            secret = read_file(absolute(folder, found[1]), _MAX_SECRET_BYTES + 2)
        except OSError as error:
            raise wrong(source, found[1], f"{error.strerror}") from error
    elif not text:
        return None
    secret = secret.rstrip(b"\r\n")
    if not MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
        raise usage.UsageError(
            f"{source}: the secret has {len(secret)} bytes. Give one of {MIN_SECRET_BYTES} to"
            f" {_MAX_SECRET_BYTES} bytes, the same on all servers: `openssl rand -base64 32`."
        )
    return secret


def read_bytes(path: str, limit: int) -> bytes:
    """The first bytes of a file, at most ``limit``."""
    with open(path, "rb") as file:
        return file.read(limit)
