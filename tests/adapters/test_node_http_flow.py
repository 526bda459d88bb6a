"""Back-pressure between an API server and a data server, both ways, and what broken ones leave."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from dostore.adapters import node_http
from dostore.adapters.node_http_writer import TOUCH_S
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import (
    BadShard,
    Conflict,
    NodeUnavailable,
    NoSpace,
    ShardMissing,
)
from tests.support.data_server import DataServerCase, the_reactor
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, sample
from tests.support.stepped import SteppedWorkers

SECRET = b"correct horse battery staple"

#: A shard of 64 MiB, of blocks that are all the same.
SCHEME_LARGE = Scheme()
BLOCK = bytes(range(256)) * 256
BLOCKS = 1024
LARGE = Content(
    ContentHash(hashlib.sha256(b"large").digest()), BLOCKS * SCHEME_LARGE.stripe_size, SCHEME_LARGE
)

#: What the system's buffers on loopback and ours on both sides hold together, at most.
IN_BETWEEN_BYTES = 24 << 20


class FlowTests(DataServerCase):
    """A data server whose drive is driven by the test."""

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.workers = SteppedWorkers()
        self.files = FaultyFiles()
        self.addCleanup(self.files.lift_all)
        self.server = self.serve(secret=SECRET, workers=self.workers, files=self.files)
        self.node = self.client(self.server.address, secret=SECRET)

    async def settle(self, value: Callable[[], Any]) -> None:
        """Return when a value stays as it is."""
        seen: Any = None
        while seen != (seen := value()):
            for _ in range(30):
                await deferLater(the_reactor, 0.001)

    async def turn(self, condition: Callable[[], object]) -> None:
        """Let the network go on until something is so."""
        for _ in range(3000):
            if condition():
                return
            await deferLater(the_reactor, 0.001)
        raise AssertionError("it never came to that")

    async def test_a_drive_that_is_slow(self) -> None:
        """While the drive takes nothing, only so much is taken from the API server."""
        writer = await self.node.begin(1, SCHEME_LARGE)
        self.workers.stalled = True
        written = [0]

        async def write() -> None:
            for _ in range(0, BLOCKS, 4):
                await writer.write([BLOCK] * 4)
                written[0] += 4 * len(BLOCK)

        writing: Deferred[None] = Deferred.fromCoroutine(write())
        await self.settle(lambda: written[0])
        self.assertNoResult(writing)
        self.assertGreater(written[0], 0)
        self.assertLess(written[0], IN_BETWEEN_BYTES)
        self.workers.recover()
        await writing
        await writer.commit(LARGE)
        reader = await self.node.open(LARGE.hash, 1)
        self.assertEqual(await reader.read(BLOCKS - 2, 2), BLOCK * 2)
        await reader.close()

    async def test_a_reader_that_is_slow(self) -> None:
        """While the API server reads nothing, the drive is read only so far."""
        writer = await self.server.node.begin(1, SCHEME_LARGE)
        for _ in range(0, BLOCKS, 64):
            await writer.write([BLOCK] * 64)
        await writer.commit(LARGE)
        reader = await self.node.open(LARGE.hash, 1)
        await reader.read(0, 4)
        await reader.read(4, 4)

        def reads() -> int:
            return sum(1 for call, _ in self.files.calls if call == "pread")

        await self.settle(reads)
        self.assertLess(reads() * 4 * len(BLOCK), IN_BETWEEN_BYTES)
        for first in range(8, BLOCKS, 8):
            self.assertEqual(await reader.read(first, 8), BLOCK * 8)
        await reader.close()

    def nothing_runs(self) -> bool:
        """Whether the server is done with every request."""
        return self.server.factory is not None and not self.server.factory.running

    async def test_a_writer_that_goes_away(self) -> None:
        """A write that is given up, or cancelled, leaves nothing, neither here nor there."""
        for cancel in (False, True):
            writer = await self.node.begin(1, SCHEME_LARGE)
            await writer.write([BLOCK] * 8)
            if cancel:
                self.workers.stalled = True

                async def write(writer: Any = writer) -> None:
                    while True:
                        await writer.write([BLOCK] * 8)

                writing: Deferred[None] = Deferred.fromCoroutine(write())
                await self.settle(lambda: len(self.files.calls))
                writing.cancel()
                await writing.addErrback(lambda failure: None)
                self.workers.recover()
            await writer.abort()
            await self.turn(lambda: not self.server.names("temp"))
            await self.turn(lambda: self.node.link._streams == 0)
            await self.turn(self.nothing_runs)

    async def test_a_reader_that_goes_away(self) -> None:
        """A read that is given up ends at the data server too."""
        writer = await self.server.node.begin(1, SCHEME_LARGE)
        await writer.write([BLOCK] * BLOCKS)
        await writer.commit(LARGE)
        reader = await self.node.open(LARGE.hash, 1)
        await reader.read(0, 4)
        await reader.read(4, 4)
        await reader.close()
        await self.turn(self.nothing_runs)
        self.assertEqual(self.node.link._streams, 0)

    async def test_a_writer_that_has_nothing_for_hours(self) -> None:
        """A client that sends next to nothing does not lose what it has sent; what is abandoned is
        removed all the same.
        """
        clock = Clock()
        server = self.serve(secret=SECRET, clock=clock)
        node = self.client(server.address, secret=SECRET, clock=clock)
        assert server.factory is not None, "it listens"
        running = server.factory.running

        def pass_time(seconds: float) -> Deferred[None]:
            clock.pump([1.0] * int(seconds))
            return Deferred.fromCoroutine(self.settle(lambda: len(running)))

        abandoned: Any = await node.begin(2, SCHEME_LARGE)
        await abandoned.write([BLOCK])
        await pass_time(1)
        # Its API server was killed.
        abandoned._stop_timer()
        writer: Any = await node.begin(1, SCHEME_LARGE)
        for _ in range(4):
            await writer.write([BLOCK] * (BLOCKS // 4))
            await pass_time(1)
            for name in server.names("temp"):
                os.utime(server.folder / "temp" / name, (0, 0))
            await pass_time(TOUCH_S)
            await self.turn(lambda: any(map(os.path.getmtime, (server.folder / "temp").iterdir())))
            await server.temp.sweep()
        left = {name[:32].encode() for name in server.names("temp")}
        self.assertEqual(left, {writer._target.removeprefix(b"/temp/")})
        await abandoned.abort()
        await writer.commit(LARGE)
        self.assertIsNone(writer._timer)
        self.assertEqual(server.names("temp"), [])
        reader = await node.open(LARGE.hash, 1)
        self.assertEqual(await reader.read(BLOCKS - 2, 2), BLOCK * 2)
        await reader.close()

    async def test_a_full_drive(self) -> None:
        """507, in one step or in the middle of a stream, is known as such."""
        what = sample(1000)
        self.files.fail(str(self.server.folder), errno.ENOSPC, operations={"write"}, times=1)
        with self.assertRaises(NoSpace):
            await self.node.put(what.content, 1, what.shards[1])
        self.server.node.recover()
        writer = await self.node.begin(1, SCHEME_LARGE)
        self.files.fail(str(self.server.folder), errno.ENOSPC, operations={"write"})
        with self.assertRaises(NoSpace):
            for _ in range(0, BLOCKS, 4):
                await writer.write([BLOCK] * 4)
                await deferLater(the_reactor, 0)
        self.files.lift_all()
        await writer.abort()
        self.assertEqual(self.server.names("temp"), [])

    async def test_a_put_that_is_large(self) -> None:
        """A shard too large for one request is put all the same, or leaves nothing."""
        self.patch(node_http, "MAX_PUT_BYTES", 50_000)
        what = sample(100 * SCHEME.stripe_size - 1)
        await self.node.put(what.content, 1, what.shards[1])
        reader = await self.node.open(what.content.hash, 1)
        self.assertEqual(await reader.read(0, 100), what.plain(1))
        await reader.close()
        with self.assertRaises(Conflict):
            await self.node.put(what.content, 2, what.shards[2])
        self.assertEqual(self.server.names("temp"), [])

    async def test_another_shard_is_here(self) -> None:
        """A second shard of a content is refused, however it comes."""
        what = sample(100_000)
        await self.node.put(what.content, 1, what.shards[1])
        with self.assertRaises(Conflict):
            await self.node.put(what.content, 2, what.shards[2])
        writer = await self.node.begin(2, SCHEME)
        await writer.write(what.shards[2])
        with self.assertRaises(Conflict):
            await writer.commit(what.content)
        await writer.abort()
        self.assertEqual(len(self.server.names("objects")), 1)
        self.assertEqual(self.server.names("temp"), [])

    async def test_two_shards_at_once(self) -> None:
        """Of two shards of a content that come at the same time, one is kept."""
        what = sample(1000)
        self.workers.stalled = True
        first: Deferred[None] = Deferred.fromCoroutine(
            self.node.put(what.content, 1, what.shards[1])
        )
        await self.turn(self.workers.backlog)
        with self.assertRaises(Conflict):
            await self.node.put(what.content, 2, what.shards[2])
        self.workers.recover()
        await first
        self.assertEqual(list(await self.node.holds(what.content.hash)), [1])

    async def test_a_shard_that_goes_bad(self) -> None:
        """Damage is known for what it is: when it is opened, and in the middle of a stream."""
        what = sample(200 * SCHEME.stripe_size)
        for at in (-3, 150 * SCHEME.block_size):
            await self.node.put(what.content, 1, what.shards[1])
            (name,) = self.server.names("objects")
            path = self.server.folder / "objects" / name
            data = bytearray(path.read_bytes())
            data[at] ^= 1
            path.write_bytes(data)

            async def read() -> None:
                reader = await self.node.open(what.content.hash, 1)
                try:
                    for first in range(0, 200, 20):
                        got = await reader.read(first, 20)
                        self.assertEqual(got, what.plain(1)[first * 4096 :][: 20 * 4096])
                finally:
                    await reader.close()

            with self.assertRaises(BadShard):
                await read()
            with self.assertRaises(ShardMissing):
                await read()
            self.assertEqual(self.server.names("objects"), [])
            self.flushLoggedErrors()

    async def test_a_shard_in_pieces(self) -> None:
        """A shard that is read on and on, or here and there, is no sign of trouble."""
        what = sample(200 * SCHEME.stripe_size)
        await self.node.put(what.content, 1, what.shards[1])
        reader = await self.node.open(what.content.hash, 1)
        for first in (0, 20, 40, 60, 10, 30, 50, 180):
            got = await reader.read(first, 20)
            self.assertEqual(got, what.plain(1)[first * 4096 :][: 20 * 4096])
        await reader.close()
        self.assertEqual(self.troubles, [])

    async def test_a_server_that_stops(self) -> None:
        """Who was connected to it learns of it by the next call, and goes on when it is back."""
        what = sample(1000)
        await self.node.put(what.content, 1, what.shards[1])
        port = int(self.server.address.rpartition(":")[2])
        await self.server.stop()
        with self.assertRaises(NodeUnavailable):
            await self.node.holds(what.content.hash)
        self.assertIn(self.server.address, self.troubles)
        self.server.listen(port)
        self.assertEqual(list(await self.node.holds(what.content.hash)), [1])

    async def test_a_server_that_restarts_between_two_reads(self) -> None:
        """A stream that nobody read meanwhile is taken up again."""
        writer = await self.server.node.begin(1, SCHEME_LARGE)
        await writer.write([BLOCK] * BLOCKS)
        await writer.commit(LARGE)
        reader = await self.node.open(LARGE.hash, 1)
        for first in range(0, 40, 4):
            await reader.read(first, 4)
        port = int(self.server.address.rpartition(":")[2])
        await self.server.stop()
        self.server.listen(port)
        for first in range(40, BLOCKS, 16):
            count = min(16, BLOCKS - first)
            self.assertEqual(await reader.read(first, count), BLOCK * count)
        await reader.close()
