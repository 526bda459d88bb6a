"""The log of small shards: its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.names import ContentHash, ShardName
from dostore.core.shardlog import (
    ALIGNMENT,
    HEAD_BYTES,
    HEADER_BYTES,
    JOURNAL,
    MAX_BODY_BYTES,
    Gap,
    Kind,
    Record,
    SegmentHeader,
    encode_head,
    padding,
    parse_head,
    parse_header,
    record_size,
    records,
)
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

HEADER = SegmentHeader(3, 0x1234_5678_9ABC_DEF0)

Written = tuple[Kind, ShardName, bytes]


def name(number: int) -> ShardName:
    """A shard's name."""
    digest = hashlib.sha256(bytes([number])).digest()
    return ShardName(ContentHash(digest), number % 6, digest[::-1])


def segment(entries: Sequence[Written], header: SegmentHeader = HEADER) -> bytes:
    """A segment with these records, each synced before the next."""
    data = header.encode()
    for kind, shard, body in entries:
        head = encode_head(header.seed, len(data), len(data), kind, shard, 1000, body)
        data += head + body + padding(len(body))
    return data


ENTRIES = [
    (Kind.WRITTEN, name(1), b"some bytes"),
    (Kind.WRITTEN, name(2), b""),
    (Kind.REMOVED, name(1), b""),
    (Kind.WRITTEN, name(3), bytes(1000)),
]


class SegmentTests(SyncTestCase):
    """Segments are read as they were written, or as far as they are."""

    def found(self, data: bytes, header: SegmentHeader = HEADER) -> list[Record | Gap]:
        """What there is."""

        def read(at: int, size: int) -> bytes:
            return data[at : at + size]

        return list(records(JOURNAL, header.seed, len(data), read))

    def names(self, data: bytes) -> list[tuple[Kind, ShardName] | Gap]:
        """What there is, in short."""
        return [
            found if isinstance(found, Gap) else (found.kind, found.name)
            for found in self.found(data)
        ]

    def test_read(self) -> None:
        """Records come in order, with their bodies where they say."""
        data = segment(ENTRIES)
        found = self.found(data)
        self.assertEqual(len(found), 4)
        for record, (kind, shard, body) in zip(found, ENTRIES, strict=True):
            assert isinstance(record, Record)
            self.assertEqual((record.kind, record.name, record.time_ms), (kind, shard, 1000))
            self.assertEqual(record.synced, record.offset)
            self.assertTrue(record.is_whole(data[record.body : record.body + record.length]))
            self.assertFalse(record.is_whole(body + b"x"))
            self.assertFalse(record.is_whole(b"y" * len(body)) and body != b"")
            self.assertEqual(record.offset % ALIGNMENT, 0)
            self.assertEqual(record.end - record.offset, record_size(len(body)))

    def test_golden(self) -> None:
        """The bytes are what the page says; a change of them is a change of the format."""
        data = segment(ENTRIES)
        self.assertEqual((HEADER_BYTES, HEAD_BYTES), (40, 120))
        self.assertEqual(
            hashlib.sha256(data).hexdigest(),
            "245dfd3409f5d9cf5ecbbe25cdd98befde87e49e135c7e66f339757de21c357f",
        )

    def test_header(self) -> None:
        """A header that is not whole is none."""
        data = HEADER.encode()
        self.assertEqual(parse_header(data), HEADER)
        self.assertIsNone(parse_header(data[:-1]))
        for at in range(len(data)):
            self.assertIsNone(parse_header(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))

    def test_older_segment_in_the_same_file(self) -> None:
        """What a file held before is not read, wherever the new records end in it."""
        old = segment(ENTRIES * 3, SegmentHeader(1, 99))
        for count in range(len(ENTRIES) + 1):
            new = segment(ENTRIES[:count])
            data = new + old[len(new) :]
            self.assertEqual(len(self.found(data)), count)

    def test_moved(self) -> None:
        """A record counts only where it was written."""
        data = segment(ENTRIES[:1])
        record = data[HEADER_BYTES:]
        self.assertEqual(len(self.found(data + record)), 1)

    def test_damage(self) -> None:
        """Damage hides one record; what comes after it is found, and told from a torn end."""
        data = segment(ENTRIES)
        first, second, third, _ = (found.offset for found in self.found(data))
        hurt = bytearray(data)
        hurt[second + 20] ^= 1
        self.assertEqual(
            self.names(bytes(hurt)),
            [ENTRIES[0][:2], Gap(second, third), ENTRIES[2][:2], ENTRIES[3][:2]],
        )
        hurt[first] ^= 1
        self.assertEqual(self.names(bytes(hurt))[0], Gap(first, third))

    def test_far_behind_damage(self) -> None:
        """However much is damaged, and whatever looks like a record in it."""
        filler = (Kind.WRITTEN, name(4), b"dSR\x01" * 200_000 + b"dS")
        data = segment([ENTRIES[0], filler, ENTRIES[1]])
        found = self.found(data)
        hurt = bytearray(data)
        hurt[found[1].offset + 5] ^= 1
        self.assertEqual(
            self.names(bytes(hurt)),
            [ENTRIES[0][:2], Gap(found[1].offset, found[2].offset), ENTRIES[1][:2]],
        )

    def test_garbage(self) -> None:
        """What only looks like a record is none."""
        shard = name(1)
        for data in (
            encode_head(HEADER.seed, HEADER_BYTES, 0, 99, shard, 0),  # type: ignore[arg-type]
            b"",
            bytes(HEAD_BYTES),
            encode_head(HEADER.seed, HEADER_BYTES, 0, Kind.WRITTEN, shard, 0)[:-1],
        ):
            self.assertIsNone(parse_head(HEADER.seed, HEADER_BYTES, data))
        large = encode_head(
            HEADER.seed, HEADER_BYTES, 0, Kind.WRITTEN, shard, 0, bytes(MAX_BODY_BYTES + 1)
        )
        self.assertIsNone(parse_head(HEADER.seed, HEADER_BYTES, large))

    def test_cut_anywhere(self) -> None:
        """A segment that is cut is read up to the last record whose body is there."""
        data = segment(ENTRIES)

        @given(st.integers(0, len(data)))
        def check(size: int) -> None:
            whole = [
                record
                for record in self.found(data)
                if isinstance(record, Record) and record.body + record.length <= size
            ]
            self.assertEqual(self.found(data[:size]), whole)

        prove(check)
