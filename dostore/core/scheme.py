"""Scheme: how a content is cut in stripes and shards. All size arithmetic is here."""

from __future__ import annotations

from attrs import field, frozen, validators

#: liberasurecode's own limit on k + m.
MAX_SHARDS = 32
MIN_BLOCK_BYTES = 4096
MAX_BLOCK_BYTES = 1 << 20

#: 64 KiB, as measured: a stripe of 256 KiB stays in the processor's cache while it is encoded.
DEFAULT_BLOCK_BYTES = 65536


@frozen(slots=True)
class Scheme:
    """k data and m parity shards, cut by blocks of ``block_size`` bytes.

    A stripe is k blocks of consecutive content. The last stripe of L bytes is cut in k pieces of
    ceil(L / k) bytes, the last padded with zeros, so its blocks may be shorter.

    :ivar shards: k + m.
    :ivar stripe_size: bytes of content in a full stripe.
    :ivar write_quorum: how many shards a write needs: k + 1, or all where there is no parity.
    """

    k: int = field(default=4, validator=[validators.ge(1), validators.le(MAX_SHARDS)])
    m: int = field(default=2, validator=[validators.ge(0), validators.lt(MAX_SHARDS)])
    block_size: int = field(
        default=DEFAULT_BLOCK_BYTES,
        validator=[validators.ge(MIN_BLOCK_BYTES), validators.le(MAX_BLOCK_BYTES)],
    )

    # Each is asked for many times a request.
    shards: int = field(init=False, eq=False, repr=False)
    stripe_size: int = field(init=False, eq=False, repr=False)
    write_quorum: int = field(init=False, eq=False, repr=False)

    @shards.default
    def _shards(self) -> int:
        return self.k + self.m

    @stripe_size.default
    def _stripe_size(self) -> int:
        return self.k * self.block_size

    @write_quorum.default
    def _write_quorum(self) -> int:
        return min(self.k + 1, self.shards)

    def __attrs_post_init__(self) -> None:
        if self.shards > MAX_SHARDS:
            raise ValueError(f"k + m is at most {MAX_SHARDS}")

    def stripe_count(self, size: int) -> int:
        """How many stripes a content of ``size`` bytes has; an empty one has none."""
        return -(-size // self.stripe_size)

    def stripe_length(self, size: int, stripe: int) -> int:
        """Bytes of content in stripe number ``stripe`` of a content of ``size`` bytes."""
        return max(0, min(self.stripe_size, size - stripe * self.stripe_size))

    def block_length(self, stripe_length: int) -> int:
        """Bytes of each of a stripe's blocks, given the stripe's content bytes."""
        return -(-stripe_length // self.k)

    def shard_size(self, size: int) -> int:
        """Bytes of each plain shard of a content of ``size`` bytes."""
        full, rest = divmod(size, self.stripe_size)
        return full * self.block_size + self.block_length(rest)

    def block_range_length(self, size: int, first: int, count: int) -> int:
        """Plain bytes of blocks ``first`` … ``first + count - 1`` of one shard."""
        return (
            sum(
                self.block_length(self.stripe_length(size, stripe))
                for stripe in (first, first + count - 1)[: min(count, 2)]
            )
            + max(0, count - 2) * self.block_size
        )

    def block_lengths(self, size: int, first: int, count: int) -> list[int]:
        """Plain bytes of each of ``count`` blocks of one shard from block ``first`` on."""
        full = max(0, min(count, size // self.stripe_size - first))
        return [self.block_size] * full + [
            self.block_length(self.stripe_length(size, stripe))
            for stripe in range(first + full, first + count)
        ]

    def touched(self, size: int, start: int, stop: int) -> range:
        """The data shards that have bytes ``start`` … ``stop - 1`` of a content, at least one; all,
        when these are in several stripes.
        """
        stripe = start // self.stripe_size
        at = stripe * self.stripe_size
        if stop > at + self.stripe_size:
            return range(self.k)
        length = self.block_length(self.stripe_length(size, stripe))
        return range((start - at) // length, (stop - 1 - at) // length + 1)
