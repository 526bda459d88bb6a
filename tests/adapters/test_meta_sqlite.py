"""The metadata store of one machine: the contract, its memory, its queries, its stop."""

from __future__ import annotations

import os

from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import SqliteMetadata
from tests.contract.metadata import MetadataContract
from tests.support.cases import AsyncTestCase
from tests.support.metadata import Machine


class SqliteContractTests(MetadataContract, AsyncTestCase):
    """The promises of the port."""

    async def make_store(self) -> SqliteMetadata:
        """See MetadataContract."""
        machine = Machine(os.path.abspath(self.mktemp()), Files())
        store = await machine.open()
        self.addCleanup(machine.stop)
        self.addCleanup(store.close)
        return store
