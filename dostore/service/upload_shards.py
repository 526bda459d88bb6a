"""The temporary shards of one resumable upload: how far they have come, and how they go on."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

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
    DostoreError,
    NoSpace,
    NotFound,
    QuorumNotMet,
    Unavailable,
)
from dostore.fanout import Outcome, gather, gather_quorum
from dostore.ports import (
    CLAIM_S,
    IByteSource,
    ICluster,
    IShardNode,
    IWorkers,
    Tail,
    TempAbout,
    TempState,
)
from dostore.service.held_stripes import READ_STRIPES, HeldStripes
from dostore.service.shard_stream import too_full
from dostore.service.upload_places import TempShardOf, UploadPlaces

_log = Logger()

#: How long the slower nodes get when enough others have done their part.
GRACE_S = 5.0

#: A claim is renewed this often, and no longer is waited for that.
RENEW_S = CLAIM_S / 3

#: Who has sent a part is not told of it before its claim has been released, but this long at most.
RELEASE_S = 1.0

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


class UploadShards:
    """All temporary shards of an upload.

    :param quorum: how many shards a write needs.
    :ivar stripes: stripes of the content that are held: whole ones, and the content's last one.
    :ivar tail: the bytes of the content after those.
    :ivar note: what was kept with the shards when the upload was opened.
    :ivar owner: what its nodes call who writes by this.
    :ivar last_owner: who wrote last before that; empty: nobody, or it is not known.
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
        self.owner = secrets.token_hex(16)
        self.last_owner = ""
        self._workers = workers
        self._clock = clock
        self._background = background
        self._quorum = quorum
        self._scheme = token.scheme
        self._coder = StripeCoder(token.scheme)
        self._stripes = HeldStripes(token, workers, self._fail)
        self._places = UploadPlaces(token, cluster)
        self._named = self._places.named()
        #: Those that are in step; before that is known, all that there are.
        self._shards: list[TempShardOf] = []
        #: Of some indexes there are two: these are not in step, or are not needed.
        self._doubles: list[TempShardOf] = []
        self._known = list(self._named)
        self._claimed: list[TempShardOf] = []
        self._keep_s: int | None = None
        self._errors: dict[str, Exception | None] = {}

    @property
    def held(self) -> int:
        """Bytes of the content that are held."""
        size = self.token.size
        return min(self.stripes * self._scheme.stripe_size + len(self.tail), size)

    @property
    def nodes(self) -> Mapping[int, IShardNode]:
        """Who has which shard, of those that are in step."""
        return {shard.index: shard.node for shard in self._shards}

    @property
    def committed(self) -> bool:
        """Whether some are durable shards already: all came, and was what its hash says."""
        return any(shard.committed for shard in self._shards)

    # Looking and claiming

    async def look(self) -> int:
        """How many bytes of the content are held, without taking part in anything.

        :raises NotFound: there is no such upload any more.
        :raises Unavailable: too few of its nodes can be asked.
        """
        for elsewhere in (False, True):
            shards = self._elsewhere() if elsewhere else self._named
            outcomes = await gather_quorum(
                [shard.temps.about(shard.token) for shard in shards],
                need=len(shards),
                grace_s=GRACE_S,
                clock=self._clock,
                deadline_s=GRACE_S,
            )
            self._learn(shards, outcomes)
        self._judge()
        return self.held

    async def claim(self) -> None:
        """Have the upload for oneself until :meth:`release`; it has to be renewed.

        The first node that can be asked decides who gets it, when two want it at the same time.

        :raises Busy: somebody else has it.
        :raises NotFound, Unavailable: see :meth:`look`.
        """
        try:
            rest = list(self._named)
            while rest and not self._shards:
                await self._claim([rest.pop(0)])
            await self._claim(rest)
            await self._claim(self._elsewhere())
            self._judge()
        except BaseException:
            self.let_go()
            raise

    async def _claim(self, shards: Sequence[TempShardOf]) -> None:
        outcomes = await gather([shard.temps.claim(shard.token, self.owner) for shard in shards])
        self._claimed += [s for s, outcome in zip(shards, outcomes, strict=True) if outcome.ok]
        for outcome in outcomes:
            if isinstance(outcome.error, Conflict):
                raise Busy(
                    "Another part of this upload is being received. Try again when it has ended, or"
                    " in some seconds."
                )
        self._learn(shards, outcomes)

    def _elsewhere(self) -> list[TempShardOf]:
        """Where there may be shards in the place of those that are missing or lag behind."""
        self._distrust()
        most = max((shard.stripes for shard in self._shards), default=0)
        known = {shard.index for shard in self._shards if shard.stripes == most}
        return self._places.others(set(range(self._scheme.shards)) - known)

    def _learn(
        self, shards: Sequence[TempShardOf], outcomes: Sequence[Outcome[TempState] | None]
    ) -> None:
        """Take note of what nodes say of their shards."""
        for shard, outcome in zip(shards, outcomes, strict=True):
            if outcome is not None and isinstance(outcome.error, NotFound):
                continue
            if not shard.named:
                self._known.append(shard)
            if outcome is not None and outcome.ok:
                shard.learn(outcome.value, self.token.size)
                self._shards.append(shard)
            else:
                self._fail(shard, None if outcome is None else outcome.error)

    def _judge(self) -> None:
        """How far the upload has come, by what k of the shards hold."""
        self._distrust()
        best: dict[int, TempShardOf] = {}
        for shard in sorted(self._shards, key=lambda s: (s.committed, s.stripes, s.named)):
            best[shard.index] = shard
        total = self._scheme.stripe_count(self.token.size)
        if any(shard.committed for shard in best.values()):
            # All others had come as far, or do not matter any more.
            best = {index: shard for index, shard in best.items() if shard.stripes == total}
        self._doubles = [shard for shard in self._shards if best.get(shard.index) is not shard]
        self._shards = [best[index] for index in sorted(best)]
        if len(best) < self._scheme.k:
            # With more gone than may be lost, those that are away cannot make up for it.
            if len(best) + len(self._errors) + self._places.away >= self._scheme.k:
                raise self._too_few()
            raise no_such_upload()
        most = sorted((shard.stripes for shard in self._shards), reverse=True)
        self.stripes = most[self._scheme.k - 1]
        self.tail = self._longest_tail()
        self.note, self._keep_s = self._shards[0].note, self._shards[0].keep_s
        for shard in self._shards:
            shard.tail, shard.note = None, b""

    def _distrust(self) -> None:
        """Leave out what came to a shard that missed the writer whom k others had last: it may have
        been sent again since, and otherwise.
        """
        temporary = [shard for shard in self._shards if not shard.committed]
        votes = Counter(shard.owner for shard in temporary)
        last, count = max(votes.items(), key=lambda item: item[1], default=("", 0))
        if count < self._scheme.k:
            # Who had fewer has brought nothing that is held.
            return
        self.last_owner = last
        for shard in temporary:
            if shard.owner != last and shard.stripes > shard.agreed:
                shard.stripes, shard.exact = shard.agreed, False

    def _longest_tail(self) -> bytes:
        size, stripe = self.token.size, self._scheme.stripe_size
        start = self.stripes * stripe
        tails = [
            shard.tail.data for shard in self._shards if shard.tail and shard.tail.start == start
        ]
        # Less than a stripe each: a longer one would have been made one.
        sound = [tail for tail in tails if len(tail) < stripe and start + len(tail) <= size]
        return max(sound, key=len, default=b"")

    def _require(self) -> None:
        if len(self._shards) < self._quorum:
            raise self._too_few()

    def _too_few(self) -> DostoreError:
        have = len(self._shards)
        text = f"{have} of the upload's shards can be reached; going on needs {self._quorum}."
        full = [a for a, error in self._errors.items() if isinstance(error, NoSpace)]
        if full and have + len(full) >= self._quorum:
            return NoSpace(f"{text} {too_full(full)}")
        told = {
            address: "no answer" if error is None else str(error).rstrip(".")
            for address, error in sorted(self._errors.items())
        }
        failed = ", ".join(f"{address}: {why}" for address, why in told.items())
        return QuorumNotMet(
            f"{text}{f' Failed: {failed}.' if failed else ''} Try again later.", outcomes=told
        )

    def _fail(self, shard: TempShardOf, error: Exception | None) -> None:
        if error is not None and not isinstance(error, DostoreError):
            raise error
        self._errors[shard.node.address] = error

    async def renew(self) -> None:
        """Keep the claim. A node that hangs does not keep others from hearing of it."""
        shards = list(self._shards)
        await gather_quorum(
            [shard.temps.claim(shard.token, self.owner) for shard in shards],
            need=len(shards),
            grace_s=RENEW_S,
            clock=self._clock,
            deadline_s=RENEW_S,
        )

    async def release(self) -> None:
        """Give the claim back, so that who comes next gets it. A node that hangs is not waited
        for.
        """
        shards, self._claimed = self._claimed, []
        await gather_quorum(
            [_if_it_can(shard.temps.release, shard.token, self.owner) for shard in shards],
            need=len(shards),
            grace_s=RELEASE_S,
            clock=self._clock,
            deadline_s=RELEASE_S,
        )

    def let_go(self) -> None:
        """The same, but nothing is waited for."""
        self._let_go(list(self._claimed))

    def _let_go(self, shards: Sequence[TempShardOf]) -> None:
        for shard in shards:
            if shard in self._claimed:
                self._claimed.remove(shard)
                released = _if_it_can(shard.temps.release, shard.token, self.owner)
                self._background.run("release", released)

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
            await _if_it_can(shard.temps.drop, shard.token)

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
        shards: list[list[Block]] = await self._workers.run(self._coder.encode, data)
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
            self._background.run("drop", _if_it_can(shard.temps.drop, shard.token))

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


async def _if_it_can(step: Callable[..., Coroutine[Any, Any, object]], *arguments: str) -> None:
    """For what a node that is away does by itself, later."""
    try:
        await step(*arguments)
    except DostoreError as error:
        _log.info("Left to the node: {error}", error=error)
