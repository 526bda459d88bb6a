"""The temporary shards of one resumable upload: how they get in step, and how they go on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from dostore.core.model import Content
from dostore.core.stripes import Block, StripeCoder
from dostore.errors import Conflict, DostoreError, Unavailable
from dostore.fanout import Outcome, gather, gather_quorum
from dostore.ports import IByteSource, Tail, TempAbout
from dostore.service.held_stripes import READ_STRIPES
from dostore.service.upload_held import GRACE_S, HeldUpload, if_it_can
from dostore.service.upload_places import TempShardOf

_log = Logger()

#: A shard that lags by more than this is left out and made again at the end, unless there would be
#: too few without it.
CATCH_UP_BYTES = 64 << 20


@implementer(IByteSource)
class Pieces:
    """A source of bytes that are there."""

    def __init__(self, pieces: Sequence[Block]) -> None:
        self._data = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        taken, self._data = self._data[:size], self._data[size:]
        return bytes(taken)

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        return await self.read(size)


class UploadShards(HeldUpload):
    """The same, brought in step and written. It is claimed first."""

    # Getting in step

    async def align(self) -> None:
        """Have all shards hold the same stripes: cut those that are ahead, for their bytes may be
        others than those that come now, and let those catch up that lag. When there are too few,
        begin others in their place.

        :raises QuorumNotMet, NoSpace: too few can be brought in step.
        """
        held = self.stripes * self._scheme.block_size
        await self._each(
            [
                s
                for s in self._shards
                if s.stripes > self.stripes or (s.stripes == self.stripes and not s.exact)
            ],
            lambda shard: shard.temps.cut(shard.token, held, self.owner),
        )
        lagging = sorted(
            (s for s in self._shards if s.stripes < self.stripes),
            key=lambda shard: shard.stripes,
            reverse=True,
        )
        self._shards = [shard for shard in self._shards if shard.stripes >= self.stripes]
        for shard in self._shards:
            shard.stripes = self.stripes
        for shard in lagging:
            lag = (self.stripes - shard.stripes) * self._scheme.block_size
            if lag > CATCH_UP_BYTES and len(self._shards) >= self._quorum:
                self._fail(shard, Unavailable("it lags and is made again at the end"))
                self._let_go([shard])
                continue
            await self._bring_in(shard)
        await self._come_home()
        if len(self._shards) < self._quorum:
            await self._begin_others()
        self._shards.sort(key=lambda shard: shard.index)
        self._require()

    async def _come_home(self) -> None:
        """Have shards back on the nodes that the token names, now that these are back; else the
        others, which took their place, would be missing for the next ones that are lost.
        """
        doubles, self._doubles = self._doubles, []
        for shard in doubles:
            other = next((each for each in self._shards if each.index == shard.index), None)
            if other is not None and shard.named:
                lag = (self.stripes - shard.stripes) * self._scheme.block_size
                far = lag > CATCH_UP_BYTES and len(self._shards) >= self._quorum
                if far or not await self._bring_in(shard):
                    self._let_go([shard])
                    continue
                self._shards.remove(other)
                shard = other
            await if_it_can(shard.temps.drop, shard.token)

    async def _each(
        self,
        shards: Sequence[TempShardOf],
        step: Callable[[TempShardOf], Coroutine[Any, Any, object]],
    ) -> None:
        """Do something with some shards; those that fail are left out from here on."""
        outcomes = await gather([step(shard) for shard in shards])
        for shard, outcome in zip(shards, outcomes, strict=True):
            if not outcome.ok:
                self._fail(shard, outcome.error)
                self._shards.remove(shard)

    async def _begin_others(self) -> None:
        """Begin shards anew, as many as a write needs, in the place of those that are lost."""
        missing = set(range(self._scheme.shards)) - {shard.index for shard in self._shards}
        taken = {shard.node.address for shard in self._shards}
        token = self.token
        for shard in self._places.homes(missing, taken):
            if len(self._shards) >= self._quorum:
                return
            if shard.index in {known.index for known in self._shards}:
                continue
            about = TempAbout(
                shard.index, self._scheme, token.hash, token.size, self.note, self._keep_s
            )
            self._known.append(shard)
            try:
                await shard.temps.open(about, shard.token)
                self._claimed.append(shard)
                await shard.temps.claim(shard.token, self.owner)
            except DostoreError as error:
                self._fail(shard, error)
                continue
            _log.info(
                "Shard {index} of an upload is begun anew on {address}",
                index=shard.index,
                address=shard.node.address,
            )
            if await self._bring_in(shard):
                taken.add(shard.node.address)

    async def _bring_in(self, shard: TempShardOf) -> bool:
        """Rebuild from others what a shard lacks; whether it is in step then, durably."""
        try:
            await self._catch_up(shard)
            await shard.temps.settle(shard.token, self._kept_tail(), self.owner)
        except DostoreError as error:
            self._fail(shard, error)
            self._let_go([shard])
            return False
        self._shards.append(shard)
        return True

    async def _catch_up(self, shard: TempShardOf) -> None:
        if shard.stripes > self.stripes:
            shard.stripes, shard.exact = self.stripes, False
        if not shard.exact:
            held = shard.stripes * self._scheme.block_size
            await shard.temps.cut(shard.token, held, self.owner)
        while shard.stripes < self.stripes:
            count = min(READ_STRIPES, self.stripes - shard.stripes)
            blocks = await self._stripes.shard(self._shards, shard.index, shard.stripes, count)
            offset = shard.stripes * self._scheme.block_size
            await shard.temps.append(shard.token, Pieces(blocks), offset, self.owner)
            shard.stripes += count

    async def read(self, first: int, count: int) -> list[Block]:
        """The content of stripes that are held, in pieces; see HeldStripes."""
        return await self._stripes.content(self._shards, first, count)

    # Writing

    async def append(self, data: Block) -> None:
        """Append whole stripes of content; the content's last may be a shorter one.

        :raises QuorumNotMet: too few nodes took them.
        """
        shards: list[list[Block]] = await self._workers.run(StripeCoder(self._scheme).encode, data)
        offset = self.stripes * self._scheme.block_size
        await self._quorum_of(
            [
                shard.temps.append(shard.token, Pieces(shards[shard.index]), offset, self.owner)
                for shard in self._shards
            ]
        )
        self.stripes += len(shards[0])
        for shard in self._shards:
            shard.stripes = self.stripes

    async def settle(self, tail: bytes) -> None:
        """Make durable what is held, and keep what comes after the last stripe on as many nodes as
        may be lost, and one more.

        :raises QuorumNotMet: too few nodes did so.
        """
        self.tail = tail
        kept = self._kept_tail()
        holders = {shard.index for shard in self._shards[: self._scheme.m + 1]}
        await self._quorum_of(
            [
                shard.temps.settle(
                    shard.token, kept if shard.index in holders else None, self.owner
                )
                for shard in self._shards
            ]
        )
        # As many copies of the tail as there are shards more than reading needs.
        left = sum(1 for shard in self._shards if shard.index in holders)
        if kept is not None and left <= min(self._quorum, self._scheme.shards) - self._scheme.k:
            raise self._too_few()

    def _kept_tail(self) -> Tail | None:
        return Tail(self.stripes * self._scheme.stripe_size, self.tail) if self.tail else None

    async def _quorum_of(self, coros: Sequence[Coroutine[Any, Any, object]]) -> None:
        """Wait for enough of the shards, in their order; those that fail or lag are left out."""
        outcomes = await gather_quorum(coros, need=self._quorum, grace_s=GRACE_S, clock=self._clock)
        in_step = []
        for shard, outcome in zip(self._shards, outcomes, strict=True):
            if outcome is not None and outcome.ok:
                in_step.append(shard)
                continue
            self._fail(shard, None if outcome is None else outcome.error)
            self._let_go([shard])
        self._shards = in_step
        self._require()

    # The end

    async def commit(self, content: Content) -> list[Outcome[None] | None]:
        """Make durable shards of them; the outcome of each node, in the order of :attr:`nodes`."""
        return await gather_quorum(
            [shard.temps.commit(shard.token, content, None, self.owner) for shard in self._shards],
            need=self._quorum,
            grace_s=GRACE_S,
            clock=self._clock,
        )

    def abort(self) -> None:
        """Nothing: they stay until there is a version, see :meth:`forget`."""

    def forget(self) -> None:
        """Remove all that is left of them. Nobody waits for a node that hangs: it sweeps."""
        self._claimed = []
        for shard in self._known:
            self._background.run("drop", if_it_can(shard.temps.drop, shard.token))

    async def drop(self) -> None:
        """Remove them all, and wait for it.

        :raises Conflict: they are being made durable shards.
        """
        self._claimed = []
        outcomes = await gather_quorum(
            [shard.temps.drop(shard.token) for shard in self._known],
            need=len(self._known),
            grace_s=GRACE_S,
            clock=self._clock,
            deadline_s=GRACE_S,
        )
        for outcome in outcomes:
            if outcome is not None and isinstance(outcome.error, Conflict):
                raise outcome.error
