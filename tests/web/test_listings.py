"""``/objects/``, ``/versions/`` and ``/versions/<name>``: JSON lines, page by page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from dostore.core.model import Version
from dostore.errors import MetadataUnavailable
from dostore.service import listing
from tests.support.http import HttpTestCase, request_bytes
from tests.support.memory_store import MemoryMetadata


class ListingTests(HttpTestCase):
    """Listings."""

    def lines(self, target: str) -> list[dict[str, Any]]:
        """The lines of a listing."""
        answer = self.ask("GET", target)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["content-type"], "application/x-ndjson")
        self.assertTrue(answer.complete)
        return [json.loads(line) for line in answer.body.splitlines()]

    def names(self, target: str) -> list[str]:
        """What the lines of a listing name."""
        return [line.get("Name") or line["Prefix"] for line in self.lines(target)]

    def test_a_line(self) -> None:
        """All that is kept with a version."""
        self.store.keep("näme", b"abc", "a/b", {"k": "v"})
        self.assertEqual(
            self.lines("/objects/"),
            [
                {
                    "Name": "näme",
                    "Version": 1,
                    "Size": 3,
                    "Hash": "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
                    "Created": "2026-11-23T08:30:00.250Z",
                    "ContentType": "a/b",
                    "Meta": {"k": "v"},
                }
            ],
        )

    def test_tombstones(self) -> None:
        """They are in the versions, marked, and not among the objects."""
        self.store.keep("a", b"abc")
        self.ask("DELETE", "/objects/a")
        self.assertEqual(self.names("/objects/"), [])
        for target in ("/versions/a", "/versions/"):
            first, second = self.lines(target)
            self.assertNotIn("Deleted", first)
            self.assertEqual(
                (second["Version"], second["Size"], second["Hash"], second["Deleted"]),
                (2, 0, "", True),
            )

    def test_pages_that_wait(self) -> None:
        """A page may wait for whatever result, for a tuple too."""

        class Waiting(MemoryMetadata):
            def __init__(self) -> None:
                super().__init__()
                self.waiter: Deferred[object] = Deferred()

            async def current(self, prefix: str, start: str, limit: int) -> Sequence[Version]:
                await self.waiter
                return await super().current(prefix, start, limit)

        metadata = self.store.metadata = Waiting()
        self.store.keep("a", b"abc")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/"))
        metadata.waiter.callback((1, 2, 3))
        (answer,) = client.answers()
        self.assertEqual((answer.status, json.loads(answer.body)["Name"]), (200, "a"))

    def test_parameters(self) -> None:
        """Prefix, after, limit and delimiter."""
        for name in ("a", "b/1", "b/2", "b/c/1", "d e", "é"):
            self.store.keep(name, b"")
        self.assertEqual(self.names("/objects/"), ["a", "b/1", "b/2", "b/c/1", "d e", "é"])
        self.assertEqual(self.names("/objects/?prefix=b/"), ["b/1", "b/2", "b/c/1"])
        self.assertEqual(self.names("/objects/?after=b/2&limit=2"), ["b/c/1", "d e"])
        self.assertEqual(self.names("/objects/?prefix=d+e"), ["d e"])
        self.assertEqual(self.names("/objects/?prefix=%C3%A9"), ["é"])
        self.assertEqual(self.names("/objects/?delimiter=/"), ["a", "b/", "d e", "é"])
        self.assertEqual(self.lines("/objects/?delimiter=/")[1], {"Prefix": "b/"})
        self.assertEqual(self.names("/objects/?delimiter=/&prefix=b/"), ["b/1", "b/2", "b/c/"])
        self.assertEqual(self.names("/versions/?prefix=b&after=b/1"), ["b/2", "b/c/1"])

    def test_bad_parameters(self) -> None:
        """400, whatever is wrong."""
        for target in (
            "/objects/?limit=0", "/objects/?limit=x", "/objects/?prefix=%ff", "/objects/?after=%",
            "/versions/?limit=-1", "/versions/a?after=x", "/versions/%00",
        ):  # fmt: skip
            self.assertEqual(self.ask("GET", target).status, 400, target)

    def test_history(self) -> None:
        """The versions of one object, oldest first, from any number on."""
        for number in range(5):
            self.store.keep("a", b"%d" % number)
        self.assertEqual([v["Version"] for v in self.lines("/versions/a")], [1, 2, 3, 4, 5])
        self.assertEqual([v["Version"] for v in self.lines("/versions/a?after=2&limit=2")], [3, 4])
        self.assertEqual(self.lines("/versions/a?after=5"), [])
        self.assertEqual(self.ask("GET", "/versions/b").status, 404)

    def test_pages_come_as_the_client_reads(self) -> None:
        """A listing is not fetched further than the client has taken it."""
        self.patch(listing, "PAGE_ROWS", 100)
        for number in range(2000):
            self.store.keep(f"{number:06}" + "x" * 900, b"")
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/"))
        self.settle()
        self.assertLess(len(client.dataBuffer), 300_000)
        client.read_on()
        self.settle()
        self.assertEqual(len(client.answer().body.splitlines()), 2000)

    def test_error_before_the_first_line(self) -> None:
        """It is an answer of its own."""

        async def fail(prefix: str, start: str, limit: int) -> list[object]:
            """Fail."""
            raise MetadataUnavailable("The database is locked.")

        self.patch(self.store.metadata, "current", fail)
        answer = self.ask("GET", "/objects/")
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "5"))

    def test_error_in_the_middle(self) -> None:
        """A listing that breaks off does not look as if it had ended."""
        self.patch(listing, "PAGE_ROWS", 2)
        for name in "abcd":
            self.store.keep(name, b"")
        current = self.store.metadata.current

        async def fail_later(prefix: str, start: str, limit: int) -> object:
            """Give one page only."""
            if start:
                raise MetadataUnavailable("The database is locked.")
            return await current(prefix, start, limit)

        self.patch(self.store.metadata, "current", fail_later)
        client = self.connect()
        client.send(request_bytes("GET", "/objects/"))
        self.settle()
        self.assertTrue(client.aborted)
        self.assertFalse(client.answer().complete)
        self.assertEqual(len(client.answer().body.splitlines()), 2)
