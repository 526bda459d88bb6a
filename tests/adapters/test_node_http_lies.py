"""Data servers that lie, break off or say nothing: nothing wrong comes of it, and nobody hangs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from dostore.adapters import http_link
from dostore.adapters.http_link import MAX_REQUESTS, QUICK_TIMEOUT_S
from dostore.adapters.node_http import HttpNode
from dostore.adapters.node_http_reader import framed_size
from dostore.core.batch import MAX_ANSWER_BYTES, MAX_SHARD_BYTES, Reply, format_replies
from dostore.core.datafields import block_lengths, frame
from dostore.core.scheme import Scheme
from dostore.core.stripes import Block
from dostore.errors import (
    AlreadyHeld,
    BadShard,
    Conflict,
    DostoreError,
    NodeUnavailable,
    NoSpace,
    ShardMissing,
)
from dostore.http.direct import MAX_HEAD_BYTES
from dostore.http.exchange import ANSWER_TIMEOUT_S
from tests.support.data_server import DataServerCase, the_reactor
from tests.support.liar import Liar, answering, response
from tests.support.ports import free_port
from tests.support.shards import SCHEME, Sample, sample

WHAT = sample(10 * SCHEME.stripe_size + 5)
LARGE = sample(300 * SCHEME.stripe_size)

#: A shard that is known to be so large is asked for by a request of its own.
ALONE = MAX_SHARD_BYTES + 1


def told(what: Sample, index: int = 1, **changes: str | None) -> dict[str, str]:
    """The fields that tell about a shard; None leaves one out."""
    fields: dict[str, str | None] = {
        "X-Content": str(what.content.hash),
        "X-Shard": str(index),
        "Size": str(what.content.size),
        "X-Scheme": "4+2/4096",
    }
    fields |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in fields.items() if value is not None}


def framed(what: Sample, index: int = 1) -> bytes:
    """A shard's blocks with their checks."""
    blocks = SCHEME.stripe_count(what.content.size)
    return b"".join(frame(what.plain(index), block_lengths(what.content, 0, blocks)))


class LiarCase(DataServerCase):
    """A liar, and a node that is told by it."""

    def setUp(self) -> None:
        """A clock that only the test turns."""
        super().setUp()
        self.clock = Clock()

    def lie(self, answer: Callable[[Any, bytes], object] | bytes, **how: bool) -> HttpNode:
        """A node whose server answers so."""
        liar = Liar(answering(answer, **how) if isinstance(answer, bytes) else answer)
        self.addCleanup(lambda: Deferred.fromCoroutine(liar.stop()))
        self.liar = liar
        return self.client(self.liar.address, clock=self.clock)

    async def turn(self, condition: Callable[[], object]) -> None:
        """Let the network go on until something is so."""
        for _ in range(2000):
            if condition():
                return
            await deferLater(the_reactor, 0.001)
        raise AssertionError("it never came to that")

    async def refuses(self, error: type[DostoreError], call: Any) -> DostoreError:
        """The call fails so, and no connection is left busy."""
        try:
            await call
        except error as caught:
            return caught
        raise AssertionError(f"there was no {error.__name__}")


class OpenTests(LiarCase):
    """What an answer tells about a shard."""

    async def test_the_truth(self) -> None:
        """To begin with, the test's own server is believed when it tells the truth."""
        node = self.lie(response(200, told(WHAT), framed(WHAT)))
        reader = await node.open(WHAT.content.hash, 1, ALONE)
        self.assertEqual(reader.info.content, WHAT.content)
        self.assertEqual(await reader.read(2, 9), WHAT.plain(1)[2 * 4096 :])
        await reader.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_another_shard(self) -> None:
        """A shard of another content or place, or an impossible one, is a bad shard."""
        other = sample(10, 1)
        for changes in (
            {"X_Content": str(other.content.hash)},
            {"X_Content": "abc"},
            {"X_Content": None},
            {"X_Shard": "2"},
            {"X_Shard": "1,2"},
            {"X_Shard": "x"},
            {"X_Shard": None},
            {"Size": "-1"},
            {"Size": None},
            {"Size": "99999999999999999999"},
            {"X_Scheme": "4+2"},
            {"X_Scheme": "0+1/4096"},
            {"X_Scheme": "1+0/4096"},
            {"X_Scheme": None},
        ):
            node = self.lie(response(200, told(WHAT, **changes), framed(WHAT)))
            await self.refuses(BadShard, node.open(WHAT.content.hash, 1, ALONE))

    async def test_fields_twice(self) -> None:
        """Two sizes are none."""
        answer = response(200, told(WHAT), framed(WHAT))
        node = self.lie(answer.replace(b"X-Shard", b"Size: 1\r\nX-Shard"))
        await self.refuses(BadShard, node.open(WHAT.content.hash, 1, ALONE))

    async def test_another_size(self) -> None:
        """A size that its bytes do not bear out is never believed: no wrong length gets through."""
        for size in (0, 1, WHAT.content.size - 5, WHAT.content.size + 40_000, 2**62):
            node = self.lie(response(200, told(WHAT, Size=str(size)), framed(WHAT)))
            await self.refuses(BadShard, node.open(WHAT.content.hash, 1, ALONE))

    async def test_short_and_long(self) -> None:
        """Fewer or more bytes than the shard has."""
        body = framed(WHAT)
        for data in (body[:-1], body + b"x", b""):
            node = self.lie(response(200, told(WHAT), data))
            await self.refuses(BadShard, node.open(WHAT.content.hash, 1, ALONE))

    async def test_wrong_bytes(self) -> None:
        """A block that is not what its check says is not given to anybody; others are."""
        body = bytearray(framed(WHAT))
        body[3 * (4096 + 16) + 20] ^= 4
        node = self.lie(response(200, told(WHAT), bytes(body)))
        reader = await node.open(WHAT.content.hash, 1, ALONE)
        await self.refuses(BadShard, reader.read(0, 5))
        self.assertEqual(await reader.read(4, 2), WHAT.plain(1)[4 * 4096 : 6 * 4096])
        await reader.close()

    async def test_truncated(self) -> None:
        """A connection that breaks in the middle of the answer: the node is out of reach."""
        answer = response(200, told(WHAT), framed(WHAT))
        for cut in (0, 5, 60, len(answer) - 1):
            node = self.lie(answer[:cut], close=True)
            await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1, ALONE))
            self.assertIn(self.liar.address, self.troubles)

    async def test_html(self) -> None:
        """Some other server's page is no shard, with whatever status it comes."""
        page = b"<html><body>It works!</body></html>"
        for status in (200, 206, 301, 302, 404, 500, 503):
            node = self.lie(
                response(status, {"Content-Type": "text/html", "Location": "http://x/"}, page)
            )
            await self.refuses(DostoreError, node.open(WHAT.content.hash, 1, ALONE))
            self.assertEqual(len(self.liar.heads), 1)

    async def test_garbage(self) -> None:
        """What is no HTTP."""
        for data in (
            b"\x00" * 100,
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        ):
            node = self.lie(data, close=True)
            await self.refuses(DostoreError, node.open(WHAT.content.hash, 1, ALONE))
        self.flushLoggedErrors()

    async def test_endless_headers(self) -> None:
        """A header section without an end is cut off."""

        def answer(transport: Any, head: bytes) -> None:
            transport.write(b"HTTP/1.1 200 OK\r\n" + b"X-Field: value\r\n" * MAX_HEAD_BYTES)

        node = self.lie(answer)
        await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1, ALONE))

    async def test_endless_continuing(self) -> None:
        """Nobody asked to be told to go on."""

        def answer(transport: Any, head: bytes) -> None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

        node = self.lie(answer)
        await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1, ALONE))

    async def test_an_endless_body(self) -> None:
        """An answer that is longer than any can be is cut off."""
        for fields in ({}, {"Content-Length": str(2**60)}):
            head = response(200, told(WHAT) | fields).partition(b"Content-Length: 0\r\n")

            def answer(transport: Any, _: bytes, head: tuple[bytes, ...] = head) -> None:
                transport.write(b"".join((head[0], head[2])) + bytes(4 << 20))

            node = self.lie(answer)
            await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1, ALONE))
            await self.liar.all_gone()

    async def test_statuses(self) -> None:
        """What each status means."""
        problem = b'{"title": "x", "detail": "There is a reason."}'
        for status, kind in (
            (401, NodeUnavailable),
            (404, ShardMissing),
            (409, Conflict),
            (410, BadShard),
            (500, NodeUnavailable),
            (503, NodeUnavailable),
            (507, NoSpace),
            (204, NodeUnavailable),
            (418, NodeUnavailable),
        ):
            body = b"" if status == 204 else problem
            node = self.lie(response(status, {}, body))
            error = await self.refuses(kind, node.open(WHAT.content.hash, 1, ALONE))
            self.assertIn(self.liar.address, error.detail)
            if status not in (204, 401):
                self.assertIn("There is a reason.", error.detail)

    async def test_what_is_told_of_an_error(self) -> None:
        """Only what can be shown is, and not much of it."""
        for body in (
            b'{"detail": "a\\u001b[31mred"}',
            b'{"detail": 5}',
            b"[1]",
            b'"x"',
            b"\xff",
            b'{"detail": "' + b"x" * 3000 + b'"}',
        ):
            node = self.lie(response(503, {}, body))
            error = await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1, ALONE))
            self.assertTrue(error.detail.isprintable())
            self.assertLess(len(error.detail), 400)


class SilenceTests(LiarCase):
    """Servers that do not answer, by a clock that is turned by hand."""

    async def give_up(self, call: Any, seconds: float) -> None:
        """The call ends after so many seconds, not before."""
        waiting: Deferred[Any] = Deferred.fromCoroutine(call)
        await self.turn(lambda: self.liar.heads)
        self.clock.advance(seconds - 0.1)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        with self.assertRaises(NodeUnavailable):
            await waiting
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIn(self.liar.address, self.troubles)
        await self.liar.all_gone()

    def call(self, node: HttpNode, name: str) -> Any:
        """Each kind of question."""
        content = WHAT.content
        arguments: dict[str, tuple[Any, ...]] = {
            "open": (content.hash, 1),
            "put": (content, 1, WHAT.shards[1]),
            "begin": (1, SCHEME),
            "delete": (content.hash,),
            "inventory": (1,),
            "holds": (content.hash,),
            "glance": ([(content, 1)],),
        }
        return getattr(node, name)(*arguments[name])

    async def test_no_answer(self) -> None:
        """Ten seconds for what needs a disk, two for what does not; the connection is closed."""
        for name, seconds in (
            ("open", ANSWER_TIMEOUT_S),
            ("put", ANSWER_TIMEOUT_S),
            ("begin", ANSWER_TIMEOUT_S),
            ("delete", ANSWER_TIMEOUT_S),
            ("inventory", ANSWER_TIMEOUT_S),
            ("holds", QUICK_TIMEOUT_S),
            ("glance", QUICK_TIMEOUT_S),
        ):
            node = self.lie(lambda transport, head: None)
            await self.give_up(self.call(node, name), seconds)

    async def test_a_body_that_does_not_come(self) -> None:
        """The head alone is no answer."""
        node = self.lie(response(200, told(WHAT), b"abc", length=framed_size(WHAT.content)))
        await self.give_up(node.open(WHAT.content.hash, 1, ALONE), ANSWER_TIMEOUT_S)

    async def test_a_stream_that_stops(self) -> None:
        """Ten seconds without a byte; each byte gives it ten more."""
        sent: list[Any] = []

        def answer(transport: Any, head: bytes) -> None:
            if b"Range" not in head:
                transport.write(response(200, told(LARGE, X_Held_Back="1")))
                return
            sent.append(transport)
            size = len(LARGE.plain(1))
            fields = told(LARGE) | {"Content-Range": f"bytes 0-{size - 1}/{size}"}
            transport.write(response(206, fields, b"", length=framed_size(LARGE.content)))

        node = self.lie(answer)
        reader = await node.open(LARGE.content.hash, 1, ALONE)
        reading: Deferred[Any] = Deferred.fromCoroutine(reader.read(0, 300))
        await self.turn(lambda: self.clock.getDelayedCalls() and sent)
        for _ in range(3):
            sent[0].write(b"x")
            before = self.clock.getDelayedCalls()[0].getTime()
            self.clock.advance(9)
            await self.turn(partial(self.later_than, before))
            self.assertNoResult(reading)
        self.clock.advance(10.1)
        with self.assertRaises(NodeUnavailable):
            await reading
        await reader.close()

    def later_than(self, time: float) -> bool:
        """Whether the one timer that runs was put off."""
        return bool(self.clock.getDelayedCalls()[0].getTime() > time)

    async def test_nobody_there(self) -> None:
        """A port where nobody listens is known at once."""
        node = self.client(f"127.0.0.1:{free_port()}", clock=self.clock)
        error = await self.refuses(NodeUnavailable, node.holds(WHAT.content.hash))
        self.assertIn("refused", error.detail)
        self.assertEqual(self.troubles, [node.address])

    async def test_cancelled(self) -> None:
        """Who waits no longer leaves no connection, no timer, and gets no second try."""
        node = self.lie(lambda transport, head: None)
        for name in ("open", "put", "holds"):
            self.liar.heads.clear()
            waiting: Deferred[Any] = Deferred.fromCoroutine(self.call(node, name))
            await self.turn(lambda: self.liar.heads)
            waiting.cancel()
            await waiting.addErrback(lambda failure: None)
            await self.liar.all_gone()
            self.assertEqual(len(self.liar.heads), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.troubles, [])

    async def test_turns(self) -> None:
        """Only so many requests are under way at the same time; who waits has a deadline too."""
        node = self.lie(lambda transport, head: None)
        call = partial(node.link.ask, b"GET", b"/x")
        waiting = [Deferred.fromCoroutine(call()) for _ in range(MAX_REQUESTS + 20)]
        await self.turn(lambda: len(self.liar.heads) == MAX_REQUESTS)
        for _ in range(20):
            await deferLater(the_reactor, 0.001)
        self.assertEqual(len(self.liar.open), MAX_REQUESTS)
        self.clock.advance(ANSWER_TIMEOUT_S + 0.1)
        for each in waiting:
            self.failureResultOf(each, NodeUnavailable)
        await self.liar.all_gone()
        self.assertEqual(len(self.liar.heads), MAX_REQUESTS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_too_many_streams(self) -> None:
        """A server that never ends its answers does not use up all connections there can be."""
        self.patch(http_link, "MAX_STREAMS", 3)
        node = self.lie(lambda transport, head: None)
        waiting = [Deferred.fromCoroutine(node.link.stream(b"GET", b"/x")) for _ in range(3)]
        await self.refuses(NodeUnavailable, node.link.stream(b"GET", b"/x"))
        for each in waiting:
            each.cancel()
            await each.addErrback(lambda failure: None)


class StreamTests(LiarCase):
    """Large shards, part by part."""

    def serve_large(self, lie: Callable[[int, int, bytes], bytes]) -> HttpNode:
        """A node with a large shard, whose parts are made by ``lie(first, end, truth)``."""
        plain = LARGE.plain(1)

        def answer(transport: Any, head: bytes) -> None:
            _, found, span = head.partition(b"Range: bytes=")
            if not found:
                transport.write(response(200, told(LARGE, X_Held_Back="1")))
                return
            first, last = map(int, span.split(b"\r\n")[0].split(b"-"))
            lengths = block_lengths(LARGE.content, first // 4096, (last + 1 - first) // 4096)
            body = b"".join(frame(plain[first : last + 1], lengths))
            fields = told(LARGE) | {"Content-Range": f"bytes {first}-{last}/{len(plain)}"}
            transport.write(lie(first, last, response(206, fields, body)))

        return self.lie(answer)

    async def test_the_truth(self) -> None:
        """Reads that follow each other come from one answer; one that jumps, from another."""
        node = self.serve_large(lambda first, last, truth: truth)
        plain = LARGE.plain(1)
        reader = await node.open(LARGE.content.hash, 1, ALONE)
        for first in range(0, 300, 10):
            self.assertEqual(await reader.read(first, 10), plain[first * 4096 :][: 10 * 4096])
        self.assertEqual(len(self.liar.heads), 3)
        self.assertEqual(await reader.read(7, 3), plain[7 * 4096 : 10 * 4096])
        self.assertEqual(len(self.liar.heads), 4)
        await reader.close()
        await self.refuses(NodeUnavailable, reader.read(0, 1))

    def twist(self, lie: Callable[[bytes], bytes], first: int, last: int, truth: bytes) -> bytes:
        """What a lie makes of a true answer."""
        return lie(truth)

    async def test_lies(self) -> None:
        """Another part, another shard, other lengths and statuses."""
        other = str(sample(10).content.hash).encode()
        for lie, kind in (
            (lambda truth: truth.replace(b"bytes 0-", b"bytes 4096-"), BadShard),
            (lambda truth: truth.replace(b"Content-Range", b"X-Range"), BadShard),
            (lambda truth: truth.replace(b"X-Shard: 1", b"X-Shard: 2"), BadShard),
            (lambda truth: truth.replace(b"4+2/4096", b"3+2/4096"), BadShard),
            (
                lambda truth: truth.replace(str(LARGE.content.hash).encode(), other),
                BadShard,
            ),
            (lambda truth: truth.replace(b"206", b"200", 1), NodeUnavailable),
            (lambda truth: response(404), BadShard),
            (lambda truth: response(410), BadShard),
            (lambda truth: response(503), NodeUnavailable),
            (lambda truth: truth.replace(b"Content-Length: 2", b"Content-Length: 3"), BadShard),
        ):
            node = self.serve_large(partial(self.twist, lie))
            reader = await node.open(LARGE.content.hash, 1, ALONE)
            await self.refuses(kind, reader.read(0, 5))
            await reader.close()

    async def test_wrong_bytes(self) -> None:
        """A block that is not what its check says, in the middle of a stream."""
        node = self.serve_large(lambda first, last, truth: truth[:-1] + bytes([truth[-1] ^ 1]))
        reader = await node.open(LARGE.content.hash, 1, ALONE)
        await self.refuses(BadShard, reader.read(0, 5))
        await reader.close()

    async def test_broken_off(self) -> None:
        """A stream that breaks is taken up where it broke; one from which nothing comes, once."""
        breaks, taken = [2], [100_000]

        def answer(transport: Any, head: bytes) -> None:
            _, found, span = head.partition(b"Range: bytes=")
            if not found:
                transport.write(response(200, told(LARGE, X_Held_Back="1")))
                return
            first, last = map(int, span.split(b"\r\n")[0].split(b"-"))
            lengths = block_lengths(LARGE.content, first // 4096, (last + 1 - first) // 4096)
            body = b"".join(frame(LARGE.plain(1)[first : last + 1], lengths))
            fields = told(LARGE) | {"Content-Range": f"bytes {first}-{last}/{300 * 4096}"}
            if len(lengths) > 10 and breaks[0]:
                breaks[0] -= 1
                transport.write(response(206, fields, body[: taken[0]], length=len(body)))
                transport.loseConnection()
            else:
                transport.write(response(206, fields, body))

        node = self.lie(answer)
        reader = await node.open(LARGE.content.hash, 1, ALONE)
        got = b"".join([await reader.read(first, 10) for first in range(0, 40, 10)])
        self.assertEqual(got, LARGE.plain(1)[: 40 * 4096])
        breaks[0], taken[0] = 1000, 1000
        await self.refuses(NodeUnavailable, self.read_all(reader, 40))
        await reader.close()

    async def read_all(self, reader: Any, first: int) -> None:
        """Read on to the end."""
        for block in range(first, 300, 10):
            await reader.read(block, 10)

    async def test_a_reader_that_is_slow(self) -> None:
        """Of an answer that nobody reads, only so much is taken; the rest waits at the server."""
        node = self.serve_large(lambda first, last, truth: truth)
        reader: Any = await node.open(LARGE.content.hash, 1, ALONE)
        await reader.read(0, 5)
        await reader.read(5, 5)
        for _ in range(50):
            await deferLater(the_reactor, 0)
        self.assertLess(reader._body._held, 700_000)
        self.assertTrue(reader._body._paused)
        self.assertEqual(await reader.read(10, 290), LARGE.plain(1)[10 * 4096 :])
        await reader.close()

    async def test_cancelled_in_the_middle(self) -> None:
        """A read that was given up may be asked for again; a closed reader leaves nothing."""
        gate: list[Any] = []

        def answer(transport: Any, head: bytes) -> None:
            _, found, span = head.partition(b"Range: bytes=")
            if not found:
                transport.write(response(200, told(LARGE, X_Held_Back="1")))
                return
            first, last = map(int, span.split(b"\r\n")[0].split(b"-"))
            lengths = block_lengths(LARGE.content, first // 4096, (last + 1 - first) // 4096)
            body = b"".join(frame(LARGE.plain(1)[first : last + 1], lengths))
            fields = told(LARGE) | {"Content-Range": f"bytes {first}-{last}/{300 * 4096}"}
            whole = response(206, fields, body)
            if len(lengths) > 10 and not gate:
                transport.write(whole[:90_000])
                gate.append(lambda: transport.write(whole[90_000:]))
            else:
                transport.write(whole)

        node = self.lie(answer)
        reader = await node.open(LARGE.content.hash, 1, ALONE)
        await reader.read(0, 10)
        reading: Deferred[Block] = Deferred.fromCoroutine(reader.read(10, 100))
        await self.turn(lambda: gate)
        reading.cancel()
        await reading.addErrback(lambda failure: b"")
        gate[0]()
        self.assertEqual(await reader.read(10, 100), LARGE.plain(1)[10 * 4096 : 110 * 4096])
        await reader.close()
        await reader.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        await self.turn(lambda: node.link._streams == 0)


class WriteTests(LiarCase):
    """Servers that lie to a writer."""

    def answers(self, **statuses: bytes) -> Callable[[Any, bytes], None]:
        """A server that answers each method so."""

        def answer(transport: Any, head: bytes) -> None:
            method = head.split(b" ")[0].decode()
            transport.write(statuses.get(method, response(204)))

        return answer

    async def test_strange_tokens(self) -> None:
        """What a server calls a temporary shard cannot lead elsewhere."""
        for token in (b"", b"../objects/x", b"a b", b"a\r\nb", b"x" * 65, b"\xff"):
            node = self.lie(self.answers(POST=response(201, {}, token)))
            await self.refuses(NodeUnavailable, node.begin(1, SCHEME))

    async def test_refused_at_once(self) -> None:
        """A server that answers 507 in the middle of a stream is full, and is told nothing more."""
        node = self.lie(
            self.answers(POST=response(201, {}, b"token"), PATCH=response(507, {}, b"{}"))
        )
        writer = await node.begin(1, SCHEME)

        async def write() -> None:
            for _ in range(1000):
                await writer.write(LARGE.shards[1][:16])
                await deferLater(the_reactor, 0)

        await self.refuses(NoSpace, write())
        await writer.abort()
        self.assertTrue(self.liar.heads[-1].startswith(b"DELETE /temp/token "))

    async def test_broken_off(self) -> None:
        """A server that goes away while it is written to."""

        def answer(transport: Any, head: bytes) -> None:
            if head.startswith(b"PATCH"):
                transport.abortConnection()
            else:
                transport.write(response(201 if head.startswith(b"POST") else 204, {}, b"token"))

        node = self.lie(answer)
        writer = await node.begin(1, SCHEME)

        async def write() -> None:
            for _ in range(1000):
                await writer.write(LARGE.shards[1][:16])
                await deferLater(the_reactor, 0)

        await self.refuses(NodeUnavailable, write())
        await writer.abort()

    async def test_another_number_held(self) -> None:
        """A server that says that it holds something else than what was sent."""
        for offset in ("0", "40959", "x", None):
            fields: dict[str, str] = {} if offset is None else {"Upload-Offset": offset}

            def answer(transport: Any, head: bytes, fields: dict[str, str] = fields) -> None:
                if head.startswith(b"POST"):
                    transport.write(response(201, {}, b"token"))
                elif head.startswith(b"PATCH"):
                    # When all of it has come.
                    the_reactor.callLater(0.01, transport.write, response(204, fields))
                else:
                    transport.write(response(204))

            node = self.lie(answer)
            writer = await node.begin(1, SCHEME)
            await writer.write(WHAT.shards[1])
            await self.refuses(NodeUnavailable, writer.commit(WHAT.content))
            await writer.abort()

    async def test_a_server_that_takes_nothing(self) -> None:
        """Back-pressure: the writer waits, and after ten seconds or a little more gives up."""

        def answer(transport: Any, head: bytes) -> None:
            if head.startswith(b"PATCH"):
                transport.pauseProducing()
            else:
                transport.write(response(201 if head.startswith(b"POST") else 204, {}, b"token"))

        node = self.lie(answer)
        writer = await node.begin(1, SCHEME)
        writes: list[int] = []

        async def write() -> None:
            while True:
                await writer.write(LARGE.shards[1][:64])
                writes.append(1)

        writing: Deferred[None] = Deferred.fromCoroutine(write())
        count = -1
        while count != len(writes):
            count = len(writes)
            for _ in range(20):
                await deferLater(the_reactor, 0.001)
        self.assertNoResult(writing)
        self.assertLess(count, 200)
        self.clock.advance(ANSWER_TIMEOUT_S + 1.1)
        with self.assertRaises(NodeUnavailable):
            await writing
        await writer.abort()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        await self.turn(lambda: node.link._streams == 0)

    async def test_a_commit_that_hangs(self) -> None:
        """No longer than a disk may take for so many bytes; giving up tells the server."""
        node = self.lie(
            lambda transport, head: (
                transport.write(response(201, {}, b"token")) if head.startswith(b"POST") else None
            )
        )
        writer = await node.begin(1, SCHEME)
        await writer.write(WHAT.shards[1])
        committing: Deferred[None] = Deferred.fromCoroutine(writer.commit(WHAT.content))
        await self.turn(lambda: len(self.liar.heads) == 2)
        self.clock.advance(ANSWER_TIMEOUT_S + 1.1)
        with self.assertRaises(NodeUnavailable):
            await committing
        aborting: Deferred[None] = Deferred.fromCoroutine(writer.abort())
        await self.turn(lambda: len(self.liar.heads) == 3)
        self.clock.advance(QUICK_TIMEOUT_S + 0.1)
        # A server that cannot be told sweeps by itself.
        await aborting
        await self.turn(lambda: node.link._streams == 0)

    async def test_put_answers(self) -> None:
        """What a put may be answered."""
        for status, kind in ((204, NodeUnavailable), (409, Conflict), (507, NoSpace)):
            node = self.lie(response(status))
            await self.refuses(kind, node.put(LARGE.content, 1, LARGE.shards[1]))


class BatchTests(LiarCase):
    """Lies in answer to small shards that travel together."""

    def reply(self, status: int = 200, **changes: Any) -> bytes:
        """An answer to one entry."""
        true = Reply(status, WHAT.content.hash, (1,), WHAT.content, framed(WHAT))
        return response(200, {}, b"".join(format_replies([evolve(true, **changes)])))

    async def test_the_truth(self) -> None:
        """To begin with, the test's own server is believed when it tells the truth."""
        node = self.lie(self.reply())
        reader = await node.open(WHAT.content.hash, 1)
        self.assertEqual(reader.info.content, WHAT.content)
        self.assertEqual(await reader.read(2, 9), WHAT.plain(1)[2 * 4096 :])
        await reader.close()
        node = self.lie(self.reply(data=b""))
        await node.put(WHAT.content, 1, WHAT.shards[1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_lies_about_a_shard(self) -> None:
        """Another shard, another size, other bytes, nothing about it: a bad shard."""
        content = WHAT.content
        for changes in (
            {"indexes": (2,)},
            {"indexes": ()},
            {"indexes": (1, 2)},
            {"content": None},
            {"content": evolve(content, scheme=Scheme(1, 0, 4096))},
            {"content": evolve(content, scheme=Scheme(5, 1, 4096))},
            {"content": evolve(content, size=content.size + 40_000)},
            {"content": evolve(content, size=0)},
            {"data": framed(WHAT)[:-1]},
            {"data": framed(WHAT) + b"x"},
        ):
            node = self.lie(self.reply(**changes))
            await self.refuses(BadShard, node.open(content.hash, 1))

    async def test_wrong_bytes(self) -> None:
        """A block that is not what its check says is given to nobody."""
        data = framed(WHAT)
        node = self.lie(self.reply(data=data[:-1] + bytes([data[-1] ^ 1])))
        reader = await node.open(WHAT.content.hash, 1)
        await self.refuses(BadShard, reader.read(10, 1))
        self.assertEqual(await reader.read(0, 1), WHAT.plain(1)[:4096])
        await reader.close()

    async def test_fetched(self) -> None:
        """Who only wants a shard if it is as expected gets it, or nothing."""
        content = WHAT.content
        wrong = framed(WHAT)[:-1] + bytes([framed(WHAT)[-1] ^ 1])
        for answer, expected in (
            (self.reply(), WHAT.plain(1)),
            (self.reply(404, data=b""), None),
            (self.reply(indexes=(2,)), None),
            (self.reply(content=None), None),
            (self.reply(content=evolve(content, size=content.size - 1)), None),
            (self.reply(data=b""), None),
            (self.reply(data=framed(WHAT)[:-1]), None),
            (self.reply(data=wrong), None),
            (response(200, {}, b"<html>"), None),
            (response(503), None),
        ):
            node = self.lie(answer)
            taken: Deferred[Sequence[bytes | memoryview] | None] = Deferred()
            node.begin_get(content, 1, taken.callback)
            blocks = await taken
            self.assertEqual(None if blocks is None else b"".join(blocks), expected)

    async def test_a_large_one(self) -> None:
        """One that is only told of is read like any large one: what was told is compared."""
        node = self.lie(self.reply(data=b""))
        reader = await node.open(WHAT.content.hash, 1)
        await self.refuses(NodeUnavailable, reader.read(0, 1))
        await reader.close()
        self.assertTrue(self.liar.heads[-1].startswith(b"GET /objects/"))

    async def test_no_answers(self) -> None:
        """What is no answer to a batch, or to another."""
        other = Reply(200, LARGE.content.hash, (1,), LARGE.content)
        for body in (
            b"",
            b"<html>",
            b"".join(format_replies([])),
            b"".join(format_replies([other])),
            b"".join(format_replies([other, other])),
            bytes(MAX_ANSWER_BYTES),
        ):
            node = self.lie(response(200, {}, body))
            await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1))
            await self.refuses(NodeUnavailable, node.put(WHAT.content, 1, WHAT.shards[1]))
        node = self.lie(response(200, {}, b"", length=MAX_ANSWER_BYTES + 1))
        await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1))

    async def test_statuses(self) -> None:
        """What each status means, of the batch and of an entry, and what is told of it."""
        for status, kind in (
            (401, NodeUnavailable),
            (404, ShardMissing),
            (409, Conflict),
            (410, BadShard),
            (412, AlreadyHeld),
            (500, NodeUnavailable),
            (503, NodeUnavailable),
            (507, NoSpace),
            (204, NodeUnavailable),
            (0, NodeUnavailable),
        ):
            for data in (b"There is a reason.", b"\x1b[31mred", b"\xff", b"x" * 1000):
                node = self.lie(self.reply(status, data=data))
                for call in (
                    node.open(WHAT.content.hash, 1),
                    node.put(WHAT.content, 1, WHAT.shards[1]),
                ):
                    error = await self.refuses(kind, call)
                    self.assertIn(self.liar.address, error.detail)
                    self.assertTrue(error.detail.isprintable())
                    self.assertLess(len(error.detail), 400)
                    if data.startswith(b"There") and status != 401:
                        self.assertIn("There is a reason.", error.detail)
            if status >= 400:
                node = self.lie(response(status, {}, b'{"detail": "There is a reason."}'))
                await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1))

    async def test_truncated(self) -> None:
        """A connection that breaks in the middle of the answer: the node is out of reach."""
        answer = self.reply()
        for cut in (0, 5, 60, len(answer) - 1):
            node = self.lie(answer[:cut], close=True)
            await self.refuses(NodeUnavailable, node.open(WHAT.content.hash, 1))
            self.assertIn(self.liar.address, self.troubles)

    async def test_silence(self) -> None:
        """Ten seconds for all that wait, however many and wherever; no connection is left."""
        node = self.lie(lambda transport, head: None)
        waiting = []
        for _ in range(10):
            waiting.append(Deferred.fromCoroutine(node.open(WHAT.content.hash, 1)))
            self.clock.advance(0.001)
        await self.turn(lambda: len(self.liar.heads) >= 2)
        self.clock.advance(ANSWER_TIMEOUT_S)
        for each in waiting:
            self.failureResultOf(each, NodeUnavailable)
        await self.liar.all_gone()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class QuestionTests(LiarCase):
    """Lies about contents."""

    async def test_holds(self) -> None:
        """Indexes that are none."""
        for fields in ({}, {"X-Shard": ""}, {"X-Shard": "x"}, {"X-Shard": "100"}):
            node = self.lie(response(200, fields))
            await self.refuses(NodeUnavailable, node.holds(WHAT.content.hash))
        node = self.lie(response(503))
        await self.refuses(NodeUnavailable, node.holds(WHAT.content.hash))

    async def test_modified(self) -> None:
        """Times that are none."""
        for body in (b"", b"x", b"nan", b"inf", b"-1", b"1e12", b"<html>"):
            node = self.lie(response(200, {}, body))
            await self.refuses(NodeUnavailable, node.modified(WHAT.content.hash))

    async def test_glance(self) -> None:
        """Positions of nothing that was asked for."""
        for body in (b"1\n", b"-1\n", b"x\n", b"0", b"<html>\n", b"0\n" * 10_000):
            node = self.lie(response(200, {}, body))
            await self.refuses(NodeUnavailable, node.glance([(WHAT.content, 1)]))
        node = self.lie(response(500))
        await self.refuses(NodeUnavailable, node.glance([(WHAT.content, 1)]))
        self.assertEqual(await node.glance([]), [])

    async def test_inventory(self) -> None:
        """Contents of other pages, and what is no list."""
        page = WHAT.content.hash.digest[0]
        line = f"{WHAT.content.hash} 1\n".encode()
        for body in (line[:-1], b"<html>\n", line.replace(b" 1", b" x")):
            node = self.lie(response(200, {}, body))
            await self.refuses(NodeUnavailable, node.inventory(page))
        node = self.lie(response(200, {}, line))
        await self.refuses(NodeUnavailable, node.inventory((page + 1) % 256))
        self.assertEqual(await node.inventory(page), {WHAT.content.hash: (1,)})

    async def test_orders(self) -> None:
        """An order is followed when the server says so by 204, and not else."""
        for status in (200, 404, 500):
            node = self.lie(response(status))
            await self.refuses(DostoreError, node.delete(WHAT.content.hash))
            await self.refuses(DostoreError, node.renew(WHAT.content.hash))
            await self.refuses(DostoreError, node.discard(WHAT.content.hash, 1))
        node = self.lie(response(500))
        await self.refuses(NodeUnavailable, node.inventory(1))
        await self.refuses(NodeUnavailable, node.begin(1, SCHEME))
