"""What travels between API servers and data servers: read as it was written, or refused."""

from __future__ import annotations

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.datafields import (
    MAX_GLANCES,
    MAX_SIZE,
    ShardDigest,
    block_lengths,
    format_glance,
    format_indexes,
    format_inventory,
    format_positions,
    format_scheme,
    frame,
    parse_content_range,
    parse_glance,
    parse_indexes,
    parse_inventory,
    parse_positions,
    parse_range,
    parse_scheme,
    parse_shard_path,
    parse_size,
    shard_path,
    unframe,
)
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MAX_SHARDS, Scheme
from dostore.core.shardfile import CHECK_BYTES
from dostore.errors import BadShard, InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, digests, prove, schemes

HASH = ContentHash(hashlib.sha256(b"x").digest())
indexes = st.integers(0, MAX_SHARDS - 1)
sizes = st.integers(0, MAX_SIZE)
pairs = st.tuples(st.builds(Content, content_hashes, sizes, schemes()), indexes)
garbage = st.binary(max_size=120)


class NameTests(SyncTestCase):
    """Shards in paths, and numbers in fields."""

    @prove
    @given(content_hashes, indexes)
    def test_round_trip(self, content_hash: ContentHash, index: int) -> None:
        """What is written into a path is read from it; without an index, none."""
        path = shard_path(content_hash, index)
        self.assertEqual(parse_shard_path(path), (content_hash, index))
        self.assertEqual(parse_shard_path(content_hash.escaped.encode()), (content_hash, None))
        self.assertNotIn(b"/", path)

    def test_unknown(self) -> None:
        """A hyphen stands for a hash that is not known yet."""
        self.assertEqual(parse_shard_path(b"-.3"), (None, 3))

    def test_refused_names(self) -> None:
        """What is no hash, or no index that there can be, is refused."""
        for tail in (b".", b".-1", b".32", b".100", b".01", b".1.2", b".x", b"./../1", b".+1"):
            self.assertRaises(InvalidRequest, parse_shard_path, HASH.escaped.encode() + tail)
        for path in (b"", b".1", b"abc.1", b"%ff.1", b"..%2f..%2fetc.1", "ä.1".encode()):
            self.assertRaises(InvalidRequest, parse_shard_path, path)

    @prove
    @given(garbage)
    def test_garbage_in_a_path(self, path: bytes) -> None:
        """Anything else is refused by our own error."""
        try:
            parse_shard_path(path)
        except InvalidRequest:
            return
        self.assertTrue(path.startswith(b"-") or len(path) >= 44)

    @prove
    @given(sizes)
    def test_sizes(self, size: int) -> None:
        """A number of bytes is plain decimal; none is None."""
        self.assertEqual(parse_size(b"%d" % size, "Size"), size)
        self.assertIsNone(parse_size(None, "Size"))

    def test_refused_sizes(self) -> None:
        """Signs, zeros before, spaces and what no number of bytes can be."""
        for field in (b"", b"-1", b"+1", b"01", b" 1", b"1e3", b"0x1", b"%d" % (MAX_SIZE + 1)):
            error = self.assertRaises(InvalidRequest, parse_size, field, "Upload-Offset")
            self.assertTrue(error.detail.startswith("Upload-Offset "))

    @prove
    @given(schemes())
    def test_schemes(self, scheme: Scheme) -> None:
        """A scheme is read as it was written; none is the default."""
        self.assertEqual(parse_scheme(format_scheme(scheme)), scheme)
        self.assertEqual(parse_scheme(None), Scheme())

    def test_refused_schemes(self) -> None:
        """Other forms, and schemes that there cannot be."""
        for field in (
            b"",
            b"4+2",
            b"4+2/",
            b"0+2/65536",
            b"4+2/100",
            b"4+2/9999999",
            b"30+9/65536",
        ):
            self.assertRaises(InvalidRequest, parse_scheme, field)

    @prove
    @given(st.sets(indexes, min_size=1))
    def test_indexes(self, held: set[int]) -> None:
        """Indexes come back in order."""
        self.assertEqual(parse_indexes(format_indexes(held)), tuple(sorted(held)))

    def test_refused_indexes(self) -> None:
        """Nothing, signs, letters and lists without an end."""
        for text in ("", ",", "1,", "-1", "a", "100", "1 ,2", ",".join(["1"] * 33)):
            self.assertRaises(InvalidRequest, parse_indexes, text)


class DigestTests(SyncTestCase):
    """What a Digest field promises of a shard."""

    @prove
    @given(
        st.none() | digests, st.none() | digests, st.none() | st.binary(min_size=16, max_size=16)
    )
    def test_round_trip(self, body: bytes | None, shard: bytes | None, check: bytes | None) -> None:
        """All, some or none."""
        digest = ShardDigest(body, shard, check)
        self.assertEqual(ShardDigest.parse(digest.format()), digest)

    def test_others(self) -> None:
        """Unknown algorithms are passed over; names may be in any case; no field is no promise."""
        value = base64.b64encode(HASH.digest)
        field = b"md5=xyz, Sha-256=%b ,unixsum=30637" % value
        self.assertEqual(ShardDigest.parse(field), ShardDigest(body=HASH.digest))
        self.assertEqual(ShardDigest.parse(None), ShardDigest())

    def test_refused(self) -> None:
        """Malformed, of another length, or twice."""
        value = base64.b64encode(HASH.digest)
        for field in (
            b"SHA-256",
            b"SHA-256=",
            b"SHA-256=!" + value,
            b"dostore-shard=YWJj",
            b"dostore-check=" + value,
            b"SHA-256=%b,SHA-256=%b" % (value, value),
        ):
            self.assertRaises(InvalidRequest, ShardDigest.parse, field)


class RangeTests(SyncTestCase):
    """Ranges of bytes."""

    @prove
    @given(st.integers(1, 50), st.integers(0, 60), st.integers(0, 60))
    def test_as_slices(self, size: int, first: int, last: int) -> None:
        """A range is what a slice of the bytes is, and one that meets no byte is refused."""
        whole = bytes(range(size))
        for field, slice_of in (
            (b"bytes=%d-%d" % (first, last), whole[first : last + 1]),
            (b"bytes=%d-" % first, whole[first:]),
            (b"bytes=-%d" % last, whole[-last:] if last else b""),
        ):
            if field.endswith(b"-%d" % last) and b"=-" not in field and last < first:
                self.assertIsNone(parse_range(field, size))
            elif not slice_of:
                self.assertRaises(ValueError, parse_range, field, size)
            else:
                span = parse_range(field, size)
                assert span is not None
                self.assertEqual(whole[span[0] :][: span[1]], slice_of)

    def test_what_is_ignored(self) -> None:
        """No range, several, other units and what is malformed ask for everything."""
        for field in (
            None,
            b"",
            b"bytes=-",
            b"bytes=1",
            b"bytes=1-2,4-5",
            b"lines=1-2",
            b"bytes=a-b",
        ):
            self.assertIsNone(parse_range(field, 10))

    def test_nothing_there(self) -> None:
        """Of no bytes there is no range."""
        self.assertRaises(ValueError, parse_range, b"bytes=0-", 0)

    def test_content_range(self) -> None:
        """What an answer tells of its part."""
        self.assertEqual(parse_content_range(b"bytes 1-5/10"), (1, 5, 10))
        for field in (None, b"", b"bytes */10", b"bytes 1-5/*", b"bytes 1-5/10 "):
            self.assertIsNone(parse_content_range(field))


class FrameTests(SyncTestCase):
    """Blocks with their checks."""

    @prove
    @given(st.integers(1, 100_000), st.data())
    def test_round_trip(self, size: int, data: st.DataObject) -> None:
        """Any blocks of a shard, framed and unframed, are the same; each costs one check."""
        content = Content(HASH, size, Scheme(4, 2, 4096))
        blocks = content.scheme.stripe_count(size)
        first = data.draw(st.integers(0, blocks))
        count = data.draw(st.integers(0, blocks - first))
        lengths = block_lengths(content, first, count)
        self.assertEqual(sum(lengths), content.scheme.block_range_length(size, first, count))
        plain = data.draw(st.binary(min_size=sum(lengths), max_size=sum(lengths)))
        framed = b"".join(frame(plain, lengths))
        self.assertEqual(len(framed), len(plain) + CHECK_BYTES * count)
        self.assertEqual(b"".join(unframe(framed, lengths)), plain)

    @prove
    @given(st.data())
    def test_no_change_goes_unnoticed(self, data: st.DataObject) -> None:
        """One bit changed anywhere, or bytes missing, is a bad shard."""
        lengths = [40, 40, 7]
        plain = data.draw(st.binary(min_size=87, max_size=87))
        framed = bytearray(b"".join(frame(plain, lengths)))
        framed[data.draw(st.integers(0, len(framed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        self.assertRaises(BadShard, unframe, bytes(framed), lengths)
        cut = data.draw(st.integers(0, len(framed) - 1))
        self.assertRaises(BadShard, unframe, b"".join(frame(plain, lengths))[:cut], lengths)


class ListTests(SyncTestCase):
    """Lists of shards, one a line."""

    @prove
    @given(st.lists(pairs, max_size=5))
    def test_glance(self, wanted: list[tuple[Content, int]]) -> None:
        """What is asked for is read as it was written."""
        self.assertEqual(parse_glance(format_glance(wanted)), wanted)

    def test_refused_glances(self) -> None:
        """Lines of another form, too many of them, and an end in the middle of one."""
        line = format_glance([(Content(HASH, 5, Scheme()), 1)])
        self.assertEqual(len(parse_glance(line * MAX_GLANCES)), MAX_GLANCES)
        for body in (
            line * (MAX_GLANCES + 1),
            line[:-1],
            b"\n",
            line.replace(b" 5 ", b" "),
            line.replace(b".1 ", b" "),
            line.replace(HASH.escaped.encode(), b"-"),
            line.replace(b" 5 ", b" -5 "),
            line.replace(b"4+2", b"0+2"),
        ):
            self.assertRaises(InvalidRequest, parse_glance, body)

    @prove
    @given(st.integers(0, 9), st.data())
    def test_positions(self, count: int, data: st.DataObject) -> None:
        """Positions are those of what was asked for."""
        positions = data.draw(st.lists(st.integers(0, count - 1), max_size=9)) if count else []
        self.assertEqual(parse_positions(format_positions(positions), count), positions)

    def test_refused_positions(self) -> None:
        """Others, and what is no number."""
        for body in (b"5\n", b"4", b"-1\n", b"x\n", b"<html>\n", b"\n"):
            self.assertRaises(InvalidRequest, parse_positions, body, 5)

    @prove
    @given(
        st.integers(0, 255),
        st.dictionaries(digests, st.sets(indexes, min_size=1), max_size=5),
    )
    def test_inventory(self, page: int, held: dict[bytes, set[int]]) -> None:
        """A page is read as it was written."""
        told = {ContentHash(bytes([page]) + d[1:]): tuple(sorted(i)) for d, i in held.items()}
        self.assertEqual(parse_inventory(format_inventory(told.items()), page), told)

    def test_refused_inventories(self) -> None:
        """Contents of another page, other lines, and what is no text."""
        page = HASH.digest[0]
        line = format_inventory([(HASH, [1])])
        self.assertRaises(InvalidRequest, parse_inventory, line, (page + 1) % 256)
        for body in (line[:-1], b"\n", b"<html></html>\n", b"\xff\n", line.replace(b" 1", b" x")):
            self.assertRaises(InvalidRequest, parse_inventory, body, page)

    @prove
    @given(garbage)
    def test_garbage(self, body: bytes) -> None:
        """Whatever comes, the only error is our own."""
        for parse in (
            lambda: parse_glance(body),
            lambda: parse_positions(body, 3),
            lambda: parse_inventory(body, 0),
            lambda: ShardDigest.parse(body),
            lambda: parse_range(body, 3),
            lambda: parse_content_range(body),
        ):
            try:
                parse()
            except (InvalidRequest, ValueError) as error:
                self.assertIsNotNone(str(error))
