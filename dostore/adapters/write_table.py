"""A table in memory that several processes share: which names are being written, or were."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

#: Names that share a counter only cost each other a question.
_SLOTS = 1 << 16
_BYTES = 8 * _SLOTS


def slot_of(name: str) -> int:
    """The counter that a name has."""
    return xxh3_64_intdigest(name.encode()) % _SLOTS


class WriteTable:
    """Counts writes by name. A counter is odd while versions are made of a name that has it.

    What is known of a name counts as long as its counter is what it was, and even, before that was
    asked for. One process writes, before it makes versions and before it tells that they are made.

    :param descriptor: of the shared memory; None: new.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        writes = descriptor is None
        if descriptor is None:
            descriptor = os.memfd_create("dostore-writes")
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        access = mmap.ACCESS_WRITE if writes else mmap.ACCESS_READ
        self._counts = memoryview(mmap.mmap(descriptor, _BYTES, access=access)).cast("Q")

    def count(self, slot: int) -> int:
        """How far a counter is."""
        return self._counts[slot]

    def begin(self, names: Iterable[str]) -> set[int]:
        """Versions of these names are going to be made; the counters, for :meth:`end`."""
        slots = set(map(slot_of, names))
        self._step(slots)
        return slots

    def end(self, slots: Iterable[int]) -> None:
        """They are made, or not; nobody was told yet."""
        self._step(slots)

    def _step(self, slots: Iterable[int]) -> None:
        counts = self._counts
        for slot in slots:
            counts[slot] += 1
