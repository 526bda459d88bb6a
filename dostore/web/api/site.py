"""The native API over one store."""

from __future__ import annotations

from collections import Counter

import attrs
from twisted.internet.interfaces import IReactorTime

from dostore.service.objects import ObjectStore
from dostore.service.readable import Readable
from dostore.web.api.counts import Counts, HttpCounts
from dostore.web.api.health import Health
from dostore.web.api.locate import Locate
from dostore.web.api.metrics import HttpMetrics, Metrics
from dostore.web.api.objects import Objects
from dostore.web.api.reads import Reads
from dostore.web.api.uploads import UploadParts
from dostore.web.api.versions import Versions
from dostore.web.connections import Connections, HttpLimits
from dostore.web.resource import Router


class NativeApi:
    """The native API over one store.

    :ivar connections: what listens: a factory of connections that serve the store.
    :ivar metrics: what answers ``/metrics``.
    :param require_digest: whether a PUT without ``Digest`` is refused.
    :param access_log: the path of a log of requests; None: there is none.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        clock: IReactorTime,
        limits: HttpLimits | None = None,
        require_digest: bool = False,
        access_log: str | None = None,
    ) -> None:
        limits = limits or HttpLimits()
        uploads = UploadParts(store, max_object_bytes=limits.max_object_bytes)
        objects = Objects(
            store,
            max_object_bytes=limits.max_object_bytes,
            require_digest=require_digest,
            open_upload=uploads.open,
        )
        versions = Versions(store)
        health = Health(store)
        self._store = store
        self._http = HttpMetrics(clock.seconds)
        self.metrics = Metrics(store, self._http)
        router = Router(
            exact={
                b"/objects/": objects.listing,
                b"/versions/": versions.listing,
                b"/health/live": health.live,
                b"/health/ready": health.ready,
                b"/metrics": self.metrics.resource,
            },
            below={
                b"/objects/": objects.resource,
                b"/versions/": versions.resource,
                b"/locate/": Locate(store).resource,
                b"/temp/": uploads.resource,
            },
        )
        self.connections = self._http.connections = Connections(
            router.handle, clock, limits, access_log, self._http.observe
        )

    def counts(self) -> Counts:
        """What was counted up to now."""
        return Counts(self._http.counts(), Counter(attrs.asdict(self._store.stats)))


def build_factory(
    store: ObjectStore,
    *,
    clock: IReactorTime,
    limits: HttpLimits | None = None,
    require_digest: bool = False,
    access_log: str | None = None,
) -> Connections:
    """The connections of a :class:`NativeApi`."""
    api = NativeApi(
        store,
        clock=clock,
        limits=limits,
        require_digest=require_digest,
        access_log=access_log,
    )
    return api.connections


class ReadingApi:
    """``GET`` and ``HEAD`` of objects, and nothing else.

    :ivar connections: what serves them.
    """

    def __init__(
        self,
        store: Readable,
        clock: IReactorTime,
        limits: HttpLimits,
        access_log: str | None = None,
    ) -> None:
        self._http = HttpMetrics(clock.seconds)
        router = Router(exact={}, below={b"/objects/": Reads(store).resource})
        self.connections = self._http.connections = Connections(
            router.handle, clock, limits, access_log, self._http.observe
        )

    def counts(self) -> HttpCounts:
        """What was counted up to now."""
        return self._http.counts()
