"""What an operator may set, and the one function that reads it.

An option comes before an environment variable, that before the default. An environment variable
that is set to nothing counts as not set.
"""

from __future__ import annotations

import itertools
import os.path
import re
from collections.abc import Callable, Mapping

from attrs import field, frozen
from twisted.python import usage

from dostore.adapters.elastic_address import Address, parse_addresses
from dostore.adapters.meta_elastic import DEFAULT_INDEX
from dostore.adapters.volume_files import KEPT_OPEN
from dostore.app.settings import (
    BROKER_VARIABLE,
    MIN_DEFAULT_CONNECTIONS,
    RESERVED_FILES,
    Settings,
    absolute,
    address,
    files_to_keep,
    path,
    read_bytes,
    read_compression_level,
    read_pack_below,
    read_secret,
    seconds,
    size,
    whole_number,
    wrong,
)
from dostore.app.settings import environment_variable as environment_variable
from dostore.core.broker_url import BrokerUrl, parse_broker_url
from dostore.core.scheme import MAX_SHARDS, Scheme
from dostore.errors import ConfigError

_METADATA_VARIABLE = "ES_SERVER"

DEFAULT_LISTEN = "127.0.0.1:12345"
DEFAULT_STORAGE_ROOT = "data"
DEFAULT_MAX_OBJECT_SIZE = "5T"
DEFAULT_BODY_TIMEOUT_S = "60"
DEFAULT_SHUTDOWN_GRACE_S = "30"
DEFAULT_UPLOAD_TTL_S = "86400"
_MAX_UPLOAD_TTL_S = 365 * 86400

#: Larger contents are not kept as copies.
MAX_COPIES_BELOW = 256 * 1024

#: More processes than this on one port are a typing error.
MAX_WORKERS = 64

#: More drives than this in one process is a typing error in an ellipsis.
MAX_DRIVES = 256

_MAX_DEFAULT_CONNECTIONS = 4096

_INDEX = re.compile("[a-z0-9][a-z0-9._-]{0,127}")
_ELLIPSIS = re.compile(r"\{([0-9]{1,9})\.\.\.([0-9]{1,9})\}")


@frozen(slots=True)
class ClusterConfig:
    """What an API server of a cluster needs to know of the others. Its text tells no secret.

    :ivar rabbitmq: where RabbitMQ is.
    :ivar elasticsearch: where the servers of Elasticsearch are.
    :ivar secret: what requests to data servers are signed with; None: they are not signed.
    :ivar metadata_index: the index of Elasticsearch with the names of objects.
    """

    rabbitmq: BrokerUrl
    elasticsearch: tuple[Address, ...]
    secret: bytes | None = field(default=None, repr=False)
    metadata_index: str = DEFAULT_INDEX


@frozen(slots=True)
class Config:
    """All that the composition root needs to know. Paths are absolute.

    :ivar listen_host: the address to listen on; empty: all of this machine's.
    :ivar listen_port: 0 lets the system choose.
    :ivar drives: the folders that keep shards, at least k + m, none within another.
    :ivar write_quorum: how many shards must be durable before a write is acknowledged.
    :ivar copies_below: contents of fewer bytes are kept as m + 1 whole copies.
    :ivar require_digest: whether a PUT without ``Digest`` is refused.
    :ivar shard_sync: False leaves shards to the system's cache when a write is acknowledged.
    :ivar compression_level: to compress shards by; None: not to.
    :ivar pack_below: shards of contents of fewer bytes are packed.
    :ivar max_object_size: bytes.
    :ivar max_connections: clients connected at one time.
    :ivar kept_files: how many files of shards are kept open on top of what they need.
    :ivar access_log: the file for one line a request; None: no such log.
    :ivar body_timeout_s: how long a client may be silent in the middle of a body.
    :ivar shutdown_grace_s: how long requests under way may go on after SIGTERM.
    :ivar upload_ttl_s: how long a resumable upload that nobody touches is kept.
    :ivar instant_uploads: whether an upload of a content that is stored is complete at once.
    :ivar workers: how many processes answer on the port.
    :ivar cluster: None: the store is on this machine alone. Else there are no drives, and nothing
        is in the storage root.
    """

    listen_host: str
    listen_port: int
    storage_root: str
    drives: tuple[str, ...]
    scheme: Scheme
    write_quorum: int
    copies_below: int
    require_digest: bool
    shard_sync: bool
    compression_level: int | None
    pack_below: int
    max_object_size: int
    max_connections: int
    kept_files: int
    access_log: str | None
    body_timeout_s: float
    shutdown_grace_s: float
    upload_ttl_s: int
    instant_uploads: bool
    cluster: ClusterConfig | None = None
    workers: int = 1


def read_config(
    options: Mapping[str, object],
    environ: Mapping[str, str],
    folder: str,
    open_files: int,
    read_file: Callable[[str, int], bytes] = read_bytes,
) -> Config:
    """Make a Config of what was given.

    :param options: by long name, as the command line gives them; None and 0: not given.
    :param folder: the working folder, absolute; relative paths begin there.
    :param open_files: how many files this process may have open.
    :param read_file: the first bytes of a file, at most so many: of that with the secret.
    :raises usage.UsageError: a value is wrong; it names the option or variable, and the value.
    """
    settings = Settings(options, environ)
    cluster = _cluster(settings, environ, folder, read_file)
    host, port = settings.read("listen", DEFAULT_LISTEN, address)
    root = absolute(folder, settings.read("storage-root", DEFAULT_STORAGE_ROOT, path))
    scheme = _scheme(settings)
    quorum_range = (scheme.write_quorum, scheme.shards)
    drives = _drives(settings, folder, root, scheme) if cluster is None else ()
    pack_below = read_pack_below(settings)
    per_client = 1 + scheme.shards
    kept_files = files_to_keep(open_files) if cluster is None else 0
    reserved = RESERVED_FILES + kept_files + (KEPT_OPEN * len(drives) if pack_below else 0)
    connections = (open_files - reserved) // per_client
    # A file cannot be called nothing, so that can stand for none.
    access_log = settings.read("access-log", "", str)
    return Config(
        listen_host=host,
        listen_port=port,
        storage_root=root,
        drives=drives,
        scheme=scheme,
        write_quorum=settings.read(
            "write-quorum", str(scheme.write_quorum), whole_number(*quorum_range)
        ),
        copies_below=_copies_below(settings, scheme),
        require_digest=settings.flag("require-digest"),
        shard_sync=not settings.flag("no-shard-sync"),
        compression_level=read_compression_level(settings),
        pack_below=pack_below,
        max_object_size=settings.read("max-object-size", DEFAULT_MAX_OBJECT_SIZE, size),
        max_connections=settings.read(
            "max-connections",
            str(max(MIN_DEFAULT_CONNECTIONS, min(connections, _MAX_DEFAULT_CONNECTIONS))),
            whole_number(1, 1_000_000),
        ),
        kept_files=kept_files,
        access_log=absolute(folder, access_log) if access_log else None,
        body_timeout_s=settings.read("body-timeout", DEFAULT_BODY_TIMEOUT_S, seconds(0.1)),
        shutdown_grace_s=settings.read("shutdown-grace", DEFAULT_SHUTDOWN_GRACE_S, seconds(0.0)),
        upload_ttl_s=settings.read(
            "upload-ttl", DEFAULT_UPLOAD_TTL_S, whole_number(1, _MAX_UPLOAD_TTL_S)
        ),
        instant_uploads=not settings.flag("no-instant-uploads"),
        cluster=cluster,
        workers=settings.read("workers", "1", whole_number(1, MAX_WORKERS)),
    )


def _cluster(
    settings: Settings,
    environ: Mapping[str, str],
    folder: str,
    read_file: Callable[[str, int], bytes],
) -> ClusterConfig | None:
    index = settings.read("metadata-index", DEFAULT_INDEX, _index)
    missing = [name for name in (BROKER_VARIABLE, _METADATA_VARIABLE) if not environ.get(name)]
    if len(missing) == 2:
        return None
    if missing:
        there = _METADATA_VARIABLE if missing == [BROKER_VARIABLE] else BROKER_VARIABLE
        raise usage.UsageError(
            f"{there} is set, but {missing[0]} is not. Set both to join a cluster, or unset both"
            " to start the store on this machine alone."
        )
    if drives := settings.find("drives"):
        raise usage.UsageError(
            f"{drives[0]} is set, but in a cluster the data servers keep the shards. Unset it, or"
            f" {BROKER_VARIABLE} and {_METADATA_VARIABLE}."
        )
    if settings.flag("no-shard-sync"):
        raise usage.UsageError(
            "--no-shard-sync is set, but in a cluster the data servers keep the shards. Give it to"
            " them, if you must."
        )
    if read_compression_level(settings) is not None:
        raise usage.UsageError(
            "--compression is set, but in a cluster the data servers keep the shards. Give it to"
            " them."
        )
    if read_pack_below(settings):
        raise usage.UsageError(
            "--pack-below is set, but in a cluster the data servers keep the shards. Give it to"
            " them."
        )
    try:
        rabbitmq = parse_broker_url(environ[BROKER_VARIABLE])
        elasticsearch = parse_addresses(environ[_METADATA_VARIABLE])
    except ConfigError as error:
        raise usage.UsageError(error.detail) from None
    secret = read_secret(settings, environ, folder, read_file)
    return ClusterConfig(rabbitmq, elasticsearch, secret, index)


def _index(text: str) -> str:
    if not _INDEX.fullmatch(text):
        raise ValueError("give at most 128 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
    return text


def _scheme(settings: Settings) -> Scheme:
    k = settings.read("data-shards", "4", whole_number(1, MAX_SHARDS))
    m = settings.read("parity-shards", "2", whole_number(0, MAX_SHARDS - 1))
    if k + m > MAX_SHARDS:
        raise usage.UsageError(
            f"--data-shards {k} and --parity-shards {m} cannot be used together: that makes {k + m}"
            f" shards, and an object has at most {MAX_SHARDS}."
        )
    return Scheme(k, m)


def _copies_below(settings: Settings, scheme: Scheme) -> int:
    value = settings.read("copies-below", "0", _at_most_copied)
    if value and scheme.k <= scheme.m + 1:
        raise usage.UsageError(
            f"--copies-below {value} cannot be used with {scheme.k} data and {scheme.m} parity"
            f" shards: {scheme.m + 1} copies are no fewer than the shards that an object is read"
            " from."
        )
    return value


def _at_most_copied(text: str) -> int:
    value = 0 if text == "0" else size(text)
    if value > MAX_COPIES_BELOW:
        raise ValueError("give 0 or at most 256K: copies of more take more room than shards")
    return value


def _drives(settings: Settings, folder: str, root: str, scheme: Scheme) -> tuple[str, ...]:
    found = settings.find("drives")
    if found is None:
        return tuple(os.path.join(root, str(number + 1)) for number in range(scheme.shards))
    source, text = found
    try:
        drives = tuple(absolute(folder, drive) for drive in expand_drives(text))
        _check_apart(drives)
    except ValueError as error:
        raise wrong(source, text, str(error)) from error
    if len(drives) < scheme.shards:
        raise wrong(
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
        drives.extend(path("".join(parts)) for parts in itertools.product(*choices))
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
