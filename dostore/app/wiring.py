"""The composition root: the only place that chooses adapters and puts the parts together."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore import __version__
from dostore.adapters import drive_marker
from dostore.adapters.drives import Drive, DriveSet
from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import LogPlace, SqliteMetadata
from dostore.adapters.node_local import DriveState
from dostore.adapters.threads import Mailbox, Workers
from dostore.app.config import Config
from dostore.core.stripes import self_test
from dostore.errors import ConfigError, DostoreError
from dostore.service.objects import ObjectStore
from dostore.web.api.site import build_factory
from dostore.web.connections import Connections, HttpLimits

_log = Logger(namespace="dostore")

DATABASE_NAME = "metadata.sqlite"
LOCK_NAME = "lock"

#: Hashing and coding of large pieces: as many threads as there are cores, and one to keep them
#: busy.
_COMPUTE_THREADS = (os.cpu_count() or 1) + 1

#: How long a drive's threads get to end; one that hangs dies with the process.
_THREAD_STOP_S = 1.0


def build(config: Config, reactor: Any) -> IService:
    """The store as a service that is not started yet.

    :raises ConfigError: the erasure code does not work here, or a folder cannot be used: it is
        another store's, was made with another k + m or by a newer program, or is in use.
    """
    self_test(config.scheme)
    files = Files()
    _preflight(config, files)
    return StoreService(config, reactor, files)


def _preflight(config: Config, files: Files) -> None:
    """Find what is wrong with the folders while it can still be told on the terminal.

    Starting looks again; this only changes where most mistakes are met. Blocks.
    """
    store = None
    for folder in config.drives:
        try:
            what = drive_marker.look(folder, files)
            marker = drive_marker.require_ours(what, store, config.scheme, folder)
            if marker is not None:
                store = marker.store
                files.close(drive_marker.lock(folder, files))
        except OSError as error:
            # A drive that fails is set aside by the start, not a reason to stay down.
            _log.warn("{folder} cannot be looked at: {error}", folder=folder, error=error)


class StoreService(Service):
    """One process's store: drives, metadata, service and HTTP, started and stopped in order."""

    def __init__(self, config: Config, reactor: Any, files: Files) -> None:
        self.name = "dostore-api"
        self._config = config
        self._reactor = reactor
        self._files = files
        self._mailbox = Mailbox(reactor.callFromThread)
        self._workers: list[Workers] = []
        self._root_lock: int | None = None
        self._drives: DriveSet | None = None
        self._metadata: SqliteMetadata | None = None
        self._store: ObjectStore | None = None
        self._connections: Connections | None = None
        self._port: IListeningPort | None = None
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        """Begin to start; a failure stops the process with exit status 1."""
        super().startService()  # type: ignore[no-untyped-call]
        self._starting = Deferred.fromCoroutine(self._start())
        _ = self._starting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, (DostoreError, CannotListenError, OSError)):
            _log.critical("dostore cannot start: {error}", error=failure.value)
        else:
            _log.failure("dostore cannot start", failure)
        # twistd has no way to be told an exit status; what is there is stopped first all the same.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _make_workers(self, name: str, size: int) -> Workers:
        workers = Workers(self._mailbox, name, size)
        self._workers.append(workers)
        return workers

    async def _start(self) -> None:
        config, began = self._config, time.monotonic()
        self._lock_root()
        drives = self._drives = DriveSet(
            config.drives,
            config.scheme,
            files=self._files,
            make_workers=self._make_workers,
            clock=self._reactor,
            now=time.time,
            sync=config.shard_sync,
        )
        await drives.start()
        if drives.temp_files_removed:
            _log.info("{n} unfinished shards removed", n=drives.temp_files_removed)
        metadata = self._metadata = await self._open_metadata(drives)
        store = self._store = ObjectStore(
            drives,
            metadata,
            config.scheme,
            workers=self._make_workers("compute", _COMPUTE_THREADS),
            clock=self._reactor,
            now=time.time,
            quorum=config.write_quorum,
        )
        drives.watch(metadata.drive_joined)
        store.start()
        self._connections = build_factory(
            store,
            clock=self._reactor,
            limits=HttpLimits(
                max_connections=config.max_connections,
                max_object_bytes=config.max_object_size,
                body_timeout_s=config.body_timeout_s,
            ),
            require_digest=config.require_digest,
            access_log=config.access_log,
        )
        self._port = await self._listen(self._connections)
        where: Any = self._port.getHost()
        _log.info(
            "dostore {version} listens on {host}:{port}; {scheme.k} + {scheme.m} shards on {drives}"
            " drives; started in {seconds:.2f} s",
            version=__version__,
            host=where.host,
            port=where.port,
            scheme=config.scheme,
            drives=len(config.drives),
            seconds=time.monotonic() - began,
        )
        if not config.shard_sync:
            _log.warn("Shards are not synced: a power cut loses objects that were acknowledged")

    def _lock_root(self) -> None:
        self._files.make_folder(self._config.storage_root)
        try:
            self._root_lock = self._files.lock(os.path.join(self._config.storage_root, LOCK_NAME))
        except BlockingIOError as error:
            raise ConfigError(
                f"{self._config.storage_root} is in use by another dostore process. Stop it first."
            ) from error

    async def _open_metadata(self, drives: DriveSet) -> SqliteMetadata:
        places = [
            LogPlace(
                drive.node.address,
                os.path.join(drive.folder, "meta"),
                self._make_workers(f"log-{drive.number}", 1),
                partial(_is_live, drive),
            )
            for drive in drives.drives
        ]
        return await SqliteMetadata.open(
            path=os.path.join(self._config.storage_root, DATABASE_NAME),
            store_id=drives.store_id,
            places=places,
            copies=self._config.scheme.m + 1,
            files=self._files,
            mailbox=self._mailbox,
            clock=self._reactor,
        )

    async def _listen(self, connections: Connections) -> IListeningPort:
        config = self._config
        kind: Any = TCP6ServerEndpoint if ":" in config.listen_host else TCP4ServerEndpoint
        # Thousands of clients may come back at once after a restart.
        endpoint = kind(self._reactor, config.listen_port, 1024, config.listen_host)
        port: IListeningPort = await endpoint.listen(connections)
        return port

    def stopService(self) -> Deferred[None]:
        """Refuse, drain, close; fires when all of it is done."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._connections is not None:
            if self._port is not None:
                await _maybe(self._port.stopListening())
            await self._connections.drain(self._config.shutdown_grace_s)
        if self._store is not None:
            await self._store.stop()
        if self._metadata is not None:
            await self._metadata.close()
        if self._drives is not None:
            await self._drives.stop()
        for workers in self._workers:
            workers.stop(0.0)
        if self._root_lock is not None:
            os.close(self._root_lock)
            self._root_lock = None
        _log.info("dostore is stopped")


def _is_live(drive: Drive) -> bool:
    return drive.node.state is DriveState.LIVE


async def _maybe(result: Deferred[None] | None) -> None:
    if result is not None:
        await result
