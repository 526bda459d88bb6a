"""Where the shards of a content are: by rank, as was seen last, or by asking the nodes."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.adapters.bus import Complaints, Delivery, IBus, ISubscription
from dostore.adapters.membership import Membership, Peer
from dostore.background import Background
from dostore.core.messages import (
    DATA_SERVERS,
    NOTHING,
    LocateReply,
    locate_body,
    locate_body_of_go,
)
from dostore.core.names import ContentHash
from dostore.core.placement import rank
from dostore.errors import NodeUnavailable
from dostore.fanout import gather_quorum, with_timeout

_log = Logger()

#: A locate takes no longer, whoever is silent.
LOCATE_S = 1.0

#: Nodes that have not answered over the broker after this long are asked directly.
BROKER_ANSWERS_S = 0.3

#: A broker that was silent for so long may be away without that it was noticed.
BROKER_SILENT_S = 4.0

#: Nodes that are asked directly have this long.
DIRECT_S = 2.5

#: The places of so many contents are remembered.
MAX_REMEMBERED = 20_000

Places = Mapping[int, Sequence[str]]


class _Late(Exception):
    """A locate has had its time."""


@define(eq=False)
class _Question:
    """What is known of where a content's shards are, while nodes are being asked.

    :ivar waiting: the nodes that have not said all that they have.
    """

    content_hash: ContentHash
    shards: int
    waiting: set[str]
    asked: frozenset[str]
    found: dict[int, list[str]] = field(factory=dict)
    told: dict[str, set[int]] = field(factory=dict)
    complete: bool = True
    _waiter: Deferred[None] | None = None

    @property
    def settled(self) -> bool:
        """Every shard is found, or everybody has said what they have."""
        return not self.waiting or all(index in self.found for index in range(self.shards))

    def take(self, reply: LocateReply) -> None:
        """One answer of possibly several of a node."""
        said = self.told.setdefault(reply.address, set())
        said.add(reply.shard)
        if len(said) >= reply.replies:
            self.has_said(reply.address, said)

    def has_said(self, address: str, indexes: Iterable[int]) -> None:
        """All that a node has."""
        for index in indexes:
            if index != NOTHING and address not in self.found.setdefault(index, []):
                self.found[index].append(address)
        self.waiting.discard(address)
        if self.settled and self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)

    async def answered(self) -> None:
        """Return when it is settled."""
        if not self.settled:
            self._waiter = Deferred()
            try:
                await self._waiter
            finally:
                self._waiter = None


@define(eq=False)
class _Shared:
    """A locate that is under way, and all who wait for its result."""

    places: Places | None = None
    ended: bool = False
    waiters: list[Deferred[None]] = field(factory=list)

    def end(self, places: Places | None) -> None:
        """Give everybody the result; None: there is none."""
        self.places, self.ended = places, True
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.callback(None)

    async def result(self) -> Places:
        """Wait for it.

        :raises NodeUnavailable: there is none.
        """
        if not self.ended:
            waiter: Deferred[None] = Deferred(self.waiters.remove)
            self.waiters.append(waiter)
            await waiter
        if self.places is None:
            raise NodeUnavailable("The nodes were not asked: the server is being stopped.")
        return self.places


class Locator:
    """Finds shards among the members of a cluster.

    It is made before ``bus`` connects, and lives as long.

    :param shards: k + m.
    :param complaints: about answers that are none.
    """

    def __init__(
        self,
        bus: IBus,
        membership: Membership,
        shards: int,
        clock: IReactorTime,
        complaints: Complaints,
    ) -> None:
        self._bus = bus
        self._membership = membership
        self._shards = shards
        self._clock = clock
        self._complaints = complaints
        self._background = Background("dostore.cluster")
        self._places: dict[ContentHash, dict[int, tuple[str, ...]]] = {}
        self._questions: dict[str, _Question] = {}
        self._locates: dict[tuple[ContentHash, bool], _Shared] = {}
        self._stopped = False
        self._replies: ISubscription = bus.subscribe(self._reply, limit=10_000, keep_s=2.0)

    async def stop(self) -> None:
        """End what is under way."""
        self._stopped = True
        await self._background.stop(self._clock, 0.0)

    def expected(self, content_hash: ContentHash, shards: int) -> Places:
        """See ICluster: the places that are remembered, else those by rank."""
        known = self._places.get(content_hash)
        if known is not None:
            self._places[content_hash] = self._places.pop(content_hash)
            if all(index in known for index in range(shards)):
                return {index: known[index] for index in range(shards)}
        ranked = rank(content_hash, self._membership.zones())
        places: dict[int, Sequence[str]] = {
            index: (address,) for index, address in enumerate(ranked[:shards])
        }
        if known is not None:
            places |= {index: where for index, where in known.items() if index < shards}
        return places

    async def locate(self, content_hash: ContentHash, everywhere: bool = True) -> Places:
        """See ICluster. Those who ask for the same at the same time are given one answer."""
        shared = self._locates.get((content_hash, everywhere))
        if shared is None:
            shared = _Shared()
            if self._stopped:
                shared.end(None)
            else:
                self._locates[content_hash, everywhere] = shared
                self._background.run("locate", self._look(content_hash, everywhere, shared))
        return await shared.result()

    def _reply(self, delivery: Delivery) -> None:
        # One that comes late answers a question that is not asked any more.
        question = self._questions.get(delivery.correlation_id)
        if question is not None:
            self._answer(question, delivery)

    def _answer(self, question: _Question, delivery: Delivery) -> None:
        reply = LocateReply.parse(delivery.body, delivery.headers)
        if reply.address in question.asked:
            question.take(reply)
        else:
            self._complaints.make("An answer was dropped", f"{reply.address} is not a live node")

    async def _look(self, content_hash: ContentHash, everywhere: bool, shared: _Shared) -> None:
        places: Places | None = None
        try:
            if everywhere:
                places = await self._ask_all(content_hash)
            else:
                places = await self._ask_first(content_hash)
        finally:
            del self._locates[content_hash, everywhere]
            shared.end(places)

    async def _ask_first(self, content_hash: ContentHash) -> Places:
        """Ask those who should have it."""
        live = {peer.address: peer for peer in self._membership.live()}
        ranked = rank(content_hash, self._membership.zones())
        peers = [live[address] for address in ranked if address in live][: self._shards]
        question = self._question(content_hash, peers)
        await gather_quorum(
            [self._ask_directly(peer, question) for peer in peers],
            need=len(peers),
            grace_s=0.0,
            deadline_s=DIRECT_S,
            clock=self._clock,
        )
        self.remember(content_hash, question.found)
        return question.found

    async def _ask_all(self, content_hash: ContentHash) -> Places:
        """Ask everybody."""
        peers = self._membership.live()
        question = self._question(content_hash, peers)
        bus = self._bus
        away = self._clock.seconds() - bus.heard_at > BROKER_SILENT_S or not bus.connected
        ask = self._ask_without_broker if away else self._ask_by_broker
        try:
            await with_timeout(
                ask(question, peers), DIRECT_S if away else LOCATE_S, self._clock, _Late
            )
        except _Late:
            question.complete = False
            _log.info("No answer to a locate of {nodes}", nodes=", ".join(sorted(question.waiting)))
        if question.complete and not question.waiting:
            self._places.pop(content_hash, None)
        self.remember(content_hash, question.found)
        return question.found

    def _question(self, content_hash: ContentHash, peers: Collection[Peer]) -> _Question:
        asked = frozenset(peer.address for peer in peers)
        return _Question(content_hash, self._shards, set(asked), asked)

    async def _ask_by_broker(self, question: _Question, peers: Sequence[Peer]) -> None:
        token = uuid.uuid4().hex
        self._questions[token] = question
        of_go: ISubscription | None = None
        try:
            sent = self._bus.publish(
                DATA_SERVERS,
                locate_body(question.content_hash),
                reply_to=self._replies.queue,
                correlation_id=token,
            )
            if not all(peer.last.answers for peer in peers):
                of_go = self._bus.subscribe(partial(self._answer, question), keep_s=LOCATE_S)
                await self._ask_go(question, of_go)
            if sent:
                await self._wait_a_little(question)
            self._ask_silent(question, peers)
            await question.answered()
        finally:
            del self._questions[token]
            if of_go is not None:
                of_go.close()

    async def _wait_a_little(self, question: _Question) -> None:
        try:
            await with_timeout(question.answered(), BROKER_ANSWERS_S, self._clock, _Late)
        except _Late:
            _log.debug("Nodes are silent on the broker: {nodes}", nodes=sorted(question.waiting))

    async def _ask_go(self, question: _Question, answers: ISubscription) -> None:
        """Ask as a Go API server does: each question has a queue of its own for its answers.

        Its data servers repeat no correlation id, and say nothing when they have nothing.
        """
        if await answers.established():
            self._bus.publish(
                DATA_SERVERS, locate_body_of_go(question.content_hash), reply_to=answers.queue
            )

    async def _ask_without_broker(self, question: _Question, peers: Sequence[Peer]) -> None:
        self._ask_silent(question, peers, all_kinds=True)
        await question.answered()

    def _ask_silent(
        self, question: _Question, peers: Sequence[Peer], all_kinds: bool = False
    ) -> None:
        """Ask those directly who have not answered, though they would."""
        for peer in peers:
            if peer.address in question.waiting and (all_kinds or peer.last.answers):
                self._background.run("ask", self._ask_directly(peer, question))

    async def _ask_directly(self, peer: Peer, question: _Question) -> None:
        held: Collection[int] = ()
        try:
            held = await peer.node.holds(question.content_hash)
        except NodeUnavailable as error:
            question.complete = False
            _log.info("{address} was asked in vain: {error}", address=peer.address, error=error)
        question.has_said(peer.address, held)

    def remember(self, content_hash: ContentHash, found: Mapping[int, Sequence[str]]) -> None:
        """Note places, beside those that are known of other shards of the content."""
        if not found:
            return
        known = self._places.pop(content_hash, {})
        self._places[content_hash] = known | {
            index: tuple(addresses) for index, addresses in found.items()
        }
        if len(self._places) > MAX_REMEMBERED:
            del self._places[next(iter(self._places))]
