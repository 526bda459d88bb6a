"""``twistd dostore-data``: the options, and the service that they make."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.python import usage

from dostore.app import data_wiring, process
from dostore.app.config import (
    DEFAULT_BODY_TIMEOUT_S,
    DEFAULT_LISTEN,
    DEFAULT_SHUTDOWN_GRACE_S,
    DEFAULT_STORAGE_ROOT,
)
from dostore.app.data_config import read_data_config
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
        f"Where to listen: host:port, [address]:port or :port. Default: {DEFAULT_LISTEN}",
    ),
    (
        "advertise",
        None,
        "The host:port by which API servers reach this server. Default: where it listens, which"
        " must be one machine's address then.",
    ),
    (
        "storage-root",
        "r",
        "The folder for the shards, on a disk of its own: objects/, temp/ and garbage/ are made in"
        f" it. Default: ./{DEFAULT_STORAGE_ROOT}",
    ),
    (
        "zone",
        None,
        "What this server shares with those that are likely to fail together with it: a rack, a"
        " room. Shards of an object are spread over zones. Default: none",
    ),
    (
        "secret-file",
        None,
        "A file with the cluster's secret, with which requests must be signed. The secret itself"
        " may be in the environment variable DOSTORE_SECRET, never in an option.",
    ),
    (
        "max-connections",
        None,
        "How many connections there may be at one time. Default: what the limit of open files"
        " allows, at most 8192.",
    ),
    *SHARD_PARAMETERS,
    ("access-log", None, "A file that gets a line for each request. Default: none"),
    (
        "body-timeout",
        None,
        "Seconds that an API server may be silent in the middle of a body."
        f" Default: {DEFAULT_BODY_TIMEOUT_S}",
    ),
    (
        "shutdown-grace",
        None,
        "Seconds that requests under way may go on after SIGTERM."
        f" Default: {DEFAULT_SHUTDOWN_GRACE_S}",
    ),
)

_FLAGS = (
    (
        "no-shard-sync",
        "DANGER: acknowledge a write before its shard is safe on disk. A power cut of several data"
        " servers at once loses the objects of the last half minute.",
    ),
)


class Options(process.Options):
    """The command line. Values are read by :func:`dostore.app.data_config.read_data_config`."""

    longdesc = (
        "A data server: it keeps shards for the API servers of a cluster, on one disk. The"
        " environment variable RABBITMQ_SERVER names the broker: amqp://user:password@host/vhost."
        " Each option may also be given by the environment variable named beside it; the option"
        " counts more."
    )
    optParameters: ClassVar = [
        [name, short, None, described(name, text)] for name, short, text in _PARAMETERS
    ]
    optFlags: ClassVar = [[name, None, described(name, text)] for name, text in _FLAGS]


def makeService(options: Options, reactor: Any = None) -> IService:
    """The data server as a service.

    :param reactor: None takes the one that twistd runs.
    :raises SystemExit: the options, the environment or the folder cannot be used; the sentence that
        says why goes to stderr, and the exit status is 1.
    """
    if reactor is None:
        from twisted.internet import reactor
    keep_memory()
    try:
        config = read_data_config(options, os.environ, os.getcwd(), allow_open_files())
        service = data_wiring.build(config, reactor)
    except (usage.UsageError, ConfigError) as error:
        # twistd shows a traceback for any other exception that comes from here.
        raise SystemExit(f"dostore-data: {error}") from error
    reactor.callWhenRunning(stop_on_signals, reactor)
    reactor.callWhenRunning(collect_seldom)
    return service
