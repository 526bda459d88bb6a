"""What processes of one server say to each other, there and back."""

from __future__ import annotations

import json

from dostore.core.worker_messages import (
    BACK,
    COUNT,
    LOG,
    MAX_LOG_CHARACTERS,
    STOP,
    format_connection,
    format_json,
    format_log,
    format_question,
    format_seconds,
    parse_connection,
    parse_json,
    parse_question,
    parse_seconds,
)
from tests.support.cases import SyncTestCase


class MessageTests(SyncTestCase):
    """Each kind."""

    def test_json(self) -> None:
        """Numbers and texts come back; what is no object is refused."""
        message = format_json(COUNT, {"a": [1, "ä"]})
        self.assertEqual(message[:1], COUNT)
        self.assertEqual(parse_json(message), {"a": [1, "ä"]})
        for wrong in (b"C", b"C[]", b"C{"):
            with self.assertRaises(ValueError):
                parse_json(wrong)

    def test_seconds(self) -> None:
        """A time comes back; what is none is refused."""
        self.assertEqual(parse_seconds(format_seconds(STOP, 0.25)), 0.25)
        for wrong in (b"S", b"S-1", b"Snan", b"Sinf", b"Sx"):
            with self.assertRaises(ValueError):
                parse_seconds(wrong)

    def test_log(self) -> None:
        """A line is cut where it is too long."""
        message = format_log("warn", "dostore", "x" * (MAX_LOG_CHARACTERS + 1))
        self.assertEqual(message[:1], LOG)
        told = json.loads(message[1:])
        self.assertEqual(told["text"], "x" * MAX_LOG_CHARACTERS)
        self.assertEqual((told["level"], told["namespace"]), ("warn", "dostore"))

    def test_connections(self) -> None:
        """Number, flag and bytes come back; what is too short is refused."""
        message = format_connection(BACK, 7, True, b"GET /")
        self.assertEqual(message[:1], BACK)
        self.assertEqual(parse_connection(message), (7, True, b"GET /"))
        self.assertEqual(parse_connection(format_connection(BACK, 1, False)), (1, False, b""))
        with self.assertRaises(ValueError):
            parse_connection(message[:9])

    def test_questions(self) -> None:
        """A name, a version and the question's own number come back."""
        self.assertEqual(parse_question(format_question("ä/b", 3, 9)), ("ä/b", 3, 9))
        with self.assertRaises(ValueError):
            parse_question(format_question("", 3, 9)[:-1])
