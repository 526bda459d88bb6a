"""Writing contents: a stream to shards on their nodes, and back out again when it fails."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from attrs import define, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.background import Background
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.placement import homes, homes_of_missing, rank
from dostore.core.scheme import Scheme
from dostore.core.schemes import Schemes
from dostore.core.stripes import Block, StripeCoder
from dostore.errors import AlreadyHeld, DigestMismatch, DostoreError, NoSpace, QuorumNotMet
from dostore.fanout import Outcome, gather
from dostore.ports import (
    IByteSource,
    ICluster,
    IMetadataStore,
    IShardNode,
    IWorkers,
    Member,
)
from dostore.service.batches import LEAST_BYTES, Batches, whole_stripes
from dostore.service.leases import Leases
from dostore.service.repair import Repairer
from dostore.service.shard_stream import ShardStream, refusal, too_full
from dostore.service.stats import Stats

_log = Logger()

#: Up to this, hashing and encoding (some 100 us) cost less than hops to threads and what follows
#: from them: the encoder holds the interpreter anyhow, and contents that come together would not be
#: written together.
INLINE_BYTES = 128 * 1024

#: Where asking costs, a content up to this is put as a new one, and looked for only when it is not:
#: to ask first would cost about as much, and most contents are new.
AS_NEW_BYTES = LEAST_BYTES


@define(eq=False)
class _Finding:
    """What a writer learned of the content that it leases.

    :ivar found: some of it was there already.
    """

    found: bool = False


@frozen(slots=True)
class _Stored:
    """What there is of a content.

    :ivar content: what most of its shards say that it is; None: none of them can be opened.
    :ivar sound: how many shards of that there are.
    :ivar whole: they are as many as a write of it needs.
    :ivar held: who says to have which shard.
    """

    content: Content | None
    sound: int
    whole: bool
    held: Mapping[int, Sequence[str]]


#: The blocks of each shard, of whole stripes of a content.
_Shards = list[list[Block]]


@frozen(slots=True)
class _Members:
    """The cluster's members, as a write asks for them.

    :ivar usable: the addresses of those that take shards.
    """

    members: Sequence[Member]
    nodes: Mapping[str, IShardNode]
    zones: Mapping[str, str]
    usable: frozenset[str]

    @classmethod
    def of(cls, members: Sequence[Member]) -> _Members:
        """These."""
        return cls(
            members,
            {member.address: member.node for member in members},
            {member.address: member.zone for member in members},
            frozenset(member.address for member in members if member.writable),
        )


class ShardsOnTheirWay(Protocol):
    """Shards of one content that are written, all but made durable."""

    @property
    def nodes(self) -> Mapping[int, IShardNode]:
        """Who has which."""

    async def commit(self, content: Content) -> list[Outcome[None] | None]:
        """Make them durable; the outcome of each node, in the order of ``nodes``."""

    def abort(self) -> None:
        """Remove them. Nobody waits for a node that hangs."""


@implementer(IByteSource)
class _Ahead:
    """A source of which some bytes were read ahead."""

    def __init__(self, ahead: bytes, source: IByteSource) -> None:
        self._ahead = ahead
        self._source = source

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        if len(taken) < size:
            taken += await self._source.read(size - len(taken))
        return taken

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        if self._ahead:
            return await self.read(min(size, len(self._ahead)))
        return await self._source.read_some(size)


class ContentWriter:
    """Stores contents. A content that was written is leased until :meth:`keep` or :meth:`discard`.

    :param schemes: how contents that are new are stored.
    :param workers: threads for hashing and encoding.
    :param alone: nobody else writes or removes contents, so that the leases tell of everybody.
    """

    def __init__(
        self,
        cluster: ICluster,
        metadata: IMetadataStore,
        schemes: Schemes,
        repairer: Repairer,
        *,
        workers: IWorkers,
        clock: IReactorTime,
        stats: Stats,
        leases: Leases,
        background: Background,
        alone: bool,
        batches: Batches,
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._schemes = schemes
        self._repairer = repairer
        self._workers = workers
        self._clock = clock
        self._stats = stats
        self._leases = leases
        self._background = background
        self._alone = alone
        self._degraded: set[ContentHash] = set()
        self._reused: Counter[ContentHash] = Counter()
        self._known = _Members.of(())
        self._batches = batches
        self._head_bytes = whole_stripes(LEAST_BYTES, schemes.usual.stripe_size)

    def _members(self) -> _Members:
        """The members as they are now."""
        members = self._cluster.members()
        if members is not self._known.members:
            self._known = _Members.of(members)
        return self._known

    def require_quorum(self, quorum: int) -> None:
        """Refuse a write that cannot succeed, before its body is read.

        :param quorum: how many nodes have to take a shard.
        :raises QuorumNotMet: fewer nodes take shards than a write needs.
        :raises NoSpace: that is because some are full.
        """
        usable = len(self._members().usable)
        if usable >= quorum:
            return
        members = self._cluster.members()
        full = [member.address for member in members if member.full]
        text = f"{usable} of {len(members)} nodes take writes now; a write needs {quorum}."
        if usable + len(full) >= quorum:
            raise NoSpace(f"{text} {too_full(full)}")
        raise QuorumNotMet(
            f"{text} Try again when more are back.",
            outcomes={m.address: "away" for m in members if not m.writable},
        )

    async def write(self, source: IByteSource, digest: ContentHash | None) -> Content:
        """Store what the source yields, on at least a quorum of nodes, durably.

        :param digest: what the content's hash must be.
        :returns: the content, leased.
        :raises DigestMismatch: it is not that; nothing is kept.
        :raises QuorumNotMet, NoSpace: too few nodes took their shard; nothing is kept.
        """
        self.require_quorum(self._schemes.least_quorum)
        head = await source.read(self._head_bytes)
        ahead = await source.read_some(self._head_bytes) if len(head) == self._head_bytes else b""
        if not ahead:
            return await self._write_small(head, digest)
        self.require_quorum(self._schemes.quorum)
        source = _Ahead(ahead, source)
        if digest is not None:
            async with self._leased(digest) as finding:
                stored = await self._find_stored(digest)
                if stored.content is not None and stored.whole:
                    return await self._hash_only(head, source, stored.content, finding)
            self._leases.release(digest)
        with self._batches.stream():
            return await self._write_large(head, source, digest)

    @asynccontextmanager
    async def _leased(self, content_hash: ContentHash) -> AsyncIterator[_Finding]:
        """Lease a content, for ever unless there is an error: then what was written is removed."""
        await self._leases.hold(content_hash)
        finding = _Finding()
        try:
            yield finding
        except BaseException:
            self._give_up(content_hash, finding.found)
            raise
        if finding.found:
            self._reused[content_hash] += 1

    def was_reused(self, content: Content) -> bool:
        """Whether a write found some of the content stored; asked once for each :meth:`write`."""
        if not self._reused[content.hash]:
            return False
        self._reused[content.hash] -= 1
        if not self._reused[content.hash]:
            del self._reused[content.hash]
        return True

    async def bring_back(self, content_hash: ContentHash) -> None:
        """Have the nodes take a content back that is referred to, if they put it in ``garbage/``.

        Another API server knows nothing of the leases here: it may have removed the content, as
        nobody's, between the moment when it was found here and that when a version referred to it.
        Whoever of the two comes last sees what the other did: he who makes the version looks for
        the content after it, and he who removes asks for versions again after that.
        """
        try:
            # What is opened is taken out of garbage/.
            content, sound, _ = await self._repairer.survey(content_hash)
        except DostoreError as error:
            _log.warn("{hash} is not looked after: {error}", hash=content_hash, error=error)
            return
        if content is None or sound < content.scheme.shards:
            self._repairer.notice(content_hash)

    def keep(self, content: Content) -> None:
        """A version refers to the content now."""
        self._leases.release(content.hash)
        self._repairer.losses.remove(content.hash)
        if content.hash in self._degraded:
            self._degraded.discard(content.hash)
            self._repairer.notice(content.hash)

    def discard(self, content: Content, reused: bool) -> None:
        """No version was made: have the content removed, unless another refers to it.

        :param reused: what :meth:`was_reused` said.
        """
        self._give_up(content.hash, reused)

    def _give_up(self, content_hash: ContentHash, found: bool) -> None:
        """Nothing comes of a lease.

        :param found: some of the content was there already.
        """
        self._leases.release(content_hash)
        if not self._leases.held(content_hash):
            # Else another writer will have to know.
            self._degraded.discard(content_hash)
        if found and not self._alone:
            # Another API server, whose leases nobody here knows, may have written it and be about
            # to make the version: it would never look whether the content is still there. If it is
            # nobody's, the sweep takes it in its time.
            return
        # Whoever waits for an answer need not wait for this: it takes long when metadata is away.
        self._background.run("remove", self._remove_unless_referenced(content_hash))

    async def _remove_unless_referenced(self, content_hash: ContentHash) -> None:
        if not self._leases.begin_removal(content_hash):
            # Whoever holds it either refers to it or removes it.
            return
        try:
            if not await self._metadata.referenced([content_hash]):
                members = [m for m in self._cluster.members() if m.live]
                outcomes = await gather([m.node.delete(content_hash) for m in members])
                _log_failures(f"{content_hash} is left for the sweep", members, outcomes)
                if await self._metadata.referenced([content_hash]):
                    await self.bring_back(content_hash)
        except DostoreError as error:
            # The sweep for contents without a version finds it later.
            _log.warn("{hash} is left for the sweep: {error}", hash=content_hash, error=error)
        finally:
            self._leases.end_removal(content_hash)

    # Small contents: all of it is here before anything is written.

    async def _write_small(self, data: bytes, digest: ContentHash | None) -> Content:
        shards: _Shards | None = None
        if len(data) <= INLINE_BYTES:
            content_hash = _hash(data)
        else:
            # Encoded before it is known whether it is new: that costs less than one more hop.
            content_hash, shards = await self._workers.run(self._hash_and_encode, data)
        self._compare(content_hash, digest)
        async with self._leased(content_hash) as finding:
            return await self._write_whole(data, content_hash, shards, finding)

    def _hash_and_encode(self, data: bytes) -> tuple[ContentHash, _Shards]:
        return _hash(data), StripeCoder(self._schemes.of_size(len(data))).encode(data)

    async def _write_whole(
        self, data: bytes, content_hash: ContentHash, shards: _Shards | None, finding: _Finding
    ) -> Content:
        content = Content(content_hash, len(data), self._schemes.of_size(len(data)))
        if self._cluster.asking_costs and len(data) <= AS_NEW_BYTES:
            shards = shards or await self._encode(data, content.scheme)
            if await self._put_as_new(content, shards, finding):
                return content
        stored = await self._find_stored(content_hash)
        if stored.content is not None and stored.whole:
            await self._renew(stored.content, finding)
            return stored.content
        if stored.held:
            finding.found = True
            return await self._write_again(data, content, stored, finding)
        shards = shards or await self._encode(data, content.scheme)
        known = self._members()
        placed = homes(content_hash, known.zones, known.usable, content.scheme.shards)
        need = self._schemes.quorum_of(content.scheme)
        if len(known.usable) < need:
            self.require_quorum(need)
        ended = await self._cluster.put(content, placed, shards, need)
        self._judge_put(content, known.nodes, placed, ended)
        return content

    async def _write_again(
        self, data: bytes, content: Content, stored: _Stored, finding: _Finding
    ) -> Content:
        """Write a content of which part is here."""
        content = self._like_what_is_left(content, stored)
        stored = await self._without_harm(content, stored)
        if stored.content is not None and stored.whole:
            await self._renew(stored.content, finding)
            return stored.content
        need = self._schemes.quorum_of(content.scheme)
        self.require_quorum(need)
        shards = await self._encode(data, content.scheme)
        known = self._members()
        # By another scheme there may be others.
        held = {i: a for i, a in stored.held.items() if i < content.scheme.shards}
        count = content.scheme.shards
        placed = homes_of_missing(content.hash, known.zones, known.usable, held, count)
        # What is there is written again in place, for it may be damaged.
        placed |= {i: holders[0] for i, holders in held.items() if holders[0] in known.usable}
        ended = await self._cluster.put(content, placed, shards, need)
        self._judge_put(content, known.nodes, placed, ended)
        if len(held) < len(stored.held):
            there = {i: address for i, address in placed.items() if ended.get(i, content) is None}
            await self._drop_surplus(content.hash, stored.held, there)
        return content

    def _judge_put(
        self,
        content: Content,
        nodes: Mapping[str, IShardNode],
        placed: Mapping[int, str],
        ended: Mapping[int, Exception | None],
    ) -> None:
        """See :meth:`_judge`."""
        if len(ended) == content.scheme.shards and not any(ended.values()):
            self._cluster.placed(content.hash, placed)
            return
        self._judge(
            content,
            {index: nodes[address] for index, address in placed.items()},
            [Outcome(None, ended[index]) if index in ended else None for index in placed],
        )

    async def _without_harm(self, content: Content, stored: _Stored) -> _Stored:
        """What there is of a content that is to be stored, made whole if need be.

        To take the place of shards by another scheme of which the content can be read would make it
        unreadable if that ended half-way. A whole copy takes no shard's place in vain.
        """
        left = stored.content
        if left is None or left.scheme == content.scheme or content.scheme.k == 1:
            return stored
        if stored.whole or stored.sound < left.scheme.k:
            return stored
        try:
            await self._repairer.repair(content.hash)
        except DostoreError as error:
            _log.warn("{hash} is not made whole: {error}", hash=content.hash, error=error)
        return await self._find_stored(content.hash)

    def _like_what_is_left(self, content: Content, stored: _Stored) -> Content:
        """A content that is new, or that of which some is left, so that what is left counts."""
        left = stored.content
        if left is None or left.size != content.size or left.scheme == content.scheme:
            return content
        survives = left.scheme.m >= content.scheme.m and self._is_credible(left, stored.sound)
        if survives and len(self._members().usable) >= self._schemes.quorum_of(left.scheme):
            return left
        return content

    def _is_credible(self, content: Content, sound: int) -> bool:
        """Whether so many nodes are enough to say that a content is stored as none is here."""
        return sound > 1 or self._schemes.uses(content.scheme)

    async def _put_as_new(
        self, content: Content, shards: Sequence[Sequence[Block]], finding: _Finding
    ) -> bool:
        """Put a content where all who have some of it are met on the way, if there is any.

        :returns: False when there is, or may be elsewhere.
        """
        known = self._members()
        # Those are asked when it is looked for, too.
        first = rank(content.hash, known.zones)[: content.scheme.shards]
        if len(first) < content.scheme.shards or not known.usable.issuperset(first):
            return False
        placed = dict(enumerate(first))
        need = self._schemes.quorum_of(content.scheme)
        ended = await self._cluster.put(content, placed, shards, need, only_new=True)
        if any(isinstance(error, AlreadyHeld) for error in ended.values()):
            finding.found = True
            return False
        self._judge_put(content, known.nodes, placed, ended)
        return True

    async def _encode(self, data: bytes, scheme: Scheme) -> _Shards:
        encode = StripeCoder(scheme).encode
        if len(data) <= INLINE_BYTES:
            return encode(data)
        encoded: _Shards = await self._workers.run(encode, data)
        return encoded

    # Large contents: hashed, encoded and written while they arrive.

    async def _write_large(
        self, head: bytes, source: IByteSource, digest: ContentHash | None
    ) -> Content:
        # Without a digest nobody knows yet which nodes are this content's; any choice is found
        # again.
        scheme, quorum = self._schemes.usual, self._schemes.quorum
        nodes = self.place(digest or ContentHash(secrets.token_bytes(32)), scheme)
        stream = ShardStream(nodes, scheme, quorum, self._clock, self._background)
        try:
            await stream.begin()
            size, content_hash = await self._pump(head, source, stream)
            self._compare(content_hash, digest)
            return await self.take_over(Content(content_hash, size, scheme), stream)
        except BaseException:
            stream.abort()
            raise

    async def take_over(self, content: Content, shards: ShardsOnTheirWay) -> Content:
        """Make shards that were written durable, and theirs the content; it is leased.

        :returns: the content; the one that is stored already, if there is one.
        :raises QuorumNotMet, NoSpace: too few nodes have their shard; nothing is kept.
        """
        async with self._leased(content.hash) as finding:
            stored = await self._without_harm(content, await self._find_stored(content.hash))
            if stored.content is not None and stored.whole:
                shards.abort()
                await self._renew(stored.content, finding)
                return stored.content
            finding.found = bool(stored.held)
            nodes = shards.nodes
            holders = self._judge(content, nodes, await shards.commit(content))
            await self._drop_surplus(content.hash, stored.held, holders)
            return content

    async def find(self, content_hash: ContentHash, size: int) -> Content | None:
        """A content of that size that is stored already, leased; None: there is none."""
        async with self._leased(content_hash) as finding:
            stored = await self._find_stored(content_hash)
            if stored.content is not None and stored.whole and stored.content.size == size:
                await self._renew(stored.content, finding)
                return stored.content
        self._leases.release(content_hash)
        return None

    async def restore(self, content_hash: ContentHash) -> None:
        """Make the shards that a content lacks, as far as can be.

        :raises ContentLost, Unavailable: too few of its shards are there.
        """
        await self._repairer.repair(content_hash)

    def place(self, content_hash: ContentHash, scheme: Scheme) -> Mapping[int, IShardNode]:
        """Which node each shard of a new content goes to."""
        known = self._members()
        placed = homes(content_hash, known.zones, known.usable, scheme.shards)
        return {index: known.nodes[address] for index, address in placed.items()}

    async def _drop_surplus(
        self,
        content_hash: ContentHash,
        held: Mapping[int, Sequence[str]],
        holders: Mapping[int, str],
    ) -> None:
        """Put out of the way what too few shards were left from before.

        Else a node would have two shards of a content, and a shard would be in two places.
        """
        nodes = {m.address: m for m in self._cluster.members() if m.live}
        surplus = [
            (nodes[address], index)
            for index, addresses in held.items()
            for address in addresses
            if address in nodes
            and holders.get(index) != address
            and (index in holders or address in holders.values())
        ]
        outcomes = await gather([m.node.discard(content_hash, index) for m, index in surplus])
        members = [member for member, _ in surplus]
        _log_failures(f"A surplus shard of {content_hash} is left", members, outcomes)

    async def _pump(
        self, head: bytes, source: IByteSource, stream: ShardStream
    ) -> tuple[int, ContentHash]:
        """Hash and write all that comes, reading one batch while the one before is on its way."""
        hasher = hashlib.sha256()
        size, data = 0, head
        while data:
            size += len(data)
            read, hashed, written = await gather(
                [
                    source.read(self._batches.size(self._schemes.usual.stripe_size)),
                    self._update(hasher, data),
                    self._send(data, stream),
                ]
            )
            for outcome in (read, hashed, written):
                if outcome.error is not None:
                    raise outcome.error
            data = read.value or b""
        return size, ContentHash(hasher.digest())

    async def _update(self, hasher: hashlib._Hash, data: bytes) -> None:
        await self._workers.run(hasher.update, data)

    async def _send(self, data: bytes, stream: ShardStream) -> None:
        await stream.write(await self._encode(data, self._schemes.usual))

    async def _hash_only(
        self, head: bytes, source: IByteSource, stored: Content, finding: _Finding
    ) -> Content:
        """The content is stored: only prove that the body is what its digest says."""
        hasher = hashlib.sha256()
        data = head
        while data:
            await self._workers.run(hasher.update, data)
            data = await source.read(self._head_bytes)
        self._compare(ContentHash(hasher.digest()), stored.hash)
        found = await self._find_stored(stored.hash)
        content = found.content
        if content is None or not found.whole:
            raise QuorumNotMet("The stored content was lost meanwhile. Send it again.")
        await self._renew(content, finding)
        return content

    # Judging

    async def _find_stored(self, content_hash: ContentHash) -> _Stored:
        content, sound, held = await self._repairer.survey(content_hash)
        if content is None:
            return _Stored(None, 0, False, held)
        enough = sound >= self._schemes.quorum_of(content.scheme)
        whole = enough and self._is_credible(content, sound)
        if whole and sound < content.scheme.shards:
            self._degraded.add(content_hash)
        return _Stored(content, sound, whole, held)

    @staticmethod
    def _compare(found: ContentHash, wanted: ContentHash | None) -> None:
        if wanted is not None and found != wanted:
            raise DigestMismatch(
                f"The body's SHA-256 is {found}, not {wanted} as its Digest header says. "
                "Send it again."
            )

    async def _renew(self, content: Content, finding: _Finding) -> None:
        self._stats.deduplicated += 1
        finding.found = True
        members = [m for m in self._cluster.members() if m.live]
        outcomes = await gather([m.node.renew(content.hash) for m in members])
        # It only keeps the age for collectors elsewhere; here the lease protects the content.
        _log_failures(f"{content.hash} is not renewed", members, outcomes)

    def _judge(
        self,
        content: Content,
        nodes: Mapping[int, IShardNode],
        outcomes: Sequence[Outcome[None] | None],
    ) -> Mapping[int, str]:
        """Raise unless a quorum of the shards is there; have the others made when a version is.

        :returns: who has which.
        """
        holders = {
            index: node.address
            for (index, node), outcome in zip(nodes.items(), outcomes, strict=True)
            if outcome is not None and outcome.ok
        }
        done = len(holders)
        quorum = self._schemes.quorum_of(content.scheme)
        if done < quorum:
            raise refusal(dict(zip(nodes.values(), outcomes, strict=True)), done, quorum)
        self._cluster.placed(content.hash, holders)
        if done < content.scheme.shards:
            self._stats.degraded_writes += 1
            self._degraded.add(content.hash)
        return holders


def _hash(data: bytes) -> ContentHash:
    return ContentHash(hashlib.sha256(data).digest())


def _log_failures(what: str, members: Sequence[Member], outcomes: Sequence[Outcome[None]]) -> None:
    for member, outcome in zip(members, outcomes, strict=True):
        if outcome.error is not None:
            _log.warn("{what}: {error}", what=what, error=outcome.error, address=member.address)
