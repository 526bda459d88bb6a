"""Metadata stores on a real Elasticsearch, each test on an index of its own."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from typing import Any

from twisted.internet import reactor, threads
from twisted.internet.defer import Deferred

from dostore.adapters.elastic_address import parse_addresses
from dostore.adapters.meta_elastic import ElasticMetadata, open_metadata
from tests.support.cases import AsyncTestCase
from tests.support.elasticsearch_server import elasticsearch


def ask(url: str, method: str, path: str, body: object = None) -> Any:
    """One request past the store, blocking; what the answer's JSON says."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


class ElasticTestCase(AsyncTestCase):
    """A test that has a real server.

    :ivar url: of it; set by :meth:`get_server`.
    """

    url = ""

    def start_server(self) -> str:
        """Blocks until there is a server; its URL."""
        return elasticsearch()

    async def get_server(self) -> str:
        """The URL of a running server."""
        if not self.url:
            self.url = await threads.deferToThread(self.start_server)
        return self.url

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request past the store; what the answer's JSON says."""
        return await threads.deferToThread(ask, await self.get_server(), method, path, body)

    async def new_index(self) -> str:
        """The name of an index that is not there, and will not be after the test."""
        url = await self.get_server()
        name = f"dostore-test-{uuid.uuid4().hex}"

        def remove() -> object:
            return threads.deferToThread(ask, url, "DELETE", f"/{name}?ignore_unavailable=true")

        self.addCleanup(remove)
        return name

    async def open(self, index: str) -> ElasticMetadata:
        """A store on an index, closed at the end of the test."""
        url = await self.get_server()
        store = open_metadata(reactor, parse_addresses(url), time.time, index)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        return store
