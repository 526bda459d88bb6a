"""What the temporary shards of an upload hold, read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from dostore.core.stripes import Block, StripeCoder
from dostore.core.upload_token import UploadToken
from dostore.errors import Corrupt, QuorumNotMet
from dostore.fanout import gather
from dostore.ports import IWorkers
from dostore.service.upload_places import TempShardOf

_log = Logger()

#: Stripes that are read back or rebuilt at a time.
READ_STRIPES = 16


class HeldStripes:
    """Reads stripes from any k of the shards that hold them.

    :param failed: is told of each shard that could not be read, and why.
    """

    def __init__(
        self,
        token: UploadToken,
        workers: IWorkers,
        failed: Callable[[TempShardOf, Exception | None], None],
    ) -> None:
        self._scheme = token.scheme
        self._size = token.size
        self._coder = StripeCoder(token.scheme)
        self._workers = workers
        self._failed = failed

    async def content(self, shards: Sequence[TempShardOf], first: int, count: int) -> list[Block]:
        """The content of some stripes, in pieces.

        :raises QuorumNotMet: fewer than k shards can be read.
        """
        stripes = await self._read(shards, first, count)
        wanted = range(self._scheme.k)
        if any(index not in stripe for stripe in stripes for index in wanted):
            stripes = await self._workers.run(self._rebuild, stripes, list(wanted))
        pieces = [stripe[index] for stripe in stripes for index in wanted]
        # The last blocks of a content are filled up with zeros.
        surplus = first * self._scheme.stripe_size + sum(map(len, pieces)) - self._size
        while surplus > 0:
            last = pieces.pop()
            if surplus < len(last):
                pieces.append(memoryview(last)[: len(last) - surplus])
            surplus -= len(last)
        return pieces

    async def shard(
        self, shards: Sequence[TempShardOf], index: int, first: int, count: int
    ) -> list[Block]:
        """The blocks of one shard, made from others.

        :raises QuorumNotMet: fewer than k shards can be read.
        """
        stripes = await self._read(shards, first, count)
        rebuilt = await self._workers.run(self._rebuild, stripes, [index])
        return [stripe[index] for stripe in rebuilt]

    def _rebuild(
        self, stripes: Sequence[dict[int, Block]], wanted: Sequence[int]
    ) -> list[dict[int, Block]]:
        return [self._coder.rebuild(stripe, wanted) for stripe in stripes]

    async def _read(
        self, shards: Sequence[TempShardOf], first: int, count: int
    ) -> list[dict[int, Block]]:
        """k blocks, by index, of each of some stripes."""
        block = self._scheme.block_size
        size = min(count * block, self._scheme.shard_size(self._size) - first * block)
        sources = [s for s in shards if s.stripes >= first + count and not s.committed]
        found: dict[int, memoryview] = {}
        while len(found) < self._scheme.k and sources:
            wanted = self._scheme.k - len(found)
            asked, sources = sources[:wanted], sources[wanted:]
            outcomes = await gather([_read_all(shard, first * block, size) for shard in asked])
            for shard, outcome in zip(asked, outcomes, strict=True):
                if outcome.ok:
                    found[shard.index] = memoryview(outcome.value)
                else:
                    self._failed(shard, outcome.error)
                    _log.warn("A shard cannot be read back: {error}", error=outcome.error)
        if len(found) < self._scheme.k:
            raise QuorumNotMet(
                f"{len(found)} of the upload's shards can be read back; that needs"
                f" {self._scheme.k}. Try again later."
            )
        return [
            {index: data[at * block : (at + 1) * block] for index, data in found.items()}
            for at in range(count)
        ]


async def _read_all(shard: TempShardOf, offset: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = await shard.temps.read(shard.token, offset, size)
        if not piece:
            raise Corrupt(f"{shard.node.address} holds less than it said.")
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
