"""ICluster over a broker: data servers tell that they are there, and are asked what they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.bus import Complaints, Delivery, IBus
from dostore.adapters.locate_amqp import Locator, Places
from dostore.adapters.membership import LIVE_S, Membership
from dostore.adapters.remote_nodes import IRemoteNode, get_all, put_all
from dostore.adapters.second_look import SecondLook
from dostore.background import Background
from dostore.core.batch import MAX_SHARD_BYTES
from dostore.core.messages import (
    API_SERVERS,
    ASK,
    DATA_SERVERS,
    Heartbeat,
)
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.ports import ICluster, Member

_log = Logger()

#: A content that was not fetched after so long is opened shard by shard, others than its data
#: shards too.
FETCH_S = 0.4

#: And so much longer for each stripe after the first.
FETCH_STRIPE_S = 0.1

#: When so long nobody was heard for the first time, those are known that are there: a data server
#: that is asked says so at once.
GATHERED_S = 1.0

_LOOK_S = 0.1


@implementer(ICluster)
class AmqpCluster:
    """The data servers, as an API server sees them.

    It is made before ``bus`` connects, and lives as long.

    :param make_node: makes the node at an address; called once a node.
    :param shards: k + m.
    """

    asking_costs = True

    def __init__(
        self,
        bus: IBus,
        make_node: Callable[[str], IRemoteNode],
        shards: int,
        clock: IReactorTime,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._shards = shards
        complaints = Complaints(_log, clock)
        self._joined: list[Callable[[str], None]] = []
        self._membership = Membership(bus, make_node, clock, self._tell)
        self._background = Background("dostore.cluster")
        self._second_look = SecondLook(self._membership, 2 * shards, clock, self._background)
        self._locator = Locator(bus, self._membership, shards, clock, complaints)
        bus.subscribe(self._heartbeat, exchange=API_SERVERS, limit=10_000)
        bus.watch(self._broker)

    @property
    def connected(self) -> bool:
        """Whether the broker is there. Without it the cluster goes on as it was last known."""
        return self._bus.connected

    async def stop(self) -> None:
        """End what is under way."""
        await self._background.stop(self._clock, 0.0)
        await self._locator.stop()

    # ICluster

    def members(self) -> Sequence[Member]:
        """See ICluster."""
        return self._membership.members()

    def expected(self, content_hash: ContentHash, shards: int) -> Places:
        """See ICluster: the places that are remembered, else those by rank."""
        return self._locator.expected(content_hash, shards)

    def read_now(self, content: Content, start: int, stop: int) -> memoryview | None:
        """See ICluster. All is with other servers."""
        return None

    async def locate(self, content_hash: ContentHash, everywhere: bool = True) -> Places:
        """See ICluster. Those who ask for the same at the same time are given one answer."""
        return await self._locator.locate(content_hash, everywhere)

    async def look_again(self, content_hash: ContentHash) -> bool:
        """See ICluster."""
        return await self._second_look.take(content_hash)

    async def put(
        self,
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[bytes | memoryview]],
        need: int,
        *,
        only_new: bool = False,
    ) -> Mapping[int, Exception | None]:
        """See ICluster."""
        nodes = self._membership.nodes()
        return await put_all(nodes, content, placed, shards, need, self._clock, only_new=only_new)

    async def fetch(self, content: Content) -> bytes | None:
        """See ICluster."""
        scheme = content.scheme
        if scheme.shard_size(content.size) > MAX_SHARD_BYTES:
            return None
        live = self._membership.live_nodes()
        expected = self._locator.expected(content.hash, scheme.k)
        found: dict[int, IRemoteNode] = {}
        for index in range(scheme.k):
            addresses = expected.get(index, ())
            node = live.get(addresses[0]) if addresses else None
            if node is None:
                return None
            found[index] = node
        more = max(0, scheme.stripe_count(content.size) - 1)
        return await get_all(found, content, self._clock, FETCH_S + more * FETCH_STRIPE_S)

    def placed(self, content_hash: ContentHash, holders: Mapping[int, str]) -> None:
        """See ICluster."""
        self._locator.remember(content_hash, {index: (where,) for index, where in holders.items()})

    def settled(self) -> bool:
        """See ICluster."""
        return self._membership.settled()

    async def gather(self) -> None:
        """Wait until the data servers are known that are there, but no longer than it takes to tell
        that they are not there.
        """
        began = changed = self._clock.seconds()
        known = 0
        while self._clock.seconds() - began < LIVE_S:
            now = self._clock.seconds()
            live = len(self._membership.live())
            if live != known:
                known, changed = live, now
            elif live >= self._shards and now - changed >= GATHERED_S:
                return
            await deferLater(self._clock, _LOOK_S)

    def complaint(self) -> str:
        """See ICluster."""
        if self.connected:
            return ""
        return "RabbitMQ is out of reach; the nodes are those that were there before."

    def watch(self, joined: Callable[[str], None]) -> None:
        """See ICluster."""
        self._joined.append(joined)

    def doubt(self, address: str) -> None:
        """A node did not answer in time: it is not live, unless a heartbeat came lately."""
        self._membership.doubt(address)

    def suspect(self, address: str) -> None:
        """A node did not take a connection: it is not live until its next heartbeat."""
        self._membership.suspect(address)

    # Messages

    def _broker(self, connected: bool) -> None:
        self._membership.broker(connected)
        if connected:
            self._bus.publish(DATA_SERVERS, ASK)

    def _heartbeat(self, delivery: Delivery) -> None:
        self._membership.beat(Heartbeat.parse(delivery.body, delivery.headers))

    def _tell(self, address: str) -> None:
        for joined in list(self._joined):
            joined(address)
