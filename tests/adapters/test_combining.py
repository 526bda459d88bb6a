"""Requests that travel together."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred

from dostore.adapters.combining import Combiner
from dostore.errors import MetadataUnavailable
from tests.support.cases import SyncTestCase


class CombinerTests(SyncTestCase):
    """A combiner whose batches are answered by hand."""

    def setUp(self) -> None:
        """Ask for strings; each weighs its length."""
        super().setUp()
        self.sent: list[tuple[list[str], Deferred[Sequence[str]]]] = []
        self.combiner: Combiner[str, str] = Combiner(
            self._send, max_count=3, max_weight=10, weigh=len
        )

    async def _send(self, batch: list[str]) -> Sequence[str]:
        answer: Deferred[Sequence[str]] = Deferred()
        self.sent.append((batch, answer))
        return await answer

    def ask(self, request: str) -> Deferred[str]:
        """Begin to ask."""
        return Deferred.fromCoroutine(self.combiner.ask(request))

    def answer(self) -> None:
        """Answer the batch that was sent last, in capitals."""
        batch, answer = self.sent[-1]
        answer.callback([request.upper() for request in batch])

    def batches(self) -> list[list[str]]:
        """What was sent."""
        return [batch for batch, _ in self.sent]

    def test_one_goes_at_once_and_the_rest_together(self) -> None:
        """Whoever comes while a batch is under way travels with the next."""
        asked = [self.ask(letter) for letter in "abc"]
        self.assertEqual(self.batches(), [["a"]])
        self.answer()
        self.assertEqual(self.batches(), [["a"], ["b", "c"]])
        self.answer()
        self.assertEqual([self.successResultOf(d) for d in asked], ["A", "B", "C"])

    def test_limits(self) -> None:
        """A batch holds no more than is allowed, by number or by weight; order is kept."""
        for request in ("x", "a", "b", "c", "d", "e" * 9, "ff", "g" * 50, "h"):
            _ = self.ask(request)
        for _ in range(6):
            self.answer()
        self.assertEqual(
            self.batches(),
            [["x"], ["a", "b", "c"], ["d", "e" * 9], ["ff"], ["g" * 50], ["h"]],
        )

    def test_who_asks_again_in_reply_goes_with_the_next(self) -> None:
        """Those who are answered and ask again at once travel with those who waited."""
        first = self.ask("a")
        again: list[Deferred[str]] = []
        _ = first.addCallback(lambda _: again.append(self.ask("z")))
        _ = self.ask("b")
        self.answer()
        self.assertEqual(self.batches()[1:], [["b", "z"]])

    def test_failure_is_told_to_all_of_the_batch(self) -> None:
        """An error that is no outage fails its own batch only."""
        asked = [self.ask(letter) for letter in "abc"]
        self.answer()
        later = self.ask("d")
        self.sent[-1][1].errback(ValueError("b or c"))
        for deferred in asked[1:]:
            self.failureResultOf(deferred, ValueError)
        self.assertEqual(self.batches()[-1], ["d"])
        self.answer()
        self.assertEqual(self.successResultOf(later), "D")

    def test_an_outage_is_told_to_all_who_wait(self) -> None:
        """Nobody waits for one time-out after the other; who comes later is tried anew."""
        asked = [self.ask(letter) for letter in "abcdefgh"]
        self.sent[-1][1].errback(MetadataUnavailable("It is away."))
        for deferred in asked:
            self.failureResultOf(deferred, MetadataUnavailable)
        later = self.ask("z")
        self.answer()
        self.assertEqual(self.successResultOf(later), "Z")

    def test_cancelled_before_it_is_sent(self) -> None:
        """It never is; a batch of nothing is not sent either."""
        first, second = self.ask("a"), self.ask("b")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.answer()
        self.assertEqual(self.successResultOf(first), "A")
        self.assertEqual(self.batches(), [["a"]])

    def test_cancelled_after_it_is_sent(self) -> None:
        """The others of its batch get their answers."""
        for letter in "a":
            _ = self.ask(letter)
        second, third = self.ask("b"), self.ask("c")
        self.answer()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.answer()
        self.assertEqual(self.successResultOf(third), "C")

    def test_stop(self) -> None:
        """Everything under way and everything that waits is cancelled."""
        asked = [self.ask(letter) for letter in "abc"]
        self.combiner.stop()
        for deferred in asked:
            self.failureResultOf(deferred, CancelledError)
        self.assertEqual(self.batches(), [["a"]])
