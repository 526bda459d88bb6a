"""The folders of a store's drives: whose they are, how each becomes a drive, and is given free."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.adapters import drive_marker
from dostore.adapters.drive_marker import BadMarker, Found, Marker
from dostore.adapters.drive_state import DriveState
from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.node_local import DriveNode
from dostore.core.scheme import Scheme
from dostore.errors import ConfigError
from dostore.fanout import gather, with_timeout
from dostore.threads import IWorkers

_log = Logger()

#: A look that takes longer than this says that the drive hangs.
HUNG_AFTER_S = 3.0


@define(eq=False)
class Drive:
    """A drive's folder and its parts.

    :ivar workers: threads for its shards.
    :ivar watcher: one thread for looking at it, so that a look never queues behind work.
    :ivar looks: how many looks found ``ended`` calls ended, and others waiting.
    :ivar losses: how many of its shards were found gone when others were last told.
    :ivar device: the number of the file system that its folder was on.
    :ivar free_bytes: its room when it was last looked at.
    :ivar purged_s: when it was last purged to make room, by the reactor's clock.
    """

    folder: str
    node: DriveNode
    watcher: IWorkers
    number: int = 0
    lock_fd: int | None = None
    looking: bool = False
    checkpointing: bool = False
    emptying: bool = False
    losses: int = 0
    ended: int = 0
    looks: int = 0
    device: int = 0
    free_bytes: int | None = None
    purged_s: float = float("-inf")

    @property
    def store(self) -> DriveStore:
        """Its files."""
        return self.node.store

    def measured(self, free_bytes: int) -> None:
        """So much room it has now. Called on any thread."""
        self.free_bytes = free_bytes
        self.node.changed()


class DriveOpening:
    """Takes the drives of one store, when it starts and when one comes back.

    :param scheme: of the store; None: a data server's one folder, which keeps shards of every one.
    :param address: what the drive of a number is called.
    :ivar store_id: the store's, once it is known.
    :ivar temp_files_removed: how many files were found that a crash had left in ``temp/``.
    """

    def __init__(
        self,
        drives: Sequence[Drive],
        scheme: Scheme | None,
        files: Files,
        clock: IReactorTime,
        address: Callable[[int], str],
    ) -> None:
        self._drives = drives
        self._scheme = scheme
        self._files = files
        self._clock = clock
        self._address = address
        self.store_id = ""
        self.temp_files_removed = 0

    async def begin(self) -> list[tuple[Drive, Marker | Found]]:
        """Look at all folders, and settle what each drive is called; one that is out of reach is
        away.

        :returns: what was found of each.
        :raises ConfigError: see DriveSet.start.
        """
        looks = await gather([self._first_look(drive) for drive in self._drives])
        found: list[tuple[Drive, Marker | Found]] = []
        for drive, look in zip(self._drives, looks, strict=True):
            if isinstance(look.error, (OSError, BadMarker)):
                found.append((drive, Found.GONE))
            else:
                found.append((drive, look.value))
        self._identify(found)
        for drive, look in zip(self._drives, looks, strict=True):
            if isinstance(look.error, (OSError, BadMarker)):
                # Only now it is known what the drive is called.
                drive.node.degrade(DriveState.AWAY, _reason(look.error))
        return found

    def require_ours(self, what: Marker | Found, drive: Drive) -> None:
        """Refuse a folder that is another store's, or another drive's.

        :raises ConfigError: it is.
        """
        if not isinstance(what, Marker):
            return
        what.require(self.store_id, self._scheme, drive.folder)
        if what.number != drive.number:
            raise ConfigError(
                f"{drive.folder} holds drive {what.number}, not {drive.number}. "
                "Restart dostore to have drives in other places taken for what they are."
            )

    async def _first_look(self, drive: Drive) -> Marker | Found:
        def look() -> Marker | Found:
            if not self._files.is_folder(drive.folder):
                self._files.make_folder(drive.folder)
                self._files.sync_folder(os.path.dirname(drive.folder))
            return drive_marker.look(drive.folder, self._files)

        what: Marker | Found = await with_timeout(
            drive.watcher.run(look),
            HUNG_AFTER_S,
            self._clock,
            lambda: OSError(0, "it hangs"),
        )
        drive_marker.require_ours(what, None, self._scheme, drive.folder)
        return what

    def _identify(self, found: Sequence[tuple[Drive, Marker | Found]]) -> None:
        """Settle the store's id and every drive's number.

        A drive keeps the number that its marker says, wherever it is mounted now.
        """
        markers = [(drive, what) for drive, what in found if isinstance(what, Marker)]
        for drive, what in found:
            # Beside drives of a store it is one of them, for whatever shards are in it tell what
            # they are. Alone it might be anybody's.
            if what is Found.UNMARKED and not markers:
                raise ConfigError(
                    f"{drive.folder} {what.value}, and so has every other drive. Restore one of "
                    f"the files {drive_marker.FILE_NAME}, or give dostore empty folders."
                )
        self.store_id = markers[0][1].store if markers else str(uuid.uuid4())
        taken: dict[int, str] = {}
        for drive, marker in markers:
            marker.require(self.store_id, self._scheme, drive.folder)
            if marker.number in taken:
                raise ConfigError(
                    f"{drive.folder} and {taken[marker.number]} are both drive {marker.number}: "
                    "one is a copy. Remove it, or empty its folder to have it rebuilt."
                )
            taken[marker.number] = drive.folder
            drive.number = marker.number
        for position, drive in enumerate(self._drives, 1):
            if drive.number == 0:
                free = [n for n in range(1, len(self._drives) + 1) if n not in taken]
                drive.number = position if position in free else free[0]
                taken[drive.number] = drive.folder
            drive.node.address = self._address(drive.number)

    async def open(self, drive: Drive, what: Marker | Found) -> None:
        """Prepare a drive and scan it; it is live then, or away when that fails.

        :raises ConfigError: it is in use, or a newer program's.
        """
        try:
            self.temp_files_removed += await drive.node.workers.run(self._prepare, drive, what)
            index, garbage = await drive.node.workers.run(drive.store.scan)
        except OSError as error:
            self.release(drive)
            drive.node.degrade(DriveState.AWAY, error.strerror or "it fails")
            return
        drive.node.come(index, garbage)
        _log.info(
            "{address} at {folder}: shards of {contents} contents",
            address=drive.node.address,
            folder=drive.folder,
            contents=drive.node.contents,
        )

    def _prepare(self, drive: Drive, what: Marker | Found) -> int:
        """Runs on a worker thread. How many temporary files were removed."""
        drive.lock_fd = drive_marker.lock(drive.folder, self._files)
        # First: without it, folders that a crash here leaves would be taken for somebody's files.
        if what is Found.EMPTY or what is Found.UNMARKED:
            marker = Marker.made(self.store_id, drive.number, self._scheme)
            drive_marker.write(drive.folder, marker, self._files)
        drive.store.prepare()
        drive.device, _ = self._files.identity(drive.folder)
        drive.measured(self._files.free_bytes(drive.folder))
        return drive.store.clean_temp()

    # Watching

    def release(self, drive: Drive) -> None:
        """Give a drive free."""
        drive.node.release()
        fd, drive.lock_fd = drive.lock_fd, None
        if fd is not None:
            os.close(fd)


def _reason(error: OSError | BadMarker) -> str:
    if isinstance(error, BadMarker):
        return error.detail
    return error.strerror or "it fails"
