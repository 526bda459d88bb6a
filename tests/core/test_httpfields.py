"""dostore.core.httpfields: what is taken, what is refused, and how conditions are judged."""

from __future__ import annotations

import contextlib
import time
from email.utils import formatdate, parsedate_to_datetime

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.httpfields import (
    MAX_CONTENT_TYPE_BYTES,
    MAX_META_BYTES,
    MAX_META_KEYS,
    Conditions,
    EntityTags,
    Fields,
    created_seconds,
    format_digest,
    format_etag,
    format_gzip_etag,
    format_http_date,
    parse_content_type,
    parse_digest,
    parse_http_date,
    parse_meta,
    write_check,
)
from dostore.core.model import DEFAULT_CONTENT_TYPE, Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import InvalidRequest, PreconditionFailed
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove

HASH = ContentHash(bytes(32))
OTHER = ContentHash(bytes(31) + b"\1")
CREATED = "2022-12-15T10:06:43.999Z"
CREATED_S = 1671098803
DATE = b"Thu, 15 Dec 2022 10:06:43 GMT"
BEFORE = b"Thu, 15 Dec 2022 10:06:42 GMT"

VERSION = Version("name", 3, Content(HASH, 36, Scheme()), CREATED)
TOMBSTONE = Version("name", 4, None, CREATED)
TAG = format_etag(HASH)
OTHER_TAG = format_etag(OTHER)
GZIP_TAG = format_gzip_etag(HASH)

#: Header values as hostile as can be.
junk = st.one_of(st.binary(max_size=64), st.text('W/"*, \tabc=', max_size=40).map(str.encode))


class DigestTests(SyncTestCase):
    """Digest fields."""

    @prove
    @given(content_hashes)
    def test_what_is_written_is_read(self, content_hash: ContentHash) -> None:
        """The form of an answer is taken in a request."""
        self.assertEqual(parse_digest([format_digest(content_hash)]), content_hash)

    def test_absent(self) -> None:
        """No field is no digest."""
        self.assertIsNone(parse_digest([]))

    def test_case_and_other_algorithms(self) -> None:
        """The algorithm's name has no case, and SHA-256 is found among others and on any line."""
        value = str(HASH).encode()
        for lines in (
            [b"sha-256=" + value],
            [b"MD5=HUXZLQLMuI/KZ5KDcJPcOA==, Sha-256=" + value + b"\t, unixsum=30637"],
            [b"MD5=HUXZLQLMuI/KZ5KDcJPcOA==", b"SHA-256=" + value],
            [b"SHA-256=" + value + b",SHA-256=" + value],
        ):
            self.assertEqual(parse_digest(lines), HASH)

    def test_malformed(self) -> None:
        """What cannot be checked is refused, never ignored."""
        value = str(HASH).encode()
        for line in (
            b"",
            b"SHA-256",
            b"SHA-256=",
            b"MD5=HUXZLQLMuI/KZ5KDcJPcOA==",
            b"SHA-256=9AimTha2kCISf8bVfi1jPXo2BzY=",
            b"SHA-256=" + value[:-1],
            b"SHA-256=" + value[:-2] + b"B=",
            b"SHA-256=\xff" + value,
            b"SHA-256 =" + value,
            b"SHA-256=" + value + b", SHA-256=" + str(OTHER).encode(),
        ):
            self.assertRaises(InvalidRequest, parse_digest, [line])

    @prove
    @given(st.lists(junk, max_size=4))
    def test_garbage(self, lines: list[bytes]) -> None:
        """Garbage is InvalidRequest and nothing else."""
        with contextlib.suppress(InvalidRequest):
            parse_digest(lines)


class EntityTagTests(SyncTestCase):
    """Lists of entity tags."""

    def test_lists(self) -> None:
        """Empty items, spaces and commas within quotes are what RFC 9110 says they are."""
        tags = EntityTags.parse([b' ,"a,b" , W/"c"\t,,', b'""'], "If-Match")
        assert tags is not None
        self.assertEqual(tags.strong, {b'"a,b"', b'""'})
        self.assertEqual(tags.weak, {b'"c"'})
        self.assertFalse(tags.anything)

    def test_star(self) -> None:
        """A star stands for whatever there is."""
        tags = EntityTags.parse([b" * "], "If-Match")
        assert tags is not None
        self.assertTrue(tags.match_strongly(TAG) and tags.match_weakly(TAG))

    def test_strong_and_weak(self) -> None:
        """A weak tag matches weakly only."""
        tags = EntityTags.parse([b"W/" + TAG], "If-Match")
        assert tags is not None
        self.assertTrue(tags.match_weakly(TAG))
        self.assertFalse(tags.match_strongly(TAG))
        self.assertFalse(tags.match_weakly(OTHER_TAG))

    def test_malformed(self) -> None:
        """A tag without quotes, or with something between tags, is refused."""
        for line in (b"", b",", b"abc", b'"a', b'"a" "b"', b'"a"b', b'w/"a"', b'"a", *', b'"\x7f"'):
            self.assertRaises(InvalidRequest, EntityTags.parse, [line], "If-Match")

    @prove
    @given(st.lists(junk, max_size=4))
    def test_garbage(self, lines: list[bytes]) -> None:
        """Garbage is InvalidRequest and nothing else."""
        with contextlib.suppress(InvalidRequest):
            EntityTags.parse(lines, "If-Match")

    def test_linear_time(self) -> None:
        """Lists that make a careless parser go back and forth are read at once."""
        for line in (b'"' * 32768, b'W/"' * 10922, b'"a",' * 8192, b" ," * 16384, b" " * 32768):
            begin = time.process_time()
            with contextlib.suppress(InvalidRequest):
                EntityTags.parse([line], "If-None-Match")
            self.assertLess(time.process_time() - begin, 0.1)


class DateTests(SyncTestCase):
    """HTTP dates."""

    @prove
    @given(st.integers(-62135596800, 253402300799))
    def test_what_is_written_is_read(self, seconds: int) -> None:
        """All seconds of the years 1 to 9999."""
        self.assertEqual(parse_http_date(format_http_date(seconds)), seconds)

    @prove
    @given(st.integers(0, 4102444800))
    def test_as_the_library_writes_it(self, seconds: int) -> None:
        """The form is that of RFC 9110, as email.utils writes it too."""
        self.assertEqual(format_http_date(seconds).decode(), formatdate(seconds, usegmt=True))

    def test_three_forms(self) -> None:
        """The two old forms of RFC 9110 are read; years of two digits are of 1970 to 2069."""
        for text in (
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"Sunday, 06-Nov-94 08:49:37 GMT",
            b"Sun Nov  6 08:49:37 1994",
        ):
            self.assertEqual(parse_http_date(text), 784111777)
        future = parse_http_date(b"Tuesday, 06-Nov-29 08:49:37 GMT")
        self.assertEqual(future, int(parsedate_to_datetime("06 Nov 2029 08:49:37 GMT").timestamp()))

    def test_invalid(self) -> None:
        """What is no date is None, so that the field is ignored."""
        for text in (
            b"",
            b"0",
            b"yesterday",
            b"Sun, 06 Nov 1994 08:49:37 CET",
            b"Sun, 31 Feb 1994 08:49:37 GMT",
            b"Sun, 06 Nov 1994 24:00:00 GMT",
            b"Sun, 06 Nov 0000 08:49:37 GMT",
            b"x" * 100_000,
        ):
            self.assertIsNone(parse_http_date(text))

    def test_created(self) -> None:
        """A version's time loses its fraction, so that a client can repeat what it was told."""
        self.assertEqual(created_seconds(VERSION), CREATED_S)
        self.assertEqual(format_http_date(CREATED_S), DATE)


def fields(**lines: bytes) -> Fields:
    """Header fields, ``if_match`` for If-Match."""
    return {name.replace("_", "-").encode(): [value] for name, value in lines.items()}


class ConditionTests(SyncTestCase):
    """RFC 9110 section 13.2.2."""

    def reading(self, version: Version = VERSION, **lines: bytes) -> int:
        """The status of a GET."""
        conditions = Conditions.parse(fields(**lines))
        assert conditions is not None
        try:
            return 304 if conditions.not_modified(version) else 200
        except PreconditionFailed as error:
            return error.status

    def writing(self, current: Version | None = VERSION, **lines: bytes) -> int:
        """The status of a PUT."""
        check = write_check(fields(**lines))
        assert check is not None
        try:
            check(current)
        except PreconditionFailed as error:
            return error.status
        return 200

    def test_none(self) -> None:
        """No condition asks nothing."""
        self.assertIsNone(Conditions.parse(fields(host=b"a")))
        self.assertIsNone(write_check(fields(host=b"a")))

    def test_if_match(self) -> None:
        """It wants the current strong tag."""
        for call in (self.reading, self.writing):
            self.assertEqual(call(if_match=TAG), 200)
            self.assertEqual(call(if_match=b"*"), 200)
            self.assertEqual(call(if_match=OTHER_TAG + b"," + TAG), 200)
            self.assertEqual(call(if_match=OTHER_TAG), 412)
            self.assertEqual(call(if_match=b"W/" + TAG), 412)

    def test_if_unmodified_since(self) -> None:
        """It wants a time not after the date, to the second."""
        for call in (self.reading, self.writing):
            self.assertEqual(call(if_unmodified_since=DATE), 200)
            self.assertEqual(call(if_unmodified_since=BEFORE), 412)
            self.assertEqual(call(if_unmodified_since=b"some day"), 200)

    def test_if_match_comes_first(self) -> None:
        """With If-Match, If-Unmodified-Since is not looked at."""
        for call in (self.reading, self.writing):
            self.assertEqual(call(if_match=TAG, if_unmodified_since=BEFORE), 200)

    def test_if_none_match(self) -> None:
        """A match is 304 to a reader and 412 to a writer; weak tags match too."""
        for lines in (TAG, b"*", b"W/" + TAG, OTHER_TAG + b" , " + TAG):
            self.assertEqual(self.reading(if_none_match=lines), 304)
            self.assertEqual(self.writing(if_none_match=lines), 412)
        self.assertEqual(self.reading(if_none_match=OTHER_TAG), 200)
        self.assertEqual(self.writing(if_none_match=OTHER_TAG), 200)

    def test_if_modified_since(self) -> None:
        """It is for readers, and only without If-None-Match."""
        self.assertEqual(self.reading(if_modified_since=DATE), 304)
        self.assertEqual(self.reading(if_modified_since=BEFORE), 200)
        self.assertEqual(self.reading(if_modified_since=b"some day"), 200)
        self.assertEqual(self.reading(if_modified_since=DATE, if_none_match=OTHER_TAG), 200)
        self.assertEqual(self.writing(if_modified_since=DATE), 200)

    def test_two_dates(self) -> None:
        """A date field that is there twice is not valid, and ignored."""
        conditions = Conditions.parse({b"if-modified-since": [DATE, DATE]})
        assert conditions is not None
        self.assertIsNone(conditions.not_modified(VERSION))

    def test_gzip_form(self) -> None:
        """Its tag is another, binds a write as well, and helps only a reader who takes gzip."""
        self.assertEqual(GZIP_TAG, TAG[:-1] + b'-gzip"')
        for call in (self.reading, self.writing):
            self.assertEqual(call(if_match=GZIP_TAG), 200)
            self.assertEqual(call(if_match=b"W/" + GZIP_TAG), 412)
        self.assertEqual(self.writing(if_none_match=GZIP_TAG), 412)
        self.assertEqual(self.writing(TOMBSTONE, if_match=GZIP_TAG), 412)
        for lines, plain, gzip in (
            (GZIP_TAG, None, GZIP_TAG),
            (b"W/" + GZIP_TAG, None, GZIP_TAG),
            (TAG, TAG, TAG),
            (GZIP_TAG + b"," + TAG, TAG, TAG),
            (b"*", TAG, TAG),
            (OTHER_TAG[:-1] + b'-gzip"', None, None),
        ):
            conditions = Conditions.parse(fields(if_none_match=lines))
            assert conditions is not None
            self.assertEqual(conditions.not_modified(VERSION), plain)
            self.assertEqual(conditions.not_modified(VERSION, gzip=True), gzip)

    def test_nothing_there(self) -> None:
        """Before the first version and after a tombstone there is nothing to match."""
        for current in (None, TOMBSTONE):
            self.assertEqual(self.writing(current, if_match=b"*"), 412)
            self.assertEqual(self.writing(current, if_match=TAG), 412)
            self.assertEqual(self.writing(current, if_none_match=b"*"), 200)
            self.assertEqual(self.writing(current, if_none_match=TAG), 200)
            self.assertEqual(self.writing(current, if_unmodified_since=DATE), 412)

    def test_malformed(self) -> None:
        """A condition that is not understood must not be taken as met."""
        self.assertRaises(InvalidRequest, Conditions.parse, fields(if_match=b"abc"))
        self.assertRaises(InvalidRequest, Conditions.parse, fields(if_none_match=b"abc"))


class KeptFieldTests(SyncTestCase):
    """What is kept with a version."""

    def test_content_type(self) -> None:
        """It is kept as it is; without one there is a default."""
        self.assertEqual(parse_content_type([]), DEFAULT_CONTENT_TYPE)
        self.assertEqual(parse_content_type([b""]), DEFAULT_CONTENT_TYPE)
        text = b"text/html; charset=utf-8"
        self.assertEqual(parse_content_type([text]), text.decode())
        longest = b"a" * MAX_CONTENT_TYPE_BYTES
        self.assertEqual(parse_content_type([longest]), longest.decode())

    def test_content_type_refused(self) -> None:
        """Two, a long one, and what could break a header of an answer."""
        for lines in (
            [b"a/b", b"c/d"],
            [b"a" * (MAX_CONTENT_TYPE_BYTES + 1)],
            [b"a/b\r\nX: y"],
            [b"a/b\n"],
            [b"a/\tb"],
            [b"a/\0"],
            ["a/é".encode()],
            [b"a/\x7f"],
        ):
            self.assertRaises(InvalidRequest, parse_content_type, lines)

    def test_meta(self) -> None:
        """The keys are in lower case, without the prefix; other fields are left out."""
        self.assertEqual(
            parse_meta({b"x-object-meta-a-b": [b"one two"], b"x-other": [b"3"], b"host": [b"h"]}),
            {"a-b": "one two"},
        )

    def test_meta_refused(self) -> None:
        """No key, twice, and what could break a header of an answer."""
        for name, lines in (
            (b"x-object-meta-", [b"a"]),
            (b"x-object-meta-a", [b"1", b"1"]),
            (b"x-object-meta-a", [b"1\r\nSet-Cookie: a"]),
            (b"x-object-meta-a", [b"\n"]),
            (b"x-object-meta-a", [b"a\tb"]),
            (b"x-object-meta-a", ["é".encode()]),
            (b"x-object-meta-a", [b"\0"]),
        ):
            self.assertRaises(InvalidRequest, parse_meta, {name: lines})

    def test_meta_limits(self) -> None:
        """So many keys and bytes, and not one more."""
        keys = {b"x-object-meta-%d" % number: [b""] for number in range(MAX_META_KEYS)}
        self.assertEqual(len(parse_meta(keys)), MAX_META_KEYS)
        self.assertRaises(InvalidRequest, parse_meta, {**keys, b"x-object-meta-more": [b""]})
        most = {b"x-object-meta-a": [b"x" * (MAX_META_BYTES - 1)]}
        self.assertEqual(len(parse_meta(most)["a"]), MAX_META_BYTES - 1)
        self.assertRaises(InvalidRequest, parse_meta, {**most, b"x-object-meta-b": [b""]})
