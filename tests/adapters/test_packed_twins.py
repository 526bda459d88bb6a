"""A shard in a volume and in a file as well, as a crash between the two leaves it."""

from __future__ import annotations

import os
from pathlib import Path

from dostore.core.scheme import Scheme
from tests.support.shards import SCHEME, Sample, sample
from tests.support.volumes import VolumeCase


class TwinTests(VolumeCase):
    """What the next start makes of them."""

    def twins(self, packed: Sample, filed: Sample, age_s: float) -> Path:
        """A packed shard, and a file that was written ``age_s`` before it; the file."""
        self.do(self.node.put(packed.content, 0, packed.shards[0]))
        store = self.node.store
        name, data = store.build(filed.content, 0, filed.shards[0])
        path = self.folder / "objects" / str(name)
        path.write_bytes(data)
        os.utime(path, (self.now - age_s, self.now - age_s))
        return path

    def read_shard(self, what: Sample) -> bytes:
        """All of the shard, as it is opened."""
        reader = self.do(self.node.open(what.content.hash, 0))
        self.info = reader.info
        data: bytes = self.do(reader.read(0, len(what.shards[0])))
        return data

    def test_by_another_scheme(self) -> None:
        """Of two by different schemes the later one stays: it is what a write has made sure of."""
        for number, (packed, filed) in enumerate(
            ((SCHEME, Scheme(1, 2, 4096)), (Scheme(1, 2, 4096), SCHEME))
        ):
            for age_s in (5.0, -5.0):
                old = sample(1000, 2 * number + (age_s > 0), packed)
                other = sample(1000, 2 * number + (age_s > 0), filed)
                path = self.twins(old, other, age_s)
                self.restart()
                kept = old if age_s > 0 else other
                self.assertEqual(self.read_shard(kept), kept.plain(0))
                self.assertEqual(self.info.content, kept.content)
                self.assertEqual(path.exists(), age_s < 0)

    def test_the_same(self) -> None:
        """Of the same shard the packed one stays, whichever is older."""
        for seed, age_s in enumerate((5.0, -5.0)):
            what = sample(1000, seed)
            path = self.twins(what, what, age_s)
            self.restart()
            self.assertEqual(self.read_shard(what), what.plain(0))
            self.assertFalse(path.exists())

    def test_a_damaged_file(self) -> None:
        """A later file that is damaged does not take the place of what is packed."""
        what, other = sample(1000), sample(1000, scheme=Scheme(1, 2, 4096))
        path = self.twins(what, other, -5.0)
        path.write_bytes(path.read_bytes()[:-1])
        os.utime(path, (self.now + 5, self.now + 5))
        self.restart()
        self.assertEqual(self.read_shard(what), what.plain(0))
        self.assertEqual(self.info.content, what.content)
        self.assertFalse(path.exists())
