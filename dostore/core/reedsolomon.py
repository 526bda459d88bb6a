"""Reed-Solomon: rows of parity from rows of data, and lost rows from those that are left.

Computed by ISA-L (Intel's, BSD-3-Clause; erasure_code.h), which pyeclib loads for its code
``isa_l_rs_cauchy``. pyeclib copies each stripe in and each row out, and keeps the interpreter to
itself meanwhile: for a stripe of 256 KiB six times as long as ISA-L needs. So it is asked whether a
code can be had, and ISA-L does the work, on the bytes where they are, while other threads run.

Row i of the code's matrix is the unit vector of i for data, and for parity that of a Cauchy matrix:
1 / (i xor j) in column j, in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1. Such are invertible in every
square part, so any k of the k + m rows give the rest; isa_l_rs_vand loses data from 5 parity rows
on (OpenStack Swift refuses it for that).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cffi import FFI
from pyeclib.ec_iface import ECDriver, ECDriverError

from dostore.errors import ConfigError

CODE = "isa_l_rs_cauchy"

Block = bytes | memoryview

_ffi = FFI()
_ffi.cdef(
    """
    void gf_gen_cauchy1_matrix(unsigned char *matrix, int rows, int k);
    int gf_invert_matrix(unsigned char *matrix, unsigned char *inverse, const int n);
    unsigned char gf_mul(unsigned char a, unsigned char b);
    void ec_init_tables(int k, int rows, unsigned char *matrix, unsigned char *tables);
    void ec_encode_data(int length, int k, int rows, unsigned char *tables, unsigned char **from,
                        unsigned char **to);
    """
)

#: What pyeclib's wheel calls it, and what a system does that has liberasurecode of its own. It is
#: loaded already, so the name alone finds it.
_NAMES = ("libisal-pyeclib.so.2", "libisal.so.2")

#: The factors of one product in ISA-L's tables.
_TABLE_BYTES = 32


def _load() -> Any:
    missing = OSError()
    for name in _NAMES:
        try:
            return _ffi.dlopen(name)
        except OSError as error:
            missing = error
    raise missing


class Code:
    """That of k data and m parity rows. Stateless, so any thread may call it.

    :raises ConfigError: the library is missing or does not take such numbers.
    """

    def __init__(self, k: int, m: int) -> None:
        self.k = k
        self.m = m
        try:
            # It has the library in memory as long as it lives.
            driver = ECDriver(k=k, m=m, ec_type=CODE)
            self._isal = _load()
        except (ECDriverError, OSError) as error:
            raise ConfigError(
                f"The erasure code {CODE} does not take {k} data and {m} parity shards: {error}"
            ) from error
        del driver
        matrix = _ffi.new("unsigned char[]", (k + m) * k)
        self._isal.gf_gen_cauchy1_matrix(matrix, k + m, k)
        self._matrix = bytes(_ffi.buffer(matrix))
        self._parity = self._tables(self._matrix[k * k :], m)

    def _tables(self, matrix: bytes, rows: int) -> Any:
        tables = _ffi.new("unsigned char[]", _TABLE_BYTES * self.k * rows)
        begin = _ffi.from_buffer("unsigned char[]", matrix)
        self._isal.ec_init_tables(self.k, rows, begin, tables)
        return tables

    def parity(self, stripe: Block, length: int) -> list[memoryview]:
        """The parity rows of a stripe.

        :param stripe: k rows of ``length`` bytes, one after the other.
        :raises ValueError: it is not so long.
        """
        if len(stripe) != self.k * length:
            raise ValueError(f"{len(stripe)} bytes are no {self.k} rows of {length}")
        begin = _ffi.from_buffer("unsigned char[]", stripe)
        rows = [begin + at for at in range(0, self.k * length, length)]
        return self._compute(rows, self._parity, self.m, length)

    def rebuild(
        self, rows: Sequence[Block], which: tuple[int, ...], lost: tuple[int, ...]
    ) -> list[memoryview]:
        """Lost rows of a stripe.

        :param rows: k others, each as long as the first.
        :param which: their indexes.
        :param lost: the indexes of those to compute.
        :raises ValueError: there are not k, or their lengths differ.
        """
        lengths = {len(row) for row in rows}
        if len(rows) != self.k or len(lengths) != 1:
            raise ValueError(f"{len(rows)} rows of {lengths} bytes are no {self.k} of one length")
        begins = [_ffi.from_buffer("unsigned char[]", row) for row in rows]
        return self._compute(begins, _decoding(self, which, lost), len(lost), len(rows[0]))

    def _compute(self, rows: list[Any], tables: Any, count: int, length: int) -> list[memoryview]:
        computed = bytearray(count * length)
        begin = _ffi.from_buffer("unsigned char[]", computed)
        starts = range(0, count * length, length)
        self._isal.ec_encode_data(
            length, self.k, count, tables, rows, [begin + at for at in starts]
        )
        view = memoryview(computed)
        return [view[at : at + length] for at in starts]

    def decoding(self, which: tuple[int, ...], lost: tuple[int, ...]) -> Any:
        """Tables for lost rows: those of the matrix, times the inverse of the rows that are
        there.
        """
        k, multiply = self.k, self._isal.gf_mul
        there = b"".join(self._row(index) for index in which)
        inverse = _ffi.new("unsigned char[]", k * k)
        self._isal.gf_invert_matrix(_ffi.new("unsigned char[]", there), inverse, k)
        matrix = bytearray()
        for wanted in map(self._row, lost):
            for column in range(k):
                total = 0
                for index, factor in enumerate(wanted):
                    total ^= multiply(factor, inverse[index * k + column])
                matrix.append(total)
        return self._tables(bytes(matrix), len(lost))

    def _row(self, index: int) -> bytes:
        return self._matrix[index * self.k : (index + 1) * self.k]


@lru_cache(maxsize=1024)
def _decoding(code: Code, which: tuple[int, ...], lost: tuple[int, ...]) -> Any:
    return code.decoding(which, lost)


@lru_cache(maxsize=64)
def code_of(k: int, m: int) -> Code:
    """The one of such numbers; see :class:`Code`."""
    return Code(k, m)
