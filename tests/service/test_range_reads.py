"""What of a content's shards is read for a range: the blocks that it touches, and no others."""

from __future__ import annotations

import random
from typing import Any

from dostore.core.model import Version
from tests.service.test_compressed import range_of
from tests.service.test_damage import BATCH, content
from tests.support.machine import SCHEME, Machine, MachineCase

STRIPE = SCHEME.stripe_size
BLOCK = SCHEME.block_size


class Recording:
    """A reader of a shard that notes which blocks it is asked for."""

    def __init__(self, reader: Any, index: int, blocks: set[tuple[int, int]]) -> None:
        self.info = reader.info
        self.close = reader.close
        self._reader = reader
        self._index = index
        self._blocks = blocks

    async def read(self, first: int, count: int) -> bytes:
        """See IShardReader."""
        self._blocks.update((self._index, first + number) for number in range(count))
        data: bytes = await self._reader.read(first, count)
        return data


class RangeReadTests(MachineCase):
    """Ranges of contents of several stripes, whole and with two shards lost."""

    async def test_blocks(self) -> None:
        """With all shards there, a range within a stripe reads just its own blocks, a longer one
        the touched stripes; with two lost, k blocks of each stripe that it touches.
        """
        chance = random.Random(7)
        machine = await self.started(background=False)
        # Repair reads too.
        self.patch(machine.store.repairer, "notice", lambda _: None)
        for size in (STRIPE + 1, 3 * STRIPE, 40 * STRIPE + 9000, 2 * BATCH + 5):
            for number, lost in enumerate(((), (1,), (0, 3), (2, 5), (4, 5))):
                data = content(size, number)
                version = await machine.put("name", data)
                files = machine.shard_files(version.contents[0].hash)
                for index in lost:
                    files[index].unlink()
                for _ in range(12):
                    first = chance.randrange(size)
                    end = min(size, first + chance.choice([1, 1, 100, BLOCK, STRIPE, BATCH]))
                    await self.check(machine, version, data, first, end, set(lost))

    async def check(
        self,
        machine: Machine,
        version: Version,
        data: bytes,
        first: int,
        end: int,
        lost: set[int],
    ) -> None:
        """One range."""
        blocks: set[tuple[int, int]] = set()
        for drive in machine.drives.drives:
            self.record(drive.node, blocks)
        got = await range_of(machine, version, first, end)
        for drive in machine.drives.drives:
            del drive.node.open
        self.assertTrue(got == data[first:end])
        stripes = range(first // STRIPE, (end - 1) // STRIPE + 1)
        self.assertEqual({stripe for _, stripe in blocks} - set(stripes), set())
        length = SCHEME.block_length(min(STRIPE, len(data) - stripes[0] * STRIPE))
        touched = range(SCHEME.k)
        if len(stripes) == 1:
            start = stripes[0] * STRIPE
            touched = range((first - start) // length, (end - 1 - start) // length + 1)
        if lost.intersection(touched):
            self.assertLessEqual(len(blocks), SCHEME.k * len(stripes))
            return
        wanted = {(index, stripe) for index in touched for stripe in stripes}
        if len(stripes) == 1:
            self.assertEqual(blocks, wanted)
        self.assertEqual(blocks - wanted, set())

    def record(self, node: Any, blocks: set[tuple[int, int]]) -> None:
        """Have a node's readers note what they are asked for."""
        node_open = node.open

        async def opened(content_hash: Any, index: int, size: Any = None) -> Any:
            return Recording(await node_open(content_hash, index, size), index, blocks)

        node.open = opened
