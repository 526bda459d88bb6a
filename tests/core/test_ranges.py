"""Range, If-Range and multipart/byteranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.httpfields import created_seconds, format_etag, format_http_date
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.ranges import (
    MAX_RANGES,
    Multipart,
    Span,
    if_range_holds,
    parse_part,
    parse_ranges,
)
from dostore.core.scheme import Scheme
from dostore.errors import InvalidRequest, RangeNotSatisfiable
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

VERSION = Version(
    "a", 1, Content(ContentHash(bytes(32)), 100, Scheme()), "2026-01-02T03:04:05.678Z"
)
TOMBSTONE = Version("a", 2, None, "2026-01-02T03:04:05.678Z")


def spans(value: bytes, size: int = 100) -> list[tuple[int, int]]:
    """The ranges of one line, as slices."""
    return [(span.start, span.stop) for span in parse_ranges([value], size)]


class ParseTests(SyncTestCase):
    """What a client asks for."""

    def test_forms(self) -> None:
        """Closed, open and suffix ranges, cut to the content, in any case and with blanks."""
        for value, expected in {
            b"bytes=0-0": [(0, 1)],
            b"bytes=10-19": [(10, 20)],
            b"bytes=90-": [(90, 100)],
            b"bytes=90-1000": [(90, 100)],
            b"bytes=-1": [(99, 100)],
            b"bytes=-1000": [(0, 100)],
            b"BYTES= 1-2 ,, 5-6": [(1, 3), (5, 7)],
            b"bytes=200-300,1-1": [(1, 2)],
            b"bytes=5-6,1-2": [(5, 7), (1, 3)],
        }.items():
            self.assertEqual(spans(value), expected, value)

    def test_no_range(self) -> None:
        """Without the field, or in another unit, everything is asked for."""
        self.assertEqual(parse_ranges([], 100), ())
        self.assertEqual(spans(b"lines=1-2"), [])
        self.assertEqual(spans(b"nonsense"), [])

    def test_lines_are_one_list(self) -> None:
        """A field in two lines is one list."""
        both = parse_ranges([b"bytes=0-1", b"4-5"], 100)
        self.assertEqual([(span.start, span.stop) for span in both], [(0, 2), (4, 6)])

    def test_malformed(self) -> None:
        """What is no range is refused, not guessed at."""
        for value in (
            b"bytes=",
            b"bytes",
            b"bytes=,",
            b"bytes=-",
            b"bytes=5-2",
            b"bytes=a-b",
            b"bytes=1-2-3",
            b"bytes=+1-2",
            b"bytes=1-2;3-4",
            b"bytes=0x1-2",
            b"bytes=" + b"9" * 20 + b"-",
        ):
            self.assertRaises(InvalidRequest, spans, value)

    def test_unsatisfiable(self) -> None:
        """Ranges without a byte of the content tell its size."""
        for value, size in ((b"bytes=100-", 100), (b"bytes=-0", 100), (b"bytes=0-", 0)):
            error = self.assertRaises(RangeNotSatisfiable, spans, value, size)
            self.assertEqual(error.size, size)

    def test_too_many(self) -> None:
        """16 ranges are taken, 17 and 10,000 are not."""
        few = b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(MAX_RANGES))
        self.assertEqual(len(spans(few)), MAX_RANGES)
        self.assertRaises(InvalidRequest, spans, few + b",50-50")
        many = b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(10_000))
        self.assertRaises(InvalidRequest, spans, many, 1 << 40)

    def test_overlap(self) -> None:
        """The same bytes sixteen times over are not sent."""
        self.assertRaises(InvalidRequest, spans, b"bytes=0-,0-")
        self.assertEqual(spans(b"bytes=0-9,5-14"), [(0, 10), (5, 15)])

    @prove
    @given(st.data(), st.integers(1, 10**6))
    def test_slices(self, data: st.DataObject, size: int) -> None:
        """A closed range is the slice from its first byte to past its last."""
        first = data.draw(st.integers(0, size - 1))
        last = data.draw(st.integers(first, 2 * size))
        (span,) = parse_ranges([b"bytes=%d-%d" % (first, last)], size)
        self.assertEqual(range(size)[span.start : span.stop], range(size)[first : last + 1])
        self.assertEqual(span.content_range(), b"bytes %d-%d/%d" % (first, span.stop - 1, size))

    @prove
    @given(st.binary(max_size=60))
    def test_garbage(self, value: bytes) -> None:
        """Whatever is sent is read, or refused as a client's mistake."""
        try:
            for span in parse_ranges([value], 100):
                self.assertTrue(0 <= span.start < span.stop <= 100)
        except (InvalidRequest, RangeNotSatisfiable) as error:
            self.assertTrue(error.detail)


class PartTests(SyncTestCase):
    """Where a part of an upload belongs."""

    def test_forms(self) -> None:
        """Open, closed, and without a field."""
        for lines, expected in (
            ([], (0, None)),
            ([b"bytes=0-"], (0, None)),
            ([b"bytes=50000-"], (50_000, None)),
            ([b"bytes=5-5"], (5, 1)),
            ([b"bytes=5-104"], (5, 100)),
        ):
            self.assertEqual(parse_part(lines), expected)

    def test_malformed(self) -> None:
        """Several ranges, suffixes, other units and no numbers are refused."""
        for line in (
            b"",
            b"bytes=",
            b"bytes=-5",
            b"bytes=5-2",
            b"bytes=0-1,3-4",
            b"bytes=x-",
            b"bytes=-1-",
            b"lines=0-",
            b"5-",
            b"bytes=" + b"9" * 20 + b"-",
            b"bytes=0-" + b"1," * 5000,
        ):
            self.assertRaises(InvalidRequest, parse_part, [line])
        self.assertRaises(InvalidRequest, parse_part, [b"bytes=0-", b"bytes=0-"])


class IfRangeTests(SyncTestCase):
    """Whether the ranges are of what the client has the rest of."""

    def test_holds(self) -> None:
        """Without the field, with the version's tag, and with its date."""
        assert VERSION.content is not None
        for lines in (
            [],
            [format_etag(VERSION.content.hash)],
            [format_http_date(created_seconds(VERSION))],
        ):
            self.assertTrue(if_range_holds(lines, VERSION))
        self.assertTrue(if_range_holds([b'"any"'], TOMBSTONE))

    def test_does_not_hold(self) -> None:
        """Another tag, a weak one, another date, and nonsense."""
        assert VERSION.content is not None
        for value in (
            b'"other"',
            b"W/" + format_etag(VERSION.content.hash),
            format_http_date(created_seconds(VERSION) + 1),
            b"yesterday",
        ):
            self.assertFalse(if_range_holds([value], VERSION), value)


class MultipartTests(SyncTestCase):
    """Several ranges in one answer."""

    def test_length(self) -> None:
        """The length that is announced is that of the parts and what stands around them."""
        body = Multipart((Span(0, 2, 9), Span(5, 9, 9)), b"text/plain", b"xyz")
        whole = b"".join(body.head(span) + b"." * span.length for span in body.spans) + body.tail()
        self.assertEqual(body.length, len(whole))
        self.assertEqual(
            whole,
            b"\r\n--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/9\r\n\r\n.."
            b"\r\n--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-8/9\r\n\r\n...."
            b"\r\n--xyz--\r\n",
        )
