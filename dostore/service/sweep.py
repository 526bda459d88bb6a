"""The sweep for orphans: contents that no version refers to are moved to garbage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from operator import attrgetter

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dostore.core.names import ContentHash
from dostore.errors import ContentLost, DostoreError, ShardMissing
from dostore.fanout import gather
from dostore.ports import ICluster, IMetadataStore, Member
from dostore.service.leases import Leases
from dostore.service.stats import Stats

_log = Logger()

#: Hashes asked of the metadata store at a time.
_BATCH = 500

#: After each page it pauses for so many times as long as that took, but not longer than this: to
#: go through a million shards keeps the reactor busy for seconds, and clients are served meanwhile.
_PAUSE_SHARE = 3
_MAX_PAUSE_S = 0.25

#: Hashes themselves are compared by tuples that are made for it: forty times as slow.
_digest = attrgetter("digest")


class OrphanSweep:
    """Removes what writes that did not end left in ``objects/``.

    A content is spared that is leased, or older than the metadata store itself: its versions may
    have been in another that was lost, and the shards are all that is left of them.

    :param grace_s: one that was written or renewed within so many seconds is spared too: another
        API server may be about to refer to it. 0 where there is no other.
    :param now: the time of day in seconds since the epoch.
    :param bring_back: see ContentWriter.
    """

    def __init__(
        self,
        cluster: ICluster,
        metadata: IMetadataStore,
        *,
        clock: IReactorTime,
        leases: Leases,
        stats: Stats,
        now: Callable[[], float],
        grace_s: float,
        bring_back: Callable[[ContentHash], Awaitable[None]],
    ) -> None:
        self._bring_back = bring_back
        self._now = now
        self._grace_s = grace_s
        self._cluster = cluster
        self._metadata = metadata
        self._clock = clock
        self._leases = leases
        self._stats = stats

    async def run(self) -> int:
        """Go through all contents once; how many were removed."""
        removed = 0
        for page in range(256):
            began = self._clock.seconds()
            members = [m for m in self._cluster.members() if m.live]
            hashes: set[ContentHash] = set()
            for outcome in await gather([m.node.inventory(page) for m in members]):
                if outcome.ok:
                    hashes.update(outcome.value)
            ordered = sorted(hashes, key=_digest)
            for at in range(0, len(ordered), _BATCH):
                removed += await self._sweep(ordered[at : at + _BATCH], members)
            taken_s = self._clock.seconds() - began
            await deferLater(self._clock, max(0.0, min(_MAX_PAUSE_S, _PAUSE_SHARE * taken_s)))
        if removed:
            _log.info("{removed} contents without a version were removed", removed=removed)
        return removed

    async def _sweep(self, hashes: Collection[ContentHash], members: Sequence[Member]) -> int:
        removed = 0
        for content_hash in set(hashes) - await self._metadata.referenced(hashes):
            if self._leases.begin_removal(content_hash):
                try:
                    removed += await self._remove(content_hash, members)
                except DostoreError as error:
                    _log.warn("{hash} is not removed: {error}", hash=content_hash, error=error)
                finally:
                    self._leases.end_removal(content_hash)
        self._stats.collected_contents += removed
        return removed

    async def _remove(self, content_hash: ContentHash, members: Sequence[Member]) -> bool:
        # Asked again now that nobody can come to refer to it.
        if await self._metadata.referenced([content_hash]):
            return False
        modified = await self._modified(content_hash, members)
        if modified < await self._metadata.created():
            return False
        if self._grace_s and modified > self._now() - self._grace_s:
            return False
        await gather([m.node.delete(content_hash) for m in members])
        if await self._metadata.referenced([content_hash]):
            # Another API server has made a version of it meanwhile.
            await self._bring_back(content_hash)
            return False
        return True

    async def _modified(self, content_hash: ContentHash, members: Sequence[Member]) -> float:
        outcomes = await gather([m.node.modified(content_hash) for m in members])
        times = [outcome.value for outcome in outcomes if outcome.ok]
        unknown = [o for o in outcomes if o.error and not isinstance(o.error, ShardMissing)]
        if unknown or not times:
            raise ContentLost("Its age cannot be told now.", found=len(times), needed=1)
        return max(times)
