"""Row F8: Elasticsearch hangs, is killed, or loses its disk, while versions are written."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from dostore.adapters.elastic_writer import ADD_TIMEOUT_S
from dostore.adapters.meta_elastic import ElasticMetadata
from dostore.core.model import Version
from dostore.errors import MetadataUnavailable, OutcomeUnknown
from tests.contract.metadata import content, draft, together
from tests.support.elastic import ElasticTestCase, clock
from tests.support.elasticsearch_server import SearchServer, own_search_server

#: docs/metadata-elasticsearch.rst: an addition, and a read, end within so many seconds.
LONGEST_ADD_S = 30.0
LONGEST_READ_S = 20.0

NAMES = "abcd"


class _Writers:
    """Additions without pause, through two stores, and what became of each."""

    def __init__(self, stores: list[ElasticMetadata]) -> None:
        self.acked: dict[str, Version] = {}
        self.unknown: set[str] = set()
        self.failed: set[str] = set()
        self.longest_s = 0.0
        self._stopped = False
        self._all = [
            Deferred.fromCoroutine(self._write(store, NAMES[n % len(NAMES)], f"{m}.{n}"))
            for m, store in enumerate(stores)
            for n in range(6)
        ]

    async def stop(self) -> None:
        """Return when the additions under way have ended."""
        self._stopped = True
        for writer in self._all:
            await writer

    async def _write(self, store: ElasticMetadata, name: str, label: str) -> None:
        turn = 0
        while not self._stopped:
            seed = f"{label}.{turn}"
            turn += 1
            began = clock().seconds()
            try:
                self.acked[seed] = await store.add(draft(name, seed))
            except OutcomeUnknown:
                self.unknown.add(seed)
            except MetadataUnavailable:
                self.failed.add(seed)
                await deferLater(clock(), 0.05)
            self.longest_s = max(self.longest_s, clock().seconds() - began)


class OutageTests(ElasticTestCase):
    """A server that is the test's own, so that it can be done to what is done here."""

    timeout = 600

    def start_server(self) -> str:
        """See ElasticTestCase."""
        self.server: SearchServer = own_search_server()
        self.addCleanup(self.server.kill)
        self.server.start()
        return self.server.url

    async def sleep(self, seconds: float) -> None:
        """Let real processes do what they do."""
        await deferLater(clock(), seconds)

    async def until_acked(self, writers: _Writers, more: int = 50) -> None:
        """Wait until so many more additions were acknowledged."""
        wanted = len(writers.acked) + more
        deadline = time.monotonic() + 60
        while len(writers.acked) < wanted:
            self.assertLess(time.monotonic(), deadline, "nothing is acknowledged any more")
            await self.sleep(0.05)

    async def check(self, writers: _Writers, index: str) -> None:
        """Every acknowledged version is there at its number, and none that surely failed."""
        store = await self.open(index)
        seeds = {content(seed).hash: seed for seed in (*writers.acked, *writers.unknown)}
        for name in NAMES:
            history = await store.history(name, 1, 100_000)
            self.assertEqual([v.number for v in history], list(range(1, len(history) + 1)))
            self.assertEqual(list(await store.versions(name, "", 1, 100_000)), list(history))
            kept = [seeds.get(c.hash) for version in history for c in version.contents]
            self.assertNotIn(None, kept, "a version whose addition surely failed")
            self.assertEqual(len(set(kept)), len(kept), "an addition made two versions")
            for version in writers.acked.values():
                if version.name == name:
                    self.assertEqual(history[version.number - 1], version)

    async def begin(self) -> tuple[str, _Writers]:
        """Two stores, and writers at work."""
        index = await self.new_index()
        stores = [await self.open(index) for _ in range(2)]
        writers = _Writers(stores)
        await self.until_acked(writers)
        return index, writers

    async def test_f8_a_server_that_hangs(self) -> None:
        """Stopped for five seconds: additions wait or fail in time; none is lost or doubled."""
        index, writers = await self.begin()
        self.server.signal(signal.SIGSTOP)
        await self.sleep(5)
        self.server.signal(signal.SIGCONT)
        await self.until_acked(writers)
        await writers.stop()
        self.assertLess(writers.longest_s, LONGEST_ADD_S)
        await self.check(writers, index)

    async def test_f8_a_server_that_is_killed(self) -> None:
        """Killed in the middle of writing and started again: the same, and it heals by itself."""
        index, writers = await self.begin()
        self.server.kill()
        await self.sleep(1)
        await deferToThread(self.server.start)
        await self.until_acked(writers)
        await writers.stop()
        self.assertLess(writers.longest_s, LONGEST_ADD_S)
        await self.check(writers, index)

    async def test_f8_a_server_that_stays_away(self) -> None:
        """Everything fails with a sentence, in the documented time; a killed one fails sooner."""
        index = await self.new_index()
        store = await self.open(index)
        made = await store.add(draft("a"))

        async def fails(longest_s: float) -> None:
            began = clock().seconds()
            calls = [
                store.add(draft("a")), store.add(draft("b")), store.latest("a"), store.ping(),
                store.current("", "", 9), store.history("a", 1, 9), store.get("a", 1),
                store.versions("", "", 1, 9), store.referenced([content("a").hash]),
            ]  # fmt: skip
            await together(self._fails(call) for call in calls)
            self.assertLess(clock().seconds() - began, longest_s)

        self.server.signal(signal.SIGSTOP)
        await fails(LONGEST_ADD_S)
        self.server.signal(signal.SIGCONT)
        self.assertIn(await store.latest("a"), [made, await store.get("a", 2)])
        self.server.kill()
        await fails(ADD_TIMEOUT_S + 10.0)
        await deferToThread(self.server.start)
        self.assertEqual(await store.get("a", 1), made)

    async def _fails(self, call: Coroutine[Any, Any, object]) -> None:
        with self.assertRaises(MetadataUnavailable) as caught:
            await call
        self.assertIn(" ", caught.exception.detail)

    async def test_f8_a_server_that_comes_back_empty(self) -> None:
        """What lost its disk is not taken for a store without names."""
        index = await self.new_index()
        store = await self.open(index)
        await store.add(draft("a"))
        self.server.kill()
        await deferToThread(shutil.rmtree, self.server.folder)
        await deferToThread(self.server.start)
        for call in (store.add(draft("a")), store.add(draft("b")), store.latest("a")):
            with self.assertRaises(MetadataUnavailable) as caught:
                await call
            self.assertIn("gone", caught.exception.detail)
