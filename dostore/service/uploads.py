"""Resumable uploads: contents that come in parts, over any number of connections and servers.

The service keeps nothing that would be missed: what an upload is, its token says; how far it has
come, its temporary shards.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime

from dostore.background import Background
from dostore.core.httpfields import created_seconds, write_check
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.schemes import Schemes
from dostore.core.stripes import Block
from dostore.core.upload_token import ID_BYTES, UploadToken, no_such_upload, node_id
from dostore.errors import (
    DigestMismatch,
    InvalidRequest,
    NotFound,
    RangeNotSatisfiable,
)
from dostore.fanout import gather_quorum
from dostore.ports import (
    MAX_NOTE_BYTES,
    Check,
    IByteSource,
    ICluster,
    IMetadataStore,
    IWorkers,
    TempAbout,
)
from dostore.service.held_stripes import READ_STRIPES
from dostore.service.shard_stream import refusal
from dostore.service.stats import Stats
from dostore.service.upload_claim import kept_claim
from dostore.service.upload_held import GRACE_S
from dostore.service.upload_part import Hashes, UploadPart, too_much
from dostore.service.upload_shards import UploadShards
from dostore.service.writing import ContentWriter

#: How long an upload that nobody touches is kept.
DEFAULT_TTL_S = 24 * 3600

#: How long a token is taken, or as long as the upload is kept when that is longer.
TOKEN_LIFE_S = 30 * 24 * 3600

#: Versions of a name among which that of an upload is looked for.
_LOOKED_BACK = 100

#: Versions are told apart from those before the upload, by clocks that differ by so much at most.
_SKEW_MS = 60_000


@frozen(slots=True)
class Wanted:
    """What the version will be, besides its content.

    :ivar conditions: header fields that say on top of which version it may be made.
    """

    content_type: str
    meta: Mapping[str, str] = field(factory=dict)
    conditions: Mapping[str, Sequence[str]] = field(factory=dict)

    def to_note(self) -> bytes:
        """For keeping with the temporary shards.

        :raises InvalidRequest: it is too long.
        """
        fields = {
            "type": self.content_type,
            "meta": dict(self.meta),
            "conditions": {name: list(lines) for name, lines in self.conditions.items()},
        }
        note = json.dumps(fields).encode("ascii")
        if len(note) > MAX_NOTE_BYTES:
            raise InvalidRequest("Content-Type, metadata and conditions are too long together.")
        return note

    def check(self) -> Check | None:
        """The conditions, as one that the metadata store applies; None: there are none."""
        return write_check(
            {
                name.encode("ascii"): [line.encode("latin-1") for line in lines]
                for name, lines in self.conditions.items()
            }
        )

    @classmethod
    def from_note(cls, note: bytes) -> Wanted:
        """Read what :meth:`to_note` made."""
        try:
            fields = json.loads(note)
            return cls(fields["type"], fields["meta"], fields["conditions"])
        except (ValueError, KeyError, TypeError) as error:
            raise no_such_upload() from error


@frozen(slots=True)
class Progress:
    """How an upload stands.

    :ivar held: bytes of the content.
    :ivar version: what it has become; None: it is not complete.
    """

    held: int
    version: Version | None = None


#: Makes the version of a content that was written, however long the metadata store is away; on top
#: of which version it may be made, the last argument says.
Publish = Callable[[str, Content, Wanted], Awaitable[Version]]


class Uploads:
    """The resumable uploads of a store.

    :param publish: makes the version at the end.
    :param precheck: raises what a condition raises on the newest version.
    :param key: of the tokens; the same for all servers of a cluster.
    :param ttl_s: how long an upload that nobody touches is kept.
    :param instant: whether an upload of a content that is stored already is complete at once.
    """

    def __init__(
        self,
        cluster: ICluster,
        metadata: IMetadataStore,
        schemes: Schemes,
        writer: ContentWriter,
        *,
        publish: Publish,
        precheck: Callable[[str, Wanted], Awaitable[None]],
        key: Callable[[], Awaitable[bytes]],
        workers: IWorkers,
        clock: IReactorTime,
        now: Callable[[], float],
        stats: Stats,
        background: Background,
        ttl_s: int = DEFAULT_TTL_S,
        instant: bool = True,
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._schemes = schemes
        self._writer = writer
        self._publish = publish
        self._precheck = precheck
        self._key = key
        self._workers = workers
        self._clock = clock
        self._now = now
        self._stats = stats
        self._background = background
        self._ttl_s = ttl_s
        self._instant = instant
        self._hashes = Hashes()

    # Opening

    async def open(
        self, name: str, digest: ContentHash, size: int, wanted: Wanted
    ) -> Version | str:
        """Begin an upload: its token. The version, when the content is there already.

        :raises QuorumNotMet, NoSpace: too few nodes take shards.
        :raises PreconditionFailed: a condition does not hold now.
        """
        note = wanted.to_note()
        self._writer.require_quorum(self._schemes.quorum_of(self._schemes.of_size(size)))
        await self._precheck(name, wanted)
        if self._instant:
            content = await self._writer.find(digest, size)
            if content is not None:
                return await self._publish(name, content, wanted)
        token = await self._begin(name, digest, size, note)
        self._stats.uploads_opened += 1
        return token.seal(await self._key())

    async def _begin(self, name: str, digest: ContentHash, size: int, note: bytes) -> UploadToken:
        scheme = self._schemes.of_size(size)
        quorum = self._schemes.quorum_of(scheme)
        nodes = self._writer.place(digest, scheme)
        opened = int(self._now() * 1000)
        token = UploadToken(
            name,
            digest,
            size,
            scheme,
            secrets.token_bytes(ID_BYTES),
            tuple(
                node_id(nodes[index].address) if index in nodes else None
                for index in range(scheme.shards)
            ),
            opened,
            opened + max(TOKEN_LIFE_S, self._ttl_s) * 1000,
        )
        outcomes = await gather_quorum(
            [
                node.temps.open(
                    TempAbout(index, scheme, digest, size, note, self._ttl_s),
                    token.shard_token(index),
                )
                for index, node in nodes.items()
            ],
            need=quorum,
            grace_s=GRACE_S,
            clock=self._clock,
        )
        opened_there = sum(1 for outcome in outcomes if outcome is not None and outcome.ok)
        if opened_there < quorum:
            self._shards(token).forget()
            raise refusal(dict(zip(nodes.values(), outcomes, strict=True)), opened_there, quorum)
        return token

    def _shards(self, token: UploadToken) -> UploadShards:
        return UploadShards(
            token,
            self._cluster,
            workers=self._workers,
            clock=self._clock,
            background=self._background,
            quorum=self._schemes.quorum_of(token.scheme),
        )

    async def _read(self, text: str) -> UploadToken:
        return UploadToken.open(text, await self._key(), self._now())

    # Asking and giving up

    async def progress(self, text: str) -> Progress:
        """How an upload stands.

        :raises NotFound: there is no such upload, or not any more.
        """
        token = await self._read(text)
        shards = self._shards(token)
        try:
            held = await shards.look()
        except NotFound:
            return await self._completed(token)
        version = await self._version_of(token) if shards.committed else None
        return Progress(held, version)

    async def _completed(self, token: UploadToken) -> Progress:
        """What became of an upload whose shards are gone: perhaps the client did not hear of it."""
        version = await self._version_of(token)
        if version is None:
            raise no_such_upload()
        return Progress(token.size, version)

    async def _version_of(self, token: UploadToken) -> Version | None:
        """The version that an upload has become; None: there is none."""
        version = await self._metadata.latest(token.name)
        for _ in range(_LOOKED_BACK):
            if version is None or created_seconds(version) * 1000 < token.opened - _SKEW_MS:
                return None
            if version.content is not None and version.content.hash == token.hash:
                return version
            version = await self._metadata.get(token.name, version.number - 1)
        return None

    async def drop(self, text: str) -> None:
        """Give an upload up.

        :raises NotFound: there is no such upload.
        :raises Conflict: it is being completed.
        """
        token = await self._read(text)
        shards = self._shards(token)
        await shards.look()
        await shards.drop()
        self._hashes.forget(token)

    # Receiving

    async def receive(
        self, text: str, first: int, length: int | None, source: IByteSource
    ) -> Progress:
        """Take a part. What came of it before the source failed is kept.

        :param first: which byte of the content the part begins with.
        :param length: of the part, when it is known.
        :raises NotFound: there is no such upload.
        :raises Busy: another part is being received.
        :raises RangeNotSatisfiable: bytes between those that are held and the part are missing.
        :raises InvalidRequest: the part goes beyond the content's size.
        :raises DigestMismatch: all is there, and not what its hash says; the upload is given up.
        """
        token = await self._read(text)
        if first + (length or 0) > token.size:
            raise too_much(token)
        shards = self._shards(token)
        try:
            await shards.claim()
        except NotFound:
            return await self._completed(token)
        async with kept_claim(shards, self._clock):
            if shards.committed:
                return Progress(token.size, await self._resume_end(token, shards))
            self._stats.upload_parts += 1
            if first > shards.held:
                raise RangeNotSatisfiable(
                    f"{shards.held} bytes are held. Go on from there: Range: bytes={shards.held}-.",
                    size=shards.held,
                )
            await shards.align()
            part = UploadPart(
                token,
                shards,
                source,
                shards.held - first,
                hashes=self._hashes,
                workers=self._workers,
                clock=self._clock,
            )
            await part.receive()
            if part.offset < token.size:
                return Progress(part.offset)
            return Progress(token.size, await self._complete(token, shards, part))

    # Completing

    async def _complete(
        self, token: UploadToken, shards: UploadShards, part: UploadPart
    ) -> Version:
        found = await self._hash(token, shards, part)
        if found != token.hash:
            self._hashes.forget(token)
            await shards.drop()
            raise DigestMismatch(
                f"The SHA-256 of all {token.size} bytes is {found}, not {token.hash} as was said"
                " when the upload was opened. It is given up: open another."
            )
        wanted = Wanted.from_note(shards.note)
        # Before the shards are made durable: an upload that cannot be named now can be later.
        await self._precheck(token.name, wanted)
        if part.pending:
            await shards.append(part.pending)
        return await self._end(token, shards, wanted)

    async def _end(self, token: UploadToken, shards: UploadShards, wanted: Wanted) -> Version:
        """Make durable shards of what came, and a version. Whatever fails can be tried again."""
        content = Content(token.hash, token.size, token.scheme)
        content = await self._writer.take_over(content, shards)
        version = await self._publish(token.name, content, wanted)
        shards.forget()
        self._hashes.forget(token)
        self._stats.uploads_completed += 1
        return version

    async def _resume_end(self, token: UploadToken, shards: UploadShards) -> Version:
        """The end of an upload that failed, or whose server died, after the hash was checked."""
        version = await self._version_of(token)
        if version is not None:
            shards.forget()
            return version
        wanted = Wanted.from_note(shards.note)
        await self._precheck(token.name, wanted)
        if len(shards.nodes) < self._schemes.quorum_of(token.scheme):
            # What is missing is no temporary shard any more, or was lost since.
            await self._writer.restore(token.hash)
        return await self._end(token, shards, wanted)

    async def _hash(
        self, token: UploadToken, shards: UploadShards, part: UploadPart
    ) -> ContentHash:
        """The SHA-256 of all of the content: what of it is not known yet is read back."""
        if part.hasher is not None:
            return ContentHash(part.hasher.digest())
        at, hasher = self._hashes.recall(token, shards.last_owner)
        stripe = token.scheme.stripe_size
        end = token.size - len(part.pending)
        while at < end:
            first = at // stripe
            pieces = await shards.read(first, min(READ_STRIPES, shards.stripes - first))
            await self._workers.run(_update, hasher, pieces, at - first * stripe)
            at = first * stripe + sum(map(len, pieces))
        hasher.update(memoryview(part.pending)[at - end :])
        return ContentHash(hasher.digest())


def _update(hasher: hashlib._Hash, pieces: Sequence[Block], skipped: int) -> None:
    for piece in pieces:
        if skipped < len(piece):
            hasher.update(piece[skipped:])
        skipped = max(0, skipped - len(piece))
