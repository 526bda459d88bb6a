"""What an operator may set, and the one function that reads it.

An option comes before an environment variable, that before the default. An environment variable
that is set to nothing counts as not set.
"""

from __future__ import annotations

import ipaddress
import itertools
import os.path
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from attrs import frozen
from twisted.python import usage

from dostore.core.scheme import MAX_SHARDS, Scheme

T = TypeVar("T")

#: Settings whose environment variables do not begin with DOSTORE_.
_ENVIRONMENT = {"listen": "LISTEN_ADDRESS", "storage-root": "STORAGE_ROOT"}

_CLUSTER_VARIABLES = ("RABBITMQ_SERVER", "ES_SERVER")

DEFAULT_LISTEN = "127.0.0.1:12345"
DEFAULT_STORAGE_ROOT = "data"
DEFAULT_MAX_OBJECT_SIZE = "5T"
DEFAULT_BODY_TIMEOUT_S = "60"
DEFAULT_SHUTDOWN_GRACE_S = "30"

#: More drives than this in one process is a typing error in an ellipsis.
MAX_DRIVES = 256

#: What the process itself has open: logs, the database, the metadata logs, the reactor.
_RESERVED_FILES = 64
_MIN_DEFAULT_CONNECTIONS = 16
_MAX_DEFAULT_CONNECTIONS = 4096

_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,19})([KMGT]?)", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_ELLIPSIS = re.compile(r"\{([0-9]{1,9})\.\.\.([0-9]{1,9})\}")
_MAX_SECONDS = 86400.0
_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_FALSITY = {"0": False, "false": False, "no": False, "off": False}


@frozen(slots=True)
class Config:
    """All that the composition root needs to know. Paths are absolute.

    :ivar listen_host: the address to listen on; empty: all of this machine's.
    :ivar listen_port: 0 lets the system choose.
    :ivar drives: the folders that keep shards, at least k + m, none within another.
    :ivar write_quorum: how many shards must be durable before a write is acknowledged.
    :ivar require_digest: whether a PUT without ``Digest`` is refused.
    :ivar shard_sync: False leaves shards to the system's cache when a write is acknowledged.
    :ivar max_object_size: bytes.
    :ivar max_connections: clients connected at one time.
    :ivar access_log: the file for one line a request; None: no such log.
    :ivar body_timeout_s: how long a client may be silent in the middle of a body.
    :ivar shutdown_grace_s: how long requests under way may go on after SIGTERM.
    """

    listen_host: str
    listen_port: int
    storage_root: str
    drives: tuple[str, ...]
    scheme: Scheme
    write_quorum: int
    require_digest: bool
    shard_sync: bool
    max_object_size: int
    max_connections: int
    access_log: str | None
    body_timeout_s: float
    shutdown_grace_s: float


def read_config(
    options: Mapping[str, object], environ: Mapping[str, str], folder: str, open_files: int
) -> Config:
    """Make a Config of what was given.

    :param options: by long name, as the command line gives them; None and 0: not given.
    :param folder: the working folder, absolute; relative paths begin there.
    :param open_files: how many files this process may have open.
    :raises usage.UsageError: a value is wrong; it names the option or variable, and the value.
    """
    for variable in _CLUSTER_VARIABLES:
        if environ.get(variable):
            raise usage.UsageError(
                f"{variable} is set, but this version of dostore stores on one machine only and"
                " cannot join a cluster. Unset it to start the store alone."
            )
    settings = _Settings(options, environ)
    host, port = settings.read("listen", DEFAULT_LISTEN, _address)
    root = _absolute(folder, settings.read("storage-root", DEFAULT_STORAGE_ROOT, _path))
    scheme = _scheme(settings)
    quorum_range = (scheme.write_quorum, scheme.shards)
    per_client = 1 + scheme.shards
    connections = (open_files - _RESERVED_FILES) // per_client
    # A file cannot be called nothing, so that can stand for none.
    access_log = settings.read("access-log", "", str)
    return Config(
        listen_host=host,
        listen_port=port,
        storage_root=root,
        drives=_drives(settings, folder, root, scheme),
        scheme=scheme,
        write_quorum=settings.read(
            "write-quorum", str(scheme.write_quorum), _whole_number(*quorum_range)
        ),
        require_digest=settings.flag("require-digest"),
        shard_sync=not settings.flag("no-shard-sync"),
        max_object_size=settings.read("max-object-size", DEFAULT_MAX_OBJECT_SIZE, _size),
        max_connections=settings.read(
            "max-connections",
            str(max(_MIN_DEFAULT_CONNECTIONS, min(connections, _MAX_DEFAULT_CONNECTIONS))),
            _whole_number(1, 1_000_000),
        ),
        access_log=_absolute(folder, access_log) if access_log else None,
        body_timeout_s=settings.read("body-timeout", DEFAULT_BODY_TIMEOUT_S, _seconds(0.1)),
        shutdown_grace_s=settings.read("shutdown-grace", DEFAULT_SHUTDOWN_GRACE_S, _seconds(0.0)),
    )


def environment_variable(name: str) -> str:
    """The environment variable that stands for option ``--name``."""
    return _ENVIRONMENT.get(name, "DOSTORE_" + name.replace("-", "_").upper())


class _Settings:
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
            raise _wrong(source, text, str(error)) from error

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
            raise _wrong(variable, text, "give 1 (on) or 0 (off)")
        return value


def _wrong(source: str, text: str, reason: str) -> usage.UsageError:
    return usage.UsageError(f"{source}: {text!r} cannot be used: {reason}.")


def _scheme(settings: _Settings) -> Scheme:
    k = settings.read("data-shards", "4", _whole_number(1, MAX_SHARDS))
    m = settings.read("parity-shards", "2", _whole_number(0, MAX_SHARDS - 1))
    if k + m > MAX_SHARDS:
        raise usage.UsageError(
            f"--data-shards {k} and --parity-shards {m} cannot be used together: that makes {k + m}"
            f" shards, and an object has at most {MAX_SHARDS}."
        )
    return Scheme(k, m)


def _drives(settings: _Settings, folder: str, root: str, scheme: Scheme) -> tuple[str, ...]:
    found = settings.find("drives")
    if found is None:
        return tuple(os.path.join(root, str(number + 1)) for number in range(scheme.shards))
    source, text = found
    try:
        drives = tuple(_absolute(folder, drive) for drive in expand_drives(text))
        _check_apart(drives)
    except ValueError as error:
        raise _wrong(source, text, str(error)) from error
    if len(drives) < scheme.shards:
        raise _wrong(
            source,
            text,
            f"{len(drives)} folders are named, and {scheme.k} data and {scheme.m} parity shards"
            f" take {scheme.shards}, one each",
        )
    return drives


def expand_drives(text: str) -> list[str]:
    """The folders that a list such as ``/a,/b`` or ``/mnt/drive{1...6}`` names.

    Each ``{first...last}`` stands for its whole numbers, padded with zeros where ``first`` is;
    several in one path stand for all their combinations.

    :raises ValueError: a path is empty, an ellipsis is malformed or the list is too long.
    """
    drives: list[str] = []
    for item in text.split(","):
        pieces = _ELLIPSIS.split(item.strip())
        # split() leaves text, first, last, text, first, last, …, text.
        choices = [[pieces[0]]]
        count = 1
        for first, last, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            numbers = range(int(first), int(last) + 1)
            count *= len(numbers)
            if not numbers or count > MAX_DRIVES:
                raise ValueError(
                    f"{{{first}...{last}}} must count upwards, and all to at most {MAX_DRIVES}"
                    " folders"
                )
            choices.append([f"{number:0{len(first)}}" for number in numbers])
            choices.append([after])
        if any(brace in piece for piece in pieces for brace in "{}"):
            raise ValueError("an ellipsis is written {1...6}")
        drives.extend(_path("".join(parts)) for parts in itertools.product(*choices))
    if len(drives) > MAX_DRIVES:
        raise ValueError(f"it names {len(drives)} folders, and at most {MAX_DRIVES} are taken")
    return drives


def _check_apart(drives: tuple[str, ...]) -> None:
    """Refuse a folder twice or within another: their losses would not be independent."""
    for one, other in itertools.combinations(sorted(drives), 2):
        if one == other:
            raise ValueError(f"{one} is named twice, and each drive needs a folder of its own")
        if other.startswith(one.rstrip("/") + "/"):
            raise ValueError(f"{other} is within {one}, and each drive needs a folder of its own")


def _address(text: str) -> tuple[str, int]:
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


def _path(text: str) -> str:
    if not text.strip():
        raise ValueError("a path is missing")
    return text


def _absolute(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(folder, path))


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            wanted = str(least) if least == most else f"a whole number from {least} to {most}"
            raise ValueError(f"give {wanted}")
        return int(text)

    return parse


def _seconds(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not _SECONDS.fullmatch(text) or not least <= float(text) <= _MAX_SECONDS:
            raise ValueError(f"give seconds, from {least:g} to {_MAX_SECONDS:g}")
        return float(text)

    return parse


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _SIZE_UNITS[match[2].upper()] if match else 0
    if not 1 <= size < 1 << 63:
        raise ValueError("give bytes, or a number with K, M, G or T (of 1,024) after it")
    return size
