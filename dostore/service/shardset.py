"""The shards of one content: found, opened and read, through whatever loss k survive."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime

from dostore.core.model import Content
from dostore.core.stripes import Block, StripeCoder
from dostore.errors import (
    BadShard,
    ContentLost,
    Corrupt,
    DostoreError,
    NodeUnavailable,
    ShardMissing,
    Unavailable,
)
from dostore.fanout import first_k, gather, gather_quorum
from dostore.ports import ICluster, IShardReader, IWorkers, Member

#: Up to this, rebuilding blocks costs less than the hop to a thread that saves it.
_INLINE_BYTES = 64 * 1024

#: A node that takes longer than this gets a spare beside it.
HEDGE_AFTER_S = 0.4

Thunk = Callable[[], Coroutine[Any, Any, tuple[int, Block]]]


class ShardSet:
    """The shards of one content, opened as they are needed.

    :ivar faulty: the indexes of shards that were met missing or damaged.
    :ivar verified: those of shards whose blocks were right, as far as they were read.
    :ivar without: the index of a shard to leave out; -1: none.
    :ivar wrong: its nodes' checks were right, and yet what was read was not the content.
    :ivar slow: those of shards that did not answer in time or at all.
    :ivar otherwise: the same content by another scheme, if a shard of it was met.
    """

    def __init__(
        self,
        content: Content,
        cluster: ICluster,
        *,
        workers: IWorkers,
        clock: IReactorTime,
    ) -> None:
        self.content = content
        self.faulty: set[int] = set()
        self.verified: set[int] = set()
        self.without = -1
        self.wrong = False
        self.slow: set[int] = set()
        self.otherwise: Content | None = None
        self._cluster = cluster
        self._workers = workers
        self._clock = clock
        self._coder = StripeCoder(content.scheme)
        self._shard_size = content.scheme.shard_size(content.size)
        self._held: Mapping[int, Sequence[str]] = {}
        self._members: dict[str, Member] = {}
        self._readers: dict[int, IShardReader] = {}
        self._retired: list[IShardReader] = []
        self._sources: dict[int, str] = {}
        self._spoiled: set[tuple[int, str]] = set()
        self._located = False
        self._closed = False

    def expect(self) -> None:
        """Find out where the shards should be."""
        self._members = {member.address: member for member in self._cluster.members()}
        self._hold(self._cluster.expected(self.content.hash, self.content.scheme.shards))

    async def locate(self) -> None:
        """Ask everybody what they have, once."""
        self._located = True
        held = await self._cluster.locate(self.content.hash)
        self._members = {member.address: member for member in self._cluster.members()}
        # What was missing or damaged before may have been made again by now.
        self.faulty.clear()
        self._hold(held)

    def _hold(self, held: Mapping[int, Sequence[str]]) -> None:
        self._held = held
        self.faulty |= set(range(self.content.scheme.shards)) - set(held)

    async def read_stripes(self, first: int, count: int) -> list[dict[int, Block]]:
        """k verified blocks, by shard index, of each of ``count`` stripes from ``first`` on.

        :raises ContentLost: fewer than k shards are left.
        :raises Unavailable: enough may be left, but their nodes are out of reach.
        """
        found, misplaced = await self._read_k(first, count)
        if (misplaced or len(found) < self.content.scheme.k) and not self._located:
            # Nodes came or went since these shards were placed, or a repair is making them.
            await self.locate()
            if len(found) < self.content.scheme.k:
                found, _ = await self._read_k(first, count)
        if len(found) < self.content.scheme.k and await self._cluster.look_again(self.content.hash):
            await self.locate()
            found, _ = await self._read_k(first, count)
        if len(found) < self.content.scheme.k:
            raise self._lost(len(found))
        self.verified.update(found)
        return self._split(found, first, count)

    async def read_blocks(
        self, first: int, count: int, wanted: Sequence[int]
    ) -> list[dict[int, Block]]:
        """The wanted data blocks of each of ``count`` stripes from ``first`` on, verified.

        Only their own shards are read, unless one fails or is slow: then any k are.

        :raises ContentLost, Unavailable: see :meth:`read_stripes`.
        """
        if len(wanted) < self.content.scheme.k and self._all_there(wanted):
            outcomes = await gather_quorum(
                [self._read(index, first, count) for index in wanted],
                need=len(wanted),
                grace_s=0.0,
                clock=self._clock,
                deadline_s=HEDGE_AFTER_S,
            )
            found: dict[int, Block] = {}
            for index, outcome in zip(wanted, outcomes, strict=True):
                if outcome is None:
                    self.slow.add(index)
                elif outcome.error is not None:
                    self._note(index, outcome.error)
                else:
                    found[index] = outcome.value[1]
            if len(found) == len(wanted):
                self.verified.update(found)
                return self._split(found, first, count)
        return await self.rebuild(await self.read_stripes(first, count), wanted)

    def _all_there(self, wanted: Sequence[int]) -> bool:
        unwanted = self.faulty | self.slow | {self.without}
        return all(index in self._held for index in wanted) and not unwanted.intersection(wanted)

    async def _read_k(self, first: int, count: int) -> tuple[dict[int, Block], set[int]]:
        """The bytes of up to k shards, by index, and those that are not where they should be."""
        order = self._preference()
        thunks: list[Thunk] = [partial(self._read, index, first, count) for index in order]
        found, errors = await first_k(
            thunks, k=self.content.scheme.k, clock=self._clock, hedge_after_s=HEDGE_AFTER_S
        )
        for number, error in errors.items():
            self._note(order[number], error)
        # Those that were started and overtaken lag; they are asked last from now on.
        for number in range(max(found, default=-1) + 1):
            if number not in found and number not in errors:
                self.slow.add(order[number])
        misplaced = {order[n] for n, error in errors.items() if isinstance(error, ShardMissing)}
        return dict(found.values()), misplaced

    def _preference(self) -> list[int]:
        """Data shards first, for they need no decoding; slow ones last."""
        unwanted = self.faulty | {self.without}
        sound = [index for index in sorted(self._held) if index not in unwanted]
        return sorted(sound, key=lambda index: index in self.slow)

    async def _read(self, index: int, first: int, count: int) -> tuple[int, Block]:
        while True:
            reader = self._readers.get(index) or await self._open(index)
            try:
                return index, await reader.read(first, count)
            except Corrupt:
                # Seldom a shard is on two nodes, and then one of them will do.
                self._spoiled.add((index, self._sources[index]))
                if not self._others(index):
                    raise
                self._retired.append(self._readers.pop(index))

    def _others(self, index: int) -> list[str]:
        return [a for a in self._held.get(index, ()) if (index, a) not in self._spoiled]

    async def _open(self, index: int) -> IShardReader:
        error: DostoreError = ShardMissing(f"Nobody has shard {index}.")
        for address in self._others(index):
            member = self._members.get(address)
            if member is None or not member.live:
                error = NodeUnavailable(f"{address} is away.")
                continue
            try:
                reader = await member.node.open(self.content.hash, index, self._shard_size)
            except DostoreError as failure:
                error = failure
                continue
            if reader.info.content != self.content:
                # Whole, but of another size or scheme: not what the version speaks of.
                await reader.close()
                other = reader.info.content
                if (other.hash, other.size) == (self.content.hash, self.content.size):
                    self.otherwise = other
                error = BadShard(f"{address} has shard {index} of another scheme.")
                continue
            if self._closed:
                await reader.close()
                raise NodeUnavailable("The content was closed.")
            self._readers[index], self._sources[index] = reader, address
            return reader
        raise error

    def _note(self, index: int, error: Exception) -> None:
        if not isinstance(error, DostoreError):
            raise error
        if isinstance(error, Unavailable):
            self.slow.add(index)
            return
        self.faulty.add(index)
        reader = self._readers.pop(index, None)
        if reader is not None:
            self._retired.append(reader)

    def _lost(self, found: int) -> DostoreError:
        scheme = self.content.scheme
        away = [m.address for m in self._cluster.members() if not m.live]
        text = f"{found} of the content's {scheme.shards} shards are there; {scheme.k} are needed"
        if not self._cluster.settled():
            return Unavailable(f"{text}. Not all nodes are known yet. Try again in a few seconds.")
        if found + len(away) + len(self.slow) >= scheme.k:
            names = ", ".join(sorted(away)) or "some"
            return Unavailable(
                f"{text}. Nodes out of reach: {names}. Try again when they are back."
            )
        return ContentLost(
            f"{text}, so it cannot be read. Store it again.", found=found, needed=scheme.k
        )

    def _split(self, shards: dict[int, Block], first: int, count: int) -> list[dict[int, Block]]:
        """The bytes of several stripes, by shard, to the blocks of each."""
        scheme, size = self.content.scheme, self.content.size
        views = {index: memoryview(data) for index, data in shards.items()}
        stripes: list[dict[int, Block]] = []
        at = 0
        for stripe in range(first, first + count):
            length = scheme.block_length(scheme.stripe_length(size, stripe))
            stripes.append({i: view[at : at + length] for i, view in views.items()})
            at += length
        return stripes

    async def rebuild(
        self, stripes: Sequence[dict[int, Block]], wanted: Sequence[int]
    ) -> list[dict[int, Block]]:
        """The wanted blocks of each stripe, computed where they are missing."""
        missing = any(index not in stripe for stripe in stripes for index in wanted)
        work = partial(self._rebuild, stripes, wanted)
        size = sum(len(block) for stripe in stripes for block in stripe.values())
        if not missing or size <= _INLINE_BYTES:
            return work()
        rebuilt: list[dict[int, Block]] = await self._workers.run(work)
        return rebuilt

    def _rebuild(
        self, stripes: Sequence[dict[int, Block]], wanted: Sequence[int]
    ) -> list[dict[int, Block]]:
        return [self._coder.rebuild(stripe, wanted) for stripe in stripes]

    async def hash(self, hasher: hashlib._Hash, pieces: Sequence[Block]) -> None:
        """Add pieces of content to a hash."""

        def update() -> None:
            # Each update gives the interpreter away: to wait for it after every block takes longer
            # than a copy.
            hasher.update(b"".join(pieces))

        if sum(map(len, pieces)) <= _INLINE_BYTES:
            update()
        else:
            await self._workers.run(update)

    def holders(self, index: int) -> Sequence[str]:
        """The addresses of the nodes that have a shard."""
        return self._held.get(index, ())

    async def close(self) -> None:
        """Release every shard. Idempotent."""
        self._closed = True
        readers = [*self._readers.values(), *self._retired]
        self._readers, self._retired = {}, []
        await gather([reader.close() for reader in readers])
