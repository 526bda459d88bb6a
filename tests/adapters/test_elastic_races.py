"""Several API servers on one Elasticsearch, and writes of which nobody knows what became."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from dostore.adapters.meta_elastic import ElasticMetadata
from dostore.core.model import Version
from dostore.errors import MetadataUnavailable, OutcomeUnknown, PreconditionFailed
from dostore.ports import IMetadataStore
from tests.contract.metadata import content, draft, together, tombstone
from tests.support.elastic import ElasticTestCase, LossyLink


def absent(current: Version | None) -> None:
    """A check that only a first version passes."""
    if current is not None:
        raise PreconditionFailed("It is there.")


class RaceTests(ElasticTestCase):
    """Two stores that know nothing of each other but the index."""

    async def stores(self, count: int = 2) -> list[ElasticMetadata]:
        """Several on one index."""
        index = await self.new_index()
        return [await self.open(index) for _ in range(count)]

    async def test_f9_sixteen_writers_at_two_servers(self) -> None:
        """One name, 200 versions: numbers 1 to 200, each once, each with its own content."""
        stores = await self.stores()
        seeds = iter(range(200))
        made: dict[str, Version] = {}

        async def writer(store: ElasticMetadata) -> None:
            for seed in seeds:
                made[f"seed {seed}"] = await store.add(draft("a", f"seed {seed}"))

        await together(writer(stores[i % 2]) for i in range(16))
        self.assertEqual(sorted(v.number for v in made.values()), list(range(1, 201)))
        for store in stores:
            history = await store.history("a", 1, 1000)
            self.assertEqual([v.number for v in history], list(range(1, 201)))
            for seed, version in made.items():
                self.assertEqual(history[version.number - 1].content, content(seed))
            self.assertEqual(list(await store.versions("", "", 1, 1000)), list(history))

    async def test_neither_server_starves(self) -> None:
        """While one server writes a name without pause, the other's addition gets through."""
        busy, other = await self.stores()
        stop: list[None] = []

        async def writer() -> None:
            while not stop:
                await busy.add(draft("a"))

        writers = [Deferred.fromCoroutine(writer()) for _ in range(8)]
        for _ in range(5):
            await other.add(draft("a"))
        stop.append(None)
        await DeferredList(writers)

    async def test_f9_create_only_raced_at_two_servers(self) -> None:
        """Of 32 that each want to be the first, exactly one is, whichever server it asked."""
        stores = await self.stores()
        outcomes = await DeferredList(
            [
                Deferred.fromCoroutine(stores[i % 2].add(draft("a", f"{i}"), absent))
                for i in range(32)
            ],
            consumeErrors=True,
        )
        won = [result for ok, result in outcomes if ok]
        self.assertEqual([version.number for version in won], [1])
        for ok, result in outcomes:
            failure: Any = result
            self.assertTrue(ok or failure.check(PreconditionFailed))
        self.assertEqual(await stores[1].latest("a"), won[0])

    async def test_read_your_writes_through_any_server(self) -> None:
        """What one server acknowledged, every read at the other sees at once."""
        one, other = await self.stores()
        for number in range(1, 20):
            writer, reader = (one, other) if number % 2 else (other, one)
            made = await writer.add(draft("a", f"{number}"))
            self.assertEqual(await reader.latest("a"), made)
            self.assertEqual(await reader.get("a", number), made)
            self.assertEqual(list(await reader.current("", "", 9)), [made])
            self.assertEqual((await reader.versions("", "a", number, 9))[0], made)
            self.assertEqual(
                await reader.referenced([content(f"{number}").hash]), {content(f"{number}").hash}
            )

    async def test_a_refusal_is_by_the_newest_version(self) -> None:
        """A server that remembers an older version does not refuse by it."""
        one, other = await self.stores()
        await one.add(draft("a"))
        await other.add(tombstone("a"))

        def deleted(current: Version | None) -> None:
            if current is None or not current.deleted:
                raise PreconditionFailed("It is there.")

        self.assertEqual((await one.add(draft("a"), deleted)).number, 3)
        # And one that remembers nothing does not take that for an absence.
        with self.assertRaises(PreconditionFailed):
            await (await self.stores_of_same(one))[0].add(draft("a"), absent)

    async def stores_of_same(self, store: ElasticMetadata) -> list[ElasticMetadata]:
        """A further store on the index of another."""
        del store
        return [await self.open(self.last_index)]

    last_index = ""

    async def new_index(self) -> str:
        """Remember the name."""
        self.last_index = await super().new_index()
        return self.last_index

    async def test_listing_while_two_servers_write(self) -> None:
        """No listing, however cut in pages, skips a number or tells one twice."""
        stores = await self.stores()
        reader = await self.open(self.last_index)
        running = True
        listings = 0

        async def writer(store: ElasticMetadata, names: Sequence[str]) -> None:
            for turn in range(60):
                await together(store.add(draft(names[turn % 3], f"{turn}")) for _ in range(4))

        async def lister(limit: int) -> None:
            nonlocal listings
            while running:
                acked = {n: v.number for n in "abc" if (v := await reader.latest(n))}
                start, first, seen = "", 1, list[tuple[str, int]]()
                while page := await reader.versions("", start, first, limit):
                    seen += [(v.name, v.number) for v in page]
                    start, first = seen[-1][0], seen[-1][1] + 1
                self.assertEqual(seen, sorted(set(seen)))
                for name, newest in acked.items():
                    numbers = [number for n, number in seen if n == name]
                    self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
                    self.assertGreaterEqual(len(numbers), newest)
                current = [v.name for v in await reader.current("", "", 2)]
                self.assertEqual(current, sorted(set(current)))
                listings += 1

        listers = [Deferred.fromCoroutine(lister(limit)) for limit in (7, 100)]
        await together([writer(stores[0], "abc"), writer(stores[1], "bca")])
        running = False
        await DeferredList(listers, fireOnOneErrback=True, consumeErrors=True)
        self.assertGreater(listings, 2)
        for name in "abc":
            history = await reader.history(name, 1, 1000)
            self.assertEqual([v.number for v in history], list(range(1, 161)))


class LostAcknowledgementTests(ElasticTestCase):
    """Row F8: a write that was done and not told, or that is done late."""

    async def lossy(self, times: float = 1.0) -> tuple[ElasticMetadata, LossyLink, ElasticMetadata]:
        """A store with accidents, its link, and one without on the same index."""
        index = await self.new_index()
        link = LossyLink(await self.get_server())
        store, sound = await self.open(index, link, times), await self.open(index)
        await sound.ping()
        await store.ping()
        return store, link, sound

    async def numbers(self, store: IMetadataStore, name: str) -> list[int]:
        """The numbers of a name's versions, as history and listing agree on them."""
        history = [version.number for version in await store.history(name, 1, 10_000)]
        listed = [v.number for v in await store.versions(name, "", 1, 10_000) if v.name == name]
        self.assertEqual(history, listed)
        return history

    async def test_f8_an_acknowledgement_lost(self) -> None:
        """The version is neither lost nor made twice, be it the first or a later one."""
        store, link, sound = await self.lossy()
        for number in range(1, 6):
            link.accidents = ["lost"] * (number % 3)
            made = await store.add(draft("a", f"{number}"))
            self.assertEqual((made.number, made.content), (number, content(f"{number}")))
            self.assertEqual(await sound.latest("a"), made)
        self.assertEqual(await self.numbers(sound, "a"), [1, 2, 3, 4, 5])

    async def test_f8_an_acknowledgement_lost_and_others_move_on(self) -> None:
        """A version is known again although it is not the newest any more."""
        for others in (1, 3):
            store, link, sound = await self.lossy()
            await store.add(draft("a"))
            link.accidents = ["lost"]
            adding = Deferred.fromCoroutine(store.add(draft("a", "mine")))
            while (await sound.get("a", 2)) is None:
                pass
            # The one who waits looks only after a pause.
            for _ in range(others):
                await sound.add(draft("a", "other"))
            made = await adding
            self.assertEqual((made.number, made.content), (2, content("mine")))
            self.assertEqual(await self.numbers(sound, "a"), list(range(1, 3 + others)))

    async def test_f8_a_write_that_comes_late(self) -> None:
        """A request that was given up and is done after all makes no second version."""
        store, link, sound = await self.lossy()
        for number in range(1, 4):
            link.accidents = ["late"]
            made = await store.add(draft("a", f"{number}"))
            await link.do_late()
            self.assertEqual(await sound.latest("a"), made)
        self.assertEqual(await self.numbers(sound, "a"), [1, 2, 3])

    async def test_f8_a_write_that_comes_between_looking_and_trying_again(self) -> None:
        """The late one wins over its own repetition, and is known by it."""
        store, link, sound = await self.lossy()
        await sound.add(draft("a"))
        link.accidents = ["late", "late", "late"]
        adding = Deferred.fromCoroutine(store.add(draft("a", "mine")))
        while len(link.late) < 2:
            await sound.latest("a")
        await link.do_late()
        made = await adding
        await link.do_late()
        self.assertEqual((made.number, made.content), (2, content("mine")))
        self.assertEqual(await self.numbers(sound, "a"), [1, 2])

    async def test_f8_a_chain_whose_acknowledgement_is_lost(self) -> None:
        """Of additions that travelled together each is known again; checks hold."""
        store, link, sound = await self.lossy()
        link.accidents = ["lost"]
        made = await together(store.add(draft("a", f"{i}")) for i in range(20))
        self.assertEqual([v.number for v in made], list(range(1, 21)))
        self.assertEqual(await self.numbers(sound, "a"), list(range(1, 21)))
        link.accidents = ["lost"]
        outcomes = await DeferredList(
            [Deferred.fromCoroutine(store.add(draft("b", f"{i}"), absent)) for i in range(20)],
            consumeErrors=True,
        )
        self.assertEqual([ok for ok, _ in outcomes].count(True), 1)
        self.assertEqual(await self.numbers(sound, "b"), [1])

    async def test_f8_accidents_for_ever(self) -> None:
        """It ends in bounded time, and says whether the version may have been made."""
        store, link, sound = await self.lossy(times=10.0)
        await sound.add(draft("sent"))
        for name, accident, error in (
            ("sent", "late", OutcomeUnknown),
            ("unsent", "unsent", MetadataUnavailable),
        ):
            link.accidents = [accident] * 1000
            with self.assertRaises(MetadataUnavailable) as caught:
                await store.add(draft(name))
            self.assertIs(
                type(caught.exception).__mro__[0] is OutcomeUnknown, error is OutcomeUnknown
            )
            link.accidents = []
        await link.do_late()
        self.assertIn(await self.numbers(sound, "sent"), ([1], [1, 2]))
        self.assertEqual(await self.numbers(sound, "unsent"), [])

    async def test_f8_many_accidents_at_two_servers(self) -> None:
        """Whatever is lost, late or unsent: every acknowledged version is there once."""
        index = await self.new_index()
        links = [LossyLink(await self.get_server()) for _ in range(2)]
        stores = [await self.open(index, link) for link in links]
        chance = random.Random(11)
        await stores[0].ping()
        await stores[1].ping()
        for link in links:
            fates = ["lost", "late", "unsent", "", "", "", "", ""]
            link.accidents = [chance.choice(fates) for _ in range(400)]
        made: dict[str, Version] = {}
        seeds = iter(range(200))

        async def writer(store: ElasticMetadata) -> None:
            for seed in seeds:
                name = "ab"[seed % 2]
                made[f"{seed}"] = await store.add(draft(name, f"{seed}"))

        await together(writer(stores[i % 2]) for i in range(16))
        for link in links:
            link.accidents = []
            await link.do_late()
        sound = await self.open(index)
        for name in "ab":
            acked = sorted(v.number for v in made.values() if v.name == name)
            self.assertEqual(acked, list(range(1, 101)))
            self.assertEqual(await self.numbers(sound, name), acked)
        for seed, version in made.items():
            kept = await sound.get(version.name, version.number)
            self.assertEqual(kept, version)
            self.assertEqual(version.content, content(seed))
