"""A drive as a node: the contract, what it leaves on disk, and what it does when it fails."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.node_local import DriveNode, DriveState
from dostore.core.names import ContentHash, ShardName
from dostore.errors import BadShard, NodeUnavailable, NoSpace, ShardMissing
from dostore.ports import IShardNode
from dostore.threads import IWorkers, Mailbox, Workers
from tests.contract.node import NodeContract
from tests.support.cases import AsyncTestCase, SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample, sample
from tests.support.stepped import SteppedWorkers
from tests.support.volatile import VolatileFiles, lay_out
from tests.support.workers import InlineWorkers

#: Larger than what is read whole, so that an open shard keeps its file open, and than what goes by
#: way of the journal.
LARGE = 100 * SCHEME.stripe_size


class LocalCase(AsyncTestCase):
    """A drive in a folder of the test's own."""

    pack_below = 0

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.files = FaultyFiles()
        self.addCleanup(self.files.lift_all)
        self.troubles: list[DriveNode] = []
        self.workers = SteppedWorkers()
        self.open_before = self.open_files()
        self.addCleanup(self.close_journals)
        self.stores: list[DriveStore] = []

    def open_files(self) -> int:
        """How many of the drive's files are open, but for the journal's and the volumes'."""
        count = 0
        for number in os.listdir("/proc/self/fd"):
            try:
                path = os.readlink(f"/proc/self/fd/{number}")
            except FileNotFoundError:
                # That which the folder was listed by.
                continue
            kept = (str(self.folder / "log"), str(self.folder / "volumes"))
            count += path.startswith(str(self.folder)) and not path.startswith(kept)
        return count

    def close_journals(self) -> None:
        """As the end of a process does."""
        for store in self.stores:
            store.close()
        self.stores.clear()

    def new_node(self, workers: IWorkers | None = None, files: Files | None = None) -> DriveNode:
        """The drive as a start finds it."""
        self.close_journals()
        store = DriveStore(str(self.folder), files or self.files, pack_below=self.pack_below)
        self.stores.append(store)
        store.prepare()
        store.clean_temp()
        node = DriveNode(
            "drive-1",
            store,
            workers or self.workers,
            self.troubles.append,
            clock=Clock(),
            now=time.time,
        )
        node.come(*store.scan())
        return node

    def names(self, folder: str) -> list[str]:
        """What is in a folder of the drive."""
        return sorted(os.listdir(self.folder / folder))

    def assert_clean(self) -> None:
        """Nothing but what was there before: no file, no open descriptor."""
        self.assertEqual((self.names("temp"), self.names("objects")), ([], []))
        self.assert_nothing_open()

    def assert_nothing_open(self) -> None:
        """No descriptor more than before."""
        self.assertEqual(self.open_files(), self.open_before)

    def shard_path(self, what: Sample, index: int) -> Path:
        """The file of a shard."""
        (path,) = [
            path
            for path in (self.folder / "objects").iterdir()
            if path.name.startswith(f"{what.content.hash.escaped}.{index}.")
        ]
        return path

    def started(self, coro: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        """Run up to the first wait."""
        return Deferred.fromCoroutine(coro)

    def assert_fails(self, deferred: Deferred[Any], error: type[Exception]) -> Any:
        """It has ended with that error."""
        return self.failureResultOf(deferred, error).value


class InlineContractTests(NodeContract, LocalCase):
    """The contract, all in one thread."""

    async def make_node(self) -> IShardNode:
        """See NodeContract."""
        return self.new_node(InlineWorkers())

    async def restart(self, node: IShardNode) -> IShardNode:
        """See NodeContract."""
        return self.new_node(InlineWorkers())


class ThreadedContractTests(NodeContract, LocalCase):
    """The contract, on real threads."""

    def setUp(self) -> None:
        """Start them with the first job."""
        super().setUp()
        self.threads = self.new_threads()

    def new_threads(self) -> Workers:
        """Threads that are stopped at the end."""
        threads = Workers(Mailbox(reactor.callFromThread), "test-drive", 4)  # type: ignore[attr-defined]
        self.addCleanup(threads.stop, 5.0)
        return threads

    async def make_node(self) -> IShardNode:
        """See NodeContract."""
        return self.new_node(self.threads)

    async def restart(self, node: IShardNode) -> IShardNode:
        """See NodeContract."""
        self.assertTrue(self.threads.stop(5.0))
        self.threads = self.new_threads()
        return self.new_node(self.threads)


class PackedContractTests(InlineContractTests):
    """The contract, with shards in volumes."""

    pack_below = 65536


class MixedContractTests(InlineContractTests):
    """The contract, with shards in volumes at first, and then in files, and so on."""

    def new_node(self, workers: IWorkers | None = None, files: Files | None = None) -> DriveNode:
        """Every start has the option changed."""
        self.pack_below = 65536 - self.pack_below
        return super().new_node(workers, files)


class ThreadedPackedContractTests(ThreadedContractTests):
    """The contract, with shards in volumes, on real threads."""

    pack_below = 65536


class DamageTests(LocalCase):
    """Files that are not what was written."""

    async def put(self, size: int = LARGE) -> tuple[DriveNode, Sample]:
        """A node with shard 2 of a content."""
        node, what = self.new_node(), sample(size)
        await node.put(what.content, 2, what.shards[2])
        return node, what

    async def assert_set_aside(self, node: DriveNode, what: Sample) -> None:
        """The damaged shard is gone, also after a restart, and its file is kept for a look."""
        for current in (node, self.new_node()):
            self.assertEqual(list(await current.holds(what.content.hash)), [])
            with self.assertRaises(ShardMissing):
                await current.open(what.content.hash, 2)
        self.assertEqual(self.names("objects"), [])
        self.assertEqual([name[-4:] for name in self.names("garbage")], [".bad"])
        self.assert_nothing_open()

    async def test_damaged_block(self) -> None:
        """A block that does not match its check is not given out; other blocks are."""
        node, what = await self.put()
        path = self.shard_path(what, 2)
        data = bytearray(path.read_bytes())
        data[5 * SCHEME.block_size] ^= 1
        path.write_bytes(data)
        reader = await node.open(what.content.hash, 2)
        with self.assertRaises(BadShard):
            await reader.read(4, 3)
        self.assertEqual(await reader.read(6, 30), b"".join(what.shards[2][6:36]))
        await reader.close()
        await self.assert_set_aside(node, what)

    async def test_damaged_footer(self) -> None:
        """A file that cannot be opened as a shard is put out of the way, small or large."""
        for size, damage in [
            (LARGE, lambda data: data[:-1]),
            (LARGE, lambda data: data[:1000]),
            (LARGE, lambda data: b""),
            (LARGE, lambda data: data + b"\0"),
            (LARGE, lambda data: bytes(len(data))),
            (1000, lambda data: data[:-1]),
            (1000, lambda data: b""),
            (1000, lambda data: b"errMsg\n"),
            (1000, lambda data: bytes(len(data))),
        ]:
            node, what = await self.put(size)
            path = self.shard_path(what, 2)
            path.write_bytes(damage(path.read_bytes()))
            with self.assertRaises(BadShard):
                reader = await node.open(what.content.hash, 2)
                await reader.read(0, 1)
            await self.assert_set_aside(node, what)
            for name in self.names("garbage"):
                os.unlink(self.folder / "garbage" / name)

    async def test_another_shards_file(self) -> None:
        """A whole shard under the name of another is not taken for it."""
        node, what = await self.put()
        other = sample(LARGE, seed=1)
        await node.put(other.content, 2, other.shards[2])
        os.replace(self.shard_path(other, 2), self.shard_path(what, 2))
        with self.assertRaises(BadShard):
            await node.open(what.content.hash, 2)
        with self.assertRaises(ShardMissing):
            await node.open(other.content.hash, 2)

    async def test_glance(self) -> None:
        """A glance sees what is missing, cut short or grown, and what is not a shard at all."""
        node = self.new_node()
        samples = [sample(1000 * seed + 5, seed) for seed in range(5)]
        for what in samples:
            await node.put(what.content, 0, what.shards[0])
        self.shard_path(samples[0], 0).unlink()
        self.shard_path(samples[1], 0).write_bytes(b"")
        with open(self.shard_path(samples[2], 0), "ab") as file:
            file.write(b"more")
        self.shard_path(samples[3], 0).write_bytes(b"errMsg\n")
        wanted = [(what.content, 0) for what in samples]
        self.assertEqual(await node.glance(wanted), wanted[:4])

    async def test_replaced_since(self) -> None:
        """A reader that meets damage leaves the file alone that has taken its place meanwhile."""
        node, what = await self.put()
        path = self.shard_path(what, 2)
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
        first = await node.open(what.content.hash, 2)
        late = await node.open(what.content.hash, 2)
        with self.assertRaises(BadShard):
            await first.read(0, 1)
        await node.put(what.content, 2, what.shards[2])
        with self.assertRaises(BadShard):
            await late.read(0, 1)
        await first.close()
        await late.close()
        reader = await node.open(what.content.hash, 2)
        self.assertEqual(await reader.read(0, 100), what.plain(2))
        await reader.close()
        self.assert_nothing_open()

    async def test_set_aside_later(self) -> None:
        """What cannot be put out of the way now is when the drive takes writes again."""
        node, what = await self.put()
        path = self.shard_path(what, 2)
        path.write_bytes(b"errMsg")
        self.files.fail(str(self.folder), errno.EROFS, operations={"rename"})
        with self.assertRaises(BadShard):
            await node.open(what.content.hash, 2)
        self.assertTrue(path.exists())
        with self.assertRaises(ShardMissing):
            await node.open(what.content.hash, 2)
        self.files.lift_all()
        node.recover()
        await self.assert_set_aside(node, what)

    async def test_bad_sector(self) -> None:
        """EIO while a shard is read spoils that shard, not the drive."""
        node, what = await self.put()
        reader = await node.open(what.content.hash, 2)
        self.files.fail(str(self.shard_path(what, 2)), errno.EIO, operations={"pread"})
        with self.assertRaises(BadShard):
            await reader.read(0, 1)
        await reader.close()
        await self.assert_set_aside(node, what)
        self.assertEqual(node.state, DriveState.LIVE)
        self.assertEqual(self.troubles, [node])

    async def test_too_many_open_files(self) -> None:
        """EMFILE is the process's trouble: no shard and no drive is blamed for it."""
        node, what = await self.put()
        self.files.fail(str(self.folder), errno.EMFILE, operations={"open"})
        with self.assertRaises(NodeUnavailable):
            await node.open(what.content.hash, 2)
        with self.assertRaises(NodeUnavailable):
            await node.put(what.content, 3, what.shards[3])
        self.files.lift_all()
        self.assertEqual((node.state, self.troubles), (DriveState.LIVE, []))
        self.assertEqual(list(await node.holds(what.content.hash)), [2])

    async def test_folder_gone(self) -> None:
        """When the whole folder is gone its shards are out of reach, not missing."""
        node, what = await self.put()
        self.folder.rename(f"{self.folder}.gone")
        with self.assertRaises(NodeUnavailable):
            await node.open(what.content.hash, 2)
        self.assertEqual(self.troubles, [node])
        Path(f"{self.folder}.gone").rename(self.folder)
        reader = await node.open(what.content.hash, 2)
        await reader.close()


class FailureTests(LocalCase):
    """System calls that fail in the middle."""

    async def assert_put_fails(self, error: int, operation: str, raised: type[Exception]) -> None:
        """A put and a writer both fail clearly, leave nothing, and the next ones succeed."""
        what = sample(LARGE)
        for writes in (self._put, self._write):
            node = self.new_node()
            fault = self.files.fail(str(self.folder), error, operations={operation}, times=1)
            with self.assertRaises(raised):
                await writes(node, what)
            self.assertEqual(fault.met, 1)
            self.assert_clean()
            self.assertEqual(node.state, DriveState.READ_ONLY)
            with self.assertRaises(NodeUnavailable):
                await writes(node, what)
            node.recover()
            await writes(node, what)
            await node.delete(what.content.hash)

    async def _put(self, node: DriveNode, what: Sample) -> None:
        await node.put(what.content, 0, what.shards[0])

    async def _write(self, node: DriveNode, what: Sample) -> None:
        writer = await node.begin(0, SCHEME)
        try:
            for block in what.shards[0]:
                await writer.write([block])
            await writer.commit(what.content)
        finally:
            await writer.abort()

    async def test_full(self) -> None:
        """ENOSPC is told as such; nothing is left behind."""
        await self.assert_put_fails(errno.ENOSPC, "write", NoSpace)
        await self.assert_put_fails(errno.EDQUOT, "write", NoSpace)

    async def test_no_inode(self) -> None:
        """ENOSPC on creating the file is the same."""
        await self.assert_put_fails(errno.ENOSPC, "create", NoSpace)

    async def test_read_only(self) -> None:
        """EROFS makes the drive read-only."""
        await self.assert_put_fails(errno.EROFS, "create", NodeUnavailable)

    async def test_sync_fails(self) -> None:
        """A file whose sync failed is not published: its bytes may be gone."""
        await self.assert_put_fails(errno.EIO, "sync", NodeUnavailable)

    async def test_rename_fails(self) -> None:
        """A file that cannot be renamed is removed from temp."""
        await self.assert_put_fails(errno.EIO, "rename", NodeUnavailable)

    async def test_folder_sync_fails(self) -> None:
        """A rename that may not be durable is undone."""
        await self.assert_put_fails(errno.EIO, "sync_folder", NodeUnavailable)

    async def test_folder_sync_fails_again(self) -> None:
        """What was durable before is not undone with the rename that put the same in its place."""
        node, what = self.new_node(), sample(LARGE)
        await self._put(node, what)
        self.files.fail(str(self.folder), errno.EIO, operations={"sync_folder"}, times=1)
        with self.assertRaises(NodeUnavailable):
            await self._put(node, what)
        self.assertEqual(self.shard_path(what, 0).stat().st_size > 0, True)
        reader = await node.open(what.content.hash, 0)
        await reader.close()

    async def test_torn_write(self) -> None:
        """A write that got half its bytes out before the drive was full leaves nothing."""
        node, what = self.new_node(), sample(LARGE)
        self.files.fail(
            str(self.folder), errno.ENOSPC, operations={"write"}, after=3, torn_bytes=100
        )
        with self.assertRaises(NoSpace):
            await self._write(node, what)
        self.assert_clean()

    async def test_error_of_a_write_is_told(self) -> None:
        """The error of a write comes out of the next call, whichever that is."""
        node, what = self.new_node(), sample(LARGE)
        for last in ("write", "commit"):
            self.files.fail(str(self.folder), errno.ENOSPC, operations={"write"}, times=1)
            writer = await node.begin(0, SCHEME)
            await writer.write(what.shards[0][:1])
            with self.assertRaises(NoSpace):
                if last == "write":
                    await writer.write(what.shards[0][1:2])
                else:
                    await writer.commit(what.content)
            await writer.abort()
            self.assert_clean()
            node.recover()

    async def test_error_of_a_write_that_nobody_asked_for(self) -> None:
        """Giving up a write that failed is silent: no error is left over for the log."""
        node, what = self.new_node(), sample(LARGE)
        self.files.fail(str(self.folder), errno.ENOSPC, operations={"write"}, times=1)
        writer = await node.begin(0, SCHEME)
        await writer.write(what.shards[0][:1])
        await writer.abort()
        self.assert_clean()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_failures_of_everything_else(self) -> None:
        """Whatever call meets a failing drive, the error is one of ours."""
        node, what = self.new_node(), sample(LARGE)
        await self._put(node, what)
        content = what.content
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            lambda: node.renew(content.hash),
            lambda: node.modified(content.hash),
            lambda: node.delete(content.hash),
            lambda: node.glance([(content, 0)]),
            lambda: node.purge(0.0),
        ]
        self.files.fail(str(self.folder), errno.EIO)
        for call in calls:
            node.recover()
            with self.assertRaises(NodeUnavailable):
                await call()
        self.files.lift_all()
        self.assertEqual(list(await node.holds(content.hash)), [0])

    async def test_garbage_that_cannot_be_brought_back(self) -> None:
        """A drive that fails to give a shard back has it still, for another try."""
        node, what = self.new_node(), sample(1000)
        await self._put(node, what)
        await node.delete(what.content.hash)
        self.files.fail(str(self.folder), errno.EIO, operations={"rename"}, times=1)
        with self.assertRaises(NodeUnavailable):
            await node.open(what.content.hash, 0)
        reader = await node.open(what.content.hash, 0)
        await reader.close()

    async def test_purged(self) -> None:
        """What is purged from garbage is not promised any more."""
        node, what = self.new_node(), sample(1000)
        await self._put(node, what)
        await node.delete(what.content.hash)
        self.assertEqual(await node.purge(0.0), 0)
        self.assertEqual(list(await node.holds(what.content.hash)), [0])
        self.assertEqual(await node.purge(2.0**40), 1)
        self.assertEqual(list(await node.holds(what.content.hash)), [])
        self.assertEqual(self.names("garbage"), [])


class StateTests(LocalCase):
    """A drive that is not what it was."""

    async def test_away(self) -> None:
        """Nothing is asked of a drive that is away."""
        node, what = self.new_node(), sample(1000)
        node.degrade(DriveState.AWAY, "pulled")
        content_hash = what.content.hash
        calls: list[Coroutine[Any, Any, Any]] = [
            node.begin(0, SCHEME),
            node.put(what.content, 0, what.shards[0]),
            node.open(content_hash, 0),
            node.holds(content_hash),
            node.renew(content_hash),
            node.modified(content_hash),
            node.glance([]),
            node.discard(content_hash, 0),
            node.delete(content_hash),
            node.inventory(0),
            node.purge(0.0),
        ]
        for call in calls:
            with self.assertRaises(NodeUnavailable):
                await call

    async def test_read_only(self) -> None:
        """A drive that takes no writes is read."""
        node, what = self.new_node(), sample(1000)
        await node.put(what.content, 0, what.shards[0])
        node.degrade(DriveState.READ_ONLY, "full")
        for call in (node.begin(0, SCHEME), node.put(what.content, 1, what.shards[1])):
            with self.assertRaises(NodeUnavailable):
                await call
        reader = await node.open(what.content.hash, 0)
        self.assertEqual(await reader.read(0, 1), what.plain(0))
        await reader.close()

    def test_given_up(self) -> None:
        """Every call that hangs ends when the drive is found away."""
        node, what = self.new_node(), sample(LARGE)
        self.successResultOf(self.started(node.put(what.content, 0, what.shards[0])))
        reader = self.successResultOf(self.started(node.open(what.content.hash, 0)))
        writer = self.successResultOf(self.started(node.begin(1, SCHEME)))
        self.workers.stalled = True
        self.successResultOf(self.started(writer.write(what.shards[1])))
        content_hash = what.content.hash
        waiting = [
            self.started(call)
            for call in (
                reader.read(0, 1),
                writer.commit(what.content),
                node.put(what.content, 2, what.shards[2]),
                node.put(what.content, 3, what.shards[3]),
                node.open(content_hash, 0),
                node.renew(content_hash),
                node.modified(content_hash),
                node.glance([(what.content, 0)]),
                node.delete(content_hash),
            )
        ]
        for deferred in waiting:
            self.assertNoResult(deferred)
        self.assertEqual(node.calls, len(waiting))
        node.degrade(DriveState.AWAY, "it hangs")
        for deferred in waiting:
            self.assert_fails(deferred, NodeUnavailable)
        self.assertEqual(node.calls, 0)
        self.successResultOf(self.started(writer.abort()))
        self.successResultOf(self.started(reader.close()))
        self.workers.recover()
        self.assertEqual(self.names("temp"), [])
        self.assert_nothing_open()


class CancellationTests(LocalCase):
    """Callers that go away in the middle of a call, at every step of it."""

    def each_step(
        self, call: Callable[[DriveNode, Sample], Coroutine[Any, Any, Any]], *, ran: bool
    ) -> int:
        """Cancel the call after each number of steps; nothing is left open or in temp.

        :param ran: the job that it waits for has run, only nobody was told.
        :returns: in how many steps it ends.
        """
        for steps in range(100):
            self.workers = SteppedWorkers(stalled=True)
            node, what = self.new_node(), sample(LARGE, seed=steps)
            deferred = self.started(call(node, what))
            for _ in range(steps):
                self.workers.step()
            if deferred.called:
                self.successResultOf(deferred)
                return steps
            if ran:
                self.workers.work()
            deferred.cancel()
            self.workers.finish()
            _ = deferred.addErrback(lambda failure: None)
            self.assertTrue(deferred.called)
            self.assertEqual(self.names("temp"), [], (steps, ran))
            self.assert_nothing_open()
            # What is there all the same is whole.
            for name in self.names("objects"):
                node.store.open(ShardName.parse(name) or self.fail(name)).close()
            self.assert_nothing_open()
        self.fail("it never ends")

    async def _write(self, node: DriveNode, what: Sample) -> None:
        writer = await node.begin(0, SCHEME)
        try:
            await writer.write(what.shards[0][:20])
            await writer.write(what.shards[0][20:])
            await writer.commit(what.content)
        finally:
            await writer.abort()

    async def _put(self, node: DriveNode, what: Sample) -> None:
        await node.put(what.content, 0, what.shards[0])

    async def _read(self, node: DriveNode, what: Sample) -> None:
        await self._put(node, what)
        reader = await node.open(what.content.hash, 0)
        try:
            await reader.read(0, 40)
        finally:
            await reader.close()

    def test_write(self) -> None:
        """A writer that is cancelled and aborted leaves neither file nor descriptor."""
        self.assertGreater(self.each_step(self._write, ran=False), 3)
        self.assertGreater(self.each_step(self._write, ran=True), 3)

    def test_put(self) -> None:
        """A put that is cancelled leaves a whole shard or none."""
        self.assertGreater(self.each_step(self._put, ran=False), 0)
        self.assertGreater(self.each_step(self._put, ran=True), 0)

    def test_read(self) -> None:
        """A reader whose open or read is cancelled closes its file."""
        self.assertGreater(self.each_step(self._read, ran=False), 2)
        self.assertGreater(self.each_step(self._read, ran=True), 2)

    def test_put_that_waited(self) -> None:
        """A put that is cancelled while another round is under way is never begun."""
        self.workers.stalled = True
        node, first, second = self.new_node(), sample(100), sample(100, seed=1)
        one = self.started(node.put(first.content, 0, first.shards[0]))
        two = self.started(node.put(second.content, 0, second.shards[0]))
        two.cancel()
        self.workers.finish()
        self.successResultOf(one)
        _ = two.addErrback(lambda failure: None)
        self.assertEqual(len(self.names("objects")), 1)


class HungDriveTests(LocalCase):
    """Real threads, one of which hangs in a system call."""

    timeout = 30

    async def test_descriptor_stays_open_under_a_write(self) -> None:
        """Giving a write up never closes its descriptor while the write is under way."""
        mailbox = Mailbox(reactor.callFromThread)  # type: ignore[attr-defined]
        threads = Workers(mailbox, "hung", 2)
        self.addCleanup(threads.stop, 5.0)
        node, what = self.new_node(threads), sample(LARGE)
        fault = self.files.hang(str(self.folder), operations={"write"}, times=1)
        writer = await node.begin(0, SCHEME)
        await writer.write(what.shards[0])
        self.assertTrue(fault.hanging.wait(10.0))
        aborting = self.started(writer.abort())
        node.degrade(DriveState.AWAY, "it hangs")
        await aborting
        closed = [path for call, path in self.files.calls if call == "close"]
        self.assertEqual([path for path in closed if "/temp/" in path], [])
        fault.lift()
        self.assertTrue(threads.stop(10.0))
        self.assert_clean()


class GroupCommitTests(LocalCase):
    """Commits that wait at the same time share a round of syncs."""

    def put_all(self, node: DriveNode, samples: list[Sample]) -> list[Deferred[Any]]:
        """Begin to put shard 0 of each."""
        return [self.started(node.put(s.content, 0, s.shards[0])) for s in samples]

    def syncs(self) -> int:
        """How often the journal, or objects/, was synced."""
        synced = [path for call, path in self.files.calls if call in ("sync", "sync_folder")]
        return synced.count(str(self.folder / "log" / "1")) + synced.count(
            str(self.folder / "objects")
        )

    def test_shared(self) -> None:
        """What comes while a round is under way waits for the next, and shares one sync."""
        for size, count, rounds in ((1000, 50, 2), (LARGE, 8, 2)):
            self.workers.stalled = True
            node = self.new_node()
            puts = self.put_all(node, [sample(size, seed) for seed in range(count)])
            before = self.syncs()
            self.workers.finish()
            for put in puts:
                self.successResultOf(put)
            # The journal's first segment is synced when it is made.
            self.assertEqual(self.syncs() - before, rounds + (size < LARGE))
        self.assertEqual(len(self.names("objects")), 58)

    def test_rounds(self) -> None:
        """A round takes only so many."""
        self.workers.stalled = True
        node = self.new_node()
        puts = self.put_all(node, [sample(10, seed) for seed in range(130)])
        self.workers.finish()
        for put in puts:
            self.successResultOf(put)
        self.assertEqual(self.syncs(), 1 + 4)

    def test_one_fails(self) -> None:
        """One that fails leaves the others of its round alone."""
        for operation in ("create", "write", "sync", "rename"):
            self.workers.stalled = True
            node = self.new_node()
            samples = [sample(LARGE, seed) for seed in range(6)]
            puts = self.put_all(node, samples)
            self.workers.step()
            self.successResultOf(puts[0])
            self.files.fail(
                str(self.folder / "temp"), errno.EIO, operations={operation}, after=2, times=1
            )
            self.workers.finish()
            failed = [put for put in puts[1:] if not isinstance(put.result, type(None))]
            self.assertEqual(len(failed), 1, operation)
            self.assert_fails(failed[0], NodeUnavailable)
            self.assertEqual(len(self.names("objects")), 5)
            self.assertEqual(self.names("temp"), [])
            self.workers.stalled = False
            for what in samples:
                self.successResultOf(self.started(node.delete(what.content.hash)))
            self.files.lift_all()

    def test_folder_sync_fails(self) -> None:
        """When the folder cannot be synced nobody of the round is told that it succeeded."""
        self.workers.stalled = True
        node = self.new_node()
        samples = [sample(LARGE, seed) for seed in range(6)]
        puts = self.put_all(node, samples)
        self.workers.step()
        self.files.fail(str(self.folder), errno.EIO, operations={"sync_folder"}, times=1)
        self.workers.finish()
        self.successResultOf(puts[0])
        for put in puts[1:]:
            self.assert_fails(put, NodeUnavailable)
        self.assertEqual(len(self.names("objects")), 1)
        self.assertEqual(self.names("temp"), [])

    def test_workers_stopped(self) -> None:
        """A round that cannot be run at all fails those who wait for it."""
        mailbox = Mailbox(lambda call: call())
        threads = Workers(mailbox, "stopped", 1)
        threads.stop(1.0)
        node, what = self.new_node(threads), sample(10)
        self.assert_fails(self.started(node.put(what.content, 0, what.shards[0])), RuntimeError)


class OrderTests(SyncTestCase):
    """Nothing is told to be durable before it is."""

    def setUp(self) -> None:
        """A drive that loses all that is not synced when its power is cut."""
        super().setUp()
        self.root = Path(self.mktemp()).absolute()
        self.folder = self.root / "drive"
        self.folder.mkdir(parents=True)
        self.files = VolatileFiles()
        self.workers = SteppedWorkers(stalled=True)
        self.now = 1e9
        store = DriveStore(str(self.folder), self.files, now=lambda: self.now)
        store.prepare()
        self.node = DriveNode("drive-1", store, self.workers, clock=Clock(), now=time.time)
        self.node.come(*store.scan())
        self.addCleanup(store.journal.close)
        #: What was told to be there, and after how many calls.
        self.there: dict[ContentHash, tuple[int, Sample]] = {}

    def do(self, call: Coroutine[Any, Any, Any], told: Callable[[], None]) -> None:
        """Begin a call; ``told`` is called when it has ended well."""
        _ = Deferred.fromCoroutine(call).addCallback(lambda _: told())

    def put(self, what: Sample) -> None:
        """Put shard 0."""

        def told() -> None:
            self.there.setdefault(what.content.hash, (len(self.files.journal), what))

        self.do(self.node.put(what.content, 0, what.shards[0]), told)

    def check(self, moment: int, chance: random.Random | None) -> None:
        """Cut the power after so many calls, start again and look."""
        shutil.rmtree(self.root / "after", ignore_errors=True)
        (self.root / "after").mkdir()
        left = self.files.after_power_cut(moment, chance)
        lay_out(left, self.folder, self.root / "after")
        store = DriveStore(str(self.root / "after"), Files())
        store.prepare()
        node = DriveNode("drive-1", store, InlineWorkers(), clock=Clock(), now=time.time)
        node.come(*store.scan())
        store.journal.checkpoint()
        for told_at, what in self.there.values():
            if told_at <= moment:
                reader = self.successResultOf(
                    Deferred.fromCoroutine(node.open(what.content.hash, 0))
                )
                blocks = what.content.scheme.stripe_count(what.content.size)
                read = Deferred.fromCoroutine(reader.read(0, blocks))
                self.assertEqual(self.successResultOf(read), what.plain(0), moment)
                self.successResultOf(Deferred.fromCoroutine(reader.close()))
        store.journal.close()

    def check_all(self) -> None:
        """Cut the power at every moment, with what was not synced all lost, and some of it."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}", end=" ", flush=True)  # noqa: T201
        chance = random.Random(seed)
        for moment in range(len(self.files.journal) + 1):
            self.check(moment, None)
            self.check(moment, chance)

    def test_power_cut_at_every_call(self) -> None:
        """Whenever the power is cut, each shard that was acknowledged is whole and in place."""
        sizes = [10, 5000, LARGE, LARGE + 1]
        samples = [sample(size, seed) for seed, size in enumerate(sizes)]
        for what in samples:
            self.put(what)
            self.do(self._write(what), lambda: None)
        self.workers.finish()
        self.assertEqual(len(self.there), len(samples))
        self.check_all()

    async def _write(self, what: Sample) -> None:
        writer = await self.node.begin(0, SCHEME)
        for block in what.shards[0]:
            await writer.write([block])
        await writer.commit(what.content)

    def test_power_cut_around_checkpoints(self) -> None:
        """Nor is anything lost that was put before, while or after the journal was cut, not even
        from garbage, or what was brought back from there or put again.
        """
        samples = [sample(size, seed) for seed, size in enumerate([10, 5000, 36, 6000, LARGE, 7])]
        for what in samples[:3]:
            self.put(what)
        self.workers.finish()
        self.do(self.node.delete(samples[0].content.hash), lambda: None)
        self.do(self.node.delete(samples[1].content.hash), lambda: None)
        self.workers.finish()
        self.do(self._bring_back(samples[0]), lambda: None)
        self.put(samples[1])
        self.workers.finish()
        self.do(self.node.delete(samples[2].content.hash), lambda: None)
        self.do(self.node.checkpoint(), lambda: None)
        self.put(samples[3])
        self.workers.finish()
        self.put(samples[4])
        self.do(self.node.checkpoint(), lambda: None)
        self.workers.finish()
        self.put(samples[5])
        self.workers.finish()
        self.assertEqual(self.node.store.journal.checkpoints, 2)
        self.assertEqual(len(self.there), len(samples))
        self.check_all()

    async def _bring_back(self, what: Sample) -> None:
        await (await self.node.open(what.content.hash, 0)).close()
