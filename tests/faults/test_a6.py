"""A6: lengths that cannot be."""

from __future__ import annotations

import tracemalloc

from tests.support.http import HttpTestCase, request_bytes


class A6(HttpTestCase):
    """Content-Length."""

    def test_impossible_lengths(self) -> None:
        """400, 411 or 413 at once; nothing is allocated and nothing is read."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for length, status in (
            (str(10**18), 413),
            (str(2**63), 413),
            (str(10**19 - 1), 413),
            (str(10**19), 413),
            ("9" * 5000, 413),
            ("-1", 400),
            ("-" + "9" * 30, 400),
            ("1e3", 400),
            ("", 400),
        ):
            client = self.connect()
            client.send(request_bytes("PUT", "/objects/a", {"Content-Length": length}))
            answer = client.answer()
            self.assertEqual(answer.status, status, length)
            self.assertEqual(answer.headers["connection"], "close")
            self.assertTrue(client.ended)
        self.assertEqual(self.ask("PUT", "/objects/a").status, 411)
        self.assertLess(tracemalloc.get_traced_memory()[1], 1 << 20)
        self.assertEqual(self.store.metadata.names, {})

    def test_length_of_a_get(self) -> None:
        """A GET with a body of an exabyte is answered, as the last of its connection."""
        answer = self.ask("GET", "/health/live", {"Content-Length": str(10**18)})
        self.assertEqual((answer.status, answer.headers["connection"]), (200, "close"))
