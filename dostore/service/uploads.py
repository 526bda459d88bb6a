"""Resumable uploads: contents that come in parts, over any number of connections and servers.

The service keeps nothing that would be missed: what an upload is, its token says; how far it has
come, its temporary shards.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dostore.background import Background
from dostore.core.httpfields import created_seconds, write_check
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.schemes import Schemes
from dostore.core.stripes import Block
from dostore.core.upload_token import ID_BYTES, UploadToken, no_such_upload
from dostore.errors import (
    DigestMismatch,
    DostoreError,
    InvalidRequest,
    NotFound,
    QuorumNotMet,
    RangeNotSatisfiable,
)
from dostore.fanout import gather, gather_quorum, with_timeout
from dostore.ports import (
    CLAIM_S,
    MAX_NOTE_BYTES,
    Check,
    IByteSource,
    ICluster,
    IMetadataStore,
    IWorkers,
    TempAbout,
)
from dostore.service.stats import Stats
from dostore.service.upload_shards import GRACE_S, READ_STRIPES, UploadShards
from dostore.service.writing import ContentWriter

_log = Logger()

#: How long an upload that nobody touches is kept.
DEFAULT_TTL_S = 24 * 3600

#: How long a token is taken, or as long as the upload is kept when that is longer.
TOKEN_LIFE_S = 30 * 24 * 3600

#: Bytes of content that are hashed, encoded and written at a time.
BATCH_BYTES = 1 << 20

#: What has come is on the nodes after so many seconds, however slow the line.
FLUSH_S = 5.0

#: Uploads whose hash so far is remembered. Of others it is computed at the end, by reading back.
_HASHES = 1024

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
        self._hashes = _Hashes()

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
            tuple(nodes[index].address if index in nodes else "" for index in range(scheme.shards)),
            opened,
            opened + max(TOKEN_LIFE_S, self._ttl_s) * 1000,
        )
        # Before anything is written: it may be too long.
        token.seal(await self._key())
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
            self._shards(token).abort()
            raise QuorumNotMet(
                f"{opened_there} nodes began their shard; an upload needs {quorum}. Try again"
                " later."
            )
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
        try:
            return Progress(await self._shards(token).look())
        except NotFound:
            return await self._completed(token)

    async def _completed(self, token: UploadToken) -> Progress:
        """What became of an upload whose shards are gone: perhaps the client did not hear of it."""
        version = await self._metadata.latest(token.name)
        if (
            version is None
            or version.content is None
            or version.content.hash != token.hash
            or created_seconds(version) * 1000 < token.opened - _SKEW_MS
        ):
            raise no_such_upload()
        return Progress(token.size, version)

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
            raise _too_much(token)
        shards = self._shards(token)
        try:
            await shards.claim()
        except NotFound:
            return await self._completed(token)
        async with self._claimed(shards):
            self._stats.upload_parts += 1
            if first > shards.held:
                raise RangeNotSatisfiable(
                    f"{shards.held} bytes are held. Go on from there: Range: bytes={shards.held}-.",
                    size=shards.held,
                )
            await shards.align()
            part = _Part(self, token, shards, source, shards.held - first)
            await part.receive()
            if part.offset < token.size:
                return Progress(part.offset)
            return Progress(token.size, await self._complete(token, shards, part))

    @asynccontextmanager
    async def _claimed(self, shards: UploadShards) -> AsyncIterator[None]:
        """Renew the claim until the end, then give it back."""

        async def renew() -> None:
            while True:
                await deferLater(self._clock, CLAIM_S / 3)
                await shards.renew()

        renewing = Deferred.fromCoroutine(renew())
        _ = renewing.addErrback(lambda failure: failure.trap(CancelledError))
        try:
            yield
        finally:
            renewing.cancel()
            shards.release()

    # Completing

    async def _complete(self, token: UploadToken, shards: UploadShards, part: _Part) -> Version:
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
        content = Content(token.hash, token.size, token.scheme)
        try:
            content = await self._writer.take_over(content, shards)
        except DostoreError:
            # Some may be no temporary shards any more, and the rest is of no use.
            shards.abort()
            raise
        version = await self._publish(token.name, content, wanted)
        self._hashes.forget(token)
        self._stats.uploads_completed += 1
        return version

    async def _hash(self, token: UploadToken, shards: UploadShards, part: _Part) -> ContentHash:
        """The SHA-256 of all of the content: what of it is not known yet is read back."""
        if part.hasher is not None:
            return ContentHash(part.hasher.digest())
        at, hasher = self._hashes.recall(token)
        stripe = token.scheme.stripe_size
        while at < shards.stripes * stripe:
            first = at // stripe
            pieces = await shards.read(first, min(READ_STRIPES, shards.stripes - first))
            await self._workers.run(_update, hasher, pieces, at - first * stripe)
            at = first * stripe + sum(map(len, pieces))
        hasher.update(memoryview(part.pending)[at - shards.stripes * stripe :])
        return ContentHash(hasher.digest())


class _Part:
    """One part on its way to the nodes.

    :ivar offset: how far into the content it has come.
    :ivar pending: the bytes before that which are no whole stripe.
    :ivar hasher: of all bytes up to there; None: not all of them went through here.
    """

    def __init__(
        self,
        uploads: Uploads,
        token: UploadToken,
        shards: UploadShards,
        source: IByteSource,
        overlap: int,
    ) -> None:
        self.offset = shards.held
        self.pending = shards.tail
        at, hasher = uploads._hashes.recall(token)
        if at > self.offset:
            # The bytes from here on may be others now.
            uploads._hashes.forget(token)
        self.hasher = hasher if at == self.offset else None
        self._uploads = uploads
        self._token = token
        self._shards = shards
        self._source = source
        self._overlap = overlap
        self._stripe = token.scheme.stripe_size
        self._batch = max(1, BATCH_BYTES // self._stripe) * self._stripe
        self._clock = uploads._clock
        self._ended = False
        self._error: DostoreError | None = None

    async def receive(self) -> None:
        """Take all that comes; return when it is on the nodes, durably unless it is the end of the
        content.

        :raises DostoreError: the source failed, after all that came before is on the nodes; or too
            few nodes take it.
        """
        data = await self._collect()
        while data or not self._ended:
            more, taken = await gather(
                [self._collect() if not self._ended else _nothing(), self._take(data)]
            )
            for outcome in (more, taken):
                if outcome.error is not None:
                    raise outcome.error
            data = more.value or b""
        if self.offset == self._token.size:
            # Whether or not the source failed after that: all of the content is there.
            return
        await self._settle()
        if self._error is not None:
            raise self._error

    async def _collect(self) -> bytes:
        """The next bytes: a batch, or less when they are slow or the source ends."""
        pieces: list[bytes] = []
        missing = self._batch
        until = self._clock.seconds() + FLUSH_S
        while missing > 0 and not self._ended:
            try:
                piece = await self._some(missing, until if pieces else None)
            except _Slow:
                break
            except DostoreError as error:
                # It is raised when what came before it is safe.
                self._ended, self._error = True, error
                break
            self._ended = not piece
            if self._overlap:
                skipped = min(self._overlap, len(piece))
                self._overlap -= skipped
                piece = piece[skipped:]
            if piece:
                pieces.append(piece)
                missing -= len(piece)
        return b"".join(pieces)

    async def _some(self, size: int, until: float | None) -> bytes:
        if until is None:
            return await self._source.read_some(size)
        left_s = until - self._clock.seconds()
        if left_s <= 0:
            raise _Slow
        return await with_timeout(self._source.read_some(size), left_s, self._clock, _Slow)

    async def _take(self, data: bytes) -> None:
        """Hash and write what came; of a slow line, have it safe at once."""
        slow = len(data) < self._batch // 2 and not self._ended
        for outcome in await gather([self._update(data), self._write(data)]):
            if outcome.error is not None:
                raise outcome.error
        if slow and self.offset < self._token.size:
            await self._settle()

    async def _update(self, data: bytes) -> None:
        if self.hasher is not None and data:
            await self._uploads._workers.run(self.hasher.update, data)

    async def _write(self, data: bytes) -> None:
        """Have whole stripes on the nodes. What is less waits for more, or for the end."""
        if self.offset + len(data) > self._token.size:
            self._ended = True
            raise _too_much(self._token)
        self.pending += data
        self.offset += len(data)
        whole = len(self.pending) // self._stripe * self._stripe
        if whole:
            view = memoryview(self.pending)
            self.pending = bytes(view[whole:])
            await self._shards.append(view[:whole])

    async def _settle(self) -> None:
        await self._shards.settle(self.pending)
        if self.hasher is not None:
            self._uploads._hashes.remember(self._token, self.offset, self.hasher)


class _Hashes:
    """How the hash of uploads stands, of those whose bytes went through here."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[bytes, tuple[int, hashlib._Hash]] = OrderedDict()

    def remember(self, token: UploadToken, offset: int, hasher: hashlib._Hash) -> None:
        """Take note of the hash of the first ``offset`` bytes."""
        self._hashes[token.upload] = (offset, hasher.copy())
        self._hashes.move_to_end(token.upload)
        if len(self._hashes) > _HASHES:
            self._hashes.popitem(last=False)

    def recall(self, token: UploadToken) -> tuple[int, hashlib._Hash]:
        """How many bytes are hashed, and a hash of them to go on with."""
        offset, hasher = self._hashes.get(token.upload, (0, None))
        return offset, hashlib.sha256() if hasher is None else hasher.copy()

    def forget(self, token: UploadToken) -> None:
        """The upload has ended."""
        self._hashes.pop(token.upload, None)


class _Slow(Exception):
    """Nothing came for a while."""


async def _nothing() -> bytes | None:
    return b""


def _update(hasher: hashlib._Hash, pieces: Sequence[Block], skipped: int) -> None:
    for piece in pieces:
        if skipped < len(piece):
            hasher.update(piece[skipped:])
        skipped = max(0, skipped - len(piece))


def _too_much(token: UploadToken) -> InvalidRequest:
    return InvalidRequest(
        f"The part goes beyond the {token.size} bytes that were announced as Size when the upload"
        " was opened."
    )
