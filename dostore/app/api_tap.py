"""``twistd dostore-api``: the options, and the service that they make."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.python import usage

from dostore.adapters.meta_elastic import DEFAULT_INDEX
from dostore.app import process, wiring
from dostore.app.config import (
    DEFAULT_BODY_TIMEOUT_S,
    DEFAULT_LISTEN,
    DEFAULT_MAX_OBJECT_SIZE,
    DEFAULT_SHUTDOWN_GRACE_S,
    DEFAULT_STORAGE_ROOT,
    DEFAULT_UPLOAD_TTL_S,
    read_config,
)
from dostore.app.process import (
    SHARD_PARAMETERS,
    allow_open_files,
    collect_seldom,
    described,
    keep_memory,
    stop_on_signals,
)
from dostore.errors import ConfigError

#: Name, short form, what it means.
_PARAMETERS = (
    (
        "listen",
        "l",
        "Where to listen: host:port, [address]:port, or :port for all addresses."
        f" Default: {DEFAULT_LISTEN}, this machine only, for there are no accounts.",
    ),
    (
        "storage-root",
        "r",
        "The folder for the names of objects, and for the drive folders unless --drives tells"
        f" others. Default: ./{DEFAULT_STORAGE_ROOT}",
    ),
    (
        "drives",
        "d",
        "The folders that keep the shards, at least one for each of k + m: /mnt/a,/mnt/b or"
        " /mnt/drive{1...6}. Default: 1, 2 and so on in the storage root.",
    ),
    ("data-shards", "k", "k: how many shards hold an object's bytes. Default: 4"),
    ("parity-shards", "m", "m: how many shards may be lost. Default: 2"),
    (
        "write-quorum",
        None,
        "How many shards must be on disk before a write succeeds, k + 1 or more. Default: k + 1",
    ),
    (
        "copies-below",
        None,
        "Keep objects of fewer bytes, at most 256K, as m + 1 whole copies in place of k + m shards:"
        " as many losses are survived, and fewer files take less time. Default: 0, none",
    ),
    (
        "max-object-size",
        None,
        "The largest object taken, in bytes or with K, M, G or T."
        f" Default: {DEFAULT_MAX_OBJECT_SIZE}",
    ),
    (
        "max-connections",
        None,
        "How many clients may be connected at one time. Default: what the limit of open files"
        " allows when each of them reads an object, at most 4096.",
    ),
    (
        "workers",
        None,
        "How many processes serve; about as many as there are cores are of use. On one machine all"
        " but the first answer only GETs of what is in the system's memory; in a cluster each is a"
        " whole API server. Default: 1",
    ),
    (
        "secret-file",
        None,
        "A file with the cluster's secret, which data servers want requests to be signed with."
        " The secret itself may be in the environment variable DOSTORE_SECRET, never in an option.",
    ),
    (
        "metadata-index",
        None,
        "In a cluster, the index of Elasticsearch that keeps the names of objects. Stores that"
        f" share an Elasticsearch have one each. Default: {DEFAULT_INDEX}",
    ),
    *SHARD_PARAMETERS,
    ("access-log", None, "A file that gets a line for each request. Default: none"),
    (
        "body-timeout",
        None,
        "Seconds that a client may be silent in the middle of a body."
        f" Default: {DEFAULT_BODY_TIMEOUT_S}",
    ),
    (
        "shutdown-grace",
        None,
        "Seconds that requests under way may go on after SIGTERM."
        f" Default: {DEFAULT_SHUTDOWN_GRACE_S}",
    ),
    (
        "upload-ttl",
        None,
        "Seconds that a resumable upload is kept when nobody goes on with it."
        f" Default: {DEFAULT_UPLOAD_TTL_S}, a day",
    ),
)

_FLAGS = (
    ("require-digest", "Refuse a PUT that has no Digest header."),
    (
        "no-instant-uploads",
        "Have every byte of a resumable upload sent, also when the store has its content already:"
        " to know a content's hash is then not enough to get it.",
    ),
    (
        "no-shard-sync",
        "DANGER: acknowledge a write before its shards are safe on disk. A power cut loses the"
        " objects of the last half minute. The names of objects stay safe.",
    ),
)


class Options(process.Options):
    """The command line. Values are read by :func:`dostore.app.config.read_config`."""

    longdesc = (
        "A store of objects on this machine's drives. Each option may also be given by the"
        " environment variable named beside it; the option counts more."
    )
    optParameters: ClassVar = [
        [name, short, None, described(name, text)] for name, short, text in _PARAMETERS
    ]
    optFlags: ClassVar = [[name, None, described(name, text)] for name, text in _FLAGS]


def makeService(options: Options, reactor: Any = None) -> IService:
    """The store as a service.

    :param reactor: None takes the one that twistd runs.
    :raises SystemExit: the options, the environment or the folders that they name cannot be used;
        the sentence that says why goes to stderr, and the exit status is 1.
    """
    if reactor is None:
        from twisted.internet import reactor
    keep_memory()
    try:
        config = read_config(options, os.environ, os.getcwd(), allow_open_files())
        service = wiring.build(config, reactor)
    except (usage.UsageError, ConfigError) as error:
        # twistd shows a traceback for any other exception that comes from here.
        raise SystemExit(f"dostore-api: {error}") from error
    reactor.callWhenRunning(stop_on_signals, reactor)
    reactor.callWhenRunning(collect_seldom)
    return service
