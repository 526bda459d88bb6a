"""kill -9 while writing, with and without lost drives: what was acknowledged is there."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import time

from tests.support.processes import BlockingStoreTestCase, Store, wait_until
from tests.support.writers import Versions, Writers, lacking, stored_versions

DATABASE = "metadata.sqlite"


class CrashTests(BlockingStoreTestCase):
    """A real process and SIGKILL."""

    def setUp(self) -> None:
        """Choose a seed and tell it, so that a failure can be had again."""
        super().setUp()
        self.seed = random.randrange(1 << 32)
        self.chance = random.Random(self.seed)
        print(f"seed {self.seed}", end=" ", flush=True)  # noqa: T201

    def check(self, store: Store, acknowledged: Versions, sent: set[str]) -> None:
        """All that was acknowledged is there, and nothing that was never sent."""
        found = stored_versions(store)
        self.assertEqual(lacking(acknowledged, found), [])
        self.assertEqual(set(found.values()) - sent, set())

    def test_kill_while_writing(self) -> None:
        """After each of several kills every version is old or new, and none is mixed or lost."""
        store = self.start_store()
        acknowledged: Versions = {}
        sent: set[str] = set()
        sizes = (0, 1, 36, 5000, 300_000, 1_500_000)
        for _ in range(4):
            seed = self.chance.randrange(1 << 32)
            writers = Writers(store, seed, 6, names=("a", "b", "c/d"), sizes=sizes)
            wait_until("a write is acknowledged", writers.count)
            time.sleep(self.chance.uniform(0.0, 1.0))
            store.kill()
            more, bodies = writers.join()
            acknowledged |= more
            sent |= bodies
            store.start()
            self.assertEqual(store.temp_files(), [])
            self.check(store, acknowledged, sent)

    def test_any_two_drives_and_the_database_lost(self) -> None:
        """A store of 1,000 objects is killed while it writes; then two drives and the database are
        gone, for each two: the next start has every acknowledged version, and every byte.
        """
        store = self.start_store()
        writers = Writers(store, self.seed, 8, sizes=(0, 36, 4000, 20_000))
        wait_until(
            "1,000 objects are stored", functools.partial(_has_written, writers, 1000), 120.0
        )
        store.kill()
        acknowledged, sent = writers.join()
        kept = store.folder.with_name("kept")
        self.addCleanup(shutil.rmtree, kept, ignore_errors=True)
        store.folder.rename(kept)
        for lost in itertools.combinations("123456", 2):
            ignore = shutil.ignore_patterns(f"{DATABASE}*", *lost)
            shutil.copytree(kept, store.folder, ignore=ignore, copy_function=_link_or_copy)
            store.start()
            self.check(store, acknowledged, sent)
            store.kill()
            shutil.rmtree(store.folder)

    def test_two_drives_and_the_database_lost_while_writing(self) -> None:
        """They go under the hands of a store that runs: it refuses writes, and after a kill the
        next start has every acknowledged version.
        """
        for lost in ("12", "36", "45"):
            store = self.start_store()
            writers = Writers(store, self.seed, 6, sizes=(36, 4000, 300_000))
            wait_until("some objects are stored", functools.partial(_has_written, writers, 50))
            for drive in lost:
                (store.folder / drive).rename(store.folder.with_name(f"lost-{drive}-{lost}"))
            for path in store.folder.glob(f"{DATABASE}*"):
                path.unlink()
            wait_until("writes are refused", writers.refused)
            store.kill()
            acknowledged, sent = writers.join()
            store.start()
            self.check(store, acknowledged, sent)
            store.kill()


def _has_written(writers: Writers, count: int) -> bool:
    return writers.count() >= count


def _link_or_copy(source: str, target: str) -> None:
    """Shard files never change; the rest does."""
    if os.path.basename(os.path.dirname(source)) == "objects":
        os.link(source, target)
    else:
        shutil.copyfile(source, target)
