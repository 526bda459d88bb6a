"""What every IByteSource and IByteSink promises."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred

from dostore.errors import DostoreError, IncompleteBody
from dostore.ports import IByteSink, IByteSource

if TYPE_CHECKING:
    from tests.support.cases import AsyncTestCase as Case
else:
    Case = object


class ByteSourceContract(Case):
    """The promises of IByteSource.

    A subclass supplies :meth:`make_source`, and :meth:`drip_source` where bytes can be late.
    """

    def make_source(self, data: bytes, error: DostoreError | None = None) -> IByteSource:
        """A source of ``data`` that then ends, or fails with ``error``."""
        raise NotImplementedError

    def drip_source(self) -> tuple[IByteSource, Callable[[bytes], None]]:
        """A source, and a function that makes more bytes arrive; ``b""`` makes it end."""
        raise NotImplementedError

    def test_provides(self) -> None:
        """It provides the interface."""
        self.assert_provides(IByteSource, self.make_source(b""))

    async def test_empty(self) -> None:
        """A source of nothing gives nothing, again and again."""
        source = self.make_source(b"")
        self.assertEqual([await source.read(1), await source.read(100)], [b"", b""])

    async def test_whole(self) -> None:
        """One read that is large enough gives all, as bytes; the next ones nothing."""
        source = self.make_source(b"all of it")
        data = await source.read(10**6)
        self.assertIs(type(data), bytes)
        self.assertEqual(data, b"all of it")
        self.assertEqual([await source.read(1), await source.read(1)], [b"", b""])

    async def test_exact_sizes(self) -> None:
        """Each read gives exactly what was asked for; only the last gives less."""
        source = self.make_source(b"0123456789")
        self.assertEqual(
            [await source.read(size) for size in (1, 0, 4, 4, 4, 4)],
            [b"0", b"", b"1234", b"5678", b"9", b""],
        )

    async def test_end_on_a_border(self) -> None:
        """When the last read fits, the end shows as a read of nothing."""
        source = self.make_source(b"0123456789")
        self.assertEqual([await source.read(5) for _ in range(3)], [b"01234", b"56789", b""])

    async def test_large(self) -> None:
        """Megabytes come in order, whatever the sizes of the reads."""
        random = Random(1)
        data = random.randbytes(5_000_003)
        source = self.make_source(data)
        pieces = []
        size = 1
        while piece := await source.read(size):
            pieces.append(piece)
            if len(piece) < size:
                break
            size = random.choice([1, 999, 65536, 262144, 2_500_000])
        self.assertEqual(b"".join(pieces), data)
        self.assertEqual(await source.read(1), b"")

    async def test_failure(self) -> None:
        """A source whose rest cannot be had raises, and never looks as if it had ended."""
        error = IncompleteBody("The client went away.")
        source = self.make_source(b"0123456789", error)
        for _ in range(2):
            with self.assertRaises(IncompleteBody) as caught:
                while True:
                    self.assertEqual(len(await source.read(4)), 4)
            self.assertIs(caught.exception, error)

    async def test_failure_of_one_large_read(self) -> None:
        """A read that reaches beyond what came gives nothing of it."""
        source = self.make_source(b"0123456789", IncompleteBody("The client went away."))
        with self.assertRaises(IncompleteBody):
            await source.read(11)

    async def test_some(self) -> None:
        """What has come can be had as it comes, and mixed with exact reads."""
        source = self.make_source(b"0123456789")
        self.assertEqual(await source.read_some(4), b"0123")
        self.assertEqual(await source.read(2), b"45")
        rest = b""
        while piece := await source.read_some(100):
            rest += piece
        self.assertEqual(rest, b"6789")
        self.assertEqual(await source.read_some(1), b"")

    async def test_some_before_a_failure(self) -> None:
        """All that came before the source failed is handed out, then the error, again and again."""
        error = IncompleteBody("The client went away.")
        source = self.make_source(b"0123456789", error)
        got = b""
        while len(got) < 10:
            piece = await source.read_some(4)
            self.assertTrue(piece)
            got += piece
        self.assertEqual(got, b"0123456789")
        for _ in range(2):
            with self.assertRaises(IncompleteBody) as caught:
                await source.read_some(4)
            self.assertIs(caught.exception, error)

    def test_some_waits(self) -> None:
        """With nothing there it waits for the first bytes, or the end."""
        source, arrive = self.drip_source()
        read = Deferred.fromCoroutine(source.read_some(4))
        self.assertNoResult(read)
        arrive(b"01")
        self.assertEqual(self.successResultOf(read), b"01")
        read = Deferred.fromCoroutine(source.read_some(4))
        self.assertNoResult(read)
        arrive(b"")
        self.assertEqual(self.successResultOf(read), b"")

    def test_waits(self) -> None:
        """A read waits until it has all its bytes, or the end."""
        source, arrive = self.drip_source()
        read = Deferred.fromCoroutine(source.read(4))
        arrive(b"012")
        self.assertNoResult(read)
        arrive(b"345")
        self.assertEqual(self.successResultOf(read), b"0123")
        read = Deferred.fromCoroutine(source.read(4))
        self.assertNoResult(read)
        arrive(b"")
        self.assertEqual(self.successResultOf(read), b"45")

    def test_cancelled_read(self) -> None:
        """A read that is cancelled takes nothing: the next one gives its bytes."""
        source, arrive = self.drip_source()
        read = Deferred.fromCoroutine(source.read(4))
        arrive(b"01")
        read.cancel()
        self.failureResultOf(read, CancelledError)
        arrive(b"23")
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(source.read(4))), b"0123")


class ByteSinkContract(Case):
    """The promises of IByteSink.

    A subclass supplies :meth:`make_sink` and what its reader does.
    """

    def make_sink(self) -> IByteSink:
        """A sink whose reader takes everything, for now."""
        raise NotImplementedError

    def received(self) -> bytes:
        """What has come out of it."""
        raise NotImplementedError

    def stall(self) -> None:
        """Have the reader take no more for now."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Have the reader take everything again."""
        raise NotImplementedError

    def leave(self) -> None:
        """Have the reader go away."""
        raise NotImplementedError

    def begin(self, sink: IByteSink, *pieces: bytes | memoryview) -> Deferred[None]:
        """Begin a write."""
        return Deferred.fromCoroutine(sink.write(pieces))

    def test_provides(self) -> None:
        """It provides the interface."""
        self.assert_provides(IByteSink, self.make_sink())

    async def test_order(self) -> None:
        """Pieces arrive in order, views and empty ones among them."""
        sink = self.make_sink()
        await sink.write([b"one ", memoryview(b"two "), b""])
        await sink.write([])
        await sink.write((memoryview(b"three")[:2],))
        self.assertEqual(self.received(), b"one two th")

    async def test_large(self) -> None:
        """Megabytes arrive whole."""
        sink = self.make_sink()
        data = Random(2).randbytes(3_000_001)
        view = memoryview(data)
        for start in range(0, len(data), 400_000):
            await sink.write([view[start : start + 1000], view[start + 1000 : start + 400_000]])
        self.assertEqual(self.received(), data)

    def test_back_pressure(self) -> None:
        """While the reader takes nothing a write does not return; when it goes on, it does."""
        sink = self.make_sink()
        self.successResultOf(self.begin(sink, b"before "))
        self.stall()
        write = self.begin(sink, b"meanwhile ")
        self.assertNoResult(write)
        self.go_on()
        self.successResultOf(write)
        self.successResultOf(self.begin(sink, b"after"))
        self.assertEqual(self.received(), b"before meanwhile after")

    def test_reader_leaves(self) -> None:
        """Writes to a reader that has gone away fail, and go nowhere."""
        sink = self.make_sink()
        self.successResultOf(self.begin(sink, b"before"))
        self.leave()
        for _ in range(2):
            self.failureResultOf(self.begin(sink, b"after"), DostoreError)
        self.assertEqual(self.received(), b"before")

    def test_reader_leaves_meanwhile(self) -> None:
        """A write that waits fails when the reader goes away."""
        sink = self.make_sink()
        self.stall()
        write = self.begin(sink, b"meanwhile")
        self.assertNoResult(write)
        self.leave()
        self.failureResultOf(write, DostoreError)

    def test_cancelled_write(self) -> None:
        """A write that is cancelled while it waits leaves the sink usable."""
        sink = self.make_sink()
        self.stall()
        write = self.begin(sink, b"one ")
        write.cancel()
        self.failureResultOf(write, CancelledError)
        self.go_on()
        self.successResultOf(self.begin(sink, b"two"))
        self.assertEqual(self.received()[-3:], b"two")
