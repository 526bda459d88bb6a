"""dostore.core.scheme: the arithmetic agrees with cutting real bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.scheme import MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, Scheme
from tests.support.cases import SyncTestCase
from tests.support.properties import prove, schemes


def cut(scheme: Scheme, size: int) -> list[tuple[int, int]]:
    """Content and block bytes of each stripe, by walking from the first byte to the last."""
    stripes = []
    while size > 0:
        length = min(size, scheme.k * scheme.block_size)
        stripes.append((length, (length + scheme.k - 1) // scheme.k))
        size -= length
    return stripes


@st.composite
def schemes_and_sizes(draw: st.DrawFn) -> tuple[Scheme, int]:
    """A scheme, and a size near one of its borders or anywhere in its first stripes."""
    scheme = draw(schemes())
    edge = draw(st.sampled_from([0, scheme.k, scheme.block_size, scheme.stripe_size]))
    times = draw(st.integers(0, 4))
    near = draw(st.integers(-2, 2))
    anywhere = draw(st.integers(0, 4 * scheme.stripe_size))
    return scheme, draw(st.sampled_from([max(0, edge * times + near), anywhere]))


class SchemeTests(SyncTestCase):
    """Scheme."""

    def test_default(self) -> None:
        """The default is the design's: 4 + 2 with blocks of 64 KiB."""
        scheme = Scheme()
        self.assertEqual((scheme.k, scheme.m, scheme.block_size), (4, 2, 65536))
        self.assertEqual((scheme.shards, scheme.stripe_size), (6, 262144))

    def test_quorum(self) -> None:
        """A write needs k + 1 shards, or all where there is no parity."""
        for k, m, quorum in [(4, 2, 5), (8, 3, 9), (1, 1, 2), (1, 0, 1), (4, 0, 4)]:
            self.assertEqual(Scheme(k, m).write_quorum, quorum)

    def test_limits(self) -> None:
        """What the code or the format cannot hold is refused when the scheme is made."""
        Scheme(32, 0)
        Scheme(1, 31)
        Scheme(4, 2, MIN_BLOCK_BYTES)
        Scheme(4, 2, MAX_BLOCK_BYTES)
        for k, m, block in [
            (0, 2, 65536),
            (-1, 2, 65536),
            (4, -1, 65536),
            (33, 0, 65536),
            (1, 32, 65536),
            (30, 3, 65536),
            (4, 2, MIN_BLOCK_BYTES - 1),
            (4, 2, MAX_BLOCK_BYTES + 1),
        ]:
            self.assertRaises(ValueError, Scheme, k, m, block)

    @prove
    @given(schemes_and_sizes())
    def test_cutting(self, drawn: tuple[Scheme, int]) -> None:
        """Counts and lengths are those of cutting the content stripe by stripe."""
        scheme, size = drawn
        stripes = cut(scheme, size)
        self.assertEqual(scheme.stripe_count(size), len(stripes))
        for number, (length, block) in enumerate(stripes):
            self.assertEqual(scheme.stripe_length(size, number), length)
            self.assertEqual(scheme.block_length(length), block)
        self.assertEqual(scheme.stripe_length(size, len(stripes)), 0)
        self.assertEqual(scheme.stripe_length(size, len(stripes) + 3), 0)
        self.assertEqual(scheme.shard_size(size), sum(block for _, block in stripes))

    @prove
    @given(schemes_and_sizes(), st.data())
    def test_block_ranges(self, drawn: tuple[Scheme, int], data: st.DataObject) -> None:
        """The bytes of consecutive blocks are the sum of their lengths, also of none and of all."""
        scheme, size = drawn
        stripes = cut(scheme, size)
        first = data.draw(st.integers(0, len(stripes)))
        count = data.draw(st.integers(0, len(stripes) - first))
        self.assertEqual(
            scheme.block_range_length(size, first, count),
            sum(block for _, block in stripes[first : first + count]),
        )

    def test_exabytes(self) -> None:
        """Sizes beyond 64 bits neither overflow nor take time."""
        scheme = Scheme()
        size = 10**30
        self.assertEqual(scheme.stripe_count(size), -(-size // 262144))
        self.assertEqual(
            scheme.block_range_length(size, 0, scheme.stripe_count(size)), scheme.shard_size(size)
        )
