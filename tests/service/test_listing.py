"""Listings, against a plain model of what they should give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from dostore.core.model import Draft, Version
from dostore.errors import NotFound
from dostore.fanout import gather
from dostore.service import listing
from dostore.service.listing import CommonPrefix
from tests.support.cases import AsyncTestCase
from tests.support.machine import MachineCase
from tests.support.properties import prove
from tests.support.shards import sample

CONTENT = sample(10).content
CREATED = "2026-11-23T10:00:00.000Z"

#: Names that share prefixes, and hold delimiters, pattern characters and the last code point.
names = st.text(st.sampled_from("ab/%\U0010ffff"), min_size=1, max_size=6)


@define
class Rows:
    """Versions in memory, asked for as the port says, in pages of at most ``limit``.

    :ivar asked: the limits of all questions.
    """

    versions_of: dict[str, list[Version]]
    asked: list[int]

    async def latest(self, name: str) -> Version | None:
        """See IMetadataStore."""
        return self.versions_of[name][-1] if name in self.versions_of else None

    async def history(self, name: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        self.asked.append(limit)
        return [v for v in self.versions_of.get(name, ()) if v.number >= first][:limit]

    async def current(self, prefix: str, start: str, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        self.asked.append(limit)
        return [
            v[-1]
            for name, v in sorted(self.versions_of.items())
            if name.startswith(prefix) and name >= start and not v[-1].deleted
        ][:limit]

    async def versions(self, prefix: str, start: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        self.asked.append(limit)
        return [
            version
            for name, v in sorted(self.versions_of.items())
            for version in v
            if name.startswith(prefix) and (name, version.number) >= (start, first)
        ][:limit]


def rows(histories: dict[str, list[bool]]) -> Rows:
    """Versions by name; False makes a tombstone."""
    return Rows(
        {
            name: [
                Draft(name, CONTENT if there else None, CREATED).numbered(number)
                for number, there in enumerate(history, 1)
            ]
            for name, history in histories.items()
        },
        [],
    )


histories = st.dictionaries(names, st.lists(st.booleans(), min_size=1, max_size=4), max_size=12)
limits = st.none() | st.integers(0, 15)


def collected(pages: AsyncIterator[Sequence[Any]]) -> list[Any]:
    """All entries; no page is empty."""

    async def collect() -> list[Any]:
        entries: list[Any] = []
        async for page in pages:
            assert page, "a page is empty"
            entries.extend(page)
        return entries

    outcome: list[Any] = []
    _ = Deferred.fromCoroutine(collect()).addCallback(outcome.append)
    (entries,) = outcome
    return list(entries)


class ModelTests(AsyncTestCase):
    """Every listing over versions in memory."""

    def setUp(self) -> None:
        """Small pages, so that their ends are met."""
        super().setUp()
        self.patch(listing, "PAGE_ROWS", 3)

    @prove
    @given(
        histories,
        st.just("") | names,
        st.just("") | names,
        limits,
        st.sampled_from(["", "/", "a", "/a", "\U0010ffff"]),
    )
    def test_objects(
        self,
        made: dict[str, list[bool]],
        prefix: str,
        after: str,
        limit: int | None,
        delimiter: str,
    ) -> None:
        """Current names in order, rolled up at the delimiter, from after on, up to the limit."""
        store = rows(made)
        expected: list[str] = []
        for name in sorted(name for name, history in made.items() if history[-1]):
            if not name.startswith(prefix):
                continue
            at = name.find(delimiter, len(prefix)) if delimiter else -1
            entry = name if at < 0 else name[: at + len(delimiter)]
            if entry > after and entry not in expected:
                expected.append(entry)
        got = collected(
            listing.list_objects(
                store,  # type: ignore[arg-type]
                prefix=prefix,
                after=after,
                limit=limit,
                delimiter=delimiter,
            )
        )
        told = [entry.prefix if isinstance(entry, CommonPrefix) else entry.name for entry in got]
        self.assertEqual(told, expected[:limit])
        for entry in got:
            rolled = (
                bool(delimiter)
                and delimiter
                in (entry.prefix if isinstance(entry, CommonPrefix) else entry.name)[len(prefix) :]
            )
            self.assertEqual(isinstance(entry, CommonPrefix), rolled)
        self.assertTrue(all(0 < asked <= 3 for asked in store.asked))

    @prove
    @given(histories, st.just("") | names, st.just("") | names, limits)
    def test_versions(
        self, made: dict[str, list[bool]], prefix: str, after: str, limit: int | None
    ) -> None:
        """Every version in order, from the names after ``after`` on."""
        store = rows(made)
        expected = [
            (name, number)
            for name in sorted(made)
            if name.startswith(prefix) and name > after
            for number in range(1, len(made[name]) + 1)
        ]
        got = collected(
            listing.list_versions(store, prefix=prefix, after=after, limit=limit)  # type: ignore[arg-type]
        )
        self.assertEqual([(v.name, v.number) for v in got], expected[:limit])
        self.assertTrue(all(0 < asked <= 3 for asked in store.asked))

    @prove
    @given(st.integers(1, 12), st.integers(0, 14), limits)
    def test_history(self, count: int, after: int, limit: int | None) -> None:
        """The versions of a name, from a number on."""
        store = rows({"name": [True] * count})
        got = collected(listing.history(store, "name", after=after, limit=limit))  # type: ignore[arg-type]
        self.assertEqual([v.number for v in got], list(range(after + 1, count + 1))[:limit])

    def test_large_prefixes(self) -> None:
        """Of names that are rolled up few are read, however many they are; of others many at a
        time.
        """
        self.patch(listing, "PAGE_ROWS", 200)
        many = {f"{folder:02}/{each:03}": [True] for folder in range(20) for each in range(100)}
        store = rows(many)
        got = collected(listing.list_objects(store, delimiter="/"))  # type: ignore[arg-type]
        self.assertEqual(got, [CommonPrefix(f"{folder:02}/") for folder in range(20)])
        self.assertLess(sum(store.asked), 200)
        store = rows({f"{each:04}": [True] for each in range(1000)})
        self.assertEqual(len(collected(listing.list_objects(store, delimiter="/"))), 1000)  # type: ignore[arg-type]
        self.assertLess(len(store.asked), 10)

    async def test_no_such_object(self) -> None:
        """The history of a name that never was is an error before the first page."""
        with self.assertRaises(NotFound):
            async for _ in listing.history(rows({}), "name"):  # type: ignore[arg-type]
                self.fail("there is a page")

    @prove
    @given(histories, st.integers(1, 4), st.sampled_from(["", "/", "a"]))
    def test_page_by_page(self, made: dict[str, list[bool]], limit: int, delimiter: str) -> None:
        """Listing on after the last entry of each page gives the same as listing all at once."""
        store = rows(made)
        whole = collected(listing.list_objects(store, delimiter=delimiter))  # type: ignore[arg-type]
        got: list[Any] = []
        after = ""
        for _ in range(20):
            page = collected(
                listing.list_objects(store, after=after, limit=limit, delimiter=delimiter)  # type: ignore[arg-type]
            )
            if not page:
                break
            got.extend(page)
            after = page[-1].prefix if isinstance(page[-1], CommonPrefix) else page[-1].name
        self.assertEqual(got, whole)


class RealTests(MachineCase):
    """The same on the store of one machine."""

    async def test_like_in_memory(self) -> None:
        """Awkward names, tombstones and many pages are listed as the model says."""
        machine = await self.started(background=False)
        metadata = machine.store.metadata
        made: dict[str, list[bool]] = {}
        for number in range(300):
            name = f"{number % 7}/{'/' * (number % 3)}{chr(0x61 + number % 26)}%{number}\U0010ffff"
            made[name] = [True] * (1 + number % 3) + [number % 5 > 0]
        model = rows(made)
        drafts = [
            Draft(name, version.content, CREATED)
            for name, history in model.versions_of.items()
            for version in history
        ]
        for outcome in await gather([metadata.add(draft) for draft in drafts]):
            self.assertIsNone(outcome.error)
        self.patch(listing, "PAGE_ROWS", 17)
        for delimiter in ("", "/", "%"):
            for prefix in ("", "3/", "3//", "nothing"):
                for after in ("", "3/", "3/z", "4//"):
                    expected = collected(
                        listing.list_objects(
                            model,  # type: ignore[arg-type]
                            prefix=prefix,
                            after=after,
                            delimiter=delimiter,
                        )
                    )
                    got: list[Any] = []
                    async for page in listing.list_objects(
                        metadata, prefix=prefix, after=after, delimiter=delimiter
                    ):
                        got.extend(page)
                    self.assertEqual(got, expected, (delimiter, prefix, after))
        every: list[Any] = []
        async for versions in listing.list_versions(metadata):
            every.extend(versions)
        self.assertEqual(every, collected(listing.list_versions(model)))  # type: ignore[arg-type]
