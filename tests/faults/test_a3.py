"""A3: requests whose end two readers could see at different places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.http import HttpTestCase, request_bytes
from tests.support.properties import prove

PUT = b"PUT /objects/a HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"

#: What would be a second request to a reader who was led astray.
SMUGGLED = b"DELETE /objects/kept HTTP/1.1\r\nHost: a\r\n\r\n"

HEADERS = (
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length: 5 5\r\n",
    b"Content-Length: 5_0\r\n",
    b"Content-Length: \xb2\r\n",
    b"Content-Length: \xd9\xa5\r\n",
    b"Content-Length:\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length\t: 5\r\n",
    b" Content-Length: 5\r\n",
    b"A: b\r\n Content-Length: 5\r\n",
    b"Content-Length: 5\r\n folded\r\n",
    b"Content-Length:\r\n 5\r\n",
    b"A: b\nContent-Length: 5\r\n",
    b"A: b\rContent-Length: 5\r\n",
    b"A: b\x00\r\nContent-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"\x0bTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding\x00: chunked\r\n",
    b"Content-Length: 5\n",
    b"A: b\n\n",
)

CODINGS = (
    b"xchunked", b"chunked, chunked", b"identity", b"identity, chunked", b"chunked, identity",
    b"gzip, chunked", b"\x0bchunked", b"chunked\x0b", b'"chunked"', b"chunked;q=1", b"",
)  # fmt: skip

CHUNKS = (
    b"0x10\r\n0123456789abcdef\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;\rb\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\n\r\n",
)


class A3(HttpTestCase):
    """Framing."""

    def setUp(self) -> None:
        """Keep an object that must survive."""
        super().setUp()
        self.store.keep("kept", b"kept")

    def assert_refused(self, data: bytes, *statuses: int) -> None:
        """One answer, an error, and the end of the connection; nothing else is done."""
        for step in (len(data), 1):
            client = self.connect()
            client.send(*(data[at : at + step] for at in range(0, len(data), step)))
            answer = client.answer()
            self.assertIn(answer.status, statuses, data)
            self.assertEqual(answer.headers["connection"], "close")
            self.tick(7)
            self.assertTrue(client.lost, data)
        self.assertEqual(list(self.store.metadata.names), ["kept"])
        self.assertEqual(len(self.store.metadata.names["kept"]), 1)

    def test_headers(self) -> None:
        """Whatever could be read in two ways is refused."""
        for header in HEADERS:
            self.assert_refused(PUT + header + b"\r\nhello" + SMUGGLED, 400)

    def test_codings(self) -> None:
        """Chunked is the only transfer coding, and written in one way."""
        for coding in CODINGS:
            data = PUT + b"Transfer-Encoding: " + coding + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            self.assert_refused(data + SMUGGLED, 400, 501)

    def test_chunks(self) -> None:
        """Chunks that are written in another way than the standard's."""
        for chunks in CHUNKS:
            data = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
            self.assert_refused(data + SMUGGLED, 400)

    def test_old_version(self) -> None:
        """HTTP/1.0 knows no chunks."""
        data = PUT.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        self.assert_refused(data + SMUGGLED, 400)

    def test_request_lines(self) -> None:
        """A request line ends at CR LF and has two spaces."""
        for line in (
            b"GET /objects/kept HTTP/1.1\nHost: a\n\n",
            b"GET /objects/kept  HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /objects/kept\tHTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /objects/kept HTTP/1.1\rHost: a\r\n\r\n",
            b"GET /objects/kept HTTP/1.1\x0b\r\nHost: a\r\n\r\n",
            b"GET /objects/kept\r\n\r\n",
            b" GET /objects/kept HTTP/1.1\r\nHost: a\r\n\r\n",
        ):
            self.assert_refused(line + SMUGGLED, 400)

    @prove
    @given(st.binary(max_size=60), st.integers(0, len(PUT)))
    def test_garbage(self, garbage: bytes, at: int) -> None:
        """Bytes anywhere in a header section give an answer or a wait, never a failure."""
        client = self.connect()
        client.send(PUT[:at] + garbage + PUT[at:] + b"Content-Length: 5\r\n\r\nhello")
        client.send(request_bytes("GET", "/health/live"))
        for answer in client.answers():
            self.assertNotEqual(answer.status, 500)
        client.close()
        self.assertEqual(self.flushLoggedErrors(), [])
