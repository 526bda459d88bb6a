"""Whole shards of a content on their way to several drives: one wait for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dostore.adapters.drive_commits import Commit
from dostore.adapters.drive_store import Block
from dostore.adapters.node_local import DriveNode
from dostore.core.model import Content
from dostore.errors import NodeUnavailable
from dostore.ports import PUT_GRACE_S


class _Put:
    """The shards of one content.

    :ivar outcomes: by index; None: it is there.
    :ivar commits: those that were begun and may not have ended.
    :ivar settled: whether ``need`` of them are there, or cannot be any more.
    """

    __slots__ = ("commits", "left", "need", "outcomes", "puts", "settled", "there", "waiter")

    def __init__(self, puts: Puts, count: int, need: int) -> None:
        self.puts = puts
        self.left = count
        self.need = need
        self.there = 0
        self.settled = False
        self.outcomes: dict[int, Exception | None] = {}
        self.commits: list[Commit] = []
        self.waiter: Deferred[None] | None = None

    def tell(self, index: int, error: Exception | None) -> None:
        """How a shard ended."""
        self.outcomes[index] = error
        self.left -= 1
        if error is None:
            self.there += 1
        if not self.left:
            self.end()
        elif not self.settled and not self.there < self.need <= self.there + self.left:
            self.settled = True
            self.puts.hurry(self)

    def end(self) -> None:
        """Nothing more is waited for."""
        self.leave()
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.callback(None)

    def leave(self) -> None:
        """Nobody wants any more the shards whose commit has not begun."""
        if self.settled:
            self.puts.calm(self)
        commits, self.commits = self.commits, []
        for commit in commits:
            commit.tell = None


class Puts:
    """Those of one process.

    When enough shards of a content are there, or cannot be any more, the others get PUT_GRACE_S.

    :param soon: calls at the end of the reactor's turn, or at once.
    """

    def __init__(self, clock: IReactorTime, soon: Callable[[Callable[[], None]], object]) -> None:
        self._clock = clock
        self._soon = soon
        self._nodes: dict[str, DriveNode] = {}
        self._waiting: list[DriveNode] = []
        # In the order of their ends.
        self._hurried: dict[_Put, float] = {}
        self._timer: IDelayedCall | None = None

    def begin(self, nodes: Iterable[DriveNode]) -> None:
        """These are the drives; their addresses are settled."""
        self._nodes = {node.address: node for node in nodes}

    async def put(
        self,
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[Block]],
        need: int,
    ) -> Mapping[int, Exception | None]:
        """See ICluster."""
        put = _Put(self, len(placed), need)
        fresh: list[DriveNode] = []
        for index, address in placed.items():
            commit = Commit(content, index, shards[index], None, partial(put.tell, index))
            try:
                node = self._node(address)
                if node.begin_put(commit):
                    fresh.append(node)
            except NodeUnavailable as error:
                put.tell(index, error)
                continue
            put.commits.append(commit)
        if fresh:
            first = not self._waiting
            self._waiting += fresh
            if first:
                # All that come in one turn of the reactor share the first round.
                self._soon(self._start)
        if put.left:
            put.waiter = Deferred(lambda _: put.leave())
            await put.waiter
        return put.outcomes

    def _node(self, address: str) -> DriveNode:
        try:
            return self._nodes[address]
        except KeyError:
            raise NodeUnavailable(f"There is no drive {address}.") from None

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        for node in waiting:
            node.start_puts()

    def hurry(self, put: _Put) -> None:
        """Give the shards that are left some time, and no more."""
        self._hurried[put] = self._clock.seconds() + PUT_GRACE_S
        if self._timer is None:
            self._timer = self._clock.callLater(PUT_GRACE_S, self._end_late)

    def calm(self, put: _Put) -> None:
        """It has ended."""
        self._hurried.pop(put, None)

    def _end_late(self) -> None:
        self._timer = None
        now_s = self._clock.seconds()
        for put, until_s in list(self._hurried.items()):
            if until_s > now_s:
                self._timer = self._clock.callLater(until_s - now_s, self._end_late)
                return
            put.end()

    def stop(self) -> None:
        """No more are waited for."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
