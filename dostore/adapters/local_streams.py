"""A shard of a drive that is read or written piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.open_shard import OpenShard
from dostore.adapters.temp_shard import TempShard
from dostore.core.model import Content, ShardInfo
from dostore.core.names import ShardName
from dostore.core.stripes import Block
from dostore.errors import BadShard, NodeUnavailable
from dostore.ports import IShardReader, IShardWriter

if TYPE_CHECKING:
    from dostore.adapters.node_local import DriveNode

_log = Logger()


@implementer(IShardReader)
class LocalReader:
    """A shard of a drive, open."""

    def __init__(self, node: DriveNode, name: ShardName, shard: OpenShard) -> None:
        self._node = node
        self._name = name
        self._shard = shard
        self.info: ShardInfo = shard.footer.info

    async def read(self, first: int, count: int) -> Block:
        """See IShardReader."""
        node = self._node
        try:
            if self._shard.is_quick(first, count):
                return self._shard.read(first, count)
            data: Block = await node.call(self._shard.read, first, count)
            return data
        except BadShard:
            await node.set_aside(self._name, self._shard)
            raise
        except OSError as error:
            raise await node.unreadable(self._name, error, self._shard) from error

    async def close(self) -> None:
        """See IShardReader."""
        self._shard.close()


@implementer(IShardWriter)
class LocalWriter:
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
