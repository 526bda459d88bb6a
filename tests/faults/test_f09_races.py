"""F9: 32 writers of one name; PUT against DELETE against listing; ``If-None-Match: *`` raced."""

from __future__ import annotations

from dostore.core.model import Version
from dostore.errors import NotFound, PreconditionFailed
from dostore.fanout import gather
from dostore.service import listing
from tests.service.test_damage import content
from tests.support.machine import MachineCase


class RaceTests(MachineCase):
    """Many at the same time."""

    async def test_writers_of_one_name(self) -> None:
        """32 writers get the numbers 1 to 32, and every version has its writer's bytes."""
        machine = await self.started()
        outcomes = await gather([machine.put("name", content(500, n)) for n in range(32)])
        numbers = [outcome.value.number for outcome in outcomes]
        self.assertEqual(sorted(numbers), list(range(1, 33)))
        for writer, number in enumerate(numbers):
            self.assertEqual(await machine.get("name", number), content(500, writer))
        self.assertEqual(await machine.get("name"), content(500, numbers.index(32)))

    async def test_one_may_create(self) -> None:
        """Of 32 that may only create, one does, and nothing is left of the others."""
        machine = await self.started()

        def absent(current: Version | None) -> None:
            if current is not None:
                raise PreconditionFailed("It exists.")

        outcomes = await gather(
            [machine.put("name", content(500, n), check=absent) for n in range(32)]
        )
        won = [n for n, outcome in enumerate(outcomes) if outcome.ok]
        self.assertEqual(len(won), 1)
        for outcome in outcomes:
            if not outcome.ok:
                self.assertIsInstance(outcome.error, PreconditionFailed)
        await machine.settle()
        self.assertEqual(await machine.get("name"), content(500, won[0]))
        self.assertEqual(len(machine.folders_files("objects")), 6)

    async def test_put_delete_and_list(self) -> None:
        """Versions are gapless, tombstones among them; a listing never shows a name twice."""
        machine = await self.started()
        seen: list[list[str]] = []

        async def delete(number: int) -> None:
            try:
                await machine.store.delete(f"n{number % 4}")
            except NotFound:
                return

        async def list_names(_: int) -> None:
            names = [
                entry.name
                async for page in listing.list_objects(machine.store.metadata)
                for entry in page
                if isinstance(entry, Version)
            ]
            seen.append(names)

        async def put(number: int) -> None:
            await machine.put(f"n{number % 4}", content(200, number))

        outcomes = await gather([step(n) for n in range(40) for step in (put, delete, list_names)])
        self.assertEqual([o.error for o in outcomes if o.error is not None], [])
        for names in seen:
            self.assertEqual(names, sorted(set(names)))
        for number in range(4):
            history = [
                version
                async for page in listing.history(machine.store.metadata, f"n{number}")
                for version in page
            ]
            self.assertEqual([v.number for v in history], list(range(1, len(history) + 1)))
            self.assertGreaterEqual(len(history), 10)
