"""Between sources and sinks, which are awaited, and Twisted's producers and consumers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import Interface, implementer

from dostore.errors import ClientGone, DostoreError, TooLarge
from dostore.ports import IByteSink, IByteSource

#: A source asks for a pause when it holds more than this, and goes on at half of it.
HIGH_WATER_BYTES = 1 << 20


class IBodyFlow(Interface):
    """What a body comes in by."""

    def begin_body() -> None:
        """The body is wanted: its first read has begun."""

    def pause_body() -> None:
        """Deliver no more, as soon as that can be."""

    def resume_body() -> None:
        """Go on delivering."""

    def await_body(waiting: bool) -> None:
        """A reader waits for bytes, from now on (again), or no longer."""


@implementer(IByteSource)
class BodySource:
    """The body of a request as it arrives. One reader at a time.

    :ivar received: bytes so far.
    :ivar ended: nothing more comes.
    :ivar limit: the reader takes no more bytes than this; None: any number.
    """

    __slots__ = (
        "_begun",
        "_buffered",
        "_dropped",
        "_error",
        "_flow",
        "_paused",
        "_pieces",
        "_waiter",
        "_wanted",
        "ended",
        "limit",
        "received",
    )

    def __init__(self, flow: IBodyFlow) -> None:
        self.received = 0
        self.ended = False
        self.limit: int | None = None
        self._flow = flow
        self._pieces: deque[bytes | memoryview] = deque()
        self._buffered = 0
        self._wanted = 0
        self._begun = False
        self._paused = False
        self._dropped = False
        self._error: DostoreError | None = None
        self._waiter: Deferred[None] | None = None

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        if not self._begun:
            self._begun = True
            self._flow.begin_body()
        if self._buffered < size and not self.ended and self._error is None:
            await self._wait(size)
        if self._error is not None:
            raise self._error
        return self._take(min(size, self._buffered))

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        if not self._begun:
            self._begun = True
            self._flow.begin_body()
        if not self._buffered and not self.ended and self._error is None:
            await self._wait(1)
        if not self._buffered and self._error is not None:
            raise self._error
        return self._take(min(size, self._buffered))

    async def _wait(self, size: int) -> None:
        """Return when ``size`` bytes are there, or all that will ever be."""
        if self._waiter is not None:
            raise RuntimeError("a body has one reader at a time")
        self._wanted = size
        waiter = self._waiter = Deferred()
        if self._paused:
            # The connection may deliver at once what it has held back.
            self._paused = False
            self._flow.resume_body()
        self._flow.await_body(True)
        try:
            await waiter
        finally:
            self._wanted = 0
            self._waiter = None
            self._flow.await_body(False)

    def _take(self, size: int) -> bytes:
        pieces = self._pieces
        self._buffered -= size
        parts: list[bytes | memoryview] = []
        while size:
            piece = pieces.popleft()
            if len(piece) > size:
                piece = memoryview(piece)
                pieces.appendleft(piece[size:])
                piece = piece[:size]
            parts.append(piece)
            size -= len(piece)
        # Of one piece of bytes, this is no copy.
        taken = b"".join(parts)
        if self._paused and self._buffered <= HIGH_WATER_BYTES // 2:
            self._paused = False
            self._flow.resume_body()
        return taken

    def feed(self, data: bytes) -> None:
        """More of the body has come."""
        self.received += len(data)
        if self.limit is not None and self.received > self.limit:
            self.fail(
                TooLarge(f"The body is larger than {self.limit} bytes, the most that is taken.")
            )
        if self._error is not None or self._dropped:
            return
        self._pieces.append(data)
        self._buffered += len(data)
        if not self._paused and self._buffered > max(HIGH_WATER_BYTES, self._wanted):
            self._paused = True
            self._flow.pause_body()
        if self._waiter is not None:
            if self._buffered >= self._wanted:
                self._wake()
            else:
                self._flow.await_body(True)

    def finish(self) -> None:
        """The body has come to its end."""
        self.ended = True
        self._wake()

    def fail(self, error: DostoreError) -> None:
        """The rest of the body will not come; reads raise ``error``. After the end: no effect."""
        if not self.ended and self._error is None:
            self._error = error
            self._wake()

    def drop(self) -> None:
        """Nobody will read any more: forget what is held and what is still to come."""
        self._dropped = True
        self._pieces.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self._flow.resume_body()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)


@implementer(IByteSink, IPushProducer)
class ConsumerSink:
    """Writes to a consumer that it is registered with as a producer.

    :param write: gives the pieces of one write to the consumer, which does not keep them.
    """

    __slots__ = ("_paused", "_stopped", "_waiter", "_write")

    def __init__(self, write: Callable[[Sequence[bytes | memoryview]], None]) -> None:
        self._write = write
        self._paused = False
        self._stopped = False
        self._waiter: Deferred[None] | None = None

    async def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """See IByteSink.

        :raises ClientGone: the consumer takes nothing any more.
        """
        if not self._stopped:
            self._write(pieces)
            if self._paused:
                await self._wait()
        if self._stopped:
            raise ClientGone("The connection was closed before all was sent.")

    async def _wait(self) -> None:
        waiter = self._waiter = Deferred()
        try:
            await waiter
        finally:
            self._waiter = None

    def pauseProducing(self) -> None:
        """See IPushProducer."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See IPushProducer."""
        self._paused = False
        self._wake()

    def stopProducing(self) -> None:
        """See IPushProducer."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)
