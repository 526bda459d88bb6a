"""Reads that need no wait: of what, and of what not."""

from __future__ import annotations

from dostore.adapters.drives import AT_ONCE_BYTES, DriveSet
from dostore.core.model import Content
from dostore.core.shardfile import PAGE_BLOCKS
from tests.adapters.test_drives import LOOK_S
from tests.support.machine import SCHEME, Machine, MachineCase
from tests.support.memory import keep_files_in_memory
from tests.support.shards import Sample, sample


class ReadNowTests(MachineCase):
    """read_now, on a machine that has all in memory."""

    async def begin(self, size: int) -> tuple[Machine, DriveSet, Sample]:
        """A content on six drives, shard 0 on the first and so on."""
        keep_files_in_memory(self)
        machine = self.new_machine(SCHEME)
        drives = await machine.start_drives()
        what = sample(size)
        for index, drive in enumerate(drives.drives):
            await drive.node.put(what.content, index, what.shards[index])
        return machine, drives, what

    async def test_ranges(self) -> None:
        """The whole of it and any part."""
        for size in (1, 4097, SCHEME.stripe_size, 3 * SCHEME.stripe_size + 5, AT_ONCE_BYTES):
            _, drives, what = await self.begin(size)
            for start, stop in ((0, size), (0, 1), (size - 1, size), (size // 3, size // 2 + 1)):
                self.assertEqual(drives.read_now(what.content, start, stop), what.data[start:stop])

    async def test_too_much(self) -> None:
        """More than a mebibyte is not read at once, a little of it is."""
        _, drives, what = await self.begin(AT_ONCE_BYTES + 1)
        self.assertIsNone(drives.read_now(what.content, 0, AT_ONCE_BYTES + 1))
        self.assertEqual(drives.read_now(what.content, 9, 99), what.data[9:99])
        vast = Content(what.content.hash, PAGE_BLOCKS * SCHEME.stripe_size, SCHEME)
        self.assertIsNone(drives.read_now(vast, 0, 1))

    async def test_whatever_is_not_right(self) -> None:
        """With a shard removed, damaged, or on a drive that is away or hangs, nothing is read."""
        machine, drives, what = await self.begin(10_000)
        files = machine.shard_files()

        def whole() -> memoryview | None:
            return drives.read_now(what.content, 0, 10_000)

        data = files[1].read_bytes()
        files[1].unlink()
        self.assertIsNone(whole())
        files[1].write_bytes(data[:7] + b"?" + data[8:])
        self.assertIsNone(whole())
        files[1].write_bytes(files[2].read_bytes())
        self.assertIsNone(whole())
        files[1].write_bytes(data)
        self.assertEqual(whole(), what.data)
        fault = machine.files.hang(str(machine.folders[1]))
        self.assertIsNone(whole())
        fault.lift()
        machine.pull(2)
        await machine.pass_time(LOOK_S)
        self.assertIsNone(whole())
        self.assertIsNotNone(drives.read_now(what.content, 0, 1))
        # A drive that is away can be taken out: nothing of it is open.
        self.assertEqual(len(drives.drives[1].store.kept), 0)
        machine.put_back(2)
        await machine.pass_time(LOOK_S)
        self.assertEqual(whole(), what.data)

    async def test_shards_that_are_deleted(self) -> None:
        """What the store itself removes or replaces is not kept open."""
        _, drives, what = await self.begin(10_000)
        self.assertEqual(drives.read_now(what.content, 0, 10_000), what.data)
        self.assertEqual([len(drive.store.kept) for drive in drives.drives], [1, 1, 1, 1, 0, 0])
        await drives.drives[0].node.delete(what.content.hash)
        await drives.drives[1].node.discard(what.content.hash, 1)
        self.assertEqual([len(drive.store.kept) for drive in drives.drives], [0, 0, 1, 1, 0, 0])
        self.assertIsNone(drives.read_now(what.content, 0, 10_000))

    async def test_what_does_not_matter(self) -> None:
        """Without parity, and whatever became of the shards beside a range, it is read."""
        machine, drives, what = await self.begin(10_000)
        files = machine.shard_files()
        for index in (4, 5):
            files[index].unlink()
        self.assertEqual(drives.read_now(what.content, 0, 10_000), what.data)
        files[0].unlink()
        self.assertEqual(drives.read_now(what.content, 3_000, 4_000), what.data[3_000:4_000])

    async def test_glances(self) -> None:
        """A glance at small shards in memory notices the same, and takes no thread."""
        machine, drives, what = await self.begin(10_000)
        files = machine.shard_files()
        wanted = [(what.content, 3)]
        machine.files.hang(str(machine.folders[3]), operations={"signature"})
        self.assertEqual(await drives.drives[3].node.glance(wanted), [])
        files[4].unlink()
        self.assertEqual(
            await drives.drives[4].node.glance([(what.content, 4)]), [(what.content, 4)]
        )
        files[5].write_bytes(b"errMsg")
        self.assertEqual(
            await drives.drives[5].node.glance([(what.content, 5)]), [(what.content, 5)]
        )
