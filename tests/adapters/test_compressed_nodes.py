"""Nodes that compress: the contracts, with contents that shrink in part, and what is on the drive.

Each restart changes the option, so that shards of every kind are side by side.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.node_local import DriveNode
from dostore.adapters.open_shard import OpenShard
from dostore.adapters.temp_http import HttpTemps
from dostore.core.model import Content
from dostore.core.names import ShardName
from dostore.core.scheme import Scheme
from dostore.core.shardfile import CHECK_BYTES, DEFLATED, ENTRY_BYTES, PAGE_BLOCKS, check_of
from dostore.errors import BadShard
from dostore.ports import IShardNode, ITempShards, TempAbout
from tests.adapters import test_node_http
from tests.adapters.test_node_local import LocalCase
from tests.contract import node as node_contract
from tests.contract import temp as temp_contract
from tests.contract.node import NodeContract
from tests.contract.temp import BLOCK, TempContract
from tests.support.cases import AsyncTestCase
from tests.support.data_server import DataServer, DataServerCase
from tests.support.machine import Bytes
from tests.support.shards import SCHEME, Sample, mixed_sample
from tests.support.stepped import SteppedWorkers
from tests.support.workers import InlineWorkers

#: What one start after the other compresses by.
LEVELS = (1, None, 3, 0)

SECRET = b"correct horse battery staple"


class DriveContractTests(NodeContract, LocalCase):
    """The contract of a node, on a drive."""

    def setUp(self) -> None:
        """Begin with the first level."""
        super().setUp()
        self.levels: Iterator[int | None] = cycle(LEVELS)
        self.patch(node_contract, "sample", mixed_sample)

    async def make_node(self) -> IShardNode:
        """See NodeContract."""
        self.close_journals()
        server = DataServer(self.folder, files=self.files, compression_level=next(self.levels))
        self.stores.append(server.node.store)
        return server.node

    async def restart(self, node: IShardNode) -> IShardNode:
        """See NodeContract."""
        return await self.make_node()


class HttpContractTests(test_node_http.HttpContractTests):
    """The contract of a node, through HTTP."""

    def setUp(self) -> None:
        """Begin with the first level."""
        super().setUp()
        self.levels: Iterator[int | None] = cycle(LEVELS)
        for module in (node_contract, test_node_http):
            self.patch(module, "sample", mixed_sample)

    async def make_node(self) -> IShardNode:
        """See NodeContract."""
        server = self.serve(secret=test_node_http.SECRET, compression_level=next(self.levels))
        return self.client(server.address, secret=test_node_http.SECRET)

    async def restart(self, node: IShardNode) -> IShardNode:
        """See NodeContract."""
        (server,) = [s for s in self.servers if s.address == node.address]
        await server.stop()
        again = DataServer(
            server.folder, secret=test_node_http.SECRET, compression_level=next(self.levels)
        )
        again.listen(int(node.address.rpartition(":")[2]))
        self.servers.remove(server)
        self.servers.append(again)
        return node


class DriveTempsTests(TempContract, AsyncTestCase):
    """The contract of temporary shards, on a drive: parts of one shard by several levels."""

    def setUp(self) -> None:
        """Begin with the first level."""
        super().setUp()
        self.levels: Iterator[int | None] = cycle(LEVELS)
        self.patch(temp_contract, "sample", mixed_sample)
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    async def make_temps(self) -> ITempShards:
        """See TempContract."""
        level = next(self.levels)
        return DataServer(self.folder, clock=self.clock, compression_level=level).temp

    async def restart(self, temps: ITempShards) -> ITempShards:
        """See TempContract."""
        return await self.make_temps()

    async def damage(self, token: str, at: int) -> None:
        """See TempContract."""
        damage_temp(self.folder, token, at)


class HttpTempsTests(TempContract, DataServerCase):
    """The contract of temporary shards, through HTTP."""

    def setUp(self) -> None:
        """Begin with the first level."""
        super().setUp()
        self.levels: Iterator[int | None] = cycle(LEVELS)
        self.patch(temp_contract, "sample", mixed_sample)

    async def make_temps(self) -> ITempShards:
        """See TempContract."""
        self.clock = Clock()
        level = next(self.levels)
        self.server = self.serve(clock=self.clock, secret=SECRET, compression_level=level)
        return self.connect()

    def connect(self) -> HttpTemps:
        """A client of the server."""
        return self.client(self.server.address, secret=SECRET).temps

    async def restart(self, temps: ITempShards) -> ITempShards:
        """See TempContract."""
        await self.server.stop()
        self.servers.remove(self.server)
        old = self.server
        self.server = DataServer(
            old.folder, clock=self.clock, secret=SECRET, compression_level=next(self.levels)
        )
        self.server.listen(int(old.address.rpartition(":")[2]))
        self.servers.append(self.server)
        return self.connect()

    async def damage(self, token: str, at: int) -> None:
        """See TempContract."""
        damage_temp(self.server.folder, token, at)


def damage_temp(folder: Path, token: str, at: int) -> None:
    """Change a byte of the block of a temporary shard that has the plain byte ``at``."""
    index = (folder / "temp" / f"{token}.index").read_bytes()
    number = at // BLOCK
    assert number < PAGE_BLOCKS, "no page comes before it"
    lengths = [int.from_bytes(index[n * ENTRY_BYTES :][:4], "little") for n in range(number + 1)]
    place = sum(lengths[:-1]) + lengths[-1] // 2
    with open(folder / "temp" / token, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 0xFF]))


class OnTheDriveTests(LocalCase):
    """What compression leaves on a drive."""

    def node_by(self, level: int | None) -> DriveNode:
        """The drive as a start with that level finds it."""
        self.close_journals()
        node = DataServer(self.folder, files=self.files, compression_level=level).node
        self.stores.append(node.store)
        return node

    async def write(self, node: DriveNode, what: Sample, index: int, step: int = 7) -> None:
        """Write a shard by a writer."""
        writer = await node.begin(index, what.content.scheme)
        for at in range(0, len(what.shards[index]), step):
            await writer.write(what.shards[index][at : at + step])
        await writer.commit(what.content)

    def file_of(self, what: Sample, index: int) -> bytes:
        """The file of a shard."""
        return self.shard_path(what, index).read_bytes()

    async def test_one_name(self) -> None:
        """However a shard is stored and written, its file has one name, and the last one stays."""
        for size in (5000, 40 * SCHEME.stripe_size, 300 * SCHEME.stripe_size + 1):
            what = mixed_sample(size)
            names, sizes = set(), []
            for level in (None, 1, 3, None):
                node = self.node_by(level)
                await node.put(what.content, 0, what.shards[0])
                names.add(self.shard_path(what, 0).name)
                sizes.append(len(self.file_of(what, 0)))
                await self.write(node, what, 0)
                names.add(self.shard_path(what, 0).name)
                sizes.append(len(self.file_of(what, 0)))
                self.assertEqual(await self.all_of(node, what.content, 0), what.plain(0))
            self.assertEqual(len(names), 1)
            self.assertLess(max(sizes[2:6]), sizes[0])
            self.assertEqual({*sizes[:2], *sizes[6:]}, {sizes[0]})

    async def all_of(self, node: DriveNode, content: Content, index: int) -> bytes:
        """All plain bytes of a shard."""
        reader = await node.open(content.hash, index)
        try:
            return bytes(await reader.read(0, content.scheme.stripe_count(content.size)))
        finally:
            await reader.close()

    async def test_journal(self) -> None:
        """A small shard that was compressed is made again from the journal, compressed or not."""
        what = mixed_sample(60_000)
        await self.node_by(1).put(what.content, 2, what.shards[2])
        stored = self.file_of(what, 2)
        self.assertLess(len(stored), len(what.plain(2)) * 2 // 3)
        for level in (None, 1):
            self.shard_path(what, 2).unlink()
            self.stores[-1].journal.close()
            node = self.node_by(level)
            self.assertEqual(self.file_of(what, 2), stored)
            self.assertEqual(await self.all_of(node, what.content, 2), what.plain(2))

    async def test_journal_and_another_form(self) -> None:
        """When a file of the same name has taken the place of what the journal tells of, either
        form may be there after a crash, and both are the shard.
        """
        what = mixed_sample(60_000)
        for first, then in ((1, None), (None, 1)):
            await self.node_by(first).put(what.content, 2, what.shards[2])
            self.close_journals()
            node = DataServer(self.folder, files=self.files, compression_level=then).node
            self.stores.append(node.store)
            await self.write(node, what, 2)
            again = self.node_by(then)
            self.assertEqual(await self.all_of(again, what.content, 2), what.plain(2))

    async def test_glance(self) -> None:
        """A shard that was damaged on the drive is found by a glance, also when it is small there
        and large when it is read.
        """
        what = mixed_sample(300 * SCHEME.stripe_size)
        for level in (1, None):
            node = self.node_by(level)
            await self.write(node, what, 3)
            wanted = [(what.content, 3)]
            self.assertEqual(list(await node.glance(wanted)), [])
            node = self.node_by(level)
            self.assertEqual(list(await node.glance(wanted)), [])
            path = self.shard_path(what, 3)
            data = bytearray(path.read_bytes())
            data[len(data) // 3] ^= 0xFF
            path.write_bytes(data)
            self.assertEqual(list(await node.glance(wanted)), wanted)

    async def test_damage(self) -> None:
        """Whatever byte of a compressed file changes, a read gives the shard or BadShard."""
        what = mixed_sample(2 * SCHEME.stripe_size + 100)
        node = self.node_by(1)
        await node.put(what.content, 0, what.shards[0])
        path = self.shard_path(what, 0)
        good = path.read_bytes()
        self.assertLess(len(good), len(what.plain(0)) // 2)
        name = ShardName.parse(path.name)
        assert name is not None
        found = 0
        for at in range(len(good)):
            data = bytearray(good)
            data[at] ^= 1 << at % 8
            path.write_bytes(data)
            try:
                shard = DriveStore(str(self.folder), Files()).open(name)
            except BadShard:
                found += 1
                continue
            try:
                self.assertEqual(shard.read(0, 3), what.plain(0))
            except BadShard:
                found += 1
            finally:
                shard.close()
        self.assertGreater(found, len(good) - 20)

    async def test_bomb_on_the_drive(self) -> None:
        """A file whose block would inflate to a thousand times its plain length is bad, and put
        out of the way.
        """
        what = mixed_sample(2000)
        node = self.node_by(None)
        await node.put(what.content, 0, what.shards[0])
        path = self.shard_path(what, 0)
        good = path.read_bytes()
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = deflate.compress(bytes(300_000)) + deflate.flush()
        self.assertLess(len(bomb), 500)
        entry = struct.pack("<I", len(bomb)) + good[504:520]
        footer = bytearray(entry + good[520:-CHECK_BYTES])
        footer[len(entry) + 15] = DEFLATED
        path.write_bytes(bomb + footer + check_of(bytes(footer)))
        with self.assertRaises(BadShard) as caught:
            await self.all_of(node, what.content, 0)
        self.assertIn("has another length", caught.exception.detail)
        self.assertEqual(self.names("objects"), [])
        self.assertEqual([name[-4:] for name in self.names("garbage")], [".bad"])

    async def test_more_pages_than_memory(self) -> None:
        """Of a shard of several pages whose whole file is small, any part is read from memory."""
        scheme = Scheme(1, 0, SCHEME.block_size)
        size = (2 * PAGE_BLOCKS + 10) * scheme.block_size
        zeros = mixed_sample(0, scheme=scheme)
        what = Sample(
            Content(zeros.content.hash, size, scheme),
            bytes(size),
            [[bytes(scheme.block_size)] * (2 * PAGE_BLOCKS + 10)],
        )
        node = self.node_by(1)
        await self.write(node, what, 0, 500)
        self.assertLess(len(self.file_of(what, 0)), 128 * 1024)
        reader = await node.open(what.content.hash, 0)
        for first, count in (
            (0, 2 * PAGE_BLOCKS + 10),
            (PAGE_BLOCKS - 1, 2),
            (2 * PAGE_BLOCKS, 10),
            (PAGE_BLOCKS, 1),
        ):
            self.assertEqual(await reader.read(first, count), bytes(count * scheme.block_size))
        for first, count in ((2 * PAGE_BLOCKS + 9, 2), (2 * PAGE_BLOCKS + 10, 1), (10**6, 1)):
            with self.assertRaises(BadShard):
                await reader.read(first, count)
            node = self.node_by(1)
            await self.write(node, what, 0, 500)
            reader = await node.open(what.content.hash, 0)


class WhereTests(LocalCase):
    """On which thread blocks are inflated."""

    async def test_large_reads_take_a_thread(self) -> None:
        """From memory, a little is inflated at once and more on a thread; plain bytes always at
        once.
        """
        workers = SteppedWorkers()
        for level, quick in ((1, [True, True, False]), (None, [True, True, True])):
            node = DataServer(self.folder, workers=InlineWorkers(), compression_level=level).node
            self.stores.append(node.store)
            what = mixed_sample(20 * SCHEME.stripe_size, level or 0)
            await node.put(what.content, 0, what.shards[0])
            node.workers = workers
            reader = await node.open(what.content.hash, 0)
            shard: OpenShard = reader._shard  # type: ignore[attr-defined]
            self.assertEqual([shard.is_quick(0, count) for count in (1, 8, 9)], quick)
            self.assertEqual(await reader.read(0, 9), what.plain(0)[: 9 * SCHEME.block_size])
            self.close_journals()


def source(data: bytes) -> Any:
    """A source of some bytes."""
    return Bytes(data)


class HalfTests(AsyncTestCase):
    """A temporary shard whose halves were written by different options."""

    async def test_halves(self) -> None:
        """It is committed under the name of a whole one, whichever half is compressed."""
        what = mixed_sample(200 * SCHEME.stripe_size + 5)
        content, plain = what.content, what.plain(2)
        names = set()
        for first, then in ((None, 1), (1, None), (3, 0)):
            folder = Path(self.mktemp())
            folder.mkdir(parents=True)
            temps = DataServer(folder, clock=Clock(), compression_level=first).temp
            token = await temps.open(TempAbout(2, SCHEME, content.hash, content.size))
            half = len(plain) // 2 // BLOCK * BLOCK
            await temps.append(token, source(plain[:half]), 0)
            server = DataServer(folder, clock=Clock(), compression_level=then)
            self.assertEqual(await server.temp.read(token, half - 10, 99), plain[half - 10 : half])
            await server.temp.append(token, source(plain[half:]), half)
            self.assertEqual(
                await server.temp.read(token, half - 10, 20), plain[half - 10 : half + 10]
            )
            await server.temp.commit(token, content, None)
            (name,) = map(ShardName.parse, server.names("objects"))
            names.add(name)
            reader = await server.node.open(content.hash, 2)
            self.assertEqual(await reader.read(0, 201), plain)
            await reader.close()
        self.assertEqual(len(names), 1)
