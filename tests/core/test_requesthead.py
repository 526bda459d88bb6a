"""dostore.core.requesthead: what a request says of itself, and what only looks like one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.requesthead import HeadLimits, RequestHead, read_head
from dostore.errors import DostoreError
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

LIMITS = HeadLimits()
SMALL = HeadLimits(line_bytes=40, section_bytes=60, fields=3)

HOST = b"Host: a\r\n"

#: What requests are made of, and what they are spoilt by.
PIECES = (
    b"GET / HTTP/1.1\r\n",
    b"HEAD /objects/a?version=1 HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"GET /\x80 HTTP/1.1\r\n",
    HOST,
    HOST + b"\r\n",
    b"Connection: close\r\n",
    b"X-Object-Meta-A: \t 1 \r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: x\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"A:b\r\n",
    b"A : b\r\n",
    b"no colon\r\n",
    b" folded\r\n",
    b"\r\n",
    b"\n",
    b"\r",
)

tokens = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=8).map(str.encode)
values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12
).map(lambda text: bytes(ord(c) for c in text if c < "\x7f" or c > "\x80").strip(b" "))


def read(data: bytes, limits: HeadLimits = LIMITS) -> tuple[RequestHead, int] | None:
    """What is read of bytes that come at once."""
    return read_head(data, 0, limits)


def read_in_pieces(
    data: bytes, cuts: list[int], limits: HeadLimits
) -> tuple[RequestHead, int] | int | None:
    """What is read of bytes that come in pieces; the status when they are refused."""
    looked_at = 0
    for end in (*sorted(cuts), len(data)):
        try:
            found = read_head(data[:end], looked_at, limits)
        except DostoreError as error:
            return error.status
        if found is not None:
            return found
        looked_at = end
    return None


class RequestHeadTests(SyncTestCase):
    """read_head."""

    def refused(self, data: bytes, status: int, limits: HeadLimits = LIMITS) -> None:
        """Bytes are refused, at once or when they come one by one."""
        for cuts in ([], list(range(len(data)))):
            self.assertEqual(read_in_pieces(data, cuts, limits), status, data)

    def head(self, data: bytes) -> RequestHead:
        """The header section that the bytes are."""
        found = read(data)
        assert found is not None
        self.assertEqual(found[1], len(data))
        return found[0]

    def test_what_it_says(self) -> None:
        """Names in lower case, values without the space around them, lines in order."""
        head = self.head(
            b"PUT /objects/a?b HTTP/1.1\r\nHOST:x\r\nA: 1 \r\na:\t2\r\nB:\r\n"
            b"Content-Length: 12\r\n\r\n"
        )
        self.assertEqual(
            head,
            RequestHead(
                b"PUT",
                b"/objects/a?b",
                b"HTTP/1.1",
                {b"host": [b"x"], b"a": [b"1", b"2"], b"b": [b""], b"content-length": [b"12"]},
                12,
                True,
            ),
        )

    def test_body(self) -> None:
        """How much of a body comes: so many bytes, chunks, or nothing."""
        for fields, length in (
            (b"", 0),
            (b"Content-Length: 0\r\n", 0),
            (b"content-length: 007\r\n", 7),
            (b"Transfer-Encoding: Chunked\r\n", None),
        ):
            self.assertEqual(
                self.head(b"PUT / HTTP/1.1\r\n" + HOST + fields + b"\r\n").length, length
            )
        for fields, status in (
            (b"Content-Length: 5\r\nContent-Length: 5\r\n", 400),
            (b"Content-Length: 5, 5\r\n", 400),
            (b"Content-Length: +5\r\n", 400),
            (b"Content-Length: 0x5\r\n", 400),
            (b"Content-Length:\r\n", 400),
            (b"Content-Length: " + b"1" * 20 + b"\r\n", 413),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            (b"Transfer-Encoding: gzip, chunked\r\n", 501),
            (b"Transfer-Encoding: identity\r\n", 501),
        ):
            self.refused(b"PUT / HTTP/1.1\r\n" + HOST + fields + b"\r\n", status)
        self.refused(b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400)

    def test_persistence(self) -> None:
        """HTTP/1.1 goes on unless it says close; HTTP/1.0 never does."""
        for value, persistent in (
            (b"keep-alive", True),
            (b"close-not", True),
            (b"Close", False),
            (b"TE,\tclose", False),
        ):
            head = self.head(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: " + value + b"\r\n\r\n")
            self.assertEqual(head.persistent, persistent, value)
        self.assertFalse(self.head(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").persistent)

    def test_hosts_and_expectations(self) -> None:
        """Exactly one Host, but for HTTP/1.0; and nothing is expected but to go on."""
        self.refused(b"GET / HTTP/1.1\r\n\r\n", 400)
        self.refused(b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400)
        self.refused(b"GET / HTTP/1.0\r\n" + HOST * 2 + b"\r\n", 400)
        self.refused(b"GET / HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n", 417)
        self.head(b"GET / HTTP/1.0\r\n\r\n")
        self.head(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
        self.head(b"GET / HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\n\r\n")

    def test_malformed(self) -> None:
        """Each is refused, whole and byte by byte."""
        for line in (
            b"GET /",
            b"GET  /",
            b"GET / HTTP/2.0",
            b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1",
            b"G@T / HTTP/1.1",
            b"GET /\x7f\x80 HTTP/1.1",
            b"GET / http/1.1",
            b"\x16\x03",
        ):
            # Nothing more has to come for that.
            self.refused(line + b"\r\n", 400)
        for field in (
            b"no colon",
            b": v",
            b"a : v",
            b" a: v",
            b"\ta: v",
            b"a: \x00",
            b"a: b\rc",
            b"a: \x7f",
            b"a\x80: v",
            b"a" * 257 + b": v",
            b"a: v\r\n folded",
            b"a: v\r",
        ):
            self.refused(b"GET / HTTP/1.1\r\n" + HOST + field + b"\r\n\r\n", 400)
        self.refused(b"GET / HTTP/1.1\nHost: a\n", 400)
        self.refused(b"GET / HTTP/1.1\r\nHost: a\n", 400)
        self.refused(b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400)

    def test_one_empty_line_before(self) -> None:
        """It is ignored, and a second one is not."""
        data = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
        self.assertEqual(self.head(b"\r\n" + data), self.head(data))
        self.refused(b"\r\n\r\n" + data, 400)

    def test_limits(self) -> None:
        """What is just permitted is taken; a byte or a line more is not, however it comes."""
        line = b"GET /%b HTTP/1.1\r\nHost:a\r\n\r\n"
        self.assertIsInstance(read_in_pieces(line % (b"x" * 26), [], SMALL), tuple)
        self.refused(line % (b"x" * 27), 414, SMALL)
        self.refused(b"x" * 41, 414, SMALL)
        self.assertIsNone(read(b"x" * 40 + b"\r", SMALL))
        short = b"GET / HTTP/1.1\r\nHost:a\r\n"
        taken = read(short + b"a:" + b"x" * 38 + b"\r\n\r\n", SMALL)
        self.assertIsNotNone(taken)
        self.refused(short + b"a:" + b"x" * 39 + b"\r\n\r\n", 431, SMALL)
        self.refused(short + b"a:" + b"x" * 39, 431, SMALL)
        self.assertIsNotNone(read(short + b"a:" * 2 + b"\r\nb:\r\n\r\n", SMALL))
        self.refused(short + b"a:\r\n" * 3 + b"\r\n", 431, SMALL)
        self.refused(short + b"a:\r\n" * 3, 431, SMALL)
        two = b"a:%b\r\nb:%b\r\n\r\n"
        self.assertIsNotNone(read(short + two % (b"x" * 20, b"x" * 16), SMALL))
        self.refused(short + two % (b"x" * 20, b"x" * 17), 431, SMALL)

    @prove
    @given(st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.integers(0, 200)))
    def test_any_cut(self, pieces: list[bytes], cuts: list[int]) -> None:
        """However it is cut, it is the same header section, or is refused."""
        data = b"".join(pieces)
        # What is wrong may be told as soon as it is there, or when all is.
        for whole in (data, data + b"\r\n\r\n"):
            inside = [cut for cut in cuts if cut < len(whole)]
            found = read_in_pieces(whole, [], SMALL)
            for ends in (inside, list(range(len(whole)))):
                other = read_in_pieces(whole, ends, SMALL)
                if isinstance(found, int) and isinstance(other, int):
                    # Of several faults any may be told.
                    continue
                self.assertEqual(found, other, whole)

    @prove
    @given(tokens, st.lists(st.tuples(tokens, values), max_size=5), st.binary(max_size=20))
    def test_what_is_written_is_read(
        self, method: bytes, fields: list[tuple[bytes, bytes]], after: bytes
    ) -> None:
        """Fields come out as they went in, and what follows is left."""
        lines = b"".join(b"x-%b: %b\r\n" % field for field in fields)
        data = b"%b /a HTTP/1.1\r\n%b%b\r\n" % (method, HOST, lines)
        found = read(data + after)
        assert found is not None
        head, end = found
        self.assertEqual((head.method, end), (method, len(data)))
        expected: dict[bytes, list[bytes]] = {b"host": [b"a"]}
        for name, value in fields:
            expected.setdefault(b"x-" + name.lower(), []).append(value.strip(b" \t"))
        self.assertEqual(head.fields, expected)

    @prove
    @given(st.binary(max_size=60), st.integers(0, 60))
    def test_garbage(self, data: bytes, cut: int) -> None:
        """It is refused by an error that can be told, or waited for."""
        for whole in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"):
            read_in_pieces(whole, [min(cut, len(whole))], SMALL)
