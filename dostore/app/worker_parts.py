"""What a worker is made of, by the shape of the store."""

from __future__ import annotations

from typing import Any

from dostore.app.clustered import Clustered
from dostore.app.config import Config
from dostore.app.reader import Reader
from dostore.app.server import Threads
from dostore.app.worker import Front, Parts
from dostore.web.api.counts import Counts
from dostore.web.connections import Connections
from dostore.web.request import Request

#: Only the front looks through the whole store and counts for all processes.
_OF_ALL = frozenset((b"/metrics", b"/health/ready"))


def make(
    config: Config, descriptor: int | None, threads: Threads, front: Front, reactor: Any
) -> Parts:
    """The parts of a worker."""
    if config.cluster is None:
        assert descriptor is not None, "the front has a table of writes"
        return Reader(config, descriptor, threads, front, reactor)
    return ClusterWorker(config, threads, reactor)


class ClusterWorker:
    """One more API server of a cluster."""

    def __init__(self, config: Config, threads: Threads, reactor: Any) -> None:
        assert config.cluster is not None, "its shape is that of a cluster"
        self._parts = Clustered(config, config.cluster, threads, reactor, worker=True)

    async def start(self) -> Connections:
        """See worker.Parts."""
        return await self._parts.start()

    async def stop(self) -> None:
        """See worker.Parts."""
        await self._parts.stop()

    def counts(self) -> Counts:
        """See worker.Parts."""
        return Counts() if self._parts.api is None else self._parts.api.counts()

    def keeps(self, request: Request) -> bool:
        """See worker.Parts."""
        return request.path not in _OF_ALL

    def receive(self, data: bytes) -> None:
        """See worker.Parts."""
        raise ValueError("a message of no kind that there is")
