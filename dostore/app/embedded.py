"""The store on one machine: drives and SQLite, called directly."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

from twisted.logger import Logger

from dostore.adapters import drive_marker
from dostore.adapters.drive_opening import Drive
from dostore.adapters.drive_state import DriveState
from dostore.adapters.drives import DriveSet
from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import LogPlace, SqliteMetadata
from dostore.app.config import Config
from dostore.app.desk import Desk
from dostore.app.native import native_api
from dostore.app.server import COMPUTE_THREADS, Threads
from dostore.core.upload_token import derive_key
from dostore.errors import ConfigError
from dostore.service.objects import ObjectStore
from dostore.web.api.site import NativeApi
from dostore.web.connections import Connections

_log = Logger(namespace="dostore")

DATABASE_NAME = "metadata.sqlite"
LOCK_NAME = "lock"


def preflight(config: Config, files: Files) -> None:
    """Find what is wrong with the folders while it can still be told on the terminal.

    Starting looks again; this only changes where most mistakes are met. Blocks.

    :raises ConfigError: the storage root is no folder, or a drive's is another store's, was made
        with another k + m or by a newer program, or is in use.
    """
    root = config.storage_root
    if files.exists(root) and not files.is_folder(root):
        raise ConfigError(f"--storage-root: {root} is no folder. Name one, or what may become one.")
    store = None
    for folder in config.drives:
        try:
            what = drive_marker.look(folder, files)
            marker = drive_marker.require_ours(what, store, config.scheme, folder)
            if marker is not None:
                store = marker.store
                files.close(drive_marker.lock(folder, files))
        except (OSError, drive_marker.BadMarker) as error:
            # A drive that fails is set aside by the start, not a reason to stay down.
            _log.warn("{folder} cannot be looked at: {error}", folder=folder, error=error)


class Embedded:
    """The parts of a store on one machine (see server.Parts).

    :param desk: answers other processes that read.
    """

    def __init__(
        self,
        config: Config,
        files: Files,
        threads: Threads,
        reactor: Any,
        desk: Desk | None = None,
    ) -> None:
        self._config = config
        self._files = files
        self._threads = threads
        self._reactor = reactor
        self._desk = desk
        self._root_lock: int | None = None
        self._drives: DriveSet | None = None
        self._metadata: SqliteMetadata | None = None
        self._store: ObjectStore | None = None
        self.api: NativeApi | None = None

    async def start(self) -> Connections:
        """See server.Parts."""
        config = self._config
        self._lock_root()
        drives = self._drives = DriveSet(
            config.drives,
            config.scheme,
            files=self._files,
            make_workers=self._threads.make,
            clock=self._reactor,
            now=time.time,
            sync=config.shard_sync,
            soon=partial(self._reactor.callLater, 0),
            call_in_reactor=self._reactor.callFromThread,
            compression_level=config.compression_level,
            pack_below=config.pack_below,
            kept_files=config.kept_files,
        )
        await drives.start()
        if drives.temp_files_removed:
            _log.info("{n} unfinished shards removed", n=drives.temp_files_removed)
        metadata = self._metadata = await self._open_metadata(drives)
        store = self._store = ObjectStore(
            drives,
            metadata,
            config.scheme,
            workers=self._threads.make("compute", COMPUTE_THREADS),
            clock=self._reactor,
            now=time.time,
            quorum=config.write_quorum,
            copies_below=config.copies_below,
            upload_key=partial(_upload_key, drives),
            upload_ttl_s=config.upload_ttl_s,
            instant_uploads=config.instant_uploads,
        )
        drives.watch(metadata.drive_joined)
        drives.pace(metadata.after_batch)
        store.start()
        if self._desk is not None:
            self._desk.begin(drives, metadata, store)
        if not config.shard_sync:
            _log.warn("Shards are not synced: a power cut loses objects that were acknowledged")
        api = self.api = native_api(store, config, self._reactor)
        return api.connections

    def _lock_root(self) -> None:
        root = self._config.storage_root
        try:
            self._files.make_folder(root)
            self._root_lock = self._files.lock(os.path.join(root, LOCK_NAME))
        except BlockingIOError as error:
            raise ConfigError(
                f"{root} is in use by another dostore process. Stop it first."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"--storage-root: {root} cannot be used: {error.strerror}. Name a folder that this "
                "user may write to."
            ) from error

    async def _open_metadata(self, drives: DriveSet) -> SqliteMetadata:
        places = [
            LogPlace(
                drive.node.address,
                os.path.join(drive.folder, "meta"),
                self._threads.make(f"log-{drive.number}", 1),
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
            mailbox=self._threads.mailbox,
            clock=self._reactor,
            soon=partial(self._reactor.callLater, 0),
        )

    def describe(self) -> str:
        """See server.Parts."""
        scheme = self._config.scheme
        return f"{scheme.k} + {scheme.m} shards on {len(self._config.drives)} drives"

    async def stop(self) -> None:
        """See server.Parts."""
        if self._desk is not None:
            await self._desk.stop()
        if self._store is not None:
            await self._store.stop()
        if self._metadata is not None:
            await self._metadata.close()
        if self._drives is not None:
            await self._drives.stop()
        if self._root_lock is not None:
            os.close(self._root_lock)
            self._root_lock = None


async def _upload_key(drives: DriveSet) -> bytes:
    # Nobody but who can read the drives knows it, and it stays with them.
    return derive_key(drives.store_id.encode("ascii"))


def _is_live(drive: Drive) -> bool:
    return drive.node.state is DriveState.LIVE
