"""IShardNode on a drive of this machine: the drive's files behind its own worker threads."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.drive_access import DriveAccess
from dostore.adapters.drive_commits import Commit, Commits
from dostore.adapters.drive_state import OURS
from dostore.adapters.drive_state import DriveState as DriveState
from dostore.adapters.drive_store import Block, DriveStore
from dostore.adapters.journal import FULL as FULL
from dostore.adapters.local_glance import glance
from dostore.adapters.local_streams import LocalReader, LocalWriter
from dostore.adapters.open_shard import OpenShard
from dostore.adapters.packed_shards import PackedShards
from dostore.adapters.shard_index import ShardIndex
from dostore.adapters.temp_shard import TempShard
from dostore.adapters.temp_shards import TempShards
from dostore.adapters.volume_state import Place
from dostore.core.model import Content
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import Scheme
from dostore.core.window import Window
from dostore.errors import BadShard, DostoreError, NodeUnavailable, ShardMissing
from dostore.ports import IShardNode, IShardReader, IShardWriter
from dostore.threads import IWorkers

T = TypeVar("T")

#: Pages of the indexes of files, of those in ``garbage/``, of packed shards, and of those of them
#: that can be given back.
Pages = tuple[
    Sequence[Mapping[bytes, bytes]],
    Sequence[Mapping[bytes, bytes]],
    Sequence[bytes],
    Sequence[bytes],
]

_log = Logger()


@implementer(IShardNode)
class DriveNode(DriveAccess):
    """One drive as a node.

    :param address: what the drive is called in the cluster.
    :param on_trouble: told when an error shows that the drive is worse than its state says.
    :param now: the time of day in seconds since the epoch, for the age of temporary shards.
    :ivar arrivals: how often the drive was scanned.
    :ivar commits: shards on their way into ``objects/``.
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
        super().__init__(address, workers)
        self.store = store
        self.arrivals = 0
        self.writing: set[str] = set()
        self._on_trouble = on_trouble
        self._index = ShardIndex()
        self._garbage = ShardIndex()
        # Changed by the drive's threads too; a deque may be.
        self._leftovers: deque[TempShard] = deque()
        self._damaged: set[ShardName] = set()
        self.commits = Commits(self)
        self.packed = PackedShards(self)
        self.temps = TempShards(self, now, clock)

    # What the drive is good for: set by DriveSet, which watches it.

    def come(self, index: ShardIndex, garbage: ShardIndex) -> None:
        """The drive is there, prepared and scanned."""
        self._index, self._garbage = index, garbage
        self.arrivals += 1
        # They were found again by the scan, and will be judged again.
        self._damaged.clear()
        self.become(DriveState.LIVE, "")

    def recover(self) -> None:
        """The drive takes writes again; what could not be dropped meanwhile is dropped now."""
        self.become(DriveState.LIVE, "")
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
        self.become(DriveState.AWAY, "stopped", full=self.full)
        self.give_up()

    @property
    def calls(self) -> int:
        """See DriveAccess."""
        return super().calls + len(self.commits)

    @property
    def ended(self) -> int:
        """See DriveAccess."""
        return super().ended + self.commits.ended

    def give_up(self) -> None:
        """See DriveAccess."""
        super().give_up()
        self.commits.give_up(NodeUnavailable(f"{self.address} went away: {self.reason}."))

    def trouble(self) -> None:
        """The drive may be worse than its state says."""
        self._on_trouble(self)

    # Writing.

    async def begin(self, index: int, scheme: Scheme) -> IShardWriter:
        """See IShardNode."""
        self.require(DriveState.LIVE)
        return LocalWriter(self, self.store.begin(index, scheme))

    async def put(self, content: Content, index: int, blocks: Sequence[Block]) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE)
        await self.commit(content, index, blocks, None)

    async def commit(
        self, content: Content, index: int, blocks: Sequence[Block], temp: TempShard | None
    ) -> None:
        """Take a shard into ``objects/`` in the next round of syncs.

        :param blocks: all of it, when there is no ``temp``.
        :param temp: where it was written; finished, maybe settled.
        """
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        await self.commits.run(Commit(content, index, blocks, temp, None))

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

    def forget(self, name: ShardName) -> None:
        """A shard is not in its file any more, or will not be."""
        self._index.remove(name.content_hash, name.index)
        self.store.forget(name)

    def took_packed(self, content_hash: ContentHash, index: int) -> None:
        """A shard is in a volume, durably."""
        digest = content_hash.digest
        if digest not in self._index.pages[digest[0]]:
            return
        name = self._index.get(content_hash, index)
        if name is not None:
            self.forget(name)
            removed = self.workers.submit(self.store.unlink_object, name)
            removed.add_done_callback(self.log_failure)

    def file_of(self, content_hash: ContentHash, index: int) -> ShardName | None:
        """The file with a shard, if there is one."""
        return self._index.get(content_hash, index)

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
            await self.set_aside(name)
            raise
        except FileNotFoundError as error:
            gone = await self._vanished(name)
            removed = self._garbage.get(content_hash, index)
            if removed is None or not isinstance(gone, ShardMissing):
                raise gone from error
            # It was removed at the same time as it was put.
            return await self.open(content_hash, index, size)
        except OSError as error:
            raise await self.unreadable(name, error) from error
        return LocalReader(self, name, shard)

    def read_now(
        self, index: int, window: Window, buffer: memoryview, *, keep: bool = True
    ) -> bool:
        """Read the blocks of a shard to their places in a window's buffer, verified, if nothing has
        to be waited for.

        :param keep: the shard's file may be kept open, or be so already.
        :returns: False when it cannot be had so: open it, and see why.
        """
        places = window.places(buffer, index)
        if keep:
            done = self.store.shards.read(index, window, places)
            if done is not None:
                return done
        content_hash = window.content.hash
        name = self._index.get(content_hash, index)
        if name is not None:
            return self.store.read_now(name, window, places, keep=keep)
        place = self.store.volumes.find(content_hash, index) if window.stripes == 1 else None
        return place is not None and self.store.volumes.read_now(place, window.content, places[0])

    def whole_now(self, content: Content, index: int) -> memoryview | None:
        """The bytes of a whole shard, verified, if nothing has to be waited for.

        :returns: None when they cannot be had so: open it, and see why.
        """
        window = None if self.state is DriveState.AWAY else Window.of_shard(content, index)
        if window is None:
            return None
        buffer = memoryview(bytearray(window.size))
        return buffer if self.read_now(index, window, buffer) else None

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
        self.forget(name)
        return ShardMissing(f"{self.address} lost shard {name.index} of {name.content_hash}.")

    async def unreadable(
        self, name: ShardName, error: OSError, opened: OpenShard | None = None
    ) -> DostoreError:
        """The error of our tree for a system error of a read, after drawing its conclusion."""
        if error.errno in OURS:
            return NodeUnavailable(f"{self.address} cannot read: {error.strerror}.")
        self._on_trouble(self)
        if error.errno != errno.EIO:
            return NodeUnavailable(f"{self.address} cannot read: {error.strerror}.")
        # A bad sector spoils one shard, not the drive: what is rebuilt will lie elsewhere on it.
        await self.set_aside(name, opened)
        return BadShard(f"{self.address} cannot read shard {name.index}: {error.strerror}.")

    async def set_aside(self, name: ShardName, opened: OpenShard | None = None) -> None:
        """Move a damaged shard out of the way, so that it is rebuilt and not met again.

        :param opened: the file that was found damaged, if it was not just opened: another, made
            since, is left alone.
        """
        indexed = self._index.get(name.content_hash, name.index) == name
        if indexed:
            self.forget(name)
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

    def pages(self) -> Pages:
        """What has to be looked into to know that nothing of a content is here, until
        :attr:`changed` is called.
        """
        state = self.store.volumes.state
        return self._index.pages, self._garbage.pages, state.live.pages, state.removed.pages

    def names(self, content_hash: ContentHash) -> Sequence[ShardName | Place]:
        """The shards of a content that can be opened here; none when the drive is away."""
        if self.state is DriveState.AWAY:
            return ()
        return self._index.names(content_hash) or self.store.volumes.places(content_hash)

    def readable(self, content_hash: ContentHash) -> Sequence[int]:
        """Which shards of a content can be opened here; none when the drive is away."""
        if self.state is DriveState.AWAY:
            return ()
        return self._index.indexes(content_hash) or self.store.volumes.indexes(content_hash)

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
        return await glance(self, wanted)

    async def discard(self, content_hash: ContentHash, index: int) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        name = self._index.get(content_hash, index)
        if name is not None:
            await self.set_aside(name)
        await self.packed.discard(content_hash, index)

    async def delete(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        for name in self._index.names(content_hash):
            self.forget(name)
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
