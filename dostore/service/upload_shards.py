"""The temporary shards of one resumable upload: how far they have come, and how they go on."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.background import Background
from dostore.core.model import Content
from dostore.core.stripes import Block, StripeCoder
from dostore.core.upload_token import UploadToken, no_such_upload
from dostore.errors import (
    Busy,
    Conflict,
    Corrupt,
    DostoreError,
    NotFound,
    QuorumNotMet,
    Unavailable,
)
from dostore.fanout import Outcome, gather, gather_quorum
from dostore.ports import IByteSource, ICluster, IShardNode, ITempShards, IWorkers, Tail, TempState

_log = Logger()

#: How long the slower nodes get when enough others have done their part.
GRACE_S = 5.0

#: A shard that lags by more than this is left out and made again at the end, unless there would be
#: too few without it.
CATCH_UP_BYTES = 64 << 20

#: Stripes that are read back or rebuilt at a time.
READ_STRIPES = 16


@define(eq=False)
class TempShardOf:
    """One of the upload's temporary shards.

    :ivar stripes: whole stripes that it holds its blocks of.
    :ivar exact: it holds nothing after those.
    """

    index: int
    node: IShardNode
    token: str
    stripes: int = 0
    exact: bool = True
    note: bytes = field(default=b"", repr=False)
    tail: Tail | None = field(default=None, repr=False)

    @property
    def temps(self) -> ITempShards:
        """Where it is."""
        return self.node.temps


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


class UploadShards:
    """All temporary shards of an upload.

    :param quorum: how many shards a write needs.
    :ivar stripes: whole stripes of the content that are held.
    :ivar tail: the bytes of the content after those.
    :ivar note: what was kept with the shards when the upload was opened.
    """

    def __init__(
        self,
        token: UploadToken,
        cluster: ICluster,
        *,
        workers: IWorkers,
        clock: IReactorTime,
        background: Background,
        quorum: int,
    ) -> None:
        self.token = token
        self.stripes = 0
        self.tail = b""
        self.note = b""
        self._workers = workers
        self._clock = clock
        self._background = background
        self._quorum = quorum
        self._scheme = token.scheme
        self._coder = StripeCoder(token.scheme)
        self._owner = secrets.token_hex(16)
        members = {member.address: member for member in cluster.members() if member.live}
        self._shards = [
            TempShardOf(index, members[address].node, token.shard_token(index))
            for index, address in enumerate(token.addresses)
            if address in members
        ]
        self._known = list(self._shards)
        self._away = sum(1 for address in token.addresses if address and address not in members)
        self._errors: dict[str, str] = {}
        self._ended = False

    @property
    def held(self) -> int:
        """Bytes of the content that are held."""
        return self.stripes * self._scheme.stripe_size + len(self.tail)

    @property
    def nodes(self) -> Mapping[int, IShardNode]:
        """Who has which shard, of those that are in step."""
        return {shard.index: shard.node for shard in self._shards}

    # Looking and claiming

    async def look(self) -> int:
        """How many bytes of the content are held, without taking part in anything.

        :raises NotFound: there is no such upload any more.
        :raises Unavailable: too few of its nodes can be asked.
        """
        outcomes = await gather_quorum(
            [shard.temps.about(shard.token) for shard in self._shards],
            need=len(self._shards),
            grace_s=GRACE_S,
            clock=self._clock,
            deadline_s=GRACE_S,
        )
        self._take(outcomes)
        return self.held

    async def claim(self) -> None:
        """Have the upload for oneself until :meth:`release`; it has to be renewed.

        The first node that can be asked decides who gets it, when two want it at the same time.

        :raises Busy: somebody else has it.
        :raises NotFound, Unavailable: see :meth:`look`.
        """
        outcomes: list[Outcome[TempState] | None] = []
        try:
            while not any(outcome is not None and outcome.ok for outcome in outcomes):
                if len(outcomes) == len(self._shards):
                    break
                shard = self._shards[len(outcomes)]
                outcomes += await gather([shard.temps.claim(shard.token, self._owner)])
                _require_no_conflict(outcomes)
            rest = self._shards[len(outcomes) :]
            outcomes += await gather(
                [shard.temps.claim(shard.token, self._owner) for shard in rest]
            )
            _require_no_conflict(outcomes)
            self._take(outcomes)
            self._require()
        except BaseException:
            self.release()
            raise

    def _take(self, outcomes: Sequence[Outcome[TempState] | None]) -> None:
        """Draw conclusions from what the nodes say."""
        present = []
        gone = 0
        for shard, outcome in zip(self._shards, outcomes, strict=True):
            if outcome is not None and outcome.ok:
                state = outcome.value
                shard.stripes, rest = divmod(state.held, self._scheme.block_size)
                shard.exact = not rest
                shard.tail, shard.note = state.tail, state.about.note
                present.append(shard)
            elif outcome is not None and isinstance(outcome.error, NotFound):
                gone += 1
            else:
                self._fail(shard, None if outcome is None else outcome.error)
        asked, self._shards = len(self._shards), present
        if len(present) < self._scheme.k:
            # With more gone than may be lost, those that are away cannot make up for it.
            if asked - gone + self._away >= self._scheme.k:
                raise self._too_few()
            raise no_such_upload()
        self._judge()

    def _judge(self) -> None:
        """How far the upload has come, by what k of the shards hold."""
        size, stripe = self.token.size, self._scheme.stripe_size
        # A last, shorter stripe is in the tail until the end.
        most = sorted((shard.stripes for shard in self._shards), reverse=True)
        self.stripes = min(most[self._scheme.k - 1], size // stripe)
        start = self.stripes * stripe
        tails = [
            shard.tail.data for shard in self._shards if shard.tail and shard.tail.start == start
        ]
        # Less than a stripe each: a longer one would have been made one.
        sound = [tail for tail in tails if len(tail) < stripe and start + len(tail) <= size]
        self.tail = max(sound, key=len, default=b"")
        self.note = self._shards[0].note
        for shard in self._shards:
            shard.tail, shard.note = None, b""

    def _require(self) -> None:
        if len(self._shards) < self._quorum:
            raise self._too_few()

    def _too_few(self) -> QuorumNotMet:
        failed = ", ".join(f"{address}: {why}" for address, why in sorted(self._errors.items()))
        return QuorumNotMet(
            f"{len(self._shards)} of the upload's shards can be reached; going on needs"
            f" {self._quorum}.{f' Failed: {failed}.' if failed else ''} Try again later.",
            outcomes=self._errors,
        )

    def _fail(self, shard: TempShardOf, error: Exception | None) -> None:
        if error is not None and not isinstance(error, DostoreError):
            raise error
        self._errors[shard.node.address] = "no answer" if error is None else str(error).rstrip(".")

    async def renew(self) -> None:
        """Keep the claim."""
        await gather([shard.temps.claim(shard.token, self._owner) for shard in self._shards])

    def release(self) -> None:
        """Give the claim back. Nobody waits for a node that hangs."""
        shards, self._shards = self._shards, []
        for shard in shards if not self._ended else ():
            self._background.run("release", shard.temps.release(shard.token, self._owner))

    # Getting in step

    async def align(self) -> None:
        """Have all shards hold the same stripes: cut those that are ahead, for their bytes may be
        others than those that come now, and let those catch up that lag.

        :raises QuorumNotMet: too few can be brought in step.
        """
        ahead = [s for s in self._shards if s.stripes > self.stripes or not s.exact]
        held = self.stripes * self._scheme.block_size
        await self._each(
            [s for s in ahead if s.stripes >= self.stripes],
            lambda shard: shard.temps.cut(shard.token, held, self._owner),
        )
        lagging = sorted(
            (s for s in self._shards if s.stripes < self.stripes),
            key=lambda shard: shard.stripes,
            reverse=True,
        )
        self._shards = [shard for shard in self._shards if shard.stripes >= self.stripes]
        for shard in lagging:
            lag = (self.stripes - shard.stripes) * self._scheme.block_size
            if lag > CATCH_UP_BYTES and len(self._shards) >= self._quorum:
                self._fail(shard, Unavailable("it lags and is made again at the end"))
                self._background.run("release", shard.temps.release(shard.token, self._owner))
                continue
            try:
                await self._catch_up(shard)
            except DostoreError as error:
                self._fail(shard, error)
                continue
            self._shards.append(shard)
        self._shards.sort(key=lambda shard: shard.index)
        self._require()

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

    async def _catch_up(self, shard: TempShardOf) -> None:
        """Rebuild from others what a shard lacks."""
        if not shard.exact:
            held = shard.stripes * self._scheme.block_size
            await shard.temps.cut(shard.token, held, self._owner)
        while shard.stripes < self.stripes:
            count = min(READ_STRIPES, self.stripes - shard.stripes)
            stripes = await self._read_stripes(shard.stripes, count)
            blocks = await self._workers.run(self._rebuild, stripes, [shard.index])
            offset = shard.stripes * self._scheme.block_size
            await shard.temps.append(
                shard.token, Pieces([each[shard.index] for each in blocks]), offset, self._owner
            )
            shard.stripes += count

    # Reading back

    async def read(self, first: int, count: int) -> list[Block]:
        """The content of whole stripes that are held, in pieces.

        :raises Unavailable: fewer than k shards can be read.
        """
        stripes = await self._read_stripes(first, count)
        wanted = range(self._scheme.k)
        if any(index not in stripe for stripe in stripes for index in wanted):
            stripes = await self._workers.run(self._rebuild, stripes, list(wanted))
        return [stripe[index] for stripe in stripes for index in wanted]

    def _rebuild(
        self, stripes: Sequence[dict[int, Block]], wanted: Sequence[int]
    ) -> list[dict[int, Block]]:
        return [self._coder.rebuild(stripe, wanted) for stripe in stripes]

    async def _read_stripes(self, first: int, count: int) -> list[dict[int, Block]]:
        """k blocks, by index, of each of some stripes."""
        block = self._scheme.block_size
        sources = [s for s in self._shards if s.stripes >= first + count]
        found: dict[int, memoryview] = {}
        while len(found) < self._scheme.k and sources:
            wanted = self._scheme.k - len(found)
            asked, sources = sources[:wanted], sources[wanted:]
            outcomes = await gather(
                [self._read_blocks(shard, first * block, count * block) for shard in asked]
            )
            for shard, outcome in zip(asked, outcomes, strict=True):
                if outcome.ok:
                    found[shard.index] = memoryview(outcome.value)
                else:
                    self._fail(shard, outcome.error)
                    _log.warn("A shard cannot be read back: {error}", error=outcome.error)
        if len(found) < self._scheme.k:
            raise self._too_few()
        return [
            {index: data[at * block : (at + 1) * block] for index, data in found.items()}
            for at in range(count)
        ]

    async def _read_blocks(self, shard: TempShardOf, offset: int, size: int) -> bytes:
        pieces = []
        while size:
            piece = await shard.temps.read(shard.token, offset, size)
            if not piece:
                raise Corrupt(f"{shard.node.address} holds less than it said.")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # Writing

    async def append(self, data: Block) -> None:
        """Append whole stripes of content; the content's last may be a shorter one.

        :raises QuorumNotMet: too few nodes took them.
        """
        shards: list[list[Block]] = await self._workers.run(self._coder.encode, data)
        offset = self.stripes * self._scheme.block_size
        await self._quorum_of(
            [
                shard.temps.append(shard.token, Pieces(shards[shard.index]), offset, self._owner)
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
        kept = Tail(self.stripes * self._scheme.stripe_size, tail) if tail else None
        holders = {shard.index for shard in self._shards[: self._scheme.m + 1]}
        await self._quorum_of(
            [
                shard.temps.settle(
                    shard.token, kept if shard.index in holders else None, self._owner
                )
                for shard in self._shards
            ]
        )
        # As many copies of the tail as there are shards more than reading needs.
        left = sum(1 for shard in self._shards if shard.index in holders)
        if kept is not None and left <= min(self._quorum, self._scheme.shards) - self._scheme.k:
            raise self._too_few()

    async def _quorum_of(self, coros: Sequence[Coroutine[Any, Any, object]]) -> None:
        """Wait for enough of the shards, in their order; those that fail or lag are left out."""
        outcomes = await gather_quorum(coros, need=self._quorum, grace_s=GRACE_S, clock=self._clock)
        in_step = []
        for shard, outcome in zip(self._shards, outcomes, strict=True):
            if outcome is not None and outcome.ok:
                in_step.append(shard)
                continue
            self._fail(shard, None if outcome is None else outcome.error)
            self._background.run("release", shard.temps.release(shard.token, self._owner))
        self._shards = in_step
        self._require()

    # The end

    async def commit(self, content: Content) -> list[Outcome[None] | None]:
        """Make durable shards of them; the outcome of each node, in the order of :attr:`nodes`."""
        return await gather_quorum(
            [shard.temps.commit(shard.token, content, None, self._owner) for shard in self._shards],
            need=self._quorum,
            grace_s=GRACE_S,
            clock=self._clock,
        )

    def abort(self) -> None:
        """Remove them all. Nobody waits for a node that hangs: what it keeps is swept."""
        self._ended = True
        for shard in self._known:
            self._background.run("drop", shard.temps.drop(shard.token))

    async def drop(self) -> None:
        """Remove them all, and wait for it.

        :raises Conflict: they are being made durable shards.
        """
        self._ended = True
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


def _require_no_conflict(outcomes: Sequence[Outcome[TempState] | None]) -> None:
    for outcome in outcomes:
        if outcome is not None and isinstance(outcome.error, Conflict):
            raise Busy(
                "Another part of this upload is being received. Try again when it has ended, or in"
                " some seconds."
            )
