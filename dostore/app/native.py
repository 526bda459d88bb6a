"""The native API over a store, as it is configured."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from dostore.app.config import Config
from dostore.service.objects import ObjectStore
from dostore.web.api.site import NativeApi
from dostore.web.connections import HttpLimits


def native_api(store: ObjectStore, config: Config, clock: IReactorTime) -> NativeApi:
    """What answers the requests of an API server, whatever it keeps its objects on."""
    return NativeApi(
        store,
        clock=clock,
        limits=limits_of(config),
        require_digest=config.require_digest,
        access_log=config.access_log,
    )


def limits_of(config: Config) -> HttpLimits:
    """The limits of connections and requests, as they are configured."""
    return HttpLimits(
        max_connections=config.max_connections,
        max_object_bytes=config.max_object_size,
        body_timeout_s=config.body_timeout_s,
    )
