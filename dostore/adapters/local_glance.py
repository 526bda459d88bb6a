"""A glance at shards of a drive: on the reactor's thread where that takes no wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dostore.adapters.volume_state import Place
from dostore.core.model import Content
from dostore.core.names import ShardName
from dostore.core.window import Window
from dostore.errors import NodeUnavailable

if TYPE_CHECKING:
    from dostore.adapters.node_local import DriveNode

#: A shard up to this size is read by a glance on the reactor's thread, if it is in memory: a hop to
#: a thread and back costs many times that.
GLANCED_NOW_BYTES = 64 * 1024

#: A shard's file, if the index knows one, and which shard it must be.
_Filed = tuple[ShardName | None, Content, int]


async def glance(
    node: DriveNode, wanted: Sequence[tuple[Content, int]]
) -> Sequence[tuple[Content, int]]:
    """Those of the shards that are not there or not whole; see IShardNode."""
    filed: list[_Filed] = []
    packed: list[tuple[Place, Content, int]] = []
    for content, index in wanted:
        name = node.file_of(content.hash, index)
        place = None if name else node.store.volumes.find(content.hash, index)
        if (name or place) and _is_whole_now(node, content, index):
            continue
        if place is None:
            filed.append((name, content, index))
        else:
            packed.append((place, content, index))
    if not filed and not packed:
        return []

    def look() -> tuple[list[_Filed], list[tuple[Content, int]]]:
        return node.store.glance(filed), node.packed.glance(packed)

    try:
        faulty, spoilt = await node.call(look)
    except OSError as error:
        raise NodeUnavailable(f"{node.address} cannot read: {error.strerror}.") from error
    for name, _, _ in faulty:
        if name is not None and node.has(name):
            node.forget(name)
    found = {*((content, index) for _, content, index in faulty), *spoilt}
    return [pair for pair in wanted if pair in found]


def _is_whole_now(node: DriveNode, content: Content, index: int) -> bool:
    """Whether a small shard that is in memory was read just now, and is right."""
    if content.scheme.shard_size(content.size) > GLANCED_NOW_BYTES:
        return False
    window = Window.of_shard(content, index)
    if window is None:
        return False
    # By its path: what is kept open may be somewhere else by now.
    return node.read_now(index, window, memoryview(bytearray(window.size)), keep=False)
