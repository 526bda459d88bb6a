"""Reading contents: blocks of k shards joined to a stream, through whatever damage k survive."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.core.model import Content
from dostore.core.stripes import Block, StripeCoder
from dostore.errors import (
    ContentLost,
    Corrupt,
    DostoreError,
    NodeUnavailable,
    ShardMissing,
    Unavailable,
)
from dostore.fanout import first_k, gather
from dostore.ports import IByteSink, ICluster, IShardReader, IWorkers, Member

_log = Logger()

#: Bytes of content that are read at a time.
BATCH_BYTES = 1 << 20

#: Up to this, rebuilding blocks costs less than the hop to a thread that saves it.
_INLINE_BYTES = 64 * 1024

#: A node that takes longer than this gets a spare beside it.
HEDGE_AFTER_S = 0.4

Thunk = Callable[[], Coroutine[Any, Any, tuple[int, bytes]]]


class ShardSet:
    """The shards of one content, opened as they are needed.

    :ivar faulty: the indexes of shards that were met missing or damaged.
    :ivar verified: those of shards whose blocks were right, as far as they were read.
    :ivar without: the index of a shard to leave out; -1: none.
    :ivar slow: those of shards that did not answer in time or at all.
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
        self.slow: set[int] = set()
        self._cluster = cluster
        self._workers = workers
        self._clock = clock
        self._coder = StripeCoder(content.scheme)
        self._held: Mapping[int, Sequence[str]] = {}
        self._members: dict[str, Member] = {}
        self._readers: dict[int, IShardReader] = {}
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
            # Nodes came or went since these shards were placed.
            self.faulty -= misplaced
            await self.locate()
            if len(found) < self.content.scheme.k:
                found, _ = await self._read_k(first, count)
        if len(found) < self.content.scheme.k:
            raise self._lost(len(found))
        self.verified.update(found)
        return self._split(found, first, count)

    async def _read_k(self, first: int, count: int) -> tuple[dict[int, bytes], set[int]]:
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

    async def _read(self, index: int, first: int, count: int) -> tuple[int, bytes]:
        reader = self._readers.get(index) or await self._open(index)
        return index, await reader.read(first, count)

    async def _open(self, index: int) -> IShardReader:
        error: DostoreError = ShardMissing(f"Nobody has shard {index}.")
        for address in self._held[index]:
            member = self._members.get(address)
            if member is None or not member.live:
                error = NodeUnavailable(f"{address} is away.")
                continue
            try:
                reader = await member.node.open(self.content.hash, index)
            except DostoreError as failure:
                error = failure
                continue
            if reader.info.content != self.content:
                # Whole, but of another size or scheme: not what the version speaks of.
                await reader.close()
                error = ShardMissing(f"{address} has shard {index} of another scheme.")
                continue
            if self._closed:
                await reader.close()
                raise NodeUnavailable("The content was closed.")
            self._readers[index] = reader
            return reader
        raise error

    def _note(self, index: int, error: Exception) -> None:
        if not isinstance(error, DostoreError):
            raise error
        (self.slow if isinstance(error, Unavailable) else self.faulty).add(index)

    def _lost(self, found: int) -> DostoreError:
        scheme = self.content.scheme
        away = [m.address for m in self._cluster.members() if not m.live]
        text = f"{found} of the content's {scheme.shards} shards are there; {scheme.k} are needed"
        if found + len(away) + len(self.slow) >= scheme.k:
            names = ", ".join(sorted(away)) or "some"
            return Unavailable(
                f"{text}. Nodes out of reach: {names}. Try again when they are back."
            )
        return ContentLost(
            f"{text}, so it cannot be read. Store it again.", found=found, needed=scheme.k
        )

    def _split(self, shards: dict[int, bytes], first: int, count: int) -> list[dict[int, Block]]:
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
            for piece in pieces:
                hasher.update(piece)

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
        readers, self._readers = self._readers, {}
        await gather([reader.close() for reader in readers.values()])


class ContentReader:
    """A content as a stream.

    :ivar size: its bytes.
    :param verify: compare the content's SHA-256 too before its last bytes are handed out. Blocks
        are verified by the nodes that keep them; this is for nodes that are not trusted with it.
    :param on_end: told once, with the shards, when the reading has ended, however it did.
    """

    def __init__(
        self, shards: ShardSet, on_end: Callable[[ShardSet], None], *, verify: bool = False
    ) -> None:
        self.size = shards.content.size
        self._shards = shards
        self._on_end = on_end
        self._hasher = hashlib.sha256() if verify else None
        scheme = shards.content.scheme
        self._next = 0
        self._count = scheme.stripe_count(self.size)
        self._batch = max(1, BATCH_BYTES // scheme.stripe_size)
        self._first: Sequence[Block] | None = None
        self._closed = False

    async def begin(self) -> None:
        """Find the shards and read the first batch, so that what is lost is known before any byte.

        :raises ContentLost, Unavailable: it cannot be read.
        :raises Corrupt: it is small, and not what its hash says, whichever shards are taken.
        """
        if self._count:
            try:
                self._shards.expect()
                self._first = await self._read()
                if self._hasher is not None and self._next == self._count and not self._matches():
                    self._first = await self._read_without_liar()
            except BaseException:
                await self.close()
                raise

    async def read(self) -> Sequence[Block]:
        """The next bytes of the content, about 1 MiB, in pieces; none at the end.

        :raises ContentLost, Unavailable: the rest cannot be read.
        :raises Corrupt: what was read is not what its hash says; the last bytes are held back.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        pieces = await self._read()
        if pieces and self._next == self._count and not self._matches():
            raise Corrupt(f"What the nodes sent of {self._shards.content.hash} is not its content.")
        return pieces

    async def send(self, sink: IByteSink) -> None:
        """Write all that is left to a sink; one batch is read while the last is on its way."""
        pieces = await self.read()
        while pieces:
            sent, following = await gather([sink.write(pieces), self.read()])
            if sent.error is not None:
                raise sent.error
            pieces = following.value or ()

    async def _read(self) -> Sequence[Block]:
        count = min(self._batch, self._count - self._next)
        if count <= 0:
            return ()
        scheme = self._shards.content.scheme
        stripes = await self._shards.read_stripes(self._next, count)
        rows = await self._shards.rebuild(stripes, range(scheme.k))
        pieces: list[Block] = []
        for number, row in enumerate(rows, self._next):
            left = scheme.stripe_length(self.size, number)
            for index in range(scheme.k):
                block = row[index]
                if len(block) > left:
                    block = memoryview(block)[:left]
                if block:
                    pieces.append(block)
                left -= len(block)
        self._next += count
        if self._hasher is not None:
            await self._shards.hash(self._hasher, pieces)
        return pieces

    def _matches(self) -> bool:
        return self._hasher is None or self._hasher.digest() == self._shards.content.hash.digest

    async def _read_without_liar(self) -> Sequence[Block]:
        """Read a small content again, each time without one of the shards that made it wrong."""
        for index in sorted(self._shards.verified):
            self._shards.without = index
            self._hasher, self._next = hashlib.sha256(), 0
            try:
                pieces = await self._read()
            except (ContentLost, Unavailable):
                continue
            if self._matches():
                _log.error(
                    "{addresses} sent a wrong shard {index} of {hash}",
                    addresses=self._shards.holders(index),
                    index=index,
                    hash=self._shards.content.hash,
                )
                return pieces
        raise Corrupt(
            f"What the nodes sent of {self._shards.content.hash} is not its content, whichever "
            "shards are taken. Store it again."
        )

    async def close(self) -> None:
        """Release the shards. Idempotent."""
        if not self._closed:
            self._closed = True
            self._on_end(self._shards)
            await self._shards.close()
