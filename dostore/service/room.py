"""Contents that wait for a node, or for room on one, before they can be repaired."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from dostore.core.names import ContentHash
from dostore.ports import ICluster

#: A shard is made again only where so much stays free: a drive that it fills would refuse every
#: write until the shard was dropped, and then be tried again, for ever.
ROOM_LEFT_BYTES = 16 << 20

#: How often is looked whether nodes have more room, while contents wait for some.
ROOM_INTERVAL_S = 10.0

#: How many contents are remembered for which there was no node, and how many that are lost.
_REMEMBERED = 10_000


def remember(contents: dict[ContentHash, None], content_hash: ContentHash) -> None:
    """Add a content to those remembered, and forget the oldest when they are too many."""
    contents[content_hash] = None
    if len(contents) > _REMEMBERED:
        del contents[next(iter(contents))]


class Waiting:
    """Those that wait.

    :param notice: has a content repaired.
    """

    def __init__(
        self, cluster: ICluster, clock: IReactorTime, notice: Callable[[ContentHash], None]
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._notice = notice
        self._waiting: dict[ContentHash, None] = {}
        self._room: dict[str, int] = {}
        self._watching = False

    def __contains__(self, content_hash: ContentHash) -> bool:
        """Whether a content waits."""
        return content_hash in self._waiting

    def clear(self) -> None:
        """A node came: nobody waits any more."""
        self._waiting.clear()

    def add(self, content_hash: ContentHash) -> None:
        """There is no node for what is missing: try no more before one comes."""
        remember(self._waiting, content_hash)
        if not self._watching:
            self._room = self._free_bytes()
            self._watch()

    def _free_bytes(self) -> dict[str, int]:
        return {
            member.address: member.free_bytes
            for member in self._cluster.members()
            if member.writable and member.free_bytes is not None
        }

    def _watch(self) -> None:
        self._watching = True
        self._clock.callLater(ROOM_INTERVAL_S, self._look)

    def _look(self) -> None:
        """Try again what waits, when a node has notably more room than it had."""
        self._watching = False
        free = self._free_bytes()
        if any(now >= self._room.get(a, 0) + ROOM_LEFT_BYTES for a, now in free.items()):
            self._room = free
            waiting, self._waiting = self._waiting, {}
            for content_hash in waiting:
                self._notice(content_hash)
        else:
            self._room = {a: min(now, self._room.get(a, now)) for a, now in free.items()}
            if self._waiting:
                self._watch()
