"""What compression saves and costs on the drives of a real process."""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import Answer, BlockingStoreTestCase, Store
from tests.support.shard_files import read_shard

MIB = 1 << 20
SIZE = 100 * MIB


def du_bytes(folders: list[Path]) -> int:
    """What all files in some folders take of their disks."""
    return sum(
        path.stat().st_blocks * 512
        for folder in folders
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink()
    )


def noise() -> Iterator[bytes]:
    """100 MiB of random bytes, the same each time."""
    chance = random.Random(3)
    for _ in range(100):
        yield chance.randbytes(MIB)


class CompressionTests(BlockingStoreTestCase):
    """A store of six drives."""

    def drives(self, store: Store) -> list[Path]:
        """Its drive folders."""
        return [store.folder / str(number) for number in range(1, 7)]

    def put(self, store: Store, name: str, chunks: Iterator[bytes]) -> None:
        """Store 100 MiB."""
        answer = store.request(
            "PUT", f"/objects/{name}", chunks, {"Content-Length": str(SIZE)}, timeout_s=300.0
        )
        self.assertEqual(answer.status, 200, answer.body)

    def assert_zeros(self, answer: Answer) -> None:
        """An answer is 100 MiB of zeros."""
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.body == bytes(SIZE))

    def test_zeros(self) -> None:
        """100 MiB of zeros take less than 1 MB on all six drives together and on the wire, and come
        back as they were: with and without the option, whole and in part, when two drives are lost.
        """
        store = self.make_store("--compression", "gzip")
        store.start()
        self.put(store, "zeros", iter([bytes(MIB)] * 100))
        self.assertLess(du_bytes(self.drives(store)), 1_000_000)
        answer = store.request("GET", "/objects/zeros", headers={"Accept-Encoding": "gzip"})
        self.assertEqual((answer.status, answer.headers["content-encoding"]), (200, "gzip"))
        self.assertLess(len(answer.body), 1_000_000)
        self.assertTrue(zlib.decompress(answer.body, wbits=31) == bytes(SIZE))
        self.assert_zeros(store.request("GET", "/objects/zeros"))
        for path in store.shard_files():
            read_shard(path)
        self.assertEqual(store.stop(), 0)
        del store.options[-2:]
        store.start()
        self.assert_zeros(store.request("GET", "/objects/zeros"))
        for path in store.shard_files()[::3]:
            path.unlink()
        part = store.request(
            "GET", "/objects/zeros", headers={"Range": f"bytes={SIZE // 2}-{SIZE // 2 + 9}"}
        )
        self.assertEqual((part.status, part.body), (206, bytes(10)))
        self.assert_zeros(store.request("GET", "/objects/zeros"))

    def test_noise(self) -> None:
        """Random bytes take no more than 1 % more room than they and their parity have."""
        store = self.start_store("--compression", "gzip", "--compression-level", "3")
        before = du_bytes(self.drives(store))
        self.put(store, "noise", noise())
        self.assertLess(du_bytes(self.drives(store)) - before, 1.01 * SIZE * 6 / 4)
        answer = store.request("GET", "/objects/noise")
        expected = hashlib.sha256()
        for chunk in noise():
            expected.update(chunk)
        self.assertEqual(hashlib.sha256(answer.body).digest(), expected.digest())

    def test_switched_on_and_off(self) -> None:
        """Objects of both kinds are there after a kill at any option, small ones too."""
        store = self.make_store()
        chance = random.Random(4)
        text = b"".join(b"%d: a line of a log\n" % number for number in range(200_000))
        objects: dict[str, bytes] = {}
        for number, options in enumerate(
            ([], ["--compression", "gzip"], ["--compression", "none"])
        ):
            store.options[:] = options
            store.start()
            for size in (10, 3000, 200_000, 3_000_000):
                for kind, data in (("text", text), ("noise", chance.randbytes(size))):
                    name = f"{number}-{kind}-{size}"
                    objects[name] = os.urandom(4) + data[: size - 4]
                    answer = store.request("PUT", f"/objects/{name}", objects[name])
                    self.assertEqual(answer.status, 200)
            store.kill()
        store.start()
        for name, data in objects.items():
            self.assertTrue(store.request("GET", f"/objects/{name}").body == data, name)
        sizes = {path: path.stat().st_size for path in store.shard_files()}
        self.assertEqual(len(sizes), 6 * len(objects))
        for path in sizes:
            read_shard(path)
