"""Shards on their way into a drive's ``objects/``: those that wait share a round of syncs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.adapters.drive_store import Block, DriveStore
from dostore.adapters.temp_shard import TempShard
from dostore.core.model import Content
from dostore.core.names import ContentHash, ShardName
from dostore.core.packed import is_plain
from dostore.core.shardlog import Kind
from dostore.core.volumelog import Entry
from dostore.errors import BadShard, NodeUnavailable
from dostore.threads import IWorkers, Together

_log = Logger()

#: At most this many commits share one round of syncs; more wait for the next.
BATCH = 64

#: The outcome of one that is in a volume.
PACKED = Kind.PACKED


class Waits(Protocol):
    """Who waits for shards."""

    def ended(self, index: int, error: Exception | None) -> None:
        """How one ended; told once, in the reactor's thread."""


@define(eq=False)
class Commit:
    """A shard on its way into ``objects/``.

    :ivar blocks: all of it, when there is no ``temp``.
    :ivar temp: where it was written; finished, maybe settled.
    :ivar waits: who is told the outcome; None: nobody waits any more.
    :ivar outcome: the shard's file, or PACKED; or why there is neither.
    """

    content: Content
    index: int
    blocks: Sequence[Block]
    temp: TempShard | None
    waits: Waits | None
    outcome: ShardName | Kind | Exception | None = None


class _Alone:
    """Who waits for one shard."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self.waiter: Deferred[None] = Deferred(self._cancel)
        commit.waits = self

    def _cancel(self, _: Deferred[None]) -> None:
        self._commit.waits = None

    def ended(self, index: int, error: Exception | None) -> None:
        """See Waits."""
        if error is None:
            self.waiter.callback(None)
        else:
            self.waiter.errback(error)


class Owner(Protocol):
    """What commits need to know of their drive's node."""

    address: str
    store: DriveStore
    workers: IWorkers

    def took(self, name: ShardName) -> None:
        """A shard is in ``objects/``, durably."""

    def took_packed(self, content_hash: ContentHash, index: int) -> None:
        """A shard is in a volume, durably."""

    def has(self, name: ShardName) -> bool:
        """Whether a shard was there before; asked in any thread."""

    def drop(self, temp: TempShard) -> None:
        """Remove a temporary shard; see DriveNode."""

    def translated(self, error: OSError, doing: str) -> Exception:
        """See DriveNode."""


class Commits:
    """Those of one drive.

    :ivar ended: how many have ended.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._queue: list[Commit] = []
        self._batch: list[Commit] = []
        self._running = False
        self.ended = 0

    def __len__(self) -> int:
        """How many are waited for."""
        return sum(1 for commit in (*self._queue, *self._batch) if commit.waits is not None)

    async def run(self, commit: Commit) -> None:
        """Begin a commit and wait for its outcome.

        :raises NodeUnavailable, NoSpace, ValueError: it is not there.
        """
        waiter = _Alone(commit).waiter
        self.begin(commit)
        await waiter

    def begin(self, commit: Commit) -> None:
        """Take a shard into ``objects/`` in the next round of syncs."""
        self.add(commit)
        self.start()

    @property
    def running(self) -> bool:
        """Whether a round is under way."""
        return self._running

    def add(self, commit: Commit) -> None:
        """The same, but :meth:`start` must follow, unless a round is under way."""
        self._queue.append(commit)

    def start(self, together: Together | None = None) -> None:
        """Begin a round, unless one is under way.

        :param together: tells how it ended, with rounds of other drives; it must be told of one.
        """
        if not self._running:
            self._running = True
            self._next(together)

    def give_up(self, error: NodeUnavailable) -> None:
        """Nobody waits any longer for a drive that may never answer."""
        waiting, self._queue = [*self._batch, *self._queue], []
        for commit in waiting:
            self._tell(commit, error)

    def _tell(self, commit: Commit, error: Exception | None) -> None:
        waits, commit.waits = commit.waits, None
        if waits is not None:
            self.ended += 1
            waits.ended(commit.index, error)

    def _next(self, together: Together | None = None) -> None:
        """Commit all that waits in one round of syncs, and so on until nothing waits.

        A sync costs about the same for one shard as for many that wait for it together.
        """
        # Who was cancelled meanwhile wants his shard no more.
        wanted = [commit for commit in self._queue if commit.waits is not None]
        self._batch, self._queue = wanted[:BATCH], wanted[BATCH:]
        if not self._batch:
            self._running = False
            if together is not None:
                together.add(lambda: None)
            return
        if together is not None:
            try:
                self._owner.workers.submit(self._commit_together, self._batch, together)
            except RuntimeError:
                together.add(partial(self._committed, Failure(), self._batch))
            return
        done = Deferred.fromCoroutine(self._owner.workers.run(self._commit, self._batch))
        _ = done.addBoth(self._committed, self._batch)

    def _committed(self, result: object, batch: list[Commit]) -> None:
        self._next()
        took_packed = self._owner.took_packed
        for commit in batch:
            outcome = commit.outcome
            # Whether or not anybody still waits: the shard is there.
            if outcome is PACKED:
                took_packed(commit.content.hash, commit.index)
                waits = commit.waits
                if waits is not None:
                    commit.waits = None
                    self.ended += 1
                    waits.ended(commit.index, None)
            elif isinstance(outcome, ShardName):
                self._owner.took(outcome)
                self._tell(commit, None)
            elif isinstance(outcome, OSError):
                error = self._owner.translated(outcome, "write a shard")
                error.__cause__ = outcome
                self._tell(commit, error)
            elif isinstance(outcome, Exception):
                self._tell(commit, outcome)
            else:
                failed = result.value if isinstance(result, Failure) else None
                if not isinstance(failed, Exception):
                    failed = RuntimeError("no outcome")
                self._tell(commit, failed)

    # On a worker thread

    def _commit_together(self, batch: list[Commit], together: Together) -> None:
        result: Failure | None = None
        try:
            self._commit(batch)
        except BaseException:  # noqa: BLE001 - whatever it is goes to who waits
            result = Failure()
        together.add(partial(self._committed, result, batch))

    def _commit(self, batch: list[Commit]) -> None:
        store = self._owner.store
        below, as_they_are = store.pack_below, store.packs_plain
        plain: list[tuple[Content, int, Block]] = []
        packed: list[Commit] = []
        small: list[Commit] = []
        large: list[Commit] = []
        for commit in batch:
            content = commit.content
            if content.size < below:
                blocks = commit.blocks
                if as_they_are and commit.temp is None and is_plain(content, blocks):
                    plain.append((content, commit.index, blocks[0]))
                    commit.outcome = PACKED
                else:
                    packed.append(commit)
            elif commit.temp is None and store.is_small(commit.blocks):
                small.append(commit)
            else:
                large.append(commit)
        if plain or packed:
            self._pack(batch, packed, plain)
        if small:
            self._keep(small)
        if large:
            self._place(large)

    def _pack(
        self,
        batch: list[Commit],
        packed: list[Commit],
        plain: list[tuple[Content, int, Block]],
    ) -> None:
        """Shards of small contents, if so wished: durable by one sync of the last volume, and that
        is all.

        :param packed: those of a batch that have to be made fit for it.
        :param plain: others of it.
        """
        store = self._owner.store
        entries: list[Entry] = []
        for commit in packed:
            try:
                if commit.temp is None:
                    entry = store.pack(commit.content, commit.index, commit.blocks)
                else:
                    entry = store.pack_temp(commit.temp)
            except (OSError, ValueError, BadShard) as error:
                commit.outcome = error
                continue
            commit.outcome = PACKED
            entries.append(entry)
        try:
            if entries or plain:
                store.volumes.keep(entries, plain)
        except OSError as error:
            for commit in batch:
                if commit.outcome is PACKED:
                    commit.outcome = error
        for commit in packed:
            if commit.temp is not None:
                self._clean(self._owner.drop, commit.temp)

    def _keep(self, batch: list[Commit]) -> None:
        """Small shards: durable by one sync of the journal."""
        store = self._owner.store
        shards: list[tuple[Commit, ShardName, bytes]] = []
        for commit in batch:
            try:
                shards.append((commit, *store.build(commit.content, commit.index, commit.blocks)))
            except ValueError as error:
                commit.outcome = error
        journal = store.journal
        with journal.lock:
            try:
                journal.keep([(name, data) for _, name, data in shards])
            except OSError as error:
                for commit, _, _ in shards:
                    commit.outcome = error
                return
            for commit, name, data in shards:
                try:
                    journal.write(name, data)
                    commit.outcome = name
                except OSError as error:
                    commit.outcome = error
                    if not self._owner.has(name):
                        # Else a start would find it in the log and write it after all.
                        self._clean(journal.change, Kind.DROPPED, [name], lambda: None)

    def _place(self, batch: list[Commit]) -> None:
        """Others: each file is synced and renamed, and then the folder is synced for all."""
        self._each(batch, self._write)
        self._each(batch, self._settle)
        self._each(batch, self._publish)
        published = [commit for commit in batch if isinstance(commit.outcome, ShardName)]
        if not published:
            return
        try:
            self._owner.store.sync_objects()
        except OSError as error:
            for commit in published:
                name = commit.outcome
                assert isinstance(name, ShardName)
                # A file of the same name, and so of the same bytes, may have been durable before.
                if not self._owner.has(name):
                    self._clean(self._owner.store.unlink_object, name)
                commit.outcome = error

    def _each(self, batch: list[Commit], step: Callable[[Commit], None]) -> None:
        for commit in batch:
            if isinstance(commit.outcome, Exception):
                continue
            try:
                step(commit)
            except (OSError, ValueError) as error:
                commit.outcome = error
                if commit.temp is not None:
                    self._clean(self._owner.drop, commit.temp)

    def _write(self, commit: Commit) -> None:
        if commit.temp is None:
            store = self._owner.store
            commit.temp = store.begin(commit.index, commit.content.scheme)
            store.append(commit.temp, commit.blocks)
            store.finish(commit.temp, commit.content)

    def _settle(self, commit: Commit) -> None:
        assert commit.temp is not None
        self._owner.store.settle(commit.temp)

    def _publish(self, commit: Commit) -> None:
        assert commit.temp is not None
        commit.outcome = self._owner.store.publish(commit.temp)

    def _clean(self, step: Callable[..., object], *arguments: object) -> None:
        """Remove what a failed write left; a drive that refuses even that is cleaned at a start."""
        try:
            step(*arguments)
        except OSError as error:
            _log.warn(
                "{address} cannot clean up: {error}", address=self._owner.address, error=error
            )
