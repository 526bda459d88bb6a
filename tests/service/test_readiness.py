"""What the store says of itself to those who ask whether it can serve."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from dostore.ports import IMetadataStore
from dostore.service.objects import PING_S
from tests.support.machine import MachineCase
from tests.support.memory_store import MemoryMetadata


@implementer(IMetadataStore)
class SilentMetadata(MemoryMetadata):
    """It neither answers nor fails."""

    async def ping(self) -> None:
        """Wait for ever."""
        await Deferred()


class ReadinessTests(MachineCase):
    """Over drives and a clock of the test's own."""

    async def test_all_is_well(self) -> None:
        """Six drives, and names: ready."""
        machine = await self.started()
        state = await machine.run(machine.store.readiness(), 0.0)
        self.assertEqual((state.ready, state.live, state.detail), (True, 6, "All is well."))

    async def test_silent_metadata(self) -> None:
        """Who asks is answered within PING_S, though the names are with somebody who is silent."""
        machine = self.new_machine()
        machine.wrap = lambda _: SilentMetadata()
        await machine.start(background=False)
        asked = Deferred.fromCoroutine(machine.store.readiness())
        machine.clock.advance(PING_S - 0.1)
        self.assertNoResult(asked)
        machine.clock.advance(0.2)
        state = self.successResultOf(asked)
        self.assertEqual((state.ready, state.live), (False, 6))
        self.assertIn("not answered", state.detail)
