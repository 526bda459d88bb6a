"""What every cluster promises, as tests.

A subclass, which is an AsyncTestCase too, says how to get a cluster of six empty nodes, how one of
them gets a shard, goes away and comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from dostore.core.names import ContentHash
from dostore.core.placement import rank
from dostore.errors import AlreadyHeld, NodeUnavailable
from dostore.fanout import gather
from dostore.ports import ICluster
from tests.support.shards import Sample, sample

if TYPE_CHECKING:
    from tests.support.cases import AsyncTestCase as _Base
else:
    _Base = object

SHARDS = 6


class ClusterContract(_Base):
    """The promises of ICluster."""

    async def make_cluster(self) -> ICluster:
        """Six nodes, live and empty."""
        raise NotImplementedError

    async def keep(self, cluster: ICluster, what: Sample, index: int, address: str) -> None:
        """A node gets a shard."""
        raise NotImplementedError

    async def take_away(self, cluster: ICluster, address: str) -> None:
        """A node is out of reach, and the cluster has noticed."""
        raise NotImplementedError

    async def bring_back(self, cluster: ICluster, address: str) -> None:
        """It can be reached again; the cluster may notice later."""
        raise NotImplementedError

    async def noticed(self, what: str, holds: Callable[[], object]) -> None:
        """Give the cluster its time, until ``holds()`` is true."""
        raise NotImplementedError

    # Not promises

    def addresses(self, cluster: ICluster) -> list[str]:
        """Of all members."""
        return [member.address for member in cluster.members()]

    def found(self, places: object) -> dict[int, list[str]]:
        """Places, in a form to be compared."""
        assert isinstance(places, dict)
        return {index: sorted(where) for index, where in places.items()}

    async def placed_by_rank(self, cluster: ICluster, what: Sample) -> dict[int, list[str]]:
        """Every shard of a content is where it belongs; the places."""
        ranked = rank(what.content.hash, self.addresses(cluster))
        for index in range(SHARDS):
            await self.keep(cluster, what, index, ranked[index])
        return {index: [ranked[index]] for index in range(SHARDS)}

    # Promises

    async def test_provides(self) -> None:
        """It provides the interface."""
        self.assert_provides(ICluster, await self.make_cluster())

    async def test_members(self) -> None:
        """All nodes are members, live and writable, each by one address and in one order."""
        cluster = await self.make_cluster()
        members = cluster.members()
        self.assertEqual(len({member.address for member in members}), 6)
        self.assertTrue(all(member.live and member.writable for member in members))
        self.assertEqual([m.node.address for m in members], [m.address for m in members])
        self.assertEqual(list(cluster.members()), list(members))

    async def test_a_node_goes_and_comes(self) -> None:
        """A node that is away stays a member in its place; its return is told."""
        cluster = await self.make_cluster()
        addresses = self.addresses(cluster)
        told: list[str] = []
        cluster.watch(told.append)
        await self.take_away(cluster, addresses[2])
        self.assertEqual(self.addresses(cluster), addresses)
        states = [(member.live, member.writable) for member in cluster.members()]
        self.assertEqual(states, [(True, True)] * 2 + [(False, False)] + [(True, True)] * 3)
        self.assertEqual(told, [])
        await self.bring_back(cluster, addresses[2])
        await self.noticed("the node is back", lambda: cluster.members()[2].live)
        self.assertTrue(cluster.members()[2].writable)
        self.assertEqual(told, [addresses[2]])

    async def test_two_watchers(self) -> None:
        """Everybody who watches is told."""
        cluster = await self.make_cluster()
        address = self.addresses(cluster)[0]
        told: list[str] = []
        cluster.watch(lambda joined: told.append("first"))
        cluster.watch(lambda joined: told.append("second"))
        await self.take_away(cluster, address)
        await self.bring_back(cluster, address)
        await self.noticed("both are told", lambda: len(told) >= 2)
        self.assertEqual(sorted(told), ["first", "second"])

    async def test_nothing(self) -> None:
        """Of a content that nobody has, nothing is found, wherever one looks."""
        cluster = await self.make_cluster()
        nothing = ContentHash(bytes(32))
        self.assertEqual(await cluster.locate(nothing), {})
        self.assertEqual(await cluster.locate(nothing, everywhere=False), {})

    async def test_where_it_belongs(self) -> None:
        """Shards that are where they belong are expected there, and found either way."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        places = await self.placed_by_rank(cluster, what)
        self.assertEqual(self.found(cluster.expected(what.content.hash, SHARDS)), places)
        for everywhere in (False, True):
            held = await cluster.locate(what.content.hash, everywhere=everywhere)
            self.assertEqual(self.found(held), places)

    async def test_somewhere_else(self) -> None:
        """Shards that are elsewhere, together or twice are found, and expected there afterwards."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        first, second, third, *_ = reversed(rank(what.content.hash, self.addresses(cluster)))
        for index, address in ((0, first), (1, first), (1, second), (5, third)):
            await self.keep(cluster, what, index, address)
        places = {0: [first], 1: sorted([first, second]), 5: [third]}
        self.assertEqual(self.found(await cluster.locate(what.content.hash)), places)
        expected = self.found(cluster.expected(what.content.hash, SHARDS))
        self.assertEqual({index: expected[index] for index in places}, places)

    async def test_noted(self) -> None:
        """Where shards were placed, there they are expected."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        addresses = list(reversed(rank(what.content.hash, self.addresses(cluster))))
        for index, address in enumerate(addresses):
            await self.keep(cluster, what, index, address)
        cluster.placed(what.content.hash, dict(enumerate(addresses)))
        self.assertEqual(
            self.found(cluster.expected(what.content.hash, SHARDS)),
            {index: [address] for index, address in enumerate(addresses)},
        )

    async def test_read_now(self) -> None:
        """What can be read without a wait is right; nothing is, of what nobody has."""
        cluster = await self.make_cluster()
        what = sample(70_000)
        self.assertIsNone(cluster.read_now(what.content, 0, 1))
        await self.placed_by_rank(cluster, what)
        for start, stop in ((0, 70_000), (0, 1), (69_999, 70_000), (20_000, 50_000)):
            data = cluster.read_now(what.content, start, stop)
            self.assertIn(data, (None, what.data[start:stop]))

    async def test_put(self) -> None:
        """Whole shards are put each on its node, and are found there."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        placed = dict(enumerate(rank(what.content.hash, self.addresses(cluster))))
        outcomes = await cluster.put(what.content, placed, what.shards, 5)
        self.assertEqual(outcomes, dict.fromkeys(range(SHARDS)))
        self.assertEqual(
            self.found(await cluster.locate(what.content.hash)),
            {index: [address] for index, address in placed.items()},
        )

    async def test_put_some(self) -> None:
        """Some of the shards can be put alone, anywhere, and again where they are already."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        *_, last, first = self.addresses(cluster)
        placed = {5: first, 2: last}
        for _ in range(2):
            outcomes = await cluster.put(what.content, placed, what.shards, 2)
            self.assertEqual(outcomes, {5: None, 2: None})
            held = await cluster.locate(what.content.hash)
            self.assertEqual(self.found(held), {5: [first], 2: [last]})

    async def test_put_new(self) -> None:
        """Of a content that nobody has, every shard is put; after that nobody takes it for new,
        whichever shard it is.
        """
        cluster = await self.make_cluster()
        what = sample(10_000)
        addresses = rank(what.content.hash, self.addresses(cluster))
        placed = dict(enumerate(addresses))
        outcomes = await cluster.put(what.content, placed, what.shards, 5, only_new=True)
        self.assertEqual(outcomes, dict.fromkeys(range(SHARDS)))
        for order in (addresses, addresses[1:] + addresses[:1]):
            anew = dict(enumerate(order))
            outcomes = await cluster.put(what.content, anew, what.shards, 5, only_new=True)
            self.assertEqual(sorted(outcomes), list(range(SHARDS)))
            for error in outcomes.values():
                self.assertIsInstance(error, AlreadyHeld)
        self.assertEqual(
            self.found(await cluster.locate(what.content.hash)),
            {index: [address] for index, address in placed.items()},
        )

    async def test_put_new_where_some_are(self) -> None:
        """Who has a shard says so and keeps it; the others take theirs."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        placed = dict(enumerate(self.addresses(cluster)))
        await self.keep(cluster, what, 2, placed[2])
        outcomes = dict(await cluster.put(what.content, placed, what.shards, 5, only_new=True))
        self.assertIsInstance(outcomes.pop(2), AlreadyHeld)
        self.assertEqual(outcomes, dict.fromkeys((0, 1, 3, 4, 5)))

    async def test_put_without_nodes(self) -> None:
        """Why a shard is not on a node that is away, or unknown, is told; others are put."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        placed = dict(enumerate(self.addresses(cluster)))
        await self.take_away(cluster, placed[2])
        placed[4] = "nobody:1"
        for need in (4, 5):
            outcomes = dict(await cluster.put(what.content, placed, what.shards, need))
            for index in (2, 4):
                self.assertIsInstance(outcomes.pop(index), NodeUnavailable)
            self.assertEqual(outcomes, dict.fromkeys((0, 1, 3, 5)))
        held = await cluster.locate(what.content.hash)
        self.assertEqual(self.found(held), {index: [placed[index]] for index in (0, 1, 3, 5)})

    async def test_many_puts(self) -> None:
        """Puts at the same time, of the same and of others, are each done."""
        cluster = await self.make_cluster()
        samples = [sample(size) for size in (1, 5_000, 10_000, 20_000)] * 5
        placed = dict(enumerate(self.addresses(cluster)))
        outcomes = await gather(
            [cluster.put(what.content, placed, what.shards, 5) for what in samples]
        )
        self.assertEqual(
            [outcome.value for outcome in outcomes], [dict.fromkeys(range(SHARDS))] * 20
        )
        for what in samples[:4]:
            self.assertEqual(set(await cluster.locate(what.content.hash)), set(range(SHARDS)))

    async def test_locate_without_a_node(self) -> None:
        """Who is away is not among the holders, and holds up nobody for long."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        places = await self.placed_by_rank(cluster, what)
        await self.take_away(cluster, places.pop(3)[0])
        for everywhere in (False, True):
            held = await cluster.locate(what.content.hash, everywhere=everywhere)
            self.assertEqual(self.found(held), places)

    async def test_many_at_once(self) -> None:
        """Locates at the same time, of the same and of others, each get the right answer."""
        cluster = await self.make_cluster()
        what, other = sample(10_000), sample(5_000)
        places = await self.placed_by_rank(cluster, what)
        hashes = [what.content.hash, other.content.hash, ContentHash(bytes(32))] * 20
        outcomes = await gather([cluster.locate(content_hash) for content_hash in hashes])
        self.assertEqual([self.found(outcome.value) for outcome in outcomes], [places, {}, {}] * 20)

    async def test_one_gives_up(self) -> None:
        """One who does not wait for a locate takes it from nobody else."""
        cluster = await self.make_cluster()
        what = sample(10_000)
        places = await self.placed_by_rank(cluster, what)
        first = Deferred.fromCoroutine(cluster.locate(what.content.hash))
        second = Deferred.fromCoroutine(cluster.locate(what.content.hash))
        first.cancel()
        _ = first.addErrback(lambda _: None)
        self.assertEqual(self.found(await second), places)
