"""dostore.core.stripes: any k shards give the rest, and parity is what it always was."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.stripes import Block, StripeCoder, self_test
from dostore.errors import ConfigError
from tests.support.cases import SyncTestCase
from tests.support.properties import prove, prove_slowly

DATA = Path(__file__).parent.parent / "data"

SCHEMES = [(4, 2), (1, 0), (1, 1), (2, 1), (3, 0), (2, 2), (5, 3), (8, 3), (10, 4), (16, 16)]


def sample(size: int) -> bytes:
    """Bytes that are the same for ever and look random: SHA-256 of 0, 1, 2, …"""
    pieces = [hashlib.sha256(b"%d" % number).digest() for number in range(-(-size // 32))]
    return b"".join(pieces)[:size]


def sizes(scheme: Scheme) -> list[int]:
    """The sizes at which cutting goes from one form to another."""
    k, block, stripe = scheme.k, scheme.block_size, scheme.stripe_size
    near = [0, 1, k - 1, k, k + 1, block - 1, block, block + 1, stripe - 1, stripe, stripe + 1]
    return [*near, 2 * stripe, 3 * stripe + block + 7]


@cache
def multiples(factor: int) -> bytes:
    """All 256 multiples of a number in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1."""
    products = []
    for other in range(256):
        product, addend = 0, factor
        for bit in range(8):
            if other >> bit & 1:
                product ^= addend
            addend = addend << 1 ^ (0x11D if addend & 0x80 else 0)
        products.append(product)
    return bytes(products)


def parity(rows: list[bytes], m: int) -> list[bytes]:
    """Reed-Solomon by the book: row i of the Cauchy matrix has 1 / (i xor j) in column j."""
    blocks = []
    for i in range(len(rows), len(rows) + m):
        total = 0
        for j, row in enumerate(rows):
            inverse = multiples(i ^ j).index(1)
            total ^= int.from_bytes(row.translate(multiples(inverse)))
        blocks.append(total.to_bytes(len(rows[0])))
    return blocks


def joined(blocks: list[Block]) -> bytes:
    """The bytes of a shard."""
    return b"".join(blocks)


class EncodeTests(SyncTestCase):
    """StripeCoder.encode."""

    def test_sizes(self) -> None:
        """Shards have the blocks that the scheme's arithmetic says, and data shards the content."""
        for k, m in SCHEMES:
            scheme = Scheme(k, m, MIN_BLOCK_BYTES)
            for size in sizes(scheme):
                content = sample(size)
                shards = StripeCoder(scheme).encode(content)
                expected = [
                    scheme.block_length(scheme.stripe_length(size, stripe))
                    for stripe in range(scheme.stripe_count(size))
                ]
                self.assertEqual([list(map(len, shard)) for shard in shards], [expected] * (k + m))
                unpadded = b"".join(
                    joined(list(blocks))[: scheme.stripe_length(size, stripe)]
                    for stripe, blocks in enumerate(zip(*shards[:k], strict=True))
                )
                self.assertEqual(unpadded, content)

    def test_padding(self) -> None:
        """The last pieces of a last stripe are filled with zeros."""
        shards = StripeCoder(Scheme(4, 2)).encode(b"abcdefghi")
        self.assertEqual(
            [joined(shard) for shard in shards[:4]], [b"abc", b"def", b"ghi", b"\0\0\0"]
        )

    def test_parity_by_the_book(self) -> None:
        """Parity is that of an independent, slow computation, for rows of any length."""
        for k, m in SCHEMES:
            for row in (1, 9, 32, 101):
                content = sample(k * row)
                shards = StripeCoder(Scheme(k, m)).encode(content)
                rows = [content[i * row : (i + 1) * row] for i in range(k)]
                self.assertEqual([joined(shard) for shard in shards[k:]], parity(rows, m))

    @prove
    @given(st.binary(max_size=3 * 4 * MIN_BLOCK_BYTES), st.integers(1, 3))
    def test_in_pieces(self, content: bytes, stripe_count: int) -> None:
        """Encoding some stripes at a time, of any kind of bytes, gives the shards of the whole."""
        scheme = Scheme(4, 2, MIN_BLOCK_BYTES)
        coder = StripeCoder(scheme)
        shards: list[list[Block]] = [[] for _ in range(6)]
        step = stripe_count * scheme.stripe_size
        for start in range(0, len(content), step):
            piece = memoryview(content)[start : start + step]
            for shard, blocks in zip(shards, coder.encode(piece), strict=True):
                shard.extend(blocks)
        self.assertEqual(
            list(map(joined, shards)),
            list(map(joined, coder.encode(memoryview(bytearray(content))))),
        )

    def test_full_stripes_are_not_copied(self) -> None:
        """The data blocks of a full stripe are views of the content."""
        content = bytearray(sample(4 * MIN_BLOCK_BYTES))
        shards = StripeCoder(Scheme(4, 2, MIN_BLOCK_BYTES)).encode(memoryview(content))
        before = bytes(shards[1][0])
        content[MIN_BLOCK_BYTES] ^= 1
        self.assertNotEqual(bytes(shards[1][0]), before)

    def test_example(self) -> None:
        """The design's 36 bytes are cut in quarters whose hashes are the design's."""
        content = b"this object will be seperated to 4+2"
        shards = StripeCoder(Scheme()).encode(content)
        self.assertEqual(
            [base64.b64encode(hashlib.sha256(joined(s)).digest()).decode() for s in shards[:4]],
            [
                "/QbxVU4EOPqz/2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
                "S8JnDgiwWnfNud06pGE+/EHgmBzNpFAEg6s/gR0J4Cw=",
                "syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
                "0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
            ],
        )

    def test_pinned(self) -> None:
        """Every shard of the default scheme is, for ever, what it was when the format was made."""
        pinned = json.loads((DATA / "stripes-4+2.json").read_text())
        coder = StripeCoder(Scheme())
        content = b"this object will be seperated to 4+2"
        self.assertEqual([joined(s).hex() for s in coder.encode(content)], pinned["36 bytes"])
        content = sample(3 * coder.scheme.stripe_size + 100_001)
        self.assertEqual(
            [hashlib.sha256(joined(s)).hexdigest() for s in coder.encode(content)],
            pinned["sha256 of 886433 bytes"],
        )


class RebuildTests(SyncTestCase):
    """StripeCoder.rebuild."""

    def assert_rebuilt(self, coder: StripeCoder, blocks: list[bytes], have: set[int]) -> None:
        """All blocks come out of those that are there, computed or as they are."""
        given_blocks: Mapping[int, Block] = {index: blocks[index] for index in have}
        rebuilt = coder.rebuild(given_blocks, range(len(blocks)))
        self.assertEqual([bytes(rebuilt[index]) for index in range(len(blocks))], blocks)

    def test_all_subsets(self) -> None:
        """Of 4 + 2, each of the 22 sets of at least 4 shards gives the others, at every size."""
        scheme = Scheme(4, 2, MIN_BLOCK_BYTES)
        coder = StripeCoder(scheme)
        subsets = [set(c) for n in (4, 5, 6) for c in combinations(range(6), n)]
        self.assertEqual(len(subsets), 22)
        for size in sizes(scheme):
            for blocks in zip(*coder.encode(sample(size)), strict=True):
                for have in subsets:
                    self.assert_rebuilt(coder, list(map(bytes, blocks)), have)

    @prove_slowly
    @given(st.sampled_from(SCHEMES), st.data())
    def test_any_scheme(self, scheme: tuple[int, int], data: st.DataObject) -> None:
        """Of any k + m, any k or more shards give the others, whatever the length of the row."""
        k, m = scheme
        row = data.draw(st.integers(1, 200))
        content = data.draw(st.binary(min_size=k * row, max_size=k * row))
        have = data.draw(st.sets(st.integers(0, k + m - 1), min_size=k))
        coder = StripeCoder(Scheme(k, m))
        blocks = [joined(shard) for shard in coder.encode(content)]
        self.assert_rebuilt(coder, blocks, have)

    def test_every_loss_of_wide_schemes(self) -> None:
        """Of 8 + 3 every loss of three can be undone; of 10 + 4 every loss of four."""
        for k, m in [(1, 1), (2, 1), (8, 3), (10, 4)]:
            coder = StripeCoder(Scheme(k, m))
            blocks = [joined(shard) for shard in coder.encode(sample(k * 33))]
            for lost in combinations(range(k + m), m):
                self.assert_rebuilt(coder, blocks, set(range(k + m)) - set(lost))

    def test_full_blocks(self) -> None:
        """Blocks of the default size are rebuilt too."""
        coder = StripeCoder(Scheme())
        blocks = [joined(shard) for shard in coder.encode(sample(coder.scheme.stripe_size))]
        self.assert_rebuilt(coder, blocks, {1, 3, 4, 5})

    def test_only_what_is_wanted(self) -> None:
        """No other blocks than the wanted are returned."""
        coder = StripeCoder(Scheme())
        blocks = [joined(shard) for shard in coder.encode(b"some content")]
        have = dict(enumerate(blocks[:5]))
        self.assertEqual(list(coder.rebuild(have, [5])), [5])
        self.assertEqual(coder.rebuild(have, [2]), {2: blocks[2]})
        self.assertEqual(coder.rebuild(have, []), {})

    def test_present_blocks_need_no_others(self) -> None:
        """What is there is returned even when fewer than k are."""
        self.assertEqual(StripeCoder(Scheme()).rebuild({3: b"abc"}, [3]), {3: b"abc"})

    def test_copies(self) -> None:
        """With one data shard every shard is the content, block by block, and any makes the others;
        nothing of it is copied.
        """
        scheme = Scheme(1, 3, MIN_BLOCK_BYTES)
        coder = StripeCoder(scheme)
        for size in (1, 31, MIN_BLOCK_BYTES, 2 * MIN_BLOCK_BYTES + 5):
            content = bytes((7 * at + size) % 251 for at in range(size))
            shards = coder.encode(content)
            self.assertEqual([joined(shard) for shard in shards], [content] * 4)
            for have in range(4):
                rebuilt = coder.rebuild({have: shards[have][0]}, [3, 0, 1, 2])
                self.assertEqual(rebuilt, dict.fromkeys(range(4), content[:MIN_BLOCK_BYTES]))
        self.assertRaises(ValueError, coder.rebuild, {}, [3])
        self.assertRaises(ValueError, coder.rebuild, {0: b"a", 1: b"bc"}, [3])

    def test_too_few(self) -> None:
        """Fewer than k blocks, or blocks of several lengths, are refused."""
        coder = StripeCoder(Scheme())
        self.assertRaises(ValueError, coder.rebuild, {0: b"a", 1: b"b", 2: b"c"}, [3])
        self.assertRaises(ValueError, coder.rebuild, {0: b"a", 1: b"b", 2: b"c", 4: b"dd"}, [3])
        self.assertRaises(ValueError, StripeCoder(Scheme(1, 0)).rebuild, {}, [0])


class SelfTestTests(SyncTestCase):
    """self_test."""

    def test_schemes(self) -> None:
        """Every scheme that is offered passes on this machine, the widest among them."""
        for k, m in [*SCHEMES, (1, 31), (31, 1), (32, 0), (20, 12)]:
            self_test(Scheme(k, m))

    def test_every_loss_of_a_small_scheme(self) -> None:
        """For up to 8 shards it undoes every loss of m."""
        lost: list[tuple[int, ...]] = []
        rebuild = StripeCoder.rebuild

        def recorded(
            coder: StripeCoder, blocks: Mapping[int, Block], wanted: tuple[int, ...]
        ) -> dict[int, Block]:
            lost.append(wanted)
            self.assertEqual(set(blocks) | set(wanted), set(range(6)))
            return rebuild(coder, blocks, wanted)

        with mock.patch.object(StripeCoder, "rebuild", recorded):
            self_test(Scheme(4, 2))
        self.assertEqual(lost, list(combinations(range(6), 2)))

    def test_wrong_library(self) -> None:
        """A library that computes wrong blocks is refused."""

        def wrong(
            _: StripeCoder, blocks: Mapping[int, Block], wanted: tuple[int, ...]
        ) -> dict[int, Block]:
            return {index: bytes(len(blocks[min(blocks)])) for index in wanted}

        with mock.patch.object(StripeCoder, "rebuild", wrong):
            error = self.assertRaises(ConfigError, self_test, Scheme())
        self.assertIn("wrong blocks", error.detail)
