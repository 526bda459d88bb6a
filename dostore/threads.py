"""Worker threads whose results come back to the reactor in batches.

Not ``twisted.python.threadpool``: a drive that hangs keeps its threads for ever, and stopping that
pool waits for them; these threads are daemons, and a pool belongs to one drive so that a hung drive
starves no other. Results of jobs that end at about the same time share one wake-up of the reactor,
which is most of what a hop costs.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.ports import IWorkers as IWorkers

T = TypeVar("T")


class Mailbox:
    """Carries outcomes to the reactor's thread, many by one wake-up.

    :param call_in_reactor: ``reactor.callFromThread`` or its like.
    """

    def __init__(self, call_in_reactor: Callable[[Callable[[], None]], object]) -> None:
        self._call_in_reactor = call_in_reactor
        self._outcomes: deque[tuple[Deferred[Any], Any]] = deque()
        self._lock = threading.Lock()
        self._woken = False

    def post(self, waiter: Deferred[Any], outcome: Any) -> None:
        """Have ``waiter`` fire with ``outcome`` (a Failure to fail), soon, in the reactor's
        thread."""
        with self._lock:
            self._outcomes.append((waiter, outcome))
            if self._woken:
                return
            self._woken = True
        self._call_in_reactor(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            outcomes, self._outcomes = self._outcomes, deque()
            self._woken = False
        for waiter, outcome in outcomes:
            if not waiter.called:
                waiter.callback(outcome)


class Together:
    """What jobs on several threads have to tell the reactor's thread, told when the last has ended:
    by one wake-up, and without the threads and the reactor getting in each other's way.

    :param count: how many jobs there are.
    :param call_in_reactor: ``reactor.callFromThread`` or its like.
    :param told: is called in the reactor's thread after some of it was told.
    """

    def __init__(
        self,
        count: int,
        call_in_reactor: Callable[[Callable[[], None]], object],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._count = count
        self._told = told
        self._call_in_reactor = call_in_reactor
        self._calls: deque[Callable[[], None]] = deque()
        self._ends = itertools.count(1)
        self._apart = False

    def add(self, call: Callable[[], None]) -> None:
        """A job has ended: have ``call`` called in the reactor's thread. Called on any thread."""
        self._calls.append(call)
        # Counting is one step of the interpreter, as appending is. Who has appended after the
        # reactor looked sees that each is told apart.
        if next(self._ends) == self._count or self._apart:
            self._call_in_reactor(self._tell)

    def tell_apart(self) -> None:
        """Call what is there, and from now on each that comes: the last takes too long."""
        self._apart = True
        self._tell()

    def _tell(self) -> None:
        while self._calls:
            self._calls.popleft()()
        self._told()


@implementer(IWorkers)
class Workers:
    """At most ``size`` daemon threads that share a queue of jobs.

    :param name: what the threads are called in a debugger.
    """

    def __init__(self, mailbox: Mailbox, name: str, size: int) -> None:
        self._mailbox = mailbox
        self._name = name
        self._size = size
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def backlog(self) -> int:
        """How many jobs wait or run."""
        return self._pending

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See IWorkers."""
        waiter: Deferred[T] = Deferred()

        def job() -> None:
            # A cancelled waiter was called already: nobody wants what has not begun.
            if waiter.called:
                return
            outcome: Any
            try:
                outcome = function(*args)
            except BaseException:  # noqa: BLE001 - whatever it is goes to who awaits it
                outcome = Failure()
            self._mailbox.post(waiter, outcome)

        self._enqueue(job)
        return await waiter

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """See IWorkers."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001 - goes to who asks the future
                future.set_exception(error)

        self._enqueue(job)
        return future

    def _enqueue(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._stopped:
                raise RuntimeError(f"workers {self._name} are stopped")
            self._pending += 1
            if self._pending > len(self._threads) < self._size:
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                # A traceback kept in this frame would keep the job's buffers alive.
                del job
                with self._lock:
                    self._pending -= 1

    def stop(self, timeout: float = 0.0) -> bool:
        """Take no more jobs and let the threads end after what is queued.

        :param timeout: seconds to wait for each thread.
        :returns: whether all have ended; a hung drive's have not, and die with the process.
        """
        with self._lock:
            self._stopped = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in threads)
