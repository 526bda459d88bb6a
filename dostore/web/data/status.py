"""``/health/`` and ``/metrics`` of a data server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from attrs import frozen
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dostore.web.api.metrics import HttpMetrics
from dostore.web.problem import CONTENT_TYPE, RETRY_AFTER_S, problem
from dostore.web.request import Request
from dostore.web.resource import Resource

_JSON = (b"Content-Type", b"application/json")
_TEXT = (b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")


@frozen(slots=True)
class NodeStatus:
    """How a data server's drive is.

    :ivar readable: its shards can be read.
    :ivar writable: it takes shards.
    :ivar detail: a sentence about it.
    :ivar contents: how many contents have a shard there.
    :ivar free_bytes: how much more it can keep; None: not known.
    :ivar announced: the broker is there, so that others hear of this server.
    """

    readable: bool
    writable: bool
    detail: str
    contents: int
    free_bytes: int | None = None
    announced: bool = True


class Status:
    """What a supervisor and a Prometheus server ask.

    :param status: how the drive is now.
    """

    def __init__(self, status: Callable[[], NodeStatus], http: HttpMetrics) -> None:
        self._status = status
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(http)
        self._registry.register(_NodeMetrics(status))
        self.live = Resource("live", {b"GET": self.get_live, b"HEAD": self.get_live})
        self.ready = Resource("ready", {b"GET": self.get_ready, b"HEAD": self.get_ready})
        self.metrics = Resource("metrics", {b"GET": self.get_metrics, b"HEAD": self.get_metrics})

    async def get_live(self, request: Request, rest: bytes) -> None:
        """``GET /health/live``: the process runs and answers."""
        request.respond(200, [_JSON], b'{"live": true}\n')

    async def get_ready(self, request: Request, rest: bytes) -> None:
        """``GET /health/ready``: its shards can be read; the body says whether it takes any."""
        status = self._status()
        more = {
            "ready": status.readable,
            "writable": status.writable,
            "announced": status.announced,
        }
        if status.readable:
            body = json.dumps({**more, "detail": status.detail}).encode() + b"\n"
            request.respond(200, [_JSON], body)
        else:
            request.respond(
                503,
                [CONTENT_TYPE, (b"Retry-After", b"%d" % RETRY_AFTER_S)],
                problem(503, "Not ready", status.detail, **more),
            )

    async def get_metrics(self, request: Request, rest: bytes) -> None:
        """``GET /metrics``."""
        request.respond(200, [_TEXT], generate_latest(self._registry))


class _NodeMetrics(Collector):
    """How the drive is, as numbers."""

    def __init__(self, status: Callable[[], NodeStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        status = self._status()
        for name, text, value in (
            ("dostore_node_readable", "1: the node's shards can be read.", status.readable),
            ("dostore_node_writable", "1: the node takes shards.", status.writable),
            ("dostore_node_announced", "1: the broker is there.", status.announced),
            ("dostore_node_contents", "Contents with a shard here.", status.contents),
            ("dostore_node_free_bytes", "What the drive still takes.", status.free_bytes),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
