"""The writer of versions, beside an Elasticsearch that is none: who waits is always told."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters.elastic_access import ElasticAccess
from dostore.adapters.elastic_writer import ElasticWriter
from dostore.errors import MetadataUnavailable
from tests.contract.metadata import draft
from tests.support.cases import SyncTestCase


class _Away:
    """An ElasticAccess of which nothing can be had, when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Deferred[None]] = []

    async def ready(self) -> None:
        """See ElasticAccess."""
        self.asked.append(Deferred())
        await self.asked[-1]

    async def read(self, keys: object) -> None:
        """See ElasticAccess."""
        await self.ready()

    def fail(self) -> None:
        """Nothing can be had."""
        self.asked.pop(0).errback(MetadataUnavailable("It is away."))


class OutageTests(SyncTestCase):
    """Additions of one name while nothing can be written."""

    def test_who_is_told_adds_the_next_at_once(self) -> None:
        """What is added while those before are told that they failed is told, too."""
        clock, access = Clock(), _Away()
        writer = ElasticWriter(cast(ElasticAccess, access), clock, iter("abcd").__next__)
        told: list[str] = []

        async def add(label: str) -> None:
            try:
                await writer.add(draft("a", label), None)
            except MetadataUnavailable:
                told.append(label)
                if label != "next":
                    await add("next")

        added: list[Deferred[None]] = [Deferred.fromCoroutine(add(each)) for each in ("1", "2")]
        clock.advance(1000)
        access.fail()
        self.assertEqual(told, ["1", "2"])
        clock.advance(1000)
        while access.asked:
            access.fail()
            clock.advance(1000)
        self.assertEqual(told, ["1", "2", "next", "next"])
        for each in added:
            self.successResultOf(each)
