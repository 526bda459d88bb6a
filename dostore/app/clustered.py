"""An API server of a cluster: data servers over HTTP, found through RabbitMQ, and Elasticsearch."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint
from twisted.logger import Logger

from dostore.adapters.amqp_link import AmqpLink
from dostore.adapters.cluster_amqp import AmqpCluster
from dostore.adapters.http_link import HttpLink
from dostore.adapters.meta_elastic import ElasticMetadata, open_metadata
from dostore.adapters.node_http import HttpNode
from dostore.app.config import ClusterConfig, Config
from dostore.app.native import native_api
from dostore.app.server import COMPUTE_THREADS, Threads
from dostore.core.signing import Signer
from dostore.core.upload_token import derive_key
from dostore.errors import MetadataUnavailable
from dostore.http.pool import HttpPool
from dostore.service.objects import ObjectStore
from dostore.web.api.site import NativeApi
from dostore.web.connections import Connections

_log = Logger(namespace="dostore")

#: A connection to the broker takes no longer to be made.
_BROKER_CONNECT_S = 5.0

#: A content without a version is spared this long: another API server may be about to make one.
_ORPHAN_GRACE_S = 15 * 60.0


class Clustered:
    """The parts of an API server of a cluster (see server.Parts).

    None of RabbitMQ, Elasticsearch and the data servers need be there when it starts: it serves
    what it can, tells by ``/health/ready`` what is missing, and goes on when that comes.

    :param worker: another process, the front, looks after the store.
    """

    def __init__(
        self,
        config: Config,
        cluster: ClusterConfig,
        threads: Threads,
        reactor: Any,
        worker: bool = False,
    ) -> None:
        self._config = config
        self._settings = cluster
        self._threads = threads
        self._reactor = reactor
        self._worker = worker
        self._signer = None if cluster.secret is None else Signer(cluster.secret)
        self._pool = HttpPool(reactor)
        self._link: AmqpLink | None = None
        self._cluster: AmqpCluster | None = None
        self._metadata: ElasticMetadata | None = None
        self._store: ObjectStore | None = None
        self.api: NativeApi | None = None

    async def start(self) -> Connections:
        """See server.Parts."""
        url = self._settings.rabbitmq
        endpoint = HostnameEndpoint(self._reactor, url.host, url.port, timeout=_BROKER_CONNECT_S)
        link = self._link = AmqpLink(url, endpoint, self._reactor, name="dostore-api")
        cluster = self._cluster = AmqpCluster(
            link, self._make_node, self._config.scheme.shards, self._reactor
        )
        metadata = self._metadata = open_metadata(
            self._reactor,
            self._settings.elasticsearch,
            time.time,
            self._settings.metadata_index,
        )
        store = self._store = ObjectStore(
            cluster,
            metadata,
            self._config.scheme,
            workers=self._threads.make("compute", COMPUTE_THREADS),
            clock=self._reactor,
            now=time.time,
            quorum=self._config.write_quorum,
            copies_below=self._config.copies_below,
            verify=True,
            orphan_grace_s=_ORPHAN_GRACE_S,
            upload_key=self._upload_key,
            upload_ttl_s=self._config.upload_ttl_s,
            instant_uploads=self._config.instant_uploads,
        )
        link.start()
        api = self.api = native_api(store, self._config, self._reactor)
        if self._worker:
            # Until then the front takes all requests: it knows the data servers, this one does not.
            await cluster.gather()
            return api.connections
        store.start()
        if self._signer is None:
            _log.warn(
                "There is no DOSTORE_SECRET: the data servers take requests from whoever reaches "
                "them. Give all servers the same secret."
            )
        return api.connections

    async def _upload_key(self) -> bytes:
        """What tokens of uploads are signed with: the same for all API servers."""
        if self._settings.secret is not None:
            return derive_key(self._settings.secret)
        # Who has no secret trusts the network; this only tells one cluster's tokens from another's.
        if self._metadata is None:
            raise MetadataUnavailable("The store is starting. Try again in a moment.")
        return derive_key((await self._metadata.identity()).encode("utf-8"))

    def _make_node(self, address: str) -> HttpNode:
        link = HttpLink(
            address,
            self._pool,
            signer=self._signer,
            clock=self._reactor,
            now=time.time,
            on_trouble=self._doubt,
            on_refused=self._suspect,
        )
        return HttpNode(link, partial(self._reactor.callLater, 0))

    def _doubt(self, address: str) -> None:
        if self._cluster is not None:
            self._cluster.doubt(address)

    def _suspect(self, address: str) -> None:
        if self._cluster is not None:
            self._cluster.suspect(address)

    def describe(self) -> str:
        """See server.Parts."""
        scheme = self._config.scheme
        return f"{scheme.k} + {scheme.m} shards in the cluster at {self._settings.rabbitmq}"

    async def stop(self) -> None:
        """See server.Parts."""
        if self._store is not None:
            await self._store.stop()
        if self._metadata is not None:
            await self._metadata.close()
        if self._cluster is not None:
            await self._cluster.stop()
        if self._link is not None:
            await self._link.stop()
        await self._pool.close()
