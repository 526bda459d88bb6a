"""Where shards are and which were read, as one process tells another."""

from __future__ import annotations

from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shard_places import (
    InFile,
    InVolume,
    ShardPlace,
    format_answer,
    format_read,
    parse_answer,
    parse_read,
)
from tests.support.cases import SyncTestCase

CONTENT = Content(ContentHash(bytes(range(32))), 5000, Scheme(4, 2))
VERSION = Version("ä", 3, CONTENT, "2026-01-02T03:04:05.678Z", "text/plain", {"colour": "blue"})


class AnswerTests(SyncTestCase):
    """Answers to questions."""

    def test_there_and_back(self) -> None:
        """A version and the places of its shards come back as they were."""
        places: list[ShardPlace] = [
            InFile(0, 0, b"h" * 32),
            InVolume(255, 1, 9, (1 << 64) - 1, 1 << 40, 1024),
            InFile(3, 2, b"i" * 32),
        ]
        self.assertEqual(parse_answer(format_answer(5, VERSION, places)), (5, VERSION, places))

    def test_nothing(self) -> None:
        """That there is nothing to read is an answer, too."""
        self.assertEqual(parse_answer(format_answer(5, None, ())), (5, None, []))

    def test_what_is_none(self) -> None:
        """What is cut short, goes on, or has no version where one should be, is refused."""
        whole = format_answer(5, VERSION, [InFile(0, 0, b"h" * 32)])
        for size in range(len(whole)):
            with self.assertRaises(ValueError):
                parse_answer(whole[:size])
        two = format_answer(5, VERSION, ())
        for wrong in (whole + b"x", two[:17] + b"{" + two[18:]):
            with self.assertRaises(ValueError):
                parse_answer(wrong)


class ReadTests(SyncTestCase):
    """What was read."""

    def test_there_and_back(self) -> None:
        """Contents and shards come back as they were."""
        other = Content(ContentHash(b"o" * 32), 1 << 40, Scheme(1, 2))
        read = {CONTENT: range(1, 3), other: range(1)}
        self.assertEqual(parse_read(format_read(read)), read)
        self.assertEqual(parse_read(format_read({})), {})

    def test_what_is_none(self) -> None:
        """What is cut short is refused."""
        with self.assertRaises(ValueError):
            parse_read(format_read({CONTENT: range(1, 3)})[:-1])
