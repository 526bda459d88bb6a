"""The journal of a drive: what a start makes of it, and what happens when it fails."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters import journal
from dostore.adapters.drive_state import DriveState
from dostore.adapters.drive_store import DriveStore
from dostore.adapters.node_local import DriveNode
from dostore.core.scheme import Scheme
from dostore.errors import NodeUnavailable, NoSpace, ShardMissing
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample, sample
from tests.support.workers import InlineWorkers


class JournalCase(SyncTestCase):
    """A drive whose process may end at any time."""

    def setUp(self) -> None:
        """An empty one."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.files = FaultyFiles()
        self.now = 1e9
        self.store: DriveStore | None = None
        self.addCleanup(self.end)
        self.node = self.start()

    def end(self) -> None:
        """What kill -9 does."""
        if self.store is not None:
            self.store.journal.close()

    def start(self) -> DriveNode:
        """A start."""
        self.end()
        self.store = DriveStore(str(self.folder), self.files, now=lambda: self.now)
        self.store.prepare()
        node = DriveNode("drive-1", self.store, InlineWorkers(), clock=Clock(), now=time.time)
        node.come(*self.store.scan())
        self.node = node
        return node

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """What it returns."""
        return self.successResultOf(Deferred.fromCoroutine(call))

    def assert_fails(self, call: Coroutine[Any, Any, Any], error: type[Exception]) -> None:
        """It fails so."""
        self.failureResultOf(Deferred.fromCoroutine(call), error)

    def put(self, *seeds: int) -> list[Sample]:
        """Put shard 0 of contents."""
        samples = [sample(1000 + seed, seed) for seed in seeds]
        for what in samples:
            self.do(self.node.put(what.content, 0, what.shards[0]))
        return samples

    def path(self, what: Sample, folder: str = "objects") -> Path:
        """Where its file is."""
        prefix = f"{what.content.hash.escaped}.0."
        (path,) = [p for p in (self.folder / folder).iterdir() if p.name.startswith(prefix)]
        return path

    def assert_there(self, *samples: Sample) -> None:
        """They are read as they were put."""
        for what in samples:
            reader = self.do(self.node.open(what.content.hash, 0))
            self.assertEqual(self.do(reader.read(0, 1)), what.plain(0))

    def assert_gone(self, *samples: Sample) -> None:
        """They are not there, nor in garbage."""
        for what in samples:
            self.assert_fails(self.node.open(what.content.hash, 0), ShardMissing)

    def names(self, folder: str) -> list[str]:
        """What is in a folder."""
        return sorted(os.listdir(self.folder / folder))


class StartTests(JournalCase):
    """What a start makes of a log."""

    def test_files_are_put_right(self) -> None:
        """A file that is not as the log says is written again; one that is, is left alone."""
        samples = self.put(*range(5))
        paths = [self.path(what) for what in samples]
        paths[0].unlink()
        paths[1].write_bytes(b"")
        paths[2].write_bytes(bytes(paths[2].stat().st_size))
        paths[3].write_bytes(paths[3].read_bytes() + b"more")
        untouched = paths[4].stat()
        self.start()
        self.assert_there(*samples)
        self.assertEqual(paths[4].stat(), untouched)
        self.assertEqual(self.names("log"), ["1"])

    def test_a_drive_that_cannot_be_read_in_one_place(self) -> None:
        """The same when a file is where the drive has a bad sector."""
        (what,) = self.put(1)
        self.files.fail(str(self.path(what)), errno.EIO, operations={"pread"})
        self.start()
        self.files.lift_all()
        self.assert_there(what)

    def test_cut(self) -> None:
        """A checkpoint forgets the log; what is then damaged is found as ever."""
        samples = self.put(1, 2)
        self.do(self.node.checkpoint())
        self.assertEqual(self.names("log"), ["free"])
        self.path(samples[0]).unlink()
        self.start()
        self.assert_gone(samples[0])
        self.assert_there(samples[1])

    def test_used_again(self) -> None:
        """A later segment in the same file does not bring back what an older one told of."""
        samples = self.put(*range(10))
        self.do(self.node.checkpoint())
        for what in samples:
            self.path(what).unlink()
        (new,) = self.put(20)
        self.assertEqual(self.names("log"), ["2"])
        self.path(new).unlink()
        self.start()
        self.assert_there(new)
        self.assert_gone(*samples)

    def test_several_segments(self) -> None:
        """Every start begins a new one; all of them count, the last the most."""
        first = self.put(1, 2)
        self.start()
        second = self.put(3)
        self.do(self.node.discard(first[0].content.hash, 0))
        self.start()
        third = self.put(4)
        self.assertEqual(self.names("log"), ["1", "2", "3"])
        for path in (self.folder / "objects").iterdir():
            path.unlink()
        self.start()
        self.assert_there(first[1], *second, *third)
        self.assert_gone(first[0])
        self.do(self.node.checkpoint())
        self.assertEqual(self.names("log"), ["free"])
        self.assert_there(first[1], *second, *third)

    def test_removed(self) -> None:
        """What was deleted, discarded or purged since is not brought back; garbage gives back."""
        deleted, discarded, purged, again, restored = self.put(*range(5))
        for what in (purged, again):
            self.do(self.node.delete(what.content.hash))
        self.put(3)
        self.assertEqual(self.do(self.node.purge(2.0**40)), 2)
        self.do(self.node.delete(deleted.content.hash))
        self.do(self.node.discard(discarded.content.hash, 0))
        self.do(self.node.delete(restored.content.hash))
        self.assert_there(restored)
        objects = self.names("objects")
        self.path(deleted, "garbage").write_bytes(b"")
        self.path(again).unlink()
        self.path(restored).write_bytes(b"")
        self.start()
        self.assertEqual(self.names("objects"), objects)
        self.assert_there(again, restored, deleted)
        self.assert_gone(discarded, purged)

    def test_replaced(self) -> None:
        """A shard that was cut another way since is not joined by the one before."""
        old, new = sample(10_000), sample(10_000, scheme=Scheme(4, 2, 65536))
        for what in (old, new):
            self.do(self.node.put(what.content, 0, what.shards[0]))
        self.start()
        self.assertEqual(len(self.names("objects")), 1)
        reader = self.do(self.node.open(new.content.hash, 0))
        self.assertEqual(reader.info.content, new.content)

    def damage(self, *offsets: int) -> None:
        """Change bytes of the first segment."""
        path = self.folder / "log" / "1"
        data = bytearray(path.read_bytes())
        for offset in offsets:
            data[offset] ^= 1
        path.write_bytes(data)

    def test_by_another_scheme(self) -> None:
        """Of a shard that was written again by another scheme, the last one counts, also when the
        crash took the word of the first one's removal, and whichever file it took.
        """
        schemes = (SCHEME, Scheme(1, 2, SCHEME.block_size))
        for number, lost in enumerate(("first", "last", "both", "none")):
            first, last = (sample(1000, number, scheme) for scheme in schemes)
            paths, files = [], []
            for what in (first, last):
                self.now += 1
                with mock.patch.object(DriveStore, "unlink_object"):
                    self.do(self.node.put(what.content, 0, what.shards[0]))
                name = self.store.build(what.content, 0, what.shards[0])[0] if self.store else ""
                paths.append(self.folder / "objects" / str(name))
                files.append(paths[-1].read_bytes())
                os.utime(paths[-1], (self.now, self.now))
            for which, path in zip(("first", "last"), paths, strict=True):
                if lost in (which, "both"):
                    path.unlink()
            self.start()
            self.assert_there(last)
            self.assertFalse(paths[0].exists())
            self.assertEqual(paths[1].read_bytes(), files[1])

    def test_damaged(self) -> None:
        """A record that was synced and is damaged is told of; the others count."""
        samples = self.put(*range(4))
        size = (self.folder / "objects" / self.names("objects")[0]).stat().st_size
        self.end()
        # In the body of the first, and the head of the third.
        self.damage(40 + 120 + 3, 40 + 2 * (120 + -(-size // 8) * 8) + 5)
        for path in (self.folder / "objects").iterdir():
            path.unlink()
        lines = self.logged()
        self.start()
        self.assertEqual(["damaged from byte" in line for line in lines], [True] * 2)
        self.assert_there(samples[1], samples[3])
        self.assert_gone(samples[0], samples[2])

    def test_torn(self) -> None:
        """A torn end was never told to anybody: no word about it."""
        samples = self.put(*range(2))
        self.end()
        self.damage(40 + 120 + -(-self.path(samples[0]).stat().st_size // 8) * 8 + 7)
        self.path(samples[1]).unlink()
        lines = self.logged()
        self.start()
        self.assert_there(samples[0])
        self.assert_gone(samples[1])
        self.assertEqual(lines, [])

    def test_bad_sector(self) -> None:
        """Where the drive cannot read the log, the rest of it counts."""
        samples = self.put(*range(3))
        self.end()
        self.path(samples[0]).unlink()
        self.path(samples[2]).unlink()
        self.files.fail(str(self.folder / "log"), errno.EIO, operations={"pread"}, after=0, times=1)
        self.start()
        self.assert_there(*samples)

    def test_no_header(self) -> None:
        """A segment without a header holds nothing; a file that is none is left alone."""
        (self.folder / "log" / "7").write_bytes(bytes(1000))
        (self.folder / "log" / "notes").write_bytes(b"mine")
        self.start()
        self.put(1)
        self.assertEqual(self.names("log"), ["7", "8", "notes"])
        self.do(self.node.checkpoint())
        self.assertEqual(self.names("log"), ["free", "notes"])

    def test_full_while_put_right(self) -> None:
        """A start on a full drive goes on; the next checkpoint that can writes what is missing."""
        samples = self.put(1, 2)
        self.path(samples[0]).unlink()
        self.files.fail(str(self.folder / "log"), errno.ENOSPC, operations={"create"})
        self.start()
        self.assert_gone(samples[0])
        self.assert_there(samples[1])
        self.assert_fails(self.node.checkpoint(), NoSpace)
        self.assertEqual(self.names("log"), ["1"])
        self.files.lift_all()
        self.node.recover()
        self.do(self.node.checkpoint())
        self.assertTrue(self.path(samples[0]).stat().st_size > 1000 / 4)


class FailureTests(JournalCase):
    """System calls that fail."""

    def test_put_fails(self) -> None:
        """Whatever fails, the put is told, and a start does not bring back what it was told of."""
        for operation, where, error in (
            ("create", "log", NoSpace),
            ("write", "log", NoSpace),
            ("sync", "log", NoSpace),
            ("sync_folder", "log", NoSpace),
            ("create", "objects", NoSpace),
            ("write", "objects", NoSpace),
        ):
            self.files.fail(str(self.folder / where), errno.ENOSPC, operations={operation}, times=1)
            what = sample(500, seed=len(operation + where))
            self.assert_fails(self.node.put(what.content, 0, what.shards[0]), error)
            self.assertEqual(self.node.state, DriveState.READ_ONLY)
            self.assertEqual(self.names("objects"), [], (operation, where))
            self.node.recover()
            if operation != "sync":
                self.start()
                self.assert_gone(what)
            self.do(self.node.checkpoint())

    def test_put_again_fails(self) -> None:
        """What was there before is not lost with a put of the same that fails."""
        (what,) = self.put(1)
        self.files.fail(str(self.folder / "log" / "new"), errno.ENOSPC, operations={"write"})
        self.assert_fails(self.node.put(what.content, 0, what.shards[0]), NoSpace)
        self.node.recover()
        self.assert_there(what)
        self.files.lift_all()
        self.start()
        self.assert_there(what)

    def test_checkpoint_fails(self) -> None:
        """The log is kept, the drive takes no writes, and all is written anew before the next."""
        samples = self.put(1, 2)
        fault = self.files.fail(str(self.folder), errno.EIO, operations={"sync"}, times=1)
        self.assert_fails(self.node.checkpoint(), NodeUnavailable)
        self.assertEqual((fault.met, self.node.state), (1, DriveState.READ_ONLY))
        self.assertEqual(self.names("log"), ["1"])
        self.node.recover()
        samples += self.put(3)
        inodes = [self.path(what).stat().st_ino for what in samples]
        self.do(self.node.checkpoint())
        self.assertEqual(len(self.names("log")), 1)
        for what, inode in zip(samples, inodes, strict=True):
            self.assertNotEqual(self.path(what).stat().st_ino, inode)
        self.assert_there(*samples)

    def test_many_files(self) -> None:
        """Many files are synced with their file system; each, where that tells of no errors."""
        for known in (True, False):
            samples = self.put(*range(300))
            for what in samples[:3]:
                self.do(self.node.delete(what.content.hash))
            self.do(self.node.discard(samples[3].content.hash, 0))
            del self.files.calls[:]
            with mock.patch("dostore.adapters.files._KERNEL", (5, 8) if known else (5, 7)):
                self.do(self.node.checkpoint())
            synced = [path for call, path in self.files.calls if call == "sync"]
            self.assertEqual(synced[0], str(self.folder / "log"))
            self.assertEqual(len(synced), 1 if known else 1 + 299)

    def test_removing_from_a_full_drive(self) -> None:
        """What cannot be told to the log makes the log be forgotten instead."""
        samples = self.put(1, 2)
        self.files.fail(str(self.folder / "log"), errno.ENOSPC, operations={"write"})
        self.do(self.node.delete(samples[0].content.hash))
        self.assertEqual(self.names("log"), ["free"])
        self.start()
        self.assertEqual(len(self.names("objects")), 1)

    def test_removing_from_a_drive_that_fails(self) -> None:
        """Another error of the log is told."""
        (what,) = self.put(1)
        self.files.fail(str(self.folder / "log"), errno.EIO, operations={"write"})
        self.assert_fails(self.node.delete(what.content.hash), NodeUnavailable)

    def test_due(self) -> None:
        """A log is cut when it is large, or some time after its first record; not when empty."""
        kept = self.node.store.journal
        self.assertFalse(kept.is_due())
        self.put(1)
        self.assertFalse(kept.is_due())
        self.now += journal.LOG_AGE_S
        self.assertTrue(kept.is_due())
        self.do(self.node.checkpoint())
        self.assertFalse(kept.is_due())
        self.do(self.node.checkpoint())
        self.assertEqual(kept.checkpoints, 1)
        self.put(2)
        self.patch(journal, "LOG_BYTES", kept.size)
        self.assertTrue(kept.is_due())
        # What a start has found is cut soon.
        self.patch(journal, "LOG_BYTES", 1 << 30)
        self.assertTrue(self.start().store.journal.is_due())
