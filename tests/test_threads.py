"""dostore.threads: results, batches, cancellation and the end of worker threads.

Real threads, but nothing sleeps: threads wait for events of the test, and the test for theirs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from functools import partial
from queue import SimpleQueue

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from dostore.ports import IWorkers
from dostore.threads import Mailbox, Together, Workers
from tests.support.cases import AsyncTestCase, SyncTestCase
from tests.support.workers import InlineWorkers

#: Seconds after which a test that waits for a thread gives up.
PATIENCE_S = 30


class Gate:
    """A job that says that it has begun and waits until it may end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self, result: str = "through") -> str:
        """Wait."""
        self.thread = threading.current_thread()
        self.begun.set()
        if not self.open.wait(PATIENCE_S):
            raise AssertionError("the test never opened the gate")
        return result

    def wait_until_begun(self) -> None:
        """Return when a thread is in it."""
        if not self.begun.wait(PATIENCE_S):
            raise AssertionError("no thread came to the gate")


class Broken(Exception):
    """What a job raises."""


def fails() -> None:
    """Raises."""
    raise Broken("on purpose")


class MailboxTests(SyncTestCase):
    """Mailbox."""

    def setUp(self) -> None:
        """A mailbox whose reactor is a list of calls."""
        super().setUp()
        self.calls: list[Callable[[], None]] = []
        self.mailbox = Mailbox(self.calls.append)

    def test_delivers_later(self) -> None:
        """An outcome arrives when the reactor makes the call, not before."""
        waiter: Deferred[str] = Deferred()
        self.mailbox.post(waiter, "a")
        self.assertNoResult(waiter)
        self.calls.pop()()
        self.assertEqual(self.successResultOf(waiter), "a")

    def test_one_call_for_many(self) -> None:
        """Outcomes that are posted before the delivery share one call, and arrive in order."""
        order: list[int] = []
        waiters: list[Deferred[int]] = [Deferred() for _ in range(5)]
        for number, waiter in enumerate(waiters):
            _ = waiter.addCallback(order.append)
            self.mailbox.post(waiter, number)
        self.assertEqual(len(self.calls), 1)
        self.calls.pop()()
        self.assertEqual(order, [0, 1, 2, 3, 4])

    def test_posted_during_delivery(self) -> None:
        """An outcome that is posted while others are delivered gets a call of its own."""
        first: Deferred[str] = Deferred()
        second: Deferred[str] = Deferred()
        _ = first.addCallback(lambda _: self.mailbox.post(second, "b"))
        self.mailbox.post(first, "a")
        self.calls.pop()()
        self.assertNoResult(second)
        self.calls.pop()()
        self.assertEqual(self.successResultOf(second), "b")

    def test_cancelled_waiter(self) -> None:
        """The outcome of a waiter that was cancelled is dropped, the others arrive."""
        cancelled: Deferred[str] = Deferred()
        other: Deferred[str] = Deferred()
        self.mailbox.post(cancelled, "a")
        self.mailbox.post(other, "b")
        cancelled.cancel()
        self.calls.pop()()
        self.failureResultOf(cancelled, CancelledError)
        self.assertEqual(self.successResultOf(other), "b")


class TogetherTests(SyncTestCase):
    """Together."""

    def setUp(self) -> None:
        """Three jobs, and a reactor that is a list of calls."""
        super().setUp()
        self.calls: list[Callable[[], None]] = []
        self.told: list[str] = []
        self.together = Together(3, self.calls.append)

    def end(self, *names: str) -> None:
        """Jobs end."""
        for name in names:
            self.together.add(partial(self.told.append, name))

    def test_the_last_tells(self) -> None:
        """The reactor is called once, when the last has ended, and is told of all in order."""
        self.end("a", "b")
        self.assertEqual(self.calls, [])
        self.end("c")
        self.assertEqual(self.told, [])
        (call,) = self.calls
        call()
        self.assertEqual(self.told, ["a", "b", "c"])

    def test_apart(self) -> None:
        """When the last takes too long, the others are told of, and then each by itself."""
        self.end("a")
        self.together.tell_apart()
        self.assertEqual(self.told, ["a"])
        self.end("b")
        self.calls.pop()()
        self.end("c")
        self.calls.pop()()
        self.assertEqual((self.told, self.calls), (["a", "b", "c"], []))

    def test_from_threads(self) -> None:
        """Of many jobs that end on many threads at once, all are told of by one call."""
        together = Together(400, self.calls.append)
        begin = threading.Barrier(8)

        def work() -> None:
            begin.wait(PATIENCE_S)
            for _ in range(50):
                together.add(partial(self.told.append, "x"))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        (call,) = self.calls
        call()
        self.assertEqual(len(self.told), 400)


class WorkersTests(SyncTestCase):
    """Workers, with the reactor's calls made by the test."""

    def setUp(self) -> None:
        """Two threads at most."""
        super().setUp()
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.workers = self.make(2)

    def make(self, size: int) -> Workers:
        """Workers that end with the test."""
        workers = Workers(Mailbox(self.calls.put), "test", size)
        self.addCleanup(lambda: self.assertTrue(workers.stop(PATIENCE_S)))
        return workers

    def run_job(self, function: Callable[..., object], *args: object) -> Deferred[object]:
        """Begin a job as the reactor's thread would."""
        return Deferred.fromCoroutine(self.workers.run(function, *args))

    def deliver(self) -> None:
        """Make the next call that a thread asked the reactor for."""
        self.calls.get(timeout=PATIENCE_S)()

    def gate(self) -> Gate:
        """A gate that is opened at the end of the test, whatever happens."""
        gate = Gate()
        self.addCleanup(gate.open.set)
        return gate

    def test_provides(self) -> None:
        """The real workers and the tests' inline ones provide the interface."""
        self.assert_provides(IWorkers, self.workers)
        self.assert_provides(IWorkers, InlineWorkers())

    def test_result(self) -> None:
        """A function runs in a daemon thread with its arguments, and its result comes back."""
        gate = self.gate()
        gate.open.set()
        done = self.run_job(gate, "result")
        self.deliver()
        self.assertEqual(self.successResultOf(done), "result")
        assert gate.thread is not None
        self.assertIsNot(gate.thread, threading.main_thread())
        self.assertTrue(gate.thread.daemon)
        self.assertTrue(gate.thread.name.startswith("test-"))

    def test_error(self) -> None:
        """What a function raises comes back, and its thread takes the next job."""
        done = self.run_job(fails)
        self.deliver()
        self.failureResultOf(done, Broken)
        done = self.run_job(len, "abc")
        self.deliver()
        self.assertEqual(self.successResultOf(done), 3)

    def test_system_exit_does_not_end_the_thread(self) -> None:
        """Even what is no Exception comes back instead of ending the thread."""
        self.workers = self.make(1)

        def leave() -> None:
            raise SystemExit(3)

        done = self.run_job(leave)
        self.deliver()
        self.failureResultOf(done, SystemExit)
        done = self.run_job(len, "abc")
        self.deliver()
        self.assertEqual(self.successResultOf(done), 3)

    def test_size(self) -> None:
        """No more jobs run at once than there are threads; the others wait in order."""
        gates = [self.gate() for _ in range(3)]
        done = [self.run_job(gate, str(number)) for number, gate in enumerate(gates)]
        gates[0].wait_until_begun()
        gates[1].wait_until_begun()
        self.assertFalse(gates[2].begun.is_set())
        self.assertEqual(self.workers.backlog(), 3)
        gates[1].open.set()
        self.deliver()
        self.assertEqual(self.successResultOf(done[1]), "1")
        gates[2].wait_until_begun()
        self.assertIs(gates[2].thread, gates[1].thread)
        self.assertNoResult(done[0])
        gates[0].open.set()
        gates[2].open.set()
        while not (done[0].called and done[2].called):
            self.deliver()

    def test_threads_come_when_needed(self) -> None:
        """Without work there is no thread; with one job at a time there are not three."""
        before = threading.active_count()
        workers = self.make(3)
        self.assertEqual(threading.active_count(), before)
        gate = self.gate()
        future = workers.submit(gate)
        gate.wait_until_begun()
        self.assertEqual(threading.active_count(), before + 1)
        gate.open.set()
        self.assertEqual(future.result(PATIENCE_S), "through")

    def test_results_of_one_moment_share_a_call(self) -> None:
        """Results that come before the reactor makes its call are delivered by that one call."""
        self.workers = self.make(1)
        done = [self.run_job(len, "a" * number) for number in range(10)]
        # One thread ends its jobs in order, so that all before this one have posted their results.
        self.workers.submit(len, "").result(PATIENCE_S)
        self.deliver()
        self.assertEqual([self.successResultOf(each) for each in done], list(range(10)))
        self.assertTrue(self.calls.empty())

    def test_cancelled_before_it_begins(self) -> None:
        """A job that was cancelled while it waited is never run."""
        self.workers = self.make(1)
        gate, ran = self.gate(), threading.Event()
        first = self.run_job(gate)
        gate.wait_until_begun()
        second = self.run_job(ran.set)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        gate.open.set()
        self.workers.submit(len, "").result(PATIENCE_S)
        self.assertFalse(ran.is_set())
        self.deliver()
        self.assertEqual(self.successResultOf(first), "through")

    def test_cancelled_while_it_runs(self) -> None:
        """Cancelling a job that runs gives up its result at once; the function runs to its end."""
        gate, ended = self.gate(), threading.Event()

        def job() -> str:
            gate()
            ended.set()
            return "too late"

        done = self.run_job(job)
        gate.wait_until_begun()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        gate.open.set()
        self.deliver()
        self.assertTrue(ended.is_set())

    def test_submit(self) -> None:
        """From any thread, a future has the result or the error, without the reactor."""
        self.assertEqual(self.workers.submit(len, "abc").result(PATIENCE_S), 3)
        self.assertIsInstance(self.workers.submit(fails).exception(PATIENCE_S), Broken)
        self.assertTrue(self.calls.empty())

    def test_submit_cancelled(self) -> None:
        """A future that was cancelled while its job waited never runs it."""
        self.workers = self.make(1)
        gate, ran = self.gate(), threading.Event()
        self.workers.submit(gate)
        gate.wait_until_begun()
        future = self.workers.submit(ran.set)
        self.assertTrue(future.cancel())
        gate.open.set()
        self.workers.submit(len, "").result(PATIENCE_S)
        self.assertFalse(ran.is_set())
        self.assertRaises(FutureCancelled, future.result)

    def test_backlog_falls_to_nothing(self) -> None:
        """When all is done, failures among it, nothing is counted any more."""
        self.workers.submit(fails).exception(PATIENCE_S)
        self.workers.submit(len, "").result(PATIENCE_S)
        self.assertTrue(self.workers.stop(PATIENCE_S))
        self.assertEqual(self.workers.backlog(), 0)

    def test_job_is_let_go(self) -> None:
        """An idle thread does not keep the last job's arguments alive."""

        class Buffer:
            """Something large."""

        self.workers = self.make(1)
        buffer = Buffer()
        alive = weakref.ref(buffer)
        self.workers.submit(id, buffer).result(PATIENCE_S)
        del buffer
        gate = self.gate()
        self.workers.submit(gate)
        gate.wait_until_begun()
        self.assertIsNone(alive())

    def test_stop(self) -> None:
        """After the stop what was queued is still done, and nothing else is taken."""
        self.workers = self.make(1)
        gate = self.gate()
        self.workers.submit(gate)
        queued = self.workers.submit(len, "abc")
        gate.wait_until_begun()
        self.assertFalse(self.workers.stop())
        self.assertRaises(RuntimeError, self.workers.submit, len, "abc")
        self.failureResultOf(self.run_job(len, "abc"), RuntimeError)
        gate.open.set()
        self.assertTrue(self.workers.stop(PATIENCE_S))
        self.assertEqual(queued.result(0), 3)

    def test_stop_with_a_hung_job(self) -> None:
        """A stop does not wait for a drive that hangs: it says that a thread is left."""
        gate = self.gate()
        self.workers.submit(gate)
        self.workers.submit(len, "abc").result(PATIENCE_S)
        gate.wait_until_begun()
        self.assertFalse(self.workers.stop(0.01))

    def test_stop_unused(self) -> None:
        """Workers that never had a job stop at once."""
        self.assertTrue(self.workers.stop())


class ReactorTests(AsyncTestCase):
    """Workers and the real reactor."""

    async def test_round_trip(self) -> None:
        """Results come back to the reactor's thread, many at a time, errors among them."""
        workers = Workers(Mailbox(reactor.callFromThread), "test", 4)  # type: ignore[attr-defined]
        self.addCleanup(lambda: self.assertTrue(workers.stop(PATIENCE_S)))
        threads: set[threading.Thread] = set()

        async def one(number: int) -> int:
            length: int = await workers.run(len, "a" * number)
            threads.add(threading.current_thread())
            return length

        running = [Deferred.fromCoroutine(one(number)) for number in range(200)]
        self.assertEqual([await each for each in running], list(range(200)))
        self.assertEqual(threads, {threading.current_thread()})
        with self.assertRaises(Broken):
            await workers.run(fails)
