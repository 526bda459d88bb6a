"""Two drives and the database are lost under writers: no version is, and redundancy returns."""

from __future__ import annotations

import functools
import itertools
import random
import shutil
from pathlib import Path

from tests.support.processes import BlockingStoreTestCase, wait_until
from tests.support.shard_files import holders, is_full, require_whole
from tests.support.writers import Versions, Writers, lacking, stored_versions

OBJECTS = 1000
SHARDS = 6


class RedundancyTests(BlockingStoreTestCase):
    """Six drives in folders of their own, given with ``--drives``."""

    def setUp(self) -> None:
        """Choose a seed and tell it, so that a failure can be had again."""
        super().setUp()
        seed = random.randrange(1 << 32)
        self.chance = random.Random(seed)
        print(f"seed {seed}", end=" ", flush=True)  # noqa: T201
        self.base = Path(self.mktemp()).absolute()
        self.addCleanup(shutil.rmtree, self.base, ignore_errors=True)
        self.drives = [self.base / letter / "drive" for letter in "abcdef"]

    def test_drives_and_database_lost_while_writing(self) -> None:
        """Two drives are removed under 1,000 objects and running writers, then the process is
        killed and the database removed: each next start has every acknowledged version, with all
        of its bytes, and soon k + m shards of every content on as many drives.
        """
        store = self.make_store("--drives", ",".join(map(str, self.drives)))
        store.start()
        acknowledged: Versions = {}
        sent: set[str] = set()
        for round_ in range(2):
            writers = Writers(
                store, self.chance.randrange(1 << 32), 8, sizes=(0, 36, 4000, 20_000, 300_000)
            )
            wanted = OBJECTS if round_ == 0 else 50
            wait_until(
                f"{wanted} objects are stored",
                functools.partial(_has_written, writers, wanted),
                120.0,
            )
            # First the hardest: two of the drives that have the names.
            logged = [drive for drive in self.drives if list(drive.glob("meta/log.*"))]
            choice = logged if round_ == 0 else self.drives
            for drive in self.chance.choice(list(itertools.combinations(choice, 2))):
                remove(drive)
            store.kill()
            more, bodies = writers.join()
            acknowledged |= more
            sent |= bodies
            for path in store.folder.glob("metadata.sqlite*"):
                path.unlink()
            store.start()
            found = stored_versions(store)
            self.assertEqual(lacking(acknowledged, found), [])
            self.assertEqual(set(found.values()) - sent, set())
            wait_until("all shards are there", self.all_there, 90.0)
        self.assertEqual(store.stop(), 0)
        # Objects of the same bytes have one content.
        contents = set(acknowledged.values()) - {""}
        self.assertGreater(len(acknowledged), OBJECTS)
        self.assertGreaterEqual(require_whole(self.drives), len(contents))

    def all_there(self) -> bool:
        """Whether every content has k + m shards, going by the names of files."""
        return all(is_full(places, SHARDS) for places in holders(self.drives).values())


def remove(drive: Path) -> None:
    """``rm -rf``, until what is written meanwhile is gone too."""
    while drive.exists():
        shutil.rmtree(drive, ignore_errors=True)


def _has_written(writers: Writers, count: int) -> bool:
    return writers.count() >= count
