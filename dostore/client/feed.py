"""What several workers take from one after the other, however much it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from twisted.internet.defer import DeferredLock

from dostore.fanout import gather

T = TypeVar("T")


class Feed(Generic[T]):
    """Things to do, of which only a few are known at a time.

    :param more: the next ones; none at the end. It is not called while it runs.
    """

    def __init__(self, more: Callable[[], Coroutine[Any, Any, Sequence[T]]]) -> None:
        self._more = more
        self._held: deque[T] = deque()
        self._ended = False
        self._lock = DeferredLock()

    async def next(self) -> T | None:
        """The next one; None at the end."""
        if not self._held and not self._ended:
            await self._lock.acquire()
            try:
                # Another may have fetched some, or the end, meanwhile.
                if not self._held and not self._ended:
                    self._held.extend(await self._more())
                    self._ended = not self._held
            finally:
                self._lock.release()
        return self._held.popleft() if self._held else None

    def stop(self) -> None:
        """From now on this is the end."""
        self._ended = True
        self._held.clear()


async def work_off(
    feed: Feed[T], jobs: int, work: Callable[[T], Coroutine[Any, Any, None]]
) -> None:
    """Do all that is fed, ``jobs`` at a time. The first error ends it, when all have stopped."""

    async def worker() -> None:
        try:
            while (item := await feed.next()) is not None:
                await work(item)
        except BaseException:
            feed.stop()
            raise

    for outcome in await gather([worker() for _ in range(jobs)]):
        if outcome.error is not None:
            raise outcome.error
