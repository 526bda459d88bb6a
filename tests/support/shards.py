"""Contents with their shards, made without a store."""

from __future__ import annotations

import hashlib
import random

from attrs import frozen

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
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


def sample(size: int, seed: int = 0, scheme: Scheme = SCHEME) -> Sample:
    """A content of ``size`` random bytes, the same for the same seed."""
    data = random.Random(seed).randbytes(size)
    content = Content(ContentHash(hashlib.sha256(data).digest()), size, scheme)
    return Sample(content, data, StripeCoder(scheme).encode(data))
