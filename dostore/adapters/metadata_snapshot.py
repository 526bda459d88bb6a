"""Snapshots of the metadata database on the drives of its log, made while writes go on.

Blocks; runs on a thread of its own, beside the metadata writer's.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from attrs import define, field, frozen
from xxhash import xxh3_128

from dostore.adapters.files import Files
from dostore.adapters.metadata_database import Database, State
from dostore.adapters.metadata_drives import CHUNK_BYTES, Lapse, LogDrive, collect, start_on
from dostore.core.logrecord import SnapshotFooter

T = TypeVar("T")

#: Pages copied between two looks at whether to stop.
_STEP_PAGES = 2048

#: Seconds of rest after each hundred rows checked.
_REST_S = 0.0005

#: Chunks written between two syncs, so that none of them takes long.
_SYNCED_CHUNKS = 16


class SnapshotStopped(Exception):
    """The store closes, or the database turned out to be damaged."""


@frozen(slots=True)
class SnapshotTaken:
    """How a snapshot ended.

    :ivar term: the segment that was begun with it; the segments before are needless where the
        snapshot is.
    :ivar footer: what its files end with.
    :ivar drives: those on which it is durable.
    :ivar lapses: how others failed.
    """

    term: int
    footer: SnapshotFooter
    drives: frozenset[LogDrive]
    lapses: dict[LogDrive, Lapse]


@define(slots=True)
class Snapshot:
    """One snapshot.

    :ivar path: of the database.
    :ivar term: of the segment that was begun with it.
    :ivar drives: where it goes.
    :ivar stop: set to have it end soon.
    """

    path: str
    files: Files
    store_id: bytes
    term: int
    drives: list[LogDrive]
    timeout_s: float
    stop: threading.Event
    lapses: dict[LogDrive, Lapse] = field(factory=dict)

    def take(self) -> SnapshotTaken:
        """Make it, and put it on the drives.

        :raises SnapshotStopped: :attr:`stop` was set.
        :raises sqlite3.Error, OSError: the database, or its copy beside it, fails.
        """
        local = self.path + ".snapshot"
        try:
            # First to a file of our own: a drive that hangs would keep the database's transaction
            # open, and its write-ahead log growing.
            state = self._copy_database(local)
            footer = self._put_on_drives(local, state)
        finally:
            if self.files.exists(local):
                self.files.unlink(local)
        return SnapshotTaken(self.term, footer, frozenset(self._sound()), self.lapses)

    def _copy_database(self, local: str) -> State:
        if self.files.exists(local):
            self.files.unlink(local)
        source = Database(self.path, cache_kib=4096, writes=False)
        target = sqlite3.connect(local, isolation_level=None)
        try:
            target.execute("PRAGMA synchronous = OFF")
            # One transaction: the copy is of this moment, whatever is written meanwhile.
            source.connection.execute("BEGIN")
            state = source.state()
            source.connection.backup(target, pages=_STEP_PAGES, progress=self._look_up)
            source.connection.execute("COMMIT")
            target.execute("PRAGMA journal_mode = DELETE").fetchone()
        finally:
            target.close()
            source.close()
        self._look_up()
        copy = Database(local, cache_kib=4096, writes=False)
        try:
            # A damaged copy must not take the place of a sound one, nor of the log.
            copy.quick_check()
            copy.check_tally()
            copy.check_rows(self._rest)
        finally:
            copy.close()
        return state

    def _look_up(self, *_: object) -> None:
        if self.stop.is_set():
            raise SnapshotStopped

    def _rest(self) -> None:
        # The check is Python's work: without pauses it would slow requests down.
        if self.stop.wait(_REST_S):
            raise SnapshotStopped

    def _put_on_drives(self, local: str, state: State) -> SnapshotFooter:
        name = f"snapshot.{state.seq}"
        self._each(self.drives, lambda drive: drive.make_folder)
        fds = self._each(
            self._sound(),
            lambda drive: _opener(drive, drive.path(name + ".new")),
        )
        try:
            footer = self._fill(local, state, fds)
            end = footer.encode()
            self._each(self._sound(), lambda drive: _finisher(drive, fds[drive], end, name))
        finally:
            for drive, fd in fds.items():
                self._close(drive, fd)
        return footer

    def _fill(self, local: str, state: State, fds: dict[LogDrive, int]) -> SnapshotFooter:
        """Write the copy of the database to all drives at once; the footer that must follow."""
        digest = xxh3_128()
        position = chunks = 0
        fd = self.files.open(local, os.O_RDONLY)
        try:
            size = self.files.size(fd)
            while position < size:
                self._look_up()
                data = self.files.pread(fd, CHUNK_BYTES, position)
                digest.update(data)
                position += len(data)
                chunks += 1
                sync = chunks % _SYNCED_CHUNKS == 0
                self._each(self._sound(), _writer(fds, data, sync))
        finally:
            self.files.close(fd)
        return SnapshotFooter(self.store_id, state.term, state.seq, size, digest.digest())

    def _sound(self) -> list[LogDrive]:
        return [drive for drive in self.drives if drive not in self.lapses]

    def _each(
        self, drives: Iterable[LogDrive], job: Callable[[LogDrive], Callable[[], T]]
    ) -> dict[LogDrive, T]:
        """Run a job on each drive's own threads, and leave those out from now on that fail."""
        futures = {drive: start_on(drive, job(drive)) for drive in drives}
        results, lapses = collect(futures, self.timeout_s)
        self.lapses.update(lapses)
        return results

    def _close(self, drive: LogDrive, fd: int) -> None:
        lapse = self.lapses.get(drive)
        if lapse is not None and lapse.hung is not None:
            # The number may not be given out again while the hung call holds it.
            lapse.hung.add_done_callback(lambda _: drive.files.close(fd))
        else:
            start_on(drive, drive.files.close, fd)


def _opener(drive: LogDrive, path: str) -> Callable[[], int]:
    return lambda: drive.files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def _writer(
    fds: dict[LogDrive, int], data: bytes, sync: bool
) -> Callable[[LogDrive], Callable[[], None]]:
    def job(drive: LogDrive) -> Callable[[], None]:
        def write() -> None:
            drive.files.write(fds[drive], [data])
            if sync:
                drive.files.sync(fds[drive])

        return write

    return job


def _finisher(drive: LogDrive, fd: int, footer: bytes, name: str) -> Callable[[], None]:
    def finish() -> None:
        drive.files.write(fd, [footer])
        drive.files.sync(fd)
        drive.files.rename(drive.path(name + ".new"), drive.path(name))
        drive.files.sync_folder(drive.place.folder)

    return finish
