"""Stripes: content to blocks, and blocks to the blocks that are missing.

With one data shard the others are copies of it, and nothing has to be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from dostore.core.reedsolomon import Block as Block
from dostore.core.reedsolomon import code_of
from dostore.core.scheme import Scheme
from dostore.errors import ConfigError


class StripeCoder:
    """Encodes and rebuilds the stripes of one scheme. Stateless, so any thread may call it."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme

    def encode(self, data: Block) -> list[list[Block]]:
        """Cut content in stripes and blocks and compute the parity.

        :param data: consecutive content that begins at a stripe's first byte; only the content's
        last
            stripe may be shorter than a full one.
        :returns: for each shard, its blocks in order. Data blocks are views of ``data`` where they
            can be.
        """
        view = memoryview(data)
        size = self.scheme.stripe_size
        if 0 < len(view) <= size:
            return [[block] for block in self._encode(view)]
        shards: list[list[Block]] = [[] for _ in range(self.scheme.shards)]
        for start in range(0, len(view), size):
            for blocks, block in zip(shards, self._encode(view[start : start + size]), strict=True):
                blocks.append(block)
        return shards

    def _encode(self, stripe: memoryview) -> list[Block]:
        k, m = self.scheme.k, self.scheme.m
        row = self.scheme.block_length(len(stripe))
        rows: list[Block] = [stripe[i * row : (i + 1) * row] for i in range(k)]
        if len(stripe) < k * row:
            rows = [bytes(piece).ljust(row, b"\0") if len(piece) < row else piece for piece in rows]
        if m == 0:
            return rows
        if k == 1:
            return rows * (1 + m)
        # A short last stripe is not in one piece, with the zeros that fill its rows.
        whole = stripe if len(stripe) == k * row else b"".join(rows)
        return [*rows, *code_of(k, m).parity(whole, row)]

    def rebuild(self, blocks: Mapping[int, Block], wanted: Sequence[int]) -> dict[int, Block]:
        """Compute blocks of one stripe from k others.

        :param blocks: at least k blocks by shard index, all of one length.
        :param wanted: the indexes to compute.
        :returns: the wanted blocks by index.
        :raises ValueError: fewer than k blocks, or their lengths differ.
        """
        k, m = self.scheme.k, self.scheme.m
        missing = [index for index in wanted if index not in blocks]
        result = {index: blocks[index] for index in wanted if index in blocks}
        if not missing:
            return result
        lengths = {len(block) for block in blocks.values()}
        if len(blocks) < k or len(lengths) != 1:
            raise ValueError(f"{k} blocks of one length are needed, not {len(blocks)} of {lengths}")
        if k == 1:
            block = next(iter(blocks.values()))
            return result | dict.fromkeys(missing, block)
        # Data first: what is a data block already need not be computed on the way to another.
        chosen = tuple(sorted(blocks)[:k])
        rows = [blocks[index] for index in chosen]
        rebuilt = code_of(k, m).rebuild(rows, chosen, tuple(missing))
        return result | dict(zip(missing, rebuilt, strict=True))


def self_test(scheme: Scheme) -> None:
    """Prove on this machine's library that every loss the scheme allows for can be undone.

    :raises ConfigError: the library is missing, refuses the scheme or computes wrong blocks; a
    store
        that began to write with it would lose data.
    """
    coder = StripeCoder(scheme)
    # 167 is odd and prime, so neither rows nor their count fall on an alignment.
    sample = bytes((7 * i * i + i) % 251 for i in range(scheme.k * 167 - 1))
    blocks = [shard[0] for shard in coder.encode(sample)]
    wrong = any(
        bytes(rebuilt) != bytes(blocks[index])
        for lost in _losses(scheme)
        for index, rebuilt in coder.rebuild(
            {i: block for i, block in enumerate(blocks) if i not in lost}, lost
        ).items()
    )
    if wrong:
        raise ConfigError(f"The erasure code library computes wrong blocks for {scheme}.")


def _losses(scheme: Scheme) -> list[tuple[int, ...]]:
    """Every loss of m shards where they are few, else a fixed choice of neighbours."""
    every = list(combinations(range(scheme.shards), scheme.m)) if scheme.shards <= 8 else []
    around = [
        tuple(sorted((start + step) % scheme.shards for step in range(scheme.m)))
        for start in range(scheme.shards)
    ]
    return every or around
