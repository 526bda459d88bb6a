"""dostore.streams: what every source and sink promises, and back-pressure to the connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from dostore.errors import ClientGone, DostoreError, IncompleteBody, TooLarge
from dostore.ports import IByteSink, IByteSource
from dostore.streams import HIGH_WATER_BYTES, BodySource, ConsumerSink, IBodyFlow
from tests.contract.stream import ByteSinkContract, ByteSourceContract
from tests.support.cases import AsyncTestCase, SyncTestCase


@implementer(IBodyFlow)
class Flow:
    """A connection that delivers pieces of a body while it may, and notes what it is told."""

    def __init__(self) -> None:
        self.source = BodySource(self)
        self.paused = False
        self.pauses = 0
        self.begun = 0
        self.waiting: list[bool] = []
        self._pieces: deque[Callable[[], None]] = deque()

    def deliver(self, *pieces: bytes, error: DostoreError | None = None) -> None:
        """Have pieces arrive, and then the end or an error, once the body is begun."""
        for piece in pieces:
            self._pieces.append(lambda piece=piece: self.source.feed(piece))  # type: ignore[misc]
        self._pieces.append(
            self.source.finish if error is None else lambda: self.source.fail(error)
        )

    def _pump(self) -> None:
        while self._pieces and self.begun and not self.paused:
            self._pieces.popleft()()

    def begin_body(self) -> None:
        """See IBodyFlow."""
        self.begun += 1
        self._pump()

    def pause_body(self) -> None:
        """See IBodyFlow."""
        self.paused = True
        self.pauses += 1

    def resume_body(self) -> None:
        """See IBodyFlow."""
        self.paused = False
        self._pump()

    def await_body(self, waiting: bool) -> None:
        """See IBodyFlow."""
        self.waiting.append(waiting)


class BodySourceContractTests(ByteSourceContract, AsyncTestCase):
    """BodySource keeps the promises, over a connection that delivers as fast as it may."""

    def make_source(self, data: bytes, error: DostoreError | None = None) -> IByteSource:
        """See ByteSourceContract."""
        flow = Flow()
        step = 60_001 if len(data) > 100 else 3
        flow.deliver(*(data[at : at + step] for at in range(0, len(data), step)), error=error)
        return flow.source

    def drip_source(self) -> tuple[IByteSource, Callable[[bytes], None]]:
        """See ByteSourceContract."""
        source = Flow().source
        return source, lambda data: source.feed(data) if data else source.finish()


class BodySourceTests(SyncTestCase):
    """What BodySource tells the connection."""

    def setUp(self) -> None:
        """A connection and its source."""
        super().setUp()
        self.flow = Flow()
        self.source = self.flow.source

    def read(self, size: int) -> Deferred[bytes]:
        """Begin a read."""
        return Deferred.fromCoroutine(self.source.read(size))

    def test_begins_once(self) -> None:
        """The connection hears of the first read, once, so that it can ask the client to go on."""
        self.assertEqual(self.flow.begun, 0)
        self.source.feed(b"0123456789")
        self.successResultOf(self.read(1))
        self.successResultOf(self.read(1))
        self.assertEqual(self.flow.begun, 1)

    def test_pauses(self) -> None:
        """Above the high-water mark the connection is paused, and at half of it goes on."""
        self.source.feed(bytes(HIGH_WATER_BYTES))
        self.assertFalse(self.flow.paused)
        self.source.feed(b"x")
        self.assertTrue(self.flow.paused)
        self.source.feed(b"x")
        self.assertEqual(self.flow.pauses, 1)
        self.successResultOf(self.read(HIGH_WATER_BYTES // 2 + 1))
        self.assertTrue(self.flow.paused)
        self.successResultOf(self.read(1))
        self.assertFalse(self.flow.paused)

    def test_read_larger_than_the_mark(self) -> None:
        """A read of more than the mark is not left waiting for a connection that is paused."""
        self.source.feed(bytes(HIGH_WATER_BYTES + 1))
        self.assertTrue(self.flow.paused)
        read = self.read(2 * HIGH_WATER_BYTES)
        self.assertFalse(self.flow.paused)
        self.source.feed(bytes(HIGH_WATER_BYTES - 2))
        self.assertFalse(self.flow.paused)
        self.assertNoResult(read)
        self.source.feed(b"x")
        self.assertEqual(len(self.successResultOf(read)), 2 * HIGH_WATER_BYTES)

    def test_bounded(self) -> None:
        """A client that is faster than the reader makes the source hold the mark and one piece."""
        self.flow.deliver(*[bytes(65536)] * 100)
        held = taken = 0
        for _ in range(100):
            taken += len(self.successResultOf(self.read(65536)))
            held = max(held, self.source.received - taken)
        self.assertGreater(held, 0)
        self.assertLessEqual(held, HIGH_WATER_BYTES + 65536)
        self.assertEqual(self.successResultOf(self.read(1)), b"")

    def test_tells_when_it_waits(self) -> None:
        """The connection hears when a read waits, when bytes came for it, and when it is over."""
        read = self.read(4)
        self.assertEqual(self.flow.waiting, [True])
        self.source.feed(b"01")
        self.assertEqual(self.flow.waiting, [True, True])
        self.source.feed(b"23")
        self.assertEqual(self.flow.waiting, [True, True, False])
        self.successResultOf(read)
        self.source.feed(b"45")
        self.successResultOf(self.read(2))
        self.assertEqual(len(self.flow.waiting), 3)

    def test_limit(self) -> None:
        """A body of more than the limit fails; one of exactly the limit does not."""
        self.source.limit = 4
        self.source.feed(b"0123")
        self.assertEqual(self.successResultOf(self.read(2)), b"01")
        self.source.feed(b"4")
        self.failureResultOf(self.read(1), TooLarge)

    def test_failure_while_it_waits(self) -> None:
        """A read that waits fails with the body."""
        read = self.read(4)
        self.source.fail(IncompleteBody("gone"))
        self.failureResultOf(read, IncompleteBody)
        self.source.feed(b"late")
        self.failureResultOf(self.read(1), IncompleteBody)

    def test_only_the_first_failure_counts(self) -> None:
        """What fails after the first failure, or after the end, changes nothing."""
        self.source.fail(IncompleteBody("first"))
        self.source.fail(TooLarge("second"))
        self.failureResultOf(self.read(1), IncompleteBody)
        flow = Flow()
        flow.source.feed(b"ab")
        flow.source.finish()
        flow.source.fail(IncompleteBody("after the end"))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(flow.source.read(9))), b"ab")

    def test_two_readers(self) -> None:
        """A second read while one waits is a bug, and told."""
        read = self.read(4)
        self.failureResultOf(self.read(4), RuntimeError)
        self.source.feed(b"0123")
        self.assertEqual(self.successResultOf(read), b"0123")

    def test_drop(self) -> None:
        """Dropping the rest lets a paused connection go on, to receive and forget it."""
        self.source.feed(bytes(HIGH_WATER_BYTES + 1))
        self.source.drop()
        self.assertFalse(self.flow.paused)
        self.source.feed(bytes(2 * HIGH_WATER_BYTES))
        self.assertFalse(self.flow.paused)
        self.source.drop()
        self.assertFalse(self.flow.paused)

    def test_whole_pieces_are_not_copied(self) -> None:
        """A read of exactly what came gives the very bytes that came."""
        data = bytes(65536)
        self.source.feed(data)
        self.assertIs(self.successResultOf(self.read(65536)), data)


class ConsumerSinkTests(ByteSinkContract, AsyncTestCase):
    """ConsumerSink keeps the promises of a sink, and is a push producer."""

    def setUp(self) -> None:
        """Nothing was received."""
        super().setUp()
        self.pieces: list[bytes | memoryview] = []
        self.sink = ConsumerSink(self.pieces.extend)

    def make_sink(self) -> IByteSink:
        """See ByteSinkContract."""
        return self.sink

    def received(self) -> bytes:
        """See ByteSinkContract."""
        return b"".join(self.pieces)

    def stall(self) -> None:
        """See ByteSinkContract."""
        self.sink.pauseProducing()

    def go_on(self) -> None:
        """See ByteSinkContract."""
        self.sink.resumeProducing()

    def leave(self) -> None:
        """See ByteSinkContract."""
        self.sink.stopProducing()

    def test_producer(self) -> None:
        """It can be registered with a consumer."""
        self.assert_provides(IPushProducer, self.sink)

    def test_consumer_pauses_at_the_write(self) -> None:
        """A consumer that pauses because of what it was given holds that very write."""

        def write(pieces: Sequence[bytes | memoryview]) -> None:
            self.pieces.extend(pieces)
            self.sink.pauseProducing()

        self.sink = ConsumerSink(write)
        one = self.begin(self.sink, b"one")
        self.assertEqual(self.received(), b"one")
        self.assertNoResult(one)
        self.go_on()
        self.successResultOf(one)

    def test_consumer_leaves_at_the_write(self) -> None:
        """A consumer that goes away because of what it was given fails that very write."""
        self.sink = ConsumerSink(lambda _: self.sink.stopProducing())
        self.failureResultOf(self.begin(self.sink, b"one"), ClientGone)

    def test_one_piece_is_not_copied(self) -> None:
        """A write of one piece of bytes reaches the consumer as it is."""
        data = bytes(65536)
        self.successResultOf(self.begin(self.sink, data))
        self.assertIs(self.pieces[0], data)
