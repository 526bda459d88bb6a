"""One part of a resumable upload on its way to the nodes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from dostore.core.upload_token import UploadToken
from dostore.errors import DostoreError, InvalidRequest
from dostore.fanout import gather, with_timeout
from dostore.ports import IByteSource, IWorkers
from dostore.service.upload_shards import UploadShards

#: After so many bytes of a part, what came is made durable, and survives a power cut.
SETTLE_BYTES = 256 << 20

#: Uploads whose hash so far is remembered. Of others it is computed at the end, by reading back.
_HASHES = 1024

#: What has come is on the nodes after so many seconds, however slow the line.
FLUSH_S = 5.0

#: Bytes of content that are hashed, encoded and written at a time.
BATCH_BYTES = 1 << 20


class Hashes:
    """How the hash of uploads stands, of those whose bytes went through here.

    It counts only as long as nobody else has written: by whose name for writing the shards know.
    """

    def __init__(self) -> None:
        self._hashes: OrderedDict[bytes, tuple[str, int, hashlib._Hash]] = OrderedDict()

    def remember(self, token: UploadToken, owner: str, offset: int, hasher: hashlib._Hash) -> None:
        """Take note of the hash of the first ``offset`` bytes."""
        self._hashes[token.upload] = (owner, offset, hasher.copy())
        self._hashes.move_to_end(token.upload)
        if len(self._hashes) > _HASHES:
            self._hashes.popitem(last=False)

    def recall(self, token: UploadToken, owner: str) -> tuple[int, hashlib._Hash]:
        """How many bytes are hashed, and a hash of them to go on with.

        :param owner: who wrote last.
        """
        known = self._hashes.get(token.upload)
        if known is None or known[0] != owner:
            return 0, hashlib.sha256()
        return known[1], known[2].copy()

    def forget(self, token: UploadToken) -> None:
        """The upload has ended."""
        self._hashes.pop(token.upload, None)


class UploadPart:
    """One part on its way to the nodes.

    :ivar offset: how far into the content it has come.
    :ivar pending: the bytes before that which are no whole stripe.
    :ivar hasher: of all bytes up to there; None: not all of them went through here.
    :param overlap: how many bytes of the source are held already.
    """

    def __init__(
        self,
        token: UploadToken,
        shards: UploadShards,
        source: IByteSource,
        overlap: int,
        *,
        hashes: Hashes,
        workers: IWorkers,
        clock: IReactorTime,
    ) -> None:
        self.offset = shards.held
        self.pending = shards.tail
        at, hasher = hashes.recall(token, shards.last_owner)
        self.hasher = hasher if at == self.offset else None
        self._hashes = hashes
        self._workers = workers
        self._token = token
        self._shards = shards
        self._source = source
        self._overlap = overlap
        self._stripe = token.scheme.stripe_size
        self._batch = max(1, BATCH_BYTES // self._stripe) * self._stripe
        self._clock = clock
        self._unsettled = 0
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
        self._unsettled += len(data)
        due = self._unsettled >= SETTLE_BYTES
        slow = len(data) < self._batch // 2 and not self._ended
        for outcome in await gather([self._update(data), self._write(data)]):
            if outcome.error is not None:
                raise outcome.error
        if (slow or due) and self.offset < self._token.size:
            await self._settle()

    async def _update(self, data: bytes) -> None:
        if self.hasher is not None and data:
            await self._workers.run(self.hasher.update, data)

    async def _write(self, data: bytes) -> None:
        """Have whole stripes on the nodes. What is less waits for more, or for the end."""
        if self.offset + len(data) > self._token.size:
            self._ended = True
            raise too_much(self._token)
        self.pending += data
        self.offset += len(data)
        whole = len(self.pending) // self._stripe * self._stripe
        if whole:
            view = memoryview(self.pending)
            self.pending = bytes(view[whole:])
            await self._shards.append(view[:whole])

    async def _settle(self) -> None:
        self._unsettled = 0
        await self._shards.settle(self.pending)
        if self.hasher is not None:
            self._hashes.remember(self._token, self._shards.owner, self.offset, self.hasher)


class _Slow(Exception):
    """Nothing came for a while."""


async def _nothing() -> bytes | None:
    return b""


def too_much(token: UploadToken) -> InvalidRequest:
    """For a part that goes beyond the content."""
    return InvalidRequest(
        f"The part goes beyond the {token.size} bytes that were announced as Size when the upload"
        " was opened."
    )
