"""A data server over a drive, on loopback and in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.http_link import HttpLink
from dostore.adapters.node_http import HttpNode
from dostore.adapters.node_local import DriveNode, DriveState
from dostore.core.signing import Signer
from dostore.http.pool import HttpPool
from dostore.ports import IWorkers
from dostore.web.connections import Connections, HttpLimits
from dostore.web.data.site import build_factory
from dostore.web.data.status import NodeStatus
from tests.support.cases import AsyncTestCase
from tests.support.ports import free_port
from tests.support.workers import InlineWorkers

the_reactor: Any = reactor


class DataServer:
    """One data server.

    :ivar node: the drive behind it.
    :param clock: for its connections' time-outs.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        files: Files | None = None,
        workers: IWorkers | None = None,
        clock: IReactorTime | None = None,
        now: Callable[[], float] = time.time,
        secret: bytes | None = None,
        limits: HttpLimits | None = None,
        compression_level: int | None = None,
        pack_below: int = 0,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.workers = workers or InlineWorkers()
        store = DriveStore(
            str(self.folder),
            files or Files(),
            compression_level=compression_level,
            pack_below=pack_below,
        )
        store.prepare()
        self.temp_files_removed = store.clean_temp()
        self._clock = clock or the_reactor
        self.node = DriveNode("127.0.0.1:0", store, self.workers, clock=self._clock, now=now)
        self.node.come(*store.scan())
        self.temp = self.node.temps
        self.now = now
        self.secret = secret
        self._limits = limits
        self._port: Any = None
        self.factory: Connections | None = None

    def build(self) -> Connections:
        """The factory, for the address that the node has now."""
        self.factory = build_factory(
            self.node,
            self.temp,
            status=self.status,
            workers=self.workers,
            clock=self._clock,
            now=self.now,
            secret=self.secret,
            limits=self._limits,
            whole_now=self.node.whole_now,
        )
        return self.factory

    def status(self) -> NodeStatus:
        """How the drive is."""
        state = self.node.state
        return NodeStatus(
            state is not DriveState.AWAY, state is DriveState.LIVE, self.node.reason, 0
        )

    def listen(self, port: int = 0) -> None:
        """Begin to serve."""
        # The address is part of what is signed, so it must be known before.
        if port == 0:
            port = free_port()
        self.node.address = f"127.0.0.1:{port}"
        self._port = the_reactor.listenTCP(port, self.build(), 1024, "127.0.0.1")

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.node.address

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._port is not None:
            await self._port.stopListening()
            self._port = None
        if self.factory is not None:
            await self.factory.drain(0.0)

    def names(self, folder: str) -> list[str]:
        """What is in a folder of the drive."""
        return sorted(os.listdir(self.folder / folder))


class DataServerCase(AsyncTestCase):
    """A test with data servers and clients of them; nothing of either may be left at its end."""

    def setUp(self) -> None:
        """One pool of connections for all clients."""
        super().setUp()
        self.pool = HttpPool(the_reactor)
        self.servers: list[DataServer] = []
        self.troubles: list[str] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self._close()))

    async def _close(self) -> None:
        # The last answer may be in the middle of being delivered to the test.
        await deferLater(the_reactor, 0)
        await self.pool.close()
        for server in self.servers:
            await server.stop()

    def serve(self, folder: str | os.PathLike[str] | None = None, **how: Any) -> DataServer:
        """A data server that listens."""
        path = Path(folder or self.mktemp())
        path.mkdir(parents=True, exist_ok=True)
        server = DataServer(path, **how)
        server.listen()
        self.servers.append(server)
        return server

    def client(
        self,
        address: str,
        *,
        secret: bytes | None = None,
        clock: IReactorTime | None = None,
        now: Callable[[], float] = time.time,
    ) -> HttpNode:
        """A node at that address."""
        link = HttpLink(
            address,
            self.pool,
            signer=None if secret is None else Signer(secret),
            clock=clock or the_reactor,
            now=now,
            on_trouble=self.troubles.append,
            on_refused=self.troubles.append,
        )
        return HttpNode(link)
