"""Reads that are not waited for are counted and looked after like all others."""

from __future__ import annotations

import random

from dostore.core.scheme import Scheme
from dostore.service.objects import ObjectStore
from tests.support.machine import SCHEME, Machine, MachineCase
from tests.support.memory import keep_files_in_memory

DATA = random.Random(3).randbytes(50_000)


class ReadNowTests(MachineCase):
    """ObjectStore.read_now, on a machine that has all in memory."""

    async def begin(self) -> Machine:
        """It runs, and has an object that is whole."""
        keep_files_in_memory(self)
        machine = await self.started()
        self.version = await machine.put("name", DATA)
        await machine.settle()
        return machine

    async def test_bytes(self) -> None:
        """All, and any range; each is counted."""
        machine = await self.begin()
        self.assertEqual(machine.store.read_now(self.version), DATA)
        self.assertEqual(machine.store.read_now(self.version, (7, 40_000)), DATA[7:40_000])
        self.assertEqual(machine.store.read_now(self.version, (7, 7)), b"")
        self.assertEqual(machine.store.stats.gets, 3)

    async def test_empty(self) -> None:
        """Of nothing, nothing is read."""
        machine = await self.begin()
        version = await machine.put("empty", b"")
        self.assertEqual(machine.store.read_now(version), b"")

    async def test_shards_that_are_not_read(self) -> None:
        """Of the shards that such a read does not touch, one that is missing is made again."""
        machine = await self.begin()
        for span, index in ((None, 4), (None, 5), ((0, 1), 3)):
            machine.shard_files()[index].unlink()
            self.assertIsNotNone(machine.store.read_now(self.version, span))
            await machine.settle()
            self.assert_whole(machine, self.version)
        self.assertEqual(machine.store.stats.repaired_shards, 3)

    async def test_missing(self) -> None:
        """With a shard missing it is to be waited for, and not counted twice."""
        machine = await self.begin()
        machine.shard_files()[2].unlink()
        self.assertIsNone(machine.store.read_now(self.version))
        self.assertEqual(machine.store.stats.gets, 0)
        self.assertEqual(await machine.get("name"), DATA)
        self.assertEqual(machine.store.stats.gets, 1)
        await machine.settle()
        self.assert_whole(machine, self.version)

    async def test_nodes_that_are_not_trusted(self) -> None:
        """Where more than the blocks' checks is wanted, nothing is read at once."""
        machine = await self.begin()
        careful = ObjectStore(
            machine.drives,
            machine.store.metadata,
            SCHEME,
            workers=machine.store.workers,
            clock=machine.clock,
            now=machine.now,
            verify=True,
        )
        self.assertIsNone(careful.read_now(self.version))

    async def test_other_schemes(self) -> None:
        """With one data shard, and with many."""
        keep_files_in_memory(self)
        for scheme in (Scheme(1, 0, 4096), Scheme(8, 3, 4096)):
            machine = await self.started(scheme)
            version = await machine.put("name", DATA)
            self.assertEqual(machine.store.read_now(version, (1, 49_999)), DATA[1:49_999])
