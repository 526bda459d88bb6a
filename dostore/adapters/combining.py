"""Requests that wait at the same time travel together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from dostore.errors import MetadataUnavailable

Q = TypeVar("Q")
A = TypeVar("A")


@frozen(slots=True)
class _Waiting(Generic[Q, A]):
    request: Q
    weight: int
    count: int
    waiter: Deferred[A]


def _nothing(_: object) -> int:
    return 0


def _one(_: object) -> int:
    return 1


class Combiner(Generic[Q, A]):
    """Sends requests in batches, the next when the one before was answered.

    :param send: sends a batch and returns an answer to each, in order.
    :param max_count: of a batch; a request that counts more than that goes alone.
    :param max_weight: of a batch; a request that weighs more goes alone.
    :param weigh: the weight of a request.
    :param count: how many a request counts.
    """

    def __init__(
        self,
        send: Callable[[list[Q]], Coroutine[Any, Any, Sequence[A]]],
        *,
        max_count: int,
        max_weight: int = 1,
        weigh: Callable[[Q], int] = _nothing,
        count: Callable[[Q], int] = _one,
    ) -> None:
        self._send = send
        self._max_count = max_count
        self._max_weight = max_weight
        self._weigh = weigh
        self._count = count
        self._queue: deque[_Waiting[Q, A]] = deque()
        self._busy: Deferred[Sequence[A]] | None = None

    async def ask(self, request: Q) -> A:
        """The answer to one request.

        When it is cancelled before it was sent it never is.

        :raises MetadataUnavailable: its own batch failed, or the one that it waited for: what
            cannot be reached would make each batch wait as long again.
        """
        waiter: Deferred[A] = Deferred()
        self._queue.append(_Waiting(request, self._weigh(request), self._count(request), waiter))
        self._next()
        return await waiter

    def stop(self) -> None:
        """Cancel what is under way and what waits."""
        for waiting in self._take_all():
            waiting.waiter.cancel()
        if self._busy is not None:
            self._busy.cancel()

    def _next(self) -> None:
        if self._busy is not None:
            return
        batch = self._take()
        if not batch:
            return
        self._busy = Deferred.fromCoroutine(self._send([waiting.request for waiting in batch]))
        _ = self._busy.addBoth(self._answered, batch)

    def _take(self) -> list[_Waiting[Q, A]]:
        batch: list[_Waiting[Q, A]] = []
        weight = count = 0
        while self._queue:
            first = self._queue[0]
            if first.waiter.called:
                self._queue.popleft()
                continue
            weight += first.weight
            count += first.count
            if batch and (weight > self._max_weight or count > self._max_count):
                break
            batch.append(self._queue.popleft())
        return batch

    def _take_all(self) -> list[_Waiting[Q, A]]:
        taken = list(self._queue)
        self._queue.clear()
        return [waiting for waiting in taken if not waiting.waiter.called]

    def _answered(self, outcome: Sequence[A] | Failure, batch: list[_Waiting[Q, A]]) -> None:
        if isinstance(outcome, Failure):
            if outcome.check(MetadataUnavailable, CancelledError):
                batch += self._take_all()
            answers: Sequence[A | Failure] = [outcome] * len(batch)
        else:
            answers = outcome
        # Whoever asks again at once, in reply to its answer, travels with the next batch.
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.waiter.called:
                waiting.waiter.callback(answer)
        self._busy = None
        self._next()
