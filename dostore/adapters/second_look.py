"""Nodes that were not heard of, asked directly: they may be there all the same."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.adapters.membership import Membership, Peer
from dostore.background import Background
from dostore.core.names import ContentHash
from dostore.core.placement import rank
from dostore.errors import NodeUnavailable
from dostore.fanout import gather, with_timeout

_log = Logger()

#: A node that does not answer in this time is away.
ANSWER_S = 1.0

#: After a look it takes so long until there is another one, whoever asks.
PAUSE_S = 1.0


class SecondLook:
    """Asks nodes that count as away; those that answer can be read.

    All who want it at the same time are given one look.

    :param most: how many nodes are asked, those first where the content should be.
    """

    def __init__(
        self, membership: Membership, most: int, clock: IReactorTime, background: Background
    ) -> None:
        self._membership = membership
        self._most = most
        self._clock = clock
        self._background = background
        self._waiters: list[Deferred[bool]] | None = None
        self._not_before = float("-inf")

    async def take(self, content_hash: ContentHash) -> bool:
        """Whether a node was found to be there that had counted as away."""
        if self._waiters is None:
            if self._clock.seconds() < self._not_before:
                return False
            self._waiters = []
            waiter = self._wait()
            self._background.run("second look", self._look(content_hash))
        else:
            waiter = self._wait()
        return await waiter

    def _wait(self) -> Deferred[bool]:
        assert self._waiters is not None, "a look is under way"
        waiter: Deferred[bool] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    async def _look(self, content_hash: ContentHash) -> None:
        found = False
        try:
            away = self._membership.away()
            ranked = rank(content_hash, self._membership.zones())
            asked = [away[address] for address in ranked if address in away][: self._most]
            outcomes = await gather([self._ask(peer, content_hash) for peer in asked])
            found = any(outcome.ok and outcome.value for outcome in outcomes)
        finally:
            self._not_before = self._clock.seconds() + PAUSE_S
            waiters, self._waiters = self._waiters or [], None
            for waiter in waiters:
                waiter.callback(found)

    async def _ask(self, peer: Peer, content_hash: ContentHash) -> bool:
        def late() -> NodeUnavailable:
            return NodeUnavailable(f"{peer.address} gave no answer in {ANSWER_S:g} s.")

        try:
            await with_timeout(peer.node.holds(content_hash), ANSWER_S, self._clock, late)
        except NodeUnavailable as error:
            _log.debug("{error}", error=error)
            return False
        self._membership.answered(peer.address)
        return True
