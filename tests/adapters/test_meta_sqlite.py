"""The metadata store of one machine: the contract, its memory, its queries, its stop."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import AFTER_S, MetadataLimits, SqliteMetadata
from dostore.adapters.metadata_database import Database
from dostore.core.model import Version
from dostore.errors import ConfigError, MetadataUnavailable, NotFound
from tests.contract.metadata import (
    MetadataContract,
    add_all,
    all_versions,
    content,
    draft,
    together,
    tombstone,
)
from tests.support.cases import AsyncTestCase, SyncTestCase
from tests.support.metadata import STORE_ID, Machine


class SqliteContractTests(MetadataContract, AsyncTestCase):
    """The promises of the port."""

    async def make_store(self) -> SqliteMetadata:
        """See MetadataContract."""
        machine = Machine(os.path.abspath(self.mktemp()), Files())
        store = await machine.open()
        self.addCleanup(machine.stop)
        self.addCleanup(store.close)
        return store


class SqliteCase(AsyncTestCase):
    """A machine, and its store."""

    def setUp(self) -> None:
        """Make the machine."""
        super().setUp()
        self.machine = Machine(os.path.abspath(self.mktemp()), Files())
        self.addCleanup(self.machine.stop)

    async def open(self, limits: MetadataLimits | None = None) -> SqliteMetadata:
        """A store, closed at the end."""
        store = await self.machine.open(limits)
        self.addCleanup(store.close)
        return store


class _SlowReads:
    """Reads that find what is there at once, and tell it when they are let."""

    def __init__(self) -> None:
        self.held: list[tuple[Deferred[None], object]] = []

    async def run(self, function: Callable[..., Any], *args: object) -> Any:
        """See IWorkers."""
        found = function(*args)
        waiter: Deferred[None] = Deferred()
        self.held.append((waiter, found))
        await waiter
        return found

    def let(self) -> None:
        """Let the read that waits longest go on."""
        self.held.pop(0)[0].callback(None)

    def stop(self, timeout: float = 0.0) -> bool:
        """See Workers."""
        return True


class MemoryTests(SqliteCase):
    """The newest versions that are kept in memory."""

    async def slow(self, cached: int = 10_000) -> tuple[SqliteMetadata, _SlowReads]:
        """A store with three versions whose reads are held back, and whose memory is empty."""
        store = await self.machine.open()
        await add_all(store, [draft("a"), draft("b"), draft("c")])
        await store.close()
        store = await self.open(MetadataLimits(cached_versions=cached))
        reads = _SlowReads()
        store._threads.reading.stop()
        store._threads.reading = reads  # type: ignore[assignment]
        return store, reads

    async def test_hot_name_needs_no_thread(self) -> None:
        """The second read of a name, and the first after a write, ask no thread."""
        store, reads = await self.slow()
        first = Deferred.fromCoroutine(store.latest("a"))
        reads.let()
        found = await first
        self.assertEqual(await store.latest("a"), found)
        added = await store.add(draft("b", "new"))
        self.assertEqual(await store.latest("b"), added)
        self.assertEqual(reads.held, [])

    async def test_writes_are_told_before_they_are_made_and_before_anybody_knows(self) -> None:
        """Who watches hears of each batch when it begins, and when it is made, or refused."""
        store = await self.open()
        told: list[str] = []

        def begin(names: Sequence[str]) -> Callable[[], None]:
            told.append(f"begin {' '.join(sorted(names))}")
            return lambda: told.append("end")

        def refuse(current: Version | None) -> None:
            raise NotFound("There is no such object.")

        store.watch_writes(begin)
        await store.add(draft("a"))
        told.append("known")
        with self.assertRaises(NotFound):
            await store.add(draft("b"), refuse)
        told.append("known")
        self.assertEqual(told, ["begin a", "end", "known", "begin b", "end", "known"])

    async def test_slow_read_does_not_undo_a_write(self) -> None:
        """A read that began before a write and ends after it leaves the write in memory."""
        store, reads = await self.slow()
        old = Deferred.fromCoroutine(store.latest("a"))
        added = await store.add(draft("a", "new"))
        reads.let()
        found = await old
        assert found is not None
        self.assertEqual(found.number, 1)
        self.assertEqual(await store.latest("a"), added)

    async def test_slow_read_does_not_come_back_when_the_write_was_forgotten(self) -> None:
        """The same, when the write has left memory already: the next read asks the database."""
        store, reads = await self.slow(cached=1)
        old = Deferred.fromCoroutine(store.latest("a"))
        added = await store.add(draft("a", "new"))
        await store.add(draft("b", "new"))
        during = Deferred.fromCoroutine(store.latest("a"))
        reads.let()
        await old
        later = Deferred.fromCoroutine(store.latest("a"))
        reads.let()
        self.assertEqual(await during, added)
        if reads.held:
            reads.let()
        self.assertEqual(await later, added)
        self.assertEqual(await store.latest("a"), added)

    async def test_cancelled_and_failed_reads_leave_no_trace(self) -> None:
        """A read that did not end well is not waited for, and nothing is kept of it."""
        store, reads = await self.slow()
        waiting = Deferred.fromCoroutine(store.latest("a"))
        waiting.cancel()
        self.failureResultOf(waiting)
        self.assertEqual(store._latest._reads, {})
        again = Deferred.fromCoroutine(store.latest("nobody"))
        reads.held.pop(0)
        reads.let()
        self.assertIsNone(await again)
        self.assertEqual(store._latest._reads, {})

    async def test_memory_is_bounded(self) -> None:
        """No more versions than the limit are kept, and none with long keys."""
        store = await self.open(MetadataLimits(cached_versions=10))
        await add_all(store, [draft(f"n{i}") for i in range(50)])
        self.assertEqual(len(store._latest._versions), 10)
        for _ in range(3):
            await store.add(draft("n49"))
        self.assertEqual(len(store._latest._versions), 10)
        await store.add(draft("n" * 1000))
        await store.add(draft("short", meta={"k": "v" * 150}))
        self.assertEqual(list(store._latest._versions), ["n" * 1000, "short"])
        await add_all(store, [draft(f"n{i}") for i in range(49)])
        self.assertEqual(len(store._latest._versions), 10)
        await store.add(draft("n49", meta={"k": "v" * 5000}))
        self.assertNotIn("n49", store._latest._versions)
        latest = await store.latest("n49")
        assert latest is not None
        self.assertEqual(latest.number, 5)

    async def test_reads_are_never_older_than_what_was_acknowledged(self) -> None:
        """Many readers and writers and a memory of three names: no read goes back in time."""
        store = await self.open(MetadataLimits(cached_versions=3, batch_versions=3))
        rng = random.Random(11)
        acknowledged = dict.fromkeys("abcdef", 0)

        async def write() -> None:
            for _ in range(60):
                name = rng.choice("abcdef")
                version = await store.add(draft(name) if rng.random() < 0.8 else tombstone(name))
                acknowledged[name] = max(acknowledged[name], version.number)

        async def read() -> None:
            for _ in range(200):
                name = rng.choice("abcdef")
                least = acknowledged[name]
                latest = await store.latest(name)
                self.assertGreaterEqual(latest.number if latest else 0, least)

        await together([*(write() for _ in range(6)), *(read() for _ in range(12))])


class QueryPlanTests(SyncTestCase):
    """No listing scans or sorts."""

    def setUp(self) -> None:
        """Make a database."""
        super().setUp()
        path = os.path.abspath(self.mktemp())
        Database.create(path, STORE_ID, 0)
        self.database = Database(path, cache_kib=1024, writes=True)
        self.addCleanup(self.database.close)

    def plan(self, query: Callable[[], object]) -> list[str]:
        """How SQLite goes about the one statement of a query."""
        statements: list[str] = []
        self.database.connection.set_trace_callback(statements.append)
        query()
        self.database.connection.set_trace_callback(None)
        (statement,) = statements
        rows = self.database.connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        return [row[3] for row in rows]

    def test_plans(self) -> None:
        """Each query is a search by key, in the order of the key."""
        queries: dict[str, Callable[[], object]] = {
            "latest": lambda: self.database.latest("a"),
            "get": lambda: self.database.get("a", 1),
            "history": lambda: self.database.history("a", 1, 10),
            "current": lambda: self.database.current("a", "a", 10),
            "current of all": lambda: self.database.current("", "", 10),
            "versions": lambda: self.database.versions("a", "a", 2, 10),
            "versions of all": lambda: self.database.versions("", "a", 2, 10),
            "referenced": lambda: self.database.referenced([content("a").hash]),
            "newest": lambda: self.database.newest(["a", "b"]),
        }
        for what, query in queries.items():
            steps = self.plan(query)
            self.assertFalse([s for s in steps if "TEMP B-TREE" in s], (what, steps))
            tables = [s for s in steps if s.startswith("SCAN") and "asked" not in s]
            self.assertFalse([s for s in tables if "CONSTANT" not in s], (what, steps))
        self.assertIn("name>? AND name<?", " ".join(self.plan(queries["current"])))
        self.assertIn("versions_by_hash (hash=?)", " ".join(self.plan(queries["referenced"])))

    def test_a_page_costs_what_it_gives(self) -> None:
        """A page reads as much after a thousand tombstones and versions as without them."""

        def steps(query: Callable[[], object]) -> int:
            count = 0

            def step() -> None:
                nonlocal count
                count += 1

            self.database.connection.set_progress_handler(step, 10)
            query()
            self.database.connection.set_progress_handler(None, 10)
            return count

        self.database.insert([draft(name).numbered(1) for name in ("a", "y", "z")])
        before = steps(lambda: self.database.current("", "", 3))
        self.database.begin()
        for i in range(1000):
            self.database.insert([draft("y").numbered(i + 2), draft(f"b{i}").numbered(1)])
            self.database.insert([tombstone(f"b{i}").numbered(2)])
        self.database.commit()
        self.assertEqual([v.number for v in self.database.current("", "", 3)], [1, 1001, 1])
        # Counted in tens of steps, which do not end with the query.
        self.assertLessEqual(steps(lambda: self.database.current("", "", 3)), before + 1)


class StopTests(SqliteCase):
    """The end of a store."""

    async def test_close_finishes_what_waits(self) -> None:
        """Additions that were begun before the close are made; later ones are refused."""
        store = await self.machine.open(MetadataLimits(batch_versions=7))
        adding = [Deferred.fromCoroutine(store.add(draft("a", str(i)))) for i in range(100)]
        await store.close()
        numbers = [self.successResultOf(each).number for each in adding]
        self.assertEqual(numbers, list(range(1, 101)))
        for call in (store.add(draft("a")), store.latest("a"), store.ping(), store.created()):
            with self.assertRaises(MetadataUnavailable):
                await call
        await store.close()
        again = await self.open()
        self.assertEqual(len(await again.history("a", 1, 1000)), 100)

    async def test_close_leaves_one_file(self) -> None:
        """After a stop in order the database is one file, with nothing beside it."""
        store = await self.machine.open()
        await add_all(store, [draft(f"n{i}") for i in range(100)])
        await store.close()
        names = [name for name in os.listdir(self.machine.root) if not name.isdecimal()]
        self.assertEqual(names, ["metadata.sqlite"])
        self.assertFalse(self.machine.clock.getDelayedCalls())

    async def test_open_that_fails_leaves_nothing_running(self) -> None:
        """A database whose folder is missing is a clear error, and no call is left behind."""
        with self.assertRaises(MetadataUnavailable):
            await self.machine.open(database=os.path.join(self.machine.root, "no", "database"))
        self.assertFalse(self.machine.clock.getDelayedCalls())
        os.makedirs(os.path.join(self.machine.root, "folder"))
        with self.assertRaises(ConfigError):
            await self.machine.open(database=os.path.join(self.machine.root, "folder"))

    async def test_bug_in_a_check_stops_nothing(self) -> None:
        """A check that raises what it must not fails its batch; the store goes on."""
        store = await self.open()

        def broken(_: Version | None) -> None:
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            await store.add(draft("a"), broken)
        self.assertEqual((await store.add(draft("a"))).number, 1)

    async def test_database_that_hangs(self) -> None:
        """Who asks a database that does not answer is told so in bounded time; a version that was
        begun may be made yet, and one that was not is not made."""
        store = await self.open()
        free = threading.Event()
        self.addCleanup(free.set)
        threads = store._threads
        for workers, count in ((threads.writing, 1), (threads.reading, 2)):
            for _ in range(count):
                workers.submit(free.wait, 60.0)
        asked = [Deferred.fromCoroutine(store.get("a", 1)), Deferred.fromCoroutine(store.ping())]
        begun = Deferred.fromCoroutine(store.add(draft("begun")))
        waits = Deferred.fromCoroutine(store.add(draft("waits")))
        limits = MetadataLimits()
        self.machine.clock.advance(limits.answer_timeout_s)
        for each in asked:
            self.failureResultOf(each, MetadataUnavailable)
        self.machine.clock.advance(limits.queue_timeout_s - limits.answer_timeout_s)
        self.failureResultOf(waits, MetadataUnavailable)
        self.assertNoResult(begun)
        free.set()
        self.assertEqual((await begun).number, 1)
        self.assertIsNone(await store.latest("waits"))
        self.assertEqual((await store.add(draft("waits"))).number, 1)

    async def test_after_batch(self) -> None:
        """Who asks is called when the versions that are being made are, and not when none are."""
        store = await self.open()
        called: list[bool] = []
        self.assertFalse(store.after_batch(lambda: called.append(True)))
        adding = Deferred.fromCoroutine(store.add(draft("a")))
        self.assertTrue(store.after_batch(lambda: called.append(adding.called)))
        self.assertTrue(store.after_batch(lambda: called.append(adding.called)))
        await adding
        for _ in range(3):
            await store.ping()
        self.assertEqual(called, [True, True])
        self.assertFalse(store.after_batch(lambda: called.append(True)))

    async def test_after_a_batch_that_hangs(self) -> None:
        """Who waits for versions that are not made in time goes on without them."""
        store = await self.open()
        free = threading.Event()
        self.addCleanup(free.set)
        store._threads.writing.submit(free.wait, 60.0)
        adding = Deferred.fromCoroutine(store.add(draft("a")))
        called: list[bool] = []
        store.after_batch(lambda: called.append(adding.called))
        self.machine.clock.advance(AFTER_S)
        self.assertEqual(called, [False])
        free.set()
        self.assertEqual((await adding).number, 1)
        self.assertEqual(called, [False])

    async def test_locked_database(self) -> None:
        """A lock that another program holds on the database is a retryable error."""
        store = await self.open()
        lines = self.logged()
        await store.add(draft("a"))
        writer = store._writer._database
        assert writer is not None
        writer.connection.execute("PRAGMA busy_timeout = 50")
        other = sqlite3.connect(self.machine.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with self.assertRaises(MetadataUnavailable) as caught:
            await store.add(draft("a"))
        self.assertTrue(caught.exception.retryable)
        other.execute("ROLLBACK")
        other.close()
        self.assertEqual((await store.add(draft("a"))).number, 2)
        (line,) = lines
        self.assertIn("takes no writes: database is locked", line)

    async def test_large_store_stays_small_in_memory_and_on_disk(self) -> None:
        """Old log is cut as the store grows: what is on a drive stays near the database's size."""
        limits = evolve(MetadataLimits(), snapshot_bytes=100_000, cheap_bytes=0)
        store = await self.machine.open(limits)
        for turn in range(10):
            await add_all(store, [draft(f"{turn}/{i}") for i in range(1000)])
        await store.close()
        size = os.path.getsize(self.machine.database)
        for number in (1, 2, 3):
            meta = self.machine.meta(number)
            used = sum(os.path.getsize(os.path.join(meta, name)) for name in os.listdir(meta))
            self.assertLess(used, 3 * size)
        store = await self.open()
        self.assertEqual(len(await all_versions(store, "", 1000)), 10_000)
