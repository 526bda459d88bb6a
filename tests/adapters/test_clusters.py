"""The promises of ICluster, kept by drives and by data servers on a real RabbitMQ."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.task import Clock

from dostore.adapters.cluster_amqp import AmqpCluster
from dostore.adapters.drive_watch import WATCH_INTERVAL_S
from dostore.adapters.drives import DriveSet
from dostore.ports import ICluster
from tests.contract.cluster import ClusterContract
from tests.support.broker import BrokerCase, DataServer
from tests.support.cases import AsyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample
from tests.support.workers import InlineWorkers


class DriveSetContractTests(ClusterContract, AsyncTestCase):
    """Six folders."""

    def setUp(self) -> None:
        """A clock by hand."""
        super().setUp()
        self.clock = Clock()

    async def make_cluster(self) -> ICluster:
        """See ClusterContract."""
        root = os.path.abspath(self.mktemp())
        os.mkdir(root)
        drives = DriveSet(
            [os.path.join(root, str(number)) for number in range(1, 7)],
            SCHEME,
            files=FaultyFiles(durable=False),
            make_workers=lambda name, size: InlineWorkers(),
            clock=self.clock,
            now=self.clock.seconds,
        )
        await drives.start()
        self.addCleanup(drives.stop)
        return drives

    def folder(self, cluster: ICluster, address: str) -> str:
        """A drive's folder."""
        assert isinstance(cluster, DriveSet)
        return next(d.folder for d in cluster.drives if d.node.address == address)

    async def keep(self, cluster: ICluster, what: Sample, index: int, address: str) -> None:
        """See ClusterContract."""
        node = next(m.node for m in cluster.members() if m.address == address)
        await node.put(what.content, index, what.shards[index])

    async def take_away(self, cluster: ICluster, address: str) -> None:
        """See ClusterContract: the folder is not there."""
        folder = self.folder(cluster, address)
        os.rename(folder, folder + ".away")
        self.clock.advance(WATCH_INTERVAL_S)

    async def bring_back(self, cluster: ICluster, address: str) -> None:
        """See ClusterContract."""
        folder = self.folder(cluster, address)
        os.rename(folder + ".away", folder)

    async def noticed(self, what: str, holds: Callable[[], object]) -> None:
        """See ClusterContract: time passes until then."""
        for _ in range(10):
            if holds():
                return
            self.clock.advance(WATCH_INTERVAL_S)
        self.fail(f"in vain until {what}")


class AmqpClusterContractTests(ClusterContract, BrokerCase):
    """Six data servers, each with a connection of its own."""

    async def make_cluster(self) -> ICluster:
        """See ClusterContract."""
        self.servers: dict[str, DataServer] = {}
        for number in range(1, 7):
            address = f"10.29.1.{number}:12345"
            self.servers[address] = self.data_server(address)
        cluster = await self.api_server()
        await self.until("all are there", lambda: len(cluster.members()) == 6)
        return cluster

    async def keep(self, cluster: ICluster, what: Sample, index: int, address: str) -> None:
        """See ClusterContract."""
        self.node(address).shards.setdefault(what.content.hash, set()).add(index)

    async def take_away(self, cluster: ICluster, address: str) -> None:
        """See ClusterContract: its process ends, and it takes no connection."""
        assert isinstance(cluster, AmqpCluster)
        await self.servers.pop(address).stop()
        self.node(address).down = True
        cluster.suspect(address)

    async def bring_back(self, cluster: ICluster, address: str) -> None:
        """See ClusterContract."""
        self.node(address).down = False
        self.servers[address] = self.data_server(address)

    async def noticed(self, what: str, holds: Callable[[], object]) -> None:
        """See ClusterContract."""
        await self.until(what, holds)
