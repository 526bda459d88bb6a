"""Healing, the sweep for orphans, and leases."""

from __future__ import annotations

import errno
import shutil
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from dostore.core.model import Version
from dostore.core.names import ContentHash
from dostore.errors import ContentLost, DostoreError, MetadataUnavailable
from dostore.fanout import gather
from dostore.service.leases import Leases
from dostore.service.objects import SWEEP_INTERVAL_S
from tests.service.test_damage import DAMAGES, content, flip
from tests.service.test_writing import LARGE, SMALL, WritingCase
from tests.support.cases import SyncTestCase
from tests.support.machine import Machine
from tests.support.shards import sample


class RepairTests(WritingCase):
    """Contents that lack shards."""

    async def stored(self, machine: Machine, count: int = 6) -> list[Version]:
        """Some contents, small and large."""
        return [
            await machine.put(f"n{n}", content(LARGE if n % 3 == 0 else SMALL, n))
            for n in range(count)
        ]

    async def test_two_drives_wiped(self) -> None:
        """Everything that two drives had is made again on empty ones, without a read."""
        machine = await self.machine()
        versions = await self.stored(machine)
        for number in (2, 5):
            shutil.rmtree(machine.folders[number - 1])
            machine.folders[number - 1].mkdir()
        await machine.pass_time(3.0)
        await machine.settle()
        for version in versions:
            self.assert_whole(machine, version)
        self.assertEqual(machine.store.stats.repaired_shards, 2 * len(versions))
        self.assertEqual(machine.store.stats.failed_repairs, 0)

    async def test_at_the_start(self) -> None:
        """What is missing at a start is made without a read."""
        machine = await self.machine()
        versions = await self.stored(machine)
        await machine.stop()
        for number in (1, 6):
            shutil.rmtree(machine.folders[number - 1])
        await machine.start()
        await machine.settle()
        for version in versions:
            self.assert_whole(machine, version)

    async def test_an_old_drive_put_back(self) -> None:
        """A drive that missed writes gets what it missed; nothing comes back to life."""
        machine = await self.machine()
        before = await self.stored(machine, 3)
        machine.pull(4)
        await machine.pass_time(3.0)
        after = await machine.put("after", content(SMALL, 77))
        await machine.store.delete(before[0].name)
        machine.put_back(4)
        await machine.pass_time(3.0)
        await machine.settle()
        for version in [*before, after]:
            self.assert_whole(machine, version)
        with self.assertRaises(DostoreError):
            await machine.store.find(before[0].name)

    async def test_damage_while_it_is_repaired(self) -> None:
        """Another damaged shard, met while one is made, is made too."""
        machine = await self.machine()
        version = await machine.put("name", content(LARGE))
        files = machine.shard_files()
        files[4].unlink()
        flip(files[1], 0.8)
        await machine.store.repairer.repair(version.contents[0].hash)
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_on_a_drive_that_cannot_set_it_aside(self) -> None:
        """A damaged shard on a drive that turned read-only ends no repair in a circle."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            data = content(size)
            version = await machine.put("name", data)
            files = machine.shard_files(version.contents[0].hash)
            drive = machine.number_of(files[0])
            machine.files.fail(
                str(machine.folders[drive - 1]),
                errno.EROFS,
                operations={"create", "write", "rename", "unlink", "touch", "sync"},
            )
            flip(files[0], 0.3)
            self.assertEqual(await machine.get("name"), data)
            await machine.settle()
            await machine.pass_time(10.0)
            self.assertEqual(await machine.get("name"), data)
            machine.files.lift_all()
            await machine.pass_time(3.0)
            await machine.settle()
            self.assert_whole(machine, version)

    async def test_fails_and_is_tried_again(self) -> None:
        """A repair that failed for want of descriptors is done by a later look at everything."""
        machine = await self.machine()
        version = await machine.put("name", content(SMALL))
        machine.shard_files()[3].unlink()
        machine.files.fail(str(machine.root), errno.EMFILE, operations={"create"})
        await machine.get("name")
        await machine.settle()
        self.assertGreater(machine.store.stats.failed_repairs, 0)
        self.assertEqual(machine.folders_files("temp"), [])
        machine.files.lift_all()
        await machine.pass_time(SWEEP_INTERVAL_S + 600.0, 1.0)
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_lost(self) -> None:
        """What cannot be repaired is counted, and what is left of it stays."""
        machine = await self.machine()
        version = await machine.put("name", content(LARGE))
        files = machine.shard_files()
        for index in (0, 1, 2):
            files[index].unlink()
        lines = self.logged()
        for _ in range(3):
            with self.assertRaises(ContentLost):
                await machine.get("name")
            await machine.settle()
        # Told once, however often it is asked for.
        self.assertEqual(
            lines,
            [f"{version.contents[0].hash} is lost: 3 of 6 shards are there; 4 are needed."],
        )
        self.assertEqual(machine.store.stats.repaired_shards, 0)
        self.assertEqual(machine.store.stats.lost_contents, 1)
        self.assertEqual(sorted(machine.shard_files(version.contents[0].hash)), [3, 4, 5])
        self.assertEqual(machine.folders_files("temp"), [])

    async def test_lost_without_a_read(self) -> None:
        """Whichever shards are left, what is lost is found without a read, told once, and shown to
        who asks how the store is, until it is stored again or no version refers to it.
        """
        machine = await self.machine()
        versions = {}
        for seed, left in enumerate([(0, 1, 2), (0, 1), (5,), (3, 4, 5), (0, 1, 2, 3)]):
            version = await machine.put(f"n{seed}", content(SMALL, seed))
            versions[left] = version.contents[0].hash
            for index, path in machine.shard_files(versions[left]).items():
                if index not in left:
                    path.unlink()
        repairable = versions.pop((0, 1, 2, 3))
        lines = self.logged()
        await machine.restart()
        for _ in range(2):
            await machine.settle()
            await machine.pass_time(SWEEP_INTERVAL_S + 1.0, 1.0)
        self.assertEqual(len(machine.shard_files(repairable)), 6)
        told = [line for line in lines if " is lost: " in line]
        self.assertEqual({line.split()[0] for line in told}, {str(h) for h in versions.values()})
        self.assertEqual((len(told), machine.store.stats.lost_contents), (4, 4))
        state = await machine.run(machine.store.readiness(), 0.0)
        self.assertEqual((state.ready, state.lost), (True, 4))
        self.assertIn("4 contents are lost", state.detail)
        self.assertIn(str(versions[3, 4, 5]), state.detail)
        for seed in range(4):
            await machine.put("again", content(SMALL, seed))
        state = await machine.run(machine.store.readiness(), 0.0)
        self.assertEqual((state.lost, state.detail), (0, "All is well."))
        await machine.settle()
        for seed in range(4):
            self.assertEqual(await machine.get(f"n{seed}"), content(SMALL, seed))

    async def test_lost_or_away(self) -> None:
        """What a drive that is away may complete is not told of as lost, and the rest is."""
        machine = await self.started(background=False)
        for seed, left in enumerate([3, 2]):
            version = await machine.put(f"n{seed}", content(SMALL, seed))
            files = machine.shard_files(version.contents[0].hash)
            there = [i for i, path in files.items() if machine.number_of(path) != 4][:left]
            for index, path in files.items():
                if index not in there:
                    path.unlink()
        await machine.restart(background=False)
        machine.pull(4)
        await machine.pass_time(3.0)
        self.assertEqual(machine.states().count("away"), 1)
        machine.store.repairer.heal()
        await machine.settle()
        state = await machine.run(machine.store.readiness(), 0.0)
        self.assertEqual(state.lost, 1)
        self.assertIn("1 content is lost", state.detail)
        self.assertIn("Degraded", state.detail)

    async def test_counted_only_when_read_back(self) -> None:
        """A shard that is damaged as it is written is not called repaired."""
        machine = await self.machine()
        version = await machine.put("name", content(SMALL))
        path = machine.shard_files()[3]
        path.unlink()
        node = machine.drives.drives[machine.number_of(path) - 1].node
        publish = node.store.publish

        def publish_damaged(temp: Any) -> Any:
            name = publish(temp)
            flip(path)
            return name

        node.store.publish = publish_damaged  # type: ignore[method-assign]
        with self.assertRaises(DostoreError):
            await machine.store.repairer.repair(version.contents[0].hash)
        self.assertEqual(machine.store.stats.repaired_shards, 0)
        node.store.publish = publish  # type: ignore[method-assign]
        await machine.store.repairer.repair(version.contents[0].hash)
        self.assertEqual(machine.store.stats.repaired_shards, 1)
        self.assert_whole(machine, version)

    async def test_heals_beside_a_read_only_drive(self) -> None:
        """A drive that takes no writes does not hide that another lacks a shard."""
        machine = await self.machine()
        version = await machine.put("name", content(SMALL))
        files = machine.shard_files()
        machine.files.fail(
            str(files[0].parent.parent), errno.EROFS, operations={"create", "write", "rename"}
        )
        with self.assertRaises(DostoreError):
            what = sample(10)
            await machine.drives.drives[machine.number_of(files[0]) - 1].node.put(
                what.content, 0, what.shards[0]
            )
        wiped = machine.number_of(files[5])
        shutil.rmtree(machine.folders[wiped - 1])
        machine.folders[wiped - 1].mkdir()
        await machine.pass_time(3.0)
        await machine.settle()
        self.assertEqual(sorted(machine.shard_files(version.contents[0].hash)), [0, 1, 2, 3, 4, 5])

    async def test_reads_and_repairs_at_once(self) -> None:
        """Many readers of damaged contents at the same time all get right bytes."""
        machine = await self.machine()
        versions = await self.stored(machine, 4)
        for number, version in enumerate(versions):
            files = machine.shard_files(version.contents[0].hash)
            kinds = list(DAMAGES.values())
            kinds[number](files[number])
            kinds[-1 - number](files[5 - number])
        outcomes = await gather(
            [machine.get(version.name) for version in versions for _ in range(5)]
        )
        for number, outcome in enumerate(outcomes):
            version = versions[number // 5]
            self.assertEqual(outcome.value, content(version.size, number // 5))
        await machine.settle()
        for version in versions:
            self.assert_whole(machine, version)


class SweepTests(WritingCase):
    """Contents that no version refers to."""

    async def orphan(self, machine: Machine, seed: int = 1) -> ContentHash:
        """What a write left that was killed before its version."""
        what = sample(10_000, seed)
        for number, drive in enumerate(machine.drives.drives[:6]):
            await drive.node.put(what.content, number, what.shards[number])
        return what.content.hash

    async def swept(self, machine: Machine) -> int:
        """Sweep once."""
        return await machine.run(machine.store._sweep.run())

    async def test_removed(self) -> None:
        """Orphans go to garbage, whole or not; every version's content stays."""
        machine = await self.machine()
        versions = [
            await machine.put("a", content(SMALL)),
            await machine.put("a", content(LARGE)),
            await machine.put("gone", content(SMALL, 5)),
        ]
        await machine.store.delete("gone")
        orphans = [await self.orphan(machine, seed) for seed in range(3)]
        next(iter(machine.shard_files(orphans[0]).values())).unlink()
        self.assertEqual(await self.swept(machine), 3)
        self.assertEqual(machine.store.stats.collected_contents, 3)
        for orphan in orphans:
            self.assertEqual(machine.shard_files(orphan), {})
        for version in versions:
            self.assert_whole(machine, version)
        self.assertEqual(await self.swept(machine), 0)

    async def test_by_itself(self) -> None:
        """What a write left is gone within half an hour, and after a restart at once."""
        machine = await self.machine()
        orphan = await self.orphan(machine)
        await machine.pass_time(SWEEP_INTERVAL_S + 600.0, 1.0)
        self.assertEqual(machine.shard_files(orphan), {})
        orphan = await self.orphan(machine, 2)
        await machine.restart()
        await machine.settle()
        self.assertEqual(machine.shard_files(orphan), {})

    async def test_older_than_the_metadata(self) -> None:
        """What is older than the store of versions may belong to one that was lost: it stays."""
        machine = await self.machine()
        orphan = await self.orphan(machine)
        modified = await machine.drives.drives[0].node.modified(orphan)

        async def later() -> float:
            return modified + 1

        self.patch(machine.store._sweep._metadata, "created", later)
        self.assertEqual(await self.swept(machine), 0)
        self.assertEqual(len(machine.shard_files(orphan)), 6)

    async def test_leased(self) -> None:
        """What a write is about to refer to is spared, and referred to afterwards."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            wait: Deferred[None] = Deferred()
            self.metadata.before = partial(_give, wait)
            adds = self.metadata.adds
            writing = Deferred.fromCoroutine(machine.put(f"n{size}", content(size)))
            await machine.until(partial(self._asked, adds + 1))
            self.assertEqual(await self.swept(machine), 0)
            wait.callback(None)
            self.assert_whole(machine, await writing)

    def _asked(self, number: int) -> bool:
        return self.metadata.adds >= number

    async def test_metadata_out_of_reach(self) -> None:
        """Without an answer nothing is removed; and healing goes on."""
        machine = await self.machine()
        orphan = await self.orphan(machine)

        async def fail(_: object) -> set[ContentHash]:
            raise MetadataUnavailable("Not now.")

        machine.shard_files()[0].unlink()
        await machine.restart(background=False)
        self.patch(machine.store._sweep._metadata, "referenced", fail)
        with self.assertRaises(MetadataUnavailable):
            await machine.run(machine.store._look_after())
        await machine.settle()
        self.assertEqual(len(machine.shard_files(orphan)), 6)

    async def test_age_unknown(self) -> None:
        """A content whose age a drive cannot tell is spared."""
        machine = await self.machine()
        orphan = await self.orphan(machine)
        machine.files.fail(str(machine.folders[2]), errno.EIO, operations={"modified"})
        self.assertEqual(await self.swept(machine), 0)
        self.assertEqual(len(machine.shard_files(orphan)), 6)

    async def test_puts_beside_the_sweep(self) -> None:
        """Writes of the very contents that are swept succeed, and can be read."""
        machine = await self.machine()
        data = [sample(10_000, seed).data for seed in range(8)]
        for seed in range(8):
            await self.orphan(machine, seed)
        sweeping = Deferred.fromCoroutine(machine.store._sweep.run())
        outcomes = await gather([machine.put(f"n{n}", each) for n, each in enumerate(data)])
        await machine.until(lambda: sweeping.called)
        await machine.settle()
        for number, outcome in enumerate(outcomes):
            self.assertEqual(await machine.get(f"n{number}"), data[number])
            self.assert_whole(machine, outcome.value)


def _give(wait: Deferred[None]) -> Deferred[None]:
    return wait


class LeaseTests(SyncTestCase):
    """Holding and removing exclude each other."""

    def setUp(self) -> None:
        """Leases."""
        super().setUp()
        self.leases = Leases()
        self.hash, self.other = ContentHash(bytes(32)), ContentHash(b"\1" * 32)

    def hold(self) -> Deferred[None]:
        """Begin to hold."""
        return Deferred.fromCoroutine(self.leases.hold(self.hash))

    def test_shared(self) -> None:
        """Several hold, and none is removed before the last has let go."""
        for _ in range(2):
            self.successResultOf(self.hold())
        self.assertTrue(self.leases.held(self.hash))
        self.leases.release(self.hash)
        self.assertFalse(self.leases.begin_removal(self.hash))
        self.leases.release(self.hash)
        self.assertFalse(self.leases.held(self.hash))
        self.assertTrue(self.leases.begin_removal(self.hash))
        self.assertFalse(self.leases.begin_removal(self.hash))
        self.assertTrue(self.leases.begin_removal(self.other))

    def test_waiting(self) -> None:
        """Holders wait for the end of a removal; one that gives up is passed over."""
        self.assertTrue(self.leases.begin_removal(self.hash))
        waiting = [self.hold() for _ in range(3)]
        for each in waiting:
            self.assertNoResult(each)
        waiting[1].cancel()
        self.failureResultOf(waiting[1])
        self.leases.end_removal(self.hash)
        self.successResultOf(waiting[0])
        self.successResultOf(waiting[2])
        self.assertFalse(self.leases.begin_removal(self.hash))
        self.leases.release(self.hash)
        self.leases.release(self.hash)
        self.assertTrue(self.leases.begin_removal(self.hash))
