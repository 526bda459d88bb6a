"""The object store: versions of named objects over contents."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from dostore.background import Background
from dostore.core.model import Content, Draft, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.schemes import Schemes
from dostore.core.stripes import Block
from dostore.errors import (
    ContentLost,
    Deleted,
    MetadataUnavailable,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from dostore.fanout import to_the_end, with_timeout
from dostore.ports import Check, IByteSource, ICluster, IMetadataStore, IWorkers
from dostore.service.batches import MOST_BYTES, MOST_REMOTE_BYTES, Batches
from dostore.service.leases import Leases
from dostore.service.reading import ContentReader
from dostore.service.repair import Repairer
from dostore.service.shardset import ShardSet
from dostore.service.stats import Stats
from dostore.service.sweep import OrphanSweep
from dostore.service.uploads import DEFAULT_TTL_S, Uploads, Wanted
from dostore.service.writing import ContentWriter

#: How often contents without a version are looked for: a write that failed is gone before 30
#: minutes.
SWEEP_INTERVAL_S = 15 * 60.0

#: Who asks whether the store is ready has no patience: a load balancer, Prometheus.
PING_S = 2.0

_ALL_IS_WELL = "All is well."

#: How long the version of an upload that is complete waits for a metadata store that is away.
_UPLOAD_PATIENCE_S = 30.0


@frozen(slots=True)
class Readiness:
    """Whether the store can serve.

    :ivar live: nodes that can be read, of ``expected``.
    :ivar writable: nodes that take writes.
    :ivar detail: a sentence; says so when redundancy is less than full, and what is lost.
    :ivar lost: contents that are known to be lost.
    """

    ready: bool
    live: int
    writable: int
    expected: int
    detail: str
    lost: int = 0


class ObjectStore:
    """What a client may ask of the store, whatever protocol it speaks.

    :param workers: threads for hashing and coding, and for what else computes much in front of it.
    :param scheme: by which contents are stored.
    :param quorum: how many shards a write needs.
    :param copies_below: contents of fewer bytes are kept as m + 1 whole copies.
    :param now: the time of day in seconds since the epoch, told in ``created``.
    :param verify: see ContentReader.
    :param orphan_grace_s: see OrphanSweep.
    :param upload_key: what tokens of uploads are signed with; None: a key of this process's own.
    :param upload_ttl_s: how long an upload that nobody touches is kept.
    :param instant_uploads: see Uploads.
    :ivar uploads: contents that come in parts.
    """

    def __init__(
        self,
        cluster: ICluster,
        metadata: IMetadataStore,
        scheme: Scheme,
        *,
        workers: IWorkers,
        clock: IReactorTime,
        now: Callable[[], float],
        quorum: int | None = None,
        copies_below: int = 0,
        verify: bool = False,
        orphan_grace_s: float = 0.0,
        upload_key: Callable[[], Awaitable[bytes]] | None = None,
        upload_ttl_s: int = DEFAULT_TTL_S,
        instant_uploads: bool = True,
    ) -> None:
        self._verify = verify
        self.metadata = metadata
        self.cluster = cluster
        self.stats = Stats()
        self._scheme = scheme
        self.workers = workers
        self._clock = clock
        self._now = now
        # What was told last, and of which millisecond it is.
        self._created_at = -1, ""
        self._quorum = scheme.write_quorum if quorum is None else quorum
        schemes = Schemes(scheme, self._quorum, copies_below)
        self.background = Background("dostore.store")
        self._batches = Batches(MOST_REMOTE_BYTES if cluster.asking_costs else MOST_BYTES)
        leases = Leases()
        self.repairer = Repairer(
            cluster,
            metadata,
            schemes,
            workers=workers,
            clock=clock,
            now=now,
            stats=self.stats,
            leases=leases,
            background=self.background,
        )
        self._writer = ContentWriter(
            cluster,
            metadata,
            schemes,
            self.repairer,
            workers=workers,
            clock=clock,
            stats=self.stats,
            leases=leases,
            background=self.background,
            alone=not orphan_grace_s,
            batches=self._batches,
        )
        self.uploads = Uploads(
            cluster,
            metadata,
            schemes,
            self._writer,
            publish=self._publish_upload,
            precheck=self._precheck_upload,
            key=upload_key or _key_of_this_process(),
            workers=workers,
            clock=clock,
            now=now,
            stats=self.stats,
            background=self.background,
            ttl_s=upload_ttl_s,
            instant=instant_uploads,
        )
        self._sweep = OrphanSweep(
            cluster,
            metadata,
            clock=clock,
            now=now,
            grace_s=orphan_grace_s,
            bring_back=self._writer.bring_back,
            leases=leases,
            stats=self.stats,
        )

    def start(self) -> None:
        """Begin what keeps the store healthy: the sweep, and healing now and at every return."""
        self.cluster.watch(lambda _: self.repairer.heal())
        self.background.run("first look", self._look_after())
        self.background.periodic("sweep", SWEEP_INTERVAL_S, self._look_after, self._clock)

    async def _look_after(self) -> None:
        # In this order: what is swept need not be healed.
        try:
            await self._sweep.run()
        finally:
            self.repairer.heal()

    async def stop(self) -> None:
        """End what :meth:`start` began."""
        await self.background.stop(self._clock, 0.0)

    # Writing

    async def precheck(self, name: str, check: Check) -> None:
        """Raise what ``check`` raises on the latest version, before a body is read for nothing."""
        check(await self.metadata.latest(name))

    async def put(
        self,
        name: str,
        source: IByteSource,
        *,
        digest: ContentHash | None,
        content_type: str,
        meta: Mapping[str, str],
        check: Check | None = None,
    ) -> Version:
        """Make the next version of an object from what ``source`` yields; durable on return.

        :param digest: what the content's hash must be.
        :param check: see ports.Check; holds for the very version that this one follows.
        :raises DostoreError: no version was made and no shard is kept.
        """
        content = await self._writer.write(source, digest)
        # To its end, for only then is it known whether a version refers to the content.
        draft = Draft(name, content, self._created(), content_type, dict(meta))
        return await to_the_end(self._publish(content, draft, check))

    async def _publish(
        self, content: Content, draft: Draft, check: Check | None, patience_s: float = 0.0
    ) -> Version:
        """Make the version of a content that was written.

        :param patience_s: how long a metadata store that is away is waited for. Then the content is
            left to the sweep, so that who tries again soon finds it.
        """
        reused = self._writer.was_reused(content)
        until = self._clock.seconds() + patience_s
        pause_s = 0.5
        while True:
            try:
                version = await self.metadata.add(draft, check)
                break
            except OutcomeUnknown:
                # The version may be there. If it is not, the sweep takes the content in its time.
                self._writer.keep(content)
                raise
            except MetadataUnavailable:
                if not patience_s:
                    self._writer.discard(content, reused)
                    raise
                if self._clock.seconds() + pause_s > until:
                    self._writer.keep(content)
                    raise
                await deferLater(self._clock, pause_s)
                pause_s *= 2
            except BaseException:
                self._writer.discard(content, reused)
                raise
        if reused:
            await self._writer.bring_back(content.hash)
        self._writer.keep(content)
        self.stats.puts += 1
        return version

    async def _precheck_upload(self, name: str, wanted: Wanted) -> None:
        check = wanted.check()
        latest = await self.metadata.latest(name)
        if check is not None:
            check(latest)

    async def _publish_upload(self, name: str, content: Content, wanted: Wanted) -> Version:
        """Make a version of a content that took long to come: it is not let go of easily."""
        draft = Draft(name, content, self._created(), wanted.content_type, dict(wanted.meta))
        return await to_the_end(
            self._publish(content, draft, wanted.check(), patience_s=_UPLOAD_PATIENCE_S)
        )

    async def delete(self, name: str, check: Check | None = None) -> Version:
        """Make a tombstone; older versions stay readable by number.

        :raises NotFound: there is no such object, or it is deleted.
        """

        def exists(current: Version | None) -> None:
            if current is None or current.deleted:
                raise NotFound("There is no such object.")
            if check is not None:
                check(current)

        version = await self.metadata.add(Draft(name, None, self._created()), exists)
        self.stats.deletes += 1
        return version

    def _created(self) -> str:
        now_ms = int(self._now() * 1000)
        if now_ms != self._created_at[0]:
            moment = datetime.fromtimestamp(now_ms / 1000, UTC)
            text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._created_at = now_ms, text
        return self._created_at[1]

    # Reading

    async def find(self, name: str, number: int | None = None) -> Version:
        """The newest version, or that of a number.

        :raises NotFound: there is none.
        :raises Deleted: it is a tombstone.
        """
        if number is None:
            version = await self.metadata.latest(name)
        else:
            version = await self.metadata.get(name, number)
        if version is None:
            raise NotFound(
                "There is no such object." if number is None else "There is no such version."
            )
        if version.deleted:
            raise Deleted("The object is deleted. Older versions can be read by ?version=.")
        return version

    def read_now(self, version: Version, span: tuple[int, int] | None = None) -> Block | None:
        """The bytes of a version, or a range of them, if they are few and need not be waited for.

        :param span: see :meth:`open`.
        :returns: None when they cannot be had so, for whatever reason: then :meth:`open` can.
        """
        start, stop = (0, version.size) if span is None else span
        (content,) = version.contents
        data: Block | None = b""
        if start < stop:
            # Where the nodes are not trusted, more is to be done than to read.
            data = None if self._verify else self.cluster.read_now(content, start, stop)
            if data is None:
                return None
            self.repairer.glance_soon(content, content.scheme.touched(content.size, start, stop))
        self.stats.gets += 1
        return data

    async def fetch(self, version: Version) -> Block | None:
        """All bytes of a version at one go, if they are few and on other machines.

        :returns: None when they cannot be had so, for whatever reason: then :meth:`open` can.
        """
        (content,) = version.contents
        data = await self.cluster.fetch(content)
        # What is not the content is none of it: who opens it finds out which node it is.
        if data is None or (self._verify and hashlib.sha256(data).digest() != content.hash.digest):
            return None
        self.repairer.glance_soon(content, range(content.scheme.k))
        self.stats.gets += 1
        return data

    async def open(self, version: Version, span: tuple[int, int] | None = None) -> ContentReader:
        """The bytes of a version, or a range of them; the caller closes it.

        :param span: the first byte and the one after the last, within the size.
        :raises ContentLost, Unavailable: they cannot be read.
        """
        (content,) = version.contents
        return await self.open_content(content, span)

    async def open_content(
        self, content: Content, span: tuple[int, int] | None = None
    ) -> ContentReader:
        """The bytes of a content; the caller closes it."""
        tried = {content}
        while True:
            shards = ShardSet(content, self.cluster, workers=self.workers, clock=self._clock)
            reader = ContentReader(
                shards,
                self.repairer.after_read,
                span=span,
                verify=self._verify,
                batches=self._batches,
            )
            try:
                await reader.begin()
            except (ContentLost, Unavailable):
                # It was lost, and then stored again by another scheme.
                if shards.otherwise is None or shards.otherwise in tried:
                    raise
                content = shards.otherwise
                tried.add(content)
            else:
                self.stats.gets += 1
                return reader

    async def locate(self, content_hash: ContentHash) -> Mapping[int, Sequence[str]]:
        """Which nodes hold which shards.

        :raises NotFound: nobody holds any.
        """
        held = await self.cluster.locate(content_hash)
        if not held:
            raise NotFound("No node holds a shard of this content.")
        return held

    async def readiness(self) -> Readiness:
        """Whether the store can serve now."""
        members = self.cluster.members()
        live = sum(1 for member in members if member.live)
        writable = sum(1 for member in members if member.writable)
        shards = self._scheme.shards
        detail = _ALL_IS_WELL
        ready = writable >= self._quorum and live >= self._scheme.k
        if not ready:
            detail = (
                f"{live} of {len(members)} nodes can be read and {writable} take writes; "
                f"reading needs {self._scheme.k} and writing {self._quorum}."
            )
        elif writable < shards:
            detail = f"Degraded: {writable} of {shards} shards of a new content can be kept."
        elif live < len(members):
            detail = f"Degraded: {len(members) - live} of {len(members)} nodes are away."
        elif complaint := self.cluster.complaint():
            detail = f"Degraded: {complaint}"
        losses = self.repairer.losses
        if losses:
            detail = " ".join([detail] * (detail != _ALL_IS_WELL) + [losses.sentence()])
        try:
            await with_timeout(self.metadata.ping(), PING_S, self._clock, _silent)
        except Unavailable as error:
            ready, detail = False, error.detail
        return Readiness(ready, live, writable, len(members), detail, len(losses))


def _silent() -> MetadataUnavailable:
    return MetadataUnavailable(
        f"The metadata store has not answered within {PING_S:g} s. Try again later."
    )


def _key_of_this_process() -> Callable[[], Awaitable[bytes]]:
    key = secrets.token_bytes(32)

    async def get() -> bytes:
        return key

    return get
