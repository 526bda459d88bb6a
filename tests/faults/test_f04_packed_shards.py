"""F3, F4: packed shards on drives that fail, and packed shards that are damaged or lost."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path

from dostore.adapters.volume_state import Place
from dostore.core.model import Version
from dostore.core.scheme import Scheme
from dostore.core.volumelog import HEAD_BYTES
from dostore.errors import ContentLost, DostoreError
from tests.faults import test_f03_failing_drives
from tests.service.test_damage import content
from tests.support.machine import SCHEME, Machine, MachineCase

#: A shard of this has one block, and of this two.
SIZES = (4000, SCHEME.stripe_size + 1)


class PackedCase(MachineCase):
    """A machine whose small shards are packed."""

    async def started(
        self, scheme: Scheme = SCHEME, drives: int | None = None, *, background: bool = True
    ) -> Machine:
        """See MachineCase."""
        machine = self.new_machine(scheme, drives)
        machine.pack_below = 65536
        await machine.start(background=background)
        return machine

    def places(self, machine: Machine, version: Version) -> dict[int, tuple[Path, Place]]:
        """The volumes that hold the shards of a version, and where in them."""
        assert version.content is not None
        found: dict[int, tuple[Path, Place]] = {}
        for drive in machine.drives.drives:
            for place in drive.store.volumes.places(version.content.hash):
                self.assertNotIn(place.index, found)
                path = Path(drive.folder) / "volumes" / str(place.volume)
                found[place.index] = (path, place)
        return found

    def assert_whole(self, machine: Machine, version: Version) -> None:
        """All shards are there, each on a drive of its own, read by another process's eyes."""
        if version.size >= machine.pack_below:
            super().assert_whole(machine, version)
            return
        assert version.content is not None
        self.assertEqual(machine.folders_files("temp"), [])
        self.assertEqual(machine.shard_files(version.content.hash), {})
        places = self.places(machine, version)
        self.assertEqual(sorted(places), list(range(version.content.scheme.shards)))
        self.assertEqual(len({path.parent for path, _ in places.values()}), len(places))
        for drive in machine.drives.drives:
            for place in drive.store.volumes.places(version.content.hash):
                footer, _ = drive.store.volumes.read(place)
                self.assertEqual(footer.info.content, version.content)

    def hurt(self, places: Mapping[int, tuple[Path, Place]], indexes: Collection[int]) -> None:
        """Change a byte of the head of some records and of the body of others."""
        for index in indexes:
            path, place = places[index]
            data = bytearray(path.read_bytes())
            data[place.offset + (HEAD_BYTES + 5 if index % 2 else 30)] ^= 1
            path.write_bytes(data)


class PackedFailingDriveTests(PackedCase, test_f03_failing_drives.FailingDriveTests):
    """One drive, then two, fail in every way while shards are packed."""

    async def test_the_drive_is_full(self) -> None:
        """When a drive has no room for what is allocated ahead, the others take the shards."""
        for drives in ({3}, {3, 5}):
            await self.goes_on({"allocate"}, errno.ENOSPC, drives)


class PackedDamageTests(PackedCase):
    """Records that are damaged, volumes that are lost."""

    async def test_every_pair(self) -> None:
        """Whichever two of six are damaged, the bytes are right and all six are back."""
        machine = await self.started()
        for size in SIZES:
            version = await machine.put("name", content(size))
            for pair in combinations(range(6), 2):
                self.hurt(self.places(machine, version), pair)
                self.assertEqual(await machine.get("name"), content(size), (size, pair))
                await machine.settle()
                self.assert_whole(machine, version)

    async def test_every_triple(self) -> None:
        """Whichever three are damaged: an error with the counts, and never a wrong byte."""
        machine = await self.started()
        for number, triple in enumerate(combinations(range(6), 3)):
            version = await machine.put("name", content(3000, number))
            self.hurt(self.places(machine, version), triple)
            with self.assertRaises(ContentLost) as caught:
                await machine.store.open(version)
            self.assertEqual((caught.exception.found, caught.exception.needed), (3, 4))
            await machine.settle()

    async def test_volumes_lost(self) -> None:
        """The volumes of two drives are removed under the running store: nothing is missed, and the
        shards are made again in the same places.
        """
        machine = await self.started()
        versions = [await machine.put(f"n{seed}", content(1000 + seed, seed)) for seed in range(20)]
        for pair in ((1, 4), (2, 6)):
            for number in pair:
                shutil.rmtree(machine.folders[number - 1] / "volumes")
            for version in versions[:5]:
                self.assertEqual(
                    await machine.get(version.name), content(version.size, version.size - 1000)
                )
            await machine.pass_time(5.0)
            await machine.settle()
            for version in versions:
                self.assert_whole(machine, version)
                self.assertEqual(
                    await machine.get(version.name), content(version.size, version.size - 1000)
                )

    async def assert_read(self, machine: Machine, version: Version) -> None:
        """It is read as it was written by test_volumes_lost."""
        expected = content(version.size, version.size - 1000)
        self.assertEqual(await machine.get(version.name), expected)

    async def test_one_volume_lost(self) -> None:
        """A volume that is gone while its folder is there is missed by whoever reads a shard of it;
        then all that were in it are made again.
        """
        machine = await self.started()
        versions = [await machine.put(f"n{seed}", content(1000 + seed, seed)) for seed in range(8)]
        await machine.restart()
        (machine.folders[2] / "volumes" / "1").unlink()
        await machine.get("n0")
        await machine.settle()
        await machine.pass_time(5.0)
        await machine.settle()
        for version in versions:
            self.assert_whole(machine, version)

    async def test_damage_found_by_nobody_who_reads(self) -> None:
        """What is found damaged while a volume is emptied is made again."""
        machine = await self.started()
        versions = [await machine.put(f"n{seed}", content(1000 + seed, seed)) for seed in range(8)]
        await machine.stop()
        # The open volume is closed by the next start, and small enough to be emptied.
        path = machine.folders[3] / "volumes" / "1"
        with open(path, "ab") as file:
            file.write(bytes(path.stat().st_size * 2))
        await machine.start()
        place = next(p for f, p in self.places(machine, versions[3]).values() if f == path)
        data = bytearray(path.read_bytes())
        data[place.offset + HEAD_BYTES] ^= 1
        path.write_bytes(data)
        await machine.pass_time(10.0)
        await machine.settle()
        self.assertFalse(path.exists())
        for version in versions:
            self.assert_whole(machine, version)

    async def test_failed_writes_leave_nothing(self) -> None:
        """A write that meets too few drives leaves no shard, and volumes that hold nothing go."""
        machine = await self.started()
        for number in (2, 5):
            machine.files.fail(
                str(machine.folders[number - 1]), errno.EIO, operations={"write", "create"}
            )
        for seed in range(5):
            with self.assertRaises(DostoreError):
                await machine.put("name", content(4000, seed))
        machine.files.lift_all()
        await machine.pass_time(3.0)
        await machine.settle()
        for drive in machine.drives.drives:
            self.assertEqual(len(drive.store.volumes.state.live), 0)
        await machine.pass_time(25 * 3600.0, 30.0)
        for drive in machine.drives.drives:
            self.assertEqual(len(drive.store.volumes.state.removed), 0)
        await machine.restart()
        await machine.pass_time(10.0)
        for folder in machine.folders:
            self.assertEqual(list((folder / "volumes").iterdir()), [])
