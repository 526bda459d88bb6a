"""The process of an API server that accepts connections, and has others serve some of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from dostore.app.handing import HandOut
from dostore.app.supervisor import Supervisor
from dostore.web.api.metrics import Metrics
from dostore.web.connections import Connections


class Front:
    """See server.Others.

    :param metrics: what answers ``/metrics``, for all processes, once this one has started.
    """

    def __init__(
        self, supervisor: Supervisor, metrics: Callable[[], Metrics | None], reactor: Any
    ) -> None:
        self._metrics = metrics
        self._supervisor = supervisor
        self._reactor = reactor

    def share(self, connections: Connections) -> IProtocolFactory:
        """See server.Others."""
        supervisor = self._supervisor
        hand_out = HandOut(connections, supervisor.workers)
        supervisor.start(partial(hand_out.come_back, self._reactor))
        metrics = self._metrics()
        if metrics is not None:
            metrics.others = supervisor.counts
            metrics.workers = self._workers
        shared: IProtocolFactory = hand_out
        return shared

    def _workers(self) -> tuple[int, int]:
        """How many processes serve, and how many should, this one included."""
        return 1 + self._supervisor.alive, 1 + len(self._supervisor.workers)

    async def stop(self, grace_s: float) -> None:
        """See server.Others."""
        await self._supervisor.stop(grace_s)
