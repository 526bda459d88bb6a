"""What the Go design's programs send and expect, byte by byte, over a real RabbitMQ.

They publish to fanout exchanges with an empty routing key and always with a reply-to, answer to the
default exchange, quote strings as JSON, write hashes as in file names, and stay silent when they
have nothing.
"""

from __future__ import annotations

import json
from typing import Any

from dostore.core.messages import API_SERVERS, DATA_SERVERS
from dostore.core.names import ContentHash
from tests.support.amqp_wire import Got, WireClient
from tests.support.broker import BrokerCase

HASH = ContentHash.parse("2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY=")
IN_FILE_NAMES = "2MRHhgqkvILs04RzLIEpZBzpgos%2F9QlNKRXEh7cMngY="
OURS, THEIRS = "10.29.1.1:12345", "10.29.1.2:12345"


class GoTests(BrokerCase):
    """A cluster of both."""

    async def go(self, exchange: str = "") -> tuple[WireClient, str]:
        """A Go process: its connection and its queue."""
        wire = await self.wire()
        # Its operator makes them by RabbitMQ's own tools, which make durable ones.
        for name in (API_SERVERS, DATA_SERVERS):
            await self.blocking(wire.declare_exchange, name, durable=True)
        queue = await self.blocking(wire.declare_queue, exchange)
        await self.blocking(wire.consume, queue)
        return wire, queue

    async def send(
        self, go: tuple[WireClient, str], exchange: str, value: Any, to: str = ""
    ) -> None:
        """Publish as a Go process: Go's JSON has no spaces."""
        body = json.dumps(value, separators=(",", ":")).encode()
        await self.blocking(go[0].publish, exchange, body, queue=to, reply_to=go[1].encode())

    async def test_a_go_api_server(self) -> None:
        """It learns of a data server of ours, locates its shards, and hears nothing of others."""
        go = await self.go(API_SERVERS)
        server = self.data_server(OURS)
        server.node.shards[HASH] = {4}
        heartbeat = await self.blocking(go[0].get)
        self.assertEqual(heartbeat.body, b'"10.29.1.1:12345"')
        asking = await self.go()
        await self.send(asking, DATA_SERVERS, str(ContentHash(bytes(32))))
        await self.send(asking, DATA_SERVERS, IN_FILE_NAMES)
        answer = await self.blocking(asking[0].get)
        self.assertEqual(json.loads(answer.body), {"Addr": OURS, "ID": 4})
        self.assertEqual(answer.correlation_id, b"")
        self.assertIsNone(await self.blocking(asking[0].get, 0.2))

    async def test_a_go_data_server(self) -> None:
        """An API server of ours learns of it, asks it as it is used to, and takes its answer."""
        go = await self.go(DATA_SERVERS)
        cluster = await self.api_server()
        asked = await self.blocking(go[0].get)
        # To Go, the question for a heartbeat is a quoted string too, which names no object.
        self.assertEqual(asked.body, b'""')
        await self.send(go, API_SERVERS, THEIRS)
        await self.until("it is there", lambda: len(cluster.members()) == 1)
        member = cluster.members()[0]
        self.assertEqual((member.address, member.live, member.writable), (THEIRS, True, True))
        locating = self.locate(cluster, HASH)
        questions = [await self.blocking(go[0].get) for _ in range(2)]
        self.assertEqual([json.loads(q.body) for q in questions], [str(HASH), IN_FILE_NAMES])
        answer = {"Addr": THEIRS, "Id": 2}
        await self.send(go, "", answer, to=questions[1].reply_to.decode())
        self.assertEqual(await locating, {2: [THEIRS]})

    async def test_both(self) -> None:
        """Servers of ours are found beside Go's, whether those answer or have nothing."""
        go = await self.go(DATA_SERVERS)
        cluster = await self.api_server()
        server = self.data_server(OURS)
        server.node.shards[HASH] = {0}
        await self.send(go, API_SERVERS, THEIRS)
        await self.until("both are there", lambda: len(cluster.members()) == 2)
        self.assertEqual(await cluster.locate(HASH), {0: [OURS]})
        # That was a second of silence; what comes later answers nothing any more.
        asked = await self.go_questions(go[0], 1)
        locating = self.locate(cluster, HASH)
        asked += await self.go_questions(go[0], 1)
        await self.send(go, "", {"Addr": THEIRS, "Id": 5}, to=asked[0].reply_to.decode())
        await self.send(go, "", {"Addr": THEIRS, "Id": 1}, to=asked[1].reply_to.decode())
        self.assertEqual(await locating, {0: [OURS], 1: [THEIRS]})

    async def go_questions(self, wire: WireClient, count: int) -> list[Got]:
        """The next locates that a Go data server understands."""
        found: list[Got] = []
        while len(found) < count:
            got = await self.blocking(wire.get)
            if got.body == json.dumps(IN_FILE_NAMES).encode():
                found.append(got)
        return found
