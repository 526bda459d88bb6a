"""A broker in memory: what is published waits until a test delivers it, once, twice or never."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from dostore.adapters.bus import Delivery, IBus, ISubscription
from dostore.errors import BadMessage


@implementer(ISubscription)
@define(eq=False)
class MemorySubscription:
    """A queue."""

    bus: MemoryBus
    received: Callable[[Delivery], None]
    exchange: str
    name: str
    closed: bool = False

    @property
    def queue(self) -> str:
        """See ISubscription."""
        return self.name if self.bus.connected and not self.closed else ""

    async def established(self) -> bool:
        """See ISubscription."""
        return bool(self.queue)

    def close(self) -> None:
        """See ISubscription."""
        self.closed = True


@define
class Message:
    """A message on its way."""

    exchange: str
    queue: str
    delivery: Delivery


class MemoryBroker:
    """Joins the buses of one test.

    :ivar waiting: what was published and not yet delivered.
    :ivar sent: all that was ever published.
    :ivar refused: the errors of receivers.
    :ivar copies: how often each message is delivered.
    :ivar stopped: as after SIGSTOP, it takes messages, but nothing comes from it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.buses: list[MemoryBus] = []
        self.waiting: list[Message] = []
        self.sent: list[Message] = []
        self.refused: list[BadMessage] = []
        self.copies = 1
        self.stopped = False

    def bus(self) -> MemoryBus:
        """A connection that is not yet up."""
        made = MemoryBus(self, self.clock)
        self.buses.append(made)
        return made

    def deliver(self) -> None:
        """Deliver all, and what is published meanwhile."""
        while self.waiting and not self.stopped:
            message = self.waiting.pop(0)
            for _ in range(self.copies):
                self._deliver(message)

    def _deliver(self, message: Message) -> None:
        for bus in self.buses:
            for subscription in list(bus.subscriptions):
                wanted = (
                    subscription.exchange == message.exchange
                    if message.exchange
                    else subscription.queue == message.queue
                )
                if wanted and subscription.queue:
                    bus.heard_at = self.clock.seconds()
                    try:
                        subscription.received(message.delivery)
                    except BadMessage as error:
                        self.refused.append(error)


@implementer(IBus)
class MemoryBus:
    """One's connection to a broker in memory."""

    def __init__(self, broker: MemoryBroker, clock: IReactorTime) -> None:
        self.connected = False
        self.subscriptions: list[MemorySubscription] = []
        self._broker = broker
        self._clock = clock
        self._heard_at = clock.seconds()
        self._watchers: list[Callable[[bool], None]] = []

    @property
    def heard_at(self) -> float:
        """See IBus: a broker that lives is heard all the time."""
        if self.connected and not self._broker.stopped:
            self._heard_at = self._clock.seconds()
        return self._heard_at

    @heard_at.setter
    def heard_at(self, value: float) -> None:
        self._heard_at = value

    def connect(self, connected: bool = True) -> None:
        """The connection is there, or gone."""
        self._heard_at = self.heard_at
        self.connected = connected
        for changed in list(self._watchers):
            changed(connected)

    def subscribe(
        self,
        received: Callable[[Delivery], None],
        *,
        exchange: str = "",
        limit: int = 1000,
        keep_s: float = 10.0,
    ) -> ISubscription:
        """See IBus."""
        name = f"queue-{id(self)}-{len(self.subscriptions)}"
        made = MemorySubscription(self, received, exchange, name)
        self.subscriptions.append(made)
        return made

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
        if self.connected:
            delivery = Delivery(body, dict(headers or {}), reply_to, correlation_id)
            message = Message(exchange, queue, delivery)
            self._broker.waiting.append(message)
            self._broker.sent.append(message)
        return self.connected

    def watch(self, changed: Callable[[bool], None]) -> None:
        """See IBus."""
        self._watchers.append(changed)
