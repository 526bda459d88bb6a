"""Packed shards of a real process: kills, drives whose volumes are gone, the option on and off."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from urllib.parse import quote

from tests.support.processes import BlockingStoreTestCase, Store, wait_until
from tests.support.writers import Versions, Writers, lacking, stored_versions

PACKED = ("--pack-below", "65536")


def volumes(store: Store, number: int) -> list[Path]:
    """The volumes of a drive."""
    folder = store.folder / str(number) / "volumes"
    return [path for path in folder.iterdir() if path.name.isdecimal()]


class PackedTests(BlockingStoreTestCase):
    """A store of six drives."""

    def setUp(self) -> None:
        """Choose a seed and tell it, so that a failure can be had again."""
        super().setUp()
        self.seed = random.randrange(1 << 32)
        print(f"seed {self.seed}", end=" ", flush=True)  # noqa: T201

    def write(self, store: Store, count: int, sizes: tuple[int, ...], seed: int) -> Versions:
        """Have so many objects written, by several clients, and kill the store in the middle."""
        writers = Writers(store, seed, 8, sizes=sizes)
        wait_until(f"{count} objects are stored", lambda: writers.count() >= count, 180.0)
        store.kill()
        acknowledged, _ = writers.join()
        return acknowledged

    def assert_there(self, store: Store, acknowledged: Versions) -> None:
        """Every acknowledged version is there, every byte of it."""
        self.assertEqual(lacking(acknowledged, stored_versions(store)), [])

    def test_kills(self) -> None:
        """Thousands of objects of 4 KiB survive kill -9, and their shards are no files."""
        store = self.start_store(*PACKED)
        acknowledged: Versions = {}
        for round_ in range(3):
            acknowledged |= self.write(store, 1000, (4096,), self.seed + round_)
            store.start()
            self.assert_there(store, acknowledged)
        self.assertEqual(store.shard_files(), [])
        wait_until("old volumes are put together", lambda: len(volumes(store, 1)) <= 2)
        self.assert_there(store, acknowledged)
        self.assertEqual(store.stop(), 0)
        # Of an older one, up to half may be what was allocated ahead when it was killed.
        self.assertLess(self.used(store), 2 * 1.66 * 4096 * len(acknowledged))
        store.start()
        self.assert_there(store, acknowledged)

    def test_room(self) -> None:
        """Objects of 4 KiB take 1.65 times their size when the store was stopped in order."""
        store = self.start_store(*PACKED)
        writers = Writers(store, self.seed, 8, sizes=(4096,))
        wait_until("1,000 objects are stored", lambda: writers.count() >= 1000, 180.0)
        self.assertEqual(store.stop(), 0)
        acknowledged, sent = writers.join()
        self.assertLess(self.used(store), 1.65 * 4096 * len(sent) + 6 * 4096)
        self.assertEqual([len(volumes(store, drive)) for drive in range(1, 7)], [1] * 6)
        store.start()
        self.assert_there(store, acknowledged)

    def used(self, store: Store) -> int:
        """What all volumes take of their disks."""
        return sum(
            path.stat().st_blocks * 512 for drive in range(1, 7) for path in volumes(store, drive)
        )

    def test_two_drives_lose_their_volumes(self) -> None:
        """All is readable at once, and the shards are made again on the same drives."""
        store = self.start_store(*PACKED)
        acknowledged = self.write(store, 500, (0, 36, 4000, 20_000, 65_535, 65_536), self.seed)
        store.start()
        for drive in (2, 5):
            shutil.rmtree(store.folder / str(drive) / "volumes")
        self.assert_there(store, acknowledged)
        self.wait_for_all_shards(store)
        store.restart()
        self.wait_for_all_shards(store)
        for drive in (1, 3):
            shutil.rmtree(store.folder / str(drive) / "volumes")
        self.assert_there(store, acknowledged)

    def wait_for_all_shards(self, store: Store) -> None:
        """Each of six shards of each object is somewhere."""
        for line in store.request("GET", "/versions/").body.splitlines():
            path = f"/locate/{quote(json.loads(line)['Hash'], safe='')}"

            def is_whole(path: str = path) -> bool:
                answer = store.request("GET", path)
                return answer.status == 200 and len(json.loads(answer.body)) == 6

            wait_until("six shards are found", is_whole, 120.0)

    def test_one_volume_lost_and_one_damaged(self) -> None:
        """What is read is right, and is made again where it was lost."""
        store = self.start_store(*PACKED)
        acknowledged = self.write(store, 500, (4000, 20_000), self.seed)
        store.start()
        chance = random.Random(self.seed)
        (path,) = volumes(store, 3)
        with open(path, "r+b") as file:
            for _ in range(100):
                file.seek(chance.randrange(path.stat().st_size))
                file.write(b"?")
        for path in volumes(store, 6):
            path.unlink()
        self.assert_there(store, acknowledged)
        wait_until("shards are made again", lambda: volumes(store, 6), 60.0)
        self.assert_there(store, acknowledged)

    def test_switched_on_and_off(self) -> None:
        """Objects of both kinds are there after a kill at any option, and few volumes are left."""
        store = self.make_store()
        acknowledged: Versions = {}
        for number in range(6):
            store.options[:] = PACKED if number % 2 else ()
            store.start()
            sizes = (0, 10, 5000, 65_535, 300_000)
            acknowledged |= self.write(store, 60, sizes, self.seed + number)
        store.options[:] = PACKED
        for _ in range(12):
            store.start()
            answer = store.request("PUT", "/objects/more", os.urandom(100))
            self.assertEqual(answer.status, 200)
            store.stop()
        store.start()
        wait_until("volumes are put together", lambda: len(volumes(store, 4)) <= 10)
        self.assert_there(store, acknowledged)
