"""dostore.core.shardfile: what was written comes back, and no change of it goes unnoticed."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.shardfile import (
    PAGE_BLOCKS,
    PAGE_BYTES,
    TRAILER_BYTES,
    ShardFileBuilder,
    footer_size,
    hash_of_shard,
    parse_footer,
    plain_shard,
)
from dostore.core.stripes import StripeCoder
from dostore.errors import BadShard, NewerFormat
from tests.support.cases import SyncTestCase
from tests.support.properties import prove, prove_slowly
from tests.support.shards import plain_file_size

DATA = Path(__file__).parent.parent / "data"

EXAMPLE = b"this object will be seperated to 4+2"

#: One data shard and no parity, so that a file of several pages has few megabytes.
NARROW = Scheme(1, 0, MIN_BLOCK_BYTES)


def build(content_bytes: bytes, index: int, scheme: Scheme) -> tuple[bytes, str]:
    """A shard's file and its name."""
    builder = ShardFileBuilder(index, scheme)
    pieces = builder.add(StripeCoder(scheme).encode(content_bytes)[index])
    content = Content(
        ContentHash(hashlib.sha256(content_bytes).digest()), len(content_bytes), scheme
    )
    footer, name = builder.finish(content)
    return b"".join([*pieces, footer]), str(name)


def read(file: bytes) -> tuple[ShardInfo, bytes]:
    """All that a shard's file tells and holds, every check made; BadShard when one fails."""
    length = footer_size(file[-TRAILER_BYTES:])
    if length > len(file):
        raise BadShard("The footer claims to be longer than its file.")
    footer = parse_footer(file[-length:], len(file))
    pages = []
    for number in range(footer.pages):
        offset, size = footer.page_span(number)
        pages.append(footer.page(number, file[offset : offset + size]))
    pieces = []
    for page in [*pages, footer.last]:
        offset, size = page.span(page.first, page.count)
        pieces.append(page.plain(page.first, page.count, file[offset : offset + size]))
    return footer.info, b"".join(pieces)


@cache
def large() -> tuple[bytes, bytes]:
    """Content of two pages of blocks and three more, and its one shard's file."""
    content = Random(7).randbytes((2 * PAGE_BLOCKS + 2) * MIN_BLOCK_BYTES + 99)
    return content, build(content, 0, NARROW)[0]


class BuildTests(SyncTestCase):
    """ShardFileBuilder, and reading what it made."""

    def test_round_trip(self) -> None:
        """At every size near a border each shard comes back with what its footer says."""
        for scheme in [Scheme(4, 2, MIN_BLOCK_BYTES), Scheme(2, 1, MIN_BLOCK_BYTES), NARROW]:
            k, block, stripe = scheme.k, scheme.block_size, scheme.stripe_size
            for size in [0, 1, k, k + 1, block, stripe - 1, stripe, stripe + 1, 3 * stripe + 5]:
                content_bytes = Random(size).randbytes(size)
                shards = StripeCoder(scheme).encode(content_bytes)
                for index in range(scheme.shards):
                    file, _ = build(content_bytes, index, scheme)
                    info, plain = read(file)
                    self.assertEqual(info.index, index)
                    self.assertEqual((info.content.size, info.content.scheme), (size, scheme))
                    self.assertEqual(
                        info.content.hash.digest, hashlib.sha256(content_bytes).digest()
                    )
                    self.assertEqual(plain, b"".join(shards[index]))
                    self.assertEqual(len(file), plain_file_size(info.content))

    def test_pages(self) -> None:
        """Around each full page of blocks the file has the pages that it should, and comes back."""
        for blocks, pages in [
            (PAGE_BLOCKS - 1, 0),
            (PAGE_BLOCKS, 1),
            (PAGE_BLOCKS + 1, 1),
            (2 * PAGE_BLOCKS, 2),
        ]:
            content = Random(blocks).randbytes((blocks - 1) * MIN_BLOCK_BYTES + 1)
            file, _ = build(content, 0, NARROW)
            footer = parse_footer(file[-footer_size(file[-TRAILER_BYTES:]) :], len(file))
            self.assertEqual((footer.pages, footer.last.first), (pages, pages * PAGE_BLOCKS))
            self.assertEqual(footer.last.count, blocks - pages * PAGE_BLOCKS)
            self.assertEqual(read(file)[1], content)
            self.assertEqual(len(file), plain_file_size(footer.info.content))

    def test_footer_stays_small(self) -> None:
        """The entries of full pages are not in the footer."""
        _, file = large()
        self.assertLess(footer_size(file[-TRAILER_BYTES:]), 300)
        self.assertEqual(read(file)[1], large()[0])

    @prove_slowly
    @given(st.data())
    def test_any_blocks_of_a_page(self, data: st.DataObject) -> None:
        """Any blocks of a page can be read and verified without the others."""
        content, file = large()
        footer = parse_footer(file[-footer_size(file[-TRAILER_BYTES:]) :], len(file))
        number = data.draw(st.integers(0, footer.pages))
        page = footer.last
        if number < footer.pages:
            offset, size = footer.page_span(number)
            page = footer.page(number, file[offset : offset + size])
        first = data.draw(st.integers(page.first, page.first + page.count - 1))
        count = data.draw(st.integers(1, page.first + page.count - first))
        offset, size = page.span(first, count)
        stored = file[offset : offset + size]
        begin = first * MIN_BLOCK_BYTES
        plain = page.plain(first, count, stored)
        self.assertEqual(plain, content[begin : begin + count * MIN_BLOCK_BYTES])

    @prove
    @given(st.lists(st.integers(1, 3), max_size=6))
    def test_added_in_portions(self, portions: list[int]) -> None:
        """However many blocks are added at a time, the file and its name are the same."""
        scheme = Scheme(2, 1, MIN_BLOCK_BYTES)
        content_bytes = Random(1).randbytes(7 * scheme.stripe_size - 3)
        blocks = StripeCoder(scheme).encode(content_bytes)[2]
        builder = ShardFileBuilder(2, scheme)
        pieces = []
        for portion in [*portions, len(blocks)]:
            pieces += builder.add(blocks[:portion])
            blocks = blocks[portion:]
            self.assertEqual(builder.size, sum(map(len, pieces)))
        content = Content(
            ContentHash(hashlib.sha256(content_bytes).digest()), len(content_bytes), scheme
        )
        footer, name = builder.finish(content)
        self.assertEqual((b"".join([*pieces, footer]), str(name)), build(content_bytes, 2, scheme))

    def test_wrong_blocks(self) -> None:
        """Blocks that are no shard of the content, by number, length or scheme, are refused."""
        scheme = Scheme(2, 1, MIN_BLOCK_BYTES)
        content_hash = ContentHash(bytes(32))
        for blocks, size in [
            ([], 1),
            ([b"a"], 0),
            ([b"a"], scheme.stripe_size + 1),
            ([b"ab"], 2),
            ([b"a", bytes(MIN_BLOCK_BYTES)], scheme.stripe_size + 3),
        ]:
            builder = ShardFileBuilder(0, scheme)
            builder.add(blocks)
            self.assertRaises(ValueError, builder.finish, Content(content_hash, size, scheme))
        builder = ShardFileBuilder(0, scheme)
        builder.add([b"a"])
        self.assertRaises(
            ValueError, builder.finish, Content(content_hash, 2, Scheme(2, 0, MIN_BLOCK_BYTES))
        )


class PlainShardTests(SyncTestCase):
    """The file of a shard of one block, made at once."""

    def test_as_the_builder(self) -> None:
        """It is what the builder makes, for every size of a stripe and every shard."""
        for scheme in (Scheme(), Scheme(4, 2, MIN_BLOCK_BYTES), Scheme(1, 0, MIN_BLOCK_BYTES)):
            for size in (1, 2, 5, 4096, scheme.stripe_size - 1, scheme.stripe_size):
                data = Random(size).randbytes(size)
                content = Content(ContentHash(hashlib.sha256(data).digest()), size, scheme)
                for index, (block,) in enumerate(StripeCoder(scheme).encode(data)):
                    file, name = plain_shard(content, index, block)
                    self.assertEqual((file, str(name)), build(data, index, scheme))

    def test_wrong_block(self) -> None:
        """A block that is no shard of such a content, or of one of none or more, is refused."""
        scheme = Scheme(4, 2, MIN_BLOCK_BYTES)
        for size, length in ((5, 1), (5, 3), (0, 0), (scheme.stripe_size + 1, MIN_BLOCK_BYTES)):
            with self.assertRaises(ValueError):
                plain_shard(Content(ContentHash(bytes(32)), size, scheme), 0, bytes(length))


class GoOnTests(SyncTestCase):
    """A builder that takes up what another began."""

    def test_at_every_place(self) -> None:
        """Wherever the first one stopped, the file and its name are those of a single one."""
        content_bytes, whole = large()
        blocks = StripeCoder(NARROW).encode(content_bytes)[0]
        content = Content(
            ContentHash(hashlib.sha256(content_bytes).digest()), len(content_bytes), NARROW
        )
        for stop in (0, 1, 2, PAGE_BLOCKS - 1, PAGE_BLOCKS, PAGE_BLOCKS + 1, len(blocks)):
            entries: list[bytes] = []
            first = ShardFileBuilder(0, NARROW)
            pieces = first.add(blocks[:stop], entries)
            self.assertEqual((first.blocks, len(entries)), (stop, stop))
            second = ShardFileBuilder(0, NARROW)
            second.go_on(b"".join(entries), [len(block) for block in blocks[:stop]])
            self.assertEqual(
                (second.size, second.blocks, second.plain_size),
                (first.size, first.blocks, first.plain_size),
            )
            pieces += second.add(blocks[stop:])
            footer, name = second.finish(content)
            self.assertTrue(b"".join([*pieces, footer]) == whole, str(stop))
            self.assertEqual(name, self.name_of(blocks, content))

    def name_of(self, blocks: list[bytes | memoryview], content: Content) -> ShardName:
        """What a single builder calls the shard."""
        builder = ShardFileBuilder(0, NARROW)
        builder.add(blocks)
        return builder.finish(content)[1]

    def test_one_block(self) -> None:
        """A shard of one block is named by its bytes, which are told again."""
        first = ShardFileBuilder(0, NARROW)
        entries: list[bytes] = []
        first.add([b"the only block"], entries)
        second = ShardFileBuilder(0, NARROW)
        second.go_on(entries[0], [14])
        second.keep_first(memoryview(b"the only block"))
        content = Content(ContentHash(bytes(32)), 14, NARROW)
        self.assertEqual(second.finish(content), first.finish(content))

    def test_impossible_entries(self) -> None:
        """An entry of no bytes, or of more than its block has."""
        for stored in (0, 15, 1 << 31):
            builder = ShardFileBuilder(0, NARROW)
            with self.assertRaises(BadShard):
                builder.go_on(struct.pack("<I16s", stored, b""), [14])

    def test_group_offset(self) -> None:
        """Each group of blocks begins after the page of the one before."""
        builder = ShardFileBuilder(0, NARROW)
        for group in range(3):
            self.assertEqual(builder.group_offset(group), builder.size)
            builder.add([bytes(MIN_BLOCK_BYTES)] * PAGE_BLOCKS)


class NameTests(SyncTestCase):
    """What a shard's file is called."""

    def test_one_block(self) -> None:
        """A shard of one block, and one of none, is named by the SHA-256 of its bytes."""
        for content, digest in [(EXAMPLE, EXAMPLE[9:18]), (b"", b"")]:
            _, name = build(content, 1, Scheme())
            expected = base64.b64encode(hashlib.sha256(digest).digest()).decode()
            self.assertEqual(name.split(".")[1:], ["1", expected.replace("/", "%2F")])

    def test_several_blocks(self) -> None:
        """A longer one is named by the SHA-256 of its blocks' checks, one after the other."""
        content = Random(3).randbytes(2 * MIN_BLOCK_BYTES + 1)
        _, name = build(content, 0, NARROW)
        checks = [
            xxhash.xxh3_128_digest(content[start : start + MIN_BLOCK_BYTES])
            for start in range(0, len(content), MIN_BLOCK_BYTES)
        ]
        expected = base64.b64encode(hashlib.sha256(b"".join(checks)).digest()).decode()
        self.assertEqual(name.split(".")[2], expected.replace("/", "%2F"))

    def test_without_a_file(self) -> None:
        """The hash is the same when it is made of the blocks alone."""
        for size in (1, MIN_BLOCK_BYTES, MIN_BLOCK_BYTES + 1, 5 * MIN_BLOCK_BYTES):
            content = Random(size).randbytes(size)
            told = base64.b64encode(hash_of_shard(StripeCoder(NARROW).encode(content)[0]))
            name = build(content, 0, NARROW)[1]
            self.assertEqual(told.decode().replace("/", "%2F"), name.split(".")[2])


class PinnedTests(SyncTestCase):
    """The format, byte by byte."""

    def test_pinned(self) -> None:
        """Files and names are, for ever, what they were when the format was made."""
        pinned = json.loads((DATA / "shard-files.json").read_text())
        files = [build(EXAMPLE, index, Scheme()) for index in range(6)]
        self.assertEqual(
            [{"name": name, "file": file.hex()} for file, name in files], pinned["36 bytes in 4+2"]
        )
        self.assertEqual(
            hashlib.sha256(large()[1]).hexdigest(), pinned["sha256 of a file of two pages"]
        )

    def test_by_the_book(self) -> None:
        """A footer is laid out as the format's description says."""
        file, _ = build(EXAMPLE, 5, Scheme())
        block, rest = file[:9], file[9:]
        entry = struct.pack("<I", 9) + xxhash.xxh3_128_digest(block)
        trailer = (
            b"DOSTSHRD"
            + struct.pack("<HHBBBBIIIQ", 1, 0, 4, 2, 5, 0, 65536, 1, 0, 36)
            + hashlib.sha256(EXAMPLE).digest()
        )
        self.assertEqual(rest[:-16], entry + trailer)
        self.assertEqual(rest[-16:], xxhash.xxh3_128_digest(entry + trailer))


class DamageTests(SyncTestCase):
    """Every change is found, and found as BadShard."""

    def assert_bad(self, file: bytes) -> None:
        """Reading it fails before anything of it could be used."""
        self.assertRaises(BadShard, read, file)

    def small(self) -> list[bytes]:
        """Small files of each kind: no block, one, several."""
        narrow = Random(4).randbytes(2 * MIN_BLOCK_BYTES + 3)
        return [
            build(b"", 0, Scheme())[0],
            build(EXAMPLE, 0, Scheme())[0],
            build(EXAMPLE, 5, Scheme())[0],
            build(narrow, 0, NARROW)[0],
        ]

    def test_every_byte(self) -> None:
        """A change of any single byte of a small file is found, to whatever it was changed."""
        for file in self.small()[:3]:
            for at in range(len(file)):
                for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
                    damaged = bytearray(file)
                    damaged[at] ^= mask
                    self.assert_bad(bytes(damaged))

    def test_every_byte_of_several_blocks(self) -> None:
        """So it is in a file of several blocks."""
        file = self.small()[3]
        damaged = bytearray(file)
        for at in range(len(file)):
            damaged[at] ^= 0x10
            self.assert_bad(bytes(damaged))
            damaged[at] ^= 0x10

    @prove_slowly
    @given(st.data())
    def test_a_byte_of_a_large_file(self, data: st.DataObject) -> None:
        """So it is in a file of several pages: in blocks, pages and footer."""
        _, file = large()
        footer = footer_size(file[-TRAILER_BYTES:])
        page = PAGE_BLOCKS * MIN_BLOCK_BYTES
        at = data.draw(
            st.one_of(
                st.integers(0, len(file) - 1),
                st.integers(page, page + PAGE_BYTES - 1),
                st.integers(len(file) - footer, len(file) - 1),
            )
        )
        damaged = bytearray(file)
        damaged[at] ^= data.draw(st.integers(1, 255))
        self.assert_bad(bytes(damaged))

    def test_cut(self) -> None:
        """A small file that was cut at any length, at its end or its beginning, is found."""
        for file in self.small():
            for length in range(len(file)):
                self.assert_bad(file[:length])
                self.assert_bad(file[len(file) - length :])

    def test_grown(self) -> None:
        """So is one that has grown at its end, its beginning or in the middle."""
        for file in self.small():
            for more in (b"\0", b"x" * 4096, file):
                self.assert_bad(file + more)
                self.assert_bad(more + file)
            self.assert_bad(file[:5] + b"\0" + file[5:])

    def test_zeroed(self) -> None:
        """A file of zeros, and one whose end or beginning was zeroed, is found."""
        for file in self.small()[1:]:
            self.assert_bad(bytes(len(file)))
            for at in range(1, len(file)):
                self.assert_bad(file[:at] + bytes(len(file) - at))
            self.assert_bad(bytes(9) + file[9:])

    def test_swapped_footers(self) -> None:
        """The footer of another shard or another content, or of an older write, is found."""
        scheme = Scheme(2, 1, MIN_BLOCK_BYTES)
        size = 3 * scheme.stripe_size - 10
        files = [
            build(Random(seed).randbytes(size), index, scheme)[0]
            for seed in (1, 2)
            for index in range(3)
        ]
        length = footer_size(files[0][-TRAILER_BYTES:])
        for one, other in combinations(files, 2):
            self.assert_bad(one[:-length] + other[-length:])
            self.assert_bad(other[:-length] + one[-length:])

    def test_swapped_blocks_and_pages(self) -> None:
        """Blocks in another order are found, and so are pages."""
        file = bytearray(self.small()[3])
        block = MIN_BLOCK_BYTES
        file[:block], file[block : 2 * block] = file[block : 2 * block], file[:block]
        self.assert_bad(bytes(file))
        file = bytearray(large()[1])
        first = PAGE_BLOCKS * block
        second = first + PAGE_BYTES + PAGE_BLOCKS * block
        one, other = file[first : first + PAGE_BYTES], file[second : second + PAGE_BYTES]
        file[first : first + PAGE_BYTES], file[second : second + PAGE_BYTES] = other, one
        self.assert_bad(bytes(file))

    def test_names_the_block(self) -> None:
        """The error says which block is damaged, counted from the shard's first."""
        _, file = large()
        number = PAGE_BLOCKS + 5
        footer = parse_footer(file[-footer_size(file[-TRAILER_BYTES:]) :], len(file))
        offset, size = footer.page_span(1)
        page = footer.page(1, file[offset : offset + size])
        offset, size = page.span(number - 1, 3)
        stored = bytearray(file[offset : offset + size])
        stored[MIN_BLOCK_BYTES + 7] ^= 1
        error = self.assertRaises(BadShard, page.plain, number - 1, 3, bytes(stored))
        self.assertIn(f"Block {number} ", error.detail)
        self.assertRaises(BadShard, page.plain, number, 1, bytes(stored)[MIN_BLOCK_BYTES:])
        page.plain(number + 1, 1, bytes(stored)[2 * MIN_BLOCK_BYTES :])


def trailer(
    *,
    major: int = 1,
    k: int = 4,
    m: int = 2,
    index: int = 0,
    compression: int = 0,
    block: int = 65536,
    entries: int = 0,
    pages: int = 0,
    size: int = 0,
) -> bytes:
    """A trailer up to its check."""
    fields = struct.pack(
        "<HHBBBBIIIQ", major, 0, k, m, index, compression, block, entries, pages, size
    )
    return b"DOSTSHRD" + fields + bytes(32)


def sealed(body: bytes) -> bytes:
    """With its check."""
    return body + xxhash.xxh3_128_digest(body)


class GarbageTests(SyncTestCase):
    """Bytes that nobody wrote, and footers that are whole but make no sense."""

    @prove
    @given(st.binary(max_size=300))
    def test_garbage(self, file: bytes) -> None:
        """Any bytes are BadShard, whether or not they end like a trailer."""
        self.assertRaises(BadShard, read, file)
        self.assertRaises(BadShard, parse_footer, file, len(file))
        self.assertRaises(BadShard, read, b"DOSTSHRD" + file.ljust(TRAILER_BYTES - 8, b"\0"))

    @prove
    @given(st.binary(max_size=200))
    def test_checked_garbage(self, body: bytes) -> None:
        """So are bytes with a valid check, of any length, with or without the magic."""
        self.assertRaises(BadShard, read, sealed(body))
        self.assertRaises(BadShard, parse_footer, sealed(body), 10**6)

    @prove
    @given(
        st.binary(max_size=100),
        st.lists(
            st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16)), max_size=3
        ),
        st.lists(
            st.tuples(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16)), max_size=3
        ),
        st.integers(0, 3),
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, 2**32 - 1),
        st.integers(1, 2**64 - 1),
    )
    def test_checked_nonsense(
        self,
        blocks: bytes,
        entries: list[tuple[int, bytes]],
        references: list[tuple[int, bytes]],
        k: int,
        m: int,
        index: int,
        block: int,
        size: int,
    ) -> None:
        """A footer with a valid check but impossible numbers is BadShard, whatever the numbers."""
        body = b"".join(struct.pack("<I16s", *entry) for entry in entries)
        body += b"".join(struct.pack("<Q16s", *reference) for reference in references)
        body += trailer(
            k=k,
            m=m,
            index=index,
            block=block,
            entries=len(entries),
            pages=len(references),
            size=size,
        )
        self.assertRaises(BadShard, read, blocks + sealed(body))

    def test_impossible_numbers(self) -> None:
        """Each number of a footer that cannot be is refused for itself."""
        self.assertEqual(read(sealed(trailer()))[1], b"")
        for wrong in [
            trailer(k=0),
            trailer(k=200),
            trailer(k=20, m=20),
            trailer(block=0),
            trailer(block=2**31),
            trailer(index=6),
            trailer(size=1),
        ]:
            self.assert_bad(sealed(wrong))
        entry = struct.pack("<I16s", 0, xxhash.xxh3_128_digest(b""))
        self.assert_bad(sealed(entry + trailer(entries=1)))

    def assert_bad(self, file: bytes) -> None:
        """Reading it fails."""
        self.assertRaises(BadShard, read, file)

    def test_too_many_entries(self) -> None:
        """A trailer that claims more entries than a page takes is refused before they are read."""
        self.assertRaises(BadShard, footer_size, sealed(trailer(entries=PAGE_BLOCKS)))
        self.assertGreater(footer_size(sealed(trailer(entries=PAGE_BLOCKS - 1))), 20_000)

    def test_page_beyond_the_file(self) -> None:
        """A reference to a page outside the file is refused before it is read."""
        _, file = large()
        length = footer_size(file[-TRAILER_BYTES:])
        body = bytearray(file[-length:-16])
        at = 3 * 20
        for offset in (len(file), 2**64 - 1):
            struct.pack_into("<Q", body, at, offset)
            self.assertRaises(BadShard, parse_footer, sealed(bytes(body)), len(file))

    def test_page_in_another_place(self) -> None:
        """A page whose blocks do not end where it begins is refused, though its check is right."""
        _, file = large()
        length = footer_size(file[-TRAILER_BYTES:])
        body = bytearray(file[-length:-16])
        at = 3 * 20
        (offset,) = struct.unpack_from("<Q", body, at)
        struct.pack_into("<Q", body, at, offset - 1)
        footer = parse_footer(sealed(bytes(body)), len(file))
        error = self.assertRaises(BadShard, footer.page, 0, file[offset : offset + PAGE_BYTES])
        self.assertIn("is not where", error.detail)

    def test_short_page(self) -> None:
        """A page that could not be read in full is BadShard."""
        _, file = large()
        footer = parse_footer(file[-footer_size(file[-TRAILER_BYTES:]) :], len(file))
        offset, size = footer.page_span(0)
        for length in (0, 1, 20, size - 1):
            self.assertRaises(BadShard, footer.page, 0, file[offset : offset + length])

    def test_newer_format(self) -> None:
        """A whole footer of a later format or another compression is told apart from damage."""
        for newer in (trailer(major=2), trailer(compression=2)):
            error = self.assertRaises(NewerFormat, read, sealed(newer))
            self.assertIn("Upgrade", error.detail)
            self.assert_bad(newer + bytes(16))
