"""How much of a content is read, coded and written at a time.

Each batch costs a dozen hops from thread to thread, so large ones are quick, and each stream holds
a few of them, so many streams must make do with small ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Bytes of content of a batch, at least; that of a stream's first batch.
LEAST_BYTES = 1 << 20

#: And at most.
MOST_BYTES = 4 << 20

#: At most, where each batch is a request to each of several other machines.
MOST_REMOTE_BYTES = 8 << 20

#: What the batches of all streams of a process come to, unless LEAST_BYTES each is more.
TOTAL_BYTES = 8 << 20


class Batches:
    """Divides TOTAL_BYTES among the streams that are under way.

    :param most: bytes of a batch, at most.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._streams = 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        """For as long as a stream of more than LEAST_BYTES is under way."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """One more is under way; :meth:`end` must follow."""
        self._streams += 1

    def end(self) -> None:
        """It has ended."""
        self._streams -= 1

    def size(self, stripe_size: int) -> int:
        """Bytes of the next batch of a stream: a multiple of its stripes."""
        share = TOTAL_BYTES // max(1, self._streams)
        return whole_stripes(max(LEAST_BYTES, min(share, self._most)), stripe_size)


def whole_stripes(size: int, stripe_size: int) -> int:
    """The most whole stripes within ``size`` bytes, and at least one."""
    return max(1, size // stripe_size) * stripe_size
