"""The thread that writes metadata: it numbers, logs and commits batches, and cares for the log."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import TypeVar
from uuid import UUID

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from dostore.adapters.files import Files
from dostore.adapters.metadata_database import Database, is_damage, unavailable
from dostore.adapters.metadata_drives import (
    LogDrive,
    LogPlace,
    collect,
    on_all,
    set_aside,
    start_on,
)
from dostore.adapters.metadata_log import MetadataLog
from dostore.adapters.metadata_recovery import Recovered, Recovery
from dostore.adapters.metadata_snapshot import Snapshot, SnapshotStopped, SnapshotTaken
from dostore.core.logrecord import encode_version, join_versions
from dostore.core.model import Draft, Version
from dostore.errors import DostoreError, MetadataUnavailable, TooLarge
from dostore.loglines import Standing
from dostore.ports import Check
from dostore.threads import IWorkers

T = TypeVar("T")

log = Logger()

#: The largest that one version may be in the log, in bytes.
MAX_VERSION_BYTES = 1 << 20

#: A batch ends with the version that takes it to this size, in bytes.
_BATCH_BYTES = 4 << 20

_WRITER_CACHE_KIB = 16384

#: The database's write-ahead log is carried over after so many bytes of batches.
_CHECKPOINT_BYTES = 4 << 20


@frozen(slots=True)
class MetadataLimits:
    """Sizes and times of the metadata store.

    :ivar sync_timeout_s: a drive that takes longer to sync a batch has failed.
    :ivar retry_s: how often what is lacking is tried again.
    :ivar snapshot_bytes: a snapshot is taken when the log has more than this many bytes and more
        than half of the database's.
    :ivar batch_versions: the most versions that are committed together.
    :ivar cached_versions: how many newest versions are kept in memory, of about 700 bytes each; one
        with a long name or many keys counts for several.
    :ivar cheap_bytes: a database up to this size is saved at a clean stop, too, when the log has
        more than half of its size.
    :ivar answer_timeout_s: who waits longer for a database whose drive hangs is told so. Nothing
        takes as long but making the database anew.
    :ivar queue_timeout_s: a version that was not begun to be written for so long is not made.
    """

    sync_timeout_s: float = 5.0
    retry_s: float = 10.0
    snapshot_bytes: int = 64 << 20
    batch_versions: int = 1000
    cached_versions: int = 65_536
    cheap_bytes: int = 16 << 20
    answer_timeout_s: float = 10.0
    queue_timeout_s: float = 30.0


@define(slots=True, eq=False)
class Addition:
    """A version to be made, and who waits for it, since when by the reactor's clock."""

    draft: Draft
    check: Check | None
    waiter: Deferred[Version]
    since_s: float


class DatabaseDamaged(MetadataUnavailable):
    """A read met damage; the database is to be rebuilt, then the read is done again.

    :ivar generation: of the database that is damaged.
    """

    def __init__(self, generation: int, detail: str) -> None:
        super().__init__(detail)
        self.generation = generation


class MetadataWriter:
    """The state of the store that belongs to the writer's thread.

    All methods block and are called on that thread, but for :meth:`read`.

    :param now_s: the time, in seconds since the epoch; called on the writer's thread.
    :ivar needs_care: :meth:`care` has something to do at once.
    :param upkeep: one thread for what must not hold writes up: snapshots and checkpoints.
    :param writer: the writer's thread itself.
    """

    def __init__(
        self,
        path: str,
        store_id: str,
        places: Sequence[LogPlace],
        copies: int,
        files: Files,
        limits: MetadataLimits,
        now_s: Callable[[], float],
        upkeep: IWorkers,
        writer: IWorkers,
    ) -> None:
        self._path = path
        self._store_id = store_id
        self._files = files
        self._limits = limits
        self._now_s = now_s
        self._upkeep = upkeep
        self._writer = writer
        self._log = MetadataLog(places, copies, files, UUID(store_id).bytes, limits.sync_timeout_s)
        self.needs_care = False
        self._database: Database | None = None
        self._readers: queue.SimpleQueue[tuple[int, Database]] = queue.SimpleQueue()
        self._generation = 0
        self._snapshot_wanted = False
        self._snapshot_stop: threading.Event | None = None
        self._unchecked_bytes = 0
        self._heal_now = False
        self._rebuilt_s = float("-inf")
        self._snapshot_failed = False
        self._unwritable = Standing(log.error, log.info, "The metadata is written again.")
        self._unreadable = Standing(log.error, log.info, "The metadata is read again.")
        self._careless = Standing(log.error, log.info, "The metadata log is cared for again.")
        self._unsaved = Standing(log.error, log.info, "Snapshots of the metadata are taken again.")

    # Reads, on any thread

    def read(self, query: Callable[[Database], T]) -> T:
        """What ``query`` gets from a connection that only reads.

        :raises DatabaseDamaged: see there.
        :raises MetadataUnavailable: the database cannot be read.
        """
        generation = self._generation
        database: Database | None = None
        try:
            database = self._reader(generation)
            result = query(database)
        except sqlite3.Error as error:
            if database is not None:
                database.close()
            self._unreadable.tell(f"The metadata database {self._path} cannot be read: {error}.")
            if self._must_be_rebuilt(error):
                raise DatabaseDamaged(generation, "The metadata is being rebuilt.") from error
            raise unavailable(error) from error
        self._readers.put((generation, database))
        self._unreadable.end()
        return result

    def _must_be_rebuilt(self, error: sqlite3.Error) -> bool:
        return is_damage(error) or not self._files.exists(self._path)

    def _reader(self, generation: int) -> Database:
        while True:
            try:
                made_in, database = self._readers.get_nowait()
            except queue.Empty:
                return Database(self._path, cache_kib=8192, writes=False)
            if made_in == generation:
                return database
            database.close()

    # Starting and stopping

    def open(self) -> Recovered:
        """Bring everything up; see :meth:`Recovery.run` for what is raised."""
        try:
            return self._recover(None)
        except (sqlite3.Error, OSError) as error:
            raise unavailable(error) from error

    def _recover(self, damage: str | None) -> Recovered:
        recovery = Recovery(
            self._log, self._path, self._store_id, self._files, int(self._now_s() * 1000)
        )
        recovered = recovery.run(damage)
        self._heal_now = False
        self._database = Database(self._path, cache_kib=_WRITER_CACHE_KIB, writes=True)
        self._snapshot_wanted = not recovered.fresh and (
            recovered.rebuilt is not None or any(not d.whole for d in self._log.members)
        )
        self.needs_care = self._snapshot_due()
        return recovered

    def rebuild(self, generation: int) -> None:
        """Make the database anew from snapshot and log, unless that was done since.

        :raises MetadataUnavailable: that fails, or was done a moment ago and did not help.
        """
        if generation != self._generation:
            return
        if abs(self._now_s() - self._rebuilt_s) < self._limits.retry_s:
            raise MetadataUnavailable("The metadata database is damaged again. Try again later.")
        self._rebuilt_s = self._now_s()
        self._generation += 1
        if self._snapshot_stop is not None:
            self._snapshot_stop.set()
        if self._database is not None:
            self._database.close()
            self._database = None
        self._log.close_segment()
        try:
            self._recover("damaged")
        except (sqlite3.Error, OSError, DostoreError) as error:
            # What is sound in the old one is better than nothing.
            self._reopen()
            if isinstance(error, DostoreError):
                raise MetadataUnavailable(error.detail) from error
            raise unavailable(error) from error

    def _reopen(self) -> None:
        try:
            self._database = Database(self._path, cache_kib=_WRITER_CACHE_KIB, writes=True)
        except sqlite3.Error:
            log.failure("The metadata database cannot be opened.")

    @property
    def created_s(self) -> float:
        """When the store of versions began, in seconds since the epoch."""
        return self._log.created_ms / 1000

    @property
    def degraded(self) -> str | None:
        """What is lacking, as a sentence."""
        return self._log.degraded

    def ping(self) -> None:
        """Return when writes are possible.

        :raises MetadataUnavailable: they are not.
        """
        self._writable()
        if not self._log.members:
            self._log.begin()

    def _writable(self) -> Database:
        if self._database is None:
            raise MetadataUnavailable(
                "The metadata database could not be rebuilt yet. Try again later."
            )
        return self._database

    # Writing

    def commit(self, additions: Sequence[Addition]) -> list[Version | DostoreError]:
        """Number, log and commit additions together.

        :returns: the outcomes of as many, from the first on, as one batch takes.
        """
        generation = self._generation
        try:
            try:
                outcomes = self._commit(additions)
            except sqlite3.Error as error:
                if not self._must_be_rebuilt(error):
                    raise
                log.error(
                    "The metadata database {path} is damaged: {error}.",
                    path=self._path,
                    error=error,
                )
                self.rebuild(generation)
                outcomes = self._commit(additions)
        except (sqlite3.Error, OSError) as error:
            # In the same words each time, for a client tries it again and again.
            self._unwritable.tell(f"The metadata database {self._path} takes no writes: {error}.")
            return [unavailable(error)] * len(additions)
        except MetadataUnavailable as error:
            self._unwritable.tell(f"The metadata cannot be logged: {error.detail}")
            return [error] * len(additions)
        self._unwritable.end()
        return outcomes

    def _commit(self, additions: Sequence[Addition]) -> list[Version | DostoreError]:
        database = self._writable()
        members = len(self._log.members)
        database.begin()
        try:
            outcomes, payload = self._number(database, additions)
            versions = [outcome for outcome in outcomes if isinstance(outcome, Version)]
            if versions:
                seq = self._log.start(payload)
                # While the drives sync.
                database.insert(versions, applied=(self._log.term, seq))
                self._log.finish()
                database.commit()
                self._log.accept()
        finally:
            try:
                database.rollback()
            finally:
                if self._log.pending:
                    self._give_up(database)
        self._heal_now = self._heal_now or len(self._log.members) < members
        self.needs_care = self._heal_now or self._snapshot_due()
        self._unchecked_bytes += len(payload)
        if self._unchecked_bytes >= _CHECKPOINT_BYTES:
            self._unchecked_bytes = 0
            self._upkeep.submit(self._checkpoint)
        return outcomes

    def _number(
        self, database: Database, additions: Sequence[Addition]
    ) -> tuple[list[Version | DostoreError], bytes]:
        """The outcomes of one batch, and its payload for the log."""
        outcomes: list[Version | DostoreError] = []
        newest = database.newest([*dict.fromkeys(each.draft.name for each in additions)])
        encoded: list[bytes] = []
        size = 0
        for addition in additions:
            if size >= _BATCH_BYTES:
                break
            name = addition.draft.name
            current = newest.get(name)
            try:
                if addition.check is not None:
                    addition.check(current)
                version = addition.draft.numbered(current.number + 1 if current else 1)
                data = encode_version(version)
                if len(data) > MAX_VERSION_BYTES:
                    raise TooLarge("The object's metadata is too large. Send less of it.")
            except DostoreError as error:
                outcomes.append(error)
                continue
            newest[name] = version
            encoded.append(data)
            size += len(data)
            outcomes.append(version)
        return outcomes, join_versions(encoded)

    def _give_up(self, database: Database) -> None:
        """See to it that the batch that was begun never comes alive, not after a crash either."""
        term = self._log.term
        if self._log.abandon():
            return
        try:
            database.set_void(term, self._log.next_seq)
            database.checkpoint(wait=False)
        except sqlite3.Error:
            log.failure("A batch that was given up could not be noted as such.")

    # Care

    def _snapshot_due(self) -> bool:
        if self._snapshot_stop or self._snapshot_failed or self._database is None:
            return False
        logged = self._log.bytes_since_cut
        return self._snapshot_wanted or (
            logged > self._limits.snapshot_bytes and logged > self._database.size_bytes() // 2
        )

    def care(self, retry: bool = False, joined: str | None = None) -> None:
        """Bring the log to its full number of drives, take a snapshot when one is due.

        :param retry: try again what failed before.
        :param joined: the address of a drive that is back.
        """
        self._heal_now = self.needs_care = False
        try:
            if retry:
                self._snapshot_failed = False
                if self._database is None or not self._files.exists(self._path):
                    self.rebuild(self._generation)
                self._log.verify()
            before = set(self._log.members)
            self._log.heal(retry, joined)
            if before - set(self._log.members) or any(not d.whole for d in self._log.members):
                self._snapshot_wanted = True
            if self._snapshot_due() and self._log.members:
                self._start_snapshot()
        except (DostoreError, sqlite3.Error, OSError) as error:
            self._careless.tell(f"The metadata log could not be cared for: {error}")
        else:
            self._careless.end()

    def _start_snapshot(self) -> None:
        stop = threading.Event()
        self._upkeep.submit(self._take, self._new_snapshot(stop), self._generation)
        self._snapshot_stop = stop

    def _new_snapshot(self, stop: threading.Event) -> Snapshot:
        self._log.begin()
        self._log.bytes_since_cut = 0
        return Snapshot(
            self._path,
            self._files,
            self._log.store_id,
            self._log.term,
            list(self._log.members),
            self._limits.sync_timeout_s,
            stop,
        )

    def _take(self, snapshot: Snapshot, generation: int) -> None:
        """On the upkeep thread: take a snapshot and tell the writer's thread."""
        taken: SnapshotTaken | None = None
        try:
            taken = snapshot.take()
        except SnapshotStopped:
            log.info("A snapshot of the metadata was stopped.")
        except (sqlite3.Error, OSError) as error:
            self._unsaved.tell(f"A snapshot of the metadata could not be taken: {error}.")
            if isinstance(error, sqlite3.Error) and self._must_be_rebuilt(error):
                self._writer.submit(self.rebuild, generation)
        self._writer.submit(self._end_snapshot, snapshot, taken)

    def _end_snapshot(self, snapshot: Snapshot, taken: SnapshotTaken | None) -> None:
        if self._snapshot_stop is snapshot.stop:
            self._snapshot_stop = None
        if taken is None or snapshot.stop.is_set():
            self._snapshot_wanted = self._snapshot_failed = True
        else:
            self._use_snapshot(taken)
            if self._heal_now or self._snapshot_wanted:
                self.care()

    def _use_snapshot(self, taken: SnapshotTaken) -> None:
        for drive, lapse in taken.lapses.items():
            set_aside(drive, lapse)
            self._heal_now = True
        self._unsaved.end()
        self._log.drop_failed()
        members = self._log.members
        for drive in members:
            if drive in taken.drives and drive.since <= taken.term:
                drive.whole = True
                drive.was_cut(0, taken.footer, 0)
        self._snapshot_wanted = not members or not all(d.whole for d in members)
        if not self._snapshot_wanted:
            everywhere = len(members) >= self._log.copies
            sound = [d for d in self._log.drives if d.usable and not d.failed]
            drives = [d for d in sound if everywhere or d in members]
            for drive in drives:
                drive.was_cut(taken.term, None, taken.footer.seq)
            self._upkeep.submit(self._cut, drives, taken)

    def _cut(self, drives: Sequence[LogDrive], taken: SnapshotTaken) -> None:
        """On the upkeep thread: remove what the snapshot made needless."""
        futures = {d: start_on(d, d.cut, taken.term, taken.footer.seq) for d in drives}
        for drive, lapse in collect(futures, self._limits.sync_timeout_s)[1].items():
            log.warn(
                "Old metadata on the drive {drive} could not be removed: {why}.",
                drive=drive.place.address,
                why=lapse.why,
            )

    def _checkpoint(self) -> None:
        """On the upkeep thread: carry the database's write-ahead log over."""
        try:
            database = Database(self._path, cache_kib=1024, writes=True)
            try:
                database.checkpoint(wait=False)
            finally:
                database.close()
        except sqlite3.Error:
            log.failure("The metadata database could not be checkpointed.")

    def stop_upkeep(self) -> None:
        """Have a snapshot under way end soon."""
        if self._snapshot_stop is not None:
            self._snapshot_stop.set()

    def close(self) -> None:
        """Leave everything so that the next start is quick. Nothing may be called afterwards."""
        database, self._database = self._database, None
        try:
            if database is not None:
                self._save_cheaply(database)
                self._log.close_segment()
                whole = [drive for drive in self._log.drives if drive.whole]
                listings = on_all(whole, LogDrive.look, self._limits.sync_timeout_s)
                inventory = {d.place.address: listing.sizes for d, listing in listings.items()}
                while not self._readers.empty():
                    self._readers.get_nowait()[1].close()
                database.set_stopped(json.dumps(inventory))
                database.checkpoint(wait=True)
        except (sqlite3.Error, OSError, MetadataUnavailable):
            log.failure("The metadata could not be closed in order; the next start checks it.")
        finally:
            if database is not None:
                database.close()

    def _save_cheaply(self, database: Database) -> None:
        """Take a last snapshot when the database is small and much was logged since the last."""
        size = database.size_bytes()
        if size > self._limits.cheap_bytes or self._log.bytes_since_cut <= size // 2:
            return
        snapshot = self._new_snapshot(threading.Event())
        self._use_snapshot(snapshot.take())
        # So that what the cut removes is gone before the drives are looked at.
        wait([self._upkeep.submit(_nothing)], self._limits.sync_timeout_s)


def _nothing() -> None:
    """Run on a thread to wait until it has done what came before."""
