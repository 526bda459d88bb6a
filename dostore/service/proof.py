"""Proof that shards make their content, and which one is wrong when they do not.

The checks in a shard say that it is as it was written. That it was written right, or by a node that
tells the truth, only the content's SHA-256 says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IReactorTime

from dostore.core.model import Content
from dostore.core.stripes import Block
from dostore.errors import ContentLost, Unavailable
from dostore.ports import ICluster, IWorkers
from dostore.service.shardset import ShardSet

#: Bytes of content that are read at a time.
_BATCH_BYTES = 1 << 20


class Proof:
    """The SHA-256 of a content whose stripes are read one after the other."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards
        self._hasher = hashlib.sha256()

    async def add(self, first: int, stripes: Sequence[Mapping[int, Block]]) -> None:
        """Take the next stripes.

        :param first: the number of the first of them.
        :param stripes: by shard index the blocks of each, all data blocks among them.
        """
        content = self._shards.content
        pieces: list[Block] = []
        for stripe, row in enumerate(stripes, first):
            left = content.scheme.stripe_length(content.size, stripe)
            for index in range(content.scheme.k):
                piece = memoryview(row[index])[:left]
                left -= len(piece)
                pieces.append(piece)
        await self._shards.hash(self._hasher, pieces)

    def holds(self) -> bool:
        """Whether what came was the content."""
        return self._hasher.digest() == self._shards.content.hash.digest


async def find_wrong(
    content: Content, cluster: ICluster, workers: IWorkers, clock: IReactorTime
) -> int | None:
    """The index of the shard without which the others make the content.

    It reads all of the content several times, when something is wrong with it.

    :returns: None when they make it as they are, or when it is more than one that is wrong.
    :raises ContentLost, Unavailable: it cannot be read.
    """

    async def used_wrongly(without: int) -> set[int]:
        shards = ShardSet(content, cluster, workers=workers, clock=clock)
        shards.without = without
        try:
            await shards.locate()
            proof = Proof(shards)
            batch = max(1, _BATCH_BYTES // content.scheme.stripe_size)
            stripes = content.scheme.stripe_count(content.size)
            for first in range(0, stripes, batch):
                blocks = await shards.read_stripes(first, min(batch, stripes - first))
                await proof.add(first, await shards.rebuild(blocks, range(content.scheme.k)))
            return set() if proof.holds() else set(shards.verified)
        finally:
            await shards.close()

    for index in sorted(await used_wrongly(-1)):
        try:
            if not await used_wrongly(index):
                return index
        except (ContentLost, Unavailable):
            # It is one of the last k: nothing can be said of it.
            continue
    return None
