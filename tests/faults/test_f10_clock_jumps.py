"""F10: the clock jumps an hour either way."""

from __future__ import annotations

from dostore.errors import Deleted
from tests.service.test_damage import content
from tests.support.machine import MachineCase


class ClockJumpTests(MachineCase):
    """The time of day is told, and decides nothing."""

    async def test_order(self) -> None:
        """The newest version is the one that was written last, whatever the clock said."""
        machine = await self.started()
        for number, skew_s in enumerate([0.0, 3600.0, -3600.0, 0.0, -7200.0], 1):
            machine.skew_s = skew_s
            version = await machine.put("name", content(100, number))
            self.assertEqual(version.number, number)
            self.assertEqual(await machine.get("name"), content(100, number))
        machine.skew_s = -10_000.0
        await machine.store.delete("name")
        machine.skew_s = 0.0
        with self.assertRaises(Deleted):
            await machine.get("name")

    async def test_nothing_is_collected(self) -> None:
        """No content of a version is removed by a clock that jumps, over sweeps and restarts."""
        machine = await self.started()
        versions = []
        for number, skew_s in enumerate([3600.0, -3600.0, 90_000.0, -90_000.0]):
            machine.skew_s = skew_s
            versions.append(await machine.put(f"n{number}", content(100, number)))
            await machine.run(machine.store._sweep.run())
            await machine.restart()
            await machine.settle()
        for version in versions:
            self.assert_whole(machine, version)
