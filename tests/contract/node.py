"""What every node promises, as tests.

A subclass, which is an AsyncTestCase too, says by :meth:`make_node` how to get one that is empty,
and by :meth:`restart` how to get it again after its process ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from dostore.core.model import Content
from dostore.errors import DostoreError, ShardMissing
from dostore.fanout import gather
from dostore.ports import IShardNode, IShardReader, IShardWriter
from tests.support.shards import SCHEME, Sample, sample

if TYPE_CHECKING:
    from tests.support.cases import AsyncTestCase as _Base
else:
    _Base = object

#: Sizes on both sides of what is a row, a block, a stripe, a small file, and more.
SIZES = [
    1,
    3,
    4,
    5,
    36,
    SCHEME.block_size,
    SCHEME.stripe_size - 1,
    SCHEME.stripe_size,
    SCHEME.stripe_size + 1,
    31 * SCHEME.stripe_size,
    32 * SCHEME.stripe_size + 7,
    100 * SCHEME.stripe_size - 3,
]


class NodeContract(_Base):
    """The promises of IShardNode, IShardReader and IShardWriter."""

    async def make_node(self) -> IShardNode:
        """An empty node that is live."""
        raise NotImplementedError

    async def restart(self, node: IShardNode) -> IShardNode:
        """The node as its next start finds it."""
        raise NotImplementedError

    async def and_restarted(self, node: IShardNode) -> AsyncIterator[IShardNode]:
        """The node, then the node after a restart."""
        yield node
        yield await self.restart(node)

    async def blocks_of(self, node: IShardNode, content: Content, index: int) -> bytes:
        """All plain bytes of a shard, read in one piece."""
        reader = await node.open(content.hash, index)
        try:
            return bytes(await reader.read(0, content.scheme.stripe_count(content.size)))
        finally:
            await reader.close()

    async def write(self, node: IShardNode, what: Sample, index: int, step: int = 7) -> None:
        """Write a shard by a writer, some blocks at a time."""
        writer = await node.begin(index, what.content.scheme)
        blocks = what.shards[index]
        for at in range(0, len(blocks), step):
            await writer.write(blocks[at : at + step])
        await writer.commit(what.content)

    async def assert_missing(self, node: IShardNode, content: Content, index: int) -> None:
        """The node does not have the shard."""
        with self.assertRaises(ShardMissing):
            await node.open(content.hash, index)
        self.assertNotIn(index, await node.holds(content.hash))

    async def test_interfaces(self) -> None:
        """Node, reader and writer have the methods that the port names."""
        node = await self.make_node()
        self.assert_provides(IShardNode, node)
        what = sample(10)
        writer = await node.begin(0, SCHEME)
        self.assert_provides(IShardWriter, writer)
        await writer.abort()
        await node.put(what.content, 0, what.shards[0])
        reader = await node.open(what.content.hash, 0)
        self.assert_provides(IShardReader, reader)
        await reader.close()

    async def test_put_and_read(self) -> None:
        """A shard that was put is read as it was, whatever its size, also after a restart."""
        node = await self.make_node()
        samples = [sample(size, seed) for seed, size in enumerate(SIZES)]
        for number, what in enumerate(samples):
            await node.put(what.content, number % 6, what.shards[number % 6])
        async for current in self.and_restarted(node):
            for number, what in enumerate(samples):
                index = number % 6
                self.assertEqual(
                    await self.blocks_of(current, what.content, index), what.plain(index)
                )
                self.assertEqual(list(await current.holds(what.content.hash)), [index])

    async def test_written_and_read(self) -> None:
        """A shard that was written in parts is read as it was, also after a restart."""
        node = await self.make_node()
        samples = [sample(size, seed) for seed, size in enumerate(SIZES)]
        for what in samples:
            await self.write(node, what, 5)
        async for current in self.and_restarted(node):
            for what in samples:
                self.assertEqual(await self.blocks_of(current, what.content, 5), what.plain(5))

    async def test_many_blocks(self) -> None:
        """A shard of more blocks than one page tells of is read from any block on."""
        node = await self.make_node()
        blocks = 2 * 1024 + 100
        what = sample(blocks * SCHEME.stripe_size - 5)
        await self.write(node, what, 2, step=256)
        reader = await node.open(what.content.hash, 2)
        self.assertEqual(reader.info.content, what.content)
        self.assertEqual(reader.info.index, 2)
        for first, count in [
            (0, 1),
            (0, blocks),
            (1023, 2),
            (1024, 1),
            (1000, 1100),
            (2047, 1),
            (2048, 100),
            (blocks - 1, 1),
            (5, 0),
        ]:
            got = await reader.read(first, count)
            self.assertEqual(got, b"".join(what.shards[2][first : first + count]), (first, count))
        await reader.close()

    async def test_empty_content(self) -> None:
        """A content without bytes has shards without blocks; they are kept all the same."""
        node = await self.make_node()
        what = sample(0)
        await node.put(what.content, 1, [])
        await self.write(node, what, 4)
        async for current in self.and_restarted(node):
            for index in (1, 4):
                reader = await current.open(what.content.hash, index)
                self.assertEqual(reader.info.content, what.content)
                await reader.close()

    async def test_not_visible_before_the_commit(self) -> None:
        """What is being written is found by nobody, and is gone after a restart."""
        node = await self.make_node()
        what = sample(100_000)
        writer = await node.begin(0, SCHEME)
        await writer.write(what.shards[0])
        await self.assert_missing(node, what.content, 0)
        self.assertEqual(await self.all_of(node), {})
        await writer.abort()
        await self.assert_missing(await self.restart(node), what.content, 0)

    async def test_abort(self) -> None:
        """A write that was given up, at whatever moment and however often, leaves nothing."""
        node = await self.make_node()
        what = sample(100_000)
        for blocks in range(3):
            writer = await node.begin(0, SCHEME)
            for block in what.shards[0][:blocks]:
                await writer.write([block])
            await writer.abort()
            await writer.abort()
            with self.assertRaises(DostoreError):
                await writer.write(what.shards[0][:1])
                await writer.commit(what.content)
        await self.assert_missing(node, what.content, 0)
        self.assertEqual(await self.all_of(node), {})

    async def test_commit_twice(self) -> None:
        """A second commit, or an abort after it, changes nothing."""
        node = await self.make_node()
        what = sample(100_000)
        writer = await node.begin(3, SCHEME)
        await writer.write(what.shards[3])
        await writer.commit(what.content)
        await writer.commit(what.content)
        await writer.abort()
        async for current in self.and_restarted(node):
            self.assertEqual(await self.blocks_of(current, what.content, 3), what.plain(3))

    async def test_blocks_that_are_no_shard(self) -> None:
        """Blocks that cannot be a shard of the content are refused, and nothing is left."""
        node = await self.make_node()
        what = sample(100_000)
        writer = await node.begin(0, SCHEME)
        await writer.write(what.shards[0][:-1])
        with self.assertRaises(ValueError):
            await writer.commit(what.content)
        await writer.abort()
        with self.assertRaises(ValueError):
            await node.put(what.content, 0, what.shards[0][1:])
        await self.assert_missing(node, what.content, 0)

    async def test_again(self) -> None:
        """Writing a shard that is there puts it in the same place once more."""
        node = await self.make_node()
        what = sample(100_000)
        await node.put(what.content, 1, what.shards[1])
        reader = await node.open(what.content.hash, 1)
        await self.write(node, what, 1)
        await node.put(what.content, 1, what.shards[1])
        count = SCHEME.stripe_count(100_000)
        self.assertEqual(await reader.read(0, count), what.plain(1))
        await reader.close()
        async for current in self.and_restarted(node):
            self.assertEqual(await self.blocks_of(current, what.content, 1), what.plain(1))
            self.assertEqual(list(await current.holds(what.content.hash)), [1])

    async def test_another_scheme(self) -> None:
        """A shard of the same bytes cut another way takes the place of the one before."""
        node = await self.make_node()
        old = sample(100_000)
        new = sample(100_000, scheme=type(SCHEME)(4, 2, 65536))
        self.assertEqual(old.content.hash, new.content.hash)
        await node.put(old.content, 1, old.shards[1])
        await node.put(new.content, 1, new.shards[1])
        async for current in self.and_restarted(node):
            self.assertEqual(await self.blocks_of(current, new.content, 1), new.plain(1))

    async def test_closed(self) -> None:
        """Closing may be repeated; reading after it is an error, and spoils nothing."""
        node = await self.make_node()
        what = sample(200 * SCHEME.stripe_size)
        await node.put(what.content, 1, what.shards[1])
        reader = await node.open(what.content.hash, 1)
        await reader.close()
        await reader.close()
        with self.assertRaises(DostoreError):
            await reader.read(0, 1)
        self.assertEqual(await self.blocks_of(node, what.content, 1), what.plain(1))

    async def test_missing(self) -> None:
        """What was never written is missing, in every way in which it can be asked for."""
        node = await self.make_node()
        there, gone = sample(10), sample(10, seed=1)
        await node.put(there.content, 0, there.shards[0])
        await self.assert_missing(node, gone.content, 0)
        await self.assert_missing(node, there.content, 1)
        with self.assertRaises(ShardMissing):
            await node.modified(gone.content.hash)
        await node.renew(gone.content.hash)
        await node.discard(gone.content.hash, 0)
        await node.discard(there.content.hash, 1)
        await node.delete(gone.content.hash)
        self.assertEqual(await self.blocks_of(node, there.content, 0), there.plain(0))

    async def test_delete_and_bring_back(self) -> None:
        """A deleted content is in no inventory, but is given back when it is asked for again."""
        node = await self.make_node()
        what = sample(100_000)
        await node.put(what.content, 0, what.shards[0])
        await node.put(what.content, 3, what.shards[3])
        for restarts in (False, True):
            await node.delete(what.content.hash)
            await node.delete(what.content.hash)
            self.assertEqual(await self.all_of(node), {})
            if restarts:
                node = await self.restart(node)
                self.assertEqual(await self.all_of(node), {})
            self.assertEqual(sorted(await node.holds(what.content.hash)), [0, 3])
            self.assertEqual(await self.blocks_of(node, what.content, 3), what.plain(3))
            self.assertEqual(await self.blocks_of(node, what.content, 0), what.plain(0))
            self.assertEqual(await self.all_of(node), {what.content.hash: [0, 3]})

    async def test_brought_back_at_once(self) -> None:
        """Several readers may ask for what was deleted at the same time."""
        node = await self.make_node()
        what = sample(100_000)
        await node.put(what.content, 0, what.shards[0])
        await node.delete(what.content.hash)
        outcomes = await gather([self.blocks_of(node, what.content, 0) for _ in range(4)])
        self.assertEqual([outcome.value for outcome in outcomes], [what.plain(0)] * 4)

    async def test_discarded_for_good(self) -> None:
        """A shard that was put out of the way as damaged is never given back."""
        node = await self.make_node()
        what = sample(100_000)
        await node.put(what.content, 0, what.shards[0])
        await node.put(what.content, 1, what.shards[1])
        await node.discard(what.content.hash, 0)
        async for current in self.and_restarted(node):
            await self.assert_missing(current, what.content, 0)
            self.assertEqual(await self.blocks_of(current, what.content, 1), what.plain(1))

    async def test_put_again_after_delete(self) -> None:
        """A content that is deleted and stored again is there, and can be deleted again."""
        node = await self.make_node()
        what = sample(1000)
        for _ in range(3):
            await node.put(what.content, 0, what.shards[0])
            self.assertEqual(await self.blocks_of(node, what.content, 0), what.plain(0))
            await node.delete(what.content.hash)
        self.assertEqual(await self.all_of(await self.restart(node)), {})

    async def test_put_racing_delete(self) -> None:
        """Whichever comes first, the shard is whole where it is, and no call fails."""
        node = await self.make_node()
        what = sample(100_000)
        for _ in range(5):
            outcomes = await gather(
                [
                    node.put(what.content, 0, what.shards[0]),
                    node.delete(what.content.hash),
                    node.put(what.content, 0, what.shards[0]),
                    node.delete(what.content.hash),
                ]
            )
            self.assertEqual([outcome.error for outcome in outcomes], [None] * 4)
            self.assertEqual(await self.blocks_of(node, what.content, 0), what.plain(0))

    async def test_puts_at_once(self) -> None:
        """Many puts at the same time are all there, also after a restart."""
        node = await self.make_node()
        samples = [sample(1000 + seed, seed) for seed in range(150)]
        outcomes = await gather([node.put(s.content, 0, s.shards[0]) for s in samples])
        self.assertEqual([o.error for o in outcomes], [None] * 150)
        node = await self.restart(node)
        for what in samples:
            self.assertEqual(await self.blocks_of(node, what.content, 0), what.plain(0))

    async def test_times(self) -> None:
        """Renewing a content makes it younger, never older."""
        node = await self.make_node()
        what = sample(10)
        await node.put(what.content, 0, what.shards[0])
        written = await node.modified(what.content.hash)
        await node.renew(what.content.hash)
        self.assertGreaterEqual(await node.modified(what.content.hash), written)

    async def test_glance(self) -> None:
        """A glance tells what is not there, and nothing else."""
        node = await self.make_node()
        samples = [sample(size, seed) for seed, size in enumerate(SIZES)]
        for what in samples[::2]:
            await node.put(what.content, 1, what.shards[1])
        wanted = [(what.content, 1) for what in samples] + [(samples[0].content, 2)]
        faulty = await node.glance(wanted)
        self.assertEqual(list(faulty), [(s.content, 1) for s in samples[1::2]] + [wanted[-1]])

    async def test_inventory(self) -> None:
        """Every content is on the page of its first byte, and on no other."""
        node = await self.make_node()
        samples = [sample(10, seed) for seed in range(100)]
        await gather([node.put(s.content, 0, s.shards[0]) for s in samples])
        for page in range(256):
            self.assertEqual(
                {
                    content_hash: list(held)
                    for content_hash, held in (await node.inventory(page)).items()
                },
                {s.content.hash: [0] for s in samples if s.content.hash.digest[0] == page},
            )

    async def all_of(self, node: IShardNode) -> dict[object, list[int]]:
        """The whole inventory."""
        held: dict[object, list[int]] = {}
        for page in range(256):
            for content_hash, indexes in (await node.inventory(page)).items():
                held[content_hash] = sorted(indexes)
        return held
