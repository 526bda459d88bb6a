"""dostore.core.chunked: the coding, and what only looks like it."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.chunked import MAX_LINE_BYTES, MAX_TRAILER_BYTES, ChunkedDecoder
from dostore.errors import InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

WHOLE = b"4\r\nWiki\r\n6;name=value\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nDate: now\r\n\r\n"
BODY = b"Wikipedia in \r\n\r\nchunks."


def decode(data: bytes, step: int) -> tuple[bytes, bool, bytes]:
    """The body, whether it ended, and what came after it."""
    decoder = ChunkedDecoder()
    body = []
    position = 0
    while position < len(data) and not decoder.ended:
        body += decoder.feed(data[position : position + step])
        position += step
    return b"".join(body), decoder.ended, decoder.rest + data[position:]


class ChunkedDecoderTests(SyncTestCase):
    """ChunkedDecoder."""

    def test_any_cut(self) -> None:
        """Whole, byte by byte or anything between, with and without what follows: the same."""
        for step in range(1, len(WHOLE) + 1):
            for after in (b"", b"GET / HTTP/1.1\r\n"):
                self.assertEqual(decode(WHOLE + after, step), (BODY, True, after))

    @prove
    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 60))
    def test_any_body(self, chunks: list[bytes], step: int) -> None:
        """What is coded comes out."""
        coded = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        self.assertEqual(decode(coded + b"0\r\n\r\n", step), (b"".join(chunks), True, b""))
        self.assertEqual(decode(coded, step), (b"".join(chunks), False, b""))

    def test_whole_chunks_are_not_cut(self) -> None:
        """A chunk comes out as one piece, and a read within a chunk is not copied."""
        decoder = ChunkedDecoder()
        self.assertEqual(decoder.feed(b"5\r\nhello\r\n8\r\n"), [b"hello"])
        inside = b"1234567"
        self.assertIs(decoder.feed(inside)[0], inside)
        self.assertEqual(decoder.chunks, 2)

    def test_malformed(self) -> None:
        """Each is refused, fed whole and byte by byte."""
        for data in (
            b"0x10\r\n",
            b"+5\r\n",
            b"-5\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"5 ;a\r\n",
            b"\r\n",
            b";a\r\n",
            b"5\n",
            b"5\r\r\n",
            b"g\r\n",
            b"f" * 16 + b"\r\n",
            b"5;a\x00\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nname : space\r\n\r\n",
            b"0\r\na: \x00\r\n\r\n",
            b"0\r\n\n",
        ):
            for step in (1, len(data)):
                with self.assertRaises(InvalidRequest, msg=repr(data)):
                    decode(data + b"x" * 2048, step)

    def test_endless_line(self) -> None:
        """A line that does not end is not kept."""
        for start in (b"5;", b"", b"0\r\n"):
            for step in (1, 100, 10_000):
                with self.assertRaises(InvalidRequest):
                    decode(start + b"a" * (MAX_LINE_BYTES + 3), step)

    def test_longest_line(self) -> None:
        """A line of the limit's length is taken, at any cut."""
        line = b"1;" + b"a" * (MAX_LINE_BYTES - 4) + b"\r\n"
        for step in (1, 1000, 5000):
            self.assertEqual(decode(line + b"z\r\n0\r\n\r\n", step), (b"z", True, b""))

    def test_endless_trailer(self) -> None:
        """Trailer fields have a limit in all."""
        field = b"a: " + b"b" * 95 + b"\r\n"
        few = field * (MAX_TRAILER_BYTES // 100)
        self.assertEqual(decode(b"0\r\n" + few + b"\r\n", 4096), (b"", True, b""))
        with self.assertRaises(InvalidRequest):
            decode(b"0\r\n" + few + field + b"\r\n", 4096)

    @prove
    @given(st.one_of(st.binary(max_size=80), st.text("0f5;\r\n a:", max_size=60).map(str.encode)))
    def test_garbage(self, data: bytes) -> None:
        """Garbage is InvalidRequest and nothing else, at every cut the same."""
        outcomes = []
        for step in (1, 7, 80):
            try:
                outcomes.append(decode(data, step))
            except InvalidRequest:
                outcomes.append((b"", False, b"refused"))
        self.assertEqual(outcomes[1:], outcomes[:1] * 2)

    def test_linear_time(self) -> None:
        """A mebibyte of the smallest chunks, in one read, is decoded at once."""
        data = b"1\r\nx\r\n" * 170_000
        begin = time.process_time()
        decoder = ChunkedDecoder()
        self.assertEqual(len(decoder.feed(data)), 170_000)
        self.assertLess(time.process_time() - begin, 2.0)
