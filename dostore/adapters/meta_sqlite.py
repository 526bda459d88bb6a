"""Metadata on SQLite, with its log on several drives: the store of one machine.

This is the reactor's side: it queues writes for the writer's thread, keeps the newest versions of
hot names in memory, and hands reads to threads of their own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.adapters.files import Files
from dostore.adapters.metadata_database import Database
from dostore.adapters.metadata_drives import LogPlace
from dostore.adapters.metadata_writer import (
    Addition,
    DatabaseDamaged,
    MetadataLimits,
    MetadataWriter,
)
from dostore.core.model import Draft, Version
from dostore.core.names import ContentHash
from dostore.errors import DostoreError, InvalidName, MetadataUnavailable
from dostore.fanout import with_timeout
from dostore.ports import Check, IMetadataStore
from dostore.threads import Mailbox, Workers

T = TypeVar("T")

__all__ = ["LogPlace", "MetadataLimits", "SqliteMetadata"]

log = Logger()

#: Versions whose own keys are longer than this, in characters, are not kept in memory.
_CACHED_META_CHARACTERS = 1024

#: So many of its name and its keys make a version count for one more.
_CHARACTERS_PER_VERSION = 128

_READ_THREADS = 2

#: Who waits for a batch to end before he goes on with other work waits no longer than this.
AFTER_S = 0.05

_HANGS = "The metadata database does not answer. Its drive may hang; try again later."


def _weight(version: Version) -> int:
    """For how many versions of usual size, about 700 bytes of memory, one counts."""
    return 1 + (len(version.name) + version.meta_characters) // _CHARACTERS_PER_VERSION


class _Latest:
    """The newest versions of the names that were used last. Used in the reactor's thread only.

    :param size: how many of usual size are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._weight = 0
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._reads: dict[str, _Read] = {}

    def get(self, name: str) -> Version | None:
        """The version, if it is here."""
        version = self._versions.get(name)
        if version is not None:
            self._versions.move_to_end(name)
        return version

    def wrote(self, version: Version) -> None:
        """Keep a version that was committed; reads that began before it count no more."""
        if (read := self._reads.pop(version.name, None)) is not None:
            read.stale = True
        self._put(version)

    def begin_read(self, name: str) -> _Read:
        """A read of the database begins."""
        read = self._reads.get(name)
        if read is None:
            read = self._reads[name] = _Read()
        read.readers += 1
        return read

    def end_read(self, name: str, read: _Read, version: Version | None) -> None:
        """A read ended; keep what it found unless a write came between."""
        read.readers -= 1
        if read.stale:
            return
        if read.readers == 0:
            del self._reads[name]
        if version is not None:
            self._put(version)

    def _put(self, version: Version) -> None:
        before = self._versions.pop(version.name, None)
        if before is not None:
            self._weight -= _weight(before)
        if version.meta_characters > _CACHED_META_CHARACTERS:
            return
        self._versions[version.name] = version
        self._weight += _weight(version)
        while self._weight > self._size:
            _, oldest = self._versions.popitem(last=False)
            self._weight -= _weight(oldest)


class _Read:
    """Reads of one name under way since the last write of it."""

    def __init__(self) -> None:
        self.readers = 0
        self.stale = False


@implementer(IMetadataStore)
class SqliteMetadata:
    """Versions of objects in an SQLite database; made by :meth:`open`.

    :ivar fresh: nothing of this store was found, and it was made empty: shards that are there
        belong to metadata that is lost, so nothing may be collected on its word.
    """

    fresh = False

    def __init__(
        self,
        writer: MetadataWriter,
        threads: _Threads,
        clock: IReactorTime,
        limits: MetadataLimits,
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._writer = writer
        self._threads = threads
        self._clock = clock
        self._limits = limits
        self._soon = soon
        self._latest = _Latest(limits.cached_versions)
        self._waiting: deque[Addition] = deque()
        self._busy = False
        self._idle: list[Deferred[None]] = []
        self._closed = False
        self._tick: IDelayedCall | None = None
        self._late: IDelayedCall | None = None
        self._after: list[Callable[[], None]] = []
        self._after_timer: IDelayedCall | None = None
        self._watching: Callable[[Sequence[str]], Callable[[], None]] | None = None
        self._told: Callable[[], None] | None = None

    @classmethod
    async def open(
        cls,
        *,
        path: str,
        store_id: str,
        places: Sequence[LogPlace],
        copies: int,
        files: Files,
        mailbox: Mailbox,
        clock: IReactorTime,
        limits: MetadataLimits | None = None,
        soon: Callable[[Callable[[], None]], object] = lambda call: call(),
    ) -> SqliteMetadata:
        """Open the store, or make it, or rebuild it from its log.

        :param path: of the database file; its folder exists.
        :param store_id: the store's uuid.
        :param places: the drives that may keep the log.
        :param copies: on how many of them it is kept.
        :param soon: calls at the end of the reactor's turn, so that what comes together is written
            together.
        :raises ConfigError: a newer release wrote it, or the database is damaged and there is
            nothing to rebuild it from.
        :raises MetadataUnavailable: it cannot be read or written, or so many drives are away that
            they may hold all that there is.
        """
        limits = limits or MetadataLimits()
        threads = _Threads(mailbox)
        writer = MetadataWriter(
            path,
            store_id,
            places,
            copies,
            files,
            limits,
            clock.seconds,
            threads.upkeep,
            threads.writing,
        )
        store = cls(writer, threads, clock, limits, soon)
        opened = False
        try:
            recovered = await threads.writing.run(writer.open)
            opened = True
        finally:
            if not opened:
                threads.stop()
        store.fresh = recovered.fresh
        store._care()
        store._schedule()
        return store

    @property
    def degraded(self) -> str | None:
        """What the log's redundancy lacks, as a sentence; None when nothing."""
        return self._writer.degraded

    def drive_joined(self, address: str) -> None:
        """Tell that a drive is back, so that it is used at once if it is needed."""
        if not self._closed:
            self._threads.writing.submit(self._writer.care, True, address)

    async def close(self) -> None:
        """Finish what waits, leave the database for a quick start, stop the threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._tick is not None:
            self._tick.cancel()
        if self._busy or self._waiting:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        self._call_after()
        if self._late is not None:
            self._late.cancel()
        await self._threads.writing.run(self._writer.stop_upkeep)
        # Two rounds: what upkeep hands to the writer's thread may hand something back.
        for _ in range(2):
            await self._threads.upkeep.run(_nothing)
            await self._threads.writing.run(_nothing)
        await self._threads.writing.run(self._writer.close)
        self._threads.stop()

    def watch_writes(self, begin: Callable[[Sequence[str]], Callable[[], None]]) -> None:
        """Have ``begin(names)`` called before versions of these names are made, and what it returns
        when they are made, or not, before anybody is told.
        """
        self._watching = begin

    def after_batch(self, call: Callable[[], None]) -> bool:
        """Have a function called when the versions that are being made are, and their waiters know,
        or when that takes too long; False, and it is not called, when none are.
        """
        if not self._busy:
            return False
        self._after.append(call)
        if self._after_timer is None:
            self._after_timer = self._clock.callLater(AFTER_S, self._call_after)
        return True

    def _call_after(self) -> None:
        timer, self._after_timer = self._after_timer, None
        if timer is not None and timer.active():
            timer.cancel()
        calls, self._after = self._after, []
        for call in calls:
            call()

    # IMetadataStore

    async def add(self, draft: Draft, check: Check | None = None) -> Version:
        """See IMetadataStore.

        :raises InvalidName: the name has no UTF-8 form.
        :raises TooLarge: the version has more than a mebibyte of metadata.
        """
        self._usable(draft.name)
        waiter: Deferred[Version] = Deferred()
        self._waiting.append(Addition(draft, check, waiter, self._clock.seconds()))
        if self._busy:
            self._watch_queue()
        elif len(self._waiting) == 1:
            self._soon(self._start_batch)
        return await waiter

    async def latest(self, name: str) -> Version | None:
        """See IMetadataStore."""
        self._usable(name)
        if (cached := self._latest.get(name)) is not None:
            return cached
        read = self._latest.begin_read(name)
        version: Version | None = None
        try:
            version = await self._read(lambda database: database.latest(name))
        finally:
            self._latest.end_read(name, read, version)
        return version

    async def get(self, name: str, number: int) -> Version | None:
        """See IMetadataStore."""
        self._usable(name)
        return await self._read(lambda database: database.get(name, number))

    async def history(self, name: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        self._usable(name)
        return await self._read(lambda database: database.history(name, first, limit))

    async def current(self, prefix: str, start: str, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        self._usable(prefix, start)
        return await self._read(lambda database: database.current(prefix, start, limit))

    async def versions(self, prefix: str, start: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        self._usable(prefix, start)
        return await self._read(lambda database: database.versions(prefix, start, first, limit))

    async def referenced(self, hashes: Collection[ContentHash]) -> set[ContentHash]:
        """See IMetadataStore."""
        self._usable()
        return await self._read(lambda database: database.referenced(hashes))

    async def created(self) -> float:
        """See IMetadataStore."""
        self._usable()
        return self._writer.created_s

    async def ping(self) -> None:
        """See IMetadataStore."""
        self._usable()
        await self._answered(self._threads.writing.run(self._writer.ping))

    # Within

    def _usable(self, *names: str) -> None:
        if self._closed:
            raise MetadataUnavailable("The metadata store is closed; the server is stopping.")
        for name in names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise InvalidName("The object name is not UTF-8.") from error

    async def _answered(self, answer: Coroutine[Any, Any, T]) -> T:
        return await with_timeout(
            answer, self._limits.answer_timeout_s, self._clock, lambda: MetadataUnavailable(_HANGS)
        )

    async def _read(self, query: Callable[[Database], T]) -> T:
        return await self._answered(self._query(query))

    async def _query(self, query: Callable[[Database], T]) -> T:
        try:
            return await self._threads.reading.run(self._writer.read, query)
        except DatabaseDamaged as damaged:
            await self._threads.writing.run(self._writer.rebuild, damaged.generation)
        return await self._threads.reading.run(self._writer.read, query)

    def _start_batch(self) -> None:
        """Hand what waits to the writer's thread, unless it is at work."""
        if self._busy:
            return
        batch = [
            self._waiting.popleft()
            for _ in range(min(len(self._waiting), self._limits.batch_versions))
        ]
        if batch:
            self._busy = True
            if self._watching is not None:
                self._told = self._watching([addition.draft.name for addition in batch])
            commit = self._threads.writing.run(self._writer.commit, batch)
            done = Deferred.fromCoroutine(commit)
            _ = done.addBoth(self._end_batch, batch)
            self._watch_queue()

    def _watch_queue(self) -> None:
        """Look at what waits when the first of it has waited for too long."""
        if self._waiting and self._late is None:
            limit_s = self._limits.queue_timeout_s
            left_s = self._waiting[0].since_s + limit_s - self._clock.seconds()
            self._late = self._clock.callLater(max(0.0, min(limit_s, left_s)), self._give_up)

    def _give_up(self) -> None:
        """Versions wait for a batch that hangs. What is in it may be made yet, and waits."""
        self._late = None
        before_s = self._clock.seconds() - self._limits.queue_timeout_s
        while self._waiting and self._waiting[0].since_s <= before_s:
            waiter = self._waiting.popleft().waiter
            if not waiter.called:
                waiter.errback(MetadataUnavailable(_HANGS))
        self._watch_queue()

    def _end_batch(
        self, outcomes: list[Version | DostoreError] | Failure, batch: list[Addition]
    ) -> None:
        """Wake everybody who waited for a batch, then start the next, with what they add."""
        self._busy = False
        each: list[Any] = [outcomes] * len(batch) if isinstance(outcomes, Failure) else [*outcomes]
        self._waiting.extendleft(reversed(batch[len(each) :]))
        # First all of memory, then the waiters: each sees all that was committed.
        for outcome in each:
            if isinstance(outcome, Version):
                self._latest.wrote(outcome)
        told, self._told = self._told, None
        if told is not None:
            told()
        for addition, outcome in zip(batch, each, strict=False):
            # One that was cancelled is made all the same, and nobody is told.
            if not addition.waiter.called:
                resolve = (
                    addition.waiter.callback
                    if isinstance(outcome, Version)
                    else addition.waiter.errback
                )
                resolve(outcome)
        self._care()
        self._start_batch()
        if self._after:
            self._call_after()
        if not self._busy:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _care(self) -> None:
        if self._writer.needs_care:
            self._threads.writing.submit(self._writer.care)

    def _schedule(self) -> None:
        self._tick = self._clock.callLater(self._limits.retry_s, self._retry)

    def _retry(self) -> None:
        self._threads.writing.submit(self._writer.care, True)
        self._schedule()


class _Threads:
    """The store's own threads."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.writing = Workers(mailbox, "metadata-write", 1)
        self.reading = Workers(mailbox, "metadata-read", _READ_THREADS)
        self.upkeep = Workers(mailbox, "metadata-upkeep", 1)

    def stop(self) -> None:
        """Let them end."""
        for workers in (self.writing, self.reading, self.upkeep):
            workers.stop()


def _nothing() -> None:
    """Run on a thread to wait until it has done what came before."""
