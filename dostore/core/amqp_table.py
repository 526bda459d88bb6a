"""Field tables of AMQP 0-9-1, as RabbitMQ writes them: names and values of several types.

In a frame a table comes after its length in bytes; that is not part of what is read or made here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from attrs import define

from dostore.errors import BadMessage

#: What is longer is not looked at.
MAX_TABLE_BYTES = 1 << 14

#: Tables in tables.
MAX_DEPTH = 8

#: What goes into a table.
Value = str | int | bool | Mapping[str, "Value"]

_MAX_NAME_BYTES = 255

#: Types of a fixed length, by their letter, as RabbitMQ and its clients have them.
_FIXED = {
    b"b": ">b",
    b"B": ">B",
    b"s": ">h",
    b"u": ">H",
    b"I": ">i",
    b"i": ">I",
    b"l": ">q",
    b"T": ">Q",
    b"f": ">f",
    b"d": ">d",
}


def encode_table(table: Mapping[str, Value]) -> bytes:
    """The bytes of a table: truth values, 64-bit integers, strings and tables."""
    return b"".join(
        struct.pack(">B", len(name.encode())) + name.encode() + _encode_value(value)
        for name, value in table.items()
    )


def _encode_value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack(">c?", b"t", value)
    if isinstance(value, int):
        return struct.pack(">cq", b"l", value)
    kind, data = (b"S", value.encode()) if isinstance(value, str) else (b"F", encode_table(value))
    return struct.pack(">cI", kind, len(data)) + data


def decode_table(data: bytes) -> dict[str, object]:
    """The values by name. A string that is not UTF-8 is given as bytes.

    :raises BadMessage: it is longer than MAX_TABLE_BYTES, deeper than MAX_DEPTH, or no table.
    """
    if len(data) > MAX_TABLE_BYTES:
        raise BadMessage(f"A table of {len(data)} bytes is larger than any that is taken.")
    return _Reader(data).table(len(data), 0)


@define
class _Reader:
    data: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise BadMessage("A table ends in the middle of a value.")
        self.at += count
        return piece

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return value  # type: ignore[no-any-return]

    def table(self, length: int, depth: int) -> dict[str, object]:
        end = self._end(length, depth)
        found: dict[str, object] = {}
        while self.at < end:
            name = self.take(self.number(">B"))
            try:
                found[name.decode()] = self.value(depth)
            except UnicodeDecodeError as error:
                raise BadMessage("A name in a table is not UTF-8.") from error
        self._at_end(end)
        return found

    def array(self, length: int, depth: int) -> list[object]:
        end = self._end(length, depth)
        found = []
        while self.at < end:
            found.append(self.value(depth))
        self._at_end(end)
        return found

    def _end(self, length: int, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise BadMessage(f"Tables more than {MAX_DEPTH} deep are not taken.")
        return self.at + length

    def _at_end(self, end: int) -> None:
        if self.at != end:
            raise BadMessage("A value in a table is longer than its table.")

    def value(self, depth: int) -> object:
        kind = self.take(1)
        if kind in _FIXED:
            return self.number(_FIXED[kind])
        if kind == b"t":
            return self.number(">B") != 0
        if kind == b"V":
            return None
        if kind == b"D":
            # Digits after the point, and all digits.
            return (self.number(">B"), self.number(">i"))
        if kind in (b"S", b"x"):
            text = self.take(self.number(">I"))
            return text if kind == b"x" else _text(text)
        if kind == b"F":
            return self.table(self.number(">I"), depth + 1)
        if kind == b"A":
            return self.array(self.number(">I"), depth + 1)
        raise BadMessage(f"A table holds a value of the unknown type {kind!r}.")


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
