"""dostore.fanout: every way in which side-by-side work may end, on a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from dostore.errors import NodeUnavailable
from dostore.fanout import Outcome, first_k, gather, gather_quorum, to_the_end, with_timeout
from tests.support.cases import SyncTestCase

T = TypeVar("T")


class Step:
    """A coroutine that ends when the test says so, and remembers what was done to it."""

    def __init__(self, lingers: bool = False) -> None:
        self.result: Deferred[str] = Deferred()
        self.begun = False
        self.cancelled = 0
        self.ended = False
        self._cleaned: Deferred[str] = Deferred()
        self._lingers = lingers

    async def __call__(self) -> str:
        """Wait for the result; when cancelled, end at once or, if it lingers, after clean_up()."""
        self.begun = True
        try:
            return await self.result
        except CancelledError:
            self.cancelled += 1
            if not self._lingers:
                raise
            try:
                return await self._cleaned
            except CancelledError:
                self.cancelled += 1
                raise
        finally:
            self.ended = True

    def succeed(self, value: str) -> None:
        """Let it return."""
        self.result.callback(value)

    def fail(self, error: BaseException) -> None:
        """Let it raise."""
        self.result.errback(error)

    def clean_up(self, outcome: str | BaseException) -> None:
        """Let one that lingers end."""
        if isinstance(outcome, str):
            self._cleaned.callback(outcome)
        else:
            self._cleaned.errback(outcome)


async def returns(value: str) -> str:
    """Returns without waiting."""
    return value


async def raises(error: BaseException) -> str:
    """Raises without waiting."""
    raise error


def down(number: int = 0) -> NodeUnavailable:
    """An error to tell from others."""
    return NodeUnavailable(f"Node {number} is down.")


class FanoutCase(SyncTestCase):
    """A clock, and a list of what was released."""

    def setUp(self) -> None:
        """Arrange them."""
        super().setUp()
        self.clock = Clock()
        self.released: list[str] = []

    async def release(self, value: str) -> None:
        """Note a result that nobody wanted."""
        self.released.append(value)

    def begin(self, coro: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Start the function under test."""
        return Deferred.fromCoroutine(coro)

    def assert_no_timers(self) -> None:
        """Nothing is left on the clock."""
        self.assertEqual(self.clock.getDelayedCalls(), [])


class OutcomeTests(SyncTestCase):
    """Outcome."""

    def test_value(self) -> None:
        """A success has its value, also when that is None, and no error."""
        self.assertEqual(Outcome("a").value, "a")
        self.assertIsNone(Outcome(None).value)
        self.assertTrue(Outcome("a").ok)

    def test_error(self) -> None:
        """Asking a failure for its value raises its error."""
        error = down()
        outcome: Outcome[str] = Outcome(None, error)
        self.assertFalse(outcome.ok)
        raised = self.assertRaises(NodeUnavailable, lambda: outcome.value)
        self.assertIs(raised, error)


class GatherTests(FanoutCase):
    """gather."""

    def test_nothing(self) -> None:
        """No coroutines give no outcomes."""
        self.assertEqual(self.successResultOf(self.begin(gather([]))), [])

    def test_synchronous(self) -> None:
        """Coroutines that never wait are done at once, failures in their places."""
        error = down()
        outcomes = self.successResultOf(
            self.begin(gather([returns("a"), raises(error), returns("c")]))
        )
        self.assertEqual(outcomes, [Outcome("a"), Outcome(None, error), Outcome("c")])

    def test_never_makes_a_deferred_for_the_synchronous(self) -> None:
        """Driving gather by hand shows that it does not wait when no member does."""
        coro = gather([returns("a"), returns("b")])
        stop = self.assertRaises(StopIteration, coro.send, None)
        self.assertEqual(stop.value, [Outcome("a"), Outcome("b")])

    def test_concurrent(self) -> None:
        """All are started before any has ended, and all are waited for, in any order."""
        steps = [Step(), Step(), Step()]
        done = self.begin(gather([step() for step in steps]))
        self.assertTrue(all(step.begun for step in steps))
        error = down()
        steps[2].succeed("c")
        steps[0].fail(error)
        self.assertNoResult(done)
        steps[1].succeed("b")
        self.assertEqual(
            self.successResultOf(done), [Outcome(None, error), Outcome("b"), Outcome("c")]
        )

    def test_several_waits(self) -> None:
        """A member that waits again and again, even on what has fired already, runs to its end."""
        first: Deferred[int] = Deferred()
        second: Deferred[int] = Deferred()
        third: Deferred[int] = Deferred()

        async def member() -> int:
            total = await first
            try:
                await second
            except NodeUnavailable:
                total += 10
            return total + await third

        done = self.begin(gather([member(), member_of(5)]))
        third.callback(100)
        first.callback(1)
        second.errback(down())
        self.assertEqual(self.successResultOf(done), [Outcome(111), Outcome(5)])

    def test_member_is_resumed_only_by_its_own_wait(self) -> None:
        """A member that was taken over in its first wait runs on only when that is over."""
        seen: list[str] = []
        gate: Deferred[None] = Deferred()

        async def member() -> None:
            seen.append("before")
            await gate
            seen.append("after")

        done = self.begin(gather([member()]))
        self.assertEqual(seen, ["before"])
        gate.callback(None)
        self.assertEqual(seen, ["before", "after"])
        self.successResultOf(done)

    def test_first_error_cancels_nobody(self) -> None:
        """The others go on when one fails."""
        slow = Step()
        done = self.begin(gather([raises(down()), slow()]))
        self.assertEqual(slow.cancelled, 0)
        slow.succeed("late")
        self.assertEqual(self.successResultOf(done)[1], Outcome("late"))

    def test_member_that_was_cancelled_itself(self) -> None:
        """A member's own CancelledError is its outcome, not the caller's."""
        step = Step()
        done = self.begin(gather([step()]))
        step.result.cancel()
        self.assertIsInstance(self.successResultOf(done)[0].error, CancelledError)

    def test_caller_is_cancelled(self) -> None:
        """Cancelling the caller cancels all members and waits until they have ended."""
        quick, lingering, ended = Step(), Step(lingers=True), Step()
        done = self.begin(gather([quick(), lingering(), ended()], release=self.release))
        ended.succeed("early")
        done.cancel()
        self.assertTrue(quick.ended)
        self.assertEqual(lingering.cancelled, 1)
        self.assertNoResult(done)
        lingering.clean_up("late")
        self.failureResultOf(done, CancelledError)
        self.assertEqual(sorted(self.released), ["early", "late"])

    def test_caller_is_cancelled_twice(self) -> None:
        """A second cancellation reaches what the members do to clean up."""
        lingering = Step(lingers=True)
        done = self.begin(gather([lingering()]))
        done.cancel()
        self.assertNoResult(done)
        done.cancel()
        self.assertEqual(lingering.cancelled, 2)
        self.failureResultOf(done, CancelledError)

    def test_caller_is_closed(self) -> None:
        """A caller that is closed, as at the end of the process, cancels all and waits for none."""
        lingering, ended = Step(lingers=True), Step()
        coro = gather([lingering(), ended()], release=self.release)
        coro.send(None)
        ended.succeed("early")
        coro.close()
        self.assertEqual(lingering.cancelled, 1)
        self.assertEqual(self.released, ["early"])
        lingering.clean_up("late")
        self.assertEqual(self.released, ["early", "late"])

    def test_what_is_no_exception_reaches_the_caller(self) -> None:
        """SystemExit and the like are no outcome: they end the caller and cancel the rest."""
        first, second = Step(), Step()
        done = self.begin(gather([first(), second()]))
        first.fail(SystemExit(3))
        self.failureResultOf(done, SystemExit)
        self.assertEqual(second.cancelled, 1)


async def member_of(value: int) -> int:
    """An int without waiting."""
    return value


class GatherQuorumTests(FanoutCase):
    """gather_quorum."""

    def quorum(
        self, members: list[Coroutine[Any, Any, str]], need: int, deadline_s: float | None = None
    ) -> Deferred[list[Outcome[str] | None]]:
        """Begin with 2 s of grace."""
        return self.begin(
            gather_quorum(
                members,
                need=need,
                grace_s=2.0,
                clock=self.clock,
                deadline_s=deadline_s,
                release=self.release,
            )
        )

    def test_synchronous(self) -> None:
        """Members that never wait give their outcomes at once and set no timer."""
        error = down()
        done = self.quorum([returns("a"), raises(error)], need=1)
        self.assertEqual(self.successResultOf(done), [Outcome("a"), Outcome(None, error)])
        self.assert_no_timers()

    def test_all_within_grace(self) -> None:
        """Members that end in the grace are outcomes like the others."""
        steps = [Step(), Step(), Step()]
        done = self.quorum([step() for step in steps], need=2)
        self.clock.advance(100)
        steps[0].succeed("a")
        steps[1].succeed("b")
        self.clock.advance(1.9)
        self.assertNoResult(done)
        steps[2].succeed("c")
        self.assertEqual(self.successResultOf(done), [Outcome("a"), Outcome("b"), Outcome("c")])
        self.assert_no_timers()

    def test_straggler(self) -> None:
        """Once ``need`` have succeeded, a member that takes longer than the grace is cancelled."""
        straggler = Step()
        done = self.quorum([returns("a"), straggler(), returns("c")], need=2)
        self.clock.advance(1.9)
        self.assertNoResult(done)
        self.clock.advance(0.1)
        self.assertEqual(self.successResultOf(done), [Outcome("a"), None, Outcome("c")])
        self.assertEqual(straggler.cancelled, 1)
        self.assert_no_timers()

    def test_grace_is_not_renewed(self) -> None:
        """The grace begins once, at the success that makes the quorum."""
        slow, straggler = Step(), Step()
        done = self.quorum([returns("a"), slow(), straggler()], need=1)
        self.clock.advance(1.5)
        slow.succeed("b")
        self.assertNoResult(done)
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(done), [Outcome("a"), Outcome("b"), None])

    def test_straggler_is_not_waited_for(self) -> None:
        """A straggler that hangs in its clean-up holds nobody up; its late result is released."""
        straggler = Step(lingers=True)
        done = self.quorum([returns("a"), straggler()], need=1)
        self.clock.advance(2)
        self.assertEqual(self.successResultOf(done), [Outcome("a"), None])
        straggler.clean_up("late")
        self.assertEqual(self.released, ["late"])

    def test_straggler_fails_late(self) -> None:
        """A straggler's late failure is logged; as an error only if it is not one of ours."""
        for error, logged in [(ValueError("late"), 1), (down(), 0)]:
            straggler = Step(lingers=True)
            self.successResultOf(self.advanced(self.quorum([returns("a"), straggler()], need=1)))
            straggler.clean_up(error)
            self.assertEqual(len(self.flushLoggedErrors()), logged)

    def advanced(self, done: Deferred[T]) -> Deferred[T]:
        """After the grace."""
        self.clock.advance(2)
        return done

    def test_failures_do_not_start_the_grace(self) -> None:
        """While the quorum is still possible there is no limit but the deadline."""
        slow = [Step(), Step()]
        done = self.quorum([raises(down()), slow[0](), slow[1]()], need=2)
        self.clock.advance(1000)
        self.assertNoResult(done)
        slow[0].succeed("b")
        slow[1].succeed("c")
        self.assertEqual(self.successResultOf(done)[1:], [Outcome("b"), Outcome("c")])

    def test_quorum_is_impossible(self) -> None:
        """When too many have failed the others get the grace and no more."""
        hung, failing = Step(), Step()
        error = down()
        done = self.quorum([raises(error), hung(), failing()], need=2)
        self.clock.advance(10)
        self.assertNoResult(done)
        failing.fail(error)
        self.clock.advance(2)
        self.assertEqual(
            self.successResultOf(done), [Outcome(None, error), None, Outcome(None, error)]
        )
        self.assertEqual(hung.cancelled, 1)

    def test_deadline(self) -> None:
        """At the deadline all that run are cancelled, quorum or not."""
        hung = [Step(), Step()]
        done = self.quorum([returns("a"), hung[0](), hung[1]()], need=3, deadline_s=30)
        self.clock.advance(29)
        self.assertNoResult(done)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(done), [Outcome("a"), None, None])
        self.assertEqual([step.cancelled for step in hung], [1, 1])
        self.assert_no_timers()

    def test_deadline_before_the_grace_ends(self) -> None:
        """The grace does not move the deadline."""
        slow, hung = Step(), Step()
        done = self.quorum([slow(), hung()], need=1, deadline_s=3)
        self.clock.advance(2.5)
        slow.succeed("a")
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(done), [Outcome("a"), None])

    def test_no_grace(self) -> None:
        """Without grace stragglers are cancelled as soon as the quorum is met."""
        hung = Step()
        done = self.begin(
            gather_quorum([returns("a"), hung()], need=1, grace_s=0, clock=self.clock)
        )
        self.assertEqual(self.successResultOf(done), [Outcome("a"), None])
        self.assertEqual(hung.cancelled, 1)

    def test_caller_is_cancelled(self) -> None:
        """Cancelling the caller cancels and awaits all, and releases what they had."""
        lingering = Step(lingers=True)
        done = self.quorum([returns("a"), lingering()], need=2)
        done.cancel()
        self.assertNoResult(done)
        lingering.clean_up(down())
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.released, ["a"])
        self.assert_no_timers()


class FirstKTests(FanoutCase):
    """first_k."""

    def first(
        self, thunks: list[Callable[[], Coroutine[Any, Any, str]]], k: int
    ) -> Deferred[tuple[dict[int, str], dict[int, Exception]]]:
        """Begin, with a spare after 0.5 s."""
        return self.begin(
            first_k(thunks, k=k, clock=self.clock, hedge_after_s=0.5, release=self.release)
        )

    def test_synchronous(self) -> None:
        """When the first k succeed at once the others are never started."""
        spare = Step()
        done = self.first([lambda: returns("a"), lambda: returns("b"), spare], k=2)
        self.assertEqual(self.successResultOf(done), ({0: "a", 1: "b"}, {}))
        self.assertFalse(spare.begun)
        self.assert_no_timers()

    def test_synchronous_failure(self) -> None:
        """A failure at once starts the next; its error is told."""
        error = down()
        done = self.first([lambda: raises(error), lambda: returns("b"), lambda: returns("c")], k=2)
        self.assertEqual(self.successResultOf(done), ({1: "b", 2: "c"}, {0: error}))

    def test_only_k_are_started(self) -> None:
        """Spares wait as long as the first k may still succeed in time."""
        steps = [Step() for _ in range(4)]
        done = self.first(list(steps), k=2)
        self.assertEqual([step.begun for step in steps], [True, True, False, False])
        self.clock.advance(0.4)
        steps[1].succeed("b")
        steps[0].succeed("a")
        self.assertEqual(self.successResultOf(done), ({0: "a", 1: "b"}, {}))
        self.assertFalse(steps[2].begun)
        self.assert_no_timers()

    def test_late_failure_starts_a_spare(self) -> None:
        """A failure after a while starts the next at once."""
        steps = [Step() for _ in range(3)]
        done = self.first(list(steps), k=2)
        error = down()
        steps[0].fail(error)
        self.assertTrue(steps[2].begun)
        steps[1].succeed("b")
        self.assertNoResult(done)
        steps[2].succeed("c")
        self.assertEqual(self.successResultOf(done), ({1: "b", 2: "c"}, {0: error}))

    def test_hedge(self) -> None:
        """One that is slow gets one spare; whichever is first counts and the other is cancelled."""
        steps = [Step() for _ in range(4)]
        done = self.first(list(steps), k=2)
        steps[0].succeed("a")
        self.clock.advance(0.5)
        self.assertEqual([step.begun for step in steps], [True, True, True, False])
        steps[2].succeed("c")
        self.assertEqual(self.successResultOf(done), ({0: "a", 2: "c"}, {}))
        self.assertEqual(steps[1].cancelled, 1)
        self.assert_no_timers()

    def test_slow_one_wins_over_its_spare(self) -> None:
        """A slow one that ends before its spare still counts."""
        steps = [Step() for _ in range(2)]
        done = self.first(list(steps), k=1)
        self.clock.advance(0.5)
        self.assertTrue(steps[1].begun)
        steps[0].succeed("a")
        self.assertEqual(self.successResultOf(done), ({0: "a"}, {}))
        self.assertEqual(steps[1].cancelled, 1)

    def test_two_slow_ones_get_two_spares(self) -> None:
        """Each slow one gets a spare of its own, and a slow spare gets one too."""
        steps = [Step() for _ in range(6)]
        done = self.first(list(steps), k=2)
        self.clock.advance(0.5)
        self.assertEqual([step.begun for step in steps], [True] * 4 + [False] * 2)
        self.clock.advance(0.5)
        self.assertTrue(all(step.begun for step in steps))
        self.clock.advance(100)
        self.assertNoResult(done)
        steps[5].succeed("f")
        steps[0].succeed("a")
        self.assertEqual(self.successResultOf(done), ({0: "a", 5: "f"}, {}))
        self.assertEqual([step.cancelled for step in steps], [0, 1, 1, 1, 1, 0])

    def test_slow_one_that_fails_needs_no_second_spare(self) -> None:
        """The spare that was started for a slow one also stands in when that one fails."""
        steps = [Step() for _ in range(3)]
        done = self.first(list(steps), k=1)
        self.clock.advance(0.5)
        steps[0].fail(down())
        self.assertFalse(steps[2].begun)
        steps[1].succeed("b")
        self.assertEqual(self.successResultOf(done)[0], {1: "b"})

    def test_impossible(self) -> None:
        """When k cannot succeed all are waited for and the successes returned, not released."""
        steps = [Step() for _ in range(3)]
        done = self.first(list(steps), k=2)
        errors = [down(0), down(1)]
        steps[0].fail(errors[0])
        steps[1].fail(errors[1])
        self.assertNoResult(done)
        self.clock.advance(100)
        steps[2].succeed("c")
        self.assertEqual(self.successResultOf(done), ({2: "c"}, {0: errors[0], 1: errors[1]}))
        self.assertEqual(self.released, [])

    def test_all_fail(self) -> None:
        """When all fail there is no success and an error for each."""
        errors = [down(0), down(1)]
        done = self.first([lambda: raises(errors[0]), lambda: raises(errors[1])], k=1)
        self.assertEqual(self.successResultOf(done), ({}, dict(enumerate(errors))))

    def test_fewer_thunks_than_k(self) -> None:
        """Fewer alternatives than k give what they give."""
        done = self.first([lambda: returns("a")], k=3)
        self.assertEqual(self.successResultOf(done), ({0: "a"}, {}))

    def test_none_wanted(self) -> None:
        """With k of 0 nothing is started."""
        step = Step()
        self.assertEqual(self.successResultOf(self.first([step], k=0)), ({}, {}))
        self.assertFalse(step.begun)

    def test_late_success_is_released(self) -> None:
        """One that succeeds in spite of its cancellation is released when it does."""
        steps = [Step(lingers=True), Step()]
        done = self.first(list(steps), k=1)
        self.clock.advance(0.5)
        steps[1].succeed("b")
        self.assertEqual(self.successResultOf(done), ({1: "b"}, {}))
        self.assertEqual(self.released, [])
        steps[0].clean_up("a")
        self.assertEqual(self.released, ["a"])

    def test_success_at_the_cancellation_is_released(self) -> None:
        """One that answers its cancellation with a result at once is released too."""

        async def stubborn() -> str:
            try:
                await Deferred()
            except CancelledError:
                return "stubborn"
            return "never"

        spare = Step()
        done = self.first([stubborn, spare], k=1)
        self.clock.advance(0.5)
        spare.succeed("b")
        self.assertEqual(self.successResultOf(done), ({1: "b"}, {}))
        self.assertEqual(self.released, ["stubborn"])

    def test_surplus_success_is_released(self) -> None:
        """Two that succeed in the same turn where one is wanted: the other is released."""
        slow = Step()

        async def spare() -> str:
            slow.succeed("slow")
            return "spare"

        done = self.first([slow, spare], k=1)
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(done), ({0: "slow"}, {}))
        self.assertEqual(self.released, ["spare"])

    def test_late_failure_is_logged(self) -> None:
        """A foreign error of one that was cancelled is logged; a cancellation is not."""
        steps = [Step(lingers=True), Step()]
        done = self.first(list(steps), k=1)
        self.clock.advance(0.5)
        steps[1].succeed("b")
        self.successResultOf(done)
        steps[0].clean_up(ValueError("late"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_release_that_fails_is_logged(self) -> None:
        """A release that fails is logged and harms nobody."""

        async def release(_: str) -> None:
            raise ValueError("cannot close")

        slow = Step(lingers=True)
        done = self.begin(
            first_k(
                [slow, lambda: returns("b")],
                k=1,
                clock=self.clock,
                hedge_after_s=0.5,
                release=release,
            )
        )
        self.clock.advance(0.5)
        self.assertEqual(self.successResultOf(done), ({1: "b"}, {}))
        slow.clean_up("a")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_late_success_without_release(self) -> None:
        """Without a release callback a late result is dropped."""
        slow, spare = Step(lingers=True), Step()
        done = self.begin(first_k([slow, spare], k=1, clock=self.clock, hedge_after_s=0.5))
        self.clock.advance(0.5)
        spare.succeed("b")
        slow.clean_up("a")
        self.assertEqual(self.successResultOf(done), ({1: "b"}, {}))

    def test_caller_is_cancelled(self) -> None:
        """Cancelling the caller cancels what runs and releases what had succeeded, now or later."""
        steps = [Step(), Step(), Step(lingers=True)]
        done = self.first(list(steps), k=3)
        steps[0].succeed("a")
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual([steps[1].cancelled, steps[2].cancelled], [1, 1])
        self.assertEqual(self.released, ["a"])
        steps[2].clean_up("c")
        self.assertEqual(self.released, ["a", "c"])
        self.assert_no_timers()


class WithTimeoutTests(FanoutCase):
    """with_timeout."""

    def limited(self, coro: Coroutine[Any, Any, str]) -> Deferred[str]:
        """Begin with 3 s."""
        return self.begin(with_timeout(coro, 3.0, self.clock, down, self.release))

    def test_synchronous(self) -> None:
        """A coroutine that never waits gives its value, or its error, and sets no timer."""
        self.assertEqual(self.successResultOf(self.limited(returns("a"))), "a")
        error = ValueError("own")
        failure = self.failureResultOf(self.limited(raises(error)), ValueError)
        self.assertIs(failure.value, error)
        self.assert_no_timers()

    def test_in_time(self) -> None:
        """One that ends in time gives its value, or its error."""
        good, bad = Step(), Step()
        one, two = self.limited(good()), self.limited(bad())
        self.clock.advance(2.9)
        good.succeed("a")
        bad.fail(ValueError("own"))
        self.assertEqual(self.successResultOf(one), "a")
        self.failureResultOf(two, ValueError)
        self.assert_no_timers()

    def test_too_late(self) -> None:
        """One that takes longer is cancelled and the given error raised."""
        step = Step()
        done = self.limited(step())
        self.clock.advance(3)
        self.failureResultOf(done, NodeUnavailable)
        self.assertEqual(step.cancelled, 1)
        self.assert_no_timers()

    def test_hung_clean_up(self) -> None:
        """One that hangs in its clean-up holds nobody up; its late result is released."""
        step = Step(lingers=True)
        done = self.limited(step())
        self.clock.advance(3)
        self.failureResultOf(done, NodeUnavailable)
        step.clean_up("late")
        self.assertEqual(self.released, ["late"])

    def test_caller_is_cancelled(self) -> None:
        """Cancelling the caller cancels the coroutine and waits for its end."""
        step = Step(lingers=True)
        done = self.limited(step())
        done.cancel()
        self.assertNoResult(done)
        step.clean_up("late")
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.released, ["late"])
        self.assert_no_timers()


class ToTheEndTests(FanoutCase):
    """What must be followed up whether or not anybody waits for it."""

    def test_awaited(self) -> None:
        """Its value or its error is given on."""
        good, bad = Step(), Step()
        one, two = (Deferred.fromCoroutine(to_the_end(step())) for step in (good, bad))
        good.succeed("a")
        bad.fail(ValueError("own"))
        self.assertEqual(self.successResultOf(one), "a")
        self.failureResultOf(two, ValueError)

    def test_caller_is_cancelled(self) -> None:
        """The caller ends at once; the coroutine is not disturbed, and its failure is logged."""
        good, bad = Step(), Step()
        one, two = (Deferred.fromCoroutine(to_the_end(step())) for step in (good, bad))
        for waiting in (one, two):
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual((good.cancelled, bad.cancelled), (0, 0))
        good.succeed("a")
        bad.fail(ValueError("own"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
