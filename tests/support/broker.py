"""Tests on a real RabbitMQ: links, data servers that only know what they have, and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from dostore.adapters.amqp_link import AmqpLink
from dostore.adapters.announcer_amqp import Announcer
from dostore.adapters.cluster_amqp import AmqpCluster
from dostore.core.broker_url import parse_broker_url
from dostore.core.messages import Heartbeat
from dostore.core.names import ContentHash
from tests.support.amqp_wire import WireClient
from tests.support.cases import AsyncTestCase
from tests.support.nodes import KnowingNode
from tests.support.rabbitmq_server import RabbitmqServer, own_rabbitmq, rabbitmq

CLOCK = cast(IReactorTime, reactor)

_POLL_S = 0.01


class DataServer:
    """A data server without an HTTP API: its announcements, on a connection of its own."""

    def __init__(self, link: AmqpLink, node: KnowingNode, zone: str = "") -> None:
        self.link = link
        self.node = node
        self.heartbeat = Heartbeat(node.address, zone)
        self.announcer = Announcer(link, lambda: self.heartbeat, node.held, CLOCK)

    def start(self) -> None:
        """Connect and announce."""
        self.link.start()
        self.announcer.start()

    async def stop(self) -> None:
        """Leave, without a word."""
        await self.announcer.stop()
        await self.link.stop()


class BrokerCase(AsyncTestCase):
    """A test on the broker of the run, or on one of its own."""

    def setUp(self) -> None:
        """The broker is there, and what is logged is kept."""
        super().setUp()
        self.url = self.broker_url()
        self.nodes: dict[str, KnowingNode] = {}
        self.kept_lines: list[str] = []
        observer = cast(ILogObserver, self._keep)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def broker_url(self) -> str:
        """Where the broker is."""
        return rabbitmq()

    def _keep(self, event: LogEvent) -> None:
        self.kept_lines.append(formatEvent(event) + str(event.get("log_failure", "")))

    def log_lines(self, words: str) -> list[str]:
        """What was logged with such words."""
        return [line for line in self.kept_lines if words in line]

    # What a test begins with. All of it is stopped at its end.

    def link(self, url: str = "", **how: Any) -> AmqpLink:
        """A link that is not started."""
        at = parse_broker_url(url or self.url)
        endpoint = HostnameEndpoint(reactor, at.host.encode(), at.port, timeout=5)
        made = AmqpLink(at, endpoint, CLOCK, **how)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    async def connected(self, link: AmqpLink) -> AmqpLink:
        """Start a link and wait for its connection."""
        link.start()
        await self.until("the link is connected", lambda: link.connected)
        return link

    def node(self, address: str) -> KnowingNode:
        """The node at an address."""
        return self.nodes.setdefault(address, KnowingNode(address))

    async def api_server(self, shards: int = 6) -> AmqpCluster:
        """A cluster on a link that is connected."""
        link = self.link()
        cluster = AmqpCluster(link, self.node, shards, CLOCK)
        self.addCleanup(lambda: Deferred.fromCoroutine(cluster.stop()))
        await self.connected(link)
        return cluster

    def data_server(self, address: str, zone: str = "") -> DataServer:
        """A data server that is started."""
        server = DataServer(self.link(), self.node(address), zone)
        self.addCleanup(lambda: Deferred.fromCoroutine(server.announcer.stop()))
        server.start()
        return server

    def locate(self, cluster: AmqpCluster, content_hash: ContentHash) -> Deferred[Any]:
        """Begin to locate."""
        return Deferred.fromCoroutine(cluster.locate(content_hash))

    def asked(self) -> int:
        """How many times nodes were asked directly."""
        return sum(node.asked for node in self.nodes.values())

    async def locates_by_broker(
        self, cluster: AmqpCluster, content_hash: ContentHash, places: object
    ) -> None:
        """A locate finds ``places``, and soon one that needs the broker only.

        A node that has other messages to get through first may be asked directly before.
        """
        deadline = CLOCK.seconds() + 20
        while CLOCK.seconds() < deadline:
            asked = self.asked()
            self.assertEqual(await cluster.locate(content_hash), places)
            if self.asked() == asked:
                return
        self.fail("no node answers over the broker")

    async def wire(self, url: str = "") -> WireClient:
        """Somebody else on the broker; its methods block, see :meth:`blocking`."""
        made = await self.blocking(WireClient.connect, url or self.url)
        self.addCleanup(made.close)
        return cast(WireClient, made)

    async def blocking(self, function: Callable[..., Any], *args: Any, **how: Any) -> Any:
        """What a function returns that blocks."""
        return await deferToThread(function, *args, **how)

    async def until(self, what: str, holds: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Wait until ``holds()`` is true."""
        deadline = CLOCK.seconds() + timeout_s
        while not holds():
            if CLOCK.seconds() > deadline:
                self.fail(f"waited {timeout_s:g} s in vain until {what}")
            await self.pause(_POLL_S)

    async def pause(self, seconds: float) -> None:
        """Let the reactor work."""
        await deferLater(CLOCK, seconds)


class OwnBrokerCase(BrokerCase):
    """A test on a broker of its own, which it may stop.

    :ivar server: the broker; its methods block, see :meth:`blocking`.
    """

    timeout = 180

    def broker_url(self) -> str:
        """Start it."""
        self.server: RabbitmqServer = own_rabbitmq()
        self.addCleanup(self.server.stop)
        self.server.start()
        return self.server.url
