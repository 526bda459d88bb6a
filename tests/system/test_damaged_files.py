"""Shard files that are removed and damaged by hand under a store that runs: F4 over HTTP."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.processes import BlockingStoreTestCase, Store, wait_until
from tests.support.shard_files import holders, is_full, read_shard, require_whole

#: One block a shard, several, and more than one read of 1 MiB takes.
SIZES = (36, 300_000, 5_000_000)


def overwrite(path: Path) -> None:
    """``echo errMsg > file``."""
    subprocess.run(["sh", "-c", 'echo errMsg > "$0"', str(path)], check=True)


def cut(path: Path) -> None:
    """Half of it is left."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Nothing is left."""
    os.truncate(path, 0)


def zero(path: Path) -> None:
    """As long as before, and all zeros."""
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    """One bit of it is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


#: What may befall one file.
DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "overwritten": overwrite,
    "cut short": cut,
    "emptied": empty,
    "zeroed": zero,
    "flipped": flip,
}


class DamagedFileTests(BlockingStoreTestCase):
    """One store; each test has objects of its own."""

    def setUp(self) -> None:
        """Start it, with objects of several sizes."""
        super().setUp()
        self.store: Store = self.start_store()
        self.drives = [self.store.folder / str(number) for number in range(1, 7)]
        self.bodies = {f"object-{size}": random.Random(size).randbytes(size) for size in SIZES}
        for name, body in self.bodies.items():
            self.assertEqual(self.store.request("PUT", f"/objects/{name}", body).status, 200)

    def files(self, name: str) -> list[Path]:
        """The shard files of an object, by index."""
        digest = self.store.request("HEAD", f"/objects/{name}").headers["digest"]
        content = digest.partition("=")[2].replace("/", "%2F")
        found = [path for path in self.store.shard_files() if path.name.startswith(content)]
        return sorted(found, key=lambda path: int(path.name.split(".")[1]))

    def check(self, name: str, what: str) -> None:
        """The object is read right, and all of its shards are back right after."""
        answer = self.store.request("GET", f"/objects/{name}")
        self.assertEqual((answer.status, answer.body == self.bodies[name]), (200, True), what)
        wait_until(f"{name} is whole after {what}", lambda: self.is_whole(name))

    def is_whole(self, name: str) -> bool:
        """Whether the object has six shard files without a flaw."""
        try:
            return [read_shard(path).index for path in self.files(name)] == list(range(6))
        except (AssertionError, OSError):
            # Still damaged, or about to be moved out of the way.
            return False

    def test_each_damage(self) -> None:
        """Whatever befalls two data shards, reads give every byte and bring the files back."""
        for name in self.bodies:
            for what, damage in DAMAGES.items():
                for path in self.files(name)[:2]:
                    damage(path)
                self.check(name, what)
        self.assertTrue(all(is_full(each, 6) for each in holders(self.drives).values()))
        self.assertEqual(require_whole(self.drives), len(SIZES))

    def test_swapped(self) -> None:
        """Two files that have changed names, within a content and between contents, are found."""
        for name, other in (
            ("object-300000", "object-300000"),
            ("object-300000", "object-5000000"),
        ):
            one, another = self.files(name)[0], self.files(other)[1]
            data = one.read_bytes()
            one.write_bytes(another.read_bytes())
            another.write_bytes(data)
            self.check(name, "a swap")
            self.check(other, "a swap")
        self.assertEqual(require_whole(self.drives), len(SIZES))

    def test_three_removed(self) -> None:
        """404 that counts what is there and what is needed, others are served; a PUT of the same
        content makes it whole again.
        """
        name, *others = self.bodies
        for damaged in (name, others[1]):
            for path in self.files(damaged)[1:4]:
                path.unlink()
            for _ in range(2):
                answer = self.store.request("GET", f"/objects/{damaged}")
                self.assertEqual(answer.status, 404, answer.body)
                told = json.loads(answer.body)
                self.assertRegex(told["detail"], r"^3 of the content's 6 shards .* 4 are needed")
        self.check(others[0], "the loss of others")
        body = self.bodies[name]
        self.assertEqual(self.store.request("PUT", f"/objects/{name}", body).status, 200)
        self.check(name, "it was stored again")
