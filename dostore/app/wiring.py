"""The composition root: which parts an API server is made of."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService

from dostore.adapters.files import Files
from dostore.app.clustered import Clustered
from dostore.app.config import Config
from dostore.app.embedded import Embedded, preflight
from dostore.app.server import Listen, Parts, Server, Threads
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
    parts: Parts
    if config.cluster is not None:
        parts = Clustered(config, config.cluster, threads, reactor)
    else:
        files = Files()
        preflight(config, files)
        parts = Embedded(config, files, threads, reactor)
    listen = Listen(config.listen_host, config.listen_port, config.shutdown_grace_s)
    return Server("dostore-api", parts, listen, threads, reactor)


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
