"""``/metrics``: what a Prometheus server scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

import attrs
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dostore.service.objects import ObjectStore, Readiness
from dostore.web.connections import Connections
from dostore.web.request import Request
from dostore.web.resource import Resource

_CONTENT_TYPE = (b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")

_METHODS = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"POST"))

#: Upper bounds of a request's duration, in seconds.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class HttpMetrics(Collector):
    """Counts requests: a few dictionary operations each, and the rest at a scrape.

    :param seconds: the clock that requests' ``started`` is read from.
    :ivar connections: whose requests they are.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.connections: Connections | None = None
        self._seconds = seconds
        self._requests: Counter[tuple[bytes, str, int]] = Counter()
        self._durations: dict[tuple[bytes, str], list[int]] = {}
        self._duration_sums: Counter[tuple[bytes, str]] = Counter()
        self._bytes_in = 0
        self._bytes_out = 0

    def observe(self, request: Request) -> None:
        """A request was answered, or its client is gone."""
        method = request.method if request.method in _METHODS else b"other"
        # An answer that was cut counts as none, whatever its status had promised.
        status = request.status // 100 if request.answered else 0
        self._requests[method, request.route, status] += 1
        self._bytes_in += request.body.received
        self._bytes_out += request.bytes_sent
        seconds = max(0.0, self._seconds() - request.started)
        key = (method, request.route)
        buckets = self._durations.get(key)
        if buckets is None:
            buckets = self._durations[key] = [0] * (len(_BUCKETS_S) + 1)
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._duration_sums[key] += seconds  # type: ignore[assignment]

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        requests = CounterMetricFamily(
            "dostore_http_requests",
            "Requests by class of status; none: the connection ended before the answer did.",
            labels=("method", "route", "status"),
        )
        for (method, route, status), count in self._requests.items():
            status_class = f"{status}xx" if status else "none"
            requests.add_metric((method.decode(), route, status_class), count)
        yield requests
        yield _counter("dostore_http_received_bytes", "Bytes of request bodies.", self._bytes_in)
        yield _counter("dostore_http_sent_bytes", "Bytes of answers' bodies.", self._bytes_out)
        durations = HistogramMetricFamily(
            "dostore_http_request_duration_seconds",
            "From the end of the header section to the end of the answer.",
            labels=("method", "route"),
        )
        for (method, route), counts in self._durations.items():
            total = 0
            buckets = []
            for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            durations.add_metric(
                (method.decode(), route), buckets, self._duration_sums[method, route]
            )
        yield durations
        connections = self.connections
        if connections is None:
            return
        refused = CounterMetricFamily(
            "dostore_http_refused",
            "What came in and was no proper request, or came too late or too often, by status.",
            labels=("status",),
        )
        for code, count in connections.refused.items():
            refused.add_metric((str(code),), count)
        yield refused
        yield _gauge("dostore_http_connections", "Open.", connections.connection_count)
        yield _gauge("dostore_http_idle", "Open and without a request.", len(connections.idle))
        yield _gauge("dostore_http_running", "Requests under way.", len(connections.running))


class _StoreMetrics(Collector):
    """What the store counts, and how many of its nodes are there."""

    def __init__(self, store: ObjectStore) -> None:
        self._stats = store.stats
        self.readiness: Readiness | None = None

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        for name, value in attrs.asdict(self._stats).items():
            yield _counter(f"dostore_{name}", f"Since the process began: {name}.", value)
        if self.readiness is None:
            return
        yield _gauge("dostore_ready", "1: the store can serve.", self.readiness.ready)
        yield _gauge("dostore_nodes_live", "Nodes that can be read.", self.readiness.live)
        yield _gauge("dostore_nodes_writable", "Nodes that take writes.", self.readiness.writable)
        yield _gauge(
            "dostore_nodes_expected", "Nodes that should be there.", self.readiness.expected
        )


class Metrics:
    """Everything that is counted, in a registry of its own."""

    def __init__(self, store: ObjectStore, http: HttpMetrics) -> None:
        self._store = store
        self._registry = CollectorRegistry(auto_describe=False)
        self._store_metrics = _StoreMetrics(store)
        self._registry.register(http)
        self._registry.register(self._store_metrics)
        self.resource = Resource("metrics", {b"GET": self.get, b"HEAD": self.get})

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET /metrics``."""
        self._store_metrics.readiness = await self._store.readiness()
        request.respond(200, [_CONTENT_TYPE], generate_latest(self._registry))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
