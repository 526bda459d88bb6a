"""F12 over HTTP: a name with 10,000 versions, 100,000 names under one prefix."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from twisted.internet.threads import deferToThread

from dostore.core.model import Draft
from dostore.core.scheme import Scheme
from dostore.fanout import gather
from tests.support.machine import Machine, MachineCase
from tests.support.processes import Store

NAMES = 100_000
VERSIONS = 10_000
PAGE = 5000
#: More than this beside what it takes to run is not flat.
EXTRA_BYTES = 64 << 20


def name_of(number: int) -> str:
    """Names of one prefix, in their order, that need escaping."""
    return f"many names/100 %/{number:06}/"


class ManyNamesTests(MachineCase):
    """The names are put in place by the store's own parts, and listed by a real process."""

    async def test_listings(self) -> None:
        """Every name and version is listed once and in order, in pages and in one go, and memory
        stays flat.
        """
        machine = self.new_machine(Scheme())
        await self.fill(machine)
        store = Store(machine.root)
        self.addCleanup(store.kill)
        await deferToThread(self.list_all, store)

    async def fill(self, machine: Machine) -> None:
        """Make them all refer to one content."""
        await machine.start(background=False)
        version = await machine.put("one", b"content")
        drafts = [
            Draft(name_of(number), version.content, version.created) for number in range(NAMES)
        ]
        drafts += [Draft("versions", version.content, version.created)] * VERSIONS
        for at in range(0, len(drafts), PAGE):
            outcomes = await gather(
                [machine.store.metadata.add(draft) for draft in drafts[at : at + PAGE]]
            )
            self.assertEqual([o.error for o in outcomes if o.error is not None], [])
        await machine.stop()

    def list_all(self, store: Store) -> None:
        """Blocks."""
        store.start()
        store.forget_peak()
        base = store.resident_bytes()
        connection = store.connect()
        names = [name_of(number) for number in range(NAMES)]
        prefix = quote("many names/")
        listed = lines(connection, f"/objects/?prefix={prefix}")
        self.assertEqual([each["Name"] for each in listed], names)
        paged: list[str] = []
        while True:
            after = f"&after={quote(paged[-1], safe='')}" if paged else ""
            path = f"/objects/?prefix={prefix}&limit={PAGE}{after}"
            page = [each["Name"] for each in lines(connection, path)]
            paged += page
            if len(page) < PAGE:
                break
        self.assertEqual(paged, names)
        rolled = [*lines(connection, f"/objects/?prefix={prefix}&delimiter=/")]
        self.assertEqual(len(rolled), 1)
        history = lines(connection, "/versions/versions")
        self.assertEqual([each["Version"] for each in history], list(range(1, VERSIONS + 1)))
        every = sum(1 for _ in lines(connection, "/versions/"))
        self.assertEqual(every, NAMES + VERSIONS + 1)
        connection.close()
        newest = store.request("HEAD", "/objects/versions")
        self.assertEqual(newest.headers["x-object-version"], str(VERSIONS))
        got = store.request("GET", f"/objects/{quote(name_of(NAMES // 2))}")
        self.assertEqual(got.body, b"content")
        extra = store.peak_resident_bytes() - base
        self.assertTrue(extra < EXTRA_BYTES, f"{extra >> 20} MiB more")
        self.assertEqual(store.stop(), 0)


def lines(connection: http.client.HTTPConnection, path: str) -> Iterator[dict[str, Any]]:
    """The lines of a listing, as they come."""
    connection.request("GET", path)
    response = connection.getresponse()
    if response.status != 200:
        raise AssertionError(f"{path}: {response.status} {response.read()!r}")
    for line in response:
        yield json.loads(line)
