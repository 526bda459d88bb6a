"""F14: ``a/b`` and ``a/b/c`` both are names."""

from __future__ import annotations

from dostore.core.model import Version
from dostore.service import listing
from tests.service.test_damage import content
from tests.support.machine import MachineCase


class NestedNameTests(MachineCase):
    """A name may be another's beginning."""

    async def test_both(self) -> None:
        """Each is stored, read, listed and deleted by itself, before and after a restart."""
        machine = await self.started()
        names = ["a", "a/", "a/b", "a/b/", "a/b//", "a/b/c", "a/b/c/d"]
        for number, name in enumerate(names):
            await machine.put(name, content(100, number))
        for _ in range(2):
            for number, name in enumerate(names):
                self.assertEqual(await machine.get(name), content(100, number))
            await machine.restart()
        await machine.store.delete("a/b")
        left = [
            entry.name
            async for page in listing.list_objects(machine.store.metadata)
            for entry in page
            if isinstance(entry, Version)
        ]
        self.assertEqual(left, [name for name in sorted(names) if name != "a/b"])
        self.assertEqual(await machine.get("a/b/c"), content(100, 5))
