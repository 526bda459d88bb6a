"""A data server's HTTP API over one node. See ``docs/data-api.rst``."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from dostore.core.signing import Verifier
from dostore.ports import IShardNode, ITempShards, IWorkers
from dostore.web.api.metrics import HttpMetrics
from dostore.web.connections import Connections, HttpLimits
from dostore.web.data.batch import Batch, WholeNow
from dostore.web.data.claims import Claims
from dostore.web.data.contents import Contents
from dostore.web.data.guard import Guard
from dostore.web.data.shards import Shards
from dostore.web.data.status import NodeStatus, Status
from dostore.web.data.temp import Temp
from dostore.web.resource import Router


def build_factory(
    node: IShardNode,
    temp: ITempShards,
    *,
    status: Callable[[], NodeStatus],
    workers: IWorkers,
    clock: IReactorTime,
    now: Callable[[], float],
    secret: bytes | None,
    limits: HttpLimits | None = None,
    access_log: str | None = None,
    whole_now: WholeNow = lambda content, index: None,
) -> Connections:
    """What listens: a factory of connections that serve ``node``.

    :param workers: threads for hashing.
    :param now: the time of day in seconds since the epoch, for the age of signatures.
    :param secret: the cluster's, with which requests must be signed; None: anybody may ask.
    :param access_log: the path of a log of requests; None: there is none.
    :param whole_now: see Batch.
    """
    counted = HttpMetrics(clock.seconds)
    claims = Claims(node)
    shards = Shards(node, claims, workers)
    contents = Contents(node)
    about = Status(status, counted)
    temps = Temp(node, temp, claims)
    router = Router(
        exact={
            b"/batch": Batch(node, claims, whole_now).resource,
            b"/glance": contents.glance,
            b"/health/live": about.live,
            b"/health/ready": about.ready,
            b"/metrics": about.metrics,
        },
        below={
            b"/objects/": shards.resource,
            b"/temp/": temps.resource,
            b"/claim/": temps.claiming,
            b"/release/": temps.releasing,
            b"/cut/": temps.cutting,
            b"/settle/": temps.settling,
            b"/state/": temps.states,
            b"/renew/": contents.renew,
            b"/modified/": contents.modified,
            b"/discard/": contents.discard,
            b"/inventory/": contents.inventory,
        },
    )
    handler = router.handle
    if secret is not None:
        handler = Guard(handler, Verifier(secret), node.address.encode("ascii"), now).handle
    connections = Connections(handler, clock, limits, access_log, counted.observe)
    counted.connections = connections
    return connections
