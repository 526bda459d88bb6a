"""Small contents that are put as new where asking the nodes first would cost as much."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from dostore.core.placement import rank
from dostore.core.scheme import Scheme
from dostore.errors import MetadataUnavailable, PreconditionFailed, QuorumNotMet
from dostore.fanout import gather
from dostore.service.writing import AS_NEW_BYTES
from tests.service.test_damage import content
from tests.service.test_writing import LARGE, SMALL, WritingCase, _same, hash_of
from tests.support.machine import SCHEME, Bytes, Machine

GRACE_S = 900.0


class NewContentTests(WritingCase):
    """A store whose nodes are asked at a cost, and which is not the only one."""

    async def machine(self, scheme: Scheme = SCHEME, drives: int | None = None) -> Machine:
        """It runs."""
        machine = self.new_machine(scheme, drives)
        machine.wrap = self._hook
        machine.orphan_grace_s = GRACE_S
        await machine.start()
        self.drives_of(machine)
        await machine.settle()
        return machine

    def drives_of(self, machine: Machine) -> None:
        """Count what is asked of the drives."""
        drives: Any = machine.drives
        drives.asking_costs = True
        self.located = 0
        self.put_as_new = 0
        locate, put = drives.locate, drives.put

        async def count_located(*args: Any, **how: Any) -> Any:
            self.located += 1
            return await locate(*args, **how)

        async def count_put(*args: Any, **how: Any) -> Any:
            self.put_as_new += bool(how.get("only_new"))
            return await put(*args, **how)

        drives.locate, drives.put = count_located, count_put

    async def test_new(self) -> None:
        """Nobody is asked for a small content that is new; for a larger one everybody is."""
        machine = await self.machine()
        for size in (0, 1, SMALL, AS_NEW_BYTES - 1, AS_NEW_BYTES):
            version = await machine.put(f"new{size}", content(size))
            self.assert_whole(machine, version)
            self.assertEqual(await machine.get(version.name), content(size))
        self.assertEqual((self.located, self.put_as_new), (0, 5))
        for size in (AS_NEW_BYTES + 1, 2 * AS_NEW_BYTES, 2 * AS_NEW_BYTES + 1, LARGE):
            version = await machine.put(f"larger{size}", content(size))
            self.assertEqual(await machine.get(version.name), content(size))
        self.assertEqual((self.located, self.put_as_new), (4, 5))

    async def test_again(self) -> None:
        """A content that is there is kept once, and told from a new one."""
        machine = await self.machine()
        version = await machine.put("one", content(SMALL))
        files = machine.shard_files(hash_of(content(SMALL)))
        before = {path: path.stat().st_ino for path in files.values()}
        again = await machine.put("two", content(SMALL))
        self.assertEqual(again.content, version.content)
        self.assertEqual({path: path.stat().st_ino for path in files.values()}, before)
        self.assertEqual(machine.store.stats.deduplicated, 1)
        self.assert_whole(machine, again)

    async def test_at_the_same_time(self) -> None:
        """Of many writers of one content all get a version, and it is kept once."""
        machine = await self.machine()
        other = machine.another_server()
        source = content(SMALL)
        stores = (machine.store, other)
        outcomes = await machine.run(
            gather([self.put_to(stores[n % 2], f"name{n}", source) for n in range(20)])
        )
        self.assertTrue(all(outcome.ok for outcome in outcomes))
        self.assert_whole(machine, outcomes[0].value)
        self.assertEqual(len(machine.folders_files("objects")), 6)
        await machine.run(other.stop())

    async def put_to(self, store: Any, name: str, data: bytes) -> Any:
        """Store an object by one of several servers."""
        return await store.put(name, Bytes(data), digest=None, content_type="text/plain", meta={})

    async def test_some_of_it_is_there(self) -> None:
        """Shards that are there, damaged ones too, end whole and where they belong, each once."""
        for index in (0, 3, 5):
            machine = await self.machine()
            await machine.put("one", content(SMALL))
            files = machine.shard_files()
            for other, path in files.items():
                if other != index:
                    path.unlink()
            data = bytearray(files[index].read_bytes())
            data[-1] ^= index & 1
            files[index].write_bytes(data)
            await machine.restart(background=False)
            self.drives_of(machine)
            version = await machine.put("two", content(SMALL))
            await machine.settle()
            self.assert_whole(machine, version)
            self.flushLoggedErrors()

    async def test_deleted_and_put_again(self) -> None:
        """What can be given back is given back."""
        machine = await self.machine()
        version = await machine.put("one", content(SMALL))
        for member in machine.drives.members():
            await member.node.delete(hash_of(content(SMALL)))
        version = await machine.put("two", content(SMALL))
        await machine.settle()
        self.assert_whole(machine, version)
        self.assertEqual(machine.folders_files("garbage"), [])

    async def test_without_all_nodes(self) -> None:
        """When not all who would be asked take shards, they are asked first."""
        machine = await self.machine(drives=7)
        first = rank(hash_of(content(SMALL)), [m.address for m in machine.drives.members()])
        number = 1 + [m.address for m in machine.drives.members()].index(first[2])
        machine.pull(number)
        await machine.pass_time(10.0)
        version = await machine.put("one", content(SMALL))
        self.assertEqual((self.located, self.put_as_new), (1, 0))
        await machine.settle()
        self.assertEqual(len(machine.shard_files(hash_of(content(SMALL)))), 6)
        self.assertEqual(await machine.get(version.name), content(SMALL))

    async def test_no_quorum(self) -> None:
        """A new content that too few nodes took is removed again."""
        machine = await self.machine()
        faults = [
            machine.files.fail(str(folder), errno.EIO, operations={"create"})
            for folder in machine.folders[:2]
        ]
        with self.assertRaises(QuorumNotMet):
            await machine.run(machine.put("name", content(SMALL)))
        for fault in faults:
            fault.lift()
        await machine.pass_time(10.0)
        await machine.settle()
        self.assertEqual(machine.folders_files("objects"), [])
        self.assertEqual(self.put_as_new, 1)

    async def test_no_version_of_a_new_one(self) -> None:
        """Who wrote all of a content that gets no version removes it at once."""
        machine = await self.machine()

        def refuse(_: object) -> None:
            raise PreconditionFailed("It does not hold.")

        for size in (SMALL, LARGE):
            with self.assertRaises(PreconditionFailed):
                await machine.put("name", content(size), check=refuse)
        await self.assert_gone(machine)

    async def test_no_version_of_one_that_was_there(self) -> None:
        """Who found a content leaves it when he gets no version of it: another server, which wrote
        it, may be about to make one, and would not look for it again. If it is nobody's it goes in
        its time.
        """
        machine = await self.machine()
        for size in (SMALL, LARGE):
            gate: Deferred[None] = Deferred()
            self.metadata.before = partial(_same, gate)
            theirs = Deferred.fromCoroutine(machine.put(f"theirs{size}", content(size)))
            await machine.until(lambda: self.metadata.adds)

            def fail() -> None:
                raise MetadataUnavailable("Not now.")

            other = machine.another_server()
            self.metadata.before = fail
            with self.assertRaises(MetadataUnavailable):
                await self.put_to(other, f"ours{size}", content(size))
            await machine.settle()
            await machine.run(other.stop())
            self.metadata.before, self.metadata.adds = lambda: None, 0
            gate.callback(None)
            version = await theirs
            self.assert_whole(machine, version)

    async def test_nobodys_in_the_end(self) -> None:
        """A content that two servers had in hand, of which neither made a version, is swept."""
        machine = await self.machine()

        other = machine.another_server()
        gates: list[Deferred[None]] = []

        def wait() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.metadata.before = wait
        writes = [
            Deferred.fromCoroutine(self.put_to(store, f"name{number}", content(SMALL)))
            for number, store in enumerate((machine.store, other, other))
        ]
        await machine.until(lambda: len(gates) == 3)
        for gate, write in zip(gates, writes, strict=True):
            gate.errback(MetadataUnavailable("Not now."))
            with self.assertRaises(MetadataUnavailable):
                await write
        self.metadata.before = lambda: None
        await machine.settle()
        await machine.run(other.stop())
        await machine.pass_time(2 * GRACE_S + 10, step_s=5.0)
        await machine.settle()
        self.assertEqual(machine.folders_files("objects"), [])
