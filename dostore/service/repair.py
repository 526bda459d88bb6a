"""Repair: shards that are missing or damaged are made again, and only then called repaired."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.background import Background
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.placement import homes_of_missing, rank
from dostore.core.schemes import Schemes
from dostore.core.stripes import Block
from dostore.errors import BadShard, ContentLost, DostoreError, Unavailable
from dostore.fanout import gather
from dostore.loglines import Rationed
from dostore.ports import ICluster, IMetadataStore, IShardNode, IShardWriter, IWorkers
from dostore.service.batches import LEAST_BYTES
from dostore.service.census import Census, take_census
from dostore.service.glances import Glances
from dostore.service.healing import Healing
from dostore.service.leases import Leases
from dostore.service.losses import Losses
from dostore.service.proof import Proof, find_wrong
from dostore.service.room import ROOM_LEFT_BYTES, Waiting
from dostore.service.shardset import ShardSet
from dostore.service.stats import Stats

_log = Logger()

#: How many contents are repaired at the same time.
CONCURRENCY = 2

#: Shards by another scheme than the others of a content are left alone until they are this old.
_STRAY_AGE_S = 3600.0


class Repairer:
    """Makes missing shards again, in the background, one content at a time.

    What is noticed while a drive is away waits for :meth:`heal`, which finds it by itself.

    :param schemes: how the contents that are written now are stored.
    :param workers: threads for decoding.
    :param now: the time of day in seconds since the epoch.
    :ivar losses: what cannot be repaired any more.
    """

    def __init__(
        self,
        cluster: ICluster,
        metadata: IMetadataStore,
        schemes: Schemes,
        *,
        workers: IWorkers,
        clock: IReactorTime,
        now: Callable[[], float],
        stats: Stats,
        leases: Leases,
        background: Background,
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._leases = leases
        self._schemes = schemes
        self._workers = workers
        self._clock = clock
        self._now = now
        self._stats = stats
        self._background = background
        self._queue: deque[ContentHash] = deque()
        self._queued: set[ContentHash] = set()
        self._again: set[ContentHash] = set()
        self._waiting = Waiting(cluster, clock, self.notice)
        self._running = 0
        self._repaired = Rationed(_log.info, "{count} more contents were repaired", clock)
        self._unrepaired = Rationed(_log.warn, "{count} more contents are not repaired", clock)
        self.losses = Losses(metadata, stats, self._unrepaired)
        self._doubted: set[ContentHash] = set()
        self._glances = Glances(cluster, clock=clock, background=background, notice=self.notice)
        self._healing = Healing(
            cluster,
            metadata,
            schemes,
            clock=clock,
            leases=leases,
            background=background,
            losses=self.losses,
            notice=self.notice,
        )

    # Noticing

    def notice(self, content_hash: ContentHash) -> None:
        """A shard of this content is missing or damaged: have it made again, soon."""
        if content_hash in self._waiting:
            return
        if content_hash in self._queued:
            # It may be past the shard that was found missing just now.
            self._again.add(content_hash)
            return
        self._queued.add(content_hash)
        self._queue.append(content_hash)
        if self._running < CONCURRENCY:
            self._running += 1
            self._background.run("repair", self._work())

    def after_read(self, shards: ShardSet) -> None:
        """A content was read: repair what was met, and glance at the shards that were not."""
        if shards.faulty or shards.slow:
            self._stats.degraded_reads += 1
            self._stats.damaged_shards += len(shards.faulty)
        if shards.wrong:
            self._doubted.add(shards.content.hash)
        if shards.faulty or shards.wrong:
            self.notice(shards.content.hash)
        # Also then: a shard that was not read may be damaged as well.
        self.glance_soon(shards.content, shards.verified)

    def glance_soon(self, content: Content, verified: Collection[int]) -> None:
        """A content was read: glance at its shards but for those that were found right."""
        self._glances.soon(content, verified)

    def heal(self) -> None:
        """Look through all nodes for contents with shards missing; have them repaired.

        For a start, and for whenever a node is back.
        """
        self._waiting.clear()
        self._healing.begin()

    # Finding what is there

    async def survey(
        self, content_hash: ContentHash
    ) -> tuple[Content | None, int, Mapping[int, Sequence[str]]]:
        """What a content is, how many of its shards are there with sound footers, each on a node of
        its own, and which nodes say that they hold which, sound or not.
        """
        held = await self._cluster.locate(content_hash, everywhere=False)
        census = await take_census(self._cluster, content_hash, held)
        return census.content, census.count, held

    # Repairing one content

    async def _work(self) -> None:
        try:
            while self._queue:
                content_hash = self._queue.popleft()
                try:
                    await self.repair(content_hash)
                except DostoreError as error:
                    self._stats.failed_repairs += 1
                    await self._tell_failure(content_hash, error)
                finally:
                    self._queued.discard(content_hash)
                if content_hash in self._again:
                    self._again.discard(content_hash)
                    self.notice(content_hash)
        finally:
            self._running -= 1
            if not self._running:
                self._repaired.tell_rest()

    async def _tell_failure(self, content_hash: ContentHash, error: DostoreError) -> None:
        if isinstance(error, ContentLost):
            # Once, and not again whenever somebody asks for it.
            await self.losses.add(content_hash, error)
        else:
            self._unrepaired.tell("{hash} is not repaired: {error}", hash=content_hash, error=error)

    async def repair(self, content_hash: ContentHash) -> int:
        """Make the shards of a content that are missing, as far as there are nodes for them.

        :returns: how many were made, read back and found right.
        :raises ContentLost: fewer than k are left.
        :raises DostoreError: a node failed on the way; nothing of this attempt is left.
        """
        # Each round without success has met one more damaged shard, so there are at most n.
        for _ in range(256):
            held = await self._cluster.locate(content_hash)
            census = await take_census(self._cluster, content_hash, held)
            content, sound = census.content, census.sound
            needed = 1 if content is None else content.scheme.k
            if len(sound) < needed:
                await self._require_everybody(content_hash, held, needed - len(sound))
            if content is None:
                raise ContentLost("No shard is left.", found=0, needed=1)
            if len(sound) < content.scheme.k:
                raise ContentLost(
                    f"{len(sound)} of {content.scheme.shards} shards are there; "
                    f"{content.scheme.k} are needed.",
                    found=len(sound),
                    needed=content.scheme.k,
                )
            self.losses.remove(content_hash)
            if content_hash in self._doubted:
                self._doubted.discard(content_hash)
                if await self._discard_wrong(content, sound):
                    continue
            targets = self._targets(content, census)
            if not targets:
                if len(sound) < content.scheme.shards:
                    if await self._discard_copy(content, sound):
                        continue
                    self._waiting.add(content_hash)
                else:
                    await self._discard_strays(content, census)
                return 0
            if await self._make(content, targets, sound):
                await self._verify(content, targets)
                self._stats.repaired_shards += len(targets)
                self._repaired.tell(
                    "{hash}: shards {indexes} made again and verified",
                    hash=content_hash,
                    indexes=sorted(targets),
                )
                if len(sound) + len(targets) < content.scheme.shards:
                    self._waiting.add(content_hash)
                return len(targets)
        raise BadShard("Shards go bad faster than they can be made.")

    def _targets(self, content: Content, census: Census) -> dict[int, IShardNode]:
        members = {m.address: m for m in self._cluster.members()}
        wanted = content.scheme.shard_size(content.size) + ROOM_LEFT_BYTES
        usable = {
            address
            for address, member in members.items()
            if member.writable and (member.free_bytes is None or member.free_bytes >= wanted)
        }
        zones = {address: member.zone for address, member in members.items()}
        # No node takes a second shard, of whatever scheme. A stray gives its place to the same one.
        strays = {address: index for index, address in census.strays}
        free = usable - strays.keys()
        count = content.scheme.shards
        placed = homes_of_missing(content.hash, zones, free, census.sound, count)
        for address, index in strays.items():
            if address in usable and index < count and index not in {*placed, *census.sound}:
                placed[index] = address
        return {index: members[address].node for index, address in placed.items()}

    async def _require_everybody(
        self, content_hash: ContentHash, held: Mapping[int, Sequence[str]], missing: int
    ) -> None:
        """Make sure that what is missing of a content is with nobody: who was silent may have it.

        :param held: who was asked for which shard already.
        :raises Unavailable: so many shards may be left.
        """
        members = self._cluster.members()
        live = [member for member in members if member.live]
        outcomes = await gather([member.node.holds(content_hash) for member in live])
        silent = len(members) - sum(outcome.ok for outcome in outcomes)
        told = {
            index
            for member, outcome in zip(live, outcomes, strict=True)
            if outcome.ok
            for index in outcome.value
            if member.address not in held.get(index, ())
        }
        if silent + len(told) >= missing:
            raise Unavailable(f"{silent} nodes are away, and too few shards are elsewhere.")

    async def _discard_strays(self, content: Content, census: Census) -> None:
        """Put shards by another scheme out of the way of a content that is whole without them.

        All of it has been there for long: who began to write it before it was whole is not about to
        go on.
        """
        if not census.strays:
            return
        nodes = {m.address: m.node for m in self._cluster.members() if m.live}
        holders = {a for addresses in census.sound.values() for a in addresses}
        asked = [a for a in {*holders, *(a for _, a in census.strays)} if a in nodes]
        times = await gather([nodes[address].modified(content.hash) for address in asked])
        long_ago = self._now() - _STRAY_AGE_S
        if not all(outcome.ok and outcome.value < long_ago for outcome in times):
            return
        strays = [(index, a) for index, a in census.strays if a in nodes]
        outcomes = await gather([nodes[a].discard(content.hash, index) for index, a in strays])
        for (index, address), outcome in zip(strays, outcomes, strict=True):
            if outcome.ok:
                _log.info(
                    "{address} had shard {index} of {hash} by another scheme",
                    address=address,
                    index=index,
                    hash=content.hash,
                )

    async def _discard_wrong(self, content: Content, sound: Mapping[int, Sequence[str]]) -> bool:
        """Put the shard out of the way that is not what its node says; False: there is none."""
        index = await find_wrong(content, self._cluster, self._workers, self._clock)
        if index is None:
            return False
        self._stats.damaged_shards += 1
        addresses = sound.get(index, ())
        _log.error(
            "Shard {index} of {hash}, from {addresses}, has right checks and is wrong",
            index=index,
            hash=content.hash,
            addresses=", ".join(addresses),
        )
        nodes = {m.address: m.node for m in self._cluster.members() if m.live}
        outcomes = await gather(
            [
                nodes[address].discard(content.hash, index)
                for address in addresses
                if address in nodes
            ]
        )
        return all(outcome.ok for outcome in outcomes)

    async def _discard_copy(self, content: Content, sound: Mapping[int, Sequence[str]]) -> bool:
        """Put a copy of a shard out of the way that another node has too; False: there is none.

        A disk that was cloned brings such, and then no node is free for what is missing. All API
        servers take the same copy, and if they did not, k shards would be left.
        """
        members = {m.address: m for m in self._cluster.members()}
        ranked = rank(content.hash, {address: m.zone for address, m in members.items()})
        if len(sound) <= content.scheme.k:
            return False
        for index, addresses in sound.items():
            for address in sorted(addresses, key=ranked.index)[1:]:
                if members[address].writable:
                    await members[address].node.discard(content.hash, index)
                    _log.info(
                        "{address} had a copy of shard {index} of {hash}",
                        address=address,
                        index=index,
                        hash=content.hash,
                    )
                    return True
        return False

    async def _make(
        self,
        content: Content,
        targets: Mapping[int, IShardNode],
        sound: Mapping[int, Sequence[str]],
    ) -> bool:
        """Write the target shards; False when another damaged shard was met on the way.

        :raises BadShard: the shards that are there do not make the content.
        """
        scheme = content.scheme
        shards = ShardSet(content, self._cluster, workers=self._workers, clock=self._clock)
        await shards.locate()
        shards.faulty |= set(targets)
        met = set(shards.faulty)
        writers: dict[int, IShardWriter] = {}
        proof = Proof(shards)
        wanted = sorted({*targets, *range(scheme.k)})
        try:
            for index, node in targets.items():
                writers[index] = await node.begin(index, scheme)
            batch = max(1, LEAST_BYTES // scheme.stripe_size)
            stripes = scheme.stripe_count(content.size)
            for first in range(0, stripes, batch):
                blocks = await shards.read_stripes(first, min(batch, stripes - first))
                if shards.faulty - met:
                    return False
                rebuilt = await shards.rebuild(blocks, wanted)
                await proof.add(first, rebuilt)
                await _all(writer.write(_column(rebuilt, i)) for i, writer in writers.items())
            if not proof.holds():
                if await self._discard_wrong(content, sound):
                    return False
                raise BadShard("The shards that are there do not make it.")
            await _all(writer.commit(content) for writer in writers.values())
        finally:
            await shards.close()
            # Does nothing to those that were committed.
            await gather([writer.abort() for writer in writers.values()])
        return True

    async def _verify(self, content: Content, targets: Mapping[int, IShardNode]) -> None:
        """Read every block of the new shards back.

        :raises DostoreError: one is not right; it is discarded by its node.
        """
        stripes = content.scheme.stripe_count(content.size)
        # As many blocks of one shard as a batch has of all.
        step = max(1, LEAST_BYTES // content.scheme.block_size)
        for index, node in targets.items():
            reader = await node.open(content.hash, index)
            try:
                for first in range(0, stripes, step):
                    await reader.read(first, min(step, stripes - first))
            finally:
                await reader.close()


def _column(stripes: Sequence[Mapping[int, Block]], index: int) -> list[Block]:
    return [stripe[index] for stripe in stripes]


async def _all(coros: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; raise the first error when all have ended."""
    for outcome in await gather(coros):
        if outcome.error is not None:
            raise outcome.error
