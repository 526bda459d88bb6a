"""A temporary shard that is being written, as far as it is known in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import define, field

from dostore.adapters.temp_shard import TempShard
from dostore.ports import TempAbout

_TOKEN = re.compile("[0-9a-f]{32}")

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """What tells this start of the machine from every other."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


@define(eq=False)
class Upload:
    """A temporary shard that is being written.

    :ivar pending: what was appended after the last whole block; it is in memory only.
    :ivar settled: how many blocks are durable.
    :ivar known: what it is to become is durable.
    :ivar owner: who wrote to it last; empty: nobody, or it is not known.
    :ivar since: how many blocks there were when that one began.
    :ivar before: plain bytes that were held before the request that appends now; None: none does.
    """

    token: str
    about: TempAbout
    temp: TempShard
    pending: bytes = field(default=b"", repr=False)
    settled: int = 0
    known: bool = False
    owner: str = ""
    since: int = 0
    before: int | None = None

    @property
    def held(self) -> int:
        """Plain bytes that were appended."""
        return self.temp.builder.plain_size + len(self.pending)

    @property
    def told(self) -> int:
        """Plain bytes that others are told of. What is being appended is in no file yet: if the
        process were killed now, it would never have come.
        """
        return self.held if self.before is None else self.before

    @property
    def agreed(self) -> int:
        """See TempState."""
        blocks = max(self.settled, self.since)
        return min(blocks * self.about.scheme.block_size, self.temp.builder.plain_size)


def is_token(text: str) -> bool:
    """Whether it can be the token of a temporary shard."""
    return _TOKEN.fullmatch(text) is not None


def plain_lengths(about: TempAbout) -> Iterator[int]:
    """Plain bytes of each block, as far as there can be blocks; for ever when no size is known."""
    scheme = about.scheme
    if about.size is None:
        while True:
            yield scheme.block_size
    full, rest = divmod(about.size, scheme.stripe_size)
    for _ in range(full):
        yield scheme.block_size
    if rest:
        yield scheme.block_length(rest)


def block_lengths(about: TempAbout, first: int, count: int) -> list[int]:
    """Plain bytes of ``count`` whole blocks from block ``first`` on."""
    if about.size is None:
        return [about.scheme.block_size] * count
    return about.scheme.block_lengths(about.size, first, count)
