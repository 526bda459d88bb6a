"""What every metadata store promises, as tests.

A subclass, which is an AsyncTestCase too, says by :meth:`make_store` how to get one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults

from dostore.core.model import Content, Draft, Version
from dostore.core.names import ContentHash, successor
from dostore.core.scheme import Scheme
from dostore.errors import InvalidName, PreconditionFailed, TooLarge
from dostore.ports import IMetadataStore
from tests.support.cases import slow

if TYPE_CHECKING:
    from tests.support.cases import AsyncTestCase as _Base
else:
    _Base = object

CREATED = "2026-11-23T10:00:00.000Z"

#: Names that break stores which take them for paths, patterns or something of their own.
AWKWARD = [
    "%", "%%", "%2F", "%00", "_", "a", "a%b", "a_b", "a b", " ", "  ", " a", "a ", "a/", "a//",
    "a//b", "a/b", "a/b/c", "a/b/", "/", "//", "/a", ".", "..", "../a", "a/../b", "*", "?", "[a]",
    "a*", "\\", "'", '"', ";", "a'; DROP TABLE versions; --", "NULL", "a_1", "a_1_2", "a\U0010ffff",
    "\U0010ffff", "\U0010ffff\U0010ffff", "\U0010ffffa", "\ud7ff", "\ue000", "\uffff", "\U00010000",
    "é", "e\u0301", "É", "A", "Z", "z", "ß", "日本語", "😀", "a\u200b", "n" * 1024,
]  # fmt: skip


def content(seed: str, scheme: Scheme | None = None) -> Content:
    """A content whose hash is made from ``seed``."""
    digest = hashlib.sha256(seed.encode()).digest()
    return Content(ContentHash(digest), len(seed), scheme or Scheme())


def draft(name: str, seed: str = "content", **more: Any) -> Draft:
    """A version to be made."""
    return Draft(name, content(seed), CREATED, **more)


def tombstone(name: str) -> Draft:
    """A tombstone to be made."""
    return Draft(name, None, CREATED)


def together(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> Deferred[list[Any]]:
    """Start all and wait for all; the first failure fails."""
    return gatherResults([Deferred.fromCoroutine(c) for c in coroutines], consumeErrors=True)


async def add_all(store: IMetadataStore, drafts: Sequence[Draft], at_once: int = 1000) -> None:
    """Add many, in order, ``at_once`` together."""
    for at in range(0, len(drafts), at_once):
        await together(store.add(d) for d in drafts[at : at + at_once])


async def all_current(store: IMetadataStore, prefix: str, limit: int) -> list[Version]:
    """Every current version of names with a prefix, page by page."""
    found: list[Version] = []
    start = ""
    while versions := await store.current(prefix, start, limit):
        assert len(versions) <= limit, f"a page of {len(versions)}"
        found += versions
        start = versions[-1].name + "\0"
    return found


async def all_versions(store: IMetadataStore, prefix: str, limit: int) -> list[Version]:
    """Every version of names with a prefix, page by page."""
    found: list[Version] = []
    start, first = "", 1
    while versions := await store.versions(prefix, start, first, limit):
        assert len(versions) <= limit, f"a page of {len(versions)}"
        found += versions
        start, first = versions[-1].name, versions[-1].number + 1
    return found


class MetadataContract(_Base):
    """The promises of IMetadataStore.

    :cvar long_history: how many versions make a long history.
    :cvar many_names: how many names make a large store.
    """

    long_history = 10_000
    many_names = 100_000

    async def make_store(self) -> IMetadataStore:
        """An empty store, closed by the test's clean-up."""
        raise NotImplementedError

    async def test_provides_the_port(self) -> None:
        """The store has every method of the port, with its signature."""
        self.assert_provides(IMetadataStore, await self.make_store())

    async def test_first_version_is_one_and_numbers_follow(self) -> None:
        """Versions of a name are numbered 1, 2, 3, whatever other names do."""
        store = await self.make_store()
        numbers = []
        for name in ("a", "b", "a", "a", "b"):
            numbers.append((await store.add(draft(name))).number)
        self.assertEqual(numbers, [1, 1, 2, 3, 2])

    async def test_everything_of_a_version_is_kept(self) -> None:
        """What a draft says comes back from every kind of read."""
        store = await self.make_store()
        made = await store.add(
            Draft(
                "päth/to object",
                content("x", Scheme(8, 3, 131072)),
                "2026-11-23T23:59:59.999Z",
                "text/plain; charset=utf-8",
                {"colour": "grün", "empty": "", "quote": '"\\\n'},
            )
        )
        self.assertEqual(made.content, content("x", Scheme(8, 3, 131072)))
        self.assertEqual(dict(made.meta), {"colour": "grün", "empty": "", "quote": '"\\\n'})
        self.assertEqual(made.content_type, "text/plain; charset=utf-8")
        self.assertEqual(made.created, "2026-11-23T23:59:59.999Z")
        self.assertEqual(await store.latest(made.name), made)
        self.assertEqual(await store.get(made.name, 1), made)
        self.assertEqual(list(await store.history(made.name, 1, 10)), [made])
        self.assertEqual(list(await store.current("", "", 10)), [made])
        self.assertEqual(list(await store.versions("", "", 1, 10)), [made])

    async def test_empty_content_is_no_tombstone(self) -> None:
        """A version of size 0 has a content; a tombstone has none."""
        store = await self.make_store()
        nothing = Content(ContentHash(hashlib.sha256(b"").digest()), 0, Scheme())
        made = await store.add(Draft("empty", nothing, CREATED))
        self.assertFalse(made.deleted)
        self.assertEqual(list(await store.current("", "", 10)), [made])
        gone = await store.add(tombstone("empty"))
        self.assertTrue(gone.deleted)
        self.assertEqual(gone.size, 0)

    async def test_what_is_not_there(self) -> None:
        """Reads of names and numbers that do not exist find nothing, and that is no error."""
        store = await self.make_store()
        await store.add(draft("a"))
        self.assertIsNone(await store.latest("b"))
        self.assertIsNone(await store.latest(""))
        for number in (0, -1, 2, 2**63, 2**64, -(2**64)):
            self.assertIsNone(await store.get("a", number))
        self.assertEqual(list(await store.history("b", 1, 10)), [])
        self.assertEqual(list(await store.history("a", 2, 10)), [])
        self.assertEqual(list(await store.history("a", 2**64, 10)), [])
        self.assertEqual(list(await store.current("b", "", 10)), [])
        self.assertEqual(list(await store.versions("b", "", 1, 10)), [])
        self.assertEqual(list(await store.current("", "", 0)), [])

    async def test_tombstone_is_latest_and_older_versions_stay(self) -> None:
        """A deleted name is not listed as current; its versions stay readable; it may return."""
        store = await self.make_store()
        first = await store.add(draft("a", "1"))
        gone = await store.add(tombstone("a"))
        self.assertEqual(await store.latest("a"), gone)
        self.assertEqual(await store.get("a", 1), first)
        self.assertEqual(list(await store.current("", "", 10)), [])
        self.assertEqual(list(await store.history("a", 1, 10)), [first, gone])
        again = await store.add(draft("a", "2"))
        self.assertEqual(again.number, 3)
        self.assertEqual(list(await store.current("", "", 10)), [again])

    async def test_check_sees_the_version_before(self) -> None:
        """The check is applied to the very version that the new one follows, None at first."""
        store = await self.make_store()
        seen: list[int | None] = []

        def check(current: Version | None) -> None:
            seen.append(current.number if current else None)

        for _ in range(3):
            await store.add(draft("a"), check)
        await store.add(tombstone("a"), check)
        # It may be called more than once for one addition.
        self.assertEqual(sorted(set(seen), key=lambda n: n or 0), [None, 1, 2, 3])
        self.assertEqual(seen[-1], 3)

    async def test_failed_check_writes_nothing(self) -> None:
        """The error of a check is raised as it is; no number is used up."""
        store = await self.make_store()
        await store.add(draft("a"))
        refusal = PreconditionFailed("It is there.")

        def check(_: Version | None) -> None:
            raise refusal

        with self.assertRaises(PreconditionFailed) as caught:
            await store.add(draft("a", "other"), check)
        self.assertIs(caught.exception, refusal)
        self.assertEqual((await store.add(draft("a"))).number, 2)
        self.assertEqual(await store.referenced([content("other").hash]), set())

    async def test_failed_check_fails_only_its_own(self) -> None:
        """Of additions that travel together, those whose check passes are made."""
        store = await self.make_store()

        def refuse(_: Version | None) -> None:
            raise PreconditionFailed("No.")

        outcomes = await DeferredList(
            [
                Deferred.fromCoroutine(store.add(draft(f"n{i}"), refuse if i % 3 == 0 else None))
                for i in range(30)
            ],
            consumeErrors=True,
        )
        self.assertEqual([ok for ok, _ in outcomes], [i % 3 != 0 for i in range(30)])
        names = [version.name for version in await store.current("", "", 100)]
        self.assertEqual(names, sorted(f"n{i}" for i in range(30) if i % 3 != 0))

    async def test_f9_create_only_raced(self) -> None:
        """Of 32 writers that each want to be the first, exactly one is."""
        store = await self.make_store()

        def absent(current: Version | None) -> None:
            if current is not None:
                raise PreconditionFailed("It is there.")

        outcomes = await DeferredList(
            [Deferred.fromCoroutine(store.add(draft("a", str(i)), absent)) for i in range(32)],
            consumeErrors=True,
        )
        won = [result for ok, result in outcomes if ok]
        self.assertEqual([version.number for version in won], [1])
        self.assertEqual(await store.latest("a"), won[0])

    async def test_f9_many_writers_of_one_name(self) -> None:
        """32 writers that put and delete one name: no number is skipped or given twice."""
        store = await self.make_store()
        made: list[list[Version]] = []

        async def writer(index: int) -> None:
            mine: list[Version] = []
            made.append(mine)
            for turn in range(10):
                odd = (index + turn) % 2
                mine.append(await store.add(tombstone("a") if odd else draft("a", f"{index}")))
                latest = await store.latest("a")
                assert latest is not None
                self.assertGreaterEqual(latest.number, mine[-1].number)
                listed = await store.current("a", "", 2)
                self.assertLessEqual(len(listed), 1)

        await together(writer(index) for index in range(32))
        for mine in made:
            numbers = [version.number for version in mine]
            self.assertEqual(numbers, sorted(numbers))
        everything = sorted((v for mine in made for v in mine), key=lambda v: v.number)
        self.assertEqual([v.number for v in everything], list(range(1, 321)))
        self.assertEqual(list(await store.history("a", 1, 1000)), everything)
        self.assertEqual(await store.latest("a"), everything[-1])

    async def test_f10_order_is_by_number_whatever_the_clock_says(self) -> None:
        """The newest version is the one added last, however old it says it is."""
        store = await self.make_store()
        for created in ("2026-11-23T10:00:00.000Z", "2026-11-23T11:00:00.000Z"):
            await store.add(Draft("a", content(created), created))
        old = await store.add(Draft("a", content("old"), "1999-01-01T00:00:00.000Z"))
        self.assertEqual(await store.latest("a"), old)
        self.assertEqual([v.number for v in await store.history("a", 1, 9)], [1, 2, 3])
        self.assertEqual(list(await store.current("", "", 9)), [old])

    async def test_write_is_seen_by_every_later_read(self) -> None:
        """Whatever was read before, a version that was acknowledged is seen at once."""
        store = await self.make_store()
        for number in range(1, 40):
            added = await store.add(draft("a", str(number)))
            self.assertEqual(await store.latest("a"), added)
            self.assertEqual(await store.get("a", number), added)
            self.assertEqual(list(await store.current("", "", 9)), [added])
            self.assertEqual((await store.versions("", "a", number, 9))[0], added)

    async def test_cancelled_addition_is_seen_whole_or_not_at_all(self) -> None:
        """Who gives up waiting leaves either the version, seen by all reads, or nothing."""
        store = await self.make_store()
        await store.add(draft("a", "1"))
        await store.latest("a")
        waiting = Deferred.fromCoroutine(store.add(draft("a", "2")))
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting
        last = await store.add(draft("a", "3"))
        self.assertEqual(await store.latest("a"), last)
        history = await store.history("a", 1, 9)
        self.assertEqual([v.number for v in history], list(range(1, last.number + 1)))

    async def test_referenced(self) -> None:
        """A content is referred to by any version, a superseded or deleted one too."""
        store = await self.make_store()
        await store.add(draft("a", "old"))
        await store.add(draft("a", "new"))
        await store.add(draft("b", "gone"))
        await store.add(tombstone("b"))
        asked = [content(seed).hash for seed in ("old", "new", "gone", "never")]
        self.assertEqual(await store.referenced(asked), set(asked[:3]))
        self.assertEqual(await store.referenced([]), set())
        many = [content(f"unknown {i}").hash for i in range(2000)]
        self.assertEqual(await store.referenced([*many, asked[0]]), {asked[0]})

    async def test_f12_awkward_names_are_told_apart(self) -> None:
        """Each awkward name is a name of its own, with its own versions."""
        store = await self.make_store()
        self.assertEqual(len(set(AWKWARD)), len(AWKWARD))
        for round_ in (1, 2):
            await add_all(store, [draft(name, f"{round_} {name}") for name in AWKWARD])
        for name in AWKWARD:
            latest = await store.latest(name)
            assert latest is not None
            self.assertEqual((latest.name, latest.number), (name, 2))
            self.assertEqual(latest.content, content(f"2 {name}"))
            self.assertEqual([v.number for v in await store.history(name, 1, 9)], [1, 2])

    async def test_f12_listings_of_awkward_names_are_exact(self) -> None:
        """Each prefix and page size gives just the names with that prefix, by code points, once."""
        store = await self.make_store()
        await add_all(store, [draft(name) for name in [*AWKWARD, *AWKWARD[::2]]])
        deleted = AWKWARD[::5]
        await add_all(store, [tombstone(name) for name in deleted])
        alive = sorted(set(AWKWARD) - set(deleted))
        for prefix in ["", *{name[:length] for name in AWKWARD for length in (1, 2, 4)}]:
            for limit in (1, 3, 1000):
                if limit == 1 and not prefix:
                    continue
                pages = await all_current(store, prefix, limit)
                expected = [name for name in alive if name.startswith(prefix)]
                self.assertEqual([v.name for v in pages], expected, (prefix, limit))
                self.assertFalse([v for v in pages if v.deleted])
                every = await all_versions(store, prefix, limit)
                keys = [(v.name, v.number) for v in every]
                self.assertEqual(keys, sorted(set(keys)))
                names = sorted({name for name in AWKWARD if name.startswith(prefix)})
                self.assertEqual(sorted({v.name for v in every}), names, (prefix, limit))

    async def test_listing_starts_where_it_is_told(self) -> None:
        """``start`` is included, need not be a name, and may lie before or after the prefix."""
        store = await self.make_store()
        await add_all(store, [draft(name) for name in ("a", "b/1", "b/2", "b/3", "b0", "c")])

        async def names(prefix: str, start: str) -> list[str]:
            return [version.name for version in await store.current(prefix, start, 100)]

        self.assertEqual(await names("", "b/2"), ["b/2", "b/3", "b0", "c"])
        self.assertEqual(await names("b/", ""), ["b/1", "b/2", "b/3"])
        self.assertEqual(await names("b/", "a"), ["b/1", "b/2", "b/3"])
        self.assertEqual(await names("b/", "b/2\0"), ["b/3"])
        self.assertEqual(await names("b/", "b/2x"), ["b/3"])
        self.assertEqual(await names("b/", "c"), [])
        # How a delimiter is skipped: from the prefix to what follows all that begin with it.
        self.assertEqual(await names("", successor("b/") or ""), ["b0", "c"])

    async def test_versions_start_in_the_middle_of_a_name(self) -> None:
        """A listing of versions goes on from any version, with all versions of later names."""
        store = await self.make_store()
        await add_all(store, [draft(name) for name in "aaabbb"])
        keys = [(v.name, v.number) for v in await store.versions("", "a", 3, 100)]
        self.assertEqual(keys, [("a", 3), ("b", 1), ("b", 2), ("b", 3)])
        keys = [(v.name, v.number) for v in await store.versions("b", "a", 3, 100)]
        self.assertEqual(keys, [("b", 1), ("b", 2), ("b", 3)])
        keys = [(v.name, v.number) for v in await store.versions("", "a", 2**64, 2)]
        self.assertEqual(keys, [("b", 1), ("b", 2)])
        self.assertEqual(list(await store.versions("a", "b", 1, 100)), [])

    async def test_f12_many_versions_of_one_name(self) -> None:
        """A long history is read in pages, exactly, and does not lengthen the listing of names."""
        store = await self.make_store()
        count = self.long_history
        await add_all(store, [draft("a"), draft("z")])
        await add_all(store, [draft("long", str(i)) for i in range(count)])
        first, numbers = 1, []
        while page := await store.history("long", first, 999):
            self.assertLessEqual(len(page), 999)
            numbers += [version.number for version in page]
            first = numbers[-1] + 1
        self.assertEqual(numbers, list(range(1, count + 1)))
        listed = [(v.name, v.number) for v in await store.current("", "", 10)]
        self.assertEqual(listed, [("a", 1), ("long", count), ("z", 1)])
        self.assertEqual(len(await all_versions(store, "", 1000)), count + 2)

    @slow
    async def test_f12_many_names_under_a_prefix(self) -> None:
        """A great many names, many of them deleted, are listed in bounded pages, exactly."""
        store = await self.make_store()
        names = [f"p/{i:06d}" for i in range(self.many_names)]
        shuffled = list(names)
        random.Random(7).shuffle(shuffled)
        await add_all(store, [draft("p"), draft("q")])
        await add_all(store, [draft(name) for name in shuffled])
        # A page must not have to wade through those that are gone.
        deleted = set(names[len(names) // 5 : len(names) * 3 // 10])
        await add_all(store, [tombstone(name) for name in sorted(deleted)])
        found = await all_current(store, "p/", 1000)
        expected = [name for name in names if name not in deleted]
        self.assertTrue([version.name for version in found] == expected, "the listing is not exact")

    async def test_names_without_utf8_form_are_refused(self) -> None:
        """A lone surrogate cannot be stored; every call says so, and the store goes on."""
        store = await self.make_store()
        bad = "a\ud800"
        for call in (
            store.add(draft(bad)),
            store.latest(bad),
            store.get(bad, 1),
            store.history(bad, 1, 1),
            store.current(bad, "", 1),
            store.current("", bad, 1),
            store.versions(bad, "", 1, 1),
        ):
            with self.assertRaises(InvalidName):
                await call
        self.assertEqual((await store.add(draft("a"))).number, 1)

    async def test_metadata_that_is_too_large_is_refused(self) -> None:
        """A version with megabytes of keys fails alone, and leaves nothing."""
        store = await self.make_store()
        outcomes = await DeferredList(
            [
                Deferred.fromCoroutine(store.add(d))
                for d in (draft("a"), draft("b", meta={"k": "v" * (3 << 20)}), draft("c"))
            ],
            consumeErrors=True,
        )
        self.assertEqual([ok for ok, _ in outcomes], [True, False, True])
        refused: Any = outcomes[1][1]
        self.assertIsInstance(refused.value, TooLarge)
        self.assertIsNone(await store.latest("b"))

    async def test_large_batches_are_kept_whole(self) -> None:
        """Many large versions at once are all made, whatever the store's own limits."""
        store = await self.make_store()
        meta = {"k": "v" * 100_000}
        await together(store.add(draft(f"n{i:03d}", meta=meta)) for i in range(200))
        found = await store.current("", "", 1000)
        self.assertEqual([v.name for v in found], [f"n{i:03d}" for i in range(200)])
        self.assertEqual(dict(found[77].meta), meta)

    async def test_created_is_constant(self) -> None:
        """The store tells when it began, and writes do not change that."""
        store = await self.make_store()
        began = await store.created()
        await store.add(draft("a"))
        self.assertEqual(await store.created(), began)

    async def test_ping(self) -> None:
        """A sound store answers."""
        store = await self.make_store()
        await store.ping()
        await store.add(draft("a"))
        await store.ping()
