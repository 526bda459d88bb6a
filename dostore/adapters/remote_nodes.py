"""Small shards on their way to and from several data servers: one wait for all of a content's."""

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

#: Takes the blocks of a whole shard, verified; None: they cannot be had so.
Take = Callable[[Sequence[Block] | None], None]


class IRemoteNode(IShardNode):
    """A node that has cheaper ways to be given a shard, and to give one, than coroutines."""

    def begin_put(
        content: Content, index: int, blocks: Sequence[Block], tell: Tell, only_new: bool
    ) -> Callable[[], None]:
        """Begin what IShardNode.put does.

        :param tell: is called once at most, maybe at once.
        :param only_new: keep nothing where anything of the content is: AlreadyHeld.
        :returns: what tells that nobody wants the outcome any more; the shard may be put all the
            same.
        """

    def begin_get(content: Content, index: int, take: Take) -> Callable[[], None]:
        """Begin to read a whole small shard.

        :param take: is called once at most, maybe at once.
        :returns: what tells that nobody wants it any more.
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
        self, node: IRemoteNode, content: Content, index: int, blocks: Sequence[Block], new: bool
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
    nodes: Mapping[str, IRemoteNode],
    content: Content,
    placed: Mapping[int, str],
    shards: Sequence[Sequence[Block]],
    need: int,
    clock: IReactorTime,
    *,
    only_new: bool,
) -> Mapping[int, Exception | None]:
    """See ICluster.put.

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


class _Get:
    """The data shards of one content.

    :ivar shards: the blocks of those that came, by index.
    """

    def __init__(self, count: int) -> None:
        self.shards: dict[int, Sequence[Block]] = {}
        self._count = count
        self._failed = False
        self._waiter: Deferred[bool] | None = None
        self._leaves: list[Callable[[], None]] = []

    def begin(self, node: IRemoteNode, content: Content, index: int) -> None:
        """Begin to get one of them."""
        self._leaves.append(node.begin_get(content, index, partial(self._take, index)))

    def _take(self, index: int, blocks: Sequence[Block] | None) -> None:
        if blocks is None:
            self._failed = True
        else:
            self.shards[index] = blocks
        if self._waiter is not None and self._ended:
            self._waiter.callback(not self._failed)

    @property
    def _ended(self) -> bool:
        return self._failed or len(self.shards) == self._count

    async def end(self, clock: IReactorTime, seconds: float) -> bool:
        """Whether all came, in time."""
        if self._ended:
            return not self._failed
        waiter = self._waiter = Deferred()
        timer = clock.callLater(seconds, waiter.callback, False)
        try:
            return await waiter
        finally:
            self._waiter = None
            if timer.active():
                timer.cancel()
            if len(self.shards) < self._count:
                for leave in self._leaves:
                    leave()


async def get_all(
    nodes: Mapping[int, IRemoteNode], content: Content, clock: IReactorTime, seconds: float
) -> bytes | None:
    """A content from its data shards; None when they cannot all be had in time.

    :param nodes: who has each of them, by index.
    """
    get = _Get(len(nodes))
    for index, node in nodes.items():
        get.begin(node, content, index)
    if not await get.end(clock, seconds):
        return None
    rows = zip(*(get.shards[index] for index in range(len(nodes))), strict=True)
    blocks = [block for row in rows for block in row]
    # Only the last stripe's blocks are padded, and it may take up several of them.
    surplus = sum(map(len, blocks)) - content.size
    while surplus:
        last = blocks.pop()
        if len(last) > surplus:
            blocks.append(memoryview(last)[: len(last) - surplus])
        surplus -= min(surplus, len(last))
    return b"".join(blocks)
