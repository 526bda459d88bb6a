"""The native API over one store."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from dostore.service.objects import ObjectStore
from dostore.web.api.health import Health
from dostore.web.api.locate import Locate
from dostore.web.api.metrics import HttpMetrics, Metrics
from dostore.web.api.objects import Objects
from dostore.web.api.uploads import UploadParts
from dostore.web.api.versions import Versions
from dostore.web.connections import Connections, HttpLimits
from dostore.web.resource import Router


def build_factory(
    store: ObjectStore,
    *,
    clock: IReactorTime,
    limits: HttpLimits | None = None,
    require_digest: bool = False,
    access_log: str | None = None,
) -> Connections:
    """What listens: a factory of connections that serve ``store``.

    :param require_digest: whether a PUT without ``Digest`` is refused.
    :param access_log: the path of a log of requests; None: there is none.
    """
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
    counted = HttpMetrics(clock.seconds)
    router = Router(
        exact={
            b"/objects/": objects.listing,
            b"/versions/": versions.listing,
            b"/health/live": health.live,
            b"/health/ready": health.ready,
            b"/metrics": Metrics(store, counted).resource,
        },
        below={
            b"/objects/": objects.resource,
            b"/versions/": versions.resource,
            b"/locate/": Locate(store).resource,
            b"/temp/": uploads.resource,
        },
    )
    connections = Connections(router.handle, clock, limits, access_log, counted.observe)
    counted.connections = connections
    return connections
