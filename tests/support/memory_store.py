"""A store in memory, for the tests of what is in front of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from dostore.core.model import Content, Draft, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import (
    Deleted,
    DigestMismatch,
    InvalidRequest,
    NotFound,
    RangeNotSatisfiable,
)
from dostore.ports import Check, IByteSink, IByteSource, IMetadataStore
from dostore.service.objects import Readiness
from dostore.service.stats import Stats
from dostore.service.uploads import Progress, Wanted
from tests.support.workers import InlineWorkers

#: What a reader gives at a time, and what a writer asks for at a time.
PIECE_BYTES = 1 << 20


@implementer(IMetadataStore)
class MemoryMetadata:
    """Versions in a dictionary."""

    def __init__(self) -> None:
        self.names: dict[str, list[Version]] = {}

    async def add(self, draft: Draft, check: Check | None = None) -> Version:
        """See IMetadataStore."""
        versions = self.names.setdefault(draft.name, [])
        if check is not None:
            check(versions[-1] if versions else None)
        versions.append(draft.numbered(len(versions) + 1))
        return versions[-1]

    async def latest(self, name: str) -> Version | None:
        """See IMetadataStore."""
        versions = self.names.get(name)
        return versions[-1] if versions else None

    async def get(self, name: str, number: int) -> Version | None:
        """See IMetadataStore."""
        return next((v for v in self.names.get(name, ()) if v.number == number), None)

    async def history(self, name: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        return [v for v in self.names.get(name, ()) if v.number >= first][:limit]

    async def current(self, prefix: str, start: str, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        return [
            versions[-1]
            for name, versions in sorted(self.names.items())
            if versions and name.startswith(prefix) and name >= start and not versions[-1].deleted
        ][:limit]

    async def versions(self, prefix: str, start: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        return [
            version
            for name, versions in sorted(self.names.items())
            for version in versions
            if name.startswith(prefix) and (name, version.number) >= (start, first)
        ][:limit]

    async def referenced(self, hashes: object) -> set[ContentHash]:
        """See IMetadataStore."""
        raise NotImplementedError

    async def created(self) -> float:
        """See IMetadataStore."""
        return 0.0

    async def ping(self) -> None:
        """See IMetadataStore."""


class MemoryReader:
    """A content, piece by piece.

    :ivar size: the bytes that it is said to have.
    :ivar closed: how often it was closed.
    """

    def __init__(self, data: bytes, size: int, store: MemoryStore) -> None:
        self.size = size
        self.closed = 0
        self._store = store
        self._data = memoryview(data)

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data)

    async def read(self) -> Sequence[bytes | memoryview]:
        """About a mebibyte; nothing at the end."""
        await self._store.pause("read")
        piece, self._data = self._data[:PIECE_BYTES], self._data[PIECE_BYTES:]
        return [piece] if piece else []

    def peek(self) -> Sequence[bytes | memoryview]:
        """What the next read will return."""
        return [self._data[:PIECE_BYTES]]

    async def send(self, sink: IByteSink) -> None:
        """Write all that is left, piece by piece."""
        while pieces := await self.read():
            await sink.write(pieces)

    async def close(self) -> None:
        """Count it."""
        self.closed += 1


class MemoryUploads:
    """Does what Uploads does, with what came in one piece.

    :ivar instant: what ``open`` answers instead of a token.
    :ivar opened: what each token stands for: name, hash, size, what was wanted, and the bytes held.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.instant: Version | None = None
        self.opened: dict[str, tuple[str, ContentHash, int, Wanted, bytearray]] = {}
        self.complete: dict[str, Version] = {}

    async def open(
        self, name: str, digest: ContentHash, size: int, wanted: Wanted
    ) -> Version | str:
        """See Uploads."""
        await self._store.pause("open_upload")
        check = wanted.check()
        if check is not None:
            await self._store.precheck(name, check)
        if self.instant is not None:
            return self.instant
        token = f"token-{len(self.opened)}"
        self.opened[token] = (name, digest, size, wanted, bytearray())
        return token

    def _held(self, token: str) -> bytearray:
        if token not in self.opened:
            raise NotFound("There is no such upload.")
        return self.opened[token][4]

    async def progress(self, token: str) -> Progress:
        """See Uploads."""
        await self._store.pause("progress")
        return Progress(len(self._held(token)), self.complete.get(token))

    async def drop(self, token: str) -> None:
        """See Uploads."""
        self._held(token)
        del self.opened[token]

    async def receive(
        self, token: str, first: int, length: int | None, source: IByteSource
    ) -> Progress:
        """See Uploads."""
        await self._store.pause("receive")
        held = self._held(token)
        name, _, size, wanted, _ = self.opened[token]
        if first > len(held):
            raise RangeNotSatisfiable(f"{len(held)} bytes are held.", size=len(held))
        if first + (length or 0) > size:
            raise InvalidRequest("The part goes beyond Size.")
        skipped = len(held) - first
        while piece := await source.read_some(1 << 16):
            held += piece[skipped:]
            skipped = max(0, skipped - len(piece))
        if len(held) == size:
            if ContentHash(hashlib.sha256(held).digest()) != self.opened[token][1]:
                del self.opened[token]
                raise DigestMismatch("The SHA-256 of all bytes is another.")
            self._store.keep(name, bytes(held), wanted.content_type, dict(wanted.meta))
            self.complete[token] = self._store.metadata.names[name][-1]
        return Progress(len(held), self.complete.get(token))


class MemoryStore:
    """Does what an ObjectStore does, and fails or waits where a test says so.

    :ivar failures: what ``put``, ``find``, ``open``, ``read``, ``delete`` or ``locate`` raises.
    :ivar gates: what they wait for.
    :ivar at_hand_bytes: up to so many bytes need not be waited for.
    :ivar asked_now: what ``read_now`` was asked for.
    """

    def __init__(self) -> None:
        self.workers = InlineWorkers()
        self.metadata = MemoryMetadata()
        self.stats = Stats()
        self.failures: dict[str, Exception] = {}
        self.gates: dict[str, Deferred[None]] = {}
        self.contents: dict[ContentHash, bytes] = {}
        self.readers: list[MemoryReader] = []
        self.put_errors: list[BaseException] = []
        self.bytes_read = 0
        self.at_hand_bytes = -1
        self.asked_now: list[tuple[int, int]] = []
        self.piece_bytes = PIECE_BYTES
        self.state = Readiness(True, 6, 6, 6, "All is well.")
        self.created: Callable[[], str] = lambda: "2026-11-23T08:30:00.250Z"
        self.uploads = MemoryUploads(self)

    async def pause(self, step: str) -> None:
        """Wait and fail as the test wants it."""
        gate = self.gates.get(step)
        if gate is not None:
            await gate
        failure = self.failures.get(step)
        if failure is not None:
            raise failure

    async def precheck(self, name: str, check: Check) -> None:
        """See ObjectStore."""
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
        """See ObjectStore."""
        try:
            await self.pause("put")
            pieces = []
            while piece := await source.read(self.piece_bytes):
                self.bytes_read += len(piece)
                pieces.append(piece)
            await self.pause("commit")
            data = b"".join(pieces)
            content_hash = ContentHash(hashlib.sha256(data).digest())
            if digest is not None and digest != content_hash:
                raise DigestMismatch("The body's SHA-256 is another.")
            self.contents[content_hash] = data
            content = Content(content_hash, len(data), Scheme())
            draft = Draft(name, content, self.created(), content_type, dict(meta))
            return await self.metadata.add(draft, check)
        except BaseException as error:
            self.put_errors.append(error)
            raise

    async def find(self, name: str, number: int | None = None) -> Version:
        """See ObjectStore."""
        await self.pause("find")
        version = await (
            self.metadata.latest(name) if number is None else self.metadata.get(name, number)
        )
        if version is None:
            raise NotFound("There is no such object.")
        if version.deleted:
            raise Deleted("The object is deleted.")
        return version

    def read_now(
        self, version: Version, span: tuple[int, int] | None = None
    ) -> bytes | memoryview | None:
        """See ObjectStore."""
        start, stop = (0, version.size) if span is None else span
        self.asked_now.append((start, stop))
        if stop - start > self.at_hand_bytes:
            return None
        (content,) = version.contents
        return memoryview(self.contents[content.hash])[start:stop]

    async def fetch(self, version: Version) -> None:
        """See ObjectStore: it is opened."""

    async def open(self, version: Version, span: tuple[int, int] | None = None) -> MemoryReader:
        """See ObjectStore."""
        await self.pause("open")
        (content,) = version.contents
        data = self.contents[content.hash]
        start, stop = (0, version.size) if span is None else span
        # The whole of it may be more or less than the version says, where a test wants that.
        data = data if (start, stop) == (0, version.size) else data[start:stop]
        reader = MemoryReader(data, stop - start, self)
        self.readers.append(reader)
        return reader

    async def delete(self, name: str, check: Check | None = None) -> Version:
        """See ObjectStore."""
        await self.pause("delete")

        def exists(current: Version | None) -> None:
            if current is None or current.deleted:
                raise NotFound("There is no such object.")
            if check is not None:
                check(current)

        return await self.metadata.add(Draft(name, None, self.created()), exists)

    async def locate(self, content_hash: ContentHash) -> Mapping[int, Sequence[str]]:
        """See ObjectStore."""
        await self.pause("locate")
        if content_hash not in self.contents:
            raise NotFound("No node holds a shard of this content.")
        return {index: [f"/drives/{index + 1}"] for index in range(6)}

    async def readiness(self) -> Readiness:
        """See ObjectStore."""
        return self.state

    def keep(
        self,
        name: str,
        data: bytes,
        content_type: str = "text/plain",
        meta: Mapping[str, str] | None = None,
    ) -> None:
        """Store an object without HTTP."""
        content_hash = ContentHash(hashlib.sha256(data).digest())
        self.contents[content_hash] = data
        versions = self.metadata.names.setdefault(name, [])
        content = Content(content_hash, len(data), Scheme())
        draft = Draft(name, content, self.created(), content_type, meta or {})
        versions.append(draft.numbered(len(versions) + 1))
