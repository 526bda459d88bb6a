"""dostore.core.schemes: how contents are stored, by their size."""

from __future__ import annotations

from itertools import combinations

from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.schemes import Schemes
from tests.support.cases import SyncTestCase


class SchemesTests(SyncTestCase):
    """Schemes."""

    def test_of_size(self) -> None:
        """Contents of fewer bytes than was said are copies; by default none are."""
        usual = Scheme(4, 2, MIN_BLOCK_BYTES)
        copies = Scheme(1, 2, MIN_BLOCK_BYTES)
        schemes = Schemes(usual, 5, 100)
        self.assertEqual([schemes.of_size(size) for size in (0, 99, 100)], [copies, copies, usual])
        self.assertEqual(Schemes(usual, 5).of_size(0), usual)
        self.assertTrue(schemes.uses(copies) and schemes.uses(usual))
        self.assertFalse(schemes.uses(Scheme(1, 2)))

    def test_quorum(self) -> None:
        """A write by any scheme may lack as many shards as one by the store's own may."""
        for (k, m, quorum), expected in {
            (4, 2, 5): [5, 2, 9, 3],
            (4, 2, 6): [6, 3, 10, 3],
            (8, 3, 9): [9, 2, 9, 3],
            (8, 3, 11): [11, 4, 11, 3],
            (4, 0, 4): [4, 1, 9, 3],
            # As a test may have it: fewer than a write ever needs.
            (4, 2, 4): [4, 1, 8, 2],
        }.items():
            schemes = Schemes(Scheme(k, m), quorum, 1)
            of = (schemes.usual, schemes.copies, Scheme(8, 3), Scheme(2, 1))
            self.assertEqual([schemes.quorum_of(scheme) for scheme in of], expected)

    def test_least_quorum(self) -> None:
        """Where small contents are copies, fewer nodes are enough for them."""
        self.assertEqual(Schemes(Scheme(), 5).least_quorum, 5)
        self.assertEqual(Schemes(Scheme(), 5, 1).least_quorum, 2)

    def test_what_is_whole(self) -> None:
        """All shards are whole, and so are all copies where fewer shards than k could be no other
        content that something can be made of.
        """
        schemes = Schemes(Scheme(4, 2), 5)
        for count in range(7):
            for indexes in combinations(range(6), count):
                expected = indexes == tuple(range(6)) or indexes == (0, 1, 2)
                self.assertEqual(schemes.are_whole(indexes), expected)
                self.assertEqual(schemes.may_be_copies(indexes), max(indexes, default=0) < 3)
        few = Schemes(Scheme(2, 2), 3)
        self.assertFalse(few.are_whole((0, 1, 2)))
        self.assertTrue(few.are_whole((0, 1, 2, 3)))
