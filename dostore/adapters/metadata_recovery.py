"""Finding the newest state of the metadata at start: a database or snapshot, and the log after it.

Blocks; runs on the metadata writer's thread. ``docs/metadata-log.rst`` tells the rules.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress

from attrs import frozen
from twisted.logger import Logger
from xxhash import xxh3_128

from dostore.adapters.files import Files
from dostore.adapters.metadata_database import Database, State
from dostore.adapters.metadata_drives import LogDrive
from dostore.adapters.metadata_log import MetadataLog
from dostore.adapters.metadata_survey import Gap, Replay, Survey
from dostore.core.logrecord import (
    Record,
    SnapshotFooter,
    TermStart,
    decode_versions,
)
from dostore.errors import ConfigError, MetadataUnavailable

log = Logger()

#: Records that a start repeats in its new segment, rather than bring a drive up by a snapshot.
_CARRIED_RECORDS = 64
_CARRIED_BYTES = 16 << 20

#: A database up to this size is checked at each start (some 0.3 s); a larger one only when it was
#: not closed in order, which is when a write may have been torn.
_ALWAYS_CHECKED_BYTES = 64 << 20

_REPLAY_RECORDS = 1000


@frozen(slots=True)
class Recovered:
    """What the start found.

    :ivar fresh: there was nothing, and an empty store was made.
    :ivar rebuilt: why the database was made anew, None when it was kept.
    :ivar replayed: how many records of the log were applied.
    :ivar versions: how many versions those held.
    :ivar missing: how many records could not be found or read anywhere.
    """

    fresh: bool
    rebuilt: str | None
    replayed: int
    versions: int
    missing: int


class Recovery:
    """One start: brings the database up, then opens the log after it.

    :param path: of the database.
    :param now_ms: the time, in milliseconds since the epoch.
    """

    def __init__(
        self, metadata_log: MetadataLog, path: str, store_id: str, files: Files, now_ms: int
    ) -> None:
        self._now_ms = now_ms
        self._log = metadata_log
        self._path = path
        self._store_id = store_id
        self._files = files
        self._survey = Survey(metadata_log.timeout_s)
        self._versions = 0
        self._replayed = 0
        self._missing = 0
        self._unreadable = 0

    def run(self, damage: str | None = None) -> Recovered:
        """Leave a database at the path that holds every record, and an open segment if possible.

        :param damage: what was found wrong with the database, if it is not to be used.
        :raises ConfigError: a newer release wrote the database or the log, or the database is
            damaged and there is nothing to rebuild it from.
        :raises MetadataUnavailable: so many drives are away that they may hold all there is.
        :raises sqlite3.Error, OSError: the database's own drive fails.
        """
        metadata_log = self._log
        metadata_log.look([drive for drive in metadata_log.drives if drive.usable], sweep=True)
        self._refuse_newer()
        self._survey = Survey.of(metadata_log.drives, metadata_log.timeout_s)
        state, why = self._inspect(damage)
        if state is not None:
            why = self._catch_up(state)
        fresh = why is not None and self._rebuild(why, existed=why != "missing")
        database = Database(self._path, cache_kib=1024, writes=True)
        try:
            database.use_wal()
            found = database.state()
            if self._missing:
                # Contents older than this may belong to versions that are lost.
                database.set_created(self._now_ms)
            stopped_with = found.stopped_with
            if stopped_with is not None:
                database.set_stopped(None)
                database.checkpoint(wait=True)
        finally:
            database.close()
        metadata_log.created_ms = self._now_ms if self._missing else found.created_ms
        metadata_log.next_seq = found.seq + 1
        metadata_log.term = max(metadata_log.term, found.term, found.void_term)
        self._open_log(found.seq, _inventory(stopped_with))
        return Recovered(
            fresh, None if fresh else why, self._replayed, self._versions, self._missing
        )

    def _refuse_newer(self) -> None:
        for drive in self._log.drives:
            if drive.listing is None:
                continue
            if drive.listing.newer:
                raise ConfigError(
                    f"The metadata log on the drive {drive.place.address} was written by a newer "
                    "release. Start that release."
                )
            if drive.listing.foreign:
                log.warn(
                    "On the drive {drive}, {count} metadata files are damaged or another store's.",
                    drive=drive.place.address,
                    count=drive.listing.foreign,
                )

    def _inspect(self, damage: str | None) -> tuple[State | None, str | None]:
        """The state of the database that is there, or why it cannot be used."""
        if damage is not None:
            return None, damage
        if not self._files.exists(self._path):
            return None, "missing"
        try:
            database = Database(self._path, cache_kib=4096, writes=True)
            try:
                state = database.state()
                size = os.stat(self._path).st_size
                if state.stopped_with is None or size <= _ALWAYS_CHECKED_BYTES:
                    database.quick_check()
                    database.check_tally()
            finally:
                database.close()
        except sqlite3.Error as error:
            return None, f"damaged ({error})"
        if state.store_id != self._store_id:
            return None, "of another store"
        if state.void_seq:
            self._survey.starts.append(TermStart(state.void_term + 1, state.void_seq))
        if self._survey.void(state.term, state.seq):
            return None, "holding records that were given up"
        return state, None

    def _catch_up(self, state: State) -> str | None:
        """Apply to a sound database what the log has beyond it; why it must be rebuilt, or None."""
        newer = any(footer.seq > state.seq for footer, _ in self._survey.snapshots)
        if not self._survey.connects(state.seq) and newer:
            return "older than the log that is left"
        if self._stopped_in_order(state):
            return None
        try:
            database = Database(self._path, cache_kib=16384, writes=True)
            try:
                self._replay(database, state.seq, strict=newer)
            finally:
                database.close()
        except Gap:
            return "older than the log that is left"
        except sqlite3.DatabaseError as error:
            return f"damaged ({error})"
        if self._replayed:
            log.warn(
                "The metadata database was behind its log: {records} records with {versions} "
                "versions were applied to it.",
                records=self._replayed,
                versions=self._versions,
            )
        return None

    def _stopped_in_order(self, state: State) -> bool:
        """Whether every drive is as the last stop left it, so that the log need not be read."""
        inventory = _inventory(state.stopped_with)
        known = {name for sizes in inventory.values() for name in sizes}
        drives = {drive.place.address: drive for drive in self._log.drives}
        for address, sizes in inventory.items():
            drive = drives.get(address)
            if drive is not None and drive.listing is not None and drive.listing.sizes != sizes:
                return False
        return bool(inventory) and all(f"log.{term}" in known for term in self._survey.holders)

    def _replay(self, database: Database, after: int, *, strict: bool) -> None:
        """Apply every record after number ``after``."""
        self._versions = self._replayed = self._unreadable = 0
        walk = Replay(self._survey)
        database.begin()
        try:
            for term, record in walk.records(after, strict=strict):
                versions = decode_versions(record.payload)
                if versions is None:
                    self._unreadable += 1
                    continue
                database.insert(versions)
                database.set_applied(term, record.seq)
                self._versions += len(versions)
                self._replayed += 1
                if self._replayed % _REPLAY_RECORDS == 0:
                    database.commit()
                    database.begin()
            database.commit()
        finally:
            database.rollback()
            self._missing = walk.missing + self._unreadable
        if self._missing:
            log.error(
                "{missing} records of the metadata log are lost: no drive has them, or not sound.",
                missing=self._missing,
            )

    def _rebuild(self, why: str, *, existed: bool) -> bool:
        """Make the database anew; whether there was nothing to make it from."""
        away = [drive.place.address for drive in self._log.drives if drive.listing is None]
        if len(away) >= self._log.copies:
            raise MetadataUnavailable(
                f"The metadata database is {why}, and the drives that may hold its log are away "
                f"({', '.join(away)}). Bring them back."
            )
        if self._survey.empty and existed:
            raise ConfigError(
                f"The metadata database is {why}, and there is no log or snapshot on the drives to "
                "rebuild it from. Bring the drives back, or move the database away to start empty."
            )
        build = self._path + ".new"
        base = self._restore(build)
        try:
            database = Database(build, cache_kib=65536, writes=True)
            try:
                database.connection.execute("PRAGMA journal_mode = OFF").fetchone()
                database.connection.execute("PRAGMA synchronous = OFF")
                database.set_stopped(None)
                if self._survey.created_ms is not None:
                    database.set_created(self._survey.created_ms)
                self._replay(database, base, strict=False)
            finally:
                database.close()
            self._put_in_place(build)
        finally:
            self._remove(build)
        if not self._survey.empty:
            log.warn(
                "The metadata database was {why}: it was rebuilt from {base}{records} records of "
                "the log with {versions} versions.",
                why=why,
                base=f"the snapshot of record {base} and " if base else "",
                records=self._replayed,
                versions=self._versions,
            )
        return self._survey.empty

    def _restore(self, build: str) -> int:
        """Put the newest readable snapshot at ``build``, or an empty database; its last record."""
        for footer, drive in self._survey.snapshots:
            if self._survey.void(footer.term, footer.seq):
                continue
            self._remove(build)
            if self._fetch(footer, drive, build):
                return footer.seq
            log.error(
                "The metadata snapshot of record {seq} on the drive {drive} cannot be used.",
                seq=footer.seq,
                drive=drive.place.address,
            )
        self._remove(build)
        Database.create(build, self._store_id, self._now_ms)
        return 0

    def _fetch(self, footer: SnapshotFooter, drive: LogDrive, build: str) -> bool:
        """Copy a snapshot from a drive; whether it is sound."""
        digest = xxh3_128()
        position = 0
        fd = self._files.open(build, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            while position < footer.size:
                data = drive.read(f"snapshot.{footer.seq}", position, self._log.timeout_s)
                if not data:
                    return False
                data = data[: footer.size - position]
                self._files.write(fd, [data])
                digest.update(data)
                position += len(data)
        finally:
            self._files.close(fd)
        if digest.digest() != footer.digest:
            return False
        try:
            database = Database(build, cache_kib=1024, writes=False)
            try:
                state = database.state()
            finally:
                database.close()
        except sqlite3.Error:
            log.failure("A metadata snapshot is no database.")
            return False
        return (state.store_id, state.seq) == (self._store_id, footer.seq)

    def _put_in_place(self, build: str) -> None:
        """Have the rebuilt database take the place of the one that is there, if any."""
        fd = self._files.open(build, os.O_RDWR)
        try:
            self._files.sync(fd)
        finally:
            self._files.close(fd)
        if self._files.exists(self._path):
            self._files.rename(self._path, self._path + ".damaged")
        # Before the new file has the name: it would take the old one's write-ahead log for its own.
        self._remove(self._path + "-wal")
        self._remove(self._path + "-shm")
        self._files.rename(build, self._path)
        self._files.sync_folder(os.path.dirname(self._path))

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.unlink(path)

    def _open_log(self, seq: int, inventory: dict[str, dict[str, int]]) -> None:
        """Open a new segment after record ``seq``, on the drives that have the most."""
        reach: dict[LogDrive, int] = {}
        for drive in self._log.drives:
            if drive.listing is None:
                continue
            if not self._replayed and inventory.get(drive.place.address) == drive.listing.sizes:
                reach[drive] = seq
            else:
                reach[drive] = self._survey.reach(drive)
        # A drive may have failed while it was read.
        ranked = sorted(
            (drive for drive in reach if drive.listing is not None),
            key=lambda drive: -reach[drive],
        )
        near = [reach[d] for d in ranked[: self._log.copies] if seq - reach[d] <= _CARRIED_RECORDS]
        carried: list[Record] = []
        if near and min(near) < seq:
            walk = Replay(self._survey).records(min(near), strict=False)
            carried = _up_to(_CARRIED_BYTES, (record for _, record in walk if record.seq <= seq))
        first = carried[0].seq if carried else seq + 1
        if [record.seq for record in carried] != list(range(first, seq + 1)):
            carried = []
            first = seq + 1
        for drive in ranked:
            drive.whole = first - 1 <= reach[drive] <= seq
        try:
            self._log.begin(carried, ranked[: self._log.copies])
        except MetadataUnavailable as error:
            log.error("The metadata can be read only. {detail}", detail=error.detail)
        self._log.bytes_since_cut = max((_logged(drive) for drive in self._log.members), default=0)


def _up_to(size: int, records: Iterator[Record]) -> list[Record]:
    """The records until their payloads have ``size`` bytes."""
    taken: list[Record] = []
    for record in records:
        size -= len(record.payload)
        if size < 0:
            break
        taken.append(record)
    return taken


def _logged(drive: LogDrive) -> int:
    """Bytes of a drive's segments, when it was last looked at."""
    sizes = drive.listing.sizes if drive.listing else {}
    return sum(size for name, size in sizes.items() if name.startswith("log."))


def _inventory(stopped_with: str | None) -> dict[str, dict[str, int]]:
    """What a clean stop noted: for each drive that held everything, its files and their sizes."""
    found: dict[str, dict[str, int]] = json.loads(stopped_with) if stopped_with else {}
    return found
