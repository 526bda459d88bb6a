"""The records of volumes, and their hints: their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.shardfile import check_of
from dostore.core.shardlog import (
    HEADER_BYTES,
    Gap,
    Kind,
    SegmentHeader,
    padding,
    parse_header,
    records,
)
from dostore.core.volumelog import (
    FORMAT,
    HEAD_BYTES,
    HINT_BYTES,
    MAX_BODY_BYTES,
    VOLUME,
    Entry,
    Hints,
    VolumeRecord,
    change,
    encode_chunk,
    hint_of,
    parse_head,
    parse_hints,
)
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

HEADER = SegmentHeader(3, 0x1234_5678_9ABC_DEF0, FORMAT)


def digest(number: int) -> bytes:
    """A content's hash."""
    return hashlib.sha256(bytes([number])).digest()


def packed(number: int, body: bytes) -> Entry:
    """An entry with a body."""
    return Entry(
        Kind.PACKED, digest(number), number % 6, body, check_of(body), 4, 2, 65536, 17, 1, 0, 0
    )


ENTRIES = [
    packed(1, b"some bytes"),
    packed(2, b""),
    change(Kind.REMOVED, digest(1), 1, 3),
    Entry(Kind.WRITTEN, digest(3), 3, bytes(1000), check_of(bytes(1000))),
    change(Kind.RESTORED, digest(1), 1, 2, 999, carried=True),
]


def volume(entries: Sequence[Entry], header: SegmentHeader = HEADER) -> bytes:
    """A volume with these records, each synced before the next."""
    data = header.encode()
    for entry in entries:
        data += entry.head(header.seed, len(data), len(data), 1000) + entry.body
        data += padding(len(entry.body))
    return data


def found_in(data: bytes) -> list[VolumeRecord | Gap]:
    """What there is."""

    def read(at: int, size: int) -> bytes:
        return data[at : at + size]

    return list(records(VOLUME, HEADER.seed, len(data), read))


def records_of(entries: Sequence[Entry]) -> list[VolumeRecord]:
    """The records that these entries make."""
    return [record for record in found_in(volume(entries)) if isinstance(record, VolumeRecord)]


#: Magic, kind, index, k, m, length, block size, size.
GOLDEN_HEAD = "64535202 07 01 04 02 0a000000 00000100 11000000 01000000".replace(" ", "")
GOLDEN = (
    "70c06a3570bf8340f9741009a116851d011e70eff8b94ddef0dc714450ac39bc",
    "9ab2227e56c9c6902d06b52dd7874b14981ffdefa30d177aee41de21e6c2a773",
)


class RecordTests(SyncTestCase):
    """Records are read as they were written, or not at all."""

    def test_read(self) -> None:
        """Each says what its entry said, and where its body is."""
        data = volume(ENTRIES)
        found = records_of(ENTRIES)
        self.assertEqual(len(found), len(ENTRIES))
        for record, entry in zip(found, ENTRIES, strict=True):
            body = data[record.body : record.body + record.length]
            self.assertTrue(record.is_whole(body))
            self.assertFalse(record.is_whole(body + b"x"))
            self.assertFalse(record.is_whole(bytes(len(body))) and body[:1] not in (b"", b"\0"))
            self.assertEqual((record.synced, record.offset % 8), (record.offset, 0))
            self.assertEqual(record.time_ms, entry.time_ms or 1000)
            again = record.again(body, 5)
            entry.time_ms = again.time_ms = None
            self.assertEqual(again, entry)
        self.assertEqual([record.carried for record in found], [False] * 4 + [True])

    def test_golden(self) -> None:
        """The bytes are what the page says; a change of them is a change of the format."""
        self.assertEqual((HEAD_BYTES, HINT_BYTES), (96, 50))
        data = volume(ENTRIES)
        self.assertEqual(data[40 : 40 + 24].hex(), GOLDEN_HEAD)
        hints = encode_chunk(9, HEADER_BYTES, len(data), [hint_of(r) for r in records_of(ENTRIES)])
        self.assertEqual(
            (hashlib.sha256(data).hexdigest(), hashlib.sha256(hints).hexdigest()), GOLDEN
        )

    def test_header(self) -> None:
        """The header of a volume says its format."""
        self.assertEqual(parse_header(HEADER.encode()), HEADER)

    def test_every_bit_counts(self) -> None:
        """A head with a bit changed, in another place, cut, or of another volume is none."""
        head = ENTRIES[0].head(HEADER.seed, HEADER_BYTES, 0, 1000)
        self.assertIsNotNone(parse_head(HEADER.seed, HEADER_BYTES, head))
        for at in range(len(head)):
            hurt = head[:at] + bytes([head[at] ^ 4]) + head[at + 1 :]
            self.assertIsNone(parse_head(HEADER.seed, HEADER_BYTES, hurt))
        self.assertIsNone(parse_head(HEADER.seed, HEADER_BYTES + 8, head))
        self.assertIsNone(parse_head(HEADER.seed + 1, HEADER_BYTES, head))
        self.assertIsNone(parse_head(HEADER.seed, HEADER_BYTES, head[:-1]))

    def test_what_cannot_be(self) -> None:
        """A kind that is none, or a body that is too long, is damage."""
        for entry in (
            Entry(99, digest(1), 0),  # type: ignore[arg-type]
            Entry(Kind.PACKED, digest(1), 0, bytes(MAX_BODY_BYTES + 1)),
        ):
            self.assertIsNone(parse_head(7, 40, entry.head(7, 40, 0, 0)))

    def test_damage(self) -> None:
        """Damage hides one record; what comes after it is found."""
        data = bytearray(volume(ENTRIES))
        first, second = records_of(ENTRIES)[:2]
        data[first.offset + 20] ^= 1
        found = found_in(bytes(data))
        self.assertEqual(found[0], Gap(first.offset, second.offset))
        self.assertEqual(len(found), len(ENTRIES))


class HintTests(SyncTestCase):
    """Hints are read as far as they are whole."""

    def chunks(self) -> list[bytes]:
        """Three chunks of one hint."""
        told = [hint_of(record) for record in records_of(ENTRIES)]
        return [
            encode_chunk(9, 40, 200, told[:2]),
            encode_chunk(9, 200, 300, told[2:3]),
            encode_chunk(9, 300, 5000, told[3:]),
        ]

    def test_read(self) -> None:
        """All that was written, in its order; the seed too, if nobody knows it."""
        chunks = self.chunks()
        told = b"".join(hint_of(record) for record in records_of(ENTRIES))
        size = sum(map(len, chunks))
        for seed in (9, None):
            self.assertEqual(parse_hints(b"".join(chunks), seed), Hints(9, 5000, told, size))
        self.assertEqual(parse_hints(b"", None), Hints(None, 40, b"", 0))

    def test_cut_or_damaged_anywhere(self) -> None:
        """Chunks count up to the first that is not whole."""
        chunks = self.chunks()
        data = b"".join(chunks)
        ends = [0, len(chunks[0]), len(chunks[0]) + len(chunks[1]), len(data)]

        @given(st.integers(0, len(data) - 1), st.booleans())
        def check(at: int, cut: bool) -> None:
            hurt = data[:at] + (b"" if cut else bytes([data[at] ^ 1]) + data[at + 1 :])
            whole = max(end for end in ends if end <= at)
            self.assertEqual(parse_hints(hurt, 9), parse_hints(data[:whole], 9))
            self.assertEqual(parse_hints(hurt, 9).size, whole)

        prove(check)

    def test_of_another_volume(self) -> None:
        """Chunks of another volume, or out of their order, do not count."""
        one, two, _ = self.chunks()
        self.assertEqual(parse_hints(one, 8).seed, None)
        self.assertEqual(parse_hints(two + one, 9).end, 40)
        other = encode_chunk(8, 200, 300, [])
        self.assertEqual(parse_hints(one + other, None).end, 200)
