"""Small shards on their way to and from one data server: those that wait at the same time travel
together in one request. See ``docs/data-api.rst``.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.adapters.http_link import HttpLink
from dostore.core.batch import (
    MAX_ANSWER_BYTES,
    MAX_BATCH_BYTES,
    MAX_ENTRIES,
    Question,
    Reply,
    format_questions,
    parse_replies,
)
from dostore.core.datafields import ShardDigest
from dostore.errors import DostoreError, InvalidRequest, NodeUnavailable
from dostore.http.exchange import Answer, Block

_log = Logger()

#: Requests of one kind to one server at the same time.
MAX_FLYING = 4

#: While a request is on its way what comes waits for its answer, so that it travels together: twice
#: as long as an answer took lately, at least and at most this long. A server that answers as ever
#: has no use for more requests at a time, and one that is busy even less.
PATIENCE_S = 0.005
LONGEST_PATIENCE_S = 0.05

Tell = Callable[[Reply | Exception], None]


@define(eq=False)
class Waiting:
    """An entry that is not answered.

    :ivar weight: the bytes that it is expected to move.
    :ivar tell: takes the answer; None: nobody wants it any more.
    """

    question: Question
    blocks: Sequence[Block]
    weight: int
    tell: Tell | None
    flight: Flight | None = None

    def leave(self) -> None:
        """Nobody wants the answer any more."""
        if self.tell is not None:
            self.tell = None
            if self.flight is not None:
                self.flight.left()

    def end(self, outcome: Reply | Exception) -> None:
        """It is answered, or never will be."""
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(outcome)


@define(eq=False)
class Flight:
    """A request that is on its way."""

    batch: Sequence[Waiting]
    began_s: float
    asking: Deferred[Answer] | None = None

    def left(self) -> None:
        """Somebody does not want an answer any more: when nobody does, the request is given up."""
        if self.asking is not None and all(waiting.tell is None for waiting in self.batch):
            self.asking.cancel()


class Lane:
    """The entries of one kind to one data server.

    :param refusal: what an answer means that is no success.
    :param soon: calls at the end of the reactor's turn, so that what comes in it travels together.
    """

    def __init__(
        self,
        link: HttpLink,
        refusal: Callable[[Answer], DostoreError],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._link = link
        self._refusal = refusal
        self._soon = soon
        self._called = False
        self._queue: deque[Waiting] = deque()
        self._flights: list[Flight] = []
        self._timer: IDelayedCall | None = None
        self._patience_s = PATIENCE_S

    async def ask(self, question: Question, blocks: Sequence[Block], weight: int) -> Reply:
        """The answer to an entry.

        :param weight: see Waiting.
        :raises NodeUnavailable: there is none.
        """
        waiter: Deferred[Reply] = Deferred(lambda _: waiting.leave())

        def tell(outcome: Reply | Exception) -> None:
            if isinstance(outcome, Reply):
                waiter.callback(outcome)
            else:
                waiter.errback(outcome)

        waiting = self.begin(question, blocks, weight, tell)
        return await waiter

    def begin(
        self, question: Question, blocks: Sequence[Block], weight: int, tell: Tell
    ) -> Waiting:
        """Have an entry answered; ``tell`` is called once at most, maybe at once."""
        waiting = Waiting(question, blocks, weight, tell)
        self._queue.append(waiting)
        self._wake()
        return waiting

    def _wake(self) -> None:
        if not self._called:
            self._called = True
            self._soon(self._start)

    def _start(self) -> None:
        self._called = False
        self._go_on()

    def _go_on(self) -> None:
        """Send what may be sent now."""
        while self._queue and len(self._flights) < MAX_FLYING:
            if self._flights:
                left_s = self._flights[-1].began_s + self._patience_s - self._link.clock.seconds()
                if left_s > 0:
                    if self._timer is None:
                        self._timer = self._link.clock.callLater(left_s, self._impatient)
                    return
            batch = self._take()
            if batch:
                self._send(batch)
        if not self._queue:
            self._stop_timer()

    def _impatient(self) -> None:
        self._timer = None
        self._go_on()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        weight = 0
        while self._queue and len(batch) < MAX_ENTRIES:
            waiting = self._queue[0]
            if waiting.tell is not None:
                weight += waiting.weight
                if batch and weight > MAX_BATCH_BYTES:
                    break
                batch.append(waiting)
            self._queue.popleft()
        return batch

    def _send(self, batch: list[Waiting]) -> None:
        flight = Flight(batch, self._link.clock.seconds())
        self._flights.append(flight)
        for waiting in batch:
            waiting.flight = flight
        questions = format_questions([waiting.question for waiting in batch])
        digest = ShardDigest(body=hashlib.sha256(questions).digest()).format()
        body: list[Block] = [questions]
        for waiting in batch:
            body += waiting.blocks
        asking = Deferred.fromCoroutine(
            self._link.ask(b"POST", b"/batch", [(b"Digest", digest)], body, limit=MAX_ANSWER_BYTES)
        )
        if not asking.called:
            flight.asking = asking
        _ = asking.addBoth(self._answered, flight)

    def _answered(self, outcome: Answer | Failure, flight: Flight) -> None:
        self._flights.remove(flight)
        flight.asking = None
        batch = list(flight.batch)
        # They refer to one another: what they hold would wait for the collector of cycles.
        flight.batch = ()
        for waiting in batch:
            waiting.flight, waiting.blocks = None, ()
        outcomes: Sequence[Reply | Exception]
        if isinstance(outcome, Answer):
            self._learn(self._link.clock.seconds() - flight.began_s)
            outcomes = self._read(outcome, batch)
        else:
            if not outcome.check(DostoreError, CancelledError):
                _log.failure("A batch of shards could not be sent", outcome)
            if not outcome.check(CancelledError):
                # What cannot be reached would make each that waits wait as long again.
                batch += self._queue
                self._queue.clear()
            error = outcome.value
            told = error if isinstance(error, DostoreError) else _failed(self._link.address)
            outcomes = [told] * len(batch)
        # Who asks again at once, in reply to its answer, travels with all others that do.
        for waiting, each in zip(batch, outcomes, strict=True):
            waiting.end(each)
        if self._queue:
            self._wake()
        else:
            self._stop_timer()

    def _learn(self, took_s: float) -> None:
        """How long an answer took."""
        patience_s = self._patience_s + (2 * took_s - self._patience_s) / 8
        self._patience_s = min(max(patience_s, PATIENCE_S), LONGEST_PATIENCE_S)

    def _read(self, answer: Answer, batch: Sequence[Waiting]) -> Sequence[Reply | Exception]:
        try:
            if answer.status != 200:
                # Whatever it says: it says it of the batch, and nothing of any shard.
                raise NodeUnavailable(str(self._refusal(answer)))
            return parse_replies(answer.body, [waiting.question for waiting in batch])
        except DostoreError as error:
            if isinstance(error, InvalidRequest):
                text = f"{self._link.address} sent something else than the answer to a batch."
                error = NodeUnavailable(text)
            return [error] * len(batch)


def _failed(address: str) -> NodeUnavailable:
    return NodeUnavailable(f"A batch to {address} was given up.")
