"""A2: chunk sizes, extensions and chunks that have no end."""

from __future__ import annotations

import tracemalloc

from tests.support.http import Client, HttpTestCase, request_bytes

MIB = 1 << 20


class A2(HttpTestCase):
    """Chunked bodies."""

    def put(self, *pieces: bytes) -> Client:
        """Send a chunked PUT."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        client.send(*pieces)
        return client

    def assert_refused(self, client: Client) -> None:
        """400, and the connection ends."""
        answer = client.answer()
        self.assertEqual((answer.status, answer.headers["connection"]), (400, "close"))
        self.tick(7)
        self.assertTrue(client.lost)
        self.assertEqual(self.store.metadata.names, {})

    def test_huge_sizes(self) -> None:
        """A size beyond all reason is refused at once."""
        for digits in (16, 17, 1000, 100_000):
            self.assert_refused(self.put(b"f" * digits + b"\r\n"))

    def test_large_size(self) -> None:
        """A size that could be meant allocates nothing, and a chunk that never comes times out."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        client = self.put(b"f" * 15 + b"\r\n", b"x")
        self.assertLess(tracemalloc.get_traced_memory()[1], MIB)
        self.tick(62)
        self.assertEqual(client.answer().status, 408)

    def test_endless_extension(self) -> None:
        """It is refused after a kilobyte, however it comes."""
        self.assert_refused(self.put(b"5;" + b"a" * MIB))
        self.assert_refused(self.put(b"5", *[b";a=b"] * 300))

    def test_endless_trailer(self) -> None:
        """So are fields after the last chunk."""
        self.assert_refused(self.put(b"0\r\n", *[b"a: " + b"b" * 500 + b"\r\n"] * 20))

    def test_chunk_that_never_comes(self) -> None:
        """At each place where a client can stop, it gets 408 and the PUT is over."""
        whole = b"5;x\r\nhello\r\n0\r\nT: x\r\n\r\n"
        for end in range(len(whole)):
            client = self.put(whole[:end]) if end else self.put()
            self.tick(62)
            self.assertEqual(client.answer().status, 408, end)
        self.assertEqual(self.store.metadata.names, {})

    def test_smallest_chunks(self) -> None:
        """A body in chunks of a byte takes no more memory than its bytes."""
        gate = self.gate("put")
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Transfer-Encoding": "chunked"}))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        segment = b"1\r\nx\r\n" * 10_922
        for _ in range(120):
            client.send(segment)
        self.assertTrue(client.paused)
        self.assertLess(tracemalloc.get_traced_memory()[1], 16 * MIB)
        gate.open()
