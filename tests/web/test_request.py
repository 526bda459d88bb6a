"""A request's life: bodies stream in, answers stream out, and much may go wrong between."""

from __future__ import annotations

import hashlib

from dostore.core.chunked import MAX_LINE_BYTES
from dostore.errors import IncompleteBody, InvalidRequest
from dostore.streams import HIGH_WATER_BYTES
from dostore.web.channel import ANSWERS_A_TURN, LARGE_READ_BYTES, PIPELINED_BYTES, READ_BYTES
from tests.support.http import HttpTestCase, request_bytes
from tests.support.memory_store import PIECE_BYTES

MIB = 1 << 20


class BodyTests(HttpTestCase):
    """Bodies of requests."""

    def test_handler_begins_before_the_body(self) -> None:
        """A PUT is under way when its header section is there, and reads as the body comes."""
        self.store.piece_bytes = 4
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "10"}))
        self.assertEqual(len(self.factory.running), 1)
        client.send(b"0123", b"45")
        self.assertEqual(self.store.bytes_read, 4)
        client.send(b"6789")
        self.assertEqual(client.answer().status, 200)
        (content,) = self.store.contents.values()
        self.assertEqual(content, b"0123456789")

    def test_any_cut(self) -> None:
        """However a request is cut in segments, it is the same request; so is the next one."""
        body = b"x" * 40
        whole = request_bytes("PUT", "/objects/a", {"X-Object-Meta-K": "v"}, body)
        chunked = request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"})
        chunked += b"14\r\n" + body[:20] + b"\r\n14;x=y\r\n" + body[20:] + b"\r\n0\r\nT: 1\r\n\r\n"
        for step in (1, 2, 3, 7, 50, 10_000):
            client = self.connect()
            data = whole + chunked + request_bytes("GET", "/objects/a")
            client.send(*(data[at : at + step] for at in range(0, len(data), step)))
            self.assertEqual([a.status for a in client.answers()], [200] * 3, step)
            self.assertEqual(client.answers()[2].body, body)
            client.close()

    def test_back_pressure(self) -> None:
        """A body that nobody reads stops coming in at about a mebibyte, and comes later."""
        gate = self.gate("put")
        client = self.connect()
        body = bytes(range(256)) * (5 * MIB // 256)
        client.send(request_bytes("PUT", "/objects/a", body=body))
        held = len(body) - client.unread
        self.assertGreaterEqual(held, HIGH_WATER_BYTES)
        self.assertLessEqual(held, HIGH_WATER_BYTES + LARGE_READ_BYTES + READ_BYTES)
        self.assertTrue(client.paused)
        gate.open()
        for _ in range(20):
            self.settle()
        self.assertEqual(client.answer().status, 200)
        (content_hash,) = self.store.contents
        self.assertEqual(content_hash.digest, hashlib.sha256(body).digest())
        self.assertEqual(client.bufferSize, READ_BYTES)

    def test_a_read_larger_than_the_mark(self) -> None:
        """A reader that wants more than the mark at once gets it."""
        self.store.piece_bytes = 3 * MIB
        body = b"abcd" * MIB
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", body=body))
        for _ in range(20):
            self.settle()
        self.assertEqual(client.answer().status, 200)

    def test_continue_is_sent_at_the_first_read(self) -> None:
        """100 Continue is a promise to read, so it is sent when the body is read."""
        gate = self.gate("put")
        client = self.connect()
        headers = {"Content-Length": "3", "Expect": "100-Continue"}
        client.send(request_bytes("PUT", "/objects/a", headers))
        self.assertEqual(client.received, b"")
        gate.open()
        self.assertEqual(client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"abc")
        self.assertEqual([a.status for a in client.answers()], [100, 200])
        client.send(request_bytes("GET", "/objects/a"))
        self.assertEqual([a.status for a in client.answers()], [100, 200, 200])

    def test_refusal_instead_of_continue(self) -> None:
        """What is wrong with the header section is told before the body is sent."""
        for headers, status in (
            ({"Digest": "SHA-256=x"}, 400),
            ({"If-Match": "*"}, 412),
            ({"Content-Length": str(10**18)}, 413),
        ):
            client = self.connect()
            fields = {"Content-Length": "3", "Expect": "100-continue", **headers}
            client.send(request_bytes("PUT", "/objects/a", fields))
            answer = client.answer()
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers["connection"], "close")
            self.assertTrue(client.ended)
            self.tick(7)
            self.assertTrue(client.lost)

    def test_no_continue_after_bytes_of_the_body(self) -> None:
        """A client that did not wait needs no 100."""
        client = self.connect()
        headers = {"Content-Length": "3", "Expect": "100-continue"}
        client.send(request_bytes("PUT", "/objects/a", headers) + b"abc")
        self.assertEqual([a.status for a in client.answers()], [200])

    def test_other_expectations(self) -> None:
        """Only one expectation is known."""
        self.assertEqual(self.ask("GET", "/health/live", {"Expect": "tea"}).status, 417)

    def test_client_goes_away(self) -> None:
        """A body that breaks off fails the PUT, which cleans up by itself."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "10"}) + b"01234")
        client.close()
        (error,) = self.store.put_errors
        self.assertIsInstance(error, IncompleteBody)
        self.assertEqual(self.store.metadata.names, {})

    def test_short_body(self) -> None:
        """A client that ends its side too early is told so, and nothing is kept."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "10"}) + b"01234")
        client.half_close()
        self.settle()
        self.assertEqual(client.answer().status, 400)
        self.assertIn(b"shorter", client.answer().body)
        self.assertTrue(client.lost)
        self.assertEqual(self.store.metadata.names, {})

    def test_long_body(self) -> None:
        """What comes after the announced length is no part of the body, and no request."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "3"}) + b"abcdef\r\n")
        self.assertEqual([a.status for a in client.answers()], [200, 400])
        (content,) = self.store.contents.values()
        self.assertEqual(content, b"abc")

    def test_half_closed_after_the_request(self) -> None:
        """A client that has sent all it wanted gets its answers."""
        gate = self.gate("find")
        self.store.keep("a", b"abc")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a") * 3)
        client.half_close()
        self.assertEqual(client.received, b"")
        gate.open()
        self.settle()
        self.assertEqual([a.body for a in client.answers()], [b"abc"] * 3)
        self.assertTrue(client.lost)

    def test_malformed_chunks(self) -> None:
        """A body whose end cannot be known fails, and the connection is given up."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        client.send(b"4\r\nabcd\r\nzz\r\n", request_bytes("GET", "/health/live"))
        answer = client.answer()
        self.assertEqual((answer.status, answer.headers["connection"]), (400, "close"))
        self.assertIn(b"chunk", answer.body)
        self.assertIsInstance(self.store.put_errors[0], InvalidRequest)
        self.tick(7)
        self.assertTrue(client.lost)

    def test_malformed_chunks_that_come_with_the_header(self) -> None:
        """The same, when the handler has not begun yet."""
        client = self.connect()
        head = request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"})
        client.send(head + b"zz\r\n")
        self.assertEqual(client.answer().status, 400)

    def test_too_many_chunked_bytes(self) -> None:
        """A chunked body has the limit that a body of known length has."""
        self.factory = self.build()
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        (request,) = self.factory.running
        request.body.limit = 10
        client.send(b"8\r\n12345678\r\n8\r\n12345678\r\n")
        self.assertEqual(client.answer().status, 413)
        client.send(b"0\r\n\r\n", request_bytes("GET", "/health/live"))
        self.assertEqual([a.status for a in client.answers()], [413, 200])

    def test_small_chunks_are_joined(self) -> None:
        """A body in chunks of one byte is not held as so many objects."""
        gate = self.gate("put")
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        client.send(b"1\r\nx\r\n" * 10_000)
        (request,) = self.factory.running
        self.assertEqual(len(request.body._pieces), 1)
        self.assertEqual(client.bufferSize, READ_BYTES)
        gate.open()
        client.send(b"0\r\n\r\n")
        self.assertEqual(client.answer().status, 200)

    def test_large_chunks_are_read_by_large_reads(self) -> None:
        """Chunks of some size get the reads that a long body gets."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        client.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        self.assertEqual(client.bufferSize, LARGE_READ_BYTES)
        client.send(b"0\r\n\r\n")
        self.assertEqual(client.bufferSize, READ_BYTES)

    def test_silence(self) -> None:
        """A client that stops in the middle of its body gets 408, and the PUT ends."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "10"}) + b"0")
        self.tick(58)
        client.send(b"1")
        self.tick(58)
        self.assertEqual(client.received, b"")
        self.tick(4)
        self.assertEqual(client.answer().status, 408)
        self.assertTrue(client.ended)
        self.tick(7)
        self.assertTrue(client.lost)

    def test_silence_that_is_ours(self) -> None:
        """While the body is not waited for, its client may be as silent as it likes."""
        gate = self.gate("put")
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "3"}))
        self.tick(500)
        gate.open()
        self.tick(30)
        client.send(b"abc")
        self.assertEqual(client.answer().status, 200)


class UnreadBodyTests(HttpTestCase):
    """Answers that come before the body."""

    def test_rest_is_dropped_and_the_connection_stays(self) -> None:
        """A refused PUT whose body comes all the same leaves a connection that works."""
        client = self.connect()
        body = b"x" * (2 * MIB)
        client.send(request_bytes("PUT", "/objects/a", {"Digest": "x"}, body))
        client.send(request_bytes("GET", "/health/live"))
        for _ in range(10):
            self.settle()
        self.assertEqual([a.status for a in client.answers()], [400, 200])
        self.assertNotIn("connection", client.answers()[0].headers)

    def test_rest_of_a_chunked_body(self) -> None:
        """The same for a body whose length is not known."""
        client = self.connect()
        headers = {"Digest": "x", "Transfer-Encoding": "chunked"}
        client.send(request_bytes("PUT", "/objects/a", headers))
        self.assertEqual(client.answer().status, 400)
        client.send(b"3\r\nabc\r\n", b"0\r\n\r\n", request_bytes("GET", "/health/live"))
        self.assertEqual([a.status for a in client.answers()], [400, 200])

    def test_rest_of_a_malformed_body(self) -> None:
        """A body that turns out malformed after the answer ends the connection."""
        client = self.connect()
        headers = {"Digest": "x", "Transfer-Encoding": "chunked"}
        client.send(request_bytes("PUT", "/objects/a", headers), b"zz\r\n")
        self.settle()
        self.assertEqual(client.answer().status, 400)
        self.assertTrue(client.lost)

    def test_rest_that_is_too_long_for_that(self) -> None:
        """A body that will not be read to its end is announced as the connection's last."""
        client = self.connect()
        size = self.limits.discard_bytes + 1
        client.send(
            request_bytes("PUT", "/objects/a", {"Digest": "x", "Content-Length": str(size)})
        )
        self.assertEqual(client.answer().headers["connection"], "close")
        self.assertTrue(client.ended)
        client.send(b"x" * MIB)
        self.assertFalse(client.lost)
        self.tick(7)
        self.assertTrue(client.lost)

    def test_rest_that_does_not_come(self) -> None:
        """A client that neither sends the rest nor goes away is left after a while."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Digest": "x", "Content-Length": "9"}))
        self.tick(4)
        self.assertFalse(client.lost)
        self.tick(3)
        self.assertTrue(client.lost)

    def test_rest_that_will_not_come(self) -> None:
        """A client that ends its side after the answer is not waited for."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Digest": "x", "Content-Length": "9"}))
        client.half_close()
        self.settle()
        self.assertEqual(client.answer().status, 400)
        self.assertTrue(client.lost)

    def test_endless_rest(self) -> None:
        """So many bytes are dropped, and no more."""
        client = self.connect()
        headers = {"Digest": "x", "Transfer-Encoding": "chunked"}
        client.send(request_bytes("PUT", "/objects/a", headers))
        chunk = b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
        for _ in range(self.limits.discard_bytes // MIB - 1):
            client.send(chunk)
        self.assertFalse(client.aborted)
        client.send(chunk, chunk)
        self.assertTrue(client.aborted)

    def test_body_of_a_get(self) -> None:
        """It means nothing and is dropped."""
        client = self.connect()
        client.send(request_bytes("GET", "/health/live", body=b"x" * 1000) * 2)
        self.assertEqual([a.status for a in client.answers()], [200, 200])


class PipeliningTests(HttpTestCase):
    """Several requests in a row."""

    def test_in_order(self) -> None:
        """The next request is looked at when the one before is answered."""
        gate = self.gate("find")
        self.store.keep("a", b"first")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a") + request_bytes("GET", "/health/live"))
        self.assertEqual(len(self.factory.running), 1)
        self.assertEqual(client.received, b"")
        gate.open()
        first, second = client.answers()
        self.assertEqual(first.body, b"first")
        self.assertIn(b"live", second.body)

    def test_many_at_once(self) -> None:
        """All in a segment are answered, without recursion, and others get their turn."""
        client = self.connect()
        client.send(request_bytes("GET", "/health/live") * 1200)
        self.assertEqual(len(client.answers()), ANSWERS_A_TURN)
        other = self.connect()
        other.send(request_bytes("GET", "/health/live"))
        self.assertEqual(other.answer().status, 200)
        self.clock.advance(0)
        self.assertEqual(len(client.answers()), 1200)

    def test_turn_of_a_client_that_is_gone(self) -> None:
        """What a client had sent before it went away is not answered."""
        client = self.connect()
        client.send(request_bytes("GET", "/health/live") * 100)
        client.close()
        received = client.received
        self.settle()
        self.assertEqual(client.received, received)

    def test_many_while_one_is_slow(self) -> None:
        """Behind a slow request, little is read ahead."""
        gate = self.gate("find")
        self.store.keep("a", b"first")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        many = request_bytes("GET", "/health/live") * 3000
        client.send(many)
        self.assertTrue(client.paused)
        self.assertLessEqual(len(many) - client.unread, PIPELINED_BYTES + READ_BYTES)
        gate.open()
        for _ in range(10):
            self.settle()
        self.assertEqual(len(client.answers()), 3001)

    def test_answers_that_nobody_takes(self) -> None:
        """A client that asks and never reads is not answered into memory."""
        self.store.keep("a", b"x" * 50_000)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a") * 100)
        self.assertLess(len(client.dataBuffer), READ_BYTES + 50_000)
        self.assertTrue(client.paused or not client.unread)
        client.read_on()
        for _ in range(10):
            self.settle()
        self.assertEqual(len(client.answers()), 100)

    def test_connection_close(self) -> None:
        """After a request that says so, nothing more is read."""
        for value in ("close", "Close", "keep-alive, close", "TE,close"):
            client = self.connect()
            client.send(request_bytes("GET", "/health/live", {"Connection": value}) * 2)
            self.settle()
            self.assertEqual(client.answer().headers["connection"], "close")
            self.assertTrue(client.lost)

    def test_http_10(self) -> None:
        """An old client is answered, and the end of the connection ends the answer."""
        self.store.keep("a", b"abc")
        for target in ("/objects/a", "/objects/"):
            client = self.connect()
            client.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
            self.settle()
            answer = client.answer()
            self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
            self.assertNotIn("transfer-encoding", answer.headers)
            self.assertTrue(answer.complete and client.lost)

    def test_absolute_target(self) -> None:
        """The form that proxies use names the same object."""
        self.store.keep("a", b"abc")
        for target in ("http://localhost:80/objects/a", "HTTPS://x/objects/a?version=1"):
            self.assertEqual(self.ask("GET", target).body, b"abc")
        for target in ("http://localhost", "*", "http://localhost?a"):
            self.assertEqual(self.ask("GET", target).status, 404)


class AnswerTests(HttpTestCase):
    """Answers that stream out."""

    def test_one_write(self) -> None:
        """A small object leaves in one write with its header section."""
        self.store.keep("a", b"x" * 4096)
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        self.assertEqual(len(client.writes), 1)

    def test_back_pressure(self) -> None:
        """A client that does not read stops the reading of the object."""
        body = bytes(range(256)) * (8 * MIB // 256)
        self.store.keep("a", body)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        for _ in range(10):
            self.settle()
        self.assertLessEqual(len(client.dataBuffer), PIECE_BYTES + READ_BYTES)
        client.take(100_000)
        self.settle()
        self.assertLessEqual(len(client.dataBuffer), PIECE_BYTES)
        while client.dataBuffer:
            client.take()
            self.settle()
        self.assertEqual(client.answer().body, body)
        self.assertEqual(client.SEND_LIMIT, 128 * 1024)

    def test_client_goes_away(self) -> None:
        """A GET whose client is gone is cancelled, and its reader closed."""
        self.store.keep("a", b"x" * (4 * MIB))
        for reading in (True, False):
            gate = self.gate("read")
            client = self.connect(reading=reading)
            client.send(request_bytes("GET", "/objects/a"))
            self.assertEqual(len(self.factory.running), 1)
            client.close()
            self.assertEqual(len(self.factory.running), 0)
            self.assertTrue(gate.deferred.called)
        self.store.gates.clear()
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        client.close()
        self.assertEqual([reader.closed for reader in self.store.readers], [1, 1, 1])

    def test_writers_are_not_cancelled(self) -> None:
        """A PUT or DELETE that is committing ends as it would have, client or not."""
        self.store.keep("b", b"b")
        for method, target, step in (
            ("PUT", "/objects/a", "commit"),
            ("DELETE", "/objects/b", "delete"),
        ):
            gate = self.gate(step)
            client = self.connect()
            client.send(request_bytes(method, target, body=b"abc"))
            client.close()
            self.assertEqual(len(self.factory.running), 1)
            gate.open()
            self.assertEqual(len(self.factory.running), 0)
        self.assertEqual(self.store.put_errors, [])
        self.assertEqual(len(self.store.metadata.names["a"]), 1)
        self.assertTrue(self.store.metadata.names["b"][-1].deleted)

    def test_length_is_never_a_lie(self) -> None:
        """An object that yields too few or too many bytes cuts the connection."""
        for change in (-1, 1):
            self.store.keep("a", b"x" * (3 * MIB))
            version = self.store.metadata.names["a"][-1]
            assert version.content is not None
            self.store.contents[version.content.hash] = b"x" * (3 * MIB + change)
            client = self.connect()
            client.send(request_bytes("GET", "/objects/a"))
            self.settle()
            self.assertTrue(client.aborted)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
            self.assertFalse(client.answer().body != b"x" * len(client.answer().body))

    def test_error_in_the_middle(self) -> None:
        """When bytes were sent already, nothing but cutting the connection tells the truth."""
        self.store.keep("a", b"x" * (3 * MIB))
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        self.store.failures["read"] = ValueError("a bug")
        client.read_on()
        self.settle()
        self.assertTrue(client.aborted)
        self.assertFalse(client.answer().complete)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_slow_reader(self) -> None:
        """A client that takes nothing for five minutes is cut; one that takes something is not."""
        self.store.keep("a", b"x" * (8 * MIB))
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        for _ in range(5):
            self.tick(250)
            client.take(1000)
        self.assertFalse(client.aborted)
        self.tick(385)
        self.assertTrue(client.aborted)

    def test_slow_reader_of_the_last_bytes(self) -> None:
        """The same when all was written and the connection is only to be closed."""
        self.store.keep("a", b"x" * 500_000)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a", {"Connection": "close"}))
        self.settle()
        self.assertFalse(client.lost)
        self.tick(200)
        client.take(499_000)
        self.tick(150)
        self.assertFalse(client.aborted)
        client.take()
        self.settle()
        self.assertEqual(client.answer().body, b"x" * 500_000)
        self.assertTrue(client.lost and not client.aborted)

    def test_handler_that_does_not_answer(self) -> None:
        """It is a bug, and no client waits for ever because of it."""

        async def forget(request: object) -> None:
            """Do nothing."""

        self.factory.handle = forget
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        self.settle()
        self.assertTrue(client.aborted)

    def test_handler_that_is_cancelled(self) -> None:
        """Whoever cancels a request's work, its client is not left waiting."""
        gate = self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        gate.deferred.cancel()
        self.settle()
        self.assertTrue(client.aborted)


class HeaderSectionTests(HttpTestCase):
    """What is no request."""

    def refused(self, data: bytes, status: int) -> None:
        """``data`` is answered by ``status`` alone, and the connection ends in an orderly way."""
        for step in (len(data), 1):
            client = self.connect()
            client.send(*(data[at : at + step] for at in range(0, len(data), step)))
            client.send(request_bytes("GET", "/health/live"))
            answer = client.answer()
            self.assertEqual(answer.status, status, data)
            self.assertEqual(answer.headers["connection"], "close")
            self.assertEqual(answer.headers["content-type"], "application/problem+json")
            self.assertIn("date", answer.headers)
            self.assertTrue(client.ended)
            self.tick(7)
            self.assertTrue(client.lost)

    def test_lines(self) -> None:
        """Malformed request lines and header fields."""
        for data in (
            b"GET\r\n",
            b"GET /\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"G@T / HTTP/1.1\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET / HTTP/1.1 \r\n",
            b"\r\n\r\n",
            b"\x16\x03\x01\x02\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a" * 257 + b": b\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            self.refused(data, 400)

    def test_one_empty_line_before(self) -> None:
        """RFC 9112 section 2.2 wants one empty line before a request ignored."""
        client = self.connect()
        client.send(b"\r\n" + request_bytes("GET", "/health/live"))
        self.assertEqual(client.answer().status, 200)

    def test_sizes(self) -> None:
        """Request lines, header sections and numbers of fields have limits."""
        self.refused(b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\n", 414)
        self.refused(b"GET /" + b"a" * 20_000, 414)
        self.refused(b"GET / HTTP/1.1\r\nHost: " + b"a" * 20_000, 431)
        self.refused(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"a: " + b"b" * 8000 + b"\r\n") * 5 + b"\r\n", 431
        )
        self.refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 130 + b"\r\n", 431)

    def test_unknown_coding(self) -> None:
        """A transfer coding that is not known cannot be undone."""
        head = b"PUT /objects/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
        for coding in (b"gzip", b"identity", b"gzip, chunked", b"xchunked", b"chunked;a"):
            self.refused(head + coding + b"\r\n\r\n", 501)

    def test_chunk_line_limit(self) -> None:
        """An endless extension of a chunk is not waited out."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        client.send(b"1;" + b"a" * MAX_LINE_BYTES)
        self.assertEqual(client.answer().status, 400)
