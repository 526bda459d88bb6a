"""Many deadlines of one length, at the cost of a dictionary."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds between two calls of :meth:`Deadlines.advance`.
TICK_S = 1.0


class Deadlines(Generic[T]):
    """Things that all get the same time from their start on, the oldest first.

    Time is counted in ticks, not read from a clock: a clock that jumps expires nothing.

    :param seconds: what each gets, and up to one tick more.
    """

    def __init__(self, seconds: float) -> None:
        self._ticks = math.ceil(seconds / TICK_S) + 1
        self._now = 0
        self._due: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, thing: T) -> bool:
        return thing in self._due

    def start(self, thing: T) -> None:
        """Give ``thing`` its time, from now on."""
        self._due.pop(thing, None)
        self._due[thing] = self._now + self._ticks

    def stop(self, thing: T) -> None:
        """Forget ``thing``, if it is here."""
        self._due.pop(thing, None)

    def oldest(self) -> T | None:
        """The one whose time is up first."""
        return next(iter(self._due), None)

    def all(self) -> list[T]:
        """All of them, the oldest first."""
        return list(self._due)

    def advance(self) -> list[T]:
        """One tick has passed: take out and return those whose time is up."""
        self._now += 1
        expired = []
        for thing, due in self._due.items():
            if due > self._now:
                break
            expired.append(thing)
        for thing in expired:
            del self._due[thing]
        return expired
