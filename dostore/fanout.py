"""Concurrent awaits, and the only place for them: run several, stop early, cancel the rest.

Every function takes coroutines or functions that make them and returns plain values; Deferreds stay
inside. A coroutine that ends without ever waiting costs no Deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.errors import DostoreError

T = TypeVar("T")

#: Takes a result that came too late for anybody to want it, and lets go of what it holds.
Release = Callable[[T], Coroutine[Any, Any, object]]

#: Clocks are compared with this slack, so that rounding never makes a timer fire "too early".
_SLACK_S = 1e-6

_log = Logger()


@frozen(slots=True)
class Outcome(Generic[T]):
    """How one coroutine ended.

    :ivar error: what it raised, or None.
    """

    _value: T | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.error is None

    @property
    def value(self) -> T:
        """What it returned; raises ``error`` when it did not return."""
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]


def begin(coro: Coroutine[Any, Any, T]) -> Outcome[T] | Deferred[T]:
    """Run a coroutine up to its first real wait, or to its end when it has none."""
    try:
        coro.send(None)
    except StopIteration as stop:
        return Outcome(stop.value)
    except Exception as error:  # noqa: BLE001 - it becomes the outcome, for the caller to judge
        return Outcome(None, error)
    # It is suspended on a Deferred without a result. fromCoroutine resumes it once too often, which
    # only makes it give the same Deferred again.
    return Deferred.fromCoroutine(coro)


def _tell_too_late(failure: Failure) -> None:
    """What nobody waits for any more has failed."""
    if isinstance(failure.value, DostoreError):
        _log.info("Too late to matter: {error}", error=failure.value)
    elif not isinstance(failure.value, CancelledError):
        _log.failure("A coroutine that nobody waits for any more failed", failure)


class _Group(Generic[T]):
    """Coroutines under way, by number, and the one who waits for them.

    :ivar outcomes: of those that have ended, by number.
    :ivar running: the others.
    """

    def __init__(self, release: Release[T] | None = None) -> None:
        self.outcomes: dict[int, Outcome[T]] = {}
        self.running: dict[int, Deferred[T]] = {}
        self.successes = 0
        self._release = release
        self._left = False
        self._waiter: Deferred[None] | None = None
        self._wake_at = 0

    def start(self, number: int, coro: Coroutine[Any, Any, T]) -> None:
        """Start a coroutine; it may have ended on return."""
        begun = begin(coro)
        if isinstance(begun, Outcome):
            self.outcomes[number] = begun
            self.successes += begun.error is None
            return
        self.running[number] = begun
        _ = begun.addCallbacks(
            self._returned, self._raised, callbackArgs=(number,), errbackArgs=(number,)
        )

    def _returned(self, value: T, number: int) -> None:
        del self.running[number]
        if self._left:
            self.let_go(value)
            return
        self.outcomes[number] = Outcome(value)
        self.successes += 1
        self._wake()

    def _raised(self, failure: Failure, number: int) -> None:
        del self.running[number]
        error = failure.value
        if self._left:
            _tell_too_late(failure)
        elif isinstance(error, Exception):
            self.outcomes[number] = Outcome(None, error)
            self._wake()
        else:
            self._wake(failure)

    def _wake(self, failure: Failure | None = None) -> None:
        waiter = self._waiter
        if waiter is None or waiter.called:
            return
        if failure is not None:
            waiter.errback(failure)
        elif len(self.running) <= self._wake_at:
            waiter.callback(None)

    async def wait(
        self, at_most: int, clock: IReactorTime | None = None, seconds: float | None = None
    ) -> None:
        """Return when at most ``at_most`` are running, or after ``seconds``.

        Call it only while more are running.
        """
        waiter: Deferred[None] = Deferred()
        self._waiter, self._wake_at = waiter, at_most
        timer = None
        if clock is not None and seconds is not None:
            timer = clock.callLater(seconds, waiter.callback, None)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None and timer.active():
                timer.cancel()

    def cancel(self) -> None:
        """Cancel all that are running."""
        for deferred in list(self.running.values()):
            deferred.cancel()

    async def __aenter__(self) -> None:
        """Whatever ends the block but its last line ends all that are running too."""

    async def __aexit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        """On an error cancel all that are running, wait for their ends, and let go of every result.

        Being cancelled meanwhile cancels them once more, what they do to clean up included.
        """
        if kind is None:
            return
        # A coroutine that is closed, for nobody awaits it any more, may not wait for anything.
        if not issubclass(kind, GeneratorExit):
            self.cancel()
            while self.running:
                try:
                    await self.wait(0)
                except CancelledError:
                    self.cancel()
        self.abandon()

    def leave(self) -> None:
        """Cancel all that are running and let them end by themselves: their results are let go."""
        self._left = True
        self.cancel()

    def abandon(self) -> None:
        """Leave, and let go also of the results that were had already."""
        self.leave()
        for outcome in self.outcomes.values():
            if outcome.ok:
                self.let_go(outcome.value)

    def let_go(self, value: T) -> None:
        """Have a result released that nobody gets."""
        if self._release is None:
            return
        released = Deferred.fromCoroutine(self._release(value))
        _ = released.addErrback(
            lambda failure: _log.failure("A late result could not be released", failure)
        )


async def gather(
    coros: Iterable[Coroutine[Any, Any, T]], *, release: Release[T] | None = None
) -> list[Outcome[T]]:
    """Run all concurrently and wait for all; the failure of one leaves the others alone.

    Cancelling the caller cancels all and waits for their ends.

    :param release: is given every result when the caller is cancelled.
    :returns: the outcomes, in the order of ``coros``.
    """
    group: _Group[T] = _Group(release)
    count = 0
    for coro in coros:
        group.start(count, coro)
        count += 1
    if group.running:
        async with group:
            await group.wait(0)
    return [group.outcomes[number] for number in range(count)]


async def gather_quorum(
    coros: Iterable[Coroutine[Any, Any, T]],
    *,
    need: int,
    grace_s: float,
    clock: IReactorTime,
    deadline_s: float | None = None,
    release: Release[T] | None = None,
) -> list[Outcome[T] | None]:
    """Run all concurrently, but without waiting for stragglers once the result is certain.

    As soon as ``need`` have succeeded, or so many have failed that ``need`` no longer can, the rest
    get ``grace_s`` more seconds. Those that are still running then, or ``deadline_s`` seconds after
    the start, are cancelled; their ends are not waited for, since they may hang for ever.
    Cancelling the caller cancels all and waits for their ends.

    :param release: is given each result of a straggler, and every one when the caller is cancelled.
    :returns: the outcomes, in the order of ``coros``; None for the stragglers.
    """
    group: _Group[T] = _Group(release)
    count = 0
    for coro in coros:
        group.start(count, coro)
        count += 1
    if group.running:
        until = None if deadline_s is None else clock.seconds() + deadline_s
        settled = False
        async with group:
            while group.running:
                if not settled and not group.successes < need <= group.successes + len(
                    group.running
                ):
                    settled = True
                    grace_ends = clock.seconds() + grace_s
                    until = grace_ends if until is None else min(until, grace_ends)
                left_s = None if until is None else until - clock.seconds()
                if left_s is not None and left_s < _SLACK_S:
                    break
                await group.wait(0 if settled else len(group.running) - 1, clock, left_s)
        group.leave()
    return [group.outcomes.get(number) for number in range(count)]


async def first_k(
    thunks: Sequence[Callable[[], Coroutine[Any, Any, T]]],
    *,
    k: int,
    clock: IReactorTime,
    hedge_after_s: float,
    release: Release[T] | None = None,
) -> tuple[dict[int, T], dict[int, Exception]]:
    """The results of the first k to succeed, of alternatives in the order of preference.

    The first k thunks are started. For each that fails, and for each that is still running
    ``hedge_after_s`` seconds after its start, the next one is started too. When k have succeeded,
    the rest are cancelled and their ends are not waited for. When k cannot, all are waited for.

    :param release: is given each result that is not returned: of one that succeeds although it was
        cancelled, and every one when the caller is cancelled.
    :returns: the results, and the errors of those that failed, by thunk number.
    """
    group: _Group[T] = _Group(release)
    hedge_at: dict[int, float] = {}
    started = 0
    try:
        while group.successes < k:
            now = clock.seconds() + _SLACK_S if group.running else 0.0
            fresh = [hedge_at[number] for number in group.running if hedge_at[number] > now]
            if started < len(thunks) and group.successes + len(fresh) < k:
                group.start(started, thunks[started]())
                if started in group.running:
                    hedge_at[started] = clock.seconds() + hedge_after_s
                started += 1
                continue
            if not group.running:
                break
            hedge_in_s = (
                max(0.0, min(fresh) - clock.seconds()) if fresh and started < len(thunks) else None
            )
            await group.wait(len(group.running) - 1, clock, hedge_in_s)
    except BaseException:
        group.abandon()
        raise
    group.leave()
    values = {n: outcome.value for n, outcome in group.outcomes.items() if outcome.ok}
    for surplus in list(values)[k:]:
        group.let_go(values.pop(surplus))
    errors = {n: outcome.error for n, outcome in group.outcomes.items() if outcome.error}
    return values, errors


async def to_the_end(coro: Coroutine[Any, Any, T]) -> T:
    """What ``coro`` returns or raises; when the caller is cancelled it goes on to its end all the
    same, and by itself.

    For what must be followed up whether or not anybody waits for it.
    """
    begun = begin(coro)
    if isinstance(begun, Outcome):
        return begun.value
    waiter: Deferred[T] = Deferred()
    left = False

    def returned(value: T) -> None:
        if not left:
            waiter.callback(value)

    def raised(failure: Failure) -> None:
        if left:
            _tell_too_late(failure)
        else:
            waiter.errback(failure)

    _ = begun.addCallbacks(returned, raised)
    try:
        return await waiter
    except BaseException:
        left = True
        raise


async def with_timeout(
    coro: Coroutine[Any, Any, T],
    seconds: float,
    clock: IReactorTime,
    error: Callable[[], Exception],
    release: Release[T] | None = None,
) -> T:
    """What ``coro`` returns or raises, unless it takes longer than ``seconds``.

    Then it is cancelled, its end is not waited for and ``error()`` is raised. Cancelling the caller
    cancels it and waits for its end.

    :param release: is given the result when it comes after all.
    """
    group: _Group[T] = _Group(release)
    group.start(0, coro)
    if group.running:
        async with group:
            await group.wait(0, clock, seconds)
        if group.running:
            group.leave()
            raise error()
    return group.outcomes[0].value
