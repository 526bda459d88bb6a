"""Answers of servers that may be anything."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dostore.client.answers import (
    About,
    Entry,
    Prefix,
    Stored,
    content_range,
    error_of,
    parse_holders,
    parse_line,
)
from dostore.client.failures import (
    BadAnswer,
    Exit,
    Later,
    LocalTrouble,
    OutOfReach,
    ReaderGone,
    Refused,
    exit_of,
    exit_of_all,
)
from dostore.errors import (
    Busy,
    Corrupt,
    DigestMismatch,
    DostoreError,
    InvalidName,
    NoSpace,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    TooLarge,
)
from dostore.http.exchange import Answer, Fields
from tests.support.cases import SyncTestCase

HASH = "2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="
LINE: dict[str, Any] = {
    "Name": "a/b",
    "Version": 3,
    "Size": 36,
    "Hash": HASH,
    "Created": "2026-11-23T08:30:00.250Z",
    "ContentType": "text/plain",
    "Meta": {"colour": "blue"},
}


def fields(**lines: Any) -> Fields:
    """Header fields; ``content_length="3"``, or a list for several lines."""
    return Fields(
        {
            name.replace("_", "-").encode(): [
                line.encode() for line in ([value] if isinstance(value, str) else value)
            ]
            for name, value in lines.items()
        }
    )


class ErrorTests(SyncTestCase):
    """Answers that are no success."""

    def error(self, status: int, body: object = b"", **lines: str) -> DostoreError:
        """What an answer means."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return error_of(Answer(status, fields(**lines), data))

    def test_kinds(self) -> None:
        """Each status is an error that the client knows what to do with."""
        for status, kind in (
            (301, Refused),
            (400, Refused),
            (404, NotFound),
            (405, Refused),
            (409, Busy),
            (412, PreconditionFailed),
            (413, TooLarge),
            (416, RangeNotSatisfiable),
            (500, Refused),
            (507, NoSpace),
            (599, Refused),
            *((again, Later) for again in (408, 429, 502, 503, 504)),
        ):
            self.assertIs(type(self.error(status)), kind)

    def test_details(self) -> None:
        """What the server says is what is told, within bounds."""
        self.assertEqual(self.error(400, {"title": "x", "detail": "Do it so."}).detail, "Do it so.")
        self.assertEqual(len(self.error(400, {"detail": "x" * 10**6}).detail), 1000)
        for body in (b"", b"<html>", b"[]", b'"x"', b"{}", b'{"detail":7}', b"[" * 4000, b"\xff"):
            self.assertEqual(self.error(502, body).detail, "The server answered 502 Bad Gateway.")
        self.assertEqual(self.error(299).detail, "The server answered 299.")

    def test_lost(self) -> None:
        """A content that is lost is no object that is not there."""
        error = self.error(404, {"title": "Content lost", "detail": "3 of 4 shards are left."})
        self.assertIs(type(error), Corrupt)
        self.assertIs(exit_of(error), Exit.WRONG_BYTES)

    def test_wrong_hash(self) -> None:
        """A wrong hash is told from other bad requests."""
        self.assertIs(type(self.error(400, {"title": "Digest mismatch"})), DigestMismatch)

    def test_when(self) -> None:
        """What the server says of when to come back, if it is a number."""
        for value, expected in (("7", 7.0), ("x", None), ("-1", None), ("1e9", None), ("", None)):
            error = self.error(503, retry_after=value)
            assert isinstance(error, Later)
            self.assertEqual(error.after_s, expected)

    def test_exits(self) -> None:
        """Scripts can tell what went wrong."""
        for error, expected in (
            (NotFound("x"), Exit.NOT_FOUND),
            (OutOfReach("x"), Exit.OUT_OF_REACH),
            (Later("x"), Exit.OUT_OF_REACH),
            (DigestMismatch("x"), Exit.WRONG_BYTES),
            (Corrupt("x"), Exit.WRONG_BYTES),
            (ReaderGone("x"), Exit.READER_GONE),
            (InvalidName("x"), Exit.USAGE),
            (LocalTrouble("x"), Exit.FAILED),
            (NoSpace("x"), Exit.FAILED),
        ):
            self.assertIs(exit_of(error), expected)
        self.assertIs(exit_of_all([]), Exit.OK)
        self.assertIs(exit_of_all([Exit.NOT_FOUND, Exit.NOT_FOUND]), Exit.NOT_FOUND)
        self.assertIs(exit_of_all([Exit.NOT_FOUND, Exit.WRONG_BYTES]), Exit.FAILED)


class HeaderTests(SyncTestCase):
    """What headers say."""

    def test_about(self) -> None:
        """All that a GET tells."""
        about = About.of(
            "n",
            fields(
                x_object_version="7",
                digest=f"SHA-256={HASH}",
                content_type="text/plain",
                last_modified="Mon, 23 Nov 2026 08:30:00 GMT",
                x_object_meta_b="2",
                x_object_meta_a="1",
            ),
            36,
        )
        self.assertEqual((about.version, str(about.hash), about.size), (7, HASH, 36))
        self.assertEqual(list(about.meta.items()), [("a", "1"), ("b", "2")])
        self.assertEqual(about.etag, f'"{HASH}"'.encode())

    def test_no_dostore(self) -> None:
        """What another kind of server answers is told as such."""
        digest = f"SHA-256={HASH}"
        for lines in (
            {},
            {"x_object_version": "7"},
            {"digest": digest},
            {"digest": digest, "x_object_version": "x"},
            {"digest": digest, "x_object_version": "-1"},
            {"digest": digest, "x_object_version": "1" * 20},
            {"digest": digest, "x_object_version": ["1", "1"]},
            {"digest": "SHA-256=x", "x_object_version": "1"},
            {"digest": "md5=x", "x_object_version": "1"},
        ):
            self.assertRaises(BadAnswer, Stored.of, fields(**lines))

    def test_ranges(self) -> None:
        """A part goes from where it says to the end."""
        self.assertEqual(content_range(fields(content_range="bytes 5-9/10")), (5, 10))
        for value in ("", "bytes */10", "bytes 5-8/10", "bytes 5-9/*", "bytes x-9/10", "5-9/10"):
            self.assertRaises(BadAnswer, content_range, fields(content_range=value))


class LineTests(SyncTestCase):
    """Lines of listings."""

    def test_versions_and_prefixes(self) -> None:
        """Each is what it says."""
        entry = parse_line(json.dumps(LINE).encode())
        assert isinstance(entry, Entry)
        self.assertEqual((entry.name, entry.version, entry.size), ("a/b", 3, 36))
        self.assertEqual((str(entry.hash), entry.fields), (HASH, LINE))
        gone = parse_line(json.dumps({**LINE, "Hash": "", "Size": 0, "Deleted": True}).encode())
        assert isinstance(gone, Entry)
        self.assertIsNone(gone.hash)
        prefix = parse_line(b'{"Prefix":"a/"}')
        self.assertEqual(prefix, Prefix("a/"))
        self.assertEqual(prefix.fields, {"Prefix": "a/"})

    def test_wrong(self) -> None:
        """What is no line of a listing is not taken for one."""
        for change in (
            {"Name": ""},
            {"Name": 5},
            {"Name": "a\x1b[0m"},
            {"Name": "\ud800"},
            {"Name": "x" * 1025},
            {"Version": "3"},
            {"Version": True},
            {"Version": -1},
            {"Version": 1.5},
            {"Size": 2**63},
            {"Size": None},
            {"Hash": "x"},
            {"Hash": None},
            {"Hash": 0},
            {"Hash": [HASH]},
            {"Created": 5},
        ):
            self.assertRaises(BadAnswer, parse_line, json.dumps({**LINE, **change}).encode())
        for missing in ("Name", "Version", "Size", "Hash"):
            line = {key: value for key, value in LINE.items() if key != missing}
            self.assertRaises(BadAnswer, parse_line, json.dumps(line).encode())
        for text in (
            b"",
            b"[]",
            b"7",
            b"{",
            b"[" * 10**6,
            b'{"Prefix":7}',
            b'{"Size":%s}' % (b"9" * 5000),
        ):
            self.assertRaises(BadAnswer, parse_line, text)

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """No bytes make it fail in another way."""
        for parse in (parse_line, parse_holders):
            try:
                parse(data)
            except BadAnswer:
                continue

    def test_holders(self) -> None:
        """Who holds what, in the order of the shards."""
        self.assertEqual(
            list(parse_holders(b'{"10":"c","2":"b","0":"a"}').items()),
            [("0", "a"), ("2", "b"), ("10", "c")],
        )
        for body in (b"[]", b"", b'{"x":"a"}', b'{"0":5}', b"["):
            self.assertRaises(BadAnswer, parse_holders, body)
