"""What the cluster asks of a broker: messages that may be lost, doubled or late, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import Attribute, Interface

#: The same complaint is made this often at most.
COMPLAINT_INTERVAL_S = 60.0


@frozen(slots=True)
class Delivery:
    """A message.

    :ivar reply_to: the queue for answers; empty when none is wanted.
    :ivar correlation_id: to be sent back with each answer; empty when there is none.
    """

    body: bytes
    headers: Mapping[str, Any] = field(factory=dict)
    reply_to: str = ""
    correlation_id: str = ""


class ISubscription(Interface):
    """Messages that one gets, as long as it is not closed."""

    queue: str = Attribute("The name of its queue, for answers; empty while there is none.")

    async def established() -> bool:
        """Return when there is a queue, or at once when it can't be: whether there is one."""

    def close() -> None:
        """No more messages. Idempotent."""


class IBus(Interface):
    """The broker, or what stands for it.

    Nothing here ever waits for the broker, and nothing fails when it is away.
    """

    connected: bool = Attribute("Messages go and come.")
    heard_at: float = Attribute("When anything came from the broker last, by the clock.")

    def subscribe(
        received: Callable[[Delivery], None],
        *,
        exchange: str = "",
        limit: int = 1000,
        keep_s: float = 10.0,
    ) -> ISubscription:
        """Have ``received(delivery)`` called for each message, over every reconnection.

        ``received`` may raise BadMessage: that is logged, seldom.

        :param exchange: whose messages to get; without, those sent to the queue itself.
        :param limit: how many may wait for a slow receiver; more push out the oldest.
        :param keep_s: how long they may.
        """

    def publish(
        exchange: str,
        body: bytes,
        *,
        queue: str = "",
        headers: Mapping[str, str] | None = None,
        reply_to: str = "",
        correlation_id: str = "",
    ) -> bool:
        """Send a message to all who subscribed to an exchange, or (exchange ``""``) to a queue.

        :returns: whether it was sent; when the broker is away or does not keep up, it is dropped.
        """

    def watch(changed: Callable[[bool], None]) -> None:
        """Have ``changed(connected)`` called whenever that changes."""


class Complaints:
    """Warnings of what others do wrong: each kind logged once, then at most once a minute."""

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._last: dict[str, float] = {}
        self._kept_back: dict[str, int] = {}

    def make(self, kind: str, detail: str) -> None:
        """Complain.

        :param kind: what is wrong, in general: there are few.
        :param detail: what is wrong this time.
        """
        now = self._clock.seconds()
        if kind in self._last and now - self._last[kind] < COMPLAINT_INTERVAL_S:
            self._kept_back[kind] = self._kept_back.get(kind, 0) + 1
            return
        self._last[kind] = now
        more = self._kept_back.pop(kind, 0)
        self._log.warn(
            "{kind}: {detail}" + (" ({more} more like it before)" if more else ""),
            kind=kind,
            detail=detail,
            more=more,
        )
