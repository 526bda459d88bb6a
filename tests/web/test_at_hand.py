"""What need not be waited for is answered like what must be."""

from __future__ import annotations

import itertools

from dostore.core.scheme import Scheme
from tests.support.http import HttpTestCase, request_bytes

#: On both sides of what is compressed, sent as a stream, and read at once.
SIZES = (0, 1, 900, 5_000, 262_143, 262_144, 1_000_000, 3_000_000)
AT_HAND_BYTES = 1 << 20

RANGES = ("", "bytes=0-0", "bytes=-1", "bytes=3-700", "bytes=0-", "bytes=9999999-", "bytes=1-2,5-6")
CODINGS = ("", "gzip", "gzip, identity;q=0")


class AtHandTests(HttpTestCase):
    """read_now."""

    def setUp(self) -> None:
        """Objects that shrink and objects that do not."""
        super().setUp()
        for size in SIZES:
            self.store.keep(f"plain/{size}", b"text" * (size // 4) + b"!" * (size % 4))
            self.store.keep(f"image/{size}", b"x" * size, "image/png")

    def test_alike(self) -> None:
        """Any object, range and coding has the same answer, whether it is waited for or not."""
        for kind, size, span, coding, method in itertools.product(
            ("plain", "image"), SIZES, RANGES, CODINGS, ("GET", "HEAD")
        ):
            headers = {"Range": span} if span else {}
            if coding:
                headers["Accept-Encoding"] = coding
            answers = []
            for self.store.at_hand_bytes in (-1, AT_HAND_BYTES):
                answer = self.ask(method, f"/objects/{kind}/{size}", headers)
                # A boundary is another each time.
                several = answer.headers.get("content-type", "").startswith("multipart")
                answers.append((answer.status, len(answer.body)) if several else answer)
            self.assertEqual(answers[0], answers[1], (kind, size, headers, method))

    def test_nothing_is_opened(self) -> None:
        """What is at hand is read at once, and not opened besides."""
        self.store.at_hand_bytes = AT_HAND_BYTES
        body = self.ask("GET", "/objects/plain/1000000").body
        self.assertEqual(body, b"text" * 250_000)
        self.assertEqual(self.store.asked_now, [(0, 1_000_000)])
        self.assertEqual(self.store.readers, [])

    def test_head(self) -> None:
        """HEAD reads a stripe, to know that it can be read, and no more."""
        for at_hand_bytes in (-1, AT_HAND_BYTES):
            self.store.at_hand_bytes = at_hand_bytes
            self.store.asked_now.clear()
            for headers in ({}, {"Range": "bytes=5-"}, {"Range": "bytes=5-7"}):
                self.ask("HEAD", "/objects/image/3000000", headers)
            stripe = Scheme().stripe_size
            self.assertEqual(self.store.asked_now, [(0, stripe), (5, 5 + stripe), (5, 8)])

    def test_client_that_is_gone(self) -> None:
        """An answer to a client that went away before goes nowhere."""
        self.store.at_hand_bytes = AT_HAND_BYTES
        gate = self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/plain/5000"))
        client.close()
        gate.open()
        self.settle()
        self.assertEqual(client.received, b"")
