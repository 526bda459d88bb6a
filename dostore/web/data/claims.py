"""One data server never holds two different shards of one content."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dostore.core.names import ContentHash
from dostore.errors import BadShard, Conflict, ShardMissing
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


class Claims:
    """Which shard of a content is being written here."""

    def __init__(self, node: IShardNode) -> None:
        self._node = node
        self._claimed: dict[ContentHash, tuple[int, int]] = {}

    def claimed(self, content_hash: ContentHash) -> int | None:
        """Which shard of a content is being written, if one is."""
        claimed = self._claimed.get(content_hash)
        return None if claimed is None else claimed[0]

    def enter(self, content_hash: ContentHash, index: int) -> None:
        """Begin to write a shard; :meth:`leave` must follow.

        :raises ShardConflict: another shard of the content is being written.
        """
        claimed, count = self._claimed.get(content_hash, (index, 0))
        if claimed != index:
            raise ShardConflict(claimed)
        self._claimed[content_hash] = (index, count + 1)

    def leave(self, content_hash: ContentHash) -> None:
        """End what :meth:`enter` began."""
        index, count = self._claimed.pop(content_hash)
        if count > 1:
            self._claimed[content_hash] = (index, count - 1)

    @asynccontextmanager
    async def claim(self, content_hash: ContentHash, index: int) -> AsyncIterator[None]:
        """Write a shard inside; several may write the same one.

        :raises ShardConflict: another shard of the content is here, and whole as far as can be
            told without reading all of it, or is being written.
        """
        self.enter(content_hash, index)
        try:
            await self.require_free(content_hash, index)
            yield
        finally:
            self.leave(content_hash)

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
