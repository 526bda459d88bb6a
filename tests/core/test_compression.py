"""dostore.core.compression, and shard files whose blocks are compressed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import zlib
from random import Random

import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dostore.core.compression import MAX_LEVEL, MIN_LEVEL, Shrinker, inflate
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Scheme
from dostore.core.shardfile import (
    PAGE_BLOCKS,
    PAGE_BYTES,
    TRAILER_BYTES,
    ShardFileBuilder,
    footer_size,
    parse_footer,
)
from dostore.core.stripes import StripeCoder
from dostore.errors import BadShard
from tests.core.test_shardfile import DATA, NARROW, read, sealed, trailer
from tests.support.cases import SyncTestCase
from tests.support.properties import prove, prove_slowly
from tests.support.shards import plain_file_size

LEVELS = range(MIN_LEVEL, MAX_LEVEL + 1)

#: What shrinks, what does not, and what does after a while.
TEXT = b"The quick brown fox jumps over the lazy dog. " * 200


def deflated(data: bytes) -> bytes:
    """A raw deflate stream by another library than the one that is tested."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush()


def file_of(content_bytes: bytes, index: int, scheme: Scheme, level: int | None) -> bytes:
    """A shard's file, and with it the name's proof: it is the same as that of a plain file."""
    content = Content(
        ContentHash(hashlib.sha256(content_bytes).digest()), len(content_bytes), scheme
    )
    blocks = StripeCoder(scheme).encode(content_bytes)[index]
    builder, plain = ShardFileBuilder(index, scheme, level), ShardFileBuilder(index, scheme)
    pieces = builder.add(blocks)
    plain.add(blocks)
    (footer, name), (_, plain_name) = builder.finish(content), plain.finish(content)
    assert name == plain_name, "the name tells how the shard is stored"
    file = b"".join([*pieces, footer])
    assert builder.size + len(footer) == len(file)
    assert builder.plain_size == scheme.shard_size(len(content_bytes))
    return file


def compression_of(file: bytes) -> int:
    """The field of the trailer."""
    return file[15 - TRAILER_BYTES]


class ShrinkTests(SyncTestCase):
    """Blocks on their way to a file."""

    def test_by_another_library(self) -> None:
        """What was compressed is read by zlib, and what zlib compressed is read here."""
        for level in LEVELS:
            for size in (256, 1000, len(TEXT)):
                shrunk = Shrinker(level).shrink(TEXT[:size])
                assert shrunk is not None
                self.assertLess(len(shrunk), size)
                self.assertEqual(zlib.decompress(shrunk, wbits=-15), TEXT[:size])
                self.assertEqual(inflate(shrunk, size), TEXT[:size])
                self.assertEqual(inflate(memoryview(deflated(TEXT[:size])), size), TEXT[:size])

    def test_not_worth_it(self) -> None:
        """A block that is short, that does not shrink, or hardly does, is stored plain."""
        noise = Random(1).randbytes(MIN_BLOCK_BYTES)
        for level in LEVELS:
            for block in (b"", b"a", bytes(255), noise, noise + bytes(200)):
                self.assertIsNone(Shrinker(level).shrink(block))

    def test_pauses(self) -> None:
        """Of many blocks that do not shrink few are tried; one that does is found after 15."""
        noise = Random(2).randbytes(MIN_BLOCK_BYTES)
        shrinker = Shrinker(1)
        tried = []
        for number in range(200):
            tried += [number] if _is_tried(shrinker, noise) else []
        self.assertEqual(tried[:5], [0, 4, 12, 28, 44])
        waited = next(n for n in range(99) if shrinker.shrink(bytes(MIN_BLOCK_BYTES)))
        self.assertLessEqual(waited, 15)
        # And from there on every one is tried, with the shortest pause after a failure.
        self.assertTrue(_is_tried(shrinker, noise))
        self.assertEqual([_is_tried(shrinker, noise) for _ in range(4)], [False] * 3 + [True])

    @prove
    @given(st.binary(max_size=300), st.integers(1, 400))
    def test_garbage(self, garbage: bytes, length: int) -> None:
        """Whatever bytes are inflated, it is BadShard, or as many bytes as there are to be."""
        with contextlib.suppress(BadShard):
            self.assertEqual(len(inflate(garbage, length)), length)

    @prove
    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """So it is when bytes of a stream were changed, or its end is missing, or it goes on."""
        whole = bytearray(deflated(TEXT))
        for _ in range(data.draw(st.integers(0, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
        more = data.draw(st.binary(max_size=5))
        with contextlib.suppress(BadShard):
            self.assertEqual(len(inflate(cut + more, len(TEXT))), len(TEXT))

    def test_cut_anywhere(self) -> None:
        """A stream that was cut is refused wherever it was, as is one with a byte after its end."""
        whole = deflated(TEXT)
        for length in range(len(whole)):
            self.assertRaises(BadShard, inflate, whole[:length], len(TEXT))
        self.assertRaises(BadShard, inflate, whole + b"\0", len(TEXT))

    def test_bomb(self) -> None:
        """Of a stream of 64 MiB no more is inflated than a block has."""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        piece = bytes(1 << 20)
        bomb = b"".join(deflate.compress(piece) for _ in range(64)) + deflate.flush()
        for length in (1, MIN_BLOCK_BYTES, MAX_BLOCK_BYTES):
            self.assertRaises(BadShard, inflate, bomb, length)
        self.assertRaises(BadShard, inflate, deflated(bytes(99)), 100)


def _is_tried(shrinker: Shrinker, noise: bytes) -> bool:
    """Whether a block is compressed to see whether it shrinks; noise does not."""
    before = shrinker._left
    assert shrinker.shrink(noise) is None
    return before == 0


class DeflatedFileTests(SyncTestCase):
    """Shard files with compressed blocks."""

    def test_round_trip(self) -> None:
        """Each shard comes back at every level and size, under the name of a plain one."""
        for scheme in (Scheme(4, 2, MIN_BLOCK_BYTES), NARROW):
            for size in (0, 1, 300, 2000, scheme.stripe_size, 3 * scheme.stripe_size + 999):
                content = (TEXT * (size // len(TEXT) + 1))[:size]
                shards = StripeCoder(scheme).encode(content)
                for level in LEVELS:
                    for index in range(scheme.shards):
                        file = file_of(content, index, scheme, level)
                        info, plain = read(file)
                        self.assertEqual(plain, b"".join(shards[index]))
                        self.assertEqual(info.content.size, size)
                        if index < scheme.k and size > 2000:
                            self.assertLess(2 * len(file), plain_file_size(info.content))

    def test_what_does_not_shrink_is_a_plain_file(self) -> None:
        """A file without a compressed block is the one that is written without compression."""
        content = Random(5).randbytes(20 * MIN_BLOCK_BYTES + 5)
        for level in LEVELS:
            self.assertEqual(file_of(content, 0, NARROW, level), file_of(content, 0, NARROW, None))

    def test_both_kinds_in_one_file(self) -> None:
        """Blocks that shrink and blocks that do not are side by side."""
        noise = Random(6).randbytes(MIN_BLOCK_BYTES)
        content = bytes(MIN_BLOCK_BYTES) + noise + bytes(5 * MIN_BLOCK_BYTES) + noise + b"end"
        file = file_of(content, 0, NARROW, 1)
        self.assertEqual(compression_of(file), 1)
        self.assertEqual(read(file)[1], content)
        footer = parse_footer(file[-footer_size(file[-TRAILER_BYTES:]) :], len(file))
        lengths = [footer.last.span(number, 1)[1] for number in range(footer.last.count)]
        plain = [number for number, length in enumerate(lengths) if length == MIN_BLOCK_BYTES]
        # Those after the noise were not tried.
        self.assertEqual(plain, [1, 2, 3, 4, 7])
        self.assertEqual(lengths[8], 3)

    @prove_slowly
    @given(st.data())
    def test_any_blocks(self, data: st.DataObject) -> None:
        """Any blocks of any page are read by themselves, whatever they and their neighbours are."""
        kinds = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=70))
        noise = Random(8)
        runs = {0: lambda n: bytes(n), 1: noise.randbytes, 2: lambda n: (TEXT * 99)[:n]}
        content = b"".join(runs[kind](30 * MIN_BLOCK_BYTES) for kind in kinds)
        content = content[: len(content) - data.draw(st.integers(0, MIN_BLOCK_BYTES))]
        file = file_of(content, 0, NARROW, data.draw(st.sampled_from([None, *LEVELS])))
        self.assertEqual(read(file)[1], content)
        footer = parse_footer(file[-footer_size(file[-TRAILER_BYTES:]) :], len(file))
        number = data.draw(st.integers(0, footer.pages))
        page = footer.last
        if number < footer.pages:
            offset, size = footer.page_span(number)
            page = footer.page(number, file[offset : offset + size])
        if page.count:
            first = data.draw(st.integers(page.first, page.first + page.count - 1))
            count = data.draw(st.integers(1, page.first + page.count - first))
            offset, size = page.span(first, count)
            begin, end = first * MIN_BLOCK_BYTES, (first + count) * MIN_BLOCK_BYTES
            self.assertEqual(
                page.plain(first, count, file[offset : offset + size]), content[begin:end]
            )

    def test_taken_up_with_another_level(self) -> None:
        """A shard begun by one level and ended by another, or by none, has the same name."""
        content_bytes = TEXT * 3
        content = Content(ContentHash(bytes(32)), len(content_bytes), NARROW)
        blocks = StripeCoder(NARROW).encode(content_bytes)[0]
        whole = ShardFileBuilder(0, NARROW)
        whole.add(blocks)
        for begun, ended in ((1, None), (None, 1), (0, 3)):
            for stop in range(len(blocks) + 1):
                entries: list[bytes] = []
                first = ShardFileBuilder(0, NARROW, begun)
                pieces = first.add(blocks[:stop], entries)
                second = ShardFileBuilder(0, NARROW, ended)
                second.go_on(b"".join(entries), [len(block) for block in blocks[:stop]])
                pieces += second.add(blocks[stop:])
                footer, name = second.finish(content)
                self.assertEqual(name, whole.finish(content)[1])
                self.assertEqual(read(b"".join([*pieces, footer]))[1], content_bytes)

    def test_pinned(self) -> None:
        """A compressed file is read for ever as it was when the format was made."""
        pinned = json.loads((DATA / "shard-files.json").read_text())["compressed"]
        file = bytes.fromhex(pinned["file"])
        info, plain = read(file)
        self.assertEqual(compression_of(file), 1)
        self.assertEqual(plain, base64.b64decode(pinned["plain"]))
        scheme = info.content.scheme
        self.assertEqual(
            (scheme.k, scheme.m, scheme.block_size, info.index, info.content.size),
            (1, 0, MIN_BLOCK_BYTES, 0, len(plain)),
        )
        self.assertEqual(info.content.hash.digest, hashlib.sha256(plain).digest())
        builder = ShardFileBuilder(0, NARROW)
        builder.add(StripeCoder(NARROW).encode(plain)[0])
        self.assertEqual(str(builder.finish(info.content)[1]), pinned["name"])

    def test_by_the_book(self) -> None:
        """Stored lengths, checks of the plain bytes, and the field of the trailer."""
        plain = TEXT[:4000]
        file = file_of(plain, 0, NARROW, 1)
        (stored,) = struct.unpack_from("<I", file, len(file) - TRAILER_BYTES - 20)
        self.assertEqual(zlib.decompress(file[:stored], wbits=-15), plain)
        expected = struct.pack("<I", stored) + xxhash.xxh3_128_digest(plain)
        self.assertEqual(file[stored:-TRAILER_BYTES], expected)
        self.assertEqual(compression_of(file), 1)


class HostileFileTests(SyncTestCase):
    """Compressed files that are damaged, or that nobody wrote."""

    def assert_bad(self, file: bytes) -> None:
        """Reading it fails before anything of it could be used."""
        self.assertRaises(BadShard, read, file)

    def test_every_byte(self) -> None:
        """A change of any byte of a file is found, or changes nothing of what is read; a cut of any
        length is found.
        """
        plain = TEXT[:5000]
        file = file_of(plain, 0, NARROW, 1)
        self.assertEqual(compression_of(file), 1)
        damaged = bytearray(file)
        harmless = 0
        for at in range(len(file)):
            for mask in (1, 0x80, 0xFF):
                damaged[at] ^= mask
                with contextlib.suppress(BadShard):
                    self.assertEqual(read(bytes(damaged))[1], plain)
                    harmless += 1
                damaged[at] ^= mask
            self.assert_bad(file[:at])
            self.assert_bad(file[at + 1 :])
        # Bits after the last of a stream, and codes that it does not use.
        self.assertLess(harmless, 10)

    def made(self, blocks: list[bytes], plain: list[bytes], *, compression: int = 1) -> bytes:
        """A file whose checks are right, of one shard without parity."""
        body = b"".join(
            struct.pack("<I", len(block)) + xxhash.xxh3_128_digest(what)
            for block, what in zip(blocks, plain, strict=True)
        )
        body += trailer(
            k=1,
            m=0,
            block=MIN_BLOCK_BYTES,
            entries=len(blocks),
            size=sum(map(len, plain)),
            compression=compression,
        )
        return b"".join(blocks) + sealed(body)

    def test_well_made(self) -> None:
        """The files that the next tests spoil are right before."""
        plain = TEXT[:MIN_BLOCK_BYTES]
        self.assertEqual(read(self.made([deflated(plain)], [plain]))[1], plain)
        self.assertEqual(read(self.made([plain], [plain], compression=0))[1], plain)

    def test_bomb(self) -> None:
        """A block that would inflate to more than its plain length is damaged."""
        plain = bytes(MIN_BLOCK_BYTES)
        for size in (MIN_BLOCK_BYTES + 1, 3_000_000):
            self.assert_bad(self.made([deflated(bytes(size))], [plain]))

    def test_too_little(self) -> None:
        """So is one that inflates to less, also when its check is that of the bytes that come."""
        plain = bytes(MIN_BLOCK_BYTES)
        for size in (0, 1, MIN_BLOCK_BYTES - 1):
            self.assert_bad(self.made([deflated(bytes(size))], [plain]))

    def test_names_the_block(self) -> None:
        """The error says which block cannot be decompressed."""
        plain = [TEXT[:MIN_BLOCK_BYTES]] * 3
        stored = deflated(plain[0])
        file = self.made([stored, b"\xff" * 20, stored], plain)
        error = self.assertRaises(BadShard, read, file)
        self.assertIn("Block 1 is damaged. It cannot be decompressed", error.detail)

    def test_truncated(self) -> None:
        """A stream whose end is missing is damaged, though its entry and footer agree."""
        plain = TEXT[:MIN_BLOCK_BYTES]
        for length in range(1, len(deflated(plain))):
            self.assert_bad(self.made([deflated(plain)[:length]], [plain]))

    def test_other_bytes(self) -> None:
        """A whole stream of other bytes of the right number does not match the check."""
        plain = TEXT[:MIN_BLOCK_BYTES]
        error = self.assertRaises(BadShard, read, self.made([deflated(plain[::-1])], [plain]))
        self.assertIn("Block 0 does not match its check", error.detail)

    def test_impossible_lengths(self) -> None:
        """A stored block of no byte or of more than its plain length, and a shorter one in a file
        that claims to be plain, are refused with the footer.
        """
        plain = TEXT[:MIN_BLOCK_BYTES]
        for blocks, compression in (
            ([b""], 1),
            ([plain + b"x"], 1),
            ([deflated(plain)], 0),
            ([plain[:-1]], 0),
        ):
            file = self.made(blocks, [plain], compression=compression)
            length = footer_size(file[-TRAILER_BYTES:])
            error = self.assertRaises(BadShard, parse_footer, file[-length:], len(file))
            self.assertIn("cannot be", error.detail)

    def test_impossible_lengths_on_a_page(self) -> None:
        """So they are on a page, with its check made right."""
        content = bytes(PAGE_BLOCKS * MIN_BLOCK_BYTES)
        file = bytearray(file_of(content, 0, NARROW, 1))
        length = footer_size(bytes(file[-TRAILER_BYTES:]))
        footer = parse_footer(bytes(file[-length:]), len(file))
        offset, size = footer.page_span(0)
        page = bytearray(file[offset : offset + size])
        footer.page(0, bytes(page))
        (stored,) = struct.unpack_from("<I", page)
        # Two blocks, so that the page is still where its blocks end.
        struct.pack_into("<I", page, 0, 0)
        struct.pack_into("<I", page, 20, 2 * stored)
        body = bytearray(file[-length:-16])
        body[8:24] = xxhash.xxh3_128_digest(page)
        self.assertEqual(len(page), PAGE_BYTES)
        spoilt = parse_footer(sealed(bytes(body)), len(file))
        error = self.assertRaises(BadShard, spoilt.page, 0, bytes(page))
        self.assertIn("cannot be", error.detail)

    @prove
    @given(
        st.lists(st.binary(max_size=200), min_size=1, max_size=4),
        st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
        st.integers(201, 2**64 - 1),
    )
    def test_checked_nonsense(self, blocks: list[bytes], lengths: list[int], size: int) -> None:
        """A footer with a valid check is BadShard, whatever lengths it tells of."""
        body = b"".join(
            struct.pack("<I", length) + xxhash.xxh3_128_digest(block)
            for length, block in zip(lengths, blocks, strict=False)
        )
        body += trailer(
            k=1, m=0, block=MIN_BLOCK_BYTES, entries=len(blocks), size=size, compression=1
        )
        self.assert_bad(b"".join(blocks) + sealed(body))
