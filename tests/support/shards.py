"""Contents with their shards, made without a store."""

from __future__ import annotations

import hashlib
import random

from attrs import frozen

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.shardfile import (
    ENTRY_BYTES,
    PAGE_BLOCKS,
    PAGE_BYTES,
    REFERENCE_BYTES,
    TRAILER_BYTES,
)
from dostore.core.stripes import Block, StripeCoder

#: Small blocks make many stripes cheap.
SCHEME = Scheme(4, 2, MIN_BLOCK_BYTES)


@frozen(slots=True)
class Sample:
    """A content, its bytes, and the blocks of each of its shards."""

    content: Content
    data: bytes
    shards: list[list[Block]]

    def plain(self, index: int) -> bytes:
        """All bytes of a shard."""
        return b"".join(self.shards[index])


#: Runs of so many bytes are of one kind.
_RUN = 3 * SCHEME.stripe_size


def mixed_bytes(size: int, seed: int = 0) -> bytes:
    """Some bytes that shrink, text and zeros, and some that do not, by turns."""
    chance = random.Random(seed)
    text = b"Line %d of a file of that sort.\n" % seed * (_RUN // 16)
    # Two of one size are not the same.
    runs = [chance.randbytes(16)]
    for at in range(0, size, _RUN):
        kind = (at // _RUN + seed) % 3
        runs.append((text[:_RUN], chance.randbytes(_RUN), bytes(_RUN))[kind])
    return b"".join(runs)[:size]


def mixed_sample(size: int, seed: int = 0, scheme: Scheme = SCHEME) -> Sample:
    """A content of :func:`mixed_bytes`."""
    return sample_of(mixed_bytes(size, seed), scheme)


def sample(size: int, seed: int = 0, scheme: Scheme = SCHEME) -> Sample:
    """A content of ``size`` random bytes, the same for the same seed."""
    return sample_of(random.Random(seed).randbytes(size), scheme)


def sample_of(data: bytes, scheme: Scheme = SCHEME) -> Sample:
    """A content of those bytes."""
    content = Content(ContentHash(hashlib.sha256(data).digest()), len(data), scheme)
    return Sample(content, data, StripeCoder(scheme).encode(data))


def plain_file_size(content: Content) -> int:
    """Bytes of a shard file of a content, stored without compression, by docs/shard-format.rst."""
    pages, entries = divmod(content.scheme.stripe_count(content.size), PAGE_BLOCKS)
    footer = entries * ENTRY_BYTES + pages * REFERENCE_BYTES + TRAILER_BYTES
    return content.scheme.shard_size(content.size) + pages * PAGE_BYTES + footer
