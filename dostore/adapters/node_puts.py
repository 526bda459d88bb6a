"""Whole small shards of a content on their way to several data servers: one wait for them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dostore.core.model import Content
from dostore.errors import NodeUnavailable
from dostore.ports import PUT_GRACE_S, IShardNode

Block = bytes | memoryview

#: Takes the outcome of one put: None when the shard is there, durably, else why it is not.
Tell = Callable[[Exception | None], None]


class IPuttingNode(IShardNode):
    """A node that has a cheaper way to be given a shard than a coroutine."""

    def begin_put(
        content: Content, index: int, blocks: Sequence[Block], tell: Tell, only_new: bool
    ) -> Callable[[], None]:
        """Begin what IShardNode.put does.

        :param tell: is called once at most, maybe at once.
        :param only_new: keep nothing where anything of the content is: AlreadyHeld.
        :returns: what tells that nobody wants the outcome any more; the shard may be put all the
            same.
        """


class _Put:
    """The shards of one content.

    :ivar outcomes: by index; None: it is there.
    """

    def __init__(self, count: int, need: int, clock: IReactorTime) -> None:
        self.outcomes: dict[int, Exception | None] = {}
        self._left = count
        self._need = need
        self._there = 0
        self._ended = False
        self._clock = clock
        self._leaves: list[Callable[[], None]] = []
        self._timer: IDelayedCall | None = None
        self._waiter: Deferred[None] | None = None

    def begin(
        self, node: IPuttingNode, content: Content, index: int, blocks: Sequence[Block], new: bool
    ) -> None:
        """Begin one of them."""
        self._leaves.append(node.begin_put(content, index, blocks, partial(self.tell, index), new))

    def tell(self, index: int, error: Exception | None) -> None:
        """How a shard ended."""
        if self._ended:
            return
        self.outcomes[index] = error
        self._left -= 1
        self._there += error is None
        if self._waiter is None:
            return
        if not self._left:
            self._waiter.callback(None)
        else:
            self._judge()

    def _judge(self) -> None:
        """When it is certain how it ends, the others get some time, and no more."""
        if self._timer is None and not self._there < self._need <= self._there + self._left:
            self._timer = self._clock.callLater(PUT_GRACE_S, self._end)

    def _end(self) -> None:
        if self._waiter is not None:
            self._waiter.callback(None)

    async def end(self) -> None:
        """Wait for all, as far as they are waited for."""
        if not self._left:
            return
        waiter = self._waiter = Deferred()
        self._judge()
        try:
            await waiter
        finally:
            self._waiter, self._ended = None, True
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            if self._left:
                for leave in self._leaves:
                    leave()


async def put_all(
    nodes: Mapping[str, IPuttingNode],
    content: Content,
    placed: Mapping[int, str],
    shards: Sequence[Sequence[Block]],
    need: int,
    clock: IReactorTime,
    *,
    only_new: bool,
) -> Mapping[int, Exception | None]:
    """See ICluster.put and put_new.

    :param nodes: by address.
    """
    put = _Put(len(placed), need, clock)
    for index, address in placed.items():
        node = nodes.get(address)
        if node is None:
            put.tell(index, NodeUnavailable(f"There is no data server {address} any more."))
        else:
            put.begin(node, content, index, shards[index], only_new)
    await put.end()
    return put.outcomes
