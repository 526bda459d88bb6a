"""Metadata stores on a real Elasticsearch, each test on an index of its own."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from treq.client import HTTPClient
from twisted.internet import reactor, threads
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

from dostore.adapters.elastic_address import parse_addresses
from dostore.adapters.elastic_answers import Answer, NoAnswer
from dostore.adapters.elastic_link import ElasticLink
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


def clock() -> IReactorTime:
    """The real one."""
    return IReactorTime(reactor)


@implementer(IReactorTime)
class FastClock:
    """The real clock, some times as fast: for what gives up after long."""

    def __init__(self, times: float) -> None:
        self._times = times
        self._real = clock()

    def seconds(self) -> float:
        """See IReactorTime."""
        return self._real.seconds() * self._times

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """See IReactorTime."""
        return self._real.callLater(delay / self._times, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """See IReactorTime."""
        return self._real.getDelayedCalls()


class LossyLink(ElasticLink):
    """A link whose writes have accidents, as told.

    :ivar accidents: what becomes of each write, the next first; of further ones, nothing special.
        ``"unsent"``: it is not sent. ``"lost"``: it is done, and the answer is lost. ``"late"``: it
        is said to be lost, and is done when :meth:`do_late` is called.
    """

    def __init__(self, url: str) -> None:
        addresses = parse_addresses(url)
        self.pool = HTTPConnectionPool(reactor)
        agent = Agent(reactor, pool=self.pool)
        super().__init__(HTTPClient(agent), addresses, clock(), pool=self.pool)
        self.accidents: list[str] = []
        self.late: list[Callable[[], Coroutine[Any, Any, Answer]]] = []

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str = "application/json",
        once: bool = False,
        lacks: Callable[[Answer], str] = lambda _: "",
    ) -> Answer:
        """See ElasticLink."""

        def send() -> Coroutine[Any, Any, Answer]:
            return super(LossyLink, self).call(
                method, path, body, content_type=content_type, once=once, lacks=lacks
            )

        accident = self.accidents.pop(0) if once and self.accidents else ""
        if accident == "lost":
            await send()
        elif accident == "late":
            self.late.append(send)
        if accident:
            raise NoAnswer(f"The write was {accident}.", sent=accident != "unsent")
        return await send()

    async def do_late(self) -> None:
        """Do the writes that were late."""
        while self.late:
            await self.late.pop(0)()


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

    async def open(
        self, index: str, link: ElasticLink | None = None, times: float = 1.0
    ) -> ElasticMetadata:
        """A store on an index, closed at the end of the test.

        :param link: by which it reaches the server; None: as it is in the product.
        :param times: how much faster than time the clock goes by which the store gives up.
        """
        addresses = parse_addresses(await self.get_server())
        if link is None:
            store = open_metadata(reactor, addresses, time.time, index)
        else:
            store = ElasticMetadata(link, FastClock(times), time.time, index)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        return store
