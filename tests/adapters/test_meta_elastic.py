"""The metadata store of a cluster, on a real Elasticsearch."""

from __future__ import annotations

from dostore.adapters.meta_elastic import ElasticMetadata
from tests.contract.metadata import MetadataContract
from tests.support.elastic import ElasticTestCase


class ElasticContractTests(MetadataContract, ElasticTestCase):
    """The promises of the port."""

    # What is bounded and exact with these is so with more, and the server is real.
    long_history = 3000
    many_names = 20_000

    async def make_store(self) -> ElasticMetadata:
        """See MetadataContract."""
        return await self.open(await self.new_index())
