"""A node that only knows what it has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from dostore.adapters.remote_nodes import IRemoteNode
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import AlreadyHeld, NodeUnavailable


@implementer(IRemoteNode)
class KnowingNode:
    """Answers ``holds``, and takes small shards, or fails both, or lets both wait; gives none.

    :ivar shards: the indexes by content.
    :ivar kept: the blocks of some shards.
    :ivar down: it cannot be reached.
    :ivar gate: what an answer, or the taking of a shard, waits for.
    :ivar asked: how often it was asked.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        # Nobody asks it for one.
        self.temps: Any = None
        self.shards: dict[ContentHash, set[int]] = {}
        self.kept: dict[tuple[ContentHash, int], Sequence[bytes | memoryview]] = {}
        self.down = False
        self.gate: Deferred[None] | None = None
        self.asked = 0

    def held(self, content_hash: ContentHash) -> Collection[int]:
        """What it has, asked inside its own process."""
        return self.shards.get(content_hash, ())

    async def holds(self, content_hash: ContentHash) -> Collection[int]:
        """See IShardNode."""
        self.asked += 1
        if self.gate is not None:
            await self.gate
        if self.down:
            raise NodeUnavailable(f"{self.address} is down.")
        return self.held(content_hash)

    def _not_here(self) -> NoReturn:
        raise NotImplementedError("this node only knows what it has")

    async def begin(self, index: int, scheme: Scheme) -> NoReturn:
        """Not here."""
        self._not_here()

    async def put(self, content: Content, index: int, blocks: Sequence[object]) -> None:
        """See IShardNode."""
        if self.gate is not None:
            await self.gate
        if self.down:
            raise NodeUnavailable(f"{self.address} is down.")
        self.shards.setdefault(content.hash, set()).add(index)

    def begin_put(
        self,
        content: Content,
        index: int,
        blocks: Sequence[object],
        tell: Callable[[Exception | None], None],
        only_new: bool,
    ) -> Callable[[], None]:
        """See IRemoteNode."""

        async def put() -> None:
            if only_new and self.held(content.hash):
                raise AlreadyHeld(f"{self.address} has a shard of it.")
            await self.put(content, index, blocks)

        putting = Deferred.fromCoroutine(put())
        _ = putting.addCallbacks(lambda _: tell(None), lambda failure: tell(failure.value))
        return putting.cancel

    def begin_get(
        self,
        content: Content,
        index: int,
        take: Callable[[Sequence[bytes | memoryview] | None], None],
    ) -> Callable[[], None]:
        """See IRemoteNode: what it has is in ``kept``, once the gate is open."""

        async def get() -> None:
            if self.gate is not None:
                await self.gate
            take(None if self.down else self.kept.get((content.hash, index)))

        getting = Deferred.fromCoroutine(get())
        _ = getting.addErrback(lambda failure: failure.trap(CancelledError))
        return getting.cancel

    async def open(
        self, content_hash: ContentHash, index: int, size: int | None = None
    ) -> NoReturn:
        """Not here."""
        self._not_here()

    async def renew(self, content_hash: ContentHash) -> NoReturn:
        """Not here."""
        self._not_here()

    async def modified(self, content_hash: ContentHash) -> NoReturn:
        """Not here."""
        self._not_here()

    async def glance(self, wanted: Sequence[tuple[Content, int]]) -> NoReturn:
        """Not here."""
        self._not_here()

    async def discard(self, content_hash: ContentHash, index: int) -> NoReturn:
        """Not here."""
        self._not_here()

    async def delete(self, content_hash: ContentHash) -> NoReturn:
        """Not here."""
        self._not_here()

    async def inventory(self, page: int) -> Mapping[ContentHash, Collection[int]]:
        """Not here."""
        self._not_here()
