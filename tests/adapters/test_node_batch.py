"""Small shards that wait at the same time travel together: when, how many, and what becomes of them
when they do not arrive.
"""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from dostore.adapters.node_batch import LONGEST_PATIENCE_S, MAX_FLYING, PATIENCE_S, Lane
from dostore.core.batch import (
    GET,
    MAX_BATCH_BYTES,
    MAX_ENTRIES,
    PUT,
    Question,
    Reply,
    format_replies,
    list_size,
    parse_questions,
)
from dostore.core.datafields import ShardDigest
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import DostoreError, NodeUnavailable
from dostore.http.exchange import Answer, Fields
from tests.support.cases import SyncTestCase


def question(number: int) -> Question:
    """One of many."""
    return Question(GET, ContentHash(hashlib.sha256(b"%d" % number).digest()), number % 6)


class _Link:
    """A link whose answers the test gives.

    :ivar asked: the requests under way, each with what was sent.
    """

    address = "host:80"

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[Deferred[Answer], list[Question]]] = []
        self.count = 0

    async def ask(
        self,
        method: bytes,
        target: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        body: Sequence[bytes],
        *,
        limit: int,
    ) -> Answer:
        """See HttpLink."""
        data = b"".join(body)
        digest = hashlib.sha256(data[: list_size(data)]).digest()
        assert (method, target) == (b"POST", b"/batch")
        assert fields == [(b"Digest", ShardDigest(body=digest).format())]
        waiter: Deferred[Answer] = Deferred()
        flight = waiter, parse_questions(data)
        self.asked.append(flight)
        self.count += 1
        try:
            return await waiter
        finally:
            self.asked.remove(flight)

    def answer(self, number: int = 0, body: bytes | None = None, status: int = 200) -> None:
        """Answer a request, each entry by a status of its own."""
        waiter, questions = self.asked[number]
        if body is None:
            replies = [Reply(400 + q.index, q.hash) for q in questions]
            body = b"".join(format_replies(replies))
        waiter.callback(Answer(status, Fields({}), body))


class LaneTests(SyncTestCase):
    """The entries of one kind to one server."""

    def setUp(self) -> None:
        """A lane, and a reactor's turn that ends when the test says so."""
        super().setUp()
        self.link = _Link()
        link: Any = self.link
        self.lane = Lane(link, self.refusal, lambda call: self.link.clock.callLater(0, call))

    def refusal(self, answer: Answer) -> DostoreError:
        """What another status means."""
        return NodeUnavailable(f"It is {answer.status}.")

    def ask(self, number: int, weight: int = 0) -> Deferred[Reply]:
        """Ask for a shard."""
        return Deferred.fromCoroutine(self.lane.ask(question(number), (), weight))

    def turn(self) -> None:
        """The reactor's turn ends."""
        self.link.clock.advance(0)

    def sizes(self) -> list[int]:
        """How many entries each request under way has."""
        return [len(questions) for _, questions in self.link.asked]

    def test_together(self) -> None:
        """What comes in one turn of the reactor travels in one request, and each gets its own."""
        asking = [self.ask(number) for number in range(10)]
        self.assertEqual(self.sizes(), [])
        self.turn()
        self.assertEqual(self.sizes(), [10])
        self.link.answer()
        for number, each in enumerate(asking):
            reply = self.successResultOf(each)
            self.assertEqual(reply, Reply(400 + number % 6, question(number).hash))
        self.assertEqual(self.link.clock.getDelayedCalls(), [])

    def test_what_was_sent_is_let_go(self) -> None:
        """Blocks are freed when they are answered for, without the collector of cycles: it comes so
        seldom that hundreds of megabytes would wait for it.
        """
        gc.disable()
        self.addCleanup(gc.enable)
        content = Content(question(0).hash, 4000, Scheme())
        put = Question(PUT, content.hash, 0, content, bytes(32))
        block = memoryview(bytes(1000))
        there = weakref.ref(block)
        asking = Deferred.fromCoroutine(self.lane.ask(put, [block], 1000))
        del block
        self.turn()
        self.link.answer()
        self.successResultOf(asking)
        self.assertIsNone(there())

    def test_while_another_is_on_its_way(self) -> None:
        """What comes meanwhile waits for that answer, and then travels together."""
        first = self.ask(0)
        self.turn()
        rest = []
        for number in range(1, 4):
            rest.append(self.ask(number))
            self.turn()
        self.assertEqual(self.sizes(), [1])
        self.link.answer()
        self.successResultOf(first)
        again = self.ask(4)
        self.turn()
        self.assertEqual(self.sizes(), [4])
        self.link.answer()
        for each in (*rest, again):
            self.successResultOf(each)
        self.assertEqual(self.link.clock.getDelayedCalls(), [])

    def test_patience(self) -> None:
        """It waits a few milliseconds and no longer, as long as there are few on their way."""
        for number in range(MAX_FLYING):
            self.assertEqual(self.sizes(), [1] * number)
            _ = self.ask(number)
            self.turn()
            self.link.clock.advance(PATIENCE_S)
        self.assertEqual(self.sizes(), [1] * MAX_FLYING)
        waiting = [self.ask(number) for number in range(5)]
        self.turn()
        self.link.clock.advance(1)
        self.assertEqual(self.sizes(), [1] * MAX_FLYING)
        self.link.answer(2)
        self.turn()
        self.assertEqual(self.sizes(), [1] * (MAX_FLYING - 1) + [5])
        for _ in range(MAX_FLYING):
            self.link.answer()
        for each in waiting:
            self.successResultOf(each)
        self.turn()
        self.assertEqual(self.link.clock.getDelayedCalls(), [])

    def test_patience_with_a_server_that_is_slow(self) -> None:
        """When answers take longer, what comes waits longer for them, but not for ever."""
        for _ in range(50):
            asking = self.ask(1)
            self.turn()
            self.link.clock.advance(0.01)
            self.link.answer()
            self.successResultOf(asking)
        _ = self.ask(1)
        self.turn()
        _ = self.ask(2)
        self.turn()
        self.link.clock.advance(0.019)
        self.assertEqual(self.sizes(), [1])
        self.link.clock.advance(0.001)
        self.assertEqual(self.sizes(), [1, 1])
        self.link.clock.advance(60)
        self.link.answer()
        self.link.answer()
        _ = self.ask(1)
        self.turn()
        _ = self.ask(2)
        self.turn()
        self.link.clock.advance(LONGEST_PATIENCE_S - 0.001)
        self.assertEqual(self.sizes(), [1])
        self.link.clock.advance(0.001)
        self.assertEqual(self.sizes(), [1, 1])
        self.link.answer()
        self.link.answer()

    def test_how_many(self) -> None:
        """A request has so many entries, and moves so many bytes, unless one alone moves more."""
        for weight, sizes in (
            (0, [MAX_ENTRIES, 6]),
            (MAX_BATCH_BYTES // 40, [40, 30]),
            (MAX_BATCH_BYTES * 2, [1] * 70),
        ):
            asking = [self.ask(number, weight) for number in range(70)]
            self.turn()
            seen = []
            while self.link.asked:
                seen += self.sizes()
                self.link.answer()
                self.turn()
            self.assertEqual(seen, sizes)
            for each in asking:
                self.successResultOf(each)

    def test_cancelled_before(self) -> None:
        """What is given up before it was sent never is."""
        asking = [self.ask(number) for number in range(3)]
        asking[1].cancel()
        self.turn()
        self.assertEqual(self.sizes(), [2])
        self.link.answer()
        self.failureResultOf(asking[1], CancelledError)
        self.assertEqual(self.successResultOf(asking[2]).status, 402)
        alone = self.ask(1)
        alone.cancel()
        self.failureResultOf(alone, CancelledError)
        self.turn()
        self.assertEqual(self.sizes(), [])

    def test_cancelled_on_the_way(self) -> None:
        """A request is given up when nobody wants any of its answers, and not before."""
        asking = [self.ask(number) for number in range(3)]
        self.turn()
        for each in asking[:2]:
            each.cancel()
            self.failureResultOf(each, CancelledError)
            self.assertEqual(self.sizes(), [3])
        later = self.ask(5)
        self.turn()
        asking[2].cancel()
        self.failureResultOf(asking[2], CancelledError)
        self.turn()
        self.assertEqual(self.sizes(), [1])
        self.link.answer()
        self.assertEqual(self.successResultOf(later).status, 405)

    def test_out_of_reach(self) -> None:
        """When a request fails, so does what waits: else each would have to wait as long again."""
        asking = [self.ask(number) for number in range(2)]
        self.turn()
        asking.append(self.ask(2))
        self.turn()
        self.link.asked[0][0].errback(NodeUnavailable("It is away."))
        for each in asking:
            self.failureResultOf(each, NodeUnavailable)
        self.turn()
        self.assertEqual(self.sizes(), [])
        self.assertEqual(self.link.clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """An answer that is no success, or none to these questions, is one to all of them."""
        for status, body in (
            (401, b""),
            (500, b"{}"),
            (200, b""),
            (200, b"<html>"),
            (200, b"".join(format_replies([Reply(200, question(9).hash)]))),
        ):
            asking = [self.ask(number) for number in range(2)]
            self.turn()
            waiting = self.ask(2)
            self.turn()
            self.link.answer(0, body, status)
            for each in asking:
                self.failureResultOf(each, NodeUnavailable)
            self.turn()
            self.assertEqual(self.sizes(), [1])
            self.link.answer()
            self.successResultOf(waiting)

    def test_a_bug(self) -> None:
        """What fails as nothing should is logged; who waits gets an error of ours."""
        asking = self.ask(1)
        self.turn()
        self.link.asked[0][0].errback(ZeroDivisionError())
        self.failureResultOf(asking, NodeUnavailable)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
