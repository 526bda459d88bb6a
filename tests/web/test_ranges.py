"""Parts of objects: one range, several, and those that cannot be had."""

from __future__ import annotations

import random

from tests.support.http import Answer, HttpTestCase

BODY = random.Random(7).randbytes(700_000)


class RangeTests(HttpTestCase):
    """GET and HEAD with a Range."""

    def setUp(self) -> None:
        """Store an object."""
        super().setUp()
        self.ask("PUT", "/objects/a", {"Content-Type": "a/b"}, BODY)

    def range(self, value: str, method: str = "GET", **headers: str) -> Answer:
        """The answer to a request for a range."""
        return self.ask(
            method,
            "/objects/a",
            {"Range": value, **{name.replace("_", "-"): text for name, text in headers.items()}},
        )

    def test_one(self) -> None:
        """Small and large ranges of each form are the slices that they name."""
        for value, expected in {
            "bytes=0-0": slice(0, 1),
            "bytes=100-199": slice(100, 200),
            "bytes=1000-": slice(1000, None),
            "bytes=-7": slice(-7, None),
            "bytes=0-9999999": slice(0, None),
            "bytes=1-699998": slice(1, 699_999),
        }.items():
            answer = self.range(value)
            start, stop, _ = expected.indices(len(BODY))
            self.assertEqual(answer.status, 206)
            self.assertEqual(answer.body, BODY[expected], value)
            self.assertEqual(
                answer.headers["content-range"], f"bytes {start}-{stop - 1}/{len(BODY)}"
            )
            self.assertEqual(answer.headers["content-length"], str(stop - start))
            self.assertEqual(answer.headers["content-type"], "a/b")

    def test_head(self) -> None:
        """HEAD tells what GET would send."""
        answer = self.range("bytes=5-9", "HEAD")
        self.assertEqual((answer.status, answer.body), (206, b""))
        self.assertEqual(answer.headers["content-length"], "5")
        self.assertEqual(answer.headers["content-range"], f"bytes 5-9/{len(BODY)}")

    def test_several(self) -> None:
        """Parts come in the order asked for, each with its place, and the length is true."""
        answer = self.range("bytes=10-19, 0-4, 300000-699999, 800000-")
        self.assertEqual(answer.status, 206)
        kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
        self.assertEqual(kind, "multipart/byteranges")
        self.assertEqual(int(answer.headers["content-length"]), len(answer.body))
        expected = b""
        for start, stop in ((10, 20), (0, 5), (300_000, 700_000)):
            expected += (
                f"\r\n--{boundary}\r\nContent-Type: a/b\r\n"
                f"Content-Range: bytes {start}-{stop - 1}/{len(BODY)}\r\n\r\n"
            ).encode() + BODY[start:stop]
        self.assertEqual(answer.body, expected + f"\r\n--{boundary}--\r\n".encode())
        self.assertEqual([reader.closed for reader in self.store.readers], [1, 1, 1])

    def test_several_by_head(self) -> None:
        """HEAD of several ranges tells the length and sends nothing."""
        answer = self.range("bytes=0-1,5-6", "HEAD")
        self.assertEqual((answer.status, answer.body), (206, b""))
        self.assertGreater(int(answer.headers["content-length"]), 4)

    def test_unsatisfiable(self) -> None:
        """No byte in the range: 416 with the size."""
        for value in ("bytes=700000-", "bytes=-0"):
            answer = self.range(value)
            self.assertEqual(answer.status, 416)
            self.assertEqual(answer.headers["content-range"], f"bytes */{len(BODY)}")

    def test_malformed(self) -> None:
        """A wrong range is told, not guessed at."""
        many = "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2000, 2))
        for value in ("bytes=", "bytes=5-2", "bytes=x", "bytes=0-,0-", many):
            self.assertEqual(self.range(value).status, 400, value[:20])

    def test_other_units(self) -> None:
        """What is not asked for in bytes is sent whole."""
        answer = self.range("pages=1-2")
        self.assertEqual((answer.status, answer.body), (200, BODY))

    def test_if_range(self) -> None:
        """The part is of the version that the client knows, or else it gets the whole."""
        etag = self.ask("HEAD", "/objects/a").headers["etag"]
        self.assertEqual(self.range("bytes=0-1", If_Range=etag).status, 206)
        self.assertEqual(self.range("bytes=0-1", If_Range='"other"').status, 200)

    def test_not_modified_comes_first(self) -> None:
        """A condition that fails is answered before the range is looked at."""
        etag = self.ask("HEAD", "/objects/a").headers["etag"]
        self.assertEqual(self.range("bytes=0-1", If_None_Match=etag).status, 304)
