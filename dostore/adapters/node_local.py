"""IShardNode on a drive of this machine: the drive's files behind its own worker threads."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.drive_commits import Commit, Commits
from dostore.adapters.drive_state import OURS
from dostore.adapters.drive_state import DriveState as DriveState
from dostore.adapters.drive_store import Block, DriveStore, OpenShard, TempShard
from dostore.adapters.journal import FULL as FULL
from dostore.adapters.packed_shards import PackedShards
from dostore.adapters.shard_index import ShardIndex
from dostore.adapters.temp_shards import TempShards
from dostore.adapters.volume_state import Place
from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import Scheme
from dostore.core.window import Window
from dostore.errors import BadShard, DostoreError, NodeUnavailable, NoSpace, ShardMissing
from dostore.ports import IShardNode, IShardReader, IShardWriter
from dostore.threads import IWorkers, Together

T = TypeVar("T")

_log = Logger()

#: A shard up to this size is read by a glance on the reactor's thread, if it is in memory: a hop to
#: a thread and back costs many times that.
GLANCED_NOW_BYTES = 64 * 1024

_NOT_STARTED = "not started"


@implementer(IShardNode)
class DriveNode:
    """One drive as a node.

    :param address: what the drive is called in the cluster.
    :param on_trouble: told when an error shows that the drive is worse than its state says.
    :param now: the time of day in seconds since the epoch, for the age of temporary shards.
    :ivar full: it takes no writes because it has no room.
    :ivar arrivals: how often the drive was scanned.
    :ivar writing: the tokens of temporary shards whose writers are at work, however slowly.
    """

    def __init__(
        self,
        address: str,
        store: DriveStore,
        workers: IWorkers,
        on_trouble: Callable[[DriveNode], None] = lambda _: None,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self.address = address
        self.store = store
        self.workers = workers
        self.state = DriveState.AWAY
        self.reason = _NOT_STARTED
        self.full = False
        self.arrivals = 0
        self.writing: set[str] = set()
        self._on_trouble = on_trouble
        self._index = ShardIndex()
        self._garbage = ShardIndex()
        # Changed by the drive's threads too; a deque may be.
        self._leftovers: deque[TempShard] = deque()
        self._damaged: set[ShardName] = set()
        self._commits = Commits(self)
        self._calls: set[Deferred[Any]] = set()
        self._ended = 0
        self.packed = PackedShards(self)
        self.temps = TempShards(self, now, clock)

    # What the drive is good for: set by DriveSet, which watches it.

    def come(self, index: ShardIndex, garbage: ShardIndex) -> None:
        """The drive is there, prepared and scanned."""
        self._index, self._garbage = index, garbage
        self.arrivals += 1
        # They were found again by the scan, and will be judged again.
        self._damaged.clear()
        self.state, self.reason, self.full = DriveState.LIVE, "", False

    def degrade(self, state: DriveState, reason: str, *, full: bool = False) -> None:
        """The drive is good for less from now on; ``full``: for want of room."""
        if self.state is not state or self.reason == _NOT_STARTED:
            _log.warn(
                "{address} is {state}: {reason}",
                address=self.address,
                state=state.value,
                reason=reason,
            )
        self.state, self.reason, self.full = state, reason, full
        if state is DriveState.AWAY:
            self._give_up()

    def recover(self) -> None:
        """The drive takes writes again; what could not be dropped meanwhile is dropped now."""
        self.state, self.reason, self.full = DriveState.LIVE, "", False
        for _ in range(len(self._leftovers)):
            dropped = self.workers.submit(self.drop, self._leftovers.popleft())
            dropped.add_done_callback(self.log_failure)
        damaged, self._damaged = self._damaged, set()
        for name in damaged:
            if self._index.get(name.content_hash, name.index) != name:
                removed = self.workers.submit(partial(self.store.remove, name, bad=True))
                removed.add_done_callback(self.log_failure)

    async def checkpoint(self, last: bool = False) -> None:
        """Have small shards be durable in their files, and not only in the journal; and have packed
        ones be found without reading the last volume.
        """
        try:
            await self.call(self.store.checkpoint, last)
        except OSError as error:
            raise self.translated(error, "sync its shards") from error

    def release(self) -> None:
        """Close what is held open on the drive, as soon as no call is in the middle of it."""
        store, kept = self.store, self.store.kept.take_all()
        life = store.life

        def close() -> None:
            store.close_all(kept)
            store.close(life)

        try:
            closed = self.workers.submit(close)
        except RuntimeError:
            # The threads were stopped before, so the process ends.
            return
        closed.add_done_callback(self.log_failure)

    def stop(self) -> None:
        """The drive is not used any more."""
        self.state, self.reason = DriveState.AWAY, "stopped"
        self._give_up()

    @property
    def calls(self) -> int:
        """How many calls wait for the drive."""
        return len(self._calls) + len(self._commits)

    @property
    def ended(self) -> int:
        """How many calls have ended, so that a drive which hangs can be told."""
        return self._ended + self._commits.ended

    def _give_up(self) -> None:
        """Nobody waits any longer for a drive that may never answer."""
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()
        self._commits.give_up(NodeUnavailable(f"{self.address} went away: {self.reason}."))

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """What ``function(*args)`` returns or raises on one of the drive's threads.

        :raises NodeUnavailable: the drive is away, or went away meanwhile.
        """
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        return await self._unless_away(Deferred.fromCoroutine(self.workers.run(function, *args)))

    async def _unless_away(self, call: Deferred[T]) -> T:
        self._calls.add(call)
        try:
            return await call
        except CancelledError:
            if call in self._calls:
                raise
            raise NodeUnavailable(f"{self.address} went away: {self.reason}.") from None
        finally:
            self._calls.discard(call)
            self._ended += 1

    def require(self, *states: DriveState) -> None:
        """Refuse to go on when the drive is in another state.

        :raises NodeUnavailable: it is.
        """
        if self.state not in states:
            raise NodeUnavailable(f"{self.address} is {self.state.value}: {self.reason}.")

    def translated(self, error: OSError, doing: str) -> DostoreError:
        """The error of our tree for a system error of a write, after drawing its conclusion."""
        text = f"{self.address} cannot {doing}: {error.strerror}."
        if error.errno in OURS:
            return NodeUnavailable(text)
        if self.state is DriveState.LIVE:
            full = error.errno in FULL
            reason = f"it cannot {doing} ({error.strerror})"
            self.degrade(DriveState.READ_ONLY, reason, full=full)
        self._on_trouble(self)
        return NoSpace(text) if error.errno in FULL else NodeUnavailable(text)

    def trouble(self) -> None:
        """The drive may be worse than its state says."""
        self._on_trouble(self)

    # Writing.

    async def begin(self, index: int, scheme: Scheme) -> IShardWriter:
        """See IShardNode."""
        self.require(DriveState.LIVE)
        return _LocalWriter(self, self.store.begin(index, scheme))

    async def put(self, content: Content, index: int, blocks: Sequence[Block]) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE)
        await self.commit(content, index, blocks, None)

    @property
    def committing(self) -> bool:
        """Whether it is at work on shards, so that others have to wait."""
        return self._commits.running

    def begin_put(self, commit: Commit) -> None:
        """Take a whole small shard; :meth:`start_puts` must follow, unless others are committed.

        :raises NodeUnavailable: the drive takes none.
        """
        self.require(DriveState.LIVE)
        self._commits.add(commit)

    def start_puts(self, together: Together) -> None:
        """Begin to commit what was taken; ``together`` tells how that ended."""
        self._commits.start(together)

    async def commit(
        self, content: Content, index: int, blocks: Sequence[Block], temp: TempShard | None
    ) -> None:
        """Take a shard into ``objects/`` in the next round of syncs.

        :param blocks: all of it, when there is no ``temp``.
        :param temp: where it was written; finished, maybe settled.
        """
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        await self._commits.run(Commit(content, index, blocks, temp, None))

    def took(self, name: ShardName) -> None:
        """A shard is in ``objects/``, durably."""
        previous = self._index.add(name)
        if previous is not None:
            self.store.forget(previous)
            removed = self.workers.submit(self.store.unlink_object, previous)
            removed.add_done_callback(self.log_failure)
        place = self.store.volumes.find(name.content_hash, name.index)
        if place is not None:
            dropped = self.workers.submit(self.store.volumes.drop, place)
            dropped.add_done_callback(self.log_failure)

    def _forget(self, name: ShardName) -> None:
        """A shard is not in its file any more, or will not be."""
        self._index.remove(name.content_hash, name.index)
        self.store.forget(name)

    def took_packed(self, content_hash: ContentHash, index: int) -> None:
        """A shard is in a volume, durably."""
        name = self._index.get(content_hash, index)
        if name is not None:
            self._forget(name)
            removed = self.workers.submit(self.store.unlink_object, name)
            removed.add_done_callback(self.log_failure)

    def log_failure(self, done: Future[Any]) -> None:
        """For what nobody waits for: log how it ended, if badly. Runs on a worker thread."""
        error = done.exception()
        if error is not None:
            _log.warn("{address} cannot clean up: {error}", address=self.address, error=error)

    def has(self, name: ShardName) -> bool:
        """Whether a shard is there already; asked in any thread."""
        return self._index.get(name.content_hash, name.index) == name

    def drop(self, temp: TempShard) -> None:
        """Remove a temporary shard, or have it removed when the drive takes writes again."""
        try:
            self.store.drop(temp)
        except OSError:
            self._leftovers.append(temp)
            raise

    # Reading.

    async def open(
        self, content_hash: ContentHash, index: int, size: int | None = None
    ) -> IShardReader:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        name = self._index.get(content_hash, index)
        if name is None:
            packed = await self.packed.open(content_hash, index)
            if packed is not None:
                return packed
            name = await self._bring_back(content_hash, index)
        try:
            shard = self.store.open_cached(name)
            if shard is None:
                shard = await self.call(self.store.open, name)
        except BadShard:
            await self._set_aside(name)
            raise
        except FileNotFoundError as error:
            raise await self._vanished(name) from error
        except OSError as error:
            raise await self._unreadable(name, error) from error
        return _LocalReader(self, name, shard)

    def read_now(
        self,
        name: ShardName | Place,
        window: Window,
        buffer: memoryview,
        told: memoryview,
        *,
        keep: bool = True,
    ) -> bool:
        """Read the blocks of a shard to their places in a window's buffer, verified, if nothing has
        to be waited for.

        :param name: one of :meth:`names`.
        :param told: a buffer for what tells of the blocks.
        :param keep: the shard's file may be kept open.
        :returns: False when it cannot be had so: open it, and see why.
        """
        places = window.places(buffer, name.index)
        if isinstance(name, Place):
            return window.stripes == 1 and self.store.volumes.read_now(
                name, window.content, places[0]
            )
        parts = window.parts(places, told)
        return self.store.read_parts_now(name, parts, keep=keep) and window.is_sound(
            name.index, places, told
        )

    async def _bring_back(self, content_hash: ContentHash, index: int) -> ShardName:
        """Move a shard back from ``garbage/``; several may ask for it at the same time."""
        name = self._garbage.get(content_hash, index)
        if name is None:
            raise ShardMissing(f"{self.address} has no shard {index} of {content_hash}.")
        try:
            await self.call(self.store.restore, name)
        except FileNotFoundError as error:
            self._garbage.remove(content_hash, index)
            raise ShardMissing(f"{self.address} has no shard {index} any more.") from error
        except OSError as error:
            raise self.translated(error, "bring a shard back") from error
        self._garbage.remove(content_hash, index)
        self.took(name)
        return name

    async def _vanished(self, name: ShardName) -> DostoreError:
        """The file is not there: somebody removed it, or the whole drive is gone."""
        if not await self.call(self.store.files.is_folder, self.store.objects):
            self._on_trouble(self)
            return NodeUnavailable(f"{self.address} is gone.")
        self._forget(name)
        return ShardMissing(f"{self.address} lost shard {name.index} of {name.content_hash}.")

    async def _unreadable(
        self, name: ShardName, error: OSError, opened: OpenShard | None = None
    ) -> DostoreError:
        if error.errno in OURS:
            return NodeUnavailable(f"{self.address} cannot read: {error.strerror}.")
        self._on_trouble(self)
        if error.errno != errno.EIO:
            return NodeUnavailable(f"{self.address} cannot read: {error.strerror}.")
        # A bad sector spoils one shard, not the drive: what is rebuilt will lie elsewhere on it.
        await self._set_aside(name, opened)
        return BadShard(f"{self.address} cannot read shard {name.index}: {error.strerror}.")

    async def _set_aside(self, name: ShardName, opened: OpenShard | None = None) -> None:
        """Move a damaged shard out of the way, so that it is rebuilt and not met again.

        :param opened: the file that was found damaged, if it was not just opened: another, made
            since, is left alone.
        """
        indexed = self._index.get(name.content_hash, name.index) == name
        if indexed:
            self._forget(name)
        try:
            replaced = not await self.call(lambda: self.store.remove(name, bad=True, opened=opened))
        except OSError as error:
            _log.warn("{address} cannot set it aside: {error}", address=self.address, error=error)
            self._damaged.add(name)
            self._on_trouble(self)
            return
        if not replaced:
            _log.warn("{address}: {name} is damaged", address=self.address, name=str(name))
        elif indexed and self._index.get(name.content_hash, name.index) is None:
            self._index.add(name)

    async def holds(self, content_hash: ContentHash) -> Collection[int]:
        """See IShardNode. What ``garbage/`` can give back counts."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        return self.held(content_hash)

    def held(self, content_hash: ContentHash) -> Collection[int]:
        """What the indexes say of a content, whatever the drive's state."""
        volumes = self.store.volumes
        return _both(self._index.indexes(content_hash), volumes.indexes(content_hash)) or _both(
            self._garbage.indexes(content_hash), volumes.removed(content_hash)
        )

    def names(self, content_hash: ContentHash) -> Sequence[ShardName | Place]:
        """The shards of a content that can be opened here; none when the drive is away."""
        if self.state is DriveState.AWAY:
            return ()
        return self._index.names(content_hash) or self.store.volumes.places(content_hash)

    @property
    def contents(self) -> int:
        """How many contents have a shard here."""
        return len(self._index) + len(self.store.volumes.state.live)

    async def renew(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        names = self._index.names(content_hash)
        await self.packed.renew(content_hash)
        try:
            await self.call(self.store.touch, names)
        except OSError as error:
            raise NodeUnavailable(
                f"{self.address} cannot renew a shard: {error.strerror}."
            ) from error

    async def modified(self, content_hash: ContentHash) -> float:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        times = self.store.volumes.modified(content_hash)
        try:
            times += await self.call(self.store.modified, self._index.names(content_hash))
        except OSError as error:
            raise NodeUnavailable(f"{self.address} cannot read: {error.strerror}.") from error
        if not times:
            raise ShardMissing(f"{self.address} has no shard of {content_hash}.")
        return float(max(times))

    async def glance(self, wanted: Sequence[tuple[Content, int]]) -> Sequence[tuple[Content, int]]:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        filed: list[tuple[ShardName | None, Content, int]] = []
        packed: list[tuple[Place, Content, int]] = []
        for content, index in wanted:
            name = self._index.get(content.hash, index)
            place = None if name else self.store.volumes.find(content.hash, index)
            if self._is_whole_now(name or place, content, index):
                continue
            if place is None:
                filed.append((name, content, index))
            else:
                packed.append((place, content, index))
        if not filed and not packed:
            return []
        try:
            faulty, spoilt = await self.call(self._glance, filed, packed)
        except OSError as error:
            raise NodeUnavailable(f"{self.address} cannot read: {error.strerror}.") from error
        for name, _, _ in faulty:
            if name is not None and self._index.get(name.content_hash, name.index) == name:
                self._forget(name)
        found = {*((content, index) for _, content, index in faulty), *spoilt}
        return [pair for pair in wanted if pair in found]

    def _glance(
        self,
        filed: Sequence[tuple[ShardName | None, Content, int]],
        packed: Sequence[tuple[Place, Content, int]],
    ) -> tuple[list[tuple[ShardName | None, Content, int]], list[tuple[Content, int]]]:
        """Runs on a worker thread."""
        return self.store.glance(filed), self.packed.glance(packed)

    def _is_whole_now(self, name: ShardName | Place | None, content: Content, index: int) -> bool:
        """Whether a small shard that is in memory was read just now, and is right."""
        if name is None or content.scheme.shard_size(content.size) > GLANCED_NOW_BYTES:
            return False
        window = Window.of_shard(content, index)
        if window is None:
            return False
        buffer = memoryview(bytearray(window.size))
        told = memoryview(bytearray(window.told_bytes))
        # By its path: what is kept open may be somewhere else by now.
        return self.read_now(name, window, buffer, told, keep=False)

    async def discard(self, content_hash: ContentHash, index: int) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        name = self._index.get(content_hash, index)
        if name is not None:
            await self._set_aside(name)
        await self.packed.discard(content_hash, index)

    async def delete(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        for name in self._index.names(content_hash):
            self._forget(name)
            try:
                await self.call(lambda name=name: self.store.remove(name, bad=False))
            except OSError as error:
                self._index.add(name)
                raise self.translated(error, "remove a shard") from error
            self._garbage.add(name)
        await self.packed.delete(content_hash)

    async def inventory(self, page: int) -> Mapping[ContentHash, Collection[int]]:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        held: dict[ContentHash, tuple[int, ...]] = self._index.page(page)
        for digest, indexes in self.store.volumes.state.live.page(page).items():
            content_hash = ContentHash(digest)
            held[content_hash] = _both(held.get(content_hash, ()), indexes)
        return held

    async def purge(self, before: float) -> int:
        """Delete what was removed before a time (seconds since the epoch); how many shards."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        try:
            purged = await self.call(self.store.purge, before)
            packed: int = await self.call(self.store.volumes.purge, before)
        except OSError as error:
            raise NodeUnavailable(f"{self.address} cannot purge: {error.strerror}.") from error
        for file_name in purged:
            name = ShardName.parse(file_name)
            if name is not None and self._garbage.get(name.content_hash, name.index) == name:
                self._garbage.remove(name.content_hash, name.index)
        return len(purged) + packed


def _both(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    """Indexes of shards that are in one or the other place."""
    return tuple({*some, *others}) if some and others else some or others


@implementer(IShardReader)
class _LocalReader:
    """A shard of a drive, open."""

    def __init__(self, node: DriveNode, name: ShardName, shard: OpenShard) -> None:
        self._node = node
        self._name = name
        self._shard = shard
        self.info: ShardInfo = shard.footer.info

    async def read(self, first: int, count: int) -> bytes:
        """See IShardReader."""
        node = self._node
        try:
            if self._shard.is_quick(first, count):
                return self._shard.read(first, count)
            data: bytes = await node.call(self._shard.read, first, count)
            return data
        except BadShard:
            await node._set_aside(self._name, self._shard)
            raise
        except OSError as error:
            raise await node._unreadable(self._name, error, self._shard) from error

    async def close(self) -> None:
        """See IShardReader."""
        self._shard.close()


@implementer(IShardWriter)
class _LocalWriter:
    """A shard in a drive's ``temp/``.

    One write runs while the next is prepared; its error comes out of the call after it.
    """

    def __init__(self, node: DriveNode, temp: TempShard) -> None:
        self._node = node
        self._temp = temp
        node.writing.add(temp.token)
        self._running: Deferred[None] | None = None
        self._committed = False
        self._aborted = False

    async def write(self, blocks: Sequence[Block]) -> None:
        """See IShardWriter."""
        await self._settled()
        self._running = Deferred.fromCoroutine(
            self._node.call(self._node.store.append, self._temp, blocks)
        )

    async def _settled(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        try:
            await running
        except OSError as error:
            raise self._node.translated(error, "write a shard") from error

    async def commit(self, content: Content) -> None:
        """See IShardWriter."""
        if self._committed:
            return
        await self._settled()
        # The bytes of a large shard are synced before it takes its place in a round of commits, so
        # that small ones do not wait for it.
        try:
            await self._node.call(self._finish, content)
        except OSError as error:
            raise self._node.translated(error, "sync a shard") from error
        await self._node.commit(content, self._temp.builder.index, (), self._temp)
        self._committed = True
        self._node.writing.discard(self._temp.token)

    def _finish(self, content: Content) -> None:
        self._node.store.finish(self._temp, content)
        self._node.store.settle(self._temp)

    async def abort(self) -> None:
        """See IShardWriter."""
        if self._committed or self._aborted:
            return
        self._aborted = True
        node = self._node
        # What cannot be dropped now is swept.
        node.writing.discard(self._temp.token)
        running, self._running = self._running, None
        if running is not None:
            # Its error was or will be told by another call; here it changes nothing.
            await running.addErrback(lambda _: None)
        try:
            await node.call(node.drop, self._temp)
        except (CancelledError, NodeUnavailable) as error:
            # Perhaps it had not begun, and then it was forgotten. It must be done nevertheless.
            node.workers.submit(node.drop, self._temp).add_done_callback(node.log_failure)
            if isinstance(error, CancelledError):
                raise
        except OSError as error:
            _log.warn(
                "{address} cannot drop a temporary shard: {error}",
                address=node.address,
                error=error,
            )
