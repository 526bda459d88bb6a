"""Bodies of requests to a server and of its answers, awaited; see ``exchange``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from dostore.errors import NodeUnavailable

#: Of an answer that nobody reads, this much is kept before the other side has to wait.
HIGH_WATER_BYTES = 512 * 1024

Block = bytes | memoryview


class Broken(NodeUnavailable):
    """The connection broke before all had come; another one may do."""


class TooLong(NodeUnavailable):
    """There is more of an answer than it may have."""


class AnswerBody(Protocol):
    """The body of an answer as it arrives. One reader at a time.

    :param length: bytes that are to come; None: any number up to ``limit``.
    :param timeout_s: how long a reader waits for the next bytes.
    :param on_end: called once, when the connection is not used any more.
    :ivar finished: all has come, or nothing more will.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout_s: float,
        *,
        length: int | None,
        limit: int | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._length = length
        self._limit = limit
        self._on_end = on_end
        self._pieces: deque[Block] = deque()
        self._held = 0
        self._received = 0
        self._wanted = 0
        self._paused = False
        self._error: NodeUnavailable | None = None
        self._waiter: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self.finished = False

    async def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes.

        :raises Broken: fewer came.
        :raises NodeUnavailable: nothing came for too long.
        """
        if self._held < size and not self.finished:
            await self._wait(size)
        if self._held < size:
            raise self._error or Broken("The answer is shorter than it said.")
        return self._take(size)

    async def read_some(self, size: int) -> bytes:
        """What has come and was not read, at most ``size`` bytes; waits until there is any. None at
        the end. All that came before the connection broke is handed out before the error.

        :raises Broken: the rest did not come.
        :raises NodeUnavailable: nothing came for too long.
        """
        if not self._held and not self.finished:
            await self._wait(1)
        if not self._held and self._error is not None:
            raise self._error
        return self._take(min(size, self._held))

    async def read_all(self) -> bytes:
        """The whole body.

        :raises Broken: it did not come to its end.
        :raises TooLong: it is longer than the limit.
        :raises NodeUnavailable: nothing came for too long.
        """
        if not self.finished:
            await self._wait(None)
        if self._error is not None:
            raise self._error
        return self._take(self._held)

    async def _wait(self, size: int | None) -> None:
        """Return when ``size`` bytes (None: all) are there or will never be."""
        if self._waiter is not None:
            raise RuntimeError("a body has one reader at a time")
        self._wanted = (1 << 62) if size is None else size
        waiter = self._waiter = Deferred()
        timer = self._timer = self._clock.callLater(self._timeout_s, self._timed_out)
        self._resume()
        try:
            await waiter
        finally:
            self._waiter, self._wanted, self._timer = None, 0, None
            if timer.active():
                timer.cancel()

    def _take(self, size: int) -> bytes:
        parts: list[Block] = []
        self._held -= size
        while size:
            piece = self._pieces.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                self._pieces.appendleft(view[size:])
                piece = view[:size]
            parts.append(piece)
            size -= len(piece)
        if self._held <= HIGH_WATER_BYTES // 2:
            self._resume()
        # Of one piece of bytes, this is no copy.
        return b"".join(parts)

    def _resume(self) -> None:
        if self._paused and not self.finished:
            self._paused = False
            self._transport_call("resumeProducing")

    def _transport_call(self, name: str) -> None:
        getattr(self.transport, name)()

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        if self.finished:
            return
        self._received += len(data)
        if self._limit is not None and self._received > self._limit:
            self.fail(TooLong(f"The answer is longer than {self._limit} bytes."))
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._timer is not None:
            self._timer.reset(self._timeout_s)
        if self._received == self._length:
            # It can be used for the next request, and must not be closed, from here on.
            self.finished = True
            self._on_end()
            self._wake()
            return
        if not self._paused and self._held > max(HIGH_WATER_BYTES, self._wanted):
            self._paused = True
            self._transport_call("pauseProducing")
        if self._held >= self._wanted:
            self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended, well or not."""
        if self.finished:
            return
        self.finished = True
        if not reason.check(ResponseDone) or self._length not in (None, self._received):
            self._error = Broken("The connection broke in the middle of the answer.")
        self._on_end()
        self._wake()

    def _timed_out(self) -> None:
        self.fail(NodeUnavailable(f"Nothing of the answer came for {self._timeout_s:g} s."))

    def fail(self, error: NodeUnavailable) -> None:
        """Take no more, and close the connection."""
        if not self.finished:
            self.finished = True
            self._error = error
            self._pieces.clear()
            self._held = 0
            self._transport_call("loseConnection")
            self._on_end()
            self._wake()

    def abandon(self) -> None:
        """Nobody reads any more: close the connection unless all has come. Idempotent."""
        self.fail(NodeUnavailable("The answer was given up."))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)


@implementer(IBodyProducer)
class StreamedBody:
    """A request's body that is written while it is sent.

    :param timeout_s: how long a writer waits until more is welcome.
    :param length: bytes that will be written, if that is known.
    """

    def __init__(self, clock: IReactorTime, timeout_s: float, length: int | None = None) -> None:
        self.length = UNKNOWN_LENGTH if length is None else length
        self._clock = clock
        self._timeout_s = timeout_s
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] = Deferred()
        self._paused = True
        self._stopped = False
        self._waiter: Deferred[None] | None = None

    async def write(self, pieces: Sequence[Block]) -> None:
        """Send the pieces and return when more is welcome.

        :raises NodeUnavailable: the connection is gone, or takes nothing.
        """
        # Before the connection is there nothing is welcome.
        if self._consumer is None:
            await self._wait()
        if self._stopped or self._consumer is None:
            raise Broken("The connection broke while it was sent to.")
        self._consumer.write(b"".join(pieces))
        if self._paused:
            await self._wait()

    async def _wait(self) -> None:
        if self._stopped:
            return
        waiter = self._waiter = Deferred()
        timer = self._clock.callLater(
            self._timeout_s,
            waiter.errback,
            NodeUnavailable(f"Nothing was taken for {self._timeout_s:g} s."),
        )
        try:
            await waiter
        finally:
            self._waiter = None
            if timer.active():
                timer.cancel()

    def finish(self) -> None:
        """All is written."""
        if not self._done.called:
            self._done.callback(None)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See IBodyProducer."""
        self._consumer = consumer
        self._paused = False
        self._wake()
        return self._done

    def pauseProducing(self) -> None:
        """See IBodyProducer."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See IBodyProducer."""
        self._paused = False
        self._wake()

    def stopProducing(self) -> None:
        """See IBodyProducer."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)
