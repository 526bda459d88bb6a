"""F8, the broker's half: RabbitMQ restarted, hung, its queues full, answers doubled and late."""

from __future__ import annotations

import signal

from dostore.adapters.amqp_link import LONGEST_WAIT_S
from dostore.adapters.cluster_amqp import AmqpCluster
from dostore.adapters.membership import LIVE_S
from dostore.core.messages import API_SERVERS, DATA_SERVERS, Heartbeat, LocateReply
from dostore.core.names import ContentHash
from tests.support.broker import CLOCK, BrokerCase, OwnBrokerCase

HASH = ContentHash.parse("2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY=")
SIX = [f"10.29.1.{i}:12345" for i in range(1, 7)]
PLACES = {index: [address] for index, address in enumerate(SIX)}


class RestartTests(OwnBrokerCase):
    """A broker that goes and comes, with an API server and six data servers on it."""

    async def six(self) -> AmqpCluster:
        """All are connected, and each data server has a shard."""
        cluster = await self.api_server()
        self.servers = [self.data_server(address) for address in SIX]
        for index, address in enumerate(SIX):
            self.node(address).shards[HASH] = {index}
        await self.until("all are there", lambda: len(cluster.members()) == 6)
        return cluster

    def assert_all_live(self, cluster: AmqpCluster) -> None:
        """Nobody is missed."""
        self.assertEqual([m.address for m in cluster.members() if m.live], SIX)

    def all_connected(self, cluster: AmqpCluster) -> bool:
        """Everybody has a connection."""
        return cluster.connected and all(server.link.connected for server in self.servers)

    async def test_killed_and_restarted(self) -> None:
        """Without a broker all go on as they were, and locates are asked directly; when it is back
        on the same port, all are connected again within seconds, and it is used again.
        """
        cluster = await self.six()
        await self.locates_by_broker(cluster, HASH, PLACES)
        asked = self.asked()
        await self.blocking(self.server.kill)
        await self.until("it is noticed", lambda: not cluster.connected)
        died = CLOCK.seconds()
        self.assert_all_live(cluster)
        self.assertEqual(await cluster.locate(HASH), PLACES)
        self.assertEqual(self.asked(), asked + 6)
        self.node(SIX[0]).down = True
        self.assertEqual(set(await cluster.locate(HASH)), {1, 2, 3, 4, 5})
        self.node(SIX[0]).down = False
        await self.pause(LIVE_S + 1 - (CLOCK.seconds() - died))
        self.assert_all_live(cluster)
        await self.blocking(self.server.start)
        back = CLOCK.seconds()
        await self.until("all are connected", lambda: self.all_connected(cluster))
        self.assertLess(CLOCK.seconds() - back, LONGEST_WAIT_S + 2)
        self.assert_all_live(cluster)
        await self.locates_by_broker(cluster, HASH, PLACES)
        # A line a server and outage, not one an attempt.
        self.assertLessEqual(len(self.log_lines("is away")), 2 * 7)

    async def test_hung(self) -> None:
        """A broker that is stopped costs a locate less than a second, and nobody is missed; it is
        noticed, and when it goes on, all are connected again.
        """
        cluster = await self.six()
        self.server.signal(signal.SIGSTOP)
        stopped = CLOCK.seconds()
        try:
            while cluster.connected:
                began = CLOCK.seconds()
                self.assertEqual(await cluster.locate(HASH), PLACES)
                self.assertLess(CLOCK.seconds() - began, 0.9)
                self.assert_all_live(cluster)
                await self.pause(0.2)
                self.assertLess(CLOCK.seconds() - stopped, 10.0)
            self.assertEqual(await cluster.locate(HASH), PLACES)
            await self.pause(LIVE_S - (CLOCK.seconds() - stopped))
            self.assert_all_live(cluster)
        finally:
            self.server.signal(signal.SIGCONT)
        await self.until("all are connected", lambda: self.all_connected(cluster))
        self.assert_all_live(cluster)
        await self.locates_by_broker(cluster, HASH, PLACES)

    async def test_starts_without(self) -> None:
        """Servers that start while the broker is away find each other when it comes."""
        await self.blocking(self.server.kill)
        link = self.link()
        cluster = AmqpCluster(link, self.node, 6, CLOCK)
        link.start()
        self.servers = [self.data_server(address) for address in SIX]
        await self.pause(0.5)
        self.assertFalse(cluster.connected)
        self.assertEqual((list(cluster.members()), await cluster.locate(HASH)), ([], {}))
        await self.blocking(self.server.start)
        await self.until("all are there", lambda: len(cluster.members()) == 6)
        await cluster.stop()


class AnswerTests(BrokerCase):
    """Answers that are not one each in time, by a data server that is written by hand."""

    async def test_doubled_and_late(self) -> None:
        """Answers that come twice count once; those that come after the end change nothing."""
        cluster = await self.api_server()
        wire = await self.wire()
        queue = await self.blocking(wire.declare_queue, DATA_SERVERS)
        await self.blocking(wire.consume, queue)
        beat = Heartbeat(SIX[0])
        # As a node of ours tells: one field, the version.
        version = b"\7dostoreS\0\0\0\0011"
        await self.blocking(wire.publish, API_SERVERS, beat.body(), headers=version)
        await self.until("it is there", lambda: len(cluster.members()) == 1)

        async def answer(question: object, *shards: int) -> None:
            for shard in shards:
                await self.blocking(
                    wire.publish,
                    "",
                    LocateReply(SIX[0], shard).body(),
                    queue=question.reply_to.decode(),  # type: ignore[attr-defined]
                    headers=b"\x0fdostore-repliesS\0\0\0\0012",
                    correlation_id=question.correlation_id,  # type: ignore[attr-defined]
                )

        locating = self.locate(cluster, HASH)
        first = await self.blocking(wire.get)
        await answer(first, 3, 3, 3)
        await self.blocking(wire.sync)
        await self.pause(0.05)
        self.assertFalse(locating.called)
        await answer(first, 5, 3, 5)
        self.assertEqual(await locating, {3: [SIX[0]], 5: [SIX[0]]})
        locating = self.locate(cluster, HASH)
        second = await self.blocking(wire.get)
        await answer(first, 0, 1)
        await answer(second, 3, 4)
        self.assertEqual(await locating, {3: [SIX[0]], 4: [SIX[0]]})

    async def test_a_full_queue(self) -> None:
        """Of what waits for a server that does not read, the broker keeps the newest, not all."""
        link = self.link(heartbeat_s=30)
        got: list[bytes] = []
        mine = link.subscribe(lambda delivery: got.append(delivery.body), limit=100)
        await self.connected(link)
        wire = await self.wire()
        transport = link._client.transport  # type: ignore[union-attr]
        transport.pauseProducing()
        data = b"".join(
            wire.message("", b"%d " % number + bytes(1000), queue=mine.queue)
            for number in range(30_000)
        )
        await self.blocking(wire.socket.sendall, data)
        await self.blocking(wire.sync)
        transport.resumeProducing()
        await self.until("the newest came", lambda: got and got[-1].startswith(b"29999 "))
        self.assertLess(len(got), 15_000)
        self.assertTrue(link.connected)

    async def test_a_full_queue_of_heartbeats(self) -> None:
        """After any number of foreign messages the next heartbeat counts."""
        cluster = await self.api_server()
        wire = await self.wire()
        data = wire.message(API_SERVERS, bytes(1000)) * 20_000
        await self.blocking(wire.socket.sendall, data)
        await self.blocking(wire.publish, API_SERVERS, Heartbeat(SIX[0]).body())
        await self.until("it is there", lambda: len(cluster.members()) == 1)
