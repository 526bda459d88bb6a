"""The metadata store of a cluster, on a real Elasticsearch."""

from __future__ import annotations

from typing import ClassVar

from dostore.adapters.meta_elastic import ElasticMetadata
from tests.contract.metadata import MetadataContract
from tests.support.elastic import ElasticTestCase
from tests.support.elasticsearch_server import OPENSEARCH, SearchServer, own_search_server


class ElasticContractTests(MetadataContract, ElasticTestCase):
    """The promises of the port."""

    # What is bounded and exact with these is so with more, and the server is real.
    long_history = 3000
    many_names = 20_000

    async def make_store(self) -> ElasticMetadata:
        """See MetadataContract."""
        return await self.open(await self.new_index())


class OpenSearchContractTests(ElasticContractTests):
    """The promises of the port, kept by OpenSearch 2."""

    long_history = 1000
    many_names = 2000

    server: ClassVar[SearchServer | None] = None

    def start_server(self) -> str:
        """See ElasticTestCase."""
        cls = type(self)
        if cls.server is None:
            cls.server = own_search_server(OPENSEARCH)
            cls.server.start()
        return cls.server.url

    @classmethod
    def tearDownClass(cls) -> None:
        """Nobody else needs it."""
        if cls.server is not None:
            cls.server.kill()
            cls.server = None
