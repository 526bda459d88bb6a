"""Drives that stay full, and what cannot be removed from a drive at the time."""

from __future__ import annotations

import errno

from dostore.errors import NoSpace, QuorumNotMet
from dostore.service.room import ROOM_INTERVAL_S, ROOM_LEFT_BYTES
from tests.service.test_damage import content
from tests.support.faults import WRITES
from tests.support.machine import MachineCase

SMALL, LARGE = 5000, 300_000


class DrivesWithoutRoomTests(MachineCase):
    """A store on six drives."""

    async def test_stay_full(self) -> None:
        """Every write on too many full drives is told that they are full, not only the first; an
        empty body is enough to find that out.
        """
        machine = await self.started()
        for folder in machine.folders[:2]:
            machine.files.fail(str(folder), errno.ENOSPC, operations=WRITES)
        for size in (SMALL, SMALL, LARGE, 0):
            with self.assertRaises(NoSpace) as caught:
                await machine.put("name", content(size))
            self.assertIn("drive-1, drive-2 have no space left", caught.exception.detail)
            await machine.pass_time(3.0)
        machine.files.lift_all()
        await machine.pass_time(3.0)
        await machine.put("name", content(SMALL))

    async def test_full_and_failing(self) -> None:
        """That drives are full is not told when others would be too few without them as well."""
        machine = await self.started()
        for folder, error in zip(
            machine.folders, (errno.ENOSPC, errno.EROFS, errno.EROFS), strict=False
        ):
            machine.files.fail(str(folder), error, operations=WRITES)
        for _ in range(2):
            with self.assertRaises(QuorumNotMet):
                await machine.put("name", content(SMALL))
            await machine.pass_time(3.0)

    async def test_repair_waits_for_room(self) -> None:
        """A shard is not made again where there is no room for it, and is when there is."""
        machine = await self.started()
        room = {str(machine.folders[2]): ROOM_LEFT_BYTES + 1000}
        self.patch(machine.files, "free_bytes", lambda path: room.get(path, 1 << 40))
        fault = machine.files.fail(str(machine.folders[2]), errno.ENOSPC, operations={"write"})
        version = await machine.put("name", content(LARGE))
        fault.lift()
        await machine.pass_time(3.0)
        await machine.settle()
        self.assertEqual(machine.states(), ["live"] * 6)
        machine.files.calls.clear()
        await machine.pass_time(3 * ROOM_INTERVAL_S)
        await machine.settle()
        temp = str(machine.folders[2] / "temp") + "/"
        self.assertEqual([path for _, path in machine.files.calls if path.startswith(temp)], [])
        room.clear()
        await machine.pass_time(ROOM_INTERVAL_S + 3.0)
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_left_on_a_read_only_drive(self) -> None:
        """What a write left on a drive that let nothing be removed is gone when the drive takes
        writes again.
        """
        for size, passing in ((SMALL, "sync"), (LARGE, "write")):
            machine = await self.started()
            folder = machine.folders[2]
            fault = machine.files.fail(
                str(folder),
                errno.EROFS,
                operations=WRITES - {"create", passing},
            )
            await machine.put("name", content(size))
            await machine.settle()
            self.assertNotEqual(list((folder / "temp").iterdir()), [])
            fault.lift()
            await machine.pass_time(3.0)
            await machine.settle()
            self.assertEqual(list((folder / "temp").iterdir()), [])
            self.assertEqual(machine.states(), ["live"] * 6)
