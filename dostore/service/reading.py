"""Reading contents: the blocks of shards joined to a stream of bytes, or of a range of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from twisted.logger import Logger

from dostore.core.stripes import Block
from dostore.errors import ContentLost, Corrupt, Unavailable
from dostore.fanout import gather
from dostore.ports import IByteSink
from dostore.service.batches import LEAST_BYTES, Batches, whole_stripes
from dostore.service.shardset import ShardSet

_log = Logger()


class ContentReader:
    """A content, or a range of it, as a stream.

    :ivar size: the bytes that will be read.
    :param span: the first byte and the one after the last; None: the whole content.
    :param verify: compare the content's SHA-256 too before its last bytes are handed out. Blocks
        are verified by the nodes that keep them; this is for nodes that are not trusted with it.
        It takes the whole content.
    :param on_end: told once, with the shards, when the reading has ended, however it did.
    """

    def __init__(
        self,
        shards: ShardSet,
        on_end: Callable[[ShardSet], None],
        *,
        span: tuple[int, int] | None = None,
        verify: bool = False,
        batches: Batches,
    ) -> None:
        whole = shards.content.size
        self._start, self._stop = (0, whole) if span is None else span
        if not 0 <= self._start <= self._stop <= whole:
            raise ValueError(f"{span} is not within {whole} bytes")
        self.size = self._stop - self._start
        self._shards = shards
        self._on_end = on_end
        self._hasher = hashlib.sha256() if verify and self.size == whole else None
        self._scheme = shards.content.scheme
        self._hashed = 0
        self._next = self._start
        self._batches = batches
        self._under_way = False
        self._first: Sequence[Block] | None = None
        self._closed = False

    async def begin(self) -> None:
        """Find the shards and read the first batch, so that what is lost is known before any byte.

        :raises ContentLost, Unavailable: it cannot be read.
        :raises Corrupt: it is small, and not what its hash says, whichever shards are taken.
        """
        if self.size > LEAST_BYTES:
            self._under_way = True
            self._batches.begin()
        if self.size:
            try:
                self._shards.expect()
                self._first = await self._read()
                if not self._matches():
                    self._first = await self._read_without_liar()
            except BaseException:
                await self.close()
                raise

    def peek(self) -> Sequence[Block]:
        """What the first :meth:`read` will return, after :meth:`begin`."""
        return self._first or ()

    async def read(self) -> Sequence[Block]:
        """The next bytes, some MiB, in pieces; none at the end.

        :raises ContentLost, Unavailable: the rest cannot be read.
        :raises Corrupt: what was read is not what its hash says; the last bytes are held back.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        return await self._checked(await self._fetch())

    async def send(self, sink: IByteSink) -> None:
        """Write all that is left to a sink; one batch is read while the last is on its way."""
        pieces = await self.read()
        if self._hasher is not None:
            await self._send_checked(sink, pieces)
            return
        while pieces:
            sent, following = await gather([sink.write(pieces), self._fetch()])
            if sent.error is not None:
                raise sent.error
            pieces = following.value or ()

    async def _send_checked(self, sink: IByteSink, first: Sequence[Block]) -> None:
        """The same, where one batch is hashed meanwhile: to read takes about as long as that."""
        sent, fetched = await gather([_write(sink, first), self._fetch()])
        ready: Sequence[Block] = ()
        while sent.error is None and fetched.error is None and fetched.value:
            sent, checked, following = await gather(
                [_write(sink, ready), self._checked(fetched.value), self._fetch()]
            )
            ready, fetched = checked.value or (), following
        if sent.error is not None:
            raise sent.error
        await _write(sink, ready)
        if fetched.error is not None:
            raise fetched.error

    async def _read(self) -> Sequence[Block]:
        """The next bytes up to the end of a batch of stripes, hashed."""
        return await self._hash(await self._fetch())

    async def _hash(self, pieces: Sequence[Block]) -> Sequence[Block]:
        """Add the bytes that come next to the content's hash."""
        if self._hasher is not None:
            await self._shards.hash(self._hasher, pieces)
            self._hashed += sum(map(len, pieces))
        return pieces

    async def _checked(self, pieces: Sequence[Block]) -> Sequence[Block]:
        """The same; the last are held back when the content is wrong.

        :raises Corrupt: it is.
        """
        await self._hash(pieces)
        if pieces and not self._matches():
            self._shards.wrong = True
            raise Corrupt(f"What the nodes sent of {self._shards.content.hash} is not its content.")
        return pieces

    async def _fetch(self) -> Sequence[Block]:
        """The next bytes up to the end of a batch of stripes."""
        size = self._scheme.stripe_size
        start = self._next
        # The first bytes are to come soon.
        batch = whole_stripes(LEAST_BYTES, size)
        if start > self._start:
            batch = self._batches.size(size)
        stop = min(self._stop, start - start % size + batch)
        if start >= stop:
            return ()
        first, last = start // size, (stop - 1) // size
        wanted = self._scheme.touched(self._shards.content.size, start, stop)
        blocks = await self._shards.read_blocks(first, last - first + 1, wanted)
        pieces: list[Block] = []
        for stripe, row in enumerate(blocks, first):
            length = self._block_length(stripe)
            for index in sorted(row):
                at = stripe * size + index * length
                piece = memoryview(row[index])[max(0, start - at) : max(0, stop - at)]
                if piece:
                    pieces.append(piece)
        self._next = stop
        return pieces

    def _block_length(self, stripe: int) -> int:
        return self._scheme.block_length(
            self._scheme.stripe_length(self._shards.content.size, stripe)
        )

    def _matches(self) -> bool:
        """Whether the content is not known to be wrong: that is known when all of it is hashed."""
        if self._hasher is None or self._hashed < self.size:
            return True
        return self._hasher.digest() == self._shards.content.hash.digest

    async def _read_without_liar(self) -> Sequence[Block]:
        """Read a small content again, each time without one of the shards that made it wrong."""
        self._shards.wrong = True
        for index in sorted(self._shards.verified):
            self._shards.without = index
            self._hasher, self._hashed, self._next = hashlib.sha256(), 0, 0
            try:
                pieces = await self._read()
            except (ContentLost, Unavailable):
                continue
            if self._matches():
                _log.error(
                    "{addresses} sent a wrong shard {index} of {hash}",
                    addresses=self._shards.holders(index),
                    index=index,
                    hash=self._shards.content.hash,
                )
                return pieces
        raise Corrupt(
            f"What the nodes sent of {self._shards.content.hash} is not its content, whichever "
            "shards are taken. Store it again."
        )

    async def close(self) -> None:
        """Release the shards. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._under_way:
                self._batches.end()
            self._on_end(self._shards)
            await self._shards.close()


async def _write(sink: IByteSink, pieces: Sequence[Block]) -> None:
    if pieces:
        await sink.write(pieces)
