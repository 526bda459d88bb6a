"""What there is of a content: its shards, asked for and opened wherever they are said to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash
from dostore.fanout import gather
from dostore.ports import ICluster, IShardNode


@frozen(slots=True)
class Census:
    """The shards of a content with sound footers.

    :ivar content: what most of them say that it is; None: there are none. When those are too few to
        read it and others are not, the others count: it was stored again, by another scheme.
    :ivar sound: who has which of its shards.
    :ivar strays: indexes and addresses of shards by another scheme, or of another size.
    """

    content: Content | None = None
    sound: Mapping[int, Sequence[str]] = field(factory=dict)
    strays: Sequence[tuple[int, str]] = ()

    @property
    def count(self) -> int:
        """How many shards there are, each on a node of its own."""
        nodes = {address for addresses in self.sound.values() for address in addresses}
        return min(len(self.sound), len(nodes))


async def take_census(
    cluster: ICluster, content_hash: ContentHash, held: Mapping[int, Sequence[str]]
) -> Census:
    """Open all shards of a content.

    :param held: who says to have which.
    """
    if not held:
        return Census()
    members = {m.address: m for m in cluster.members() if m.live}
    pairs = [
        (index, address)
        for index, addresses in held.items()
        for address in addresses
        if address in members
    ]
    outcomes = await gather(
        [info_of(members[address].node, content_hash, index) for index, address in pairs]
    )
    found = [
        (outcome.value.content, pair)
        for pair, outcome in zip(pairs, outcomes, strict=True)
        if outcome.ok
    ]
    votes = Counter(content for content, _ in found)
    if not votes:
        return Census()
    agreed = max(votes, key=lambda content: (_is_readable(content, found), votes[content]))
    sound: dict[int, list[str]] = {}
    strays: list[tuple[int, str]] = []
    for content, (index, address) in found:
        if content == agreed:
            sound.setdefault(index, []).append(address)
        else:
            strays.append((index, address))
    return Census(agreed, sound, strays)


def _is_readable(content: Content, found: Sequence[tuple[Content, tuple[int, str]]]) -> bool:
    """Whether there are enough shards of a content to read it."""
    return len({index for each, (index, _) in found if each == content}) >= content.scheme.k


async def info_of(node: IShardNode, content_hash: ContentHash, index: int) -> ShardInfo:
    """What a shard's footer says."""
    reader = await node.open(content_hash, index)
    info: ShardInfo = reader.info
    await reader.close()
    return info
