"""The composition root: which parts an API server is made of."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService

from dostore.adapters.files import Files
from dostore.app.clustered import Clustered
from dostore.app.config import Config
from dostore.app.desk import Desk
from dostore.app.embedded import Embedded, preflight
from dostore.app.front import Front
from dostore.app.server import Listen, Server, Threads
from dostore.app.supervisor import Supervisor
from dostore.core.stripes import self_test
from dostore.errors import ConfigError


def build(config: Config, reactor: Any) -> IService:
    """An API server that is not started yet.

    :raises ConfigError: the erasure code does not work here, the access log cannot be written, or a
        folder cannot be used: it is another store's, was made with another k + m or by a newer
        program, or is in use.
    """
    self_test(config.scheme)
    _require_access_log(config.access_log)
    threads = Threads(reactor)
    parts: Clustered | Embedded
    desk = None
    if config.cluster is not None:
        parts = Clustered(config, config.cluster, threads, reactor)
    else:
        files = Files()
        preflight(config, files)
        if config.workers > 1:
            desk = Desk(reactor)
        parts = Embedded(config, files, threads, reactor, desk)
    listen = Listen(config.listen_host, config.listen_port, config.shutdown_grace_s)
    others = None if config.workers == 1 else _others(config, parts, desk, reactor)
    return Server("dostore-api", parts, listen, threads, reactor, others=others)


def _others(config: Config, parts: Clustered | Embedded, desk: Desk | None, reactor: Any) -> Front:
    """The other processes on the port."""
    if desk is None:
        supervisor = Supervisor(config, reactor)
    else:
        supervisor = Supervisor(
            config, reactor, descriptor=desk.table.descriptor, receive=desk.receive
        )
        desk.workers = lambda: supervisor.workers
    return Front(supervisor, lambda: None if parts.api is None else parts.api.metrics, reactor)


def _require_access_log(path: str | None) -> None:
    """Find out before anything is started that the access log can be written."""
    if path is None:
        return
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise ConfigError(
            f"--access-log: {path} cannot be written: {error.strerror}. Name a file in a folder "
            "that is there."
        ) from error
