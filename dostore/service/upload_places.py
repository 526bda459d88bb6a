"""Which nodes keep the temporary shards of an upload.

Those that its token names, and others in the place of those of them that died: an upload that takes
days must survive the loss of more nodes than its content may lose at once. As tokens do not change,
who goes on with an upload looks for such shards where one who missed a node would have begun them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from attrs import define, field

from dostore.core.placement import rank
from dostore.core.upload_token import UploadToken, node_id
from dostore.ports import ICluster, IShardNode, ITempShards, Member, Tail, TempState

#: Nodes are looked at, by rank, for as many shards as this many contents have.
_SPARE_ROUNDS = 3


@define(eq=False)
class TempShardOf:
    """One of the upload's temporary shards.

    :ivar named: its node is the one that the token names for it.
    :ivar stripes: that it holds its blocks of: whole ones, and the last one of the content.
    :ivar exact: it holds nothing after those.
    :ivar owner: who wrote to it last.
    :ivar agreed: how many stripes are surely those that the others had too.
    :ivar committed: it is a durable shard, and no temporary one any more.
    """

    index: int
    node: IShardNode
    token: str
    named: bool
    stripes: int = 0
    exact: bool = True
    owner: str = ""
    agreed: int = 0
    committed: bool = False
    note: bytes = field(default=b"", repr=False)
    tail: Tail | None = field(default=None, repr=False)
    keep_s: int | None = None

    @property
    def temps(self) -> ITempShards:
        """Where it is."""
        return self.node.temps

    def learn(self, state: TempState, size: int) -> None:
        """Take note of what its node says.

        :param size: of the content.
        """
        scheme = state.about.scheme
        whole, total = scheme.shard_size(size), scheme.stripe_count(size)
        self.stripes = total if state.held == whole else state.held // scheme.block_size
        self.agreed = total if state.agreed == whole else state.agreed // scheme.block_size
        self.exact = state.held in (whole, self.stripes * scheme.block_size)
        self.owner = state.owner
        self.committed = state.committed
        self.note, self.keep_s, self.tail = state.about.note, state.about.keep_s, state.tail


class UploadPlaces:
    """The nodes of one upload.

    :ivar away: how many nodes that the token names are out of reach.
    """

    def __init__(self, token: UploadToken, cluster: ICluster) -> None:
        self._token = token
        members: Mapping[bytes, Member] = {node_id(m.address): m for m in cluster.members()}
        self._members = members
        self._named = {
            index: members.get(node) for index, node in enumerate(token.nodes) if node is not None
        }
        self.away = sum(1 for m in self._named.values() if m is None or not m.live)

    def named(self) -> list[TempShardOf]:
        """The shards on those nodes of the token that can be asked."""
        return [
            self._shard(index, member, named=True)
            for index, member in self._named.items()
            if member is not None and member.live
        ]

    def others(self, indexes: Collection[int]) -> list[TempShardOf]:
        """Where else shards of these indexes may be."""
        return [self._shard(index, member) for member in self._spares() for index in indexes]

    def homes(self, missing: Collection[int], taken: Collection[str]) -> Iterator[TempShardOf]:
        """Where shards that are missing may be begun anew; of one index several, the best first.

        :param missing: their indexes.
        :param taken: addresses of nodes that have a shard of this upload; may grow meanwhile.
        """
        spares = [m for m in self._spares() if m.writable]
        for index in sorted(missing):
            named = self._named.get(index)
            if named is not None and named.writable and named.address not in taken:
                yield self._shard(index, named, named=True)
            for spare in spares:
                # One that took a shard is among the taken ones by now.
                if spare.address not in taken:
                    yield self._shard(index, spare)

    def _spares(self) -> list[Member]:
        """Live nodes that the token does not name, best first; none may have two shards."""
        members = {m.address: m for m in self._members.values()}
        ranked = rank(self._token.hash, {m.address: m.zone for m in members.values()})
        named = {m.address for m in self._named.values() if m is not None}
        first = ranked[: _SPARE_ROUNDS * self._token.scheme.shards]
        return [members[a] for a in first if a not in named and members[a].live]

    def _shard(self, index: int, member: Member, *, named: bool = False) -> TempShardOf:
        return TempShardOf(index, member.node, self._token.shard_token(index), named)
