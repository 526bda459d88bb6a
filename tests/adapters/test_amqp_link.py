"""dostore.adapters.amqp_link: on a real RabbitMQ, and against servers that are none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.adapters.amqp_client import MAX_BACKLOG_BYTES, MAX_FRAME_BYTES, AmqpClient
from dostore.adapters.amqp_link import (
    FIRST_WAIT_S,
    HEARTBEAT_S,
    LONGEST_WAIT_S,
    OPEN_TIMEOUT_S,
    AmqpLink,
)
from dostore.adapters.bus import COMPLAINT_INTERVAL_S, Complaints, Delivery, IBus, ISubscription
from dostore.core.broker_url import BrokerUrl
from dostore.core.messages import API_SERVERS, DATA_SERVERS
from dostore.errors import BadMessage
from tests.support.amqp_wire import Closed
from tests.support.broker import BrokerCase
from tests.support.cases import SyncTestCase


class LinkTests(BrokerCase):
    """Messages over a real broker."""

    def collect(self) -> tuple[list[Delivery], Callable[[Delivery], None]]:
        """A list, and what puts deliveries in it."""
        got: list[Delivery] = []
        return got, got.append

    async def test_provides(self) -> None:
        """A link is a bus, and gives subscriptions."""
        link = self.link()
        self.assert_provides(IBus, link)
        self.assert_provides(ISubscription, link.subscribe(lambda _: None))

    async def test_everybody_gets_what_an_exchange_is_sent(self) -> None:
        """All who subscribed get a message whole: also its sender, none from another exchange."""
        one, two = self.link(), self.link()
        first, second, third = self.collect(), self.collect(), self.collect()
        one.subscribe(first[1], exchange=API_SERVERS)
        two.subscribe(second[1], exchange=API_SERVERS)
        two.subscribe(third[1], exchange=DATA_SERVERS)
        await self.connected(one)
        await self.connected(two)
        headers = {"dostore": "1", "dostore-zone": "z"}
        self.assertTrue(
            one.publish(API_SERVERS, b'"body"', headers=headers, reply_to="me", correlation_id="42")
        )
        await self.until("both have it", lambda: first[0] and second[0])
        expected = [Delivery(b'"body"', headers, "me", "42")]
        self.assertEqual((first[0], second[0], third[0]), (expected, expected, []))

    async def test_one_gets_what_a_queue_is_sent(self) -> None:
        """A message to a queue reaches its owner only; a queue that is not there swallows it."""
        one, two = self.link(), self.link()
        first, second = self.collect(), self.collect()
        mine = one.subscribe(first[1])
        other = two.subscribe(second[1])
        await self.connected(one)
        await self.connected(two)
        self.assertNotEqual(mine.queue, other.queue)
        self.assertTrue(two.publish("", b"lost", queue="no-such-queue"))
        self.assertTrue(two.publish("", b"", queue=mine.queue))
        self.assertTrue(two.publish("", b"second", queue=mine.queue))
        await self.until("both came", lambda: len(first[0]) == 2)
        self.assertEqual([d.body for d in first[0]], [b"", b"second"])
        self.assertEqual(second[0], [])

    async def test_order_and_number(self) -> None:
        """A thousand messages come once each, in order."""
        link = self.link()
        got, received = self.collect()
        mine = link.subscribe(received, limit=2000)
        await self.connected(link)
        for number in range(1000):
            self.assertTrue(link.publish("", b"%d" % number, queue=mine.queue))
        await self.until("all came", lambda: len(got) == 1000)
        self.assertEqual([int(d.body) for d in got], list(range(1000)))

    async def test_not_connected(self) -> None:
        """Without a connection nothing is sent, kept or waited for."""
        link = self.link()
        got, received = self.collect()
        mine = link.subscribe(received, exchange=API_SERVERS)
        self.assertFalse(link.publish(API_SERVERS, b"early"))
        self.assertFalse(await mine.established())
        await self.connected(link)
        self.assertTrue(await mine.established())
        self.assertTrue(link.publish(API_SERVERS, b"late"))
        await self.until("it came", lambda: got)
        self.assertEqual([d.body for d in got], [b"late"])

    async def test_subscribe_and_close(self) -> None:
        """One may subscribe while connected; a closed subscription's queue is gone."""
        link = await self.connected(self.link())
        got, received = self.collect()
        mine = link.subscribe(received)
        self.assertTrue(await mine.established())
        queue = mine.queue
        link.publish("", b"one", queue=queue)
        await self.until("it came", lambda: got)
        mine.close()
        mine.close()
        self.assertEqual(mine.queue, "")
        self.assertFalse(await mine.established())
        link.publish("", b"two", queue=queue)
        other = link.subscribe(received)
        await other.established()
        wire = await self.wire()
        with self.assertRaises(Closed) as caught:
            await self.blocking(wire.queue_length, queue)
        self.assertIn("404", str(caught.exception))
        self.assertEqual(len(got), 1)
        self.assertEqual(self.log_lines("is away"), [])

    async def test_closed_before_it_is_there(self) -> None:
        """A subscription that is closed at once leaves no queue behind."""
        link = await self.connected(self.link())
        mine = link.subscribe(lambda _: None)
        waiting = Deferred.fromCoroutine(mine.established())
        mine.close()
        self.assertFalse(await waiting)
        other = link.subscribe(lambda _: None)
        self.assertTrue(await other.established())
        await self.pause(0.1)
        self.assertEqual(self.log_lines("is away"), [])

    async def test_a_receiver_that_fails(self) -> None:
        """Whatever a receiver makes of a message, it gets the next; a bad message is told once."""
        link = self.link()
        got: list[bytes] = []

        def receive(delivery: Delivery) -> None:
            got.append(delivery.body)
            if delivery.body == b"bad":
                raise BadMessage("It is bad.")
            if delivery.body == b"bug":
                raise ZeroDivisionError

        mine = link.subscribe(receive)
        await self.connected(link)
        for body in (b"bad", b"bug", b"bad", b"good"):
            link.publish("", body, queue=mine.queue)
        await self.until("all came", lambda: len(got) == 4)
        self.assertEqual(len(self.log_lines("It is bad.")), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(link.connected)

    async def test_exchanges_that_are_there(self) -> None:
        """Exchanges that others made are used as they are, durable or not."""
        wire = await self.wire()
        for durable in (False, True):
            for exchange in (API_SERVERS, DATA_SERVERS):
                await self.blocking(wire.delete_exchange, exchange)
                await self.blocking(wire.declare_exchange, exchange, durable=durable)
            link = self.link()
            got, received = self.collect()
            link.subscribe(received, exchange=API_SERVERS)
            await self.connected(link)
            link.publish(API_SERVERS, b"x")
            await self.until("it came", partial(len, got))
            await link.stop()

    async def test_exchanges_that_are_missing(self) -> None:
        """Exchanges that nobody made are made, durable, as the Go design's tools make them."""
        wire = await self.wire()
        for exchange in (API_SERVERS, DATA_SERVERS):
            await self.blocking(wire.delete_exchange, exchange)
        await self.connected(self.link())
        for exchange in (API_SERVERS, DATA_SERVERS):
            await self.blocking(wire.declare_exchange, exchange, durable=True)
            with self.assertRaises(Closed):
                await self.blocking(wire.declare_exchange, exchange, durable=False)
            await self.blocking(wire.open_channel)

    async def test_an_exchange_is_deleted(self) -> None:
        """When somebody deletes an exchange, it is made again, and messages flow."""
        link = self.link()
        got, received = self.collect()
        link.subscribe(received, exchange=API_SERVERS)
        changes: list[bool] = []
        link.watch(changes.append)
        await self.connected(link)
        wire = await self.wire()
        await self.blocking(wire.delete_exchange, API_SERVERS)
        link.publish(API_SERVERS, b"lost")
        await self.until("it is connected again", lambda: changes == [True, False, True])
        link.publish(API_SERVERS, b"found")
        await self.until("it came", lambda: got)
        self.assertEqual([d.body for d in got], [b"found"])

    async def test_a_queue_is_the_links_own(self) -> None:
        """Nobody else may take messages of a queue of a link, or delete it."""
        link = self.link()
        mine = link.subscribe(lambda _: None)
        await self.connected(link)
        for steal in ("consume", "delete_queue"):
            wire = await self.wire()
            with self.assertRaises(Closed) as caught:
                await self.blocking(getattr(wire, steal), mine.queue)
            self.assertIn("405", str(caught.exception))
        self.assertTrue(link.connected)

    async def test_refused(self) -> None:
        """A wrong password or virtual host is told with the broker's words, never the password."""
        host = self.url.rpartition("@")[2]
        for url, words in (
            (f"amqp://guest:wrong-secret@{host}", "ACCESS_REFUSED"),
            (f"amqp://guest:guest@{host}/nowhere", "vhost nowhere not found"),
        ):
            link = self.link(url)
            link.start()
            await self.until("it is told", partial(self.log_lines, words))
            self.assertFalse(link.connected)
            await link.stop()
        self.assertEqual(self.log_lines("wrong-secret"), [])

    async def test_stop(self) -> None:
        """A stop tells the watchers, ends the connection in order, and may come at any time."""
        link = self.link()
        mine = link.subscribe(lambda _: None)
        changes: list[bool] = []
        link.watch(changes.append)
        await self.connected(link)
        await link.stop()
        self.assertEqual(changes, [True, False])
        self.assertEqual(mine.queue, "")
        self.assertFalse(link.publish(API_SERVERS, b"x"))
        await link.stop()
        early = self.link()
        early.start()
        await early.stop()
        self.assertEqual(self.log_lines("is away"), [])

    async def test_heard(self) -> None:
        """A broker that has nothing to say is heard all the same."""
        link = await self.connected(self.link(heartbeat_s=1))
        before = link.heard_at
        await self.until("it is heard", lambda: link.heard_at > before)
        before = link.heard_at
        await self.until("it is heard again", lambda: link.heard_at > before)
        await link.stop()
        stopped = link.heard_at
        await self.pause(0.05)
        self.assertEqual(link.heard_at, stopped)


class _Speaker(Protocol):
    """Says what its factory says."""

    def connectionMade(self) -> None:
        """Say it."""
        assert self.transport is not None
        assert isinstance(self.factory, _Speaking)
        self.factory.seen.append(self)
        self.transport.write(self.factory.words)


class _Speaking(Factory):
    """A server that says one thing to everybody."""

    protocol = _Speaker
    noisy = False

    def __init__(self, words: bytes) -> None:
        self.words = words
        self.seen: list[Protocol] = []

    def seen_twice(self) -> bool:
        """Somebody came again."""
        return len(self.seen) > 1


class OtherServerTests(BrokerCase):
    """Whatever listens where the broker should be."""

    def broker_url(self) -> str:
        """None is needed."""
        return ""

    async def test_no_amqp(self) -> None:
        """A server that does not speak AMQP is given up, with a sentence, and tried again."""
        for words in (
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b"x" * 5000,
            b"AMQP\0\0\x09\x01",
            b"\x16\x03\x01\x02\x00\x01" + b"\0" * 600,
            struct.pack(">BHI", 1, 0, 8) + b"\xff" * 8 + b"\xce",
            struct.pack(">BHI", 1, 0, 4) + b"\0\x0a\0\x63\xce",
            struct.pack(">BHI", 1, 9, 4) + b"\0\x0a\0\x29\xce",
            struct.pack(">BHI", 2, 0, 14) + b"\0\x3c" + b"\0" * 12 + b"\xce",
            struct.pack(">BHI", 3, 0, 1) + b"x\xce",
            struct.pack(">BHI", 1, 0, 2) + b"\0\x0a\xce",
            struct.pack(">BHI", 7, 0, 0) + b"\xce",
            struct.pack(">BHI", 1, 0, 4) + b"\0\x0a\0\x29\0",
            b"\xff" * (MAX_FRAME_BYTES + 1),
        ):
            speaking = _Speaking(words)
            port = cast(Any, reactor).listenTCP(0, speaking, interface="127.0.0.1")
            link = self.link(f"amqp://127.0.0.1:{port.getHost().port}")
            link.start()
            # The second and third leave it open what they are; silence is tested on a clock.
            if words[:4] in (b"AMQP", b"\x16\x03\x01\x02"):
                await self.until("it came", partial(len, speaking.seen))
            else:
                await self.until(f"{words[:20]!r} is tried twice", speaking.seen_twice)
            self.assertFalse(link.connected)
            await link.stop()
            await port.stopListening()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertGreater(len(self.log_lines("is away")), 8)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects to nothing, or to transports that keep what is written."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.attempts = 0
        self.clients: list[AmqpClient] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """See IStreamClientEndpoint."""
        self.attempts += 1
        if not self.answers:
            return fail(ConnectionRefusedError())
        client = cast(AmqpClient, factory.buildProtocol(cast(Any, None)))
        client.makeConnection(_Transport())
        self.clients.append(client)
        made: Deferred[Any] = Deferred()
        made.callback(client)
        return made


class _Transport(StringTransport):
    """Tells its protocol when it is aborted."""

    def abortConnection(self) -> None:
        """End."""
        if not self.disconnected:
            super().abortConnection()
            assert self.protocol is not None
            self.protocol.connectionLost(Failure(ConnectionDone()))

    protocol: Any = None


class ReconnectionTests(SyncTestCase):
    """When it is tried again, on a clock."""

    def setUp(self) -> None:
        """A clock by hand."""
        super().setUp()
        self.clock = Clock()
        self.clock.advance(1000)

    def link(self, endpoint: _Endpoint, chance: float = 1.0) -> AmqpLink:
        """A link that is started."""
        link = AmqpLink(BrokerUrl("mq"), endpoint, self.clock, chance=lambda: chance)
        link.start()
        self.addCleanup(self.stop, link)
        return link

    def stop(self, link: AmqpLink) -> None:
        """Stop a link."""
        stopping = Deferred.fromCoroutine(link.stop())
        self.clock.advance(0)
        self.successResultOf(stopping)

    def test_waits(self) -> None:
        """The waits double up to the longest, and never end."""
        endpoint = _Endpoint(False)
        self.link(endpoint)
        wait_s = FIRST_WAIT_S
        for attempt in range(1, 30):
            self.assertEqual(endpoint.attempts, attempt)
            self.clock.advance(wait_s - 0.01)
            self.assertEqual(endpoint.attempts, attempt)
            self.clock.advance(0.02)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def test_chance(self) -> None:
        """Half of each wait is left to chance, so that not all come at once."""
        endpoint = _Endpoint(False)
        self.link(endpoint, chance=0.0)
        self.clock.advance(FIRST_WAIT_S / 2)
        self.assertEqual(endpoint.attempts, 2)

    def test_stop_while_waiting(self) -> None:
        """A stop ends the wait and all attempts."""
        endpoint = _Endpoint(False)
        link = self.link(endpoint)
        self.stop(link)
        self.clock.advance(1000)
        self.assertEqual(endpoint.attempts, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silence(self) -> None:
        """A server that takes the connection and says nothing is given up after 10 s."""
        endpoint = _Endpoint(True)
        self.link(endpoint)
        endpoint.clients[0].transport.protocol = endpoint.clients[0]
        self.clock.advance(OPEN_TIMEOUT_S - 0.1)
        self.assertEqual(endpoint.attempts, 1)
        self.clock.advance(0.2)
        self.assertTrue(endpoint.clients[0].transport.disconnected)
        self.clock.advance(LONGEST_WAIT_S)
        self.assertEqual(endpoint.attempts, 2)
        endpoint.clients[1].transport.protocol = endpoint.clients[1]


class ClientTests(SyncTestCase):
    """One connection, frame by frame."""

    def setUp(self) -> None:
        """A connection on which nothing was said yet."""
        super().setUp()
        self.clock = Clock()
        self.got: list[tuple[str, Delivery | BadMessage]] = []
        self.client = AmqpClient(
            BrokerUrl("mq"), "test", self.clock, HEARTBEAT_S, lambda *what: self.got.append(what)
        )
        self.transport = _Transport()
        self.transport.protocol = self.client
        self.client.makeConnection(self.transport)

    def test_first_words(self) -> None:
        """AMQP 0-9-1 is asked for."""
        self.assertEqual(self.transport.value(), b"AMQP\0\0\x09\x01")

    def open(self) -> None:
        """Say what a broker says at the beginning."""
        opening = Deferred.fromCoroutine(self.client.open())
        method(self.client, 0, 10, 10, b"\0\x09" + b"\0" * 4 + text(b"PLAIN") + text(b"en_US"))
        # No limits of its own.
        method(self.client, 0, 10, 30, struct.pack(">HIH", 0, 0, 60))
        method(self.client, 0, 10, 41, b"\0")
        method(self.client, 1, 20, 11, text(b""))
        self.successResultOf(opening)

    def deliver(self, *bodies: bytes, size: int | None = None, properties: bytes = b"\0\0") -> None:
        """Deliver a message in such pieces."""
        method(self.client, 1, 60, 60, b"\1t" + b"\0" * 8 + b"\0" + b"\0\0")
        length = sum(map(len, bodies)) if size is None else size
        frame(self.client, 2, 1, struct.pack(">HHQ", 60, 0, length) + properties)
        for body in bodies:
            frame(self.client, 3, 1, body)

    def test_no_password_before_it_is_asked_for(self) -> None:
        """The login goes out once, as the answer to the broker's first words."""
        self.open()
        self.assertEqual(self.transport.value().count(b"\0guest\0guest"), 1)

    def test_pieces(self) -> None:
        """A body comes in any number of frames, text and not, and is the same bytes."""
        self.open()
        self.deliver()
        self.deliver(b"all")
        self.deliver(b"a\xc3", b"\xbc", b"\xff", b"", b"z")
        bodies = [message.body for _, message in self.got if isinstance(message, Delivery)]
        self.assertEqual(bodies, [b"", b"all", b"a\xc3\xbc\xffz"])

    def test_byte_by_byte(self) -> None:
        """However the bytes arrive, the messages are the same."""
        self.open()
        recorder = _Recorder()
        client, self.client = self.client, cast(AmqpClient, recorder)
        self.deliver(b"one", b"two")
        self.deliver(b"three")
        for byte in recorder.data:
            client.dataReceived(bytes([byte]))
        bodies = [message.body for _, message in self.got if isinstance(message, Delivery)]
        self.assertEqual(bodies, [b"onetwo", b"three"])

    def test_large(self) -> None:
        """Of a message that is too large nothing is kept, and the next one comes."""
        self.open()
        size = 100_000_000
        piece = bytes(100_000)
        self.deliver(size=size)
        for _ in range(size // len(piece)):
            frame(self.client, 3, 1, piece)
        self.deliver(b"next")
        (_, large), (_, following) = self.got
        self.assertIsInstance(large, BadMessage)
        self.assertIn("100000000 bytes", str(large))
        self.assertEqual(following, Delivery(b"next"))

    def test_bad_headers(self) -> None:
        """Headers that cannot be read make a bad message, not a broken connection."""
        self.open()
        for data in (b"\1aZ", b"\1", b"\xff" * 40, b"\0V" * 20_000):
            self.deliver(b"x", properties=b"\x20\0" + text(data))
            self.assertIsInstance(self.got.pop()[1], BadMessage)
        self.deliver(b"x", properties=b"\x26\0" + text(b"\1at\1") + b"\1\xff" + b"\2me")
        self.assertEqual(self.got[0][1], Delivery(b"x", {"a": True}, "me", "\udcff"))
        self.assertFalse(self.transport.disconnected)

    def test_frame_too_large(self) -> None:
        """A frame that is larger than was agreed on ends the connection before it is all there."""
        self.open()
        self.client.dataReceived(struct.pack(">BHI", 3, 1, 10**9) + bytes(MAX_FRAME_BYTES))
        self.assertTrue(self.transport.disconnected)
        self.assertIn("too large", self.successResultOf(self.client.gone))

    def test_silence(self) -> None:
        """Heartbeats are sent; a broker that sends none is given up after twice the interval."""
        self.open()
        self.transport.clear()
        for _ in range(4):
            self.clock.advance(HEARTBEAT_S / 2)
        self.assertEqual(self.transport.value(), 4 * b"\x08\0\0\0\0\0\0\xce")
        frame(self.client, 8, 0, b"")
        for _ in range(4):
            self.clock.advance(HEARTBEAT_S / 2)
        self.assertFalse(self.transport.disconnected)
        self.clock.advance(HEARTBEAT_S / 2)
        self.assertIn("nothing came", self.successResultOf(self.client.gone))
        self.clock.advance(100)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_backlog(self) -> None:
        """Of what the broker does not read, a mebibyte is kept and the rest dropped."""
        self.open()
        self.transport.clear()
        producer: Any = self.transport.producer
        producer.pauseProducing()
        sent = [self.client.publish("x", "", Delivery(bytes(1000))) for _ in range(5000)]
        self.assertEqual(sent, sorted(sent, reverse=True))
        self.assertGreater(len(self.transport.value()), MAX_BACKLOG_BYTES * 3 // 4)
        self.assertLessEqual(len(self.transport.value()), MAX_BACKLOG_BYTES)
        producer.resumeProducing()
        self.assertTrue(self.client.publish("x", "", Delivery(b"body")))
        self.assertIn(b"body", self.transport.value())

    def test_a_queue_deleted_under_us(self) -> None:
        """When the broker tells that a queue is gone, the connection is made anew."""
        self.open()
        method(self.client, 1, 60, 30, b"\1t\1")
        self.assertIn("queue", self.successResultOf(self.client.gone))

    def test_closed_by_the_broker(self) -> None:
        """The broker's words for closing the connection or the channel are the reason."""
        self.open()
        method(self.client, 0, 10, 50, b"\1\x40\x08SHUTDOWN\0\0\0\0")
        self.assertTrue(self.transport.disconnecting)
        self.client.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(self.client.gone), "SHUTDOWN (320)")

    def test_channel_closed_by_the_broker(self) -> None:
        """A channel that is closed ends the connection, with the broker's words."""
        self.open()
        method(self.client, 1, 20, 40, b"\1\x94\x07NO_SUCH\0\0\0\0")
        self.assertEqual(self.successResultOf(self.client.gone), "NO_SUCH (404)")

    def test_returned_messages(self) -> None:
        """A message that the broker returns, though nobody asked it to, is passed over."""
        self.open()
        method(self.client, 1, 60, 50, b"\1\x38\1x\0\0")
        frame(self.client, 2, 1, struct.pack(">HHQ", 60, 0, 4) + b"\0\0")
        frame(self.client, 3, 1, b"back")
        self.deliver(b"next")
        self.assertEqual(self.got, [("t", Delivery(b"next"))])


class _Recorder:
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.data += data


def text(data: bytes) -> bytes:
    """A long string or a table."""
    return struct.pack(">I", len(data)) + data


def frame(client: AmqpClient, kind: int, channel: int, payload: bytes) -> None:
    """A frame comes."""
    client.dataReceived(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")


def method(client: AmqpClient, channel: int, klass: int, number: int, arguments: bytes) -> None:
    """A method comes."""
    frame(client, 1, channel, struct.pack(">HH", klass, number) + arguments)


class ComplaintTests(SyncTestCase):
    """Warnings that do not fill a log."""

    def test_seldom(self) -> None:
        """Each kind is logged once a minute, with how many there were meanwhile."""

        class Log:
            """Keeps what is logged."""

            lines: list[str] = []  # noqa: RUF012 - one list is meant

            def warn(self, form: str, **values: Any) -> None:
                """See Logger."""
                self.lines.append(form.format(**values))

        clock = Clock()
        complaints = Complaints(cast(Any, Log()), clock)
        for number in range(5):
            complaints.make("Bad", f"number {number}")
        complaints.make("Worse", "also {this}")
        self.assertEqual(Log.lines, ["Bad: number 0", "Worse: also {this}"])
        clock.advance(COMPLAINT_INTERVAL_S)
        complaints.make("Bad", "again")
        clock.advance(COMPLAINT_INTERVAL_S)
        complaints.make("Bad", "and again")
        self.assertEqual(Log.lines[2:], ["Bad: again (4 more like it before)", "Bad: and again"])
