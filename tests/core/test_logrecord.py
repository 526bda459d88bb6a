"""The metadata log's bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dostore.core import logrecord
from dostore.core.logrecord import (
    FOOTER_BYTES,
    HEADER_BYTES,
    MAX_NUMBER,
    MAX_PAYLOAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    End,
    Record,
    SegmentHeader,
    SegmentReader,
    SnapshotFooter,
    TermStart,
    decode_versions,
    encode_record,
    encode_version,
    is_void,
    join_versions,
    last_seq,
)
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove, schemes, texts

STORE = bytes(range(16))

HEADER = SegmentHeader(STORE, 3, 7, 7, 1_700_000_000_000)

numbers = st.integers(1, MAX_NUMBER)

contents = st.builds(Content, content_hashes, st.integers(0, MAX_NUMBER), schemes())

versions = st.builds(
    Version,
    texts,
    numbers,
    st.none() | contents,
    texts,
    texts,
    st.dictionaries(texts, texts, max_size=3),
)


def segment(header: SegmentHeader, payloads: list[bytes]) -> bytes:
    """A whole segment."""
    records = [
        encode_record(header.seed, Record(header.carried_from + i, payload))
        for i, payload in enumerate(payloads)
    ]
    return header.encode() + b"".join(records)


def read(data: bytes, step: int = 1 << 20) -> tuple[SegmentReader, list[Record]]:
    """Read ``data`` in pieces of ``step`` bytes."""
    reader = SegmentReader()
    records: list[Record] = []
    for at in range(0, len(data), step):
        records += reader.feed(data[at : at + step])
    reader.finish()
    return reader, records


class SegmentTests(SyncTestCase):
    """Headers and records."""

    @prove
    @given(numbers, st.data(), st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 200))
    def test_what_was_written_is_read_in_pieces_of_any_size(
        self, term: int, data: st.DataObject, payloads: list[bytes], step: int
    ) -> None:
        """Reading gives each record, in order, however the bytes arrive."""
        first = data.draw(st.integers(1, MAX_NUMBER - 10))
        carried = data.draw(st.integers(1, first))
        header = SegmentHeader(STORE, term, first, carried, 5)
        whole = segment(header, payloads)
        reader, records = read(whole, step)
        self.assertEqual(reader.header, header)
        self.assertEqual(reader.end, End.CLEAN)
        self.assertEqual(reader.offset, len(whole))
        self.assertEqual(records, [Record(carried + i, p) for i, p in enumerate(payloads)])

    @prove
    @given(st.lists(st.binary(max_size=50), max_size=4), st.data())
    def test_a_cut_gives_the_whole_records_before_it(
        self, payloads: list[bytes], data: st.DataObject
    ) -> None:
        """A file that ends anywhere gives what is whole, and the place where that ends."""
        whole = segment(HEADER, payloads)
        cut = data.draw(st.integers(0, len(whole)))
        reader, records = read(whole[:cut])
        sound = [len(segment(HEADER, payloads[:n])) for n in range(len(payloads) + 1)]
        fitting = [n for n, length in enumerate(sound) if length <= cut]
        count = fitting[-1] if fitting else 0
        self.assertEqual([r.payload for r in records], payloads[:count])
        self.assertEqual(reader.offset, sound[count] if fitting else 0)
        self.assertEqual(reader.end, End.CLEAN if cut in sound else End.TORN)

    @prove
    @given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.data())
    def test_a_flipped_bit_is_found(self, payloads: list[bytes], data: st.DataObject) -> None:
        """A bit changed anywhere ends the reading before the record that it is in."""
        whole = segment(HEADER, payloads)
        bit = data.draw(st.integers(0, len(whole) * 8 - 1))
        garbled = bytearray(whole)
        garbled[bit // 8] ^= 1 << bit % 8
        reader, records = read(bytes(garbled))
        self.assertNotEqual(reader.end, End.CLEAN)
        self.assertLessEqual(reader.offset, bit // 8)
        self.assertEqual([r.payload for r in records], payloads[: len(records)])
        self.assertEqual(
            reader.offset,
            len(segment(HEADER, payloads[: len(records)])) if bit >= HEADER_BYTES * 8 else 0,
        )

    @prove
    @given(st.binary(max_size=400), st.integers(1, 50))
    def test_garbage_gives_nothing_and_raises_nothing(self, garbage: bytes, step: int) -> None:
        """Bytes that nobody wrote are an end, alone or after sound records."""
        reader, records = read(garbage, step)
        self.assertEqual(records, [])
        self.assertIn(reader.end, (End.TORN, End.GARBLED))
        whole = segment(HEADER, [b"one"])
        reader, records = read(whole + garbage, step)
        self.assertEqual(records, [Record(7, b"one")])
        self.assertEqual(reader.offset, len(whole))
        self.assertEqual(reader.end is End.CLEAN, not garbage)

    def test_nothing_is_read_after_the_end(self) -> None:
        """Once reading stopped, later bytes change nothing."""
        reader = SegmentReader()
        self.assertEqual(reader.feed(b"x" * HEADER_BYTES), [])
        self.assertEqual(reader.end, End.GARBLED)
        self.assertEqual(reader.feed(segment(HEADER, [b"one"])), [])
        self.assertEqual(reader.finish(), End.GARBLED)
        self.assertEqual(reader.offset, 0)

    def test_record_of_another_segment_is_garbled(self) -> None:
        """A record copied whole from another segment does not count in this one."""
        other = SegmentHeader(STORE, 2, 7, 7, HEADER.created_ms)
        record = encode_record(other.seed, Record(7, b"one"))
        reader, records = read(HEADER.encode() + record)
        self.assertEqual((reader.end, records), (End.GARBLED, []))

    def test_records_in_another_order_are_garbled(self) -> None:
        """Records follow one another without a gap."""
        second = encode_record(HEADER.seed, Record(9, b"two"))
        reader, records = read(segment(HEADER, [b"one"]) + second)
        self.assertEqual((reader.end, len(records)), (End.GARBLED, 1))

    def test_large_records(self) -> None:
        """The largest payload is taken; a larger one is neither written nor waited for."""
        largest = bytes(MAX_PAYLOAD_BYTES)
        reader, records = read(segment(HEADER, [largest]))
        self.assertEqual((reader.end, len(records[0].payload)), (End.CLEAN, MAX_PAYLOAD_BYTES))
        with self.assertRaises(ValueError):
            encode_record(HEADER.seed, Record(7, largest + b"x"))
        huge = (MAX_PAYLOAD_BYTES + 1).to_bytes(4, "little") + (7).to_bytes(8, "little")
        reader, records = read(HEADER.encode() + huge + bytes(RECORD_OVERHEAD_BYTES))
        self.assertEqual((reader.end, records), (End.GARBLED, []))

    def test_header_with_wrong_numbers(self) -> None:
        """A header whose check is right but whose numbers cannot be is garbled."""
        for term, first, carried, created in (
            (0, 1, 1, 0),
            (MAX_NUMBER + 1, 1, 1, 0),
            (1, 0, 0, 0),
            (1, 1, 0, 0),
            (1, 1, 2, 0),
            (1, MAX_NUMBER + 1, 1, 0),
            (1, 1, 1, MAX_NUMBER + 1),
        ):
            data = SegmentHeader(STORE, term, first, carried, created).encode()
            self.assertEqual(SegmentHeader.parse(data), End.GARBLED)

    def test_newer_format(self) -> None:
        """What a newer release wrote is told apart from garbage."""
        self.patch(logrecord, "FORMAT", 2)
        header, footer = HEADER.encode(), SnapshotFooter(STORE, 1, 1, 0, bytes(16)).encode()
        self.patch(logrecord, "FORMAT", 1)
        self.assertEqual(SegmentHeader.parse(header), End.NEWER_FORMAT)
        self.assertEqual(SnapshotFooter.parse(footer, FOOTER_BYTES), End.NEWER_FORMAT)
        reader, _ = read(header)
        self.assertEqual(reader.end, End.NEWER_FORMAT)

    def test_golden(self) -> None:
        """The format itself: these bytes are what releases before this one wrote."""
        version = Version("a", 1, None, "2026-11-23T10:00:00.000Z", "text/plain", {"k": "v"})
        data = segment(HEADER, [join_versions([encode_version(version)])])
        self.assertEqual(
            data.hex(),
            "646f73746f72654c01000000000102030405060708090a0b0c0d0e0f030000000000000007000000"
            "0000000007000000000000000068e5cf8b010000b160c7384f326c49400000000700000000000000"
            "5b5b2261222c312c22323032362d31312d32335431303a30303a30302e3030305a222c2274657874"
            "2f706c61696e222c7b226b223a2276227d2c6e756c6c5d5df8fb629e5c607515",
        )


class FooterTests(SyncTestCase):
    """Snapshot footers."""

    @prove
    @given(st.integers(0, MAX_NUMBER), st.integers(0, MAX_NUMBER), st.integers(0, 1 << 40))
    def test_what_was_written_is_read(self, term: int, seq: int, size: int) -> None:
        """A footer comes back as it was."""
        footer = SnapshotFooter(STORE, term, seq, size, bytes(range(16)))
        data = footer.encode()
        self.assertEqual(len(data), FOOTER_BYTES)
        self.assertEqual(SnapshotFooter.parse(data, size + FOOTER_BYTES), footer)

    @prove
    @given(st.binary(max_size=200), st.integers(0, 300))
    def test_garbage(self, data: bytes, size: int) -> None:
        """Bytes that nobody wrote are an end."""
        self.assertIn(SnapshotFooter.parse(data, size), (End.TORN, End.GARBLED))

    def test_other_size(self) -> None:
        """A footer in a file of another size is another file's."""
        data = SnapshotFooter(STORE, 1, 1, 4096, bytes(16)).encode()
        self.assertEqual(SnapshotFooter.parse(data, 4095 + FOOTER_BYTES), End.GARBLED)
        data = SnapshotFooter(STORE, 1, MAX_NUMBER + 1, 0, bytes(16)).encode()
        self.assertEqual(SnapshotFooter.parse(data, FOOTER_BYTES), End.GARBLED)


class PayloadTests(SyncTestCase):
    """Versions in records."""

    @prove
    @given(st.lists(versions, max_size=4))
    def test_what_was_encoded_is_decoded(self, some: list[Version]) -> None:
        """Each version comes back as it was."""
        payload = join_versions([encode_version(version) for version in some])
        self.assertEqual(decode_versions(payload), some)

    def test_text_without_utf8_form(self) -> None:
        """A lone surrogate is refused with a sentence for the client."""
        for version in (
            Version("\ud800", 1, None, "", ""),
            Version("a", 1, None, "", "\udfff"),
            Version("a", 1, None, "", "", {"k": "\ud800"}),
        ):
            with self.assertRaises(InvalidRequest):
                encode_version(version)

    @prove
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_other_json(self, value: Any) -> None:
        """JSON that is no list of versions decodes to None (an empty list is one)."""
        decoded = decode_versions(json.dumps(value).encode())
        self.assertEqual(decoded, [] if value == [] else None)

    def test_versions_with_one_wrong_part(self) -> None:
        """Each part is checked."""
        stored = [str(ContentHash(bytes(32))), 5, 4, 2, 65536]
        good: list[Any] = ["a", 1, "then", "text/plain", {"k": "v"}, stored]
        parts: list[list[Any]] = [
            [None, 1, "\ud800"],
            [0, -1, "1", 1.0, True, None, MAX_NUMBER + 1],
            [5],
            [None],
            [[], {"k": 1}, None, {"\ud800": "v"}],
            [[], stored[:4], [*stored, 1], 7, "short"],
        ]
        pieces: list[list[Any]] = [
            ["AAAA", None],
            [-1, "5", MAX_NUMBER + 1],
            [0, 40, None],
            [-1, 33],
            [1, 1 << 30],
        ]
        self.assertIsNotNone(decode_versions(json.dumps([good]).encode()))
        for index, wrongs in enumerate(parts):
            for wrong in wrongs:
                row = [*good[:index], wrong, *good[index + 1 :]]
                self.assertIsNone(decode_versions(json.dumps([row]).encode()), row)
        for index, wrongs in enumerate(pieces):
            for wrong in wrongs:
                row = [*good[:5], [*stored[:index], wrong, *stored[index + 1 :]]]
                self.assertIsNone(decode_versions(json.dumps([row]).encode()), row)
        for payload in (b"", b"[", b"\xff", b"[" * 100_000, json.dumps([good[:5]]).encode()):
            self.assertIsNone(decode_versions(payload))

    def test_scheme_comes_back(self) -> None:
        """k, m and the block size are kept with each content."""
        content = Content(ContentHash(bytes(32)), 1, Scheme(8, 3, 131072))
        decoded = decode_versions(join_versions([encode_version(Version("a", 1, content, "", ""))]))
        assert decoded is not None
        self.assertEqual(decoded[0].content, content)


class TermTests(SyncTestCase):
    """Which records count."""

    def test_later_terms_void_from_their_first_record(self) -> None:
        """A record counts until a higher term begins at or before it."""
        starts = [TermStart(1, 1), TermStart(2, 10), TermStart(4, 8)]
        self.assertEqual([is_void(1, seq, starts) for seq in (7, 8, 9)], [False, True, True])
        self.assertEqual([is_void(2, seq, starts) for seq in (7, 8, 10)], [False, True, True])
        self.assertFalse(is_void(4, 1000, starts))
        self.assertEqual([last_seq(term, starts) for term in (1, 2, 3, 4)], [7, 7, 7, None])

    @prove
    @given(
        st.lists(st.builds(TermStart, st.integers(1, 9), st.integers(1, 9)), max_size=6),
        st.integers(1, 9),
        st.integers(1, 20),
    )
    def test_both_rules_agree(self, starts: list[TermStart], term: int, seq: int) -> None:
        """The last record that counts is the last that is not void."""
        last = last_seq(term, starts)
        self.assertEqual(is_void(term, seq, starts), last is not None and seq > last)
