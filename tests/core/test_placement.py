"""dostore.core.placement: the same for everybody, even, and steady when nodes come and go."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.names import ContentHash
from dostore.core.placement import homes, homes_of_missing, rank
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove

addresses = st.sets(st.text(alphabet="abc:123", min_size=1, max_size=6), min_size=1, max_size=12)

#: Zones by address.
zones = st.dictionaries(
    st.text(alphabet="abc:123", min_size=1, max_size=6),
    st.sampled_from(["east", "west", "north"]),
    min_size=1,
    max_size=12,
)


def contents(count: int) -> list[ContentHash]:
    """Contents that are the same in every run."""
    return [ContentHash(hashlib.sha256(b"%d" % number).digest()) for number in range(count)]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[str], set[str]]:
    """Known addresses, and those among them that can be used."""
    known = sorted(draw(addresses))
    return known, draw(st.sets(st.sampled_from(known)))


class RankTests(SyncTestCase):
    """rank."""

    @prove
    @given(content_hashes, addresses, st.randoms())
    def test_order_of_the_question(
        self, content_hash: ContentHash, nodes: set[str], random: Random
    ) -> None:
        """The ranking does not depend on the order in which the addresses are known."""
        shuffled = list(nodes)
        random.shuffle(shuffled)
        ranked = rank(content_hash, shuffled)
        self.assertEqual(ranked, rank(content_hash, sorted(nodes)))
        self.assertEqual(sorted(ranked), sorted(nodes))

    @prove
    @given(content_hashes, addresses, st.data())
    def test_leaving(self, content_hash: ContentHash, nodes: set[str], data: st.DataObject) -> None:
        """When a node leaves, the others keep their order; so they do when one comes."""
        leaves = data.draw(st.sampled_from(sorted(nodes)))
        before = rank(content_hash, nodes)
        before.remove(leaves)
        self.assertEqual(rank(content_hash, nodes - {leaves}), before)

    def test_pinned(self) -> None:
        """The ranking is part of the format: a change would send readers to the wrong nodes."""
        nodes = [f"10.29.1.{number}:12345" for number in range(1, 8)]
        self.assertEqual(
            ["".join(node[8] for node in rank(each, nodes)) for each in contents(3)],
            ["7145263", "7314562", "2735416"],
        )

    def test_balance(self) -> None:
        """Of 6,000 contents each of 12 nodes gets its share of every rank, within 5 deviations."""
        nodes = [str(number) for number in range(1, 13)]
        ranked = [rank(each, nodes) for each in contents(6000)]
        expected = 6000 / 12
        deviation = (expected * (1 - 1 / 12)) ** 0.5
        for place in range(12):
            counts = Counter(each[place] for each in ranked)
            self.assertEqual(len(counts), 12)
            for count in counts.values():
                self.assertLess(abs(count - expected), 5 * deviation)

    @prove
    @given(content_hashes, zones)
    def test_zones_are_even(self, content_hash: ContentHash, nodes: dict[str, str]) -> None:
        """Any first n are spread over the zones: none has two more than one with nodes left."""
        ranked = rank(content_hash, nodes)
        self.assertEqual(sorted(ranked), sorted(nodes))
        sizes = Counter(nodes.values())
        for n in range(len(ranked) + 1):
            counts = Counter(dict.fromkeys(sizes, 0))
            counts.update(nodes[address] for address in ranked[:n])
            unfilled = [counts[zone] for zone in sizes if counts[zone] < sizes[zone]]
            self.assertLessEqual(max(counts.values(), default=0), min(unfilled, default=99) + 1)

    @prove
    @given(content_hashes, addresses)
    def test_zones_that_say_nothing(self, content_hash: ContentHash, nodes: set[str]) -> None:
        """One zone for all, or one for each, is as good as none."""
        plain = rank(content_hash, nodes)
        self.assertEqual(rank(content_hash, dict.fromkeys(nodes, "here")), plain)
        self.assertEqual(rank(content_hash, {address: address for address in nodes}), plain)

    @prove
    @given(content_hashes, zones, st.integers(1, 8), st.data())
    def test_zones_are_steady(
        self, content_hash: ContentHash, nodes: dict[str, str], n: int, data: st.DataObject
    ) -> None:
        """When a node leaves, at most one other comes among the first n in its place."""
        gone = data.draw(st.sampled_from(sorted(nodes)))
        rest = {address: zone for address, zone in nodes.items() if address != gone}
        before = set(rank(content_hash, nodes)[:n])
        after = set(rank(content_hash, rest)[:n])
        self.assertEqual(before - after, {gone} & before)

    def test_zones_within_a_zone(self) -> None:
        """Within a zone, and within a round over the zones, the order is the one without zones."""
        (content_hash,) = contents(1)
        ranked = rank(content_hash, "abcdef")
        zone_of = dict(zip(ranked, ["x", "x", "x", "y", "y", "z"], strict=True))
        self.assertEqual(
            rank(content_hash, zone_of), [ranked[place] for place in (0, 3, 5, 1, 4, 2)]
        )


class HomesTests(SyncTestCase):
    """homes."""

    @prove
    @given(content_hashes, clusters(), st.integers(1, 8))
    def test_rules(
        self, content_hash: ContentHash, cluster: tuple[list[str], set[str]], shards: int
    ) -> None:
        """No node has two shards, only usable ones have one, and as many as can be are placed."""
        known, usable = cluster
        placed = homes(content_hash, known, usable, shards)
        self.assertEqual(len(set(placed.values())), len(placed))
        self.assertLessEqual(set(placed.values()), usable)
        self.assertLessEqual(set(placed), set(range(shards)))
        self.assertEqual(len(placed), min(shards, len(usable)))

    @prove
    @given(content_hashes, clusters(), st.integers(1, 8))
    def test_away(
        self, content_hash: ContentHash, cluster: tuple[list[str], set[str]], shards: int
    ) -> None:
        """A shard whose own node can be used is on it, whatever the others do."""
        known, usable = cluster
        ranked = rank(content_hash, known)
        placed = homes(content_hash, known, usable, shards)
        for index, address in enumerate(ranked[:shards]):
            if address in usable:
                self.assertEqual(placed[index], address)
        self.assertEqual(
            homes(content_hash, known, known, shards), dict(enumerate(ranked[:shards]))
        )

    @prove
    @given(content_hashes, addresses, st.integers(1, 8), st.data())
    def test_one_goes_away(
        self, content_hash: ContentHash, nodes: set[str], shards: int, data: st.DataObject
    ) -> None:
        """When a node can no longer be used, its shard moves and no other does."""
        known = sorted(nodes)
        gone = data.draw(st.sampled_from(known))
        before = homes(content_hash, known, known, shards)
        after = homes(content_hash, known, nodes - {gone}, shards)
        for index, address in before.items():
            if address == gone:
                self.assertNotEqual(after.get(index), gone)
            else:
                self.assertEqual(after[index], address)

    @prove
    @given(content_hashes, addresses, st.integers(1, 8), st.data())
    def test_one_leaves_for_good(
        self, content_hash: ContentHash, nodes: set[str], shards: int, data: st.DataObject
    ) -> None:
        """When a node is no longer known, at most one other comes into the set in its place."""
        gone = data.draw(st.sampled_from(sorted(nodes)))
        rest = nodes - {gone}
        before = set(homes(content_hash, nodes, nodes, shards).values())
        after = set(homes(content_hash, rest, rest, shards).values())
        self.assertEqual(before - after, {gone} & before)
        self.assertLessEqual(len(after - before), len(before - after))

    def test_spares(self) -> None:
        """Spares are taken in the order of rank; a shard without one has no home."""
        (content_hash,) = contents(1)
        known = list("abcdefgh")
        ranked = rank(content_hash, known)
        usable = set(ranked) - {ranked[1], ranked[4], ranked[5], ranked[6]}
        self.assertEqual(
            homes(content_hash, known, usable, 6),
            {0: ranked[0], 1: ranked[7], 2: ranked[2], 3: ranked[3]},
        )


class HomesOfMissingTests(SyncTestCase):
    """homes_of_missing."""

    @prove
    @given(content_hashes, clusters(), st.integers(1, 8), st.data())
    def test_rules(
        self,
        content_hash: ContentHash,
        cluster: tuple[list[str], set[str]],
        shards: int,
        data: st.DataObject,
    ) -> None:
        """Only missing shards get a home, each one of its own, free of the content and usable."""
        known, usable = cluster
        held = data.draw(
            st.dictionaries(
                st.integers(0, shards - 1), st.lists(st.sampled_from(known), max_size=2)
            )
        )
        placed = homes_of_missing(content_hash, known, usable, held, shards)
        missing = {index for index in range(shards) if not held.get(index)}
        taken = {address for holders in held.values() for address in holders}
        self.assertLessEqual(set(placed), missing)
        self.assertEqual(len(set(placed.values())), len(placed))
        self.assertLessEqual(set(placed.values()), usable - taken)
        self.assertEqual(len(placed), min(len(missing), len(usable - taken)))

    @prove
    @given(content_hashes, addresses, st.integers(1, 8), st.data())
    def test_own_home_first(
        self, content_hash: ContentHash, nodes: set[str], shards: int, data: st.DataObject
    ) -> None:
        """When all is well but for lost shards, each is made again on its own node."""
        whole = homes(content_hash, nodes, nodes, shards)
        lost = data.draw(st.sets(st.sampled_from(sorted(whole))))
        held = {index: [address] for index, address in whole.items() if index not in lost}
        placed = homes_of_missing(content_hash, nodes, nodes, held, len(whole))
        self.assertEqual(placed, {index: whole[index] for index in lost})

    def test_own_home_is_taken(self) -> None:
        """A shard whose home has another shard of the content goes to the best that is free."""
        (content_hash,) = contents(1)
        ranked = rank(content_hash, "abcdef")
        held = {0: [ranked[1]], 2: [ranked[2]]}
        self.assertEqual(
            homes_of_missing(content_hash, "abcdef", set("abcdef"), held, 4),
            {3: ranked[3], 1: ranked[0]},
        )
