"""Healing: all nodes are looked through for contents that lack shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dostore.background import Background
from dostore.core.names import ContentHash
from dostore.core.schemes import Schemes
from dostore.errors import MetadataUnavailable
from dostore.fanout import gather
from dostore.ports import ICluster, IMetadataStore
from dostore.service.leases import Leases

_log = Logger()

#: How often is looked whether all nodes are known.
SETTLING_INTERVAL_S = 1.0


class Healing:
    """Looks through all nodes, one look at a time.

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
        notice: Callable[[ContentHash], None],
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._schemes = schemes
        self._clock = clock
        self._leases = leases
        self._background = background
        self._notice = notice
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
                for page in range(256):
                    await self._page(page)
                    # A page may hold thousands: let others have a turn.
                    await deferLater(self._clock, 0)
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
        found: dict[ContentHash, set[int]] = {}
        takers: dict[ContentHash, int] = {}
        copies: dict[ContentHash, int] = {}
        writable = sum(1 for member in members if member.writable)
        for member, outcome in zip(members, outcomes, strict=True):
            if outcome.ok:
                for content_hash, indexes in outcome.value.items():
                    known_indexes = found.setdefault(content_hash, set())
                    copies[content_hash] = copies.get(content_hash, 0) + len(
                        known_indexes.intersection(indexes)
                    )
                    known_indexes.update(indexes)
                    # A node that has a shard of a content takes no other of it.
                    takers[content_hash] = takers.get(content_hash, writable) - member.writable
        too_few: list[ContentHash] = []
        perhaps: list[ContentHash] = []
        for content_hash, indexes in found.items():
            # A node with a copy of what another has too can give that up.
            room = takers[content_hash] + copies[content_hash]
            missing = room > 0 and not self._schemes.are_whole(indexes)
            # The shards of a content that is being written are not missing, only not there yet.
            if not missing or self._leases.held(content_hash):
                continue
            if len(indexes) >= self._schemes.usual.k:
                self._notice(content_hash)
            elif self._schemes.may_be_copies(indexes):
                perhaps.append(content_hash)
            else:
                too_few.append(content_hash)
        if len(members) == len(known) and all(outcome.ok for outcome in outcomes):
            perhaps += too_few
        await self._notice_referenced(perhaps)

    async def _notice_referenced(self, hashes: Sequence[ContentHash]) -> None:
        """Have contents with few shards repaired if they are copies, else told of as lost, unless
        they are what failed writes left.
        """
        try:
            referenced = await self._metadata.referenced(hashes) if hashes else set()
        except MetadataUnavailable as error:
            _log.info("What is lost is not known now: {error}", error=error)
            return
        for content_hash in referenced:
            self._notice(content_hash)
