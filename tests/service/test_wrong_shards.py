"""Shards whose checks are right and that are wrong all the same, and copies of shards."""

from __future__ import annotations

import shutil

from dostore.core.model import Version
from dostore.core.shardfile import ShardFileBuilder
from dostore.errors import Corrupt
from tests.service.test_damage import content
from tests.service.test_writing import LARGE, SMALL, WritingCase
from tests.support.machine import Machine
from tests.support.shard_files import require_whole


class WrongShardTests(WritingCase):
    """What the drives' own checks do not tell."""

    async def forge(self, machine: Machine, version: Version, index: int) -> None:
        """Put another shard in the place of one, as a node would that lies; the machine stops."""
        await machine.stop()
        path = machine.shard_files()[index]
        assert version.content is not None
        scheme, size = version.content.scheme, version.content.size
        builder = ShardFileBuilder(index, scheme)
        blocks = [
            bytes([stripe % 251 + 1]) * scheme.block_length(scheme.stripe_length(size, stripe))
            for stripe in range(scheme.stripe_count(size))
        ]
        body = b"".join(bytes(piece) for piece in builder.add(blocks))
        footer, name = builder.finish(version.content)
        path.unlink()
        path.with_name(str(name)).write_bytes(body + footer)

    async def test_repair_spreads_none(self) -> None:
        """A shard that is to be made again is not made from a wrong one: that one is found, and
        made again too.
        """
        for size in (SMALL, LARGE):
            machine = await self.machine()
            version = await machine.put("one", content(size))
            await self.forge(machine, version, 1)
            machine.shard_files()[4].unlink()
            await machine.start()
            await machine.settle()
            self.assertEqual(await machine.get("one"), content(size))
            self.assertEqual(require_whole(machine.folders), 1)
            self.flushLoggedErrors()

    async def test_two_wrong(self) -> None:
        """When two are wrong it is not told which, and nothing is made from them."""
        machine = await self.machine()
        version = await machine.put("one", content(LARGE))
        await self.forge(machine, version, 1)
        await self.forge(machine, version, 3)
        lost = machine.shard_files()[4]
        lost.unlink()
        await machine.start()
        await machine.settle()
        self.assertEqual(sorted(machine.shard_files()), [0, 1, 2, 3, 5])
        self.assertEqual(machine.folders_files("temp"), [])
        self.assertEqual(machine.store.stats.failed_repairs, 1)

    async def test_made_again_after_a_read(self) -> None:
        """Whoever reads a small object gets it right, and of a large one not the end; what was
        wrong is right soon after.
        """
        for size in (SMALL, LARGE):
            machine = await self.machine()
            version = await machine.put("one", content(size))
            await self.forge(machine, version, 0)
            await machine.start()
            self.patch(machine.store, "_verify", True)
            if size == SMALL:
                self.assertEqual(await machine.get("one"), content(size))
            else:
                with self.assertRaises(Corrupt):
                    await machine.get("one")
            await machine.settle()
            self.assertEqual(await machine.get("one"), content(size))
            self.assertEqual(require_whole(machine.folders), 1)
            self.flushLoggedErrors()

    async def test_a_copy_makes_room(self) -> None:
        """Where every drive has a shard and two have the same, the copy makes room for what is
        missing.
        """
        machine = await self.machine()
        for size in (SMALL, LARGE):
            await machine.put(f"of-{size}", content(size))
        await machine.stop()
        for kind in ("objects", "garbage"):
            shutil.rmtree(machine.folders[1] / kind)
            shutil.copytree(machine.folders[0] / kind, machine.folders[1] / kind)
        await machine.start()
        await machine.settle()
        self.assertEqual(require_whole(machine.folders), 2)
        for size in (SMALL, LARGE):
            self.assertEqual(await machine.get(f"of-{size}"), content(size))
