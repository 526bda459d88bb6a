"""Workers that run a job when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.ports import IWorkers

T = TypeVar("T")


@define(eq=False)
class _Job:
    """A call that waits, or has run and waits to be told of."""

    function: Callable[[], Any]
    waiter: Deferred[Any] | None
    future: Future[Any] | None
    outcome: Any = None

    def run(self) -> bool:
        """Do what a thread does; whether there was anything to do."""
        if self.waiter is not None and self.waiter.called:
            return False
        if self.future is not None and not self.future.set_running_or_notify_cancel():
            return False
        try:
            self.outcome = self.function()
        except BaseException as error:  # noqa: BLE001 - goes to who awaits it
            self.outcome = Failure() if self.future is None else error
        return True

    def tell(self) -> None:
        """Do what the reactor does with the outcome."""
        if self.future is not None:
            if isinstance(self.outcome, BaseException):
                self.future.set_exception(self.outcome)
            else:
                self.future.set_result(self.outcome)
        elif self.waiter is not None and not self.waiter.called:
            self.waiter.callback(self.outcome)


@implementer(IWorkers)
class SteppedWorkers:
    """One thread that is driven by hand: a job waits, runs, and is told of, each in its own step.

    :ivar stalled: jobs wait for :meth:`step`; else they run and are told of at once.
    """

    def __init__(self, *, stalled: bool = False) -> None:
        self.stalled = stalled
        self._waiting: deque[_Job] = deque()
        self._ran: deque[_Job] = deque()

    def backlog(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See IWorkers."""
        waiter: Deferred[T] = Deferred()
        self._take(_Job(lambda: function(*args), waiter, None))
        return await waiter

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """See IWorkers."""
        future: Future[T] = Future()
        self._take(_Job(lambda: function(*args), None, future))
        return future

    def _take(self, job: _Job) -> None:
        self._waiting.append(job)
        if not self.stalled:
            self.step()

    def work(self) -> bool:
        """Run the next job, and tell nobody; whether there was one."""
        while self._waiting:
            job = self._waiting.popleft()
            if job.run():
                self._ran.append(job)
                return True
        return False

    def tell(self) -> None:
        """Tell the outcomes of the jobs that ran."""
        while self._ran:
            self._ran.popleft().tell()

    def step(self) -> bool:
        """Run the next job and tell its outcome; whether there was one."""
        worked = self.work()
        self.tell()
        return worked

    def finish(self) -> None:
        """Run all that waits, and whatever comes of it."""
        while self.step():
            pass

    def recover(self) -> None:
        """Be a thread again that runs what comes."""
        self.stalled = False
        self.finish()
