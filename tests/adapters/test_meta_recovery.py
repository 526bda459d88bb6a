"""What a metadata store keeps when its database, its drives or its process are lost."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from itertools import combinations

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.task import deferLater
from xxhash import xxh3_64_intdigest

from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import MetadataLimits, SqliteMetadata
from dostore.core.logrecord import HEADER_BYTES
from dostore.core.model import Version
from dostore.errors import ConfigError, MetadataUnavailable
from tests.contract.metadata import all_versions, draft, together, tombstone
from tests.support.cases import AsyncTestCase, slow
from tests.support.faults import FaultyFiles
from tests.support.metadata import COPIES, DRIVES, Machine

#: A drive that hangs is given up soon, and snapshots are due after little.
QUICK = MetadataLimits(sync_timeout_s=0.3)
EAGER = MetadataLimits(sync_timeout_s=5.0, snapshot_bytes=4096, cheap_bytes=0)

ALL_LOSSES = [*combinations(range(1, DRIVES + 1), COPIES - 1)]


async def pause(seconds: float = 0.002) -> None:
    """Let the store's threads go on."""
    await deferLater(reactor, seconds)


@slow
class RecoveryCase(AsyncTestCase):
    """A machine of six drives, and stores that are closed at the end."""

    def setUp(self) -> None:
        """Make the machine."""
        super().setUp()
        self.files = FaultyFiles()
        self.machine = self.own(Machine(self.folder(), self.files))
        self.addCleanup(self.files.lift_all)
        self._lines = self.logged()

    def told(self, words: str) -> int:
        """How many warnings and errors have such words."""
        return sum(words in line for line in self._lines)

    def folder(self) -> str:
        """A new path."""
        path: str = self.mktemp()
        return os.path.abspath(path)

    def own(self, machine: Machine) -> Machine:
        """Stop the machine's threads at the end."""
        self.addCleanup(machine.stop)
        return machine

    async def open(
        self, machine: Machine | None = None, limits: MetadataLimits | None = None
    ) -> SqliteMetadata:
        """A store, closed at the end."""
        store = await (machine or self.machine).open(limits)
        self.addCleanup(store.close)
        return store

    async def crash(self, drives: Sequence[int] | None = None) -> Machine:
        """The machine as a crash now leaves it, without the database."""
        return self.own(self.machine.image(self.folder(), drives))

    async def until(self, condition: object, what: str) -> None:
        """Wait for what the store's threads bring about."""
        for _ in range(2000):
            if callable(condition) and condition():
                return
            await pause()
        self.fail(f"not within 4 s: {what}")

    async def settle(self, store: SqliteMetadata) -> None:
        """Wait until the store lacks nothing."""
        await self.until(lambda: store.degraded is None, f"the store is whole: {store.degraded}")

    async def assert_holds(self, store: SqliteMetadata, versions: Iterable[Version]) -> None:
        """The store has exactly these versions, by every listing."""
        expected = sorted(versions, key=lambda v: (v.name, v.number))
        found = await all_versions(store, "", 1000)
        self.assertEqual(
            [(v.name, v.number) for v in found], [(v.name, v.number) for v in expected]
        )
        self.assertEqual(found, expected)
        newest = {version.name: version for version in expected}
        alive = [version for version in newest.values() if not version.deleted]
        self.assertEqual(list(await store.current("", "", 100_000)), alive)


async def fill(store: SqliteMetadata, count: int = 30, seed: str = "") -> list[Version]:
    """Some versions of some names, tombstones among them, over several batches."""
    made: list[Version] = []
    for turn in range(3):
        made += await together(
            store.add(
                tombstone(f"n{i % 7}") if (i + turn) % 5 == 4 else draft(f"n{i % 7}", f"{seed}{i}")
            )
            for i in range(turn, count, 3)
        )
    return made


class RestartTests(RecoveryCase):
    """A stop, a crash, a database that is lost or wrong."""

    async def test_restart_goes_on(self) -> None:
        """After a stop in order everything is there, and numbers go on."""
        store = await self.machine.open()
        self.assertTrue(store.fresh)
        made = await fill(store)
        began = await store.created()
        await store.close()
        store = await self.open()
        self.assertFalse(store.fresh)
        self.assertIsNone(store.degraded)
        self.assertEqual(await store.created(), began)
        await self.assert_holds(store, made)
        newest = max(v.number for v in made if v.name == "n0")
        self.assertEqual((await store.add(draft("n0"))).number, newest + 1)

    async def test_older_copy_beside_a_newer_write_ahead_log(self) -> None:
        """A database put back from an old copy takes the write-ahead log that a crash left for its
        own: what it lacks then is noticed, and comes from the drives."""
        store = await self.machine.open()
        # Few are added later: SQLite sees for itself when a file is too short.
        made = await together(store.add(draft(f"{i % 5}{i}")) for i in range(100))
        await store.close()
        old = await self.crash()
        self.machine.copy_database(old)
        store = await self.machine.open()
        made += await together(store.add(draft(f"4later{i}")) for i in range(3))
        await store.close()
        store = await self.machine.open()
        made += await together(store.add(draft(f"0later{i}")) for i in range(3))
        crashed = await self.crash()
        self.machine.copy_database(crashed)
        await store.close()
        self.assertGreater(os.path.getsize(crashed.database + "-wal"), 0)
        shutil.copy(old.database, crashed.database)
        store = await self.open(crashed)
        await self.assert_holds(store, made)
        self.assertTrue(os.path.exists(crashed.database + ".damaged"))

    async def test_start_after_stop_in_order_reads_no_log(self) -> None:
        """What was closed in order starts without reading the log through."""
        store = await self.machine.open()
        await fill(store)
        await store.close()
        self.files.calls.clear()
        store = await self.open()
        reads = [path for call, path in self.files.calls if call == "pread"]
        # The header of each segment, and nothing else.
        self.assertEqual(len(reads), len(set(reads)))
        self.assertEqual({os.path.basename(path) for path in reads}, {"log.1"})

    async def test_crash_with_the_database(self) -> None:
        """After a crash that left the database, everything is there."""
        store = await self.open()
        made = await fill(store)
        crashed = await self.crash()
        self.machine.copy_database(crashed)
        store = await self.open(crashed)
        self.assertFalse(store.fresh)
        await self.assert_holds(store, made)

    async def test_missing_database_is_rebuilt(self) -> None:
        """Without the database the log alone gives everything, and when the store began."""
        store = await self.open()
        made = await fill(store)
        began = await store.created()
        store = await self.open(await self.crash())
        self.assertFalse(store.fresh)
        self.assertEqual(await store.created(), began)
        await self.assert_holds(store, made)
        newest = max(v.number for v in made if v.name == "n0")
        self.assertEqual((await store.add(draft("n0"))).number, newest + 1)

    async def test_damaged_database_is_rebuilt(self) -> None:
        """Random pages in the middle, a cut, an emptied file, another file: all are noticed."""
        store = await self.machine.open()
        made = await fill(store, 2000)
        await store.close()
        with open(self.machine.database, "rb") as file:
            sound = file.read()
        middle = len(sound) // 2
        noise = random.Random(5).randbytes(8192)
        for what, data in {
            "random bytes": sound[:middle] + noise + sound[middle + len(noise) :],
            "random start": noise + sound[len(noise) :],
            "truncated": sound[:middle],
            "cut in a page": sound[:100],
            "empty": b"",
            "something else": b"this is no database" * 1000,
        }.items():
            machine = await self.crash()
            with open(machine.database, "wb") as file:
                file.write(data)
            store = await self.open(machine)
            self.assertFalse(store.fresh, what)
            await self.assert_holds(store, made)
            self.assertTrue(os.path.exists(machine.database + ".damaged"), what)

    async def test_damage_within_a_row_is_noticed_when_read(self) -> None:
        """A change that leaves the database well-formed is found by the row's check, and undone."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        with open(self.machine.database, "r+b") as file:
            data = file.read()
            # One digit of a time: nothing that SQLite looks at.
            at = data.index(b"2026-11-23T10:00")
            file.seek(at)
            file.write(b"2126")
        store = await self.open()
        await self.assert_holds(store, made)
        self.assertEqual(self.told("cannot be read: a version does not match its check"), 1)

    async def test_damage_met_by_a_write_is_repaired(self) -> None:
        """A write that meets a damaged row rebuilds the database and then succeeds."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        database = sqlite3.connect(self.machine.database)
        database.execute("UPDATE versions SET created = 'never' WHERE name = 'n3'")
        database.commit()
        database.close()
        store = await self.open()
        newest = max(v.number for v in made if v.name == "n3")
        added = await store.add(draft("n3", "more"))
        self.assertEqual(added.number, newest + 1)
        await self.assert_holds(store, [*made, added])
        self.assertEqual(self.told("is damaged: a version does not match its check"), 1)

    async def test_database_removed_while_running(self) -> None:
        """The files removed under the store: nothing acknowledged is lost, and it goes on."""
        store = await self.open(limits=MetadataLimits(cached_versions=1))
        made = await fill(store)
        self.machine.remove_database()
        made += await fill(store, 9, "on the removed file")
        self.machine.clock.advance(10)
        await self.until(lambda: os.path.exists(self.machine.database), "a rebuild")
        made += await fill(store, 9, "after")
        await self.assert_holds(store, made)
        await self.assert_holds(await self.open(await self.crash()), made)

    async def test_read_finds_the_database_removed(self) -> None:
        """A read that cannot open the database has it rebuilt, and succeeds."""
        store = await self.open()
        made = await fill(store)
        self.machine.remove_database()
        await self.assert_holds(store, made)
        self.assertTrue(os.path.exists(self.machine.database))
        self.assertEqual(self.told("cannot be read: unable to open"), 1)

    async def test_rebuilding_is_not_repeated_at_once(self) -> None:
        """Damage that comes back at once is an error for a while, not a rebuild for each read."""
        store = await self.open()
        made = await fill(store)
        for turn in range(2):
            database = sqlite3.connect(self.machine.database)
            database.execute("UPDATE versions SET created = 'never'")
            database.commit()
            database.close()
            if turn == 0:
                self.assertEqual(await store.get("n0", 1), made[0])
        with self.assertRaises(MetadataUnavailable):
            await store.get("n0", 1)
        self.machine.clock.advance(10)
        self.assertEqual(await store.get("n0", 1), made[0])
        self.assertEqual(self.told("cannot be read: a version does not match"), 2)

    async def test_damage_that_cannot_be_undone_spoils_only_what_it_met(self) -> None:
        """With a damaged row and no log left, that row is an error, and the rest goes on."""
        store = await self.open()
        made = await fill(store)
        database = sqlite3.connect(self.machine.database)
        database.execute("UPDATE versions SET created = 'never' WHERE name = 'n0' AND number = 1")
        database.commit()
        database.close()
        for number in self.machine.numbers:
            self.machine.empty_drive(number)
        for _ in range(2):
            with self.assertRaises(MetadataUnavailable):
                await store.get("n0", 1)
        self.assertEqual(await store.get("n3", 1), made[1])
        added = await store.add(draft("n1", "more"))
        self.assertEqual(await store.get("n1", added.number), added)
        self.assertEqual(self.told("cannot be read: a version does not match"), 1)

    async def test_database_of_a_history_that_was_given_up(self) -> None:
        """A database with a record whose number another record has since is made anew."""
        store = await self.machine.open()
        made = await fill(store)
        other = await self.crash()
        await store.add(draft("given up"))
        await store.close()
        store = await other.open()
        made.append(await store.add(draft("kept")))
        await store.close()
        shutil.copy(self.machine.database, other.database)
        await self.assert_holds(await self.open(other), made)

    async def test_database_of_another_store_is_not_used(self) -> None:
        """A database with another store's id is put aside, and the log is used."""
        other = self.own(Machine(self.folder(), Files()))
        strange = await other.open(store_id="00000000-0000-0000-0000-00000000beef")
        await strange.add(draft("strange"))
        await strange.close()
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        shutil.copy(other.database, self.machine.database)
        await self.assert_holds(await self.open(), made)

    async def test_database_older_than_the_log_catches_up(self) -> None:
        """An old copy of the database gets what the log has beyond it."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        old = self.folder()
        shutil.copy(self.machine.database, old)
        store = await self.machine.open()
        made += await fill(store, seed="later")
        await store.close()
        shutil.copy(old, self.machine.database)
        await self.assert_holds(await self.open(), made)

    async def test_database_older_than_the_cut_is_rebuilt(self) -> None:
        """A database so old that the log was cut since is made anew from the snapshot."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        old = self.folder()
        shutil.copy(self.machine.database, old)
        store = await self.machine.open(EAGER)
        for turn in range(5):
            made += await fill(store, 200, seed=f"later {turn}")
        await self.until(lambda: self.machine.snapshots(1), "a snapshot")
        made += await fill(store, seed="last")
        await store.close()
        shutil.copy(old, self.machine.database)
        store = await self.open()
        await self.assert_holds(store, made)

    async def test_database_ahead_of_every_log_is_kept(self) -> None:
        """When all logs are lost the database stands, and is soon on the drives again."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        for number in self.machine.numbers:
            self.machine.empty_drive(number)
        store = await self.open()
        self.assertFalse(store.fresh)
        await self.assert_holds(store, made)
        await self.settle(store)
        added = await store.add(draft("more"))
        for lost in ((1, 2), (2, 3), (1, 3)):
            kept = [number for number in self.machine.numbers if number not in lost]
            again = await self.open(await self.crash(kept))
            await self.assert_holds(again, [*made, added])

    async def test_fresh_only_when_nothing_is_there(self) -> None:
        """Neither database nor log nor snapshot: a new store, which says so; not so later."""
        store = await self.machine.open()
        self.assertTrue(store.fresh)
        self.assertEqual(await store.created(), 1_000_000)
        await store.close()
        self.machine.clock.advance(5)
        store = await self.machine.open()
        self.assertFalse(store.fresh)
        self.assertEqual(await store.created(), 1_000_000)
        await store.close()
        self.machine.remove_database()
        store = await self.open()
        self.assertFalse(store.fresh)

    async def test_damaged_database_without_any_log_is_not_thrown_away(self) -> None:
        """Nothing to rebuild from: the start is refused and the file stays."""
        with open(self.machine.database, "wb") as file:
            file.write(b"what is left of a database")
        with self.assertRaises(ConfigError) as caught:
            await self.machine.open()
        self.assertIn("move the database away", caught.exception.detail)
        with open(self.machine.database, "rb") as file:
            self.assertEqual(file.read(), b"what is left of a database")

    async def test_no_empty_store_while_too_many_drives_are_away(self) -> None:
        """With the database lost and m + 1 drives away, the start waits rather than forgets."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        self.machine.remove_database()
        self.machine.away = {1, 2, 3}
        with self.assertRaises(MetadataUnavailable) as caught:
            await self.machine.open()
        self.assertIn("drive-1, drive-2, drive-3", caught.exception.detail)
        self.machine.away = {2, 3}
        await self.assert_holds(await self.open(), made)

    async def test_newer_formats_are_refused(self) -> None:
        """What a newer release wrote is not touched: a clear sentence instead."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        segment = self.machine.segments(2)[0]
        with open(segment, "rb") as file:
            data = file.read()
        newer = struct.pack("<8sI", b"dostoreL", 2) + data[12 : HEADER_BYTES - 8]
        with open(segment, "wb") as file:
            file.write(newer + struct.pack("<Q", xxh3_64_intdigest(newer)) + data[HEADER_BYTES:])
        with self.assertRaises(ConfigError) as caught:
            await self.machine.open()
        self.assertIn("newer release", caught.exception.detail)
        with open(segment, "wb") as file:
            file.write(data)
        database = sqlite3.connect(self.machine.database)
        database.execute("PRAGMA user_version = 99")
        database.close()
        with self.assertRaises(ConfigError) as caught:
            await self.machine.open()
        self.assertIn("schema 99", caught.exception.detail)
        database = sqlite3.connect(self.machine.database)
        database.execute("PRAGMA user_version = 1")
        database.close()
        await self.assert_holds(await self.open(), made)

    async def test_database_without_drives_can_be_read(self) -> None:
        """With no drive for the log, reads go on and writes say what is missing."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        self.machine.away = set(self.machine.numbers)
        store = await self.open()
        await self.assert_holds(store, made)
        with self.assertRaises(MetadataUnavailable):
            await store.add(draft("n0"))
        with self.assertRaises(MetadataUnavailable):
            await store.ping()
        self.machine.away = {1, 2}
        await store.ping()
        self.assertEqual((await store.add(draft("new"))).number, 1)


class LossTests(RecoveryCase):
    """Any m drives lost, and the database with them."""

    async def test_any_two_drives_and_the_database(self) -> None:
        """Whichever two drives are gone, or replaced by empty ones, every version is there."""
        store = await self.open(limits=EAGER)
        made = await fill(store, 900)
        await self.until(lambda: self.machine.snapshots(1), "a snapshot")
        made += await fill(store, 30, "later")
        for index, lost in enumerate(ALL_LOSSES):
            machine = await self.crash()
            for number in lost:
                if index % 2:
                    machine.remove_drive(number)
                else:
                    machine.empty_drive(number)
            again = await machine.open()
            self.assertFalse(again.fresh)
            await self.assert_holds(again, made)
            await again.close()

    async def test_lost_drives_are_replaced_and_lost_again(self) -> None:
        """After each loss the log is brought back to m + 1 drives, so that the next may follow."""
        store = await self.machine.open()
        made = await fill(store)
        await store.close()
        for lost in ((1, 2), (3, 4), (5, 6), (1, 4), (2, 5)):
            self.machine.remove_database()
            for number in lost:
                self.machine.empty_drive(number)
            store = await self.machine.open()
            await self.assert_holds(store, made)
            made += await fill(store, 9, f"{lost}")
            await self.settle(store)
            await store.close()

    async def test_copies_that_differ_by_a_last_batch(self) -> None:
        """A batch that a crash left on one drive only is on all of them after the start."""
        store = await self.open()
        made = await fill(store)
        behind = await self.crash()
        last = await store.add(draft("last"))
        crashed = await self.crash()
        for number in (2, 3):
            shutil.copy(behind.segments(number)[-1], crashed.segments(number)[-1])
        store = await self.open(crashed)
        self.assertIsNone(store.degraded)
        await self.assert_holds(store, [*made, last])
        for lost in ((1, 2), (2, 3), (1, 3)):
            kept = [number for number in crashed.numbers if number not in lost]
            again = await self.open(self.own(crashed.image(self.folder(), kept)))
            await self.assert_holds(again, [*made, last])

    async def test_torn_and_garbled_tails(self) -> None:
        """Copies cut at any byte of the last record, or garbled there, cost only that record."""
        store = await self.open()
        made = await fill(store)
        size = os.path.getsize(self.machine.segments(1)[0])
        last = await store.add(draft("last"))
        rng = random.Random(3)
        for turn in range(12):
            crashed = await self.crash()
            for number in (1, 2, 3):
                path = crashed.segments(number)[0]
                whole = os.path.getsize(path)
                at = rng.randrange(size, whole)
                with open(path, "r+b") as file:
                    if turn % 2:
                        file.truncate(at)
                    else:
                        file.seek(at)
                        byte = file.read(1)[0]
                        file.seek(at)
                        file.write(bytes([byte ^ 0x40]))
            again = await self.open(crashed)
            await self.assert_holds(again, made)
            added = await again.add(draft("last", "another"))
            self.assertEqual((added.name, added.number), (last.name, last.number))
            self.assertNotEqual(added, last)

    async def test_one_sound_copy_of_each_record_is_enough(self) -> None:
        """Copies damaged in different places make up for each other."""
        store = await self.open()
        made = await fill(store, 300)
        crashed = await self.crash()
        with open(crashed.segments(1)[0], "r+b") as file:
            file.truncate(os.path.getsize(file.name) // 2)
        with open(crashed.segments(2)[0], "r+b") as file:
            file.seek(os.path.getsize(file.name) // 3)
            file.write(b"garbage")
        await self.assert_holds(await self.open(crashed), made)

    async def test_records_lost_before_a_segment_without_any(self) -> None:
        """A segment that goes on after records which are nowhere tells that they were there, so
        that nothing older is collected on the word of what is left."""
        for database_left in (False, True):
            machine = self.own(Machine(self.folder(), Files()))
            store = await machine.open()
            made = await fill(store)
            await store.close()
            older = self.own(machine.image(self.folder()))
            machine.copy_database(older)
            store = await machine.open()
            # So many that the stop leaves a snapshot, and no record beside it.
            await fill(store, 900, "later")
            await store.close()
            self.assertEqual(os.path.getsize(machine.segments(1)[-1]), HEADER_BYTES)
            for number in machine.numbers:
                for path in machine.snapshots(number):
                    os.unlink(path)
            machine.remove_database()
            if database_left:
                older.copy_database(machine)
            machine.clock.advance(1000)
            lines = len(self._lines)
            store = await self.open(machine)
            await self.assert_holds(store, made if database_left else [])
            self.assertEqual(await store.created(), 1_001_000)
            self.assertTrue(any("are lost" in line for line in self._lines[lines:]))

    async def test_lost_records_are_told(self) -> None:
        """More lost than can be made up for: what is left is there, and the store begins anew."""
        store = await self.machine.open()
        await fill(store)
        await store.close()
        store = await self.machine.open()
        later = await store.add(draft("later"))
        await store.close()
        self.machine.remove_database()
        for number in (1, 2, 3):
            os.unlink(self.machine.segments(number)[0])
        self.machine.clock.advance(1000)
        store = await self.open()
        self.assertEqual(await store.latest("later"), later)
        self.assertEqual(await store.created(), 1_001_000)

    async def test_damaged_snapshot_is_passed_over(self) -> None:
        """A snapshot with a flipped bit is not used; another drive's is."""
        store = await self.open(limits=EAGER)
        made = await fill(store, 900)
        await self.until(lambda: len(self.machine.segments(1)) == 1, "a cut")
        await self.settle(store)
        crashed = await self.crash()
        for number in (1, 2):
            path = crashed.snapshots(number)[-1]
            with open(path, "r+b") as file:
                file.seek(os.path.getsize(path) // 2)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1]))
        await self.assert_holds(await self.open(crashed), made)


class FailingDriveTests(RecoveryCase):
    """Drives that fail while the store runs."""

    async def test_a_failing_copy_is_replaced_at_once(self) -> None:
        """ENOSPC, EIO and EROFS on one copy: no write fails, and a spare takes its place."""
        for error in (errno.ENOSPC, errno.EIO, errno.EROFS):
            for operation in ("write", "sync"):
                files = FaultyFiles()
                machine = self.own(Machine(self.folder(), files))
                store = await machine.open()
                made = await fill(store)
                files.fail(machine.drive(2), error, operations=[operation], torn_bytes=11)
                made += await fill(store, 30, "during")
                await self.settle(store)
                made += await fill(store, 30, "after")
                self.assertTrue(machine.snapshots(4), (error, operation))
                for lost in ((1, 3), (3, 4), (1, 4), (1, 2)):
                    kept = [number for number in machine.numbers if number not in lost]
                    again = await machine_store(self, machine, kept)
                    await self.assert_holds(again, made)
                    await again.close()
                await store.close()

    async def test_a_hanging_copy_is_replaced(self) -> None:
        """A drive that hangs costs one bounded wait; what it writes much later does no harm."""
        store = await self.open(limits=QUICK)
        made = await fill(store)
        hang = self.files.hang(self.machine.drive(1), operations=["write"])
        made += await fill(store, 9, "during")
        self.assertTrue(hang.hanging.is_set())
        await self.settle(store)
        made += await fill(store, 9, "after")
        hang.lift()
        await pause(0.05)
        made += await fill(store, 9, "late")
        await self.assert_holds(await self.open(await self.crash()), made)
        await self.assert_holds(await self.open(await self.crash([1, 2, 5, 6])), made)

    async def test_fewer_drives_than_copies(self) -> None:
        """With too few drives the log goes on with those there are, and says so."""
        self.machine = self.own(Machine(self.folder(), self.files, drives=3))
        self.machine.away = {3}
        store = await self.open()
        self.assertEqual(store.degraded, "The metadata log is kept on 2 of 3 drives.")
        made = await fill(store)
        self.machine.away = set()
        store.drive_joined("drive-3")
        await self.settle(store)
        made += await fill(store, 9, "more")
        await self.assert_holds(await self.open(await self.crash([3])), made)

    async def test_failed_drive_is_tried_again(self) -> None:
        """A drive that failed is used again after a while, without being told of."""
        self.machine = self.own(Machine(self.folder(), self.files, drives=3))
        store = await self.open()
        made = await fill(store)
        fault = self.files.fail(self.machine.drive(3), errno.EIO)
        made += await fill(store, 9, "during")
        self.assertEqual(store.degraded, "The metadata log is kept on 2 of 3 drives.")
        self.machine.clock.advance(10)
        await pause(0.02)
        self.assertEqual(store.degraded, "The metadata log is kept on 2 of 3 drives.")
        fault.lift()
        self.machine.clock.advance(10)
        await self.settle(store)
        made += await fill(store, 9, "after")
        await self.assert_holds(await self.open(await self.crash([3])), made)

    async def test_emptied_drive_is_noticed(self) -> None:
        """A drive that was swapped for an empty one under the store is filled again."""
        store = await self.open()
        made = await fill(store)
        self.machine.empty_drive(2)
        store.drive_joined("drive-2")
        await self.until(lambda: store.degraded is not None, "the loss is noticed")
        await self.settle(store)
        made += await fill(store, 9, "after")
        await self.assert_holds(await self.open(await self.crash([2])), made)

    async def test_all_copies_fail(self) -> None:
        """No drive takes the log: writes fail clearly, reads go on, and later all is well."""
        store = await self.open()
        made = await fill(store)
        fault = self.files.fail(self.machine.root, errno.ENOSPC, operations=["write", "create"])
        for _ in range(3):
            with self.assertRaises(MetadataUnavailable) as caught:
                await store.add(draft("n0", "refused"))
            self.assertIn("Free space", caught.exception.detail)
        await self.assert_holds(store, made)
        fault.lift()
        made.append(await store.add(draft("n0", "taken")))
        await self.assert_holds(store, made)
        await self.assert_holds(await self.open(await self.crash()), made)

    async def test_rolled_back_batch_never_comes_alive(self) -> None:
        """What was written whole but not synced, and refused, stays dead when its number lives."""
        for again in (True, False):
            files = FaultyFiles()
            machine = self.own(Machine(self.folder(), files))
            store = await machine.open()
            made = await fill(store)
            fault = files.fail(machine.root, errno.EIO, operations=["sync"])
            with self.assertRaises(MetadataUnavailable):
                await store.add(draft("n0", "refused"))
            fault.lift()
            if again:
                made.append(await store.add(draft("n0", "taken")))
            for kept in ([1], [2], [3], [1, 2, 3], [*machine.numbers]):
                crashed = self.own(machine.image(self.folder(), kept))
                if not again:
                    # Only the database knows: no drive took a new segment before the crash.
                    machine.copy_database(crashed)
                found = await self.open(crashed)
                await self.assert_holds(found, made)
            await store.close()

    async def test_failed_commit_of_the_database_voids_the_log(self) -> None:
        """A batch that is in the log, but not in the database, was refused: it stays dead."""
        store = await self.open()
        made = await fill(store)
        blocker = sqlite3.connect(self.machine.database, isolation_level=None)
        page_count = blocker.execute("PRAGMA page_count").fetchone()[0]
        blocker.close()
        writer = store._writer._database
        assert writer is not None
        writer.connection.execute(f"PRAGMA max_page_count = {page_count}")
        refused = 0
        for turn in range(50):
            try:
                made.append(await store.add(draft("n1", str(turn), meta={"k": "v" * 50_000})))
            except MetadataUnavailable as error:
                self.assertIn("Free space", error.detail)
                refused += 1
        self.assertGreater(refused, 0)
        # Once for as many as were refused in a row.
        self.assertLessEqual(self.told("takes no writes: database or disk is full"), refused)
        said = self.told("takes no writes: database or disk is full")
        self.assertGreater(said, 0)
        for _ in range(3):
            with self.assertRaises(MetadataUnavailable):
                await store.add(draft("n1", "x", meta={"k": "v" * 500_000}))
        self.assertLessEqual(self.told("takes no writes: database or disk is full"), said + 1)
        writer.connection.execute("PRAGMA max_page_count = 1000000")
        made.append(await store.add(draft("n1", "taken")))
        await self.assert_holds(store, made)
        await self.assert_holds(await self.open(await self.crash()), made)
        # Segments that hold nothing are not left behind.
        self.assertLess(len(self.machine.segments(1)), 10)

    async def test_newer_terms_on_a_drive_that_comes_late(self) -> None:
        """The history of a run that this one did not know of is left out, not mixed in."""
        other = self.own(Machine(self.folder(), Files()))
        for _ in range(9):
            strange = await other.open()
            await strange.add(draft("strange"))
            await strange.close()
        self.machine = self.own(Machine(self.folder(), self.files, drives=3))
        self.machine.away = {3}
        store = await self.open()
        made = await fill(store)
        shutil.copytree(other.meta(1), self.machine.meta(3))
        self.machine.away = set()
        store.drive_joined("drive-3")
        await self.settle(store)
        made += await fill(store, 9, "after")
        await self.assert_holds(await self.open(await self.crash([1, 2, 3])), made)


async def machine_store(case: RecoveryCase, machine: Machine, kept: list[int]) -> SqliteMetadata:
    """The store that a crash leaves on the ``kept`` drives of a machine."""
    return await case.open(case.own(machine.image(case.folder(), kept)))


class SnapshotTests(RecoveryCase):
    """Snapshots, and the cut of the log."""

    async def test_log_is_cut_at_snapshots(self) -> None:
        """The log stays bounded: older segments and snapshots go once the new one is durable."""
        store = await self.open(limits=EAGER)
        made = []
        for turn in range(20):
            made += await fill(store, 150, str(turn))
            await pause()
        await self.until(
            lambda: all(
                len(self.machine.snapshots(n)) == 1 and len(self.machine.segments(n)) <= 2
                for n in (1, 2, 3)
            ),
            "a cut",
        )
        term = int(self.machine.segments(1)[0].rpartition(".")[2])
        self.assertGreater(term, 2)
        await self.assert_holds(await self.open(await self.crash()), made)

    async def test_writes_go_on_while_a_snapshot_is_made(self) -> None:
        """A snapshot that hangs on a drive holds no write up, and the log is not cut before."""
        store = await self.open(limits=EAGER)
        made = await fill(store, 60)
        slow = self.files.hang(f"{self.machine.database}.snapshot")
        made += await fill(store, 600, "trigger")
        await self.until(slow.hanging.is_set, "a snapshot begins")
        made += await fill(store, 90, "meanwhile")
        self.assertFalse(self.machine.snapshots(1))
        self.assertEqual(os.path.basename(self.machine.segments(1)[0]), "log.1")
        slow.lift()
        await self.until(lambda: self.machine.snapshots(1), "the snapshot")
        await self.assert_holds(await self.open(await self.crash()), made)

    async def test_failed_snapshot_leaves_the_log(self) -> None:
        """A snapshot that cannot be put on a drive costs nothing but that drive's place."""
        store = await self.open(limits=EAGER)
        self.files.fail(
            self.machine.drive(1), errno.EIO, operations=["rename"], containing="snapshot"
        )
        made: list[Version] = []
        for turn in range(10):
            made += await fill(store, 150, str(turn))
            await pause()
        await self.until(lambda: self.machine.snapshots(4), "a spare with a snapshot")
        await self.assert_holds(await self.open(await self.crash([4])), made)

    async def test_snapshot_that_cannot_be_begun_is_tried_again(self) -> None:
        """Without room for the copy beside the database the log grows, until there is room."""
        store = await self.open(limits=EAGER)
        fault = self.files.fail(f"{self.machine.database}.snapshot", errno.ENOSPC)
        made = await fill(store, 600)
        await self.until(lambda: fault.met, "a failure")
        made += await fill(store, 600, "meanwhile")
        self.assertFalse(self.machine.snapshots(1))
        fault.lift()
        self.machine.clock.advance(10)
        await self.until(lambda: self.machine.snapshots(1), "the snapshot")
        self.assertEqual(self.told("could not be taken: [Errno 28] No space left"), 1)
        await self.assert_holds(await self.open(await self.crash()), made)

    async def test_stop_in_order_saves_a_small_database(self) -> None:
        """A stop leaves a snapshot instead of a log that is long beside the database."""
        store = await self.machine.open()
        made = await fill(store, 3000)
        await store.close()
        self.assertEqual(len(self.machine.snapshots(1)), 1)
        (segment,) = self.machine.segments(1)
        self.assertEqual(os.path.getsize(segment), HEADER_BYTES)
        self.files.calls.clear()
        store = await self.open()
        self.assertIsNone(store.degraded)
        reads = [path for call, path in self.files.calls if call == "pread"]
        self.assertEqual(len(reads), len(set(reads)))
        await self.assert_holds(store, made)
        await self.assert_holds(await self.open(await self.crash([2])), made)

    async def test_crash_in_the_middle_of_a_snapshot(self) -> None:
        """A snapshot that was not finished is removed by the next start."""
        store = await self.open(limits=EAGER)
        made = await fill(store, 60)
        slow = self.files.hang(self.machine.drive(2), operations=["rename"], containing="snapshot")
        made += await fill(store, 600, "trigger")
        await self.until(slow.hanging.is_set, "a rename hangs")
        (unfinished,) = {n for n in os.listdir(self.machine.meta(2)) if n.endswith(".new")}
        crashed = await self.crash()
        slow.lift()
        self.assertTrue(os.path.exists(os.path.join(crashed.meta(2), unfinished)))
        again = await self.open(crashed)
        await self.assert_holds(again, made)
        await self.settle(again)
        for number in crashed.numbers:
            self.assertNotIn(unfinished, os.listdir(crashed.meta(number)))

    async def test_damage_found_by_a_snapshot(self) -> None:
        """A damaged database is rebuilt, not copied over the sound snapshot."""
        store = await self.machine.open()
        made = await fill(store, 2000)
        await store.close()
        limits = evolve(EAGER, snapshot_bytes=1 << 40)
        store = await self.open(limits=limits)
        # An index that has lost a page is nothing that a listing meets.
        database = sqlite3.connect(self.machine.database, isolation_level=None)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'versions_by_hash'"
        ).fetchone()[0]
        database.close()
        with open(self.machine.database, "r+b") as file:
            file.seek((root - 1) * 4096)
            file.write(bytes(4096))
        store._writer._snapshot_wanted = True
        made.append(await store.add(draft("more")))
        await self.until(lambda: os.path.exists(self.machine.database + ".damaged"), "a rebuild")
        await self.until(lambda: self.machine.snapshots(1), "a sound snapshot")
        await self.settle(store)
        hashes = [version.content.hash for version in made if version.content]
        self.assertEqual(await store.referenced(hashes), set(hashes))
        await self.assert_holds(store, made)
        self.assertGreaterEqual(self.told("malformed"), 1)


class CrashTests(RecoveryCase):
    """Crashes at random moments."""

    async def test_crashes_at_random_moments(self) -> None:
        """Whenever the process dies, with any m drives and the database, nothing acknowledged is
        lost, doubled or changed, and what was refused is not there.
        """
        seed = random.randrange(1 << 32)
        rng = random.Random(seed)
        try:
            for _ in range(4):
                await self._crashes(rng)
        except self.failureException as error:
            raise self.failureException(f"seed {seed}: {error}") from error

    async def _crashes(self, rng: random.Random) -> None:
        files = FaultyFiles()
        machine = self.own(Machine(self.folder(), files))
        limits = evolve(EAGER, batch_versions=rng.choice([2, 5, 50]))
        store = await machine.open(limits)
        asked: dict[tuple[str, int], Version] = {}
        done = False

        async def writer(index: int) -> None:
            while not done:
                name = f"n{rng.randrange(20)}"
                new = tombstone(name) if rng.random() < 0.2 else draft(name, f"{rng.random()}")
                version = await store.add(new)
                assert (version.name, version.number) not in asked
                asked[version.name, version.number] = version
                if rng.random() < 0.1:
                    await pause(rng.random() * 0.003)

        writers = together(writer(index) for index in range(8))
        failing = rng.choice(list(machine.numbers))
        for turn in range(6):
            if turn == 3:
                # From now on this drive is one of those that are lost.
                error = rng.choice([errno.EIO, errno.ENOSPC, errno.EROFS])
                operation = rng.choice(["write", "sync", "rename", "create"])
                files.fail(machine.drive(failing), error, operations=[operation], torn_bytes=9)
            store._writer._snapshot_wanted = rng.random() < 0.5
            await pause(rng.random() * 0.05)
            freeze = files.hang(machine.root)
            acknowledged = dict(asked)
            crashed = self.own(machine.image(self.folder()))
            freeze.lift()
            lost = set(rng.sample(list(machine.numbers), COPIES - 1))
            if turn >= 3 and failing not in lost:
                lost.pop()
                lost.add(failing)
            for number in lost:
                crashed.empty_drive(number)
            await self._assert_after_crash(crashed, acknowledged)
        done = True
        await writers
        await store.close()
        store = await machine.open()
        await self.assert_holds(store, asked.values())
        await store.close()

    async def _assert_after_crash(
        self, crashed: Machine, acknowledged: dict[tuple[str, int], Version]
    ) -> None:
        again = await crashed.open()
        found = {(v.name, v.number): v for v in await all_versions(again, "", 1000)}
        for key, version in acknowledged.items():
            self.assertEqual(found.get(key), version)
        newest: dict[str, int] = {}
        for name, number in sorted(found):
            self.assertEqual(number, newest.get(name, 0) + 1)
            newest[name] = number
        await again.close()


class OneDriveTests(AsyncTestCase):
    """The smallest store."""

    async def test_one_drive(self) -> None:
        """A store of one drive and one copy works, restarts, and is rebuilt from its log."""
        machine = Machine(os.path.abspath(self.mktemp()), Files(), drives=1)
        self.addCleanup(machine.stop)
        store = await machine.open(copies=1)
        made = [await store.add(draft("a")), await store.add(tombstone("a"))]
        self.assertIsNone(store.degraded)
        await store.close()
        machine.remove_database()
        store = await machine.open(copies=1)
        self.addCleanup(store.close)
        self.assertEqual(list(await store.history("a", 1, 9)), made)
