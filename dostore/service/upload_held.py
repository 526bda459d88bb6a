"""What the nodes hold of a resumable upload, and the claim on it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.background import Background
from dostore.core.upload_token import UploadToken, no_such_upload
from dostore.errors import Busy, Conflict, DostoreError, NoSpace, NotFound, QuorumNotMet
from dostore.fanout import Outcome, gather, gather_quorum
from dostore.ports import CLAIM_S, ICluster, IShardNode, IWorkers, TempState
from dostore.service.held_stripes import HeldStripes
from dostore.service.shard_stream import too_full
from dostore.service.upload_places import TempShardOf, UploadPlaces

_log = Logger()

#: How long the slower nodes get when enough others have done their part.
GRACE_S = 5.0

#: A claim is renewed this often, and no longer is waited for that.
RENEW_S = CLAIM_S / 3

#: Who has sent a part is not told of it before its claim has been released, but this long at most.
RELEASE_S = 1.0


class HeldUpload:
    """All temporary shards of an upload, as its nodes know them.

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
            [if_it_can(shard.temps.release, shard.token, self.owner) for shard in shards],
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
                released = if_it_can(shard.temps.release, shard.token, self.owner)
                self._background.run("release", released)


async def if_it_can(step: Callable[..., Coroutine[Any, Any, object]], *arguments: str) -> None:
    """For what a node that is away does by itself, later."""
    try:
        await step(*arguments)
    except DostoreError as error:
        _log.info("Left to the node: {error}", error=error)
