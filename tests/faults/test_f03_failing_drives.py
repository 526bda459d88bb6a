"""F3: fsync gives EIO; ENOSPC; EROFS; EMFILE; EIO on read; short reads; a drive that hangs 30 s."""

from __future__ import annotations

import errno
import threading
from collections.abc import Collection
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dostore.core.names import ContentHash
from dostore.errors import DostoreError
from dostore.service.shardset import HEDGE_AFTER_S
from dostore.threads import Mailbox, Workers
from tests.service.test_damage import content
from tests.service.test_writing import LARGE, SMALL
from tests.support.machine import Machine, MachineCase


def _whole(machine: Machine, content_hash: ContentHash) -> bool:
    return len(machine.shard_files(content_hash)) == 6


class FailingDriveTests(MachineCase):
    """One drive, then two, fail in every way; the store goes on."""

    async def goes_on(
        self, operations: Collection[str] | None, error: int, drives: Collection[int]
    ) -> Machine:
        """Reads give every byte and writes succeed, or fail clearly; then all heals."""
        machine = await self.started()
        before = [await machine.put(f"n{size}", content(size)) for size in (SMALL, LARGE)]
        for number in drives:
            machine.files.fail(str(machine.folders[number - 1]), error, operations=operations)
        for version in before:
            self.assertEqual(await machine.get(version.name), content(version.size))
        kept = list(before)
        for size in (SMALL + 1, LARGE + 1):
            if len(drives) == 1:
                kept.append(await machine.put(f"n{size}", content(size)))
            else:
                try:
                    kept.append(await machine.put(f"n{size}", content(size)))
                except DostoreError as failure:
                    self.assertIn("a write needs 5", failure.detail)
        await machine.settle()
        for version in kept:
            self.assertEqual(await machine.get(version.name), content(version.size))
        machine.files.lift_all()
        await machine.pass_time(3.0)
        await machine.settle()
        for version in kept:
            self.assertEqual(await machine.get(version.name), content(version.size))
        await machine.settle()
        for version in kept:
            self.assert_whole(machine, version)
        self.assertEqual(machine.states(), ["live"] * 6)
        return machine

    async def test_sync_fails(self) -> None:
        """EIO on fsync, of files and of folders."""
        for drives in ({3}, {3, 5}):
            await self.goes_on({"sync"}, errno.EIO, drives)
            await self.goes_on({"sync_folder"}, errno.EIO, drives)

    async def test_full(self) -> None:
        """ENOSPC."""
        for drives in ({3}, {3, 5}):
            await self.goes_on({"create", "write"}, errno.ENOSPC, drives)

    async def test_read_only(self) -> None:
        """EROFS."""
        for drives in ({3}, {3, 5}):
            await self.goes_on(
                {"create", "write", "rename", "unlink", "touch", "make_folder"},
                errno.EROFS,
                drives,
            )

    async def test_too_many_open_files(self) -> None:
        """EMFILE."""
        for drives in ({3}, {3, 5}):
            await self.goes_on({"open", "read_cached"}, errno.EMFILE, drives)

    async def test_reads_fail(self) -> None:
        """EIO on every read."""
        for drives in ({3}, {3, 5}):
            await self.goes_on({"pread", "read_cached"}, errno.EIO, drives)

    async def test_everything_fails(self) -> None:
        """EIO on every call."""
        for drives in ({3}, {3, 5}):
            await self.goes_on(None, errno.EIO, drives)

    async def test_short_reads(self) -> None:
        """A read that ends before it should is never taken for the bytes."""
        machine = await self.started()
        pread = machine.files.pread

        def short(fd: int, size: int, offset: int) -> bytes:
            data = pread(fd, size, offset)
            folder = machine.files._path(fd)
            return data[: len(data) // 2] if str(machine.folders[1]) in folder else data

        for size in (SMALL, LARGE):
            version = await machine.put("name", content(size))
            machine.files.pread = short  # type: ignore[method-assign]
            self.assertEqual(await machine.get("name"), content(size))
            machine.files.pread = pread  # type: ignore[method-assign]
            await machine.settle()
            self.assertEqual(await machine.get("name"), content(size))
            await machine.settle()
            self.assert_whole(machine, version)


class HangingDriveTests(MachineCase):
    """A drive whose every call hangs, on real threads."""

    async def test_hangs(self) -> None:
        """It is set aside, others are served meanwhile, and what it missed is made afterwards."""
        machine = self.new_machine()
        mailbox = Mailbox(reactor.callFromThread)  # type: ignore[attr-defined]
        pools: list[Workers] = []

        def make(name: str, size: int) -> Workers:
            if name.endswith("-2"):
                pools.append(Workers(mailbox, name, size))
                return pools[-1]
            return machine.workers.setdefault(name, stepped(name, size))  # type: ignore[arg-type,return-value]

        stepped = machine._make_workers
        self.patch(machine, "_make_workers", make)
        await machine.start()
        version = await machine.put("before", content(LARGE))
        fault = machine.files.hang(str(machine.folders[1]))
        self.addCleanup(fault.lift)
        reading = Deferred.fromCoroutine(machine.get("before"))
        machine.clock.advance(HEDGE_AFTER_S + 0.01)
        await machine.until(lambda: reading.called, 0.0)
        self.assertEqual(await reading, content(LARGE))
        writing = Deferred.fromCoroutine(machine.put("during", content(SMALL)))
        for _ in range(60):
            machine.clock.advance(0.1)
            await deferLater(reactor, 0)
        during = await writing
        await machine.pass_time(30.0)
        self.assertEqual(machine.states()[1], "away")
        self.assertEqual(await machine.get("during"), content(SMALL))
        fault.lift()
        await machine.until(lambda: machine.states()[1] == "live", 0.05)
        await machine.settle()
        for each in (version, during):
            content_hash = each.contents[0].hash
            await machine.until(partial(_whole, machine, content_hash))
        await machine.stop()
        self.assertTrue(all(pool.stop(5.0) for pool in pools))
        self.assertLess(threading.active_count(), 30)
