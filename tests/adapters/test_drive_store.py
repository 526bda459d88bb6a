"""The files of a drive: what a start makes of what it finds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.open_shard import OpenShard
from dostore.adapters.temp_shard import TempShard
from dostore.core.names import ShardName
from dostore.errors import BadShard, NodeUnavailable
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample, sample

LARGE = 100 * SCHEME.stripe_size


class StoreCase(SyncTestCase):
    """A drive's folder."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.files = FaultyFiles()
        self.store = DriveStore(str(self.folder), self.files)
        self.store.prepare()

    def write(self, what: Sample, index: int) -> tuple[TempShard, ShardName]:
        """A shard in objects/."""
        temp = self.store.begin(index, what.content.scheme)
        self.store.append(temp, what.shards[index])
        self.store.finish(temp, what.content)
        self.store.settle(temp)
        return temp, self.store.publish(temp)

    def path(self, name: ShardName) -> Path:
        """Where a shard is."""
        return self.folder / "objects" / str(name)


class StartTests(StoreCase):
    """What a start finds."""

    def test_prepare(self) -> None:
        """The folders are made once, durably."""
        synced = self.files.calls.count(("sync_folder", str(self.folder)))
        self.store.prepare()
        self.assertEqual(synced, 1)
        self.assertEqual(self.files.calls.count(("sync_folder", str(self.folder))), 1)
        self.assertEqual(
            sorted(os.listdir(self.folder)), ["garbage", "log", "objects", "temp", "volumes"]
        )

    def test_temp_is_cleaned(self) -> None:
        """What a crash left in temp is removed; a file that goes by itself is no error."""
        for number in range(3):
            (self.folder / "temp" / str(number)).write_bytes(b"rest")
        self.files.fail(
            str(self.folder / "temp" / "1"), errno.ENOENT, operations={"unlink"}, times=1
        )
        self.assertEqual(self.store.clean_temp(), 3)
        self.assertEqual(os.listdir(self.folder / "temp"), ["1"])

    def test_scan(self) -> None:
        """Shards are found by their names; other files are left alone."""
        what = sample(100)
        names = [self.write(what, index)[1] for index in (0, 3)]
        self.store.remove(names[1], bad=False)
        (self.folder / "objects" / "README").write_text("not ours")
        (self.folder / "objects" / "folder").mkdir()
        index, removed = self.store.scan()
        self.assertEqual(index.page(what.content.hash.digest[0]), {what.content.hash: (0,)})
        self.assertEqual(removed.get(what.content.hash, 3), names[1])
        self.assertTrue((self.folder / "objects" / "README").exists())

    def test_twins(self) -> None:
        """Of two files for one shard, which a crash may leave, the later one is kept."""
        old, new = sample(LARGE), sample(LARGE, scheme=type(SCHEME)(1, 2, 65536))
        for first, then in ((old, new), (new, old)):
            names = [self.write(what, 0)[1] for what in (first, then)]
            self.assertNotEqual(*names)
            for seconds, name in enumerate(names):
                os.utime(self.folder / "objects" / str(name), (1e9 + seconds, 1e9 + seconds))
            index, _ = self.store.scan()
            self.assertEqual(index.get(old.content.hash, 0), names[1])
            self.assertEqual(os.listdir(self.folder / "objects"), [str(names[1])])

    def test_twins_one_of_which_is_damaged(self) -> None:
        """The later of two files does not count when it is not whole: then the other one does, as
        of a file and a packed shard."""
        old, new = sample(4000), sample(4000, scheme=type(SCHEME)(1, 2, 65536))
        for at in (0, -1):
            names = [self.write(what, 0)[1] for what in (old, new)]
            for seconds, name in enumerate(names):
                path = self.folder / "objects" / str(name)
                if name == names[1]:
                    data = bytearray(path.read_bytes())
                    data[at] ^= 1
                    path.write_bytes(data)
                os.utime(path, (1e9 + seconds, 1e9 + seconds))
            index, _ = self.store.scan()
            self.assertEqual(index.get(old.content.hash, 0), names[0])
            self.assertEqual(os.listdir(self.folder / "objects"), [str(names[0])])


class TempTests(StoreCase):
    """Shards that are being written."""

    def test_untouched(self) -> None:
        """A shard that is begun and dropped touches no disk."""
        calls = len(self.files.calls)
        temp = self.store.begin(0, SCHEME)
        self.assertEqual(len(self.files.calls), calls)
        self.store.drop(temp)
        self.assertEqual(os.listdir(self.folder / "temp"), [])

    def test_after_the_end(self) -> None:
        """Nothing is written to a shard that was dropped or settled; no second file is made."""
        what = sample(LARGE)
        dropped = self.store.begin(0, SCHEME)
        self.store.append(dropped, what.shards[0][:1])
        self.store.drop(dropped)
        self.store.drop(dropped)
        settled, _ = self.write(what, 1)
        for temp in (dropped, settled):
            error = self.assertRaises(OSError, self.store.append, temp, what.shards[0][:1])
            self.assertEqual(error.errno, errno.ECANCELED)
            self.assertRaises(OSError, self.store.finish, temp, what.content)
        self.assertEqual(os.listdir(self.folder / "temp"), [])

    def test_unsynced(self) -> None:
        """With syncing off nothing is synced; the rest is the same."""
        store = DriveStore(str(self.folder), self.files, sync=False)
        self.store = store
        del self.files.calls[:]
        self.write(sample(LARGE), 0)
        store.sync_objects()
        self.assertNotIn("sync", {call for call, _ in self.files.calls})
        self.assertNotIn("sync_folder", {call for call, _ in self.files.calls})
        self.assertEqual(len(store.scan()[0]), 1)


class OpenTests(StoreCase):
    """Open shards."""

    def test_ranges(self) -> None:
        """Blocks that are not there are bad, in memory and on disk."""
        for size in (1000, LARGE):
            what = sample(size)
            shard = self.store.open(self.write(what, 0)[1])
            count = SCHEME.stripe_count(size)
            self.assertEqual(shard.read(0, count), what.plain(0))
            self.assertRaises(BadShard, shard.read, 0, count + 1)
            self.assertRaises(BadShard, shard.read, count, 1)
            shard.close()

    def test_cached(self) -> None:
        """A small shard in memory is opened without a thread; its damage is found all the same."""
        what = sample(1000)
        name = self.write(what, 0)[1]
        shard = self.store.open_cached(name)
        if shard is not None:
            self.assertEqual(shard.read(0, 1), what.plain(0))
            data = bytearray(self.path(name).read_bytes())
            data[-1] ^= 1
            self.path(name).write_bytes(data)
            self.assertRaises(BadShard, self.store.open_cached, name)
        self.path(name).unlink()
        self.assertIs(self.store.open_cached(name), None)

    def test_closed(self) -> None:
        """A closed shard is not read; its descriptor is closed once."""
        shard = self.store.open(self.write(sample(LARGE), 0)[1])
        shard.close()
        shard.close()
        self.assertRaises(NodeUnavailable, shard.read, 0, 1)
        self.assertEqual([call for call, _ in self.files.calls].count("close"), 2)

    def test_closed_while_read(self) -> None:
        """Closing in the middle of a read takes effect when the read has ended."""
        what = sample(LARGE)
        name = self.write(what, 0)[1]

        class Closing(Files):
            """Closes the shard in the middle of reading it."""

            shard: OpenShard | None = None

            def pread(self, fd: int, size: int, offset: int) -> bytes:
                if self.shard is not None:
                    self.shard.close()
                return super().pread(fd, size, offset)

        files = Closing()
        shard = DriveStore(str(self.folder), files).open(name)
        files.shard = shard
        self.assertEqual(shard.read(0, 5), b"".join(what.shards[0][:5]))
        self.assertRaises(NodeUnavailable, shard.read, 0, 1)

    def test_dropped(self) -> None:
        """A shard that nobody closes is closed when nobody has it any more."""
        name = self.write(sample(LARGE), 0)[1]
        before = len(os.listdir("/proc/self/fd"))
        shard = self.store.open(name)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 1)
        del shard
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class GarbageTests(StoreCase):
    """What was removed."""

    def test_purge_by_the_time_of_removal(self) -> None:
        """An old shard that is removed now is kept as long as any."""
        name = self.write(sample(100), 0)[1]
        os.utime(self.path(name), (1.0, 1.0))
        self.store.remove(name, bad=False)
        self.assertEqual(self.store.purge(1000.0), [])
        self.assertEqual(self.store.purge(2.0**40), [str(name)])

    def test_brought_back_young(self) -> None:
        """What is given back counts as renewed."""
        name = self.write(sample(100), 0)[1]
        self.store.remove(name, bad=False)
        os.utime(self.folder / "garbage" / str(name), (1.0, 1.0))
        self.store.restore(name)
        self.assertGreater(self.store.modified([name])[0], 1.0)
        self.store.restore(name)
        self.path(name).unlink()
        self.assertRaises(FileNotFoundError, self.store.restore, name)

    def test_probe(self) -> None:
        """A probe leaves nothing, also when it fails."""
        self.store.probe()
        self.files.fail(str(self.folder), errno.ENOSPC, operations={"write"})
        self.assertRaises(OSError, self.store.probe)
        self.assertEqual(os.listdir(self.folder / "temp"), [])
