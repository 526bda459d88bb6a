"""A data server's side of the broker: it tells that it is there, and what it has when asked."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from dostore.adapters.bus import Delivery, IBus
from dostore.background import Background
from dostore.core.messages import (
    API_SERVERS,
    DATA_SERVERS,
    NOTHING,
    Heartbeat,
    LocateReply,
    check_reply_queue,
    parse_request,
)
from dostore.core.names import ContentHash
from dostore.errors import NodeUnavailable

_log = Logger()

#: A heartbeat is published this often.
HEARTBEAT_S = 5.0

#: However often it is asked for, no more often than this.
LEAST_INTERVAL_S = 0.5


class Announcer:
    """Publishes heartbeats and answers locates.

    It is made before ``bus`` connects, and lives as long.

    :param describe: the heartbeat of this moment, always of one address; it must not block. While
    it
        raises NodeUnavailable there is none, so that others soon take the server for away.
    :param held: the shards here of a content; it must not block. While it raises NodeUnavailable,
        locates are not answered: who asks then asks directly.
    """

    def __init__(
        self,
        bus: IBus,
        describe: Callable[[], Heartbeat],
        held: Callable[[ContentHash], Collection[int]],
        clock: IReactorTime,
    ) -> None:
        self._bus = bus
        self._describe = describe
        self._held = held
        self._clock = clock
        self._address = describe().address
        self._background = Background("dostore.announcer")
        self._started = False
        self._last = float("-inf")
        self._due: IDelayedCall | None = None
        bus.subscribe(self._request, exchange=DATA_SERVERS, limit=10_000, keep_s=2.0)
        bus.watch(self._broker)

    def start(self) -> None:
        """Begin: a heartbeat now, or as soon as the broker is there, and then regularly."""
        self._started = True
        self._background.periodic("heartbeat", HEARTBEAT_S, self._beat, self._clock)
        self._publish()

    async def stop(self) -> None:
        """No more heartbeats."""
        self._started = False
        if self._due is not None:
            self._due.cancel()
            self._due = None
        await self._background.stop(self._clock, 0.0)

    def beat(self) -> None:
        """Publish a heartbeat now, for something has changed, or very soon after the last one."""
        if not self._started:
            return
        wait_s = self._last + LEAST_INTERVAL_S - self._clock.seconds()
        if wait_s <= 0:
            self._publish()
        elif self._due is None:
            self._due = self._clock.callLater(wait_s, self._publish_due)

    def _publish_due(self) -> None:
        self._due = None
        self._publish()

    def _publish(self) -> None:
        try:
            heartbeat = self._describe()
        except NodeUnavailable as error:
            _log.debug("There is no heartbeat: {error}", error=error)
            return
        if self._bus.publish(API_SERVERS, heartbeat.body(), headers=heartbeat.headers()):
            self._last = self._clock.seconds()

    async def _beat(self) -> None:
        self._publish()

    def _broker(self, connected: bool) -> None:
        if connected and self._started:
            self._publish()

    def _request(self, delivery: Delivery) -> None:
        wanted = parse_request(delivery.body)
        if wanted is None:
            self.beat()
        elif delivery.reply_to:
            self._answer(wanted, delivery)

    def _answer(self, wanted: ContentHash, delivery: Delivery) -> None:
        queue = check_reply_queue(delivery.reply_to)
        try:
            held = sorted(self._held(wanted))
        except NodeUnavailable as error:
            _log.debug("A locate is not answered: {error}", error=error)
            return
        if not held and delivery.correlation_id:
            # A Go API server gives no correlation id, and takes every answer for a shard.
            held = [NOTHING]
        for index in held:
            reply = LocateReply(self._address, index, len(held))
            self._bus.publish(
                "",
                reply.body(),
                queue=queue,
                headers=reply.headers(),
                correlation_id=delivery.correlation_id,
            )
