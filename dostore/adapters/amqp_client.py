"""One connection to RabbitMQ, by txAMQP: the only module that knows that library.

txAMQP frames, encodes and pairs requests with answers here. What it does less well is done in its
place: it collects a message of any size, it takes a message whose headers it cannot read for a
broken connection, and it queues without bound what is to be written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from txamqp import spec as txamqp_spec
from txamqp.client import ChannelClosed, Closed, TwistedDelegate
from txamqp.codec import EOF
from txamqp.connection import Body, Frame, Header, Heartbeat, Method
from txamqp.content import Content
from txamqp.protocol import AMQChannel, AMQClient, FrameReceiver, GarbageException
from txamqp.queue import Closed as QueueClosed
from zope.interface import implementer

from dostore.adapters.bus import Delivery
from dostore.core.amqp_table import decode_table, encode_table
from dostore.core.broker_url import BrokerUrl
from dostore.errors import BadMessage

#: A larger message is counted while it comes, not kept.
MAX_BODY_BYTES = 1 << 16

#: The largest frame that is asked for; a larger one ends the connection.
MAX_FRAME_BYTES = 1 << 17

#: So much may wait for a broker that does not read.
MAX_BACKLOG_BYTES = 1 << 20

#: About what a message takes besides its body.
_FRAMES_BYTES = 256

_CHANNEL = 1
_NOT_FOUND = 404

#: What reading bytes that are not AMQP, or not RabbitMQ's, makes of txAMQP.
_GARBAGE = (
    AttributeError,
    EOF,
    GarbageException,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
)


class ConnectionRefused(Exception):
    """The broker ended the connection, or would not have it; the text says why."""


@cache
def _protocol() -> Any:
    text = files("dostore.adapters").joinpath("amqp0-9-1.xml").read_bytes()
    return txamqp_spec.load_string(text, "amqp0-9-1.xml")


def _text(value: str | bytes) -> str:
    """A short string, which txAMQP gives as bytes when it is not UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="surrogateescape")


def _short(value: str) -> bytes:
    """The bytes that a short string came as; txAMQP writes a wrong length before other text."""
    return value.encode(errors="surrogateescape")


def _bytes(value: str | bytes) -> bytes:
    """A long string, which txAMQP gives as text when it is UTF-8."""
    return value if isinstance(value, bytes) else value.encode()


@define(eq=False)
class _Arrival:
    """A message that is coming, frame by frame."""

    method: Any
    size: int | None = None
    properties: Mapping[str, Any] = field(factory=dict)
    pieces: list[bytes] = field(factory=list)
    came: int = 0

    def take(self, payload: Any) -> bool:
        """Take a header or body frame; whether that was the last."""
        if isinstance(payload, Header):
            self.size, self.properties = payload.size, payload.properties
        elif self.size is None or not isinstance(payload, Body):
            raise GarbageException("a body without its header")
        else:
            piece = _bytes(payload.content)
            self.came += len(piece)
            if self.size <= MAX_BODY_BYTES:
                self.pieces.append(piece)
        return self.came >= self.size

    def delivery(self) -> Delivery:
        """The whole message.

        :raises BadMessage: it is too large, or its headers cannot be read.
        """
        if self.size is not None and self.size > MAX_BODY_BYTES:
            raise BadMessage(f"A message of {self.size} bytes is larger than any that is taken.")
        return Delivery(
            b"".join(self.pieces),
            decode_table(_bytes(self.properties.get("headers", b""))),
            _text(self.properties.get("reply-to", "")),
            _text(self.properties.get("correlation-id", "")),
        )


class _Channel(AMQChannel):  # type: ignore[misc]
    """A channel that collects messages by itself, with an end to their size."""

    _arrival: _Arrival | None = None

    def dispatch(self, frame: Any, work: Any) -> None:
        """Called with each frame of this channel."""
        payload = frame.payload
        if isinstance(payload, Method):
            if payload.method.content:
                self._arrival = _Arrival(payload)
            else:
                super().dispatch(frame, work)
            return
        if self._arrival is None:
            raise GarbageException("a content without its method")
        if self._arrival.take(payload):
            arrival, self._arrival = self._arrival, None
            self.client.arrived(arrival)


class _Delegate(TwistedDelegate):  # type: ignore[misc]
    """Answers what the broker asks by itself."""

    def connection_start(self, channel: Any, _: Any) -> None:
        """Say who we are, and that we want to be told why when something ends."""
        channel.connection_start_ok(
            client_properties=encode_table(
                {
                    "product": "dostore",
                    "connection_name": self.client.name,
                    "capabilities": {
                        "authentication_failure_close": True,
                        "consumer_cancel_notify": True,
                    },
                }
            ),
            mechanism="PLAIN",
            response=self.client.response,
            locale="en_US",
        )

    def connection_tune(self, channel: Any, message: Any) -> None:
        """Agree on the size of frames, and on heartbeats."""
        # 0 stands for no limit.
        self.client.MAX_LENGTH = min(message.frame_max or MAX_FRAME_BYTES, MAX_FRAME_BYTES)
        channel.connection_tune_ok(
            message.channel_max, self.client.MAX_LENGTH, self.client.heartbeat_s
        )
        self.client.started.fire()

    def basic_cancel(self, _: Any, __: Any) -> None:
        """A queue of ours was deleted by somebody else."""
        self.client.give_up("a queue was deleted")


@implementer(IPushProducer)
@define(eq=False)
class _Backlog:
    """Told by the transport whether the broker keeps up with what is written to it."""

    paused: bool = False
    bytes_since: int = 0

    def pauseProducing(self) -> None:
        """Some wait to be written; at the end of a turn that sent much, or for long."""
        self.paused = True

    def resumeProducing(self) -> None:
        """All is written."""
        self.paused = False
        self.bytes_since = 0

    def stopProducing(self) -> None:
        """The connection is gone."""

    def has_room(self, size: int) -> bool:
        """Whether a message may be added to what waits."""
        if self.paused:
            self.bytes_since += size + _FRAMES_BYTES
        return self.bytes_since <= MAX_BACKLOG_BYTES


class AmqpClient(AMQClient):  # type: ignore[misc]
    """A connection to the broker.

    :ivar heard_at: when anything came from it last.
    :ivar gone: fires when the connection is lost, with the reason as a sentence.
    :param arrived: called with the consumer's tag and the message, or why it is none.
    :param heartbeat_s: whole seconds; a broker that is silent for twice as long is given up.
    """

    channelClass = _Channel

    def __init__(
        self,
        url: BrokerUrl,
        name: str,
        clock: IReactorTime,
        heartbeat_s: int,
        arrived: Callable[[str, Delivery | BadMessage], None],
    ) -> None:
        # Without heartbeats of its own: it moves two timers with every frame.
        super().__init__(_Delegate(), url.vhost.encode(), _protocol(), heartbeat=0, clock=clock)
        self.name = name
        self.response = b"\0" + url.user.encode() + b"\0" + url.password.encode()
        self.heartbeat_s = heartbeat_s
        self.heard_at = clock.seconds()
        self.gone: Deferred[str] = Deferred()
        self._received = arrived
        self._reason = ""
        self._backlog = _Backlog()
        self._beats: LoopingCall | None = None
        self._channels_used = _CHANNEL

    # The connection

    def connectionMade(self) -> None:
        """Begin."""
        self.transport.registerProducer(self._backlog, True)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:
        """End."""
        if self._beats is not None and self._beats.running:
            self._beats.stop()
        super().connectionLost(reason)
        self.gone.callback(self._reason or reason.getErrorMessage())

    def send_init_string(self) -> None:
        """Ask for AMQP 0-9-1; txAMQP would ask for an older one."""
        self.transport.write(b"AMQP\0\0\x09\x01")

    def dataReceived(self, data: bytes) -> None:
        """Called by the transport."""
        self.heard_at = self.clock.seconds()
        try:
            super().dataReceived(data)
        except _GARBAGE as error:
            self.give_up(f"it does not speak AMQP as RabbitMQ does ({error!r})")

    def frameLengthExceeded(self, _: bytes) -> None:
        """A frame is larger than was agreed on."""
        self.give_up("it sends a frame that is too large, or does not speak AMQP")

    def send_frame(self, frame: Any) -> None:
        """Write a frame."""
        FrameReceiver.send_frame(self, frame)

    def process_frame(self, frame: Any) -> None:
        """Called with each frame."""
        if frame.payload.type == Frame.HEARTBEAT:
            return
        channel = self.channels.get(frame.channel)
        if channel is None:
            # The broker speaks first, on channel 0.
            channel = self.channels[0] = self.channelFactory(0, self.outgoing, self)
        channel.dispatch(frame, self.work)

    def do_close(self, reason: Any) -> None:
        """The connection is to end, for a reason that the broker may have told."""
        self._reason = self._reason or _sentence(reason)
        super().do_close(reason)

    def channel_failed(self, channel: Any, reason: Failure) -> None:
        """The broker closed a channel."""
        if channel.id == _CHANNEL and not self.closed:
            self.give_up(_sentence(reason.value))

    def give_up(self, reason: str) -> None:
        """End the connection at once."""
        self._reason = self._reason or reason
        self.transport.abortConnection()

    def arrived(self, arrival: _Arrival) -> None:
        """A message came."""
        if arrival.method.method.name != "deliver":
            return
        tag = _text(arrival.method.args[0])
        try:
            message: Delivery | BadMessage = arrival.delivery()
        except BadMessage as error:
            message = error
        self._received(tag, message)

    def _beat(self) -> None:
        if self.clock.seconds() - self.heard_at > 2 * self.heartbeat_s:
            self.give_up(f"nothing came from it for {2 * self.heartbeat_s} s")
        else:
            self.send_frame(Frame(0, Heartbeat()))

    # Requests. Each raises ConnectionRefused when the connection ends meanwhile.

    async def open(self) -> None:
        """Log in, and be ready for the other requests."""
        await self._ask(self.start(self.response))
        await self._ask((await self._open_channel(_CHANNEL)).channel_open())
        self._beats = LoopingCall(self._beat)
        self._beats.clock = self.clock
        _ = self._beats.start(self.heartbeat_s / 2, now=False)

    async def _open_channel(self, number: int) -> Any:
        return await self.channel(number)

    async def _ask(self, answer: Any) -> Any:
        try:
            return await answer
        except (Closed, QueueClosed) as error:
            raise ConnectionRefused(self._reason or _sentence(error)) from error

    async def declare_fanout(self, exchange: str) -> None:
        """Have an exchange: one that is there, whatever kind it is, or a durable fanout one."""
        # To ask for one that is not there closes the channel.
        self._channels_used += 1
        probe = await self._open_channel(self._channels_used)
        await self._ask(probe.channel_open())
        try:
            await probe.exchange_declare(exchange=exchange, type="fanout", passive=True)
        except ChannelClosed as error:
            if error.args[0].reply_code != _NOT_FOUND:
                raise ConnectionRefused(_sentence(error)) from error
        except (Closed, QueueClosed) as error:
            raise ConnectionRefused(self._reason or _sentence(error)) from error
        else:
            await self._ask(probe.channel_close())
            return
        channel = self.channels[_CHANNEL]
        await self._ask(channel.exchange_declare(exchange=exchange, type="fanout", durable=True))

    async def consume(self, tag: str, exchange: str, limit: int, keep_ms: int) -> str:
        """Make a queue for this connection, bound to an exchange unless that is ``""``.

        :returns: its name. Its messages come with ``tag``.
        """
        channel = self.channels[_CHANNEL]
        limits = encode_table(
            {
                "x-max-length": limit,
                "x-max-length-bytes": limit * 1024,
                "x-message-ttl": keep_ms,
                "x-overflow": "drop-head",
            }
        )
        made = await self._ask(
            channel.queue_declare(exclusive=True, auto_delete=True, arguments=limits)
        )
        queue = _text(made.queue)
        if exchange:
            await self._ask(channel.queue_bind(queue=queue, exchange=exchange))
        # Without acknowledgements nothing is ever delivered again.
        await self._ask(
            channel.basic_consume(queue=queue, consumer_tag=tag, no_ack=True, exclusive=True)
        )
        return queue

    def cancel(self, tag: str) -> None:
        """End a consumer, without waiting for it; its queue goes with it.

        To delete the queue would have the broker tell that it was deleted under us.
        """
        self._send(self.channels[_CHANNEL].basic_cancel(consumer_tag=tag, nowait=True))

    def publish(self, exchange: str, queue: str, message: Delivery) -> bool:
        """Send a message; whether it was sent, or dropped since the broker does not keep up."""
        if not self._backlog.has_room(len(message.body)):
            return False
        properties: dict[str, bytes] = {"content-type": b"application/json"}
        if message.headers:
            properties["headers"] = encode_table(message.headers)
        if message.reply_to:
            properties["reply-to"] = _short(message.reply_to)
        if message.correlation_id:
            properties["correlation-id"] = _short(message.correlation_id)
        self._send(
            self.channels[_CHANNEL].basic_publish(
                exchange=_short(exchange),
                routing_key=_short(queue),
                content=Content(message.body, properties=properties),
            )
        )
        return True

    @staticmethod
    def _send(sent: Deferred[Any]) -> None:
        """What was sent needs no answer; it is lost when the channel is closed already."""
        _ = sent.addErrback(lambda failure: failure.trap(Closed, QueueClosed))

    async def leave(self) -> None:
        """End the connection in order: return when the broker has said that it is well."""
        self._reason = "it is not needed any more"
        await self._ask(self.channels[0].connection_close(reply_code=200, reply_text=b"goodbye"))
        self.transport.loseConnection()


def _sentence(reason: Any) -> str:
    """Why a channel or connection was closed, from what txAMQP gives."""
    if isinstance(reason, Failure):
        reason = reason.value
    if isinstance(reason, Closed) and reason.args:
        return _sentence(reason.args[0])
    if hasattr(reason, "reply_text"):
        return f"{_text(reason.reply_text)} ({reason.reply_code})"
    return str(reason) or type(reason).__name__
