"""Placement: which node gets which shard of a content.

Rendezvous hashing (Thaler and Ravishankar, 1998): every node has a score for every content, and the
shards go to the best. When a node leaves or comes, only the shards that it had, or gets, move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import xxhash

from dostore.core.names import ContentHash


def rank(content_hash: ContentHash, nodes: Collection[str] | Mapping[str, str]) -> list[str]:
    """The addresses, best first. The same for everybody who knows the same nodes.

    :param nodes: addresses, or zones by address. With zones, each address in the order is the best
        of those whose zone has the fewest before it, so that any first n of them are spread over
        the zones as evenly as can be.
    """
    digest = content_hash.digest
    score = xxhash.xxh3_64_intdigest
    scored = [(score(digest + address.encode()), address) for address in nodes]
    scored.sort(reverse=True)
    ranked = [address for _, address in scored]
    if not isinstance(nodes, Mapping) or len(set(nodes.values())) == 1:
        return ranked
    taken: dict[str, int] = {}
    turns: list[tuple[int, int, str]] = []
    for place, address in enumerate(ranked):
        turn = taken[nodes[address]] = taken.get(nodes[address], -1) + 1
        turns.append((turn, place, address))
    return [address for _, _, address in sorted(turns)]


def homes(
    content_hash: ContentHash,
    nodes: Collection[str] | Mapping[str, str],
    usable: Collection[str],
    shards: int,
) -> dict[int, str]:
    """Where each shard of a new content goes.

    Shard i belongs on the i-th node by rank. One whose node cannot be used goes to the best spare
    node beyond the first ``shards``; where no spare is left it is in nobody's place and left out.
    So a shard is where a reader looks first unless there was trouble, and no node has two.

    :param nodes: all that are known, the ones that are away included; see :func:`rank`.
    :param usable: those that take shards now.
    :returns: addresses by shard index.
    """
    ranked = rank(content_hash, nodes)
    if len(usable) == len(ranked):
        # The most usual case by far.
        return dict(enumerate(ranked[:shards]))
    spares = iter([address for address in ranked[shards:] if address in usable])
    placed: dict[int, str] = {}
    for index, address in enumerate(ranked[:shards]):
        if address in usable:
            placed[index] = address
        elif (spare := next(spares, None)) is not None:
            placed[index] = spare
    return placed


def homes_of_missing(
    content_hash: ContentHash,
    nodes: Collection[str] | Mapping[str, str],
    usable: Collection[str],
    held: Mapping[int, Sequence[str]],
    shards: int,
) -> dict[int, str]:
    """Where the shards that nobody holds are to be made.

    :param held: addresses by shard index, of the shards that are there.
    :returns: addresses by shard index; a shard for which no usable node is free of this content is
        left out, so that a later loss of one node never counts twice.
    """
    ranked = rank(content_hash, nodes)
    taken = {address for holders in held.values() for address in holders}
    free = [address for address in ranked if address in usable and address not in taken]
    missing = [index for index in range(shards) if not held.get(index)]
    placed: dict[int, str] = {}
    for index in missing:
        home = ranked[index] if index < len(ranked) else None
        if home is not None and home in free:
            placed[index] = home
            free.remove(home)
    for index in missing:
        if index not in placed and free:
            placed[index] = free.pop(0)
    return placed
