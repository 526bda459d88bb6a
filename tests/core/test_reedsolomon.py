"""dostore.core.reedsolomon: the code of pyeclib, and what becomes of a machine without it.

What it computes is proved by test_stripes.
"""

from __future__ import annotations

from itertools import combinations
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from pyeclib.ec_iface import ECBackendNotSupported, ECDriver

from dostore.core import reedsolomon
from dostore.core.reedsolomon import CODE, Code, code_of
from dostore.errors import ConfigError
from tests.support.cases import SyncTestCase
from tests.support.properties import prove_slowly

#: What pyeclib puts before each row.
HEADER_BYTES = 80


class CodeTests(SyncTestCase):
    """Code."""

    @prove_slowly
    @given(st.integers(2, 20), st.integers(1, 12), st.integers(1, 40), st.data())
    def test_pyeclib(self, k: int, m: int, units: int, data: st.DataObject) -> None:
        """Parity is what pyeclib computes, and so is every row that it rebuilds of what is left."""
        length = 32 * units
        stripe = data.draw(st.binary(min_size=k * length, max_size=k * length))
        driver = ECDriver(k=k, m=m, ec_type=CODE)
        fragments = driver.encode(stripe)
        rows = [fragment[HEADER_BYTES : HEADER_BYTES + length] for fragment in fragments]
        code = code_of(k, m)
        self.assertEqual([bytes(row) for row in code.parity(stripe, length)], rows[k:])
        left = data.draw(st.permutations(range(k + m)))[:k]
        lost = tuple(index for index in range(k + m) if index not in left)
        rebuilt = code.rebuild([rows[index] for index in left], tuple(left), lost)
        theirs = driver.reconstruct([fragments[index] for index in left], list(lost))
        self.assertEqual(
            [bytes(row) for row in rebuilt],
            [fragment[HEADER_BYTES : HEADER_BYTES + length] for fragment in theirs],
        )

    def test_lengths(self) -> None:
        """Nothing is read beyond the end of what is given: what is too short is refused."""
        code = code_of(4, 2)
        self.assertRaises(ValueError, code.parity, bytes(39), 10)
        self.assertRaises(ValueError, code.parity, memoryview(bytes(41)), 10)
        rows = [bytes(10)] * 4
        which = (0, 1, 2, 3)
        self.assertRaises(ValueError, code.rebuild, [*rows[:3], bytes(9)], which, (4,))
        self.assertRaises(ValueError, code.rebuild, rows[:3], which, (4,))

    def test_any_order(self) -> None:
        """The rows that are left may be given in any order."""
        code = code_of(3, 2)
        stripe = bytes(range(9))
        rows = [stripe[:3], stripe[3:6], stripe[6:], *map(bytes, code.parity(stripe, 3))]
        for which in combinations((4, 2, 3, 0, 1), 3):
            rebuilt = code.rebuild([rows[index] for index in which], which, (0, 1, 2, 3, 4))
            self.assertEqual(list(map(bytes, rebuilt)), rows)


class LibraryTests(SyncTestCase):
    """How ISA-L is found."""

    def test_other_name(self) -> None:
        """A system's own library goes by another name."""
        with mock.patch.object(reedsolomon, "_NAMES", ("libof-nobody.so.2", *reedsolomon._NAMES)):
            self.assertEqual(
                [bytes(row) for row in Code(2, 1).parity(b"ab", 1)],
                [bytes(row) for row in code_of(2, 1).parity(b"ab", 1)],
            )

    def test_missing(self) -> None:
        """A machine without the code is refused by a sentence that names code and scheme."""
        missing = ECBackendNotSupported("no backend")
        with mock.patch.object(reedsolomon, "ECDriver", side_effect=missing):
            error = self.assertRaises(ConfigError, Code, 8, 3)
        self.assertIn("isa_l_rs_cauchy", error.detail)
        self.assertIn("8 data and 3 parity", error.detail)
        with mock.patch.object(reedsolomon, "_NAMES", ("libof-nobody.so.2",)):
            error = self.assertRaises(ConfigError, Code, 8, 3)
        self.assertIn("libof-nobody.so.2", error.detail)
