"""dostore.background: what runs by itself is logged when it fails and waited for at the stop."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from dostore.background import CLEAN_UP_S, Background
from tests.support.cases import SyncTestCase


class BackgroundCase(SyncTestCase):
    """A clock and something that runs in the background."""

    def setUp(self) -> None:
        """Arrange them."""
        super().setUp()
        self.clock = Clock()
        self.background = Background("dostore.tests")

    def stop(self, timeout_s: float = 10.0) -> Deferred[None]:
        """Begin to stop."""
        return Deferred.fromCoroutine(self.background.stop(self.clock, timeout_s))

    def assert_no_timers(self) -> None:
        """Nothing is left on the clock."""
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RunTests(BackgroundCase):
    """Background.run and stop."""

    def test_runs(self) -> None:
        """A coroutine begins at once and is known until it ends."""
        gate: Deferred[None] = Deferred()
        seen: list[str] = []

        async def work() -> None:
            seen.append("begun")
            await gate
            seen.append("ended")

        self.background.run("work", work())
        self.assertEqual((seen, len(self.background)), (["begun"], 1))
        gate.callback(None)
        self.assertEqual((seen, len(self.background)), (["begun", "ended"], 0))

    def test_failure_is_logged(self) -> None:
        """A failure, at once or later, is logged and goes no further."""
        gate: Deferred[None] = Deferred()

        async def fails(wait: bool) -> None:
            if wait:
                await gate
            raise ValueError("broken")

        self.background.run("at once", fails(False))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.background.run("later", fails(True))
        gate.callback(None)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(len(self.background), 0)

    def test_cancellation_is_silent(self) -> None:
        """Something that was cancelled is no failure."""
        gate: Deferred[None] = Deferred()

        async def work() -> None:
            await gate

        self.background.run("work", work())
        gate.cancel()
        self.assertEqual(len(self.background), 0)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stop_with_nothing(self) -> None:
        """Stopping something idle takes no time."""
        self.successResultOf(self.stop())
        self.assert_no_timers()

    def test_nothing_new_after_stop(self) -> None:
        """What comes after the stop is closed, not begun."""
        seen: list[str] = []

        async def work() -> None:
            seen.append("begun")

        self.successResultOf(self.stop())
        self.background.run("work", work())
        self.assertEqual(seen, [])

    def test_stop_waits(self) -> None:
        """The stop returns when the last one ends, if that is in time; stopping twice is fine."""
        gates: list[Deferred[None]] = [Deferred(), Deferred()]

        async def work(gate: Deferred[None]) -> None:
            await gate

        for gate in gates:
            self.background.run("work", work(gate))
        stops = [self.stop(), self.stop()]
        gates[0].callback(None)
        for stop in stops:
            self.assertNoResult(stop)
        gates[1].callback(None)
        for stop in stops:
            self.successResultOf(stop)
        self.assert_no_timers()

    def test_stop_cancels_what_takes_too_long(self) -> None:
        """After the time-out what still runs is cancelled."""
        seen: list[str] = []

        async def work() -> None:
            try:
                await Deferred()
            finally:
                seen.append("ended")

        self.background.run("work", work())
        stop = self.stop(10)
        self.clock.advance(9.9)
        self.assertEqual(seen, [])
        self.clock.advance(0.1)
        self.assertEqual(seen, ["ended"])
        self.successResultOf(stop)
        self.assert_no_timers()

    def test_stop_waits_for_clean_up(self) -> None:
        """What was cancelled gets its time to clean up."""
        cleaned: Deferred[None] = Deferred()

        async def work() -> None:
            try:
                await Deferred()
            finally:
                await cleaned

        self.background.run("work", work())
        stop = self.stop(10)
        self.clock.advance(10)
        self.clock.advance(CLEAN_UP_S - 0.1)
        self.assertNoResult(stop)
        cleaned.callback(None)
        self.successResultOf(stop)
        self.assert_no_timers()

    def test_stop_leaves_what_hangs(self) -> None:
        """What does not even end when cancelled is named in the log, and the stop returns."""
        messages: list[str] = []
        self.background._log = _Recorder(messages)  # type: ignore[assignment]

        async def work() -> None:
            try:
                await Deferred()
            finally:
                await Deferred()

        self.background.run("stubborn work", work())
        stop = self.stop(10)
        self.clock.advance(10)
        self.clock.advance(CLEAN_UP_S)
        self.successResultOf(stop)
        self.assertEqual(messages, ["stubborn work"])

    def test_stop_is_cancelled(self) -> None:
        """A stop that is itself cancelled leaves no timer, and what runs runs on."""
        gate: Deferred[None] = Deferred()

        async def work() -> None:
            await gate

        self.background.run("work", work())
        stop = self.stop()
        stop.cancel()
        self.failureResultOf(stop, CancelledError)
        self.assert_no_timers()
        gate.callback(None)
        self.assertEqual(len(self.background), 0)


class _Recorder:
    """Stands for a logger and keeps the tasks that an error names."""

    def __init__(self, messages: list[str]) -> None:
        self._messages = messages

    def error(self, _: str, *, tasks: str) -> None:
        """Keep the tasks."""
        self._messages.append(tasks)


class PeriodicTests(BackgroundCase):
    """Background.periodic."""

    def setUp(self) -> None:
        """A function that counts its calls and does what the test says."""
        super().setUp()
        self.calls = 0
        self.gate: Deferred[None] | None = None
        self.error: Exception | None = None
        self.background.periodic("tick", 5.0, self.tick, self.clock)

    async def tick(self) -> None:
        """Count, then wait, then fail, if told to."""
        self.calls += 1
        if self.gate is not None:
            await self.gate
        if self.error is not None:
            raise self.error

    def test_interval(self) -> None:
        """The first call comes after one interval, the next ones an interval apart."""
        self.assertEqual(self.calls, 0)
        self.clock.advance(4.9)
        self.assertEqual(self.calls, 0)
        self.clock.advance(0.1)
        self.assertEqual(self.calls, 1)
        self.clock.pump([5, 5])
        self.assertEqual(self.calls, 3)

    def test_never_overlaps(self) -> None:
        """A call that takes long delays the next one until an interval after its end."""
        self.gate = Deferred()
        self.clock.advance(5)
        self.clock.pump([5] * 4)
        self.assertEqual(self.calls, 1)
        self.gate.callback(None)
        self.clock.advance(4.9)
        self.assertEqual(self.calls, 1)
        self.clock.advance(0.1)
        self.assertEqual(self.calls, 2)

    def test_error_does_not_end_it(self) -> None:
        """A failing call is logged and the next one comes."""
        self.error = ValueError("broken")
        self.clock.pump([5, 5])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)
        self.assertEqual(self.calls, 2)

    def test_cancellation_of_something_inside_does_not_end_it(self) -> None:
        """A call that ends because something it awaited was cancelled is not the last one."""
        self.gate = Deferred()
        self.clock.advance(5)
        self.gate.cancel()
        self.gate = None
        self.clock.advance(5)
        self.assertEqual(self.calls, 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stop_ends_the_pause(self) -> None:
        """The stop does not wait for the end of a pause."""
        self.successResultOf(self.stop())
        self.assert_no_timers()
        self.clock.advance(100)
        self.assertEqual(self.calls, 0)

    def test_stop_waits_for_the_call(self) -> None:
        """The stop waits for a call under way, and no other follows it."""
        self.gate = Deferred()
        self.clock.advance(5)
        stop = self.stop()
        self.assertNoResult(stop)
        self.gate.callback(None)
        self.successResultOf(stop)
        self.assert_no_timers()
        self.assertEqual(self.calls, 1)

    def test_stop_cancels_the_call(self) -> None:
        """A call that takes too long is cancelled, and no other follows it."""
        self.gate = Deferred()
        self.clock.advance(5)
        stop = self.stop(10)
        self.clock.advance(10)
        self.successResultOf(stop)
        self.assert_no_timers()
        self.assertEqual(self.calls, 1)

    def test_not_after_stop(self) -> None:
        """A periodic function that comes after the stop is never called."""
        self.successResultOf(self.stop())
        self.background.periodic("late", 1.0, self.tick, self.clock)
        self.clock.advance(100)
        self.assertEqual(self.calls, 0)
