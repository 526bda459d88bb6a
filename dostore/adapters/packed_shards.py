"""The packed shards of a drive: what a node is asked, as far as it concerns its volumes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.drive_state import OURS
from dostore.adapters.drive_store import DriveStore
from dostore.adapters.open_shard import OpenShard
from dostore.adapters.volume_emptying import Emptying
from dostore.adapters.volume_state import Place
from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash
from dostore.core.stripes import Block
from dostore.errors import BadShard, DostoreError, NodeUnavailable, ShardMissing
from dostore.ports import IShardReader

_log = Logger()

#: After a step of emptying a volume there is a pause so many times as long.
_PAUSES = 2


class Owner(Protocol):
    """What is needed of the drive's node; see DriveNode."""

    address: str
    store: DriveStore

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Run it on one of the drive's threads."""

    def translated(self, error: OSError, doing: str) -> DostoreError:
        """The error for a system error of a write."""

    def trouble(self) -> None:
        """The drive may be worse than its state says."""


class PackedShards:
    """Those of one drive."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._volumes = owner.store.volumes

    async def open(self, content_hash: ContentHash, index: int) -> IShardReader | None:
        """Open a shard that is in a volume, or removed from one; None: it is not.

        :raises BadShard, ShardMissing, NodeUnavailable, NoSpace: it cannot be had.
        """
        while True:
            place = self._volumes.find(content_hash, index)
            if place is None:
                if index not in self._volumes.removed(content_hash):
                    return None
                await self._bring_back(content_hash, index)
                continue
            try:
                shard = self._volumes.read_cached(place)
                if shard is None:
                    shard = await self._owner.call(self._volumes.read, place)
            except BadShard:
                if await self._drop(place):
                    raise
                # It was moved, or written again, while it was read.
                continue
            except FileNotFoundError as error:
                if not self._is_moved(place):
                    raise await self._vanished(place) from error
                continue
            except OSError as error:
                raise await self._unreadable(place, error) from error
            footer, whole = shard
            return _PackedReader(
                self._owner, OpenShard(self._owner.store.files, None, footer, whole)
            )

    def _is_moved(self, place: Place) -> bool:
        now = self._volumes.state.find(place.digest, place.index)
        return now is None or not now.is_at(place.volume, place.offset)

    async def _bring_back(self, content_hash: ContentHash, index: int) -> None:
        try:
            await self._owner.call(self._volumes.restore, content_hash, index)
        except FileNotFoundError as error:
            raise ShardMissing(f"{self._owner.address} has no shard {index} any more.") from error
        except OSError as error:
            raise self._owner.translated(error, "bring a shard back") from error

    async def _drop(self, place: Place) -> bool:
        """Have a damaged shard be gone, so that it is made again; False: it was another's fault."""
        try:
            return bool(await self._owner.call(self._volumes.drop, place))
        except OSError as error:
            _log.warn("{address} cannot drop it: {error}", address=self._owner.address, error=error)
            self._owner.trouble()
            return True

    async def _vanished(self, place: Place) -> DostoreError:
        """A volume is not there: somebody removed it, or the whole drive is gone."""
        store = self._owner.store
        if not await self._owner.call(store.files.is_folder, self._volumes.folder):
            self._owner.trouble()
            return NodeUnavailable(f"{self._owner.address} is gone.")
        await self._owner.call(self._volumes.lose, place.volume)
        return ShardMissing(f"{self._owner.address} lost volume {place.volume}.")

    async def _unreadable(self, place: Place, error: OSError) -> DostoreError:
        text = f"{self._owner.address} cannot read shard {place.index}: {error.strerror}."
        if error.errno in OURS:
            return NodeUnavailable(text)
        self._owner.trouble()
        if error.errno != errno.EIO:
            return NodeUnavailable(text)
        # A bad sector spoils one shard, not the drive.
        await self._drop(place)
        return BadShard(text)

    async def renew(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        if not self._volumes.indexes(content_hash):
            return
        try:
            await self._owner.call(self._volumes.renew, content_hash)
        except OSError as error:
            raise NodeUnavailable(
                f"{self._owner.address} cannot renew a shard: {error.strerror}."
            ) from error

    async def delete(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        if not self._volumes.indexes(content_hash):
            return
        try:
            await self._owner.call(self._volumes.remove, content_hash)
        except OSError as error:
            raise self._owner.translated(error, "remove a shard") from error

    async def discard(self, content_hash: ContentHash, index: int) -> None:
        """See IShardNode."""
        place = self._volumes.find(content_hash, index)
        if place is not None:
            await self._drop(place)

    async def empty(self, number: int, clock: IReactorTime) -> None:
        """Empty a volume, with pauses.

        :raises NodeUnavailable, NoSpace: it cannot be done now.
        """
        emptying = Emptying(self._volumes, number)
        try:
            while True:
                began_s = clock.seconds()
                if not await self._owner.call(emptying.step):
                    return
                await deferLater(clock, _PAUSES * (clock.seconds() - began_s))
        except OSError as error:
            raise self._owner.translated(error, "empty a volume") from error

    def glance(self, named: Sequence[tuple[Place, Content, int]]) -> list[tuple[Content, int]]:
        """Those that are not there or not whole; what is not is dropped. Blocks."""
        return [(content, index) for place, content, index in named if not self._is_whole(place)]

    def _is_whole(self, place: Place | None) -> bool:
        while place is not None:
            try:
                self._volumes.read(place)
            except BadShard:
                if self._volumes.drop(place):
                    return False
            except FileNotFoundError:
                if not self._is_moved(place):
                    return False
            else:
                return True
            place = self._volumes.state.find(place.digest, place.index)
        return False


@implementer(IShardReader)
class _PackedReader:
    """A packed shard. All of it is in memory."""

    def __init__(self, owner: Owner, shard: OpenShard) -> None:
        self._owner = owner
        self._shard = shard
        self._closed = False
        self.info: ShardInfo = shard.footer.info

    async def read(self, first: int, count: int) -> Block:
        """See IShardReader."""
        if self._closed:
            raise NodeUnavailable("The shard was closed.")
        if self._shard.is_quick(first, count):
            return self._shard.read(first, count)
        data: Block = await self._owner.call(self._shard.read, first, count)
        return data

    async def close(self) -> None:
        """See IShardReader."""
        self._closed = True
