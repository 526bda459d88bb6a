"""What the operator of a data server may set, and the one function that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import field, frozen
from twisted.python import usage

from dostore.adapters.volume_files import KEPT_OPEN
from dostore.app.config import (
    DEFAULT_BODY_TIMEOUT_S,
    DEFAULT_LISTEN,
    DEFAULT_SHUTDOWN_GRACE_S,
    DEFAULT_STORAGE_ROOT,
)
from dostore.app.settings import (
    BROKER_VARIABLE,
    MIN_DEFAULT_CONNECTIONS,
    RESERVED_FILES,
    Settings,
    absolute,
    address,
    files_to_keep,
    path,
    read_broker,
    read_bytes,
    read_compression_level,
    read_pack_below,
    read_secret,
    seconds,
    whole_number,
)
from dostore.core.broker_url import BrokerUrl
from dostore.core.messages import check_address, check_zone
from dostore.errors import BadMessage

#: A connection that reads a shard has the shard's file open too.
_FILES_A_CONNECTION = 2
_MAX_DEFAULT_CONNECTIONS = 8192


@frozen(slots=True)
class DataConfig:
    """All that a data server needs to know. Paths are absolute; its text tells no secret.

    :ivar listen_host: the address to listen on; empty: all of this machine's.
    :ivar address: host and port by which API servers reach this one.
    :ivar storage_root: the folder with objects/, temp/ and garbage/.
    :ivar zone: what this server shares with those that are likely to fail together with it.
    :ivar secret: what requests must be signed with; None: anybody may ask.
    :ivar shard_sync: False leaves shards to the system's cache when a write is acknowledged.
    :ivar compression_level: to compress shards by; None: not to.
    :ivar pack_below: shards of contents of fewer bytes are packed.
    :ivar max_connections: connected at one time.
    :ivar kept_files: how many files of shards are kept open on top of what they need.
    :ivar access_log: the file for one line a request; None: no such log.
    :ivar body_timeout_s: how long a client may be silent in the middle of a body.
    :ivar shutdown_grace_s: how long requests under way may go on after SIGTERM.
    """

    listen_host: str
    listen_port: int
    address: str
    storage_root: str
    broker: BrokerUrl
    zone: str
    secret: bytes | None = field(repr=False)
    shard_sync: bool
    compression_level: int | None
    pack_below: int
    max_connections: int
    kept_files: int
    access_log: str | None
    body_timeout_s: float
    shutdown_grace_s: float


def read_data_config(
    options: Mapping[str, object],
    environ: Mapping[str, str],
    folder: str,
    open_files: int,
    read_file: Callable[[str, int], bytes] = read_bytes,
) -> DataConfig:
    """Make a DataConfig of what was given.

    :param options: by long name, as the command line gives them; None and 0: not given.
    :param folder: the working folder, absolute; relative paths begin there.
    :param open_files: how many files this process may have open.
    :param read_file: the first bytes of a file, at most so many: of that with the secret.
    :raises usage.UsageError: a value is wrong; it names the option or variable.
    """
    settings = Settings(options, environ)
    broker = read_broker(environ)
    if broker is None:
        raise usage.UsageError(
            f"{BROKER_VARIABLE} is not set. A data server tells API servers by RabbitMQ that it is"
            " there: amqp://user:password@host:port/vhost."
        )
    host, port = settings.read("listen", DEFAULT_LISTEN, address)
    pack_below = read_pack_below(settings)
    kept_files = files_to_keep(open_files)
    reserved = RESERVED_FILES + kept_files + (KEPT_OPEN if pack_below else 0)
    connections = (open_files - reserved) // _FILES_A_CONNECTION
    # A file cannot be called nothing, so that can stand for none.
    access_log = settings.read("access-log", "", str)
    return DataConfig(
        listen_host=host,
        listen_port=port,
        address=_address(settings, host, port),
        storage_root=absolute(folder, settings.read("storage-root", DEFAULT_STORAGE_ROOT, path)),
        broker=broker,
        zone=settings.read("zone", "", _zone),
        secret=read_secret(settings, environ, folder, read_file),
        shard_sync=not settings.flag("no-shard-sync"),
        compression_level=read_compression_level(settings),
        pack_below=pack_below,
        max_connections=settings.read(
            "max-connections",
            str(max(MIN_DEFAULT_CONNECTIONS, min(connections, _MAX_DEFAULT_CONNECTIONS))),
            whole_number(1, 1_000_000),
        ),
        kept_files=kept_files,
        access_log=absolute(folder, access_log) if access_log else None,
        body_timeout_s=settings.read("body-timeout", DEFAULT_BODY_TIMEOUT_S, seconds(0.1)),
        shutdown_grace_s=settings.read("shutdown-grace", DEFAULT_SHUTDOWN_GRACE_S, seconds(0.0)),
    )


def _address(settings: Settings, host: str, port: int) -> str:
    """By what others reach a server that listens there."""
    if settings.find("advertise") is not None:
        return settings.read("advertise", "", _reachable)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return _reachable(shown)
    except ValueError as error:
        raise usage.UsageError(
            f"By {shown} no other server can reach this one. Tell by --advertise host:port how it"
            " is reached."
        ) from error


def _reachable(text: str) -> str:
    try:
        return check_address(text)
    except BadMessage as error:
        raise ValueError(
            "give the host and port, not 0, by which other servers reach this one"
        ) from error


def _zone(text: str) -> str:
    try:
        return check_zone(text)
    except BadMessage as error:
        raise ValueError("give at most 64 letters, digits, '.', '_' and '-'") from error
