"""Glances: whether the shards of what was read are all there, those that were not read too."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dostore.background import Background
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.fanout import gather
from dostore.ports import ICluster

_log = Logger()

#: Contents that were read are glanced at together, this long after the first of them.
GLANCE_DELAY_S = 0.1

#: Of more reads than this in that time, some are not followed by a glance: looking after contents
#: must not slow down reading them, and those that are read so often get their glance another time.
_GLANCES = 64


class Glances:
    """Asks nodes for the shards of many contents at once.

    :param notice: has a content repaired.
    """

    def __init__(
        self,
        cluster: ICluster,
        *,
        clock: IReactorTime,
        background: Background,
        notice: Callable[[ContentHash], None],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._background = background
        self._notice = notice
        self._glances: dict[ContentHash, tuple[Content, Collection[int]]] = {}

    def soon(self, content: Content, verified: Collection[int]) -> None:
        """A content was read: glance at its shards but for those that were found right."""
        if len(self._glances) < _GLANCES:
            if not self._glances:
                self._background.run("glance", self._glance())
            self._glances[content.hash] = (content, verified)

    async def _glance(self) -> None:
        """Look whether the shards of what was read are all there, many contents at once."""
        await deferLater(self._clock, GLANCE_DELAY_S)
        glances, self._glances = self._glances, {}
        wanted: dict[str, list[tuple[Content, int]]] = {}
        for content, verified in glances.values():
            held = self._cluster.expected(content.hash, content.scheme.shards)
            if len(held) < content.scheme.shards:
                self._notice(content.hash)
            for index, addresses in held.items():
                if index not in verified:
                    wanted.setdefault(addresses[0], []).append((content, index))
        nodes = {m.address: m.node for m in self._cluster.members() if m.live}
        outcomes = await gather(
            [nodes[address].glance(pairs) for address, pairs in wanted.items() if address in nodes]
        )
        for outcome in outcomes:
            if outcome.ok:
                for content, _ in outcome.value:
                    self._notice(content.hash)
            else:
                _log.info("A node could not be glanced at: {error}", error=outcome.error)
