"""dostore.core.amqp_table: tables of every type, and what is none."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.amqp_table import MAX_DEPTH, MAX_TABLE_BYTES, Value, decode_table, encode_table
from dostore.errors import BadMessage
from tests.support.cases import SyncTestCase
from tests.support.properties import prove, texts

names = texts.filter(lambda text: len(text.encode()) < 256)
values = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1)
tables = st.dictionaries(names, values | st.dictionaries(names, values, max_size=3), max_size=5)


def entry(kind: bytes, data: bytes, name: bytes = b"n") -> bytes:
    """One name and value."""
    return bytes([len(name)]) + name + kind + data


def nested(kind: bytes, depth: int) -> bytes:
    """Tables or arrays in each other."""
    data = b""
    for _ in range(depth):
        inner = kind + struct.pack(">I", len(data)) + data
        data = inner if kind == b"A" else b"\1n" + inner
    return data


class TableTests(SyncTestCase):
    """Field tables."""

    @prove
    @given(tables)
    def test_round_trip(self, table: dict[str, Value]) -> None:
        """What is written is read."""
        data = encode_table(table)
        if len(data) <= MAX_TABLE_BYTES:
            self.assertEqual(decode_table(data), table)

    def test_bytes(self) -> None:
        """A table's bytes, by the letter of RabbitMQ's list of types."""
        self.assertEqual(
            encode_table({"é": "ü", "t": True, "l": -1, "F": {"x": ""}}),
            b"\x02\xc3\xa9S\0\0\0\x02\xc3\xbc"
            b"\x01tt\x01"
            b"\x01ll\xff\xff\xff\xff\xff\xff\xff\xff"
            b"\x01FF\0\0\0\x07\x01xS\0\0\0\0",
        )

    def test_every_type(self) -> None:
        """All types that RabbitMQ and its clients write are read."""
        for kind, data, value in (
            (b"t", b"\2", True),
            (b"b", b"\xff", -1),
            (b"B", b"\xff", 255),
            (b"s", b"\xff\xfe", -2),
            (b"u", b"\xff\xfe", 65534),
            (b"I", b"\xff\xff\xff\xfd", -3),
            (b"i", b"\xff\xff\xff\xfd", 2**32 - 3),
            (b"l", b"\xff" * 8, -1),
            (b"T", b"\0" * 7 + b"\5", 5),
            (b"f", struct.pack(">f", 1.5), 1.5),
            (b"d", struct.pack(">d", 2.5), 2.5),
            (b"D", b"\2\0\0\0\7", (2, 7)),
            (b"V", b"", None),
            (b"S", b"\0\0\0\2\xc3\xbc", "ü"),
            (b"S", b"\0\0\0\1\xff", b"\xff"),
            (b"x", b"\0\0\0\1a", b"a"),
            (b"F", b"\0\0\0\4\1at\0", {"a": False}),
            (b"A", b"\0\0\0\4t\1t\0", [True, False]),
        ):
            self.assertEqual(decode_table(entry(kind, data)), {"n": value}, kind)

    def test_refused(self) -> None:
        """Cut short, too long, too deep, of unknown types or with names that are no text."""
        for data in (
            b"\5a",
            b"\1a",
            b"\1aZ",
            entry(b"l", b"\0"),
            entry(b"S", b"\0\0\0\2a"),
            entry(b"S", b"\xff\xff\xff\xffa"),
            entry(b"F", b"\0\0\0\3\1at\0"),
            entry(b"A", b"\0\0\0\1t\1"),
            entry(b"t", b"\1", b"\xff"),
            nested(b"F", MAX_DEPTH + 1),
            b"\1n" + nested(b"A", MAX_DEPTH + 1),
            b"\0V" * MAX_TABLE_BYTES,
        ):
            with self.assertRaises(BadMessage, msg=data[:30]):
                decode_table(data)

    def test_deep(self) -> None:
        """As deep as is taken."""
        self.assertEqual(len(decode_table(nested(b"F", MAX_DEPTH))), 1)

    @prove
    @given(st.binary(max_size=80))
    def test_garbage(self, data: bytes) -> None:
        """Garbage is BadMessage and nothing else."""
        with contextlib.suppress(BadMessage):
            decode_table(data)
