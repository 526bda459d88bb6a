"""A data server as a node: the contract, over loopback."""

from __future__ import annotations

from dostore.core.model import Content
from dostore.ports import IShardNode
from tests.contract.node import NodeContract
from tests.support.data_server import DataServer, DataServerCase
from tests.support.shards import sample

SECRET = b"correct horse battery staple"


class HttpContractTests(NodeContract, DataServerCase):
    """The contract, through HTTP to a data server on a drive."""

    pack_below = 0

    async def make_node(self) -> IShardNode:
        """See NodeContract."""
        server = self.serve(secret=SECRET, pack_below=self.pack_below)
        return self.client(server.address, secret=SECRET)

    async def restart(self, node: IShardNode) -> IShardNode:
        """See NodeContract."""
        (server,) = [s for s in self.servers if s.address == node.address]
        await server.stop()
        again = DataServer(server.folder, secret=SECRET, pack_below=self.pack_below)
        again.listen(int(node.address.rpartition(":")[2]))
        self.servers.remove(server)
        self.servers.append(again)
        return node

    async def test_empty_content(self) -> None:
        """A content without bytes has shards without blocks; they are kept all the same."""
        for index in (1, 4):
            node = await self.make_node()
            what = sample(0)
            if index == 1:
                await node.put(what.content, index, [])
            else:
                await self.write(node, what, index)
            for current in (node, await self.restart(node)):
                reader = await current.open(what.content.hash, index)
                self.assertEqual(reader.info.content, what.content)
                self.assertEqual(await reader.read(0, 0), b"")
                await reader.close()

    async def test_delete_and_bring_back(self) -> None:
        """A deleted content is in no inventory, but is given back when it is asked for again."""
        node = await self.make_node()
        what = sample(100_000)
        await node.put(what.content, 3, what.shards[3])
        for restarts in (False, True):
            await node.delete(what.content.hash)
            await node.delete(what.content.hash)
            self.assertEqual(await self.all_of(node), {})
            if restarts:
                node = await self.restart(node)
                self.assertEqual(await self.all_of(node), {})
            self.assertEqual(sorted(await node.holds(what.content.hash)), [3])
            self.assertEqual(await self.blocks_of(node, what.content, 3), what.plain(3))
            self.assertEqual(await self.all_of(node), {what.content.hash: [3]})

    async def test_discarded_for_good(self) -> None:
        """A shard that was put out of the way as damaged is never given back."""
        node = await self.make_node()
        what = sample(100_000)
        await node.put(what.content, 0, what.shards[0])
        await node.discard(what.content.hash, 0)
        for current in (node, await self.restart(node)):
            await self.assert_missing(current, what.content, 0)

    async def assert_missing(self, node: IShardNode, content: Content, index: int) -> None:
        """See NodeContract."""
        await super().assert_missing(node, content, index)


class PackedHttpContractTests(HttpContractTests):
    """The same when the data server packs small shards."""

    pack_below = 65536
