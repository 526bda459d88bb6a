"""Reads of contents whose nodes count as away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dostore.core.names import ContentHash
from dostore.errors import NodeUnavailable, QuorumNotMet, Unavailable
from dostore.ports import Member
from tests.service.test_damage import content
from tests.support.machine import Machine, MachineCase


class Unheard:
    """The drives of a machine, of which some count as away until they are looked at again."""

    def __init__(self, machine: Machine, away: int) -> None:
        self._drives: Any = machine.drives
        self._unheard = {d.node.address for d in machine.drives.drives[:away]}
        self._answer: set[str] = set()
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drives, name)

    @property
    def _away(self) -> set[str]:
        return self._unheard - self._answer

    def members(self) -> Sequence[Member]:
        """See ICluster."""
        return [
            attrs.evolve(
                member,
                live=member.address not in self._away,
                writable=member.address not in self._unheard,
            )
            for member in self._drives.members()
        ]

    def read_now(self, *_: object) -> None:
        """See ICluster."""

    async def locate(
        self, content_hash: ContentHash, everywhere: bool = True
    ) -> Mapping[int, Sequence[str]]:
        """See ICluster."""
        found = await self._drives.locate(content_hash, everywhere)
        quiet = self._away | self.silent
        live = {i: [a for a in where if a not in quiet] for i, where in found.items()}
        return {index: where for index, where in live.items() if where}

    async def look_again(self, content_hash: ContentHash) -> bool:
        """See ICluster."""
        self.looks += 1
        self._answer = self._unheard - self.dead
        return bool(self._answer)


class OutOfReachTests(MachineCase):
    """The last thing before 503."""

    async def unheard(self, away: int, size: int = 100_000) -> tuple[Machine, Unheard]:
        """A machine with an object, and then with drives that count as away."""
        machine = await self.started(background=False)
        await machine.put("a", content(size))
        cluster = Unheard(machine, away)
        store: Any = machine.store
        for part in (store, store._writer, store.repairer):
            name = "cluster" if part is store else "_cluster"
            self.patch(part, name, cluster)
        return machine, cluster

    async def test_all_of_them(self) -> None:
        """With all nodes away by what was heard, those that answer are read."""
        machine, cluster = await self.unheard(6)
        self.assertEqual(await machine.get("a"), content(100_000))
        self.assertEqual(await machine.get("a"), content(100_000))
        self.assertEqual(cluster.looks, 1)

    async def test_as_many_as_are_needed(self) -> None:
        """While the others are enough, nobody is asked who was not heard."""
        machine, cluster = await self.unheard(2)
        self.assertEqual(await machine.get("a"), content(100_000))
        self.assertEqual(cluster.looks, 0)

    async def test_too_few_answer(self) -> None:
        """When too few answer it is out of reach as before."""
        machine, cluster = await self.unheard(6)
        cluster.dead = {drive.node.address for drive in machine.drives.drives[:3]}
        with self.assertRaises(Unavailable):
            await machine.get("a")

    async def test_writes(self) -> None:
        """Nodes that were not heard take no writes, whether they answer or not."""
        machine, _ = await self.unheard(6)
        await machine.get("a")
        with self.assertRaises(QuorumNotMet):
            await machine.put("b", content(10))

    async def test_silent_nodes(self) -> None:
        """A content is not told of as lost while nodes that are silent may have what it lacks."""
        machine, cluster = await self.unheard(0)
        repairer = machine.store.repairer
        (content_hash,) = {c.hash for c in (await machine.store.find("a")).contents}
        drives = machine.drives.drives

        async def fail(_: object) -> None:
            raise NodeUnavailable("It took no connection.")

        for silent in (6, 5, 3):
            cluster.silent = {drive.node.address for drive in drives[:silent]}
            for unreachable in (silent, 0):
                for drive in drives[:unreachable]:
                    self.patch(drive.node, "holds", fail)
                repairer.notice(content_hash)
                await machine.settle()
                self.assertEqual(len(repairer.losses), 0)
                for drive in drives:
                    drive.node.__dict__.pop("holds", None)
        cluster.silent.clear()
        for index in (0, 1, 5):
            machine.shard_files()[index].unlink()
        repairer.notice(content_hash)
        await machine.settle()
        self.assertEqual(len(repairer.losses), 1)
