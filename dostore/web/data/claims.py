"""One data server never holds two different shards of one content."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from dostore.core.names import ContentHash
from dostore.errors import AlreadyHeld, BadShard, Conflict, ShardMissing
from dostore.ports import IShardNode


class ShardConflict(Conflict):
    """Another shard of the content is here, or is being written.

    :ivar index: which.
    """

    def __init__(self, index: int) -> None:
        super().__init__(
            f"Shard {index} of this content is here, and losing this server must not cost two."
            " Write to another server."
        )
        self.index = index


class ShardsHere(AlreadyHeld):
    """Something of a content is here, or is being written, that was taken for new.

    :ivar indexes: of the shards.
    """

    def __init__(self, indexes: Collection[int]) -> None:
        super().__init__("Shards of this content are here, or are being written.")
        self.indexes = indexes


class Claims:
    """Which shard of a content is being written here."""

    def __init__(self, node: IShardNode) -> None:
        self._node = node
        self._claimed: dict[ContentHash, tuple[int, int]] = {}

    @asynccontextmanager
    async def claim(
        self, content_hash: ContentHash, index: int, *, only_new: bool = False
    ) -> AsyncIterator[None]:
        """Write a shard inside; several may write the same one.

        :param only_new: only if nothing of the content is here, can be given back, or is being
            written; so of several that say so one at most gets inside.
        :raises ShardConflict: another shard of the content is here, and whole as far as can be
            told without reading all of it, or is being written.
        :raises ShardsHere: with ``only_new``.
        """
        claimed, count = self._claimed.get(content_hash, (index, 0))
        if only_new and count:
            raise ShardsHere((claimed,))
        if claimed != index:
            raise ShardConflict(claimed)
        self._claimed[content_hash] = (index, count + 1)
        try:
            if not only_new:
                await self.require_free(content_hash, index)
            elif held := await self._node.holds(content_hash):
                raise ShardsHere(held)
            yield
        finally:
            _, count = self._claimed.pop(content_hash)
            if count > 1:
                self._claimed[content_hash] = (index, count - 1)

    async def require_free(self, content_hash: ContentHash, index: int) -> None:
        """Refuse when there is another shard of the content.

        :raises ShardConflict: there is.
        """
        others = set(await self._node.holds(content_hash)) - {index}
        if not others:
            return
        try:
            # What was deleted can be given back, but is not in the way of what is written.
            await self._node.modified(content_hash)
        except ShardMissing:
            return
        for other in sorted(others):
            try:
                reader = await self._node.open(content_hash, other)
            except (BadShard, ShardMissing):
                # Damaged: its node has put it away.
                continue
            await reader.close()
            raise ShardConflict(other)
