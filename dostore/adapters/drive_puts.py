"""Whole shards of contents on their way to several drives, in rounds.

All that come together are written together: a round gives each drive what it has to write in one
piece, and the next round begins when all have. Threads that each do a little while others do, and
the reactor too, spend more time on taking the interpreter from one another than on their work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dostore.adapters.drive_commits import BATCH, Commit
from dostore.adapters.drive_state import DriveState
from dostore.adapters.drive_store import Block
from dostore.adapters.node_local import DriveNode
from dostore.core.model import Content
from dostore.errors import NodeUnavailable
from dostore.ports import PUT_GRACE_S
from dostore.threads import Together

#: A round that takes longer is not waited for any more by the next one: a drive may hang, and those
#: who do not need it shall not wait for it.
LATE_S = 0.05


@define(eq=False, slots=True)
class _Round:
    """Contents that are written together.

    :ivar puts: them.
    :ivar left: how many of them are waited for before the next round.
    :ivar together: tells how it went on the drives; None: not begun, or its time is over. It refers
        to the round, which would not be freed at once.
    """

    since_s: float
    puts: Sequence[_Put]
    left: int
    together: Together | None = None

    def told(self) -> None:
        """Those of its drives that have ended have told how."""
        for put in self.puts:
            if put.left:
                put.look()


class _Put:
    """The shards of one content.

    :ivar there: the shards that are there, as bits.
    :ivar errors: by index, why others are not.
    :ivar commits: those that were begun.
    :ivar left: how many have not ended.
    :ivar late: how many of them are on drives that were at work when the round began.
    :ivar round: that waits for it.
    :ivar apart: what a shard's end means is seen at once, and not when all drives have told.
    :ivar settled: whether ``need`` of them are there, or cannot be any more.
    """

    __slots__ = (
        "apart",
        "commits",
        "content",
        "errors",
        "late",
        "left",
        "need",
        "placed",
        "puts",
        "round",
        "settled",
        "shards",
        "there",
        "waiter",
    )

    def __init__(
        self,
        puts: Puts,
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[Block]],
        need: int,
    ) -> None:
        self.puts = puts
        self.content = content
        self.placed = placed
        self.shards = shards
        self.need = need
        self.left = len(placed)
        self.late = 0
        self.there = 0
        self.apart = False
        self.settled = False
        self.errors: dict[int, Exception] = {}
        self.commits: list[Commit] = []
        self.round: _Round | None = None
        self.waiter: Deferred[None] | None = Deferred(self._cancel)

    def ended(self, index: int, error: Exception | None) -> None:
        """See Waits."""
        self.left -= 1
        if error is None:
            self.there |= 1 << index
        else:
            self.errors[index] = error
        if not self.left:
            self.end()
        elif self.apart:
            self.look()

    def look(self) -> None:
        """See what it means that some shards have ended and others have not."""
        self.apart = True
        if not self.settled:
            there = self.there.bit_count()
            if not there < self.need <= there + self.left:
                self.settled = True
                self.puts.hurry(self)
        if self.left <= self.late:
            self._leave_round()

    def outcomes(self) -> dict[int, Exception | None]:
        """By index, None for a shard that is there, or why it is not."""
        outcomes: dict[int, Exception | None]
        if self.there.bit_count() == len(self.placed):
            return dict.fromkeys(self.placed)
        outcomes = {index: None for index in self.placed if self.there >> index & 1}
        outcomes.update(self.errors)
        return outcomes

    def end(self) -> None:
        """Nothing more is waited for."""
        self._leave()
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.callback(None)

    def _cancel(self, _: object) -> None:
        self.waiter = None
        self._leave()

    def _leave(self) -> None:
        """Nobody wants any more the shards whose commit has not begun."""
        if self.settled:
            self.puts.calm(self)
        if self.left:
            for commit in self.commits:
                commit.waits = None
        self.commits.clear()
        self._leave_round()

    def _leave_round(self) -> None:
        written, self.round = self.round, None
        if written is not None:
            written.left -= 1
            if not written.left:
                self.puts.round_ended(written)


class Puts:
    """Those of one process.

    When enough shards of a content are there, or cannot be any more, the others get PUT_GRACE_S.

    :param soon: calls at the end of the reactor's turn, or at once.
    :param call_in_reactor: calls in the reactor's thread; called on any thread.
    :ivar follow: calls back as soon as what is being done with what was put before is done; False,
        and does not, when nothing is.
    """

    def __init__(
        self,
        clock: IReactorTime,
        soon: Callable[[Callable[[], None]], object],
        call_in_reactor: Callable[[Callable[[], None]], object],
    ) -> None:
        self._clock = clock
        self._soon = soon
        self._call_in_reactor = call_in_reactor
        self._nodes: dict[str, DriveNode] = {}
        self._waiting: list[_Put] = []
        self.follow: Callable[[Callable[[], None]], bool] = lambda _: False
        self._seen = 0
        self._collecting = False
        self._followed = False
        self._round: _Round | None = None
        # Those whose time is not over, in the order in which they began.
        self._rounds: deque[_Round] = deque()
        self._late_timer: IDelayedCall | None = None
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
        if not placed:
            return {}
        put = _Put(self, content, placed, shards, need)
        self._waiting.append(put)
        if self._round is None:
            self._collect()
        if put.waiter is not None:
            await put.waiter
        return put.outcomes()

    # Rounds

    def _collect(self) -> None:
        """Begin a round as soon as a turn of the reactor brings no more to be written."""
        if not self._collecting:
            self._collecting, self._followed = True, False
            self._look_soon()

    def _look_soon(self) -> None:
        self._seen = 0
        self._soon(self._look)

    def _look(self) -> None:
        waiting = len(self._waiting)
        if self._seen < waiting < BATCH:
            self._seen = waiting
            self._soon(self._look)
            return
        if waiting < BATCH and not self._followed:
            # Those who were served before come back when they are: to write what they bring with
            # the rest costs less than two rounds that take turns.
            self._followed = True
            if self.follow(self._look_soon):
                return
        self._collecting = False
        if self._round is None:
            self._start()

    def _start(self) -> None:
        some, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        puts = [put for put in some if put.waiter is not None]
        if not puts:
            return
        idle = {node for node in self._nodes.values() if not node.commits.running}
        self._round = begun = _Round(self._clock.seconds(), puts, len(puts))
        together = begun.together = Together(len(idle), self._call_in_reactor, begun.told)
        self._rounds.append(begun)
        if self._late_timer is None:
            self._late_timer = self._clock.callLater(LATE_S, self._look_late)
        for put in puts:
            put.round = begun
            self._add(put, idle)
        for node in idle:
            node.commits.start(together)

    def _add(self, put: _Put, idle: set[DriveNode]) -> None:
        """Give a content's shards to the drives."""
        failed: dict[int, NodeUnavailable] = {}
        content, shards, commits = put.content, put.shards, put.commits
        nodes = self._nodes
        for index, address in put.placed.items():
            node = nodes.get(address)
            if node is None or node.state is not DriveState.LIVE:
                failed[index] = _refusal(address, node)
                continue
            commit = Commit(content, index, shards[index], None, put)
            node.commits.add(commit)
            commits.append(commit)
            if node not in idle:
                put.late += 1
        # The commits have them; the round, which lasts as long as its timer, does not need them.
        put.shards = ()
        if put.late or failed:
            put.apart = True
            for index, error in failed.items():
                put.ended(index, error)

    def round_ended(self, ended: _Round) -> None:
        """All that was written together is written."""
        if self._round is ended:
            self._round = None
            if self._waiting:
                self._collect()

    def _look_late(self) -> None:
        """Wait no longer for what takes too long."""
        self._late_timer = None
        now_s = self._clock.seconds()
        while self._rounds:
            first = self._rounds[0]
            left_s = first.since_s + LATE_S - now_s
            if left_s > 0:
                self._late_timer = self._clock.callLater(min(LATE_S, left_s), self._look_late)
                return
            self._rounds.popleft()
            together, first.together = first.together, None
            assert together is not None, "it has begun"
            together.tell_apart()
            self.round_ended(first)

    # Grace

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
        for timer in (self._timer, self._late_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._late_timer = None


def _refusal(address: str, node: DriveNode | None) -> NodeUnavailable:
    """Why a drive takes no shard."""
    if node is None:
        return NodeUnavailable(f"There is no drive {address}.")
    return NodeUnavailable(f"{address} is {node.state.value}: {node.reason}.")
