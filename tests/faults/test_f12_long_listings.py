"""F12: a name with 10,000 versions; 100,000 names under one prefix."""

from __future__ import annotations

import tracemalloc

from dostore.core.model import Draft, Version
from dostore.fanout import gather
from dostore.service import listing
from tests.support.machine import MachineCase
from tests.support.shards import sample

CREATED = "2026-11-23T10:00:00.000Z"


class LongListingTests(MachineCase):
    """Listings are paged and exact, and memory does not grow with them."""

    async def test_many(self) -> None:
        """Everything is listed once, in order, a page at a time, and a prefix is stepped over."""
        machine = await self.started(background=False)
        metadata = machine.store.metadata
        content = sample(10).content
        names = [f"p/{number:06}" for number in range(100_000)]
        drafts = [Draft("p.many", content, CREATED)] * 10_000
        drafts += [Draft(name, content, CREATED) for name in names]
        for at in range(0, len(drafts), 5000):
            outcomes = await gather([metadata.add(draft) for draft in drafts[at : at + 5000]])
            self.assertEqual([o.error for o in outcomes if o.error is not None], [])
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        number = 0
        async for page in listing.list_objects(metadata, prefix="p/"):
            self.assertLessEqual(len(page), listing.PAGE_ROWS)
            got = [entry.name for entry in page if isinstance(entry, Version)]
            self.assertEqual(got, names[number : number + len(page)])
            number += len(page)
        self.assertEqual(number, len(names))
        number = 0
        async for versions in listing.history(metadata, "p.many"):
            self.assertEqual(
                [v.number for v in versions], list(range(number + 1, number + 1 + len(versions)))
            )
            number += len(versions)
        self.assertEqual(number, 10_000)
        rolled = [
            entry async for page in listing.list_objects(metadata, delimiter="/") for entry in page
        ]
        self.assertEqual(len(rolled), 2)
        self.assertLess(tracemalloc.get_traced_memory()[1], 16 << 20)
