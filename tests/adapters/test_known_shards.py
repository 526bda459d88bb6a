"""Shards read by a process that was told where they are."""

from __future__ import annotations

from dostore.adapters.drives import AT_ONCE_BYTES, DriveSet
from dostore.adapters.files import Files
from dostore.adapters.known_shards import KnownShards
from dostore.core.shard_places import InFile, InVolume
from tests.support.machine import SCHEME, Machine, MachineCase
from tests.support.memory import keep_files_in_memory
from tests.support.shards import Sample, sample


class KnownShardsTests(MachineCase):
    """Reading without the drives' own index."""

    async def begin(self, size: int, pack_below: int = 0) -> tuple[Machine, DriveSet, Sample]:
        """A content on six drives, shard 0 on the first and so on."""
        keep_files_in_memory(self)
        machine = self.new_machine(SCHEME)
        machine.pack_below = pack_below
        drives = await machine.start_drives()
        what = sample(size)
        for index, drive in enumerate(drives.drives):
            await drive.node.put(what.content, index, what.shards[index])
        return machine, drives, what

    def reader(self, machine: Machine) -> KnownShards:
        """Another process's."""
        known = KnownShards([str(folder) for folder in machine.folders], Files(), 64)
        self.addCleanup(known.let_go)
        return known

    async def test_ranges(self) -> None:
        """The whole of it and any part."""
        for size in (1, 4097, 3 * SCHEME.stripe_size + 5, AT_ONCE_BYTES):
            machine, drives, what = await self.begin(size)
            places = drives.places(what.content)
            self.assertEqual({type(place) for place in places}, {InFile})
            known = self.reader(machine)
            shards = known.resolve(what.content, places)
            for start, stop in ((0, size), (0, 1), (size - 1, size), (size // 3, size // 2 + 1)):
                self.assertEqual(
                    known.read_now(what.content, shards, start, stop), what.data[start:stop]
                )

    async def test_too_much(self) -> None:
        """More than a mebibyte is not read."""
        machine, drives, what = await self.begin(AT_ONCE_BYTES + 1)
        known = self.reader(machine)
        shards = known.resolve(what.content, drives.places(what.content))
        self.assertIsNone(known.read_now(what.content, shards, 0, AT_ONCE_BYTES + 1))

    async def test_packed(self) -> None:
        """Shards in volumes are read, as long as their records are where they were."""
        machine, drives, what = await self.begin(10_000, 1 << 20)
        places = drives.places(what.content)
        self.assertEqual({type(place) for place in places}, {InVolume})
        known = self.reader(machine)
        shards = known.resolve(what.content, places)
        self.assertEqual(known.read_now(what.content, shards, 0, 10_000), what.data)
        other = sample(10_001)
        self.assertIsNone(known.read_now(other.content, shards, 0, 10_001))
        volumes = (machine.folders[0] / "volumes").iterdir()
        (volume,) = (path for path in volumes if path.name.isdigit())
        data = volume.read_bytes()
        at = data.index(what.shards[0][0])
        volume.write_bytes(data[:at] + b"?" + data[at + 1 :])
        self.assertIsNone(known.read_now(what.content, shards, 0, 10_000))
        volume.unlink()
        self.assertIsNone(known.read_now(what.content, shards, 0, 10_000))

    async def test_whatever_is_not_right(self) -> None:
        """With a shard removed, damaged, replaced or not told of, nothing is read."""
        machine, drives, what = await self.begin(10_000)
        files = machine.shard_files()
        known = self.reader(machine)
        places = drives.places(what.content)
        self.assertIsNone(
            known.read_now(what.content, known.resolve(what.content, places[1:]), 0, 10_000)
        )
        shards = known.resolve(what.content, places)
        data = files[1].read_bytes()
        self.assertEqual(known.read_now(what.content, shards, 0, 10_000), what.data)
        for wrong in (data[:7] + b"?" + data[8:], data[:-1], files[2].read_bytes(), None):
            files[1].unlink()
            if wrong is not None:
                files[1].write_bytes(wrong)
            self.assertIsNone(known.read_now(what.content, shards, 0, 10_000))
        files[1].write_bytes(data)
        self.assertEqual(known.read_now(what.content, shards, 0, 10_000), what.data)

    async def test_a_drive_that_is_away(self) -> None:
        """Its shards are not told of."""
        machine, drives, what = await self.begin(10_000)
        machine.pull(2)
        await machine.pass_time(10.0)
        self.assertEqual({place.drive for place in drives.places(what.content)}, {0, 2, 3})
        known = self.reader(machine)
        known.let_go()
