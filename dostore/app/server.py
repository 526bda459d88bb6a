"""What every dostore server does around its parts: start, listen, say so, drain, stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore import __version__
from dostore.errors import DostoreError
from dostore.fanout import gather
from dostore.threads import Mailbox, Workers
from dostore.web.connections import Connections

_log = Logger(namespace="dostore")

#: Hashing and coding of large pieces: as many threads as cores, and one to keep them busy.
COMPUTE_THREADS = (os.cpu_count() or 1) + 1

#: Thousands of clients may come back at once after a restart.
_BACKLOG = 1024


@frozen(slots=True)
class Listen:
    """Where a server listens, and how long its requests may go on after it was told to stop."""

    host: str
    port: int
    grace_s: float


class Parts(Protocol):
    """What a server is made of."""

    async def start(self) -> Connections:
        """Start everything; what answers the requests."""

    async def stop(self) -> None:
        """Stop what was started, however far that got. No request is under way any more."""

    def describe(self) -> str:
        """What is served here, for the log."""


class Others(Protocol):
    """Other processes that serve on the port of this one."""

    def share(self, connections: Connections) -> IProtocolFactory:
        """Start them; what gives each process its share of new connections.

        :param connections: those of this process.
        """

    async def stop(self, grace_s: float) -> None:
        """End them; requests under way may go on for so long."""


class Threads:
    """The worker threads of a process."""

    def __init__(self, reactor: Any) -> None:
        self.mailbox = Mailbox(reactor.callFromThread)
        self._workers: list[Workers] = []

    def make(self, name: str, size: int) -> Workers:
        """Workers that end with the process."""
        workers = Workers(self.mailbox, name, size)
        self._workers.append(workers)
        return workers

    def stop(self) -> None:
        """Take no more jobs. A thread that hangs on a drive dies with the process."""
        for workers in self._workers:
            workers.stop(0.0)


class Server(Service):
    """One process: its parts and the port, started and stopped in order.

    :param serving: called as soon as requests are answered.
    :param others: the other processes that serve on the same port.
    """

    def __init__(
        self,
        name: str,
        parts: Parts,
        listen: Listen,
        threads: Threads,
        reactor: Any,
        serving: Callable[[], None] = lambda: None,
        others: Others | None = None,
    ) -> None:
        self.name = name
        self._parts = parts
        self._listen = listen
        self._threads = threads
        self._reactor = reactor
        self._serving = serving
        self._others = others
        self._connections: Connections | None = None
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Begin to start; a failure stops the process with exit status 1."""
        super().startService()  # type: ignore[no-untyped-call]
        starting = Deferred.fromCoroutine(self._start())
        _ = starting.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, (DostoreError, CannotListenError, OSError)):
            _log.critical("{name} cannot start: {error}", name=self.name, error=failure.value)
        else:
            _log.failure("{name} cannot start", failure, name=self.name)
        # twistd has no way to be told an exit status; what is there is stopped first all the same.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    async def _start(self) -> None:
        began = time.monotonic()
        connections = self._connections = await self._parts.start()
        factory: IProtocolFactory = connections
        if self._others is not None:
            factory = self._others.share(connections)
        kind: Any = TCP6ServerEndpoint if ":" in self._listen.host else TCP4ServerEndpoint
        endpoint = kind(self._reactor, self._listen.port, _BACKLOG, self._listen.host)
        port: IListeningPort = await endpoint.listen(factory)
        self._port = port
        where: Any = port.getHost()
        _log.info(
            "{name} {version} listens on {host}:{port}; {what}; started in {seconds:.2f} s",
            name=self.name,
            version=__version__,
            host=where.host,
            port=where.port,
            what=self._parts.describe(),
            seconds=time.monotonic() - began,
        )
        self._serving()

    def stopService(self) -> Deferred[None]:
        """Refuse, drain, close; fires when all of it is done."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            closing: Deferred[None] | None = self._port.stopListening()
            if closing is not None:
                await closing
        grace_s = self._listen.grace_s
        began = time.monotonic()
        ending: list[Coroutine[Any, Any, object]] = []
        if self._connections is not None:
            ending.append(self._connections.drain(grace_s))
        if self._others is not None:
            ending.append(self._others.stop(grace_s))
        for outcome in await gather(ending):
            if outcome.error is not None:
                _log.failure("{name} does not end well", Failure(outcome.error), name=self.name)
        if self._others is not None and self._connections is not None:
            # What they gave back at last.
            await self._connections.drain(max(0.0, grace_s - (time.monotonic() - began)))
        await self._parts.stop()
        self._threads.stop()
        _log.info("{name} is stopped", name=self.name)
