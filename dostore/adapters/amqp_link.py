"""IBus on RabbitMQ: one connection, made again whenever it is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.adapters.amqp_client import AmqpClient, ConnectionRefused
from dostore.adapters.bus import Complaints, Delivery, IBus, ISubscription
from dostore.background import Background
from dostore.core.broker_url import BrokerUrl
from dostore.core.messages import API_SERVERS, DATA_SERVERS
from dostore.errors import BadMessage
from dostore.fanout import with_timeout

_log = Logger()

#: A broker that is not ready for messages this long after it took the connection is given up.
OPEN_TIMEOUT_S = 10.0

#: A broker that is silent for twice as long is given up.
HEARTBEAT_S = 3

#: The wait after the first failure; it doubles up to the longest. Of each, half is left to chance.
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0

_LEAVE_TIMEOUT_S = 1.0


@implementer(ISubscription)
class _Subscription:
    """A queue that is declared anew with each connection."""

    def __init__(
        self,
        link: AmqpLink,
        tag: str,
        received: Callable[[Delivery], None],
        exchange: str,
        limit: int,
        keep_ms: int,
    ) -> None:
        self.queue = ""
        self.tag = tag
        self.received = received
        self.closed = False
        self._link = link
        self._exchange = exchange
        self._limit = limit
        self._keep_ms = keep_ms
        self._waiters: list[Deferred[bool]] = []

    async def establish(self, client: AmqpClient) -> None:
        """Have a queue on a new connection."""
        queue = await client.consume(self.tag, self._exchange, self._limit, self._keep_ms)
        if self.closed:
            client.cancel(self.tag)
        else:
            self.queue = queue
        self._tell()

    def lost(self) -> None:
        """The queue ended with its connection."""
        self.queue = ""
        self._tell()

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(bool(self.queue))

    async def established(self) -> bool:
        """See ISubscription."""
        if self.queue or self.closed or not self._link.connected:
            return bool(self.queue)
        waiter: Deferred[bool] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        return await waiter

    def close(self) -> None:
        """See ISubscription."""
        if not self.closed:
            self.closed = True
            self._link.drop(self)
            self.lost()


@implementer(IBus)
class AmqpLink:
    """A connection to a RabbitMQ.

    Its user needs to declare and use the exchanges of the cluster and queues with names that the
    broker makes (``amq.gen-…``).

    :ivar connected: see IBus. Every exchange and subscription is there again when it becomes true.
    :param endpoint: where ``url`` points to; it has a time-out of its own.
    :param name: what the broker shows the connection as.
    :param chance: a number from 0 to 1, so that not all servers come back at the same moment.
    """

    def __init__(
        self,
        url: BrokerUrl,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        *,
        name: str = "dostore",
        heartbeat_s: int = HEARTBEAT_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.connected = False
        self._url = url
        self._endpoint = endpoint
        self._clock = clock
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._chance = chance
        self._background = Background("dostore.broker")
        self._complaints = Complaints(_log, clock)
        self._client: AmqpClient | None = None
        self._heard_at = clock.seconds()
        self._subscriptions: dict[str, _Subscription] = {}
        self._tags = 0
        self._watchers: list[Callable[[bool], None]] = []
        self._pause: Deferred[None] | None = None
        self._stopping = False
        self._away_since = clock.seconds()

    # IBus

    @property
    def heard_at(self) -> float:
        """See IBus. What comes of a connection that is only being made does not count."""
        if self._client is not None and self.connected:
            return self._client.heard_at
        return self._heard_at

    def subscribe(
        self,
        received: Callable[[Delivery], None],
        *,
        exchange: str = "",
        limit: int = 1000,
        keep_s: float = 10.0,
    ) -> ISubscription:
        """See IBus."""
        self._tags += 1
        made = _Subscription(self, str(self._tags), received, exchange, limit, round(keep_s * 1000))
        self._subscriptions[made.tag] = made
        if self._client is not None and self.connected:
            self._background.run("subscribe", self._add(made, self._client))
        return made

    async def _add(self, made: _Subscription, client: AmqpClient) -> None:
        try:
            await made.establish(client)
        except ConnectionRefused as error:
            # The queue comes with the next connection.
            client.give_up(str(error))

    def drop(self, subscription: _Subscription) -> None:
        """Forget a subscription that is closed."""
        del self._subscriptions[subscription.tag]
        if self._client is not None and subscription.queue:
            self._client.cancel(subscription.tag)

    def publish(
        self,
        exchange: str,
        body: bytes,
        *,
        queue: str = "",
        headers: Mapping[str, str] | None = None,
        reply_to: str = "",
        correlation_id: str = "",
    ) -> bool:
        """See IBus."""
        if self._client is None or not self.connected:
            return False
        message = Delivery(body, headers or {}, reply_to, correlation_id)
        sent = self._client.publish(exchange, queue, message)
        if not sent:
            self._complaints.make("The broker does not keep up", "a message to it was dropped")
        return sent

    def watch(self, changed: Callable[[bool], None]) -> None:
        """See IBus."""
        self._watchers.append(changed)

    # Messages

    def _arrived(self, tag: str, message: Delivery | BadMessage) -> None:
        if isinstance(message, BadMessage):
            self._complaints.make("A message was dropped", message.detail)
            return
        subscription = self._subscriptions.get(tag)
        if subscription is not None:
            # Whatever one message does, the next one is received.
            taken = maybeDeferred(subscription.received, message)
            _ = taken.addErrback(self._not_taken)

    def _not_taken(self, failure: Failure) -> None:
        if isinstance(failure.value, BadMessage):
            self._complaints.make("A message was dropped", failure.value.detail)
        else:
            _log.failure("A message could not be dealt with", failure)

    # The connection

    def start(self) -> None:
        """Connect, and again whenever the connection is lost, until :meth:`stop`."""
        self._away_since = self._clock.seconds()
        self._background.run("stay connected", self._stay_connected())

    async def stop(self) -> None:
        """Disconnect, and return when that is done."""
        self._stopping = True
        if self._pause is not None:
            self._pause.cancel()
        client = self._client
        if client is not None and self.connected:
            self._heard_at = self.heard_at
            self._set_connected(False)
            await self._leave(client)
        if client is not None:
            client.give_up("it is not needed any more")
        await self._background.stop(self._clock, 0.0)

    async def _leave(self, client: AmqpClient) -> None:
        try:
            await with_timeout(
                client.leave(), _LEAVE_TIMEOUT_S, self._clock, lambda: ConnectionRefused("silence")
            )
        except ConnectionRefused as error:
            _log.info("The broker did not say goodbye: {error}", error=error)

    async def _stay_connected(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping:
            since = self._clock.seconds()
            try:
                reason = await self._connection()
            except (ConnectError, ConnectingCancelledError, ConnectionRefused, OSError) as error:
                reason = str(error) or type(error).__name__
            self._disconnected(reason)
            if self._clock.seconds() - since > LONGEST_WAIT_S:
                wait_s = FIRST_WAIT_S
            if not self._stopping:
                await self._wait(wait_s * (0.5 + self._chance() / 2))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _wait(self, seconds: float) -> None:
        self._pause = deferLater(self._clock, seconds)
        try:
            await self._pause
        finally:
            self._pause = None

    async def _connection(self) -> str:
        """One connection, from its first to its last moment; why it ended."""
        factory = Factory.forProtocol(
            partial(
                AmqpClient, self._url, self._name, self._clock, self._heartbeat_s, self._arrived
            )
        )
        factory.noisy = False
        client = cast(AmqpClient, await self._endpoint.connect(factory))
        self._client = client
        try:
            await with_timeout(
                self._open(client),
                OPEN_TIMEOUT_S,
                self._clock,
                lambda: ConnectionRefused(f"no answer in {OPEN_TIMEOUT_S:g} s"),
            )
            _log.info(
                "Connected to the broker {url} after {seconds:.3f} s",
                url=str(self._url),
                seconds=self._clock.seconds() - self._away_since,
            )
            self._set_connected(True)
            return await client.gone
        finally:
            client.give_up("it is not needed any more")

    async def _open(self, client: AmqpClient) -> None:
        await client.open()
        for exchange in (API_SERVERS, DATA_SERVERS):
            await client.declare_fanout(exchange)
        for subscription in list(self._subscriptions.values()):
            await subscription.establish(client)

    def _disconnected(self, reason: str) -> None:
        self._heard_at = self.heard_at
        self._client = None
        if self.connected:
            self._away_since = self._clock.seconds()
        if not self._stopping:
            self._complaints.make(f"The broker {self._url} is away", reason)
        for subscription in list(self._subscriptions.values()):
            subscription.lost()
        self._set_connected(False)

    def _set_connected(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            for changed in list(self._watchers):
                changed(connected)
