"""dostore.adapters.cluster_amqp and announcer_amqp, on a broker in memory and a clock by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from dostore.adapters.announcer_amqp import HEARTBEAT_S, LEAST_INTERVAL_S, Announcer
from dostore.adapters.cluster_amqp import FETCH_S, GATHERED_S, AmqpCluster
from dostore.adapters.locate_amqp import BROKER_ANSWERS_S, DIRECT_S, LOCATE_S, MAX_REMEMBERED
from dostore.adapters.membership import KNOWN_S, LATE_S, LIVE_S, MAX_NODES, SUSPECT_S
from dostore.adapters.second_look import ANSWER_S, PAUSE_S
from dostore.core.messages import (
    API_SERVERS,
    ASK,
    DATA_SERVERS,
    Heartbeat,
    LocateReply,
    locate_body,
    locate_body_of_go,
)
from dostore.core.names import ContentHash
from dostore.core.placement import rank
from dostore.core.scheme import Scheme
from dostore.errors import NodeUnavailable
from dostore.ports import PUT_GRACE_S, ICluster
from tests.support.bus import MemoryBroker, MemoryBus
from tests.support.cases import SyncTestCase
from tests.support.nodes import KnowingNode
from tests.support.shards import Sample, sample

T = TypeVar("T")

HASH = ContentHash.parse("2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY=")
OTHER = ContentHash(bytes(32))
SIX = [f"10.29.1.{i}:12345" for i in range(1, 7)]


class DataServer:
    """A data server of a test: its node and its announcer."""

    def __init__(self, broker: MemoryBroker, node: KnowingNode) -> None:
        self.node = node
        self.bus = broker.bus()
        self.heartbeat = Heartbeat(node.address)
        self.announcer = Announcer(self.bus, lambda: self.heartbeat, self.held, broker.clock)
        self.scanned = True

    def held(self, content_hash: ContentHash) -> Collection[int]:
        """What is there, once it is known."""
        if not self.scanned:
            raise NodeUnavailable("The index is not there yet.")
        return self.node.held(content_hash)


class ClusterCase(SyncTestCase):
    """An API server, and the data servers that a test starts."""

    def setUp(self) -> None:
        """A broker that is up, and an API server that is connected."""
        super().setUp()
        self.clock = Clock()
        self.clock.advance(1000)
        self.broker = MemoryBroker(self.clock)
        self.nodes: dict[str, KnowingNode] = {}
        self.servers: dict[str, DataServer] = {}
        self.bus, self.cluster = self.api_server()
        self.bus.connect()

    def api_server(self) -> tuple[MemoryBus, AmqpCluster]:
        """An API server that is not connected yet."""
        bus = self.broker.bus()
        cluster = AmqpCluster(bus, self.node, 6, self.clock)
        self.addCleanup(self.end_now, cluster.stop)
        return bus, cluster

    def node(self, address: str) -> KnowingNode:
        """The node at an address, one for everybody."""
        return self.nodes.setdefault(address, KnowingNode(address))

    def start(self, *addresses: str) -> None:
        """Start data servers, and have all messages delivered."""
        for address in addresses:
            server = DataServer(self.broker, self.node(address))
            self.servers[address] = server
            server.bus.connect()
            server.announcer.start()
            self.addCleanup(self.end_now, server.announcer.stop)
        self.broker.deliver()

    def stop(self, address: str) -> None:
        """A data server is gone."""
        server = self.servers.pop(address)
        self.end_now(server.announcer.stop)
        server.bus.connect(False)
        self.node(address).down = True

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Time passes, and messages with it."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.broker.deliver()

    def end(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that waits for nothing more."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def end_now(self, stop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Stop something that gives what is under way no time."""
        stopping = Deferred.fromCoroutine(stop())
        self.clock.advance(0)
        self.successResultOf(stopping)

    def locate(self, content_hash: ContentHash = HASH) -> Deferred[Any]:
        """Begin to locate everywhere."""
        return Deferred.fromCoroutine(self.cluster.locate(content_hash))

    def live(self) -> list[str]:
        """The addresses of the live members."""
        return [member.address for member in self.cluster.members() if member.live]

    def keep(self, shards: dict[int, str], content_hash: ContentHash = HASH) -> None:
        """Nodes have shards."""
        for index, address in shards.items():
            self.node(address).shards.setdefault(content_hash, set()).add(index)

    def heartbeat_of_go(self, address: str) -> None:
        """What a data server of the Go design publishes."""
        self.publish(API_SERVERS, Heartbeat(address).body())

    def publish(self, exchange: str, body: bytes, **how: Any) -> None:
        """Publish as somebody else, and deliver."""
        bus = self.broker.bus()
        bus.connect()
        bus.publish(exchange, body, **how)
        self.broker.deliver()


class MembershipTests(ClusterCase):
    """Who is there."""

    def test_provides(self) -> None:
        """It is an ICluster."""
        self.assert_provides(ICluster, self.cluster)

    def test_nobody(self) -> None:
        """A cluster of nobody knows and finds nothing, at once."""
        self.assertEqual(list(self.cluster.members()), [])
        self.assertEqual(self.cluster.expected(HASH, 6), {})
        self.assertEqual(self.successResultOf(self.locate()), {})
        self.assertEqual(self.end(self.cluster.locate(HASH, everywhere=False)), {})

    def test_heartbeats(self) -> None:
        """Everybody who is heard is a member, in the order of the addresses."""
        self.start(*reversed(SIX))
        self.assertEqual(self.live(), SIX)
        self.assertIs(self.cluster.members()[2].node, self.node(SIX[2]))

    def test_a_late_api_server_asks(self) -> None:
        """An API server that starts later knows everybody at once, without waiting 5 s."""
        self.start(*SIX)
        self.clock.advance(1.0)
        bus, cluster = self.api_server()
        bus.connect()
        self.broker.deliver()
        self.assertEqual([m.address for m in cluster.members()], SIX)
        asked = [m.delivery.body for m in self.broker.sent if m.exchange == DATA_SERVERS]
        self.assertEqual(asked, [ASK, ASK])

    def test_settled(self) -> None:
        """Everybody is known when all have had their time since the broker was first there."""
        bus, cluster = self.api_server()
        self.pass_time(LIVE_S)
        self.assertFalse(cluster.settled())
        bus.connect()
        self.pass_time(LIVE_S - 0.5)
        self.assertFalse(cluster.settled())
        bus.connect(False)
        self.pass_time(0.5)
        self.assertTrue(cluster.settled())

    def test_gather(self) -> None:
        """A server that has just started waits until it knows those that are there."""
        gathering = Deferred.fromCoroutine(self.cluster.gather())
        self.start(*SIX[:5])
        self.pass_time(2 * GATHERED_S)
        self.assertNoResult(gathering)
        self.start(SIX[5])
        self.pass_time(GATHERED_S / 2)
        seventh = "10.29.1.7:12345"
        self.start(seventh)
        self.pass_time(GATHERED_S / 2)
        self.assertNoResult(gathering)
        self.pass_time(GATHERED_S)
        self.assertIsNone(self.successResultOf(gathering))

    def test_gather_too_few(self) -> None:
        """It does not wait for those that stay away."""
        gathering = Deferred.fromCoroutine(self.cluster.gather())
        self.start(*SIX[:5])
        self.pass_time(LIVE_S - 1)
        self.assertNoResult(gathering)
        self.pass_time(1)
        self.assertIsNone(self.successResultOf(gathering))

    def test_headers(self) -> None:
        """Zone and whether it is writable come with the heartbeat."""
        self.start(SIX[0])
        self.servers[SIX[0]].heartbeat = Heartbeat(SIX[0], "rack-2", 0, writable=False)
        self.pass_time(HEARTBEAT_S)
        (member,) = self.cluster.members()
        self.assertEqual((member.zone, member.live, member.writable), ("rack-2", True, False))

    def test_silence(self) -> None:
        """After 10 s of silence a node is not live, after an hour it is forgotten."""
        self.start(*SIX[:2])
        self.stop(SIX[0])
        self.pass_time(LIVE_S - 0.5)
        self.assertEqual(self.live(), SIX[:2])
        self.pass_time(0.5)
        self.assertEqual(self.live(), [SIX[1]])
        member = self.cluster.members()[0]
        self.assertEqual((member.address, member.live, member.writable), (SIX[0], False, False))
        self.pass_time(KNOWN_S - LIVE_S - HEARTBEAT_S, HEARTBEAT_S)
        self.assertEqual(len(self.cluster.members()), 2)
        self.pass_time(HEARTBEAT_S, HEARTBEAT_S)
        self.assertEqual([m.address for m in self.cluster.members()], [SIX[1]])

    def test_watch(self) -> None:
        """Watchers are told of a node that comes, comes back or takes shards again, only then."""
        told: list[str] = []
        self.cluster.watch(told.append)
        self.start(SIX[0])
        self.assertEqual(told, SIX[:1])
        self.pass_time(20)
        self.assertEqual(told, SIX[:1])
        server = self.servers[SIX[0]]
        server.heartbeat = Heartbeat(SIX[0], writable=False)
        self.pass_time(HEARTBEAT_S)
        self.assertEqual(told, SIX[:1])
        server.heartbeat = Heartbeat(SIX[0])
        self.pass_time(HEARTBEAT_S)
        self.assertEqual(told, SIX[:1] * 2)
        self.stop(SIX[0])
        self.pass_time(LIVE_S)
        self.start(SIX[0])
        self.assertEqual(told, SIX[:1] * 3)
        for life, times in (("a.1", 4), ("a.1", 4), ("a.2", 5)):
            self.servers[SIX[0]].heartbeat = Heartbeat(SIX[0], life=life)
            self.pass_time(HEARTBEAT_S)
            self.assertEqual(told, SIX[:1] * times)

    def test_suspicion(self) -> None:
        """A node that took no connection is not live, until it is heard."""
        told: list[str] = []
        self.start(*SIX)
        self.cluster.watch(told.append)
        self.cluster.suspect(SIX[3])
        self.cluster.suspect("10.29.1.99:1")
        self.assertEqual(self.live(), SIX[:3] + SIX[4:])
        self.pass_time(HEARTBEAT_S)
        self.assertEqual(self.live(), SIX)
        self.assertEqual(told, [SIX[3]])

    def test_doubt(self) -> None:
        """A node that does not answer in time is busy as long as it is heard, and away when not."""
        self.start(*SIX)
        self.cluster.doubt(SIX[3])
        self.cluster.doubt("10.29.1.99:1")
        self.assertEqual(self.live(), SIX)
        self.stop(SIX[3])
        self.pass_time(LATE_S + 0.5)
        self.cluster.doubt(SIX[2])
        self.assertEqual(self.live(), SIX)
        self.cluster.doubt(SIX[3])
        self.assertEqual(self.live(), SIX[:3] + SIX[4:])

    def test_suspicion_without_a_broker(self) -> None:
        """When no heartbeat can come, a suspected node is tried again after a while."""
        self.start(*SIX)
        self.bus.connect(False)
        self.cluster.suspect(SIX[3])
        self.pass_time(SUSPECT_S - 0.5)
        self.assertEqual(self.live(), SIX[:3] + SIX[4:])
        self.pass_time(0.5)
        self.assertEqual(self.live(), SIX)

    def silence(self, *addresses: str) -> None:
        """They go on, but are not heard of any more."""
        for address in addresses:
            server = self.servers.pop(address)
            self.end_now(server.announcer.stop)
            server.bus.connect(False)
        # Somebody else is.
        self.pass_time(LIVE_S)

    def look(self) -> Deferred[bool]:
        """Begin a second look."""
        return Deferred.fromCoroutine(self.cluster.look_again(HASH))

    def test_nodes_that_are_not_heard(self) -> None:
        """Those that answer all the same can be read, and take no writes, until they are heard."""
        told: list[str] = []
        self.start(*SIX)
        self.keep(dict(enumerate(SIX)))
        self.silence(*SIX[:5])
        self.assertEqual(self.live(), SIX[5:])
        self.node(SIX[0]).down = True
        self.assertTrue(self.successResultOf(self.look()))
        self.assertEqual(self.live(), SIX[1:])
        self.assertEqual([m.address for m in self.cluster.members() if m.writable], SIX[5:])
        self.assertEqual(sorted(self.cluster._membership.away()), SIX[:1])
        self.assertEqual(len(self.end(self.cluster.locate(HASH, everywhere=False))), 5)
        self.cluster.suspect(SIX[1])
        self.assertEqual(self.live(), SIX[2:])
        self.pass_time(LIVE_S - 0.5)
        self.assertEqual(self.live(), SIX[2:])
        self.cluster.watch(told.append)
        self.start(SIX[2])
        self.assertEqual([m.address for m in self.cluster.members() if m.writable], SIX[2::3])
        # Its shards are to be looked at, whatever else was known of it.
        self.assertEqual(told, [SIX[2]])
        self.pass_time(0.5)
        self.assertEqual(self.live(), SIX[2::3])

    def test_one_look_for_all(self) -> None:
        """Who wants a look meanwhile gets what it finds; after one in vain none is begun for a
        while; a node that hangs is waited for no longer than a second.
        """
        self.start(*SIX)
        self.silence(*SIX[:5])
        for address in SIX[:5]:
            self.node(address).gate = Deferred()
        gone, first, second = self.look(), self.look(), self.look()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.pass_time(ANSWER_S - 0.5)
        self.assertNoResult(first)
        self.pass_time(0.5)
        self.assertEqual([self.successResultOf(d) for d in (first, second)], [False, False])
        self.assertFalse(self.successResultOf(self.look()))
        self.assertEqual([self.node(address).asked for address in SIX], [1] * 5 + [0])
        for address in SIX[:5]:
            self.node(address).gate = None
        self.pass_time(PAUSE_S)
        self.assertTrue(self.successResultOf(self.look()))
        self.assertEqual(self.live(), SIX)

    def test_nobody_is_away(self) -> None:
        """Then nobody is asked."""
        self.start(*SIX)
        self.assertFalse(self.successResultOf(self.look()))
        self.assertEqual([self.node(address).asked for address in SIX], [0] * 6)

    def test_without_a_broker(self) -> None:
        """While the broker is away everybody stays; when it is back they have 10 s to be heard."""
        self.start(*SIX[:3])
        self.stop(SIX[2])
        self.pass_time(LIVE_S)
        self.bus.connect(False)
        self.assertFalse(self.cluster.connected)
        self.stop(SIX[1])
        self.pass_time(60)
        self.assertEqual(self.live(), SIX[:2])
        self.bus.connect()
        self.assertTrue(self.cluster.connected)
        self.assertEqual(self.live(), SIX[:2])
        self.pass_time(LIVE_S - 0.5)
        self.assertEqual(self.live(), SIX[:2])
        self.pass_time(0.5)
        self.assertEqual(self.live(), SIX[:1])

    def test_a_broker_that_hangs(self) -> None:
        """While nothing at all comes from the broker, nobody is taken for silent."""
        self.start(*SIX)
        self.broker.stopped = True
        self.pass_time(60)
        self.assertEqual(self.live(), SIX)
        self.broker.stopped = False
        self.broker.deliver()
        self.assertEqual(self.live(), SIX)

    def test_too_many(self) -> None:
        """At most 1,000 nodes are known; one that is silent makes room."""
        self.start(SIX[0])
        for number in range(MAX_NODES):
            self.heartbeat_of_go(f"10.30.{number // 256}.{number % 256}:1")
        self.assertEqual(len(self.cluster.members()), MAX_NODES)
        self.assertEqual(len(self.nodes), MAX_NODES)
        self.pass_time(LIVE_S)
        self.heartbeat_of_go("10.31.0.1:1")
        members = self.cluster.members()
        self.assertEqual(len(members), MAX_NODES)
        self.assertEqual([m.address for m in members if m.live], sorted([SIX[0], "10.31.0.1:1"]))

    def test_foreign_messages(self) -> None:
        """What is no heartbeat is refused, and the next heartbeat is heard."""
        for body in (b"", b"hello", b'"http://10.29.1.1/"', b"[" * 1000, b"7", b'":12345"', ASK):
            self.publish(API_SERVERS, body)
        self.assertEqual(list(self.cluster.members()), [])
        self.assertEqual(len(self.broker.refused), 7)
        self.heartbeat_of_go(SIX[0])
        self.assertEqual(self.live(), [SIX[0]])


class PlaceTests(ClusterCase):
    """Where shards should be."""

    def test_by_rank(self) -> None:
        """Shard i is expected at the i-th node by rank, the ones that are away included."""
        self.start(*SIX)
        self.stop(SIX[0])
        self.pass_time(LIVE_S)
        ranked = rank(HASH, SIX)
        self.assertEqual(
            self.cluster.expected(HASH, 6), {index: (ranked[index],) for index in range(6)}
        )

    def test_by_zones(self) -> None:
        """With zones, the rank is that of zones."""
        zones = {address: "ab"[i < 3] for i, address in enumerate(rank(HASH, SIX))}
        self.start(*SIX)
        for address, zone in zones.items():
            self.servers[address].heartbeat = Heartbeat(address, zone)
        self.pass_time(HEARTBEAT_S)
        ranked = rank(HASH, zones)
        self.assertNotEqual(ranked, rank(HASH, SIX))
        self.assertEqual([p[0] for p in self.cluster.expected(HASH, 6).values()], ranked)

    def test_remembered(self) -> None:
        """Places that were noted or found go before the rank, each shard by itself."""
        self.start(*SIX)
        ranked = rank(HASH, SIX)
        self.cluster.placed(HASH, {0: ranked[5], 1: ranked[4]})
        places = self.cluster.expected(HASH, 6)
        self.assertEqual([ranked.index(where[0]) for where in places.values()], [5, 4, 2, 3, 4, 5])
        self.cluster.placed(HASH, {index: SIX[index] for index in range(6)})
        self.assertEqual(
            self.cluster.expected(HASH, 6), {index: (SIX[index],) for index in range(6)}
        )
        self.assertEqual(self.cluster.expected(HASH, 1), {0: (SIX[0],)})
        self.assertEqual([p[0] for p in self.cluster.expected(OTHER, 6).values()], rank(OTHER, SIX))

    def test_the_least_recently_used_is_forgotten(self) -> None:
        """Memory has an end: what was not used for longest goes first."""
        self.start(*SIX)
        away = dict.fromkeys(range(6), "10.29.9.9:1")
        self.cluster.placed(HASH, away)
        self.cluster.placed(OTHER, away)
        for number in range(MAX_REMEMBERED - 1):
            self.cluster.expected(HASH, 6)
            self.cluster.placed(ContentHash(b"%032d" % number), {0: SIX[0]})
        self.assertEqual(self.cluster.expected(HASH, 6), dict.fromkeys(range(6), ("10.29.9.9:1",)))
        self.assertEqual([p[0] for p in self.cluster.expected(OTHER, 6).values()], rank(OTHER, SIX))


class LocateTests(ClusterCase):
    """Who has what."""

    def test_everywhere(self) -> None:
        """The answer is there when everybody has answered, before any time has passed."""
        self.start(*SIX)
        self.keep({0: SIX[5], 1: SIX[4], 2: SIX[3]})
        self.keep({1: SIX[0]})
        found = self.locate()
        self.assertNoResult(found)
        self.broker.deliver()
        self.assertEqual(
            self.successResultOf(found), {0: [SIX[5]], 1: [SIX[0], SIX[4]], 2: [SIX[3]]}
        )
        self.assertEqual(sum(node.asked for node in self.nodes.values()), 0)
        self.assertEqual(self.cluster.expected(HASH, 6)[1], (SIX[0], SIX[4]))

    def test_all_found(self) -> None:
        """When every shard is found, the rest is not waited for."""
        self.start(*SIX)
        self.keep(dict.fromkeys(range(6), SIX[0]))
        self.servers[SIX[4]].scanned = False
        found = self.locate()
        self.broker.deliver()
        self.assertEqual(self.successResultOf(found), {index: [SIX[0]] for index in range(6)})

    def test_several_shards_of_a_node(self) -> None:
        """A node has answered when all its answers are there, not at the first one."""
        self.start(SIX[0])
        self.keep({0: SIX[0], 3: SIX[0]})
        found = self.locate()
        while self.broker.waiting[0].exchange == DATA_SERVERS:
            self.broker._deliver(self.broker.waiting.pop(0))
        second = self.broker.waiting.pop()
        self.broker.deliver()
        self.assertNoResult(found)
        self.broker.waiting.append(second)
        self.broker.deliver()
        self.assertEqual(self.successResultOf(found), {0: [SIX[0]], 3: [SIX[0]]})

    def test_doubled_and_late(self) -> None:
        """Answers that come twice count once; those that come late change nothing."""
        self.start(*SIX)
        self.keep({index: SIX[index] for index in range(6)})
        self.broker.copies = 2
        found = self.locate()
        self.broker.deliver()
        expected = {index: [SIX[index]] for index in range(6)}
        self.assertEqual(self.successResultOf(found), expected)
        late = [m for m in self.broker.sent if m.queue]
        self.assertGreaterEqual(len(late), 6)
        self.keep({0: SIX[1]}, OTHER)
        other = self.locate(OTHER)
        self.broker.waiting[:0] = late
        self.broker.deliver()
        self.assertEqual(self.successResultOf(other), {0: [SIX[1]]})

    def test_unknown_nodes(self) -> None:
        """Answers of those who are not live members are dropped, as are those that are none."""
        self.start(*SIX[:2])
        self.keep({1: SIX[1]})
        found = self.locate()
        (question,) = (m for m in self.broker.sent if m.delivery.correlation_id)
        token, queue = question.delivery.correlation_id, question.delivery.reply_to
        for body in (LocateReply("10.66.6.6:1", 0).body(), b"}", b'{"Addr": 1, "ID": 0}'):
            self.publish("", body, queue=queue, correlation_id=token)
        self.broker.deliver()
        self.assertEqual(self.successResultOf(found), {1: [SIX[1]]})

    def test_one_question_for_many(self) -> None:
        """Those who locate the same at the same time are given one answer; another is another."""
        self.start(*SIX)
        self.keep({2: SIX[2]})
        asked = len(self.broker.sent)
        several = [self.locate() for _ in range(10)]
        other = self.locate(OTHER)
        self.assertEqual(len(self.broker.sent) - asked, 2)
        several[0].cancel()
        self.failureResultOf(several[0])
        self.broker.deliver()
        for found in several[1:]:
            self.assertEqual(self.successResultOf(found), {2: [SIX[2]]})
        self.assertEqual(self.successResultOf(other), {})
        again = self.locate()
        self.assertNoResult(again)
        self.broker.deliver()
        self.assertEqual(self.successResultOf(again), {2: [SIX[2]]})

    def test_first(self) -> None:
        """Those that the content ranks first are asked directly, and nobody else."""
        addresses = [f"10.29.1.{i}:12345" for i in range(1, 10)]
        self.start(*addresses)
        ranked = rank(HASH, addresses)
        self.keep({index: ranked[index] for index in range(6)})
        self.keep({0: ranked[8]})
        sent = len(self.broker.sent)
        found = self.end(self.cluster.locate(HASH, everywhere=False))
        self.assertEqual(found, {index: [ranked[index]] for index in range(6)})
        self.assertEqual([self.node(a).asked for a in ranked], [1] * 6 + [0] * 3)
        self.assertEqual(len(self.broker.sent), sent)

    def test_first_with_a_node_down_or_hung(self) -> None:
        """One that cannot be reached counts for nothing; one that hangs is waited for a while."""
        self.start(*SIX)
        self.keep({index: SIX[index] for index in range(6)})
        self.node(SIX[0]).down = True
        self.node(SIX[1]).gate = Deferred()
        found: Deferred[Any] = Deferred.fromCoroutine(self.cluster.locate(HASH, everywhere=False))
        self.pass_time(DIRECT_S - 0.5)
        self.assertNoResult(found)
        self.pass_time(0.5)
        self.assertEqual(set(self.successResultOf(found)), {2, 3, 4, 5})

    def test_first_does_not_forget(self) -> None:
        """Asking some only does not make one forget where others were found."""
        self.start(*SIX)
        self.cluster.placed(HASH, dict.fromkeys(range(6), "10.29.9.9:1"))
        self.keep({0: SIX[0]})
        self.end(self.cluster.locate(HASH, everywhere=False))
        places = self.cluster.expected(HASH, 6)
        self.assertEqual((places[0], places[1]), ((SIX[0],), ("10.29.9.9:1",)))

    def test_everywhere_forgets(self) -> None:
        """When everybody has said what they have, what was remembered besides is wrong."""
        self.start(*SIX)
        self.cluster.placed(HASH, dict.fromkeys(range(6), "10.29.9.9:1"))
        self.keep({0: SIX[0]})
        found = self.locate()
        self.broker.deliver()
        self.successResultOf(found)
        places = self.cluster.expected(HASH, 6)
        self.assertEqual((places[0], places[1]), ((SIX[0],), (rank(HASH, SIX)[1],)))

    def test_silent_on_the_broker(self) -> None:
        """A node that does not answer over the broker is asked directly."""
        self.start(*SIX)
        self.keep({index: SIX[index] for index in range(3)})
        self.servers[SIX[0]].scanned = False
        found = self.locate()
        self.pass_time(BROKER_ANSWERS_S - 0.1, 0.1)
        self.assertNoResult(found)
        self.pass_time(0.1, 0.1)
        self.assertEqual(set(self.successResultOf(found)), {0, 1, 2})
        self.assertEqual([self.node(a).asked for a in SIX], [1, 0, 0, 0, 0, 0])

    def test_silent_everywhere(self) -> None:
        """One that does not answer at all is given up after a second."""
        self.start(*SIX)
        self.keep({index: SIX[index] for index in range(3)})
        self.servers[SIX[0]].scanned = False
        self.node(SIX[0]).gate = Deferred()
        found = self.locate()
        self.pass_time(LOCATE_S - 0.25, 0.25)
        self.assertNoResult(found)
        self.pass_time(0.25, 0.25)
        self.assertEqual(set(self.successResultOf(found)), {1, 2})

    def test_a_lost_question(self) -> None:
        """A question that the broker loses is asked directly."""
        self.start(*SIX)
        self.keep({3: SIX[3]})
        found = self.locate()
        self.broker.waiting.clear()
        self.pass_time(BROKER_ANSWERS_S, 0.1)
        self.assertEqual(self.successResultOf(found), {3: [SIX[3]]})

    def test_without_a_broker(self) -> None:
        """While the broker is away, the nodes that were last known are asked directly, at once."""
        self.start(*SIX)
        self.keep({3: SIX[3], 4: SIX[4]})
        self.bus.connect(False)
        self.node(SIX[4]).down = True
        self.pass_time(30)
        self.assertEqual(self.successResultOf(self.locate()), {3: [SIX[3]]})

    def test_a_broker_that_hangs(self) -> None:
        """A broker that hangs costs a moment, and none when it was silent for a while."""
        self.start(*SIX)
        self.keep({3: SIX[3]})
        self.broker.stopped = True
        found = self.locate()
        self.assertNoResult(found)
        self.pass_time(BROKER_ANSWERS_S, 0.1)
        self.assertEqual(self.successResultOf(found), {3: [SIX[3]]})
        self.pass_time(5)
        self.assertEqual(self.successResultOf(self.locate()), {3: [SIX[3]]})

    def test_stopping(self) -> None:
        """A locate under way when the server stops fails clearly, as does a later one."""
        self.start(*SIX)
        found = self.locate()
        self.end_now(self.cluster.stop)
        self.failureResultOf(found, NodeUnavailable)
        self.failureResultOf(self.locate(), NodeUnavailable)


class PutTests(ClusterCase):
    """Small shards on several data servers."""

    def test_a_node_hangs(self) -> None:
        """When enough shards are there, the others have the grace time and no more."""
        self.start(*SIX)
        what = sample(100)
        self.node(SIX[4]).gate = Deferred()
        put = Deferred.fromCoroutine(
            self.cluster.put(what.content, dict(enumerate(SIX)), what.shards, 5)
        )
        self.clock.advance(PUT_GRACE_S - 0.1)
        self.assertNoResult(put)
        self.clock.advance(0.2)
        self.assertEqual(self.successResultOf(put), dict.fromkeys((0, 1, 2, 3, 5)))

    def test_no_such_node(self) -> None:
        """A data server that is known no more is one that failed."""
        self.start(*SIX[:5])
        what = sample(100)
        outcomes = self.end(self.cluster.put(what.content, dict(enumerate(SIX)), what.shards, 5))
        self.assertIsInstance(outcomes[5], NodeUnavailable)
        self.assertEqual(sum(error is None for error in outcomes.values()), 5)


class FetchTests(ClusterCase):
    """Small contents from their data shards."""

    def setUp(self) -> None:
        """Six data servers with a content."""
        super().setUp()
        self.start(*SIX)
        self.what = sample(10_000, scheme=Scheme())
        self.ranked = rank(self.what.content.hash, SIX)
        for index, address in enumerate(self.ranked):
            kept = self.node(address).kept
            kept[self.what.content.hash, index] = self.what.shards[index]

    def fetch(self, what: Sample | None = None) -> Deferred[bytes | None]:
        """Begin to fetch the content, or another."""
        return Deferred.fromCoroutine(self.cluster.fetch((what or self.what).content))

    def test_all_there(self) -> None:
        """The data shards make the content, whatever its size; the others are not asked."""
        for address in self.ranked[4:]:
            self.node(address).gate = Deferred()
        self.assertEqual(self.successResultOf(self.fetch()), self.what.data)
        for size in (0, 1, 3, 4, 5, 262_144, 262_145, 600_000, 1 << 20):
            what = sample(size, scheme=Scheme())
            for index, address in enumerate(rank(what.content.hash, SIX)):
                self.node(address).kept[what.content.hash, index] = what.shards[index]
                self.node(address).gate = None
            self.assertEqual(self.successResultOf(self.fetch(what)), what.data)

    def test_too_large(self) -> None:
        """A content of large shards is to be opened."""
        for what in (
            sample((1 << 20) + 1, scheme=Scheme()),
            sample((1 << 18) + 1, scheme=Scheme(1, 1, 1 << 19)),
        ):
            self.assertIsNone(self.successResultOf(self.fetch(what)))

    def test_one_missing(self) -> None:
        """When one is not there, nothing is waited for any more."""
        gate: Deferred[None] = Deferred()
        self.node(self.ranked[0]).gate = gate
        fetching = self.fetch()
        self.assertNoResult(fetching)
        del self.node(self.ranked[2]).kept[self.what.content.hash, 2]
        self.assertIsNone(self.successResultOf(self.fetch()))
        gate.callback(None)
        self.assertEqual(self.successResultOf(fetching), self.what.data)

    def test_one_away(self) -> None:
        """Of a node that is away nothing is asked, nor of the others."""
        self.cluster.suspect(self.ranked[3])
        for address in self.ranked:
            self.node(address).gate = Deferred()
        self.assertIsNone(self.successResultOf(self.fetch()))

    def test_one_late(self) -> None:
        """A node that hangs is not waited for long; what it says later is nobody's."""
        gate: Deferred[None] = Deferred()
        self.node(self.ranked[1]).gate = gate
        fetching = self.fetch()
        self.clock.advance(FETCH_S - 0.01)
        self.assertNoResult(fetching)
        self.clock.advance(0.02)
        self.assertIsNone(self.successResultOf(fetching))

    def test_cancelled(self) -> None:
        """Who waits no longer leaves nothing behind."""
        self.node(self.ranked[1]).gate = Deferred()
        before = len(self.clock.getDelayedCalls())
        fetching = self.fetch()
        fetching.cancel()
        self.failureResultOf(fetching, CancelledError)
        self.assertEqual(len(self.clock.getDelayedCalls()), before)

    def test_moved(self) -> None:
        """Shards that are known to be elsewhere are asked for there."""
        kept = self.node(self.ranked[0]).kept
        self.node(self.ranked[5]).kept[self.what.content.hash, 0] = kept.pop(
            (self.what.content.hash, 0)
        )
        self.assertIsNone(self.successResultOf(self.fetch()))
        self.cluster.placed(self.what.content.hash, {0: self.ranked[5]})
        self.assertEqual(self.successResultOf(self.fetch()), self.what.data)


class GoTests(ClusterCase):
    """Beside processes of the Go design."""

    def setUp(self) -> None:
        """A data server of ours, and one in Go."""
        super().setUp()
        self.start(SIX[0])
        self.heartbeat_of_go(SIX[1])
        self.go = self.broker.bus()
        self.go.connect()

    def test_silent(self) -> None:
        """A Go node that has nothing stays silent; a second later that is what it said."""
        self.keep({0: SIX[0]})
        found = self.locate()
        self.pass_time(LOCATE_S - 0.25, 0.25)
        self.assertNoResult(found)
        self.pass_time(0.25, 0.25)
        self.assertEqual(self.successResultOf(found), {0: [SIX[0]]})
        self.assertEqual(self.node(SIX[1]).asked, 0)

    def test_answer(self) -> None:
        """A Go node is asked as a Go API server asks, and its answer needs no correlation id."""
        self.keep({0: SIX[0]})
        found = self.locate()
        (question,) = (
            m.delivery for m in self.broker.sent if m.delivery.body == locate_body_of_go(HASH)
        )
        self.assertEqual(question.correlation_id, "")
        self.go.publish("", b'{"Addr":"10.29.1.2:12345","Id":4}', queue=question.reply_to)
        self.broker.deliver()
        self.assertEqual(self.successResultOf(found), {0: [SIX[0]], 4: [SIX[1]]})

    def test_question(self) -> None:
        """To a Go API server, a node of ours answers a shard it has, and else says nothing."""
        self.keep({5: SIX[0]})
        got: list[tuple[bytes, str]] = []
        mine = self.go.subscribe(lambda d: got.append((d.body, d.correlation_id)))
        for wanted in (HASH, OTHER):
            self.go.publish(DATA_SERVERS, locate_body_of_go(wanted), reply_to=mine.queue)
        self.broker.deliver()
        self.assertEqual(got, [(b'{"Addr": "10.29.1.1:12345", "ID": 5}', "")])


class AnnouncerTests(ClusterCase):
    """A data server's side."""

    def heartbeats(self) -> int:
        """How many were published so far."""
        return sum(1 for m in self.broker.sent if m.exchange == API_SERVERS)

    def test_interval(self) -> None:
        """A heartbeat at the start and every 5 s."""
        self.start(SIX[0])
        self.pass_time(1)
        before = self.heartbeats()
        self.pass_time(4 * HEARTBEAT_S)
        self.assertEqual(self.heartbeats() - before, 4)

    def test_reconnection(self) -> None:
        """A heartbeat as soon as the broker is back; none while it is away."""
        self.start(SIX[0])
        self.servers[SIX[0]].bus.connect(False)
        before = self.heartbeats()
        self.pass_time(60)
        self.assertEqual(self.heartbeats(), before)
        self.servers[SIX[0]].bus.connect()
        self.assertEqual(self.heartbeats(), before + 1)

    def test_asked_often(self) -> None:
        """However often it is asked, it tells no more than twice a second, and the latest."""
        self.start(SIX[0])
        self.pass_time(1.0)
        before = self.heartbeats()
        for _ in range(100):
            self.publish(DATA_SERVERS, ASK)
        self.assertEqual(self.heartbeats(), before + 1)
        self.servers[SIX[0]].heartbeat = Heartbeat(SIX[0], "moved")
        self.pass_time(LEAST_INTERVAL_S)
        self.assertEqual(self.heartbeats(), before + 2)
        self.assertEqual(self.cluster.members()[0].zone, "moved")

    def test_foreign_messages(self) -> None:
        """What is no request is refused; a locate without a place for answers is not answered."""
        self.start(SIX[0])
        self.keep({0: SIX[0]})
        sent = len(self.broker.sent)
        for body in (b"", b"hello", b'"no hash"', b"{}", b"\xff" * 2000):
            self.publish(DATA_SERVERS, body, reply_to="x")
        self.assertEqual(len(self.broker.refused), 5)
        self.publish(DATA_SERVERS, locate_body(HASH))
        self.assertEqual(len(self.broker.sent), sent + 6)
        found = self.locate()
        self.broker.deliver()
        self.assertEqual(self.successResultOf(found), {0: [SIX[0]]})

    def test_stop(self) -> None:
        """After the stop nothing is told, also not what was due."""
        self.start(SIX[0])
        server = self.servers[SIX[0]]
        server.announcer.beat()
        before = self.heartbeats()
        self.end_now(server.announcer.stop)
        self.pass_time(20)
        self.assertEqual(self.heartbeats(), before)
