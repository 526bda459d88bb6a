"""A drive whose shards are packed, and whose process may end at any time."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters import append_log, volume_emptying, volumes
from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.node_local import DriveNode
from dostore.adapters.volume_emptying import Emptying, next_to_empty
from dostore.adapters.volumes import Volumes
from dostore.errors import ShardMissing
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.shards import Sample, sample
from tests.support.workers import InlineWorkers

#: Of a volume, so that much happens to it.
VOLUME_BYTES = 4000


class VolumeCase(SyncTestCase):
    """One, with small volumes."""

    def setUp(self) -> None:
        """An empty one."""
        super().setUp()
        self.patch(volumes, "VOLUME_BYTES", VOLUME_BYTES)
        self.patch(volumes, "_HINTED", 3)
        self.patch(volumes, "_SPARE_BYTES", 0)
        self.patch(append_log, "_ALLOCATED_BYTES", 1000)
        self.patch(volume_emptying, "SMALL_BYTES", 0)
        self.patch(volume_emptying, "_STEP_RECORDS", 2)
        self.root = Path(self.mktemp()).absolute()
        self.folder = self.root / "drive"
        self.folder.mkdir(parents=True)
        self.files = self.make_files()
        self.now = 1e9
        self.pack_below = 65536
        self.filled = 1000
        self.troubles = 0
        self.node = self.start_at(self.folder, self.files)
        self.addCleanup(lambda: self.node.store.close())

    def make_files(self) -> Any:
        """The drive's."""
        return FaultyFiles(durable=False)

    def start_at(self, folder: Path, files: Files) -> DriveNode:
        """A start of the process with the drive at a folder."""
        store = DriveStore(str(folder), files, now=lambda: self.now, pack_below=self.pack_below)
        store.prepare()
        node = DriveNode(
            "drive-1", store, InlineWorkers(), self.trouble, clock=Clock(), now=lambda: self.now
        )
        node.come(*store.scan())
        return node

    def trouble(self, node: DriveNode) -> None:
        """Told when the drive is worse than its state says."""
        self.troubles += 1

    def restart(self) -> DriveNode:
        """What kill -9 does, and a start after it."""
        self.node.store.close()
        self.node = self.start_at(self.folder, self.files)
        return self.node

    @property
    def volumes(self) -> Volumes:
        """The drive's."""
        return self.node.store.volumes

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """What it returns."""
        return self.successResultOf(Deferred.fromCoroutine(call))

    def assert_fails(self, call: Coroutine[Any, Any, Any], error: type[Exception]) -> None:
        """It fails so."""
        self.failureResultOf(Deferred.fromCoroutine(call), error)

    def put(self, *samples: Sample) -> None:
        """Put shard 0 of each."""
        for what in samples:
            self.do(self.node.put(what.content, 0, what.shards[0]))

    def put_some(self, *seeds: int, size: int = 1000) -> list[Sample]:
        """Put shard 0 of contents, which are returned."""
        samples = [sample(size + seed, seed) for seed in seeds]
        self.put(*samples)
        return samples

    def delete(self, *samples: Sample) -> None:
        """Remove them; they can be brought back."""
        for what in samples:
            self.do(self.node.delete(what.content.hash))

    def next_volume(self) -> None:
        """Put shards until another volume begins with one."""
        numbers = self.volumes.log.numbers
        before = len(numbers)
        while len(numbers) == before:
            self.filled += 1
            self.put(sample(900, self.filled))

    def read(self, node: DriveNode, what: Sample) -> bytes:
        """All of shard 0."""
        reader = self.do(node.open(what.content.hash, 0))
        blocks = what.content.scheme.stripe_count(what.content.size)
        data: bytes = self.do(reader.read(0, blocks))
        self.do(reader.close())
        return data

    def assert_there(self, *samples: Sample) -> None:
        """They are read as they were put."""
        for what in samples:
            self.assertEqual(self.read(self.node, what), what.plain(0))

    def assert_gone(self, *samples: Sample) -> None:
        """They are not there, nor can they be given back."""
        for what in samples:
            self.assertEqual(list(self.node.held(what.content.hash)), [])
            self.assert_fails(self.node.open(what.content.hash, 0), ShardMissing)

    def empty_all(self, node: DriveNode) -> int:
        """Empty volumes as long as there is one to be emptied; how many."""
        count = 0
        while (number := next_to_empty(node.store.volumes)) is not None:
            self.empty(node, number)
            count += 1
            self.assertLess(count, 100)
        return count

    def empty(self, node: DriveNode, number: int) -> None:
        """Empty a volume."""
        emptying = Emptying(node.store.volumes, number)
        while emptying.step():
            pass

    def names(self, folder: str = "volumes") -> list[str]:
        """What is in a folder."""
        return sorted(os.listdir(self.folder / folder))

    def damage(self, path: Path, *offsets: int) -> None:
        """Change bytes of a file."""
        data = bytearray(path.read_bytes())
        for offset in offsets:
            data[offset] ^= 1
        path.write_bytes(data)

    def place(self, what: Sample) -> tuple[Path, int]:
        """Where the record of shard 0 is: its file and offset."""
        place = self.volumes.find(what.content.hash, 0)
        assert place is not None
        return self.folder / "volumes" / str(place.volume), place.offset
