"""A14: AMQP bodies that are no JSON, of the wrong type, 100 MB, redelivered for ever.

Each is sent by a hand-written client over a real RabbitMQ to API servers and data servers.
"""

from __future__ import annotations

import struct
from pathlib import Path

from dostore.adapters.cluster_amqp import AmqpCluster
from dostore.core.messages import API_SERVERS, DATA_SERVERS, Heartbeat, locate_body
from dostore.core.names import ContentHash
from tests.support.amqp_wire import short, table
from tests.support.broker import BrokerCase

HASH = ContentHash.parse("2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY=")
ADDRESS = "10.29.1.1:12345"

#: Bodies that are nothing of ours.
BODIES = (
    b"",
    b"hello",
    b"\x00\xff\xfe",
    b"null",
    b"12345",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b'""',
    b'"\\ud800"',
    b'"10.29.1.1"',
    b'"http://10.29.1.1:12345/"',
    b'"10.29.1.1:99999"',
    b'{"Addr": "10.29.1.1:12345", "ID": 1}',
    b'["10.29.1.1:12345"]',
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'"' + b"x" * 60_000 + b'"',
    b"9" * 60_000,
    b"x" * 70_000,
)

#: Field tables with every type that RabbitMQ takes, and with our names in the wrong type.
TABLES = (
    b"",
    short("i") + b"l" + b"\xff" * 8,
    short("d") + b"d" + struct.pack(">d", 1.5),
    short("v") + b"V",
    short("x") + b"x" + table(b"\xff"),
    short("a") + b"A" + table(b"t\1I\0\0\0\1"),
    short("f") + b"F" + table(short("deep") + b"F" + table()),
    short("t") + b"T" + bytes(8),
    short("s") + b"S" + table(b"\xff\xfe"),
    short("D") + b"D" + b"\2\0\0\0\7",
    short("dostore-zone") + b"I\0\0\0\1",
    short("dostore-zone") + b"S" + table(b"a zone with spaces"),
    short("dostore-free-bytes") + b"S" + table(b"-1"),
    short("dostore-free-bytes") + b"l" + bytes(8),
    short("dostore-writable") + b"S" + table(b"perhaps"),
    short("x") + b"S" + table(b"x" * 50_000),
)


def resident_bytes(key: str) -> int:
    """Memory of this process, now (VmRSS) or at its most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


class BadMessageTests(BrokerCase):
    """An API server and a data server, and somebody who sends them what they should not get."""

    async def both(self) -> AmqpCluster:
        """An API server that sees a data server with one shard."""
        cluster = await self.api_server()
        self.servers = [self.data_server(ADDRESS)]
        self.node(ADDRESS).shards[HASH] = {4}
        await self.until("it is there", lambda: len(cluster.members()) == 1)
        return cluster

    async def assert_alive(self, cluster: AmqpCluster) -> None:
        """Both still take messages, on the connection that they had, and know nobody else."""
        await self.locates_by_broker(cluster, HASH, {4: [ADDRESS]})
        self.assertEqual([member.address for member in cluster.members()], [ADDRESS])
        self.assertTrue(cluster.members()[0].live)
        self.assertEqual(self.log_lines("is away"), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_bodies(self) -> None:
        """Every body that is nothing of ours, with every field table, to both exchanges."""
        cluster = await self.both()
        wire = await self.wire()
        for exchange in (API_SERVERS, DATA_SERVERS):
            for body in BODIES:
                for headers in (None, *TABLES):
                    await self.blocking(
                        wire.publish, exchange, body, headers=headers, reply_to=b"nowhere"
                    )
        await self.blocking(wire.sync)
        await self.assert_alive(cluster)
        # Once by each of the two.
        self.assertEqual(len(self.log_lines("A message was dropped")), 2)

    async def test_headers(self) -> None:
        """Sound bodies with headers of every type: they count, or are dropped where one is ours."""
        cluster = await self.both()
        wire = await self.wire()
        for number, headers in enumerate(TABLES):
            body = Heartbeat(f"10.29.2.{number}:1").body()
            await self.blocking(wire.publish, API_SERVERS, body, headers=headers)
        await self.blocking(wire.publish, API_SERVERS, Heartbeat("10.29.3.1:1").body())
        await self.until("the last came", lambda: cluster.members()[-1].address == "10.29.3.1:1")
        # 10 with foreign headers, and the two others.
        self.assertEqual(len(cluster.members()), 12)
        self.assertEqual(self.log_lines("is away"), [])

    async def test_100_mb(self) -> None:
        """A message of 100 MB costs neither memory nor the connection; others are served."""
        cluster = await self.both()
        wire = await self.wire()
        await cluster.locate(HASH)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_bytes("VmRSS")
        for exchange in (API_SERVERS, DATA_SERVERS):
            await self.blocking(wire.publish_large, exchange, 100_000_000)
        await self.until("both are told", lambda: len(self.log_lines("100000000 bytes")) == 2, 60.0)
        await self.assert_alive(cluster)
        self.assertLess(resident_bytes("VmHWM") - before, 64 << 20)

    async def test_for_ever(self) -> None:
        """The same bad message over and over fills no log and keeps nobody from the others."""
        cluster = await self.both()
        wire = await self.wire()
        before = len(self.kept_lines)
        for exchange in (API_SERVERS, DATA_SERVERS):
            data = wire.message(exchange, b"again and again") * 5_000
            await self.blocking(wire.socket.sendall, data)
        await self.blocking(wire.sync)
        await self.assert_alive(cluster)
        self.assertLess(len(self.kept_lines) - before, 10)

    async def test_nothing_comes_twice(self) -> None:
        """A message that a server died of would not be delivered again: none is ever kept back."""
        await self.both()
        wire = await self.wire()
        await self.blocking(wire.publish, DATA_SERVERS, b"poison")
        await self.until("it is dropped", lambda: self.log_lines("A message was dropped"))
        link = self.servers[0].link
        await link.stop()
        again = self.data_server("10.29.1.2:12345")
        await self.until("another is connected", lambda: again.link.connected)
        await self.blocking(wire.sync)
        await self.pause(0.1)
        self.assertEqual(len(self.log_lines("A message was dropped")), 1)

    async def test_answers(self) -> None:
        """Answers to a question of ours that are none, or of strangers, change nothing."""
        cluster = await self.both()
        wire = await self.wire()
        spy = await self.blocking(wire.declare_queue, DATA_SERVERS)
        await self.blocking(wire.consume, spy)
        self.servers[0].link._client.transport.pauseProducing()  # type: ignore[union-attr]
        locating = self.locate(cluster, HASH)
        question = await self.blocking(wire.get)
        # An answer in the name of a live node would count: users of the broker are trusted.
        strange = [body for body in BODIES if b"Addr" not in body]
        for body in (*strange, b'{"Addr": "10.66.6.6:1", "ID": 0}', b'{"Addr": "x", "ID": 0}'):
            await self.blocking(
                wire.publish,
                "",
                body,
                queue=question.reply_to.decode(),
                correlation_id=question.correlation_id,
            )
        for token in (b"", b"x" * 255, question.correlation_id[:-1]):
            await self.blocking(
                wire.publish,
                "",
                b'{"Addr": "10.29.1.1:12345", "ID": 0}',
                queue=question.reply_to.decode(),
                correlation_id=token,
            )
        await self.blocking(wire.sync)
        self.servers[0].link._client.transport.resumeProducing()  # type: ignore[union-attr]
        self.assertEqual(await locating, {4: [ADDRESS]})
        self.assertEqual(self.log_lines("is away"), [])

    async def test_locates_with_strange_answers_wanted(self) -> None:
        """A locate whose answer nobody can get, or that is huge in number, hurts nobody."""
        cluster = await self.both()
        wire = await self.wire()
        for reply_to in (
            b"",
            b"no-such-queue",
            b"amq.rabbitmq.reply-to.x.y",
            b"amq.rabbitmq.reply-to.g1h2AA==.key",
            b"x" * 255,
            b"\xff" * 255,
            "\u00fc".encode() * 127,
            b"\0",
        ):
            for token in (b"", b"\xff" * 255, "\u00fc".encode() * 127):
                await self.blocking(
                    wire.publish,
                    DATA_SERVERS,
                    locate_body(HASH),
                    reply_to=reply_to,
                    correlation_id=token,
                )
        await self.blocking(wire.sync)
        await self.assert_alive(cluster)

    async def test_tokens_come_back_as_they_went(self) -> None:
        """A correlation id is sent back byte by byte, whatever it is."""
        await self.both()
        wire = await self.wire()
        queue = await self.blocking(wire.declare_queue)
        await self.blocking(wire.consume, queue)
        for token in (b"42", b"\xff" * 255, "\u00fc".encode() * 127):
            await self.blocking(
                wire.publish,
                DATA_SERVERS,
                locate_body(HASH),
                reply_to=queue.encode(),
                correlation_id=token,
            )
            answer = await self.blocking(wire.get)
            self.assertEqual(answer.correlation_id, token)
