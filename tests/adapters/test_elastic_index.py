"""The index itself, on a real Elasticsearch: found, made, completed, or refused."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import DeferredList

from dostore.adapters.meta_elastic import ElasticMetadata
from dostore.core.model import Content, Draft
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import DostoreError, MetadataUnavailable
from tests.contract.metadata import CREATED, draft, together
from tests.support.elastic import ElasticTestCase

#: What the Go design's set-up makes.
SEED = {
    "mappings": {
        "properties": {
            "name": {"type": "keyword"},
            "version": {"type": "integer"},
            "size": {"type": "integer"},
            "hash": {"type": "keyword"},
        }
    }
}


def seed_with(**fields: Any) -> dict[str, Any]:
    """The seed's index with other or further fields."""
    return {"mappings": {"properties": {**SEED["mappings"]["properties"], **fields}}}


class MadeIndexTests(ElasticTestCase):
    """The index that the store makes."""

    async def test_it_is_made_as_the_design_says(self) -> None:
        """Types, replicas and the time of its making are set."""
        index = await self.new_index()
        store = await self.open(index)
        before = time.time()
        await store.add(draft("a"))
        told = (await self.ask("GET", f"/{index}"))[index]
        fields = told["mappings"]["properties"]
        self.assertEqual(fields["name"], {"type": "keyword"})
        self.assertEqual(fields["hash"], {"type": "keyword"})
        self.assertEqual(fields["version"], {"type": "integer"})
        self.assertEqual(fields["size"], {"type": "long"})
        self.assertEqual(told["settings"]["index"]["auto_expand_replicas"], "0-2")
        created = await store.created()
        self.assertTrue(before - 60 < created <= time.time())
        self.assertEqual(await (await self.open(index)).created(), created)

    async def test_two_servers_make_it_at_once(self) -> None:
        """Both find the same index, and all that both write is there."""
        index = await self.new_index()
        stores = [await self.open(index) for _ in range(4)]
        await together(s.add(draft(f"{n}/{i}")) for n, s in enumerate(stores) for i in range(9))
        self.assertEqual(len({await store.created() for store in stores}), 1)
        self.assertEqual(len(await stores[0].current("", "", 100)), 36)

    async def test_names_of_1024_bytes_fit(self) -> None:
        """An id has 512 bytes at most, whatever the name."""
        index = await self.new_index()
        store = await self.open(index)
        names = ["é" * 512, "é" * 511 + "e", "a_1", "a"]
        for name in names:
            for _ in range(2):
                await store.add(draft(name))
        told = await self.ask("POST", f"/{index}/_refresh")
        self.assertEqual(told["_shards"]["failed"], 0)
        hits = (await self.ask("GET", f"/{index}/_search?size=100"))["hits"]["hits"]
        ids = [hit["_id"] for hit in hits]
        self.assertEqual(len(set(ids)), 2 * len(names))
        self.assertLessEqual(max(len(id_.encode()) for id_ in ids), 512)


class FoundIndexTests(ElasticTestCase):
    """An index that something else made."""

    async def given(self, body: object) -> tuple[str, ElasticMetadata]:
        """A store on an index that was made so."""
        index = await self.new_index()
        await self.ask("PUT", f"/{index}", body)
        return index, await self.open(index)

    async def refused(self, body: object, *words: str) -> None:
        """An index made so is refused by every method, in words that say why."""
        _, store = await self.given(body)
        for call in (store.add(draft("a")), store.latest("a"), store.ping(), store.created()):
            with self.assertRaises(MetadataUnavailable) as caught:
                await call
            for word in words:
                self.assertIn(word, caught.exception.detail)

    async def test_the_seeds_mapping_is_accepted(self) -> None:
        """What it lacks is added, and everything works."""
        index, store = await self.given(SEED)
        first = await store.add(draft("a", "1", meta={"k": "v"}))
        second = await store.add(draft("a", "2"))
        self.assertEqual(list(await store.history("a", 1, 9)), [first, second])
        self.assertEqual(list(await store.current("", "", 9)), [second])
        self.assertEqual(list(await store.versions("", "", 1, 9)), [first, second])
        asked = [c.hash for v in (first, second) for c in v.contents]
        self.assertEqual(await store.referenced(asked), set(asked))
        fields = (await self.ask("GET", f"/{index}"))[index]["mappings"]["properties"]
        self.assertEqual(fields["size"], {"type": "integer"})
        self.assertEqual(fields["kind"], {"type": "keyword"})
        self.assertEqual(await (await self.open(index)).created(), await store.created())

    async def test_sizes_beyond_the_seeds_field(self) -> None:
        """Five gibibytes do not fit in its field for sizes; they are kept all the same."""
        _, store = await self.given(SEED)
        large = Content(ContentHash(bytes(32)), 5 << 30, Scheme())
        versions = [await store.add(Draft("a", large, CREATED)) for _ in range(3)]
        self.assertEqual([v.size for v in await store.history("a", 1, 9)], [5 << 30] * 3)
        self.assertEqual(list(await store.versions("", "", 1, 9)), versions)

    async def test_the_seeds_documents_are_left_alone(self) -> None:
        """Documents that the Go program wrote are no versions of ours, and do no harm."""
        index, store = await self.given(SEED)
        old = {"name": "a", "version": 1, "size": 3, "hash": "x"}
        await self.ask("PUT", f"/{index}/_doc/a_1?refresh=true", old)
        self.assertIsNone(await store.latest("a"))
        made = await store.add(draft("a"))
        self.assertEqual(made.number, 1)
        self.assertEqual(list(await store.current("", "", 9)), [made])
        self.assertEqual(list(await store.versions("", "", 1, 9)), [made])

    async def test_several_shards(self) -> None:
        """All documents of a name are in one shard, so a listing sees them at one moment."""
        body = {**SEED, "settings": {"index": {"number_of_shards": 3}}}
        _, store = await self.given(body)
        await together(store.add(draft(f"n{i % 50}", f"{i}")) for i in range(200))
        listed = [(v.name, v.number) for v in await store.versions("", "", 1, 1000)]
        self.assertEqual(listed, sorted((f"n{i % 50}", 1 + i // 50) for i in range(200)))

    async def test_wrong_types_are_refused(self) -> None:
        """A field of another type is named, with what it must be."""
        await self.refused(seed_with(name={"type": "text"}), "'name'", "text", "keyword")
        await self.refused(seed_with(hash={"type": "text"}), "'hash'")
        await self.refused(seed_with(version={"type": "keyword"}), "'version'")
        await self.refused(seed_with(meta={"type": "object"}), "'meta'")
        await self.refused(seed_with(kind={"properties": {"x": {"type": "long"}}}), "'kind'")

    async def test_fields_that_cannot_be_searched_are_refused(self) -> None:
        """A field that is there but not indexed would make listings lie."""
        await self.refused(seed_with(name={"type": "keyword", "index": False}), "'name'", "index")
        await self.refused(
            seed_with(hash={"type": "keyword", "doc_values": False}), "'hash'", "doc_values"
        )
        await self.refused(
            seed_with(name={"type": "keyword", "ignore_above": 256}), "'name'", "ignore_above"
        )

    async def test_settings_that_lose_versions_are_refused(self) -> None:
        """Acknowledging before the sync, or not keeping documents, breaks the store's promise."""
        settings = {"index": {"translog": {"durability": "async"}}}
        await self.refused({**SEED, "settings": settings}, "translog.durability")
        await self.refused({"mappings": {"_source": {"enabled": False}}}, "_source")

    async def test_a_newer_format_is_refused(self) -> None:
        """An index that a newer release made is left alone."""
        body = {"mappings": {"_meta": {"dostore": {"format": 2}}}}
        await self.refused(body, "format 2")

    async def test_an_alias(self) -> None:
        """An alias of one index serves as its name; one of two is refused."""
        index, _ = await self.given(SEED)
        alias = await self.new_index()
        await self.ask("PUT", f"/{index}/_alias/{alias}")
        store = await self.open(alias)
        made = await store.add(draft("a"))
        self.assertEqual(await store.latest("a"), made)
        other, _ = await self.given(SEED)
        await self.ask("PUT", f"/{other}/_alias/{alias}")
        with self.assertRaises(MetadataUnavailable) as caught:
            await (await self.open(alias)).ping()
        self.assertIn("2 indices", caught.exception.detail)

    async def test_a_document_of_another_kind_in_our_place(self) -> None:
        """What is not ours is an error of that name alone, not a crash."""
        index, store = await self.given(SEED)
        await store.add(draft("a"))
        await self.ask("POST", f"/{index}/_refresh")
        hits = (await self.ask("GET", f"/{index}/_search"))["hits"]["hits"]
        (hit,) = hits
        path = f"/{index}/_doc/{hit['_id']}?routing={hit['_routing']}"
        for damaged in ({}, {**hit["_source"], "version": -1}, {**hit["_source"], "name": "b"}):
            await self.ask("PUT", path, damaged)
            for call in (store.latest("a"), store.get("a", 1), store.add(draft("a"))):
                with self.assertRaises(DostoreError):
                    await call
        await store.add(draft("c"))


class BlockedIndexTests(ElasticTestCase):
    """An index that can be read only."""

    async def test_read_only(self) -> None:
        """Writes and the readiness check say what to free; reads go on; it heals by itself."""
        index = await self.new_index()
        store = await self.open(index)
        made = await store.add(draft("a"))
        for block in ("read_only_allow_delete", "write"):
            setting = {f"index.blocks.{block}": True}
            await self.ask("PUT", f"/{index}/_settings", setting)
            for call in (store.add(draft("a")), store.add(draft("b")), store.ping()):
                with self.assertRaises(MetadataUnavailable) as caught:
                    await call
                self.assertIn("Free space", caught.exception.detail)
            self.assertEqual(await store.latest("a"), made)
            self.assertEqual(list(await store.current("", "", 9)), [made])
            await self.ask("PUT", f"/{index}/_settings", {f"index.blocks.{block}": None})
        await store.ping()
        self.assertEqual((await store.add(draft("a"))).number, 2)


class LostIndexTests(ElasticTestCase):
    """An index that disappears under a running server."""

    async def test_a_removed_index_is_not_made_again(self) -> None:
        """Names would begin at 1 again; the server refuses until it is started anew."""
        index = await self.new_index()
        store = await self.open(index)
        await store.add(draft("a"))
        await self.ask("DELETE", f"/{index}")
        outcomes = await DeferredList(
            [together([store.add(draft(name))]) for name in ("a", "b")], consumeErrors=True
        )
        self.assertEqual([ok for ok, _ in outcomes], [False, False])
        for call in (store.latest("a"), store.add(draft("a")), store.current("", "", 1)):
            with self.assertRaises(MetadataUnavailable) as caught:
                await call
            self.assertIn("gone", caught.exception.detail)
