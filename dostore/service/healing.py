"""Healing: all nodes are looked through for contents that lack shards, or have lost too many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dostore.background import Background
from dostore.core.names import ContentHash
from dostore.core.schemes import Schemes
from dostore.errors import MetadataUnavailable
from dostore.fanout import gather
from dostore.ports import ICluster, IMetadataStore, Member
from dostore.service.census import info_of
from dostore.service.leases import Leases
from dostore.service.losses import Losses

_log = Logger()

#: How often is looked whether all nodes are known.
SETTLING_INTERVAL_S = 1.0

#: Of so many contents that look like whole copies, a look finds out whether they are; the next one
#: goes on after them. Each costs a read, and a store of small objects may have millions.
_SUSPECTS = 4000

#: So many of them at a time.
_SUSPECTS_AT_ONCE = 16


class Healing:
    """Looks through all nodes, one look at a time.

    :param losses: the contents that are known to be lost; they are not noticed again.
    :param notice: has a content repaired.
    """

    def __init__(
        self,
        cluster: ICluster,
        metadata: IMetadataStore,
        schemes: Schemes,
        *,
        clock: IReactorTime,
        leases: Leases,
        background: Background,
        losses: Losses,
        notice: Callable[[ContentHash], None],
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._schemes = schemes
        self._clock = clock
        self._leases = leases
        self._background = background
        self._losses = losses
        self._notice = notice
        self._suspects: list[tuple[ContentHash, int, Member]] = []
        self._go_on_after: ContentHash | None = None
        self._running = False
        self._again = False

    def begin(self) -> None:
        """Begin a look, or have another one after that which is under way."""
        if self._running:
            self._again = True
            return
        self._running = True
        self._background.run("heal", self._heal())

    async def _heal(self) -> None:
        try:
            while not self._cluster.settled():
                await deferLater(self._clock, SETTLING_INTERVAL_S)
            while True:
                self._again = False
                began = self._clock.seconds()
                self._suspects = []
                for page in range(256):
                    await self._page(page)
                    # A page may hold thousands: let others have a turn.
                    await deferLater(self._clock, 0)
                await self._look_at_suspects()
                await self._forget_nobodys()
                if not self._again:
                    return
                # Nodes that come and go all the time must not have it look all the time.
                await deferLater(self._clock, self._clock.seconds() - began)
        finally:
            self._running = False

    async def _page(self, page: int) -> None:
        known = self._cluster.members()
        members = [m for m in known if m.live]
        outcomes = await gather([m.node.inventory(page) for m in members])
        found: dict[ContentHash, dict[int, Member]] = {}
        takers: dict[ContentHash, int] = {}
        copies: dict[ContentHash, int] = {}
        writable = sum(1 for member in members if member.writable)
        for member, outcome in zip(members, outcomes, strict=True):
            if outcome.ok:
                for content_hash, indexes in outcome.value.items():
                    holders = found.setdefault(content_hash, {})
                    copies[content_hash] = copies.get(content_hash, 0) + len(
                        holders.keys() & indexes
                    )
                    holders.update(dict.fromkeys(indexes, member))
                    # A node that has a shard of a content takes no other of it.
                    takers[content_hash] = takers.get(content_hash, writable) - member.writable
        away = len(known) - sum(outcome.ok for outcome in outcomes)
        perhaps: list[ContentHash] = []
        for content_hash in sorted(found):
            holders = found[content_hash]
            # The shards of a content that is being written are not missing, only not there yet.
            if self._leases.held(content_hash):
                continue
            # A node with a copy of what another has too can give that up.
            room = takers[content_hash] + copies[content_hash] > 0
            # What is away might be enough with what is there.
            lost = len(holders) + away < self._schemes.usual.k
            if self._schemes.are_whole(holders):
                if lost:
                    self._suspect(content_hash, holders)
                elif content_hash in self._losses:
                    self._notice(content_hash)
            elif len(holders) >= self._schemes.usual.k:
                if room or content_hash in self._losses:
                    self._notice(content_hash)
            elif lost or (room and self._schemes.may_be_copies(holders)):
                perhaps.append(content_hash)
        await self._notice_referenced(perhaps)

    def _suspect(self, content_hash: ContentHash, holders: Mapping[int, Member]) -> None:
        """It is one of copies that is whole, or what is left of one by the usual scheme."""
        if self._go_on_after is not None and content_hash <= self._go_on_after:
            return
        if len(self._suspects) < _SUSPECTS:
            index, member = next(iter(holders.items()))
            self._suspects.append((content_hash, index, member))

    async def _look_at_suspects(self) -> None:
        """Have those noticed that are no copies, or have been lost until now."""
        suspects, self._suspects = self._suspects, []
        self._go_on_after = suspects[-1][0] if len(suspects) == _SUSPECTS else None
        for at in range(0, len(suspects), _SUSPECTS_AT_ONCE):
            some = suspects[at : at + _SUSPECTS_AT_ONCE]
            outcomes = await gather(
                [info_of(member.node, content_hash, index) for content_hash, index, member in some]
            )
            lost: list[ContentHash] = []
            for (content_hash, _, _), outcome in zip(some, outcomes, strict=True):
                # One that cannot be read is another matter, and the next look's.
                if outcome.ok:
                    if outcome.value.content.scheme.k > self._schemes.copies.shards:
                        lost.append(content_hash)
                    elif content_hash in self._losses:
                        self._notice(content_hash)
            await self._notice_referenced(lost)
            await deferLater(self._clock, 0)

    async def _forget_nobodys(self) -> None:
        try:
            await self._losses.forget_nobodys()
        except MetadataUnavailable as error:
            _log.info("What is lost is not known now: {error}", error=error)

    async def _notice_referenced(self, hashes: Sequence[ContentHash]) -> None:
        """Have contents with few shards repaired if they are copies, else told of as lost, unless
        they are what failed writes left.
        """
        hashes = [content_hash for content_hash in hashes if content_hash not in self._losses]
        try:
            referenced = await self._metadata.referenced(hashes) if hashes else set()
        except MetadataUnavailable as error:
            _log.info("What is lost is not known now: {error}", error=error)
            return
        for content_hash in referenced:
            self._notice(content_hash)
