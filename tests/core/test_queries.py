"""dostore.core.queries: what is taken in a query, and what is refused."""

from __future__ import annotations

import contextlib
from urllib.parse import quote, quote_plus, urlencode

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.names import ContentHash
from dostore.core.queries import (
    MAX_NUMBER,
    HistoryQuery,
    ListingQuery,
    parse_hash_path,
    parse_query,
    parse_version_number,
)
from dostore.errors import InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove, texts


class QueryTests(SyncTestCase):
    """Parameters."""

    @prove
    @given(st.dictionaries(texts, texts, max_size=5))
    def test_what_others_write_is_read(self, parameters: dict[str, str]) -> None:
        """Both usual ways to escape a query give back what went in."""
        for quoting in (quote, quote_plus):
            text = urlencode(parameters, quote_via=quoting).encode()
            parsed = parse_query(text)
            self.assertEqual({k: v for k, v in parsed.items() if k or v}, {
                k: v for k, v in parameters.items() if k or v
            })  # fmt: skip

    def test_forms(self) -> None:
        """A parameter without a value, empty ones, and a plus."""
        self.assertEqual(parse_query(b""), {})
        self.assertEqual(parse_query(b"a&b=&&c=d=e+f"), {"a": "", "b": "", "c": "d=e f"})

    def test_refused(self) -> None:
        """Twice, not UTF-8, and a percent sign that escapes nothing."""
        for query in (b"a=1&a=2", b"a=%ff", b"a=\xff", b"a=%", b"a=%zz", b"%c3=1"):
            self.assertRaises(InvalidRequest, parse_query, query)

    @prove
    @given(st.binary(max_size=60))
    def test_garbage(self, query: bytes) -> None:
        """Garbage is InvalidRequest and nothing else."""
        for parse in (parse_query, parse_version_number, ListingQuery.parse, HistoryQuery.parse):
            with contextlib.suppress(InvalidRequest):
                parse(query)


class VersionNumberTests(SyncTestCase):
    """``?version=``."""

    def test_taken(self) -> None:
        """Whole numbers that a store can have, or none."""
        self.assertIsNone(parse_version_number(b""))
        self.assertIsNone(parse_version_number(b"other=1"))
        for number in (1, 2, 10, 2**32, MAX_NUMBER):
            self.assertEqual(parse_version_number(b"version=%d" % number), number)

    def test_refused(self) -> None:
        """Anything else, other spellings of a number among it."""
        for text in (
            "0", "-1", "x", "", str(2**63), str(2**64), "01", "+1", "%2B1", "1.0", "1e3", "0x1",
            " 1", "1 ", "1%0A", "%D9%A1", "1_0", "9" * 5000,
        ):  # fmt: skip
            self.assertRaises(InvalidRequest, parse_version_number, f"version={text}".encode())
        self.assertRaises(InvalidRequest, parse_version_number, b"version")


class ListingQueryTests(SyncTestCase):
    """What a listing is asked for."""

    def test_taken(self) -> None:
        """All parameters, and the values they have when they are absent."""
        self.assertEqual(ListingQuery.parse(b""), ListingQuery("", "", None, ""))
        self.assertEqual(
            ListingQuery.parse(b"prefix=a%2F&after=a/b&limit=10&delimiter=/&other=x"),
            ListingQuery("a/", "a/b", 10, "/"),
        )
        self.assertEqual(HistoryQuery.parse(b""), HistoryQuery(0, None))
        self.assertEqual(HistoryQuery.parse(b"after=7&limit=1"), HistoryQuery(7, 1))
        self.assertEqual(HistoryQuery.parse(b"after=0"), HistoryQuery(0, None))

    def test_refused(self) -> None:
        """A limit of nothing, a number that is none, and text that no name could have."""
        for query in (b"limit=0", b"limit=-1", b"limit=", b"prefix=%00", b"after=a%0Ab",
                      b"delimiter=%7f", b"prefix=" + b"a" * 1025):  # fmt: skip
            self.assertRaises(InvalidRequest, ListingQuery.parse, query)
        for query in (b"after=-1", b"after=a", b"limit=0"):
            self.assertRaises(InvalidRequest, HistoryQuery.parse, query)
        self.assertEqual(len(ListingQuery.parse(b"prefix=" + b"a" * 1024).prefix), 1024)


class HashPathTests(SyncTestCase):
    """The hash in ``/locate/<hash>``."""

    @prove
    @given(content_hashes)
    def test_slashes(self, content_hash: ContentHash) -> None:
        """Escaped or not, it is the same hash."""
        self.assertEqual(parse_hash_path(str(content_hash).encode()), content_hash)
        self.assertEqual(parse_hash_path(content_hash.escaped.encode()), content_hash)
        self.assertEqual(parse_hash_path(quote(str(content_hash), safe="").encode()), content_hash)

    def test_refused(self) -> None:
        """What is no hash."""
        for text in (b"", b"abc", b"%ff", b"\xff" * 44, b"A" * 43 + b"B"):
            self.assertRaises(InvalidRequest, parse_hash_path, text)
