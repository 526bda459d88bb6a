"""dostore.service.reading: what is read, hashed and sent at once, and what is held back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.stripes import Block, StripeCoder
from dostore.errors import Corrupt, Unavailable
from dostore.service.batches import LEAST_BYTES, Batches
from dostore.service.reading import ContentReader
from tests.support.cases import SyncTestCase

SCHEME = Scheme()
COUNT = 4
PLAIN = b"".join(bytes([number]) * LEAST_BYTES for number in range(COUNT))


class _Shards:
    """The shards of a content, as its reader asks for them.

    :ivar fetched: the batches that were read.
    :ivar hashing: what the next hash waits for.
    :ivar missing: the batch that cannot be read.
    """

    def __init__(self, digest: bytes) -> None:
        self.content = Content(ContentHash(digest), len(PLAIN), SCHEME)
        self.fetched: list[int] = []
        self.hashing: Deferred[None] | None = None
        self.missing: int | None = None
        self.wrong = False

    def expect(self) -> None:
        """See ShardSet."""

    async def read_blocks(
        self, first: int, count: int, wanted: Sequence[int]
    ) -> list[dict[int, Block]]:
        """See ShardSet."""
        size = SCHEME.stripe_size
        number = first * size // LEAST_BYTES
        if number == self.missing:
            raise Unavailable("It is away.")
        self.fetched.append(number)
        encoded = StripeCoder(SCHEME).encode(PLAIN[first * size : (first + count) * size])
        return [{index: encoded[index][at] for index in wanted} for at in range(count)]

    async def hash(self, hasher: Any, pieces: Sequence[Block]) -> None:
        """See ShardSet."""
        for piece in pieces:
            hasher.update(piece)
        hashing, self.hashing = self.hashing, None
        if hashing is not None:
            await hashing

    async def close(self) -> None:
        """See ShardSet."""


class _Sink:
    """Takes the batches that are sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    async def write(self, pieces: Sequence[Block]) -> None:
        """See IByteSink."""
        data = b"".join(pieces)
        assert data == bytes([data[0]]) * LEAST_BYTES
        self.sent.append(data[0])


class SendTests(SyncTestCase):
    """ContentReader.send, where the content's hash is compared."""

    def begin(self, digest: bytes = hashlib.sha256(PLAIN).digest()) -> None:
        """A reader that has begun."""
        self.shards = _Shards(digest)
        shards: Any = self.shards
        batches = Batches(LEAST_BYTES)
        self.reader = ContentReader(shards, lambda _: None, verify=True, batches=batches)
        self.sink = _Sink()
        self.successResultOf(Deferred.fromCoroutine(self.reader.begin()))

    def send(self) -> Deferred[None]:
        """Send it all."""
        sink: Any = self.sink
        return Deferred.fromCoroutine(self.reader.send(sink))

    def test_three_at_a_time(self) -> None:
        """While one batch is hashed, the one before is sent and the next is read, no more."""
        self.begin()
        hashing = self.shards.hashing = Deferred()
        sending = self.send()
        self.assertNoResult(sending)
        self.assertEqual(self.sink.sent, [0])
        self.assertEqual(self.shards.fetched, [0, 1, 2])
        hashing.callback(None)
        self.successResultOf(sending)
        self.assertEqual(self.sink.sent, list(range(COUNT)))
        self.assertEqual(self.shards.fetched, list(range(COUNT)))

    def test_wrong(self) -> None:
        """The last bytes of a content that is not what its hash says are held back."""
        self.begin(bytes(32))
        self.failureResultOf(self.send(), Corrupt)
        self.assertEqual(self.sink.sent, list(range(COUNT - 1)))
        self.assertTrue(self.shards.wrong)

    def test_cut(self) -> None:
        """What was read before a node went away is sent."""
        self.begin()
        self.shards.missing = 2
        self.failureResultOf(self.send(), Unavailable)
        self.assertEqual(self.sink.sent, [0, 1])
