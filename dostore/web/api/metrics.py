"""``/metrics``: what a Prometheus server scrapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

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
from dostore.web.api.counts import BUCKETS_S, Counts, HttpCounts
from dostore.web.connections import Connections
from dostore.web.request import Request
from dostore.web.resource import Resource

_CONTENT_TYPE = (b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8")

_METHODS = frozenset((b"GET", b"HEAD", b"PUT", b"DELETE", b"POST"))


class HttpMetrics(Collector):
    """Counts requests: a few dictionary operations each, and the rest at a scrape.

    :param seconds: the clock that requests' ``started`` is read from.
    :ivar connections: whose requests they are.
    :ivar others: what other processes have counted, as it was last told.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.connections: Connections | None = None
        self.others: Sequence[HttpCounts] = ()
        self._seconds = seconds
        self._counts = HttpCounts()

    def observe(self, request: Request) -> None:
        """A request was answered, or its client is gone."""
        counts = self._counts
        method = request.method.decode() if request.method in _METHODS else "other"
        # An answer that was cut counts as none, whatever its status had promised.
        status = request.status // 100 if request.answered else 0
        counts.requests[method, request.route, status] += 1
        counts.bytes_in += request.body.received
        counts.bytes_out += request.bytes_sent
        counts.took((method, request.route), max(0.0, self._seconds() - request.started))

    def counts(self) -> HttpCounts:
        """What this process has counted up to now."""
        counts = HttpCounts()
        counts.add(self._counts)
        if self.connections is not None:
            counts.refused.update(self.connections.refused)
            counts.connections = self.connections.connection_count
            counts.idle = len(self.connections.idle)
            counts.running = len(self.connections.running)
        return counts

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        requests = CounterMetricFamily(
            "dostore_http_requests",
            "Requests by class of status; none: the connection ended before the answer did.",
            labels=("method", "route", "status"),
        )
        counts = self.counts()
        for other in self.others:
            counts.add(other)
        for (method, route, status), count in counts.requests.items():
            status_class = f"{status}xx" if status else "none"
            requests.add_metric((method, route, status_class), count)
        yield requests
        yield _counter("dostore_http_received_bytes", "Bytes of request bodies.", counts.bytes_in)
        yield _counter("dostore_http_sent_bytes", "Bytes of answers' bodies.", counts.bytes_out)
        durations = HistogramMetricFamily(
            "dostore_http_request_duration_seconds",
            "From the end of the header section to the end of the answer.",
            labels=("method", "route"),
        )
        for kind, took in counts.durations.items():
            total = 0
            buckets = []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), took, strict=True):
                total += count
                buckets.append((bound, total))
            durations.add_metric(kind, buckets, counts.seconds[kind])
        yield durations
        if self.connections is None:
            return
        refused = CounterMetricFamily(
            "dostore_http_refused",
            "What came in and was no proper request, or came too late or too often, by status.",
            labels=("status",),
        )
        for code, count in counts.refused.items():
            refused.add_metric((str(code),), count)
        yield refused
        yield _gauge("dostore_http_connections", "Open.", counts.connections)
        yield _gauge("dostore_http_idle", "Open and without a request.", counts.idle)
        yield _gauge("dostore_http_running", "Requests under way.", counts.running)


class _StoreMetrics(Collector):
    """What the store counts, and how many of its nodes are there."""

    def __init__(self, store: ObjectStore) -> None:
        self._stats = store.stats
        self.others: Sequence[Counter[str]] = ()
        self.readiness: Readiness | None = None
        self.workers: tuple[int, int] | None = None

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        counts = Counter(attrs.asdict(self._stats))
        for other in self.others:
            counts.update(other)
        for name, value in counts.items():
            yield _counter(f"dostore_{name}", f"Since the process began: {name}.", value)
        if self.workers is not None:
            alive, expected = self.workers
            yield _gauge("dostore_workers", "Processes that serve.", alive)
            yield _gauge("dostore_workers_expected", "Processes that should.", expected)
        if self.readiness is None:
            return
        yield _gauge("dostore_ready", "1: the store can serve.", self.readiness.ready)
        yield _gauge("dostore_nodes_live", "Nodes that can be read.", self.readiness.live)
        yield _gauge("dostore_nodes_writable", "Nodes that take writes.", self.readiness.writable)
        yield _gauge(
            "dostore_nodes_expected", "Nodes that should be there.", self.readiness.expected
        )
        yield _gauge(
            "dostore_contents_lost",
            "Contents with a version that are known to be lost.",
            self.readiness.lost,
        )


class Metrics:
    """Everything that is counted, in a registry of its own.

    :ivar others: asks the other processes that answer on this port what they have counted.
    :ivar workers: tells how many processes serve, and how many should.
    """

    def __init__(self, store: ObjectStore, http: HttpMetrics) -> None:
        self.others: Callable[[], Awaitable[Sequence[Counts]]] | None = None
        self.workers: Callable[[], tuple[int, int]] | None = None
        self._store = store
        self._http = http
        self._registry = CollectorRegistry(auto_describe=False)
        self._store_metrics = _StoreMetrics(store)
        self._registry.register(http)
        self._registry.register(self._store_metrics)
        self.resource = Resource("metrics", {b"GET": self.get, b"HEAD": self.get})

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET /metrics``."""
        self._store_metrics.readiness = await self._store.readiness()
        if self.others is not None:
            told = await self.others()
            self._http.others = [counts.http for counts in told]
            self._store_metrics.others = [counts.store for counts in told]
        if self.workers is not None:
            self._store_metrics.workers = self.workers()
        request.respond(200, [_CONTENT_TYPE], generate_latest(self._registry))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
