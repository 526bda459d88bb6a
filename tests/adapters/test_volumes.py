"""Packed shards of a drive: what is on it, what a start makes of it, what happens in a failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.internet.defer import Deferred

from dostore.adapters import volumes
from dostore.adapters.drive_state import DriveState
from dostore.adapters.volume_files import KEPT_OPEN
from dostore.core.scheme import Scheme
from dostore.core.shardlog import SegmentHeader
from dostore.core.volumelog import HEAD_BYTES, HINT_BYTES
from dostore.core.window import Window
from dostore.errors import BadShard, ConfigError, NodeUnavailable, NoSpace, ShardMissing
from tests.support.shards import sample, sample_of
from tests.support.volumes import VolumeCase


class KeptTests(VolumeCase):
    """What is on the drive."""

    def test_no_files(self) -> None:
        """Shards of small contents are in a volume, with one sync and no file; others are files."""
        self.do(self.node.put((small := sample(100)).content, 0, small.shards[0]))
        before = len(self.files.calls)
        samples = self.put_some(1, 2, 3)
        calls = [call for call, _ in self.files.calls[before:]]
        # A write more for the hint.
        self.assertEqual((calls.count("write"), calls.count("sync")), (3 + 1, 3))
        self.assertEqual((self.names("objects"), self.names("log")), ([], []))
        large = sample(65536)
        self.put(large)
        self.assertEqual((len(self.names("objects")), self.names("log")), (1, ["1"]))
        self.assert_there(small, large, *samples)
        self.assertEqual(self.node.contents, 5)

    def test_room(self) -> None:
        """Contents of 4 KiB take 1.64 times their size; what is allocated ahead is given back."""
        self.patch(volumes, "VOLUME_BYTES", 1 << 20)
        count = 0
        while len(self.volumes.log.numbers) < 2:
            self.put(sample(4096, count, Scheme()))
            count += 1
        size = os.stat(self.folder / "volumes" / "1").st_size
        self.assertLess(size * 6 / (4096 * (count - 1)), 1.645)
        self.assertEqual(self.names(), ["1", "1.hint", "2"])

    def test_stopped(self) -> None:
        """What is allocated ahead is given back when the process is stopped in order."""
        samples = self.put_some(1, 2)
        end = self.volumes.log.end
        self.do(self.node.checkpoint(last=True))
        self.do(self.node.checkpoint(last=True))
        self.assertEqual(os.stat(self.folder / "volumes" / "1").st_size, end)
        self.restart()
        self.assert_there(*samples)

    def test_written_in_parts(self) -> None:
        """So is what is written in parts; nothing stays in temp/, and nothing was synced there."""
        what = sample(5000)

        async def write() -> None:
            writer = await self.node.begin(0, what.content.scheme)
            for block in what.shards[0]:
                await writer.write([block])
            await writer.commit(what.content)

        self.do(write())
        self.assert_there(what)
        self.assertEqual((self.names("objects"), self.names("temp")), ([], []))
        synced = {path.split("/")[-2] for call, path in self.files.calls if call == "sync"}
        self.assertEqual(synced, {"volumes"})

    def test_without_sync(self) -> None:
        """When shards are not synced, those in volumes are not either, until hints tell of them."""
        self.node.store.close()
        self.node.store.volumes = volumes.Volumes(
            str(self.folder), self.files, lambda: self.now, sync=False
        )
        self.node.packed._volumes = self.volumes
        self.volumes.load()
        samples = self.put_some(1)
        before = len(self.files.calls)
        samples += self.put_some(2)
        self.assertNotIn("sync", [call for call, _ in self.files.calls[before:]])
        samples += self.put_some(3)
        self.assertIn("sync", [call for call, _ in self.files.calls[before:]])
        self.restart()
        self.assert_there(*samples)

    def test_compressed(self) -> None:
        """What shrinks is compressed, with one block or several."""
        self.node.store._compression_level = 1
        samples = [sample_of(bytes([n]) * size) for n, size in enumerate((4000, 60_000))]
        self.put(*samples)
        self.assertLess(self.volumes.log.end, 1000)
        self.restart()
        self.assert_there(*samples)

    def test_read_where_it_is_cached(self) -> None:
        """What is in the system's memory is read without a thread once its volume is open."""
        (what,) = self.put_some(1)
        self.assert_there(what)
        place = self.volumes.find(what.content.hash, 0)
        assert place is not None
        self.assertIsNotNone(self.volumes.read_cached(place))
        self.files.fail(str(self.folder), errno.EIO, operations={"pread_cached"}, times=1)
        self.assertIsNone(self.volumes.read_cached(place))

    def test_read_now(self) -> None:
        """One of a plain block goes straight to where it belongs; others have to be opened."""
        plain, shrunk, two = sample(4000), sample_of(bytes(4000)), sample(5 * 4096)
        self.put(plain, two)
        self.node.store._compression_level = 1
        self.put(shrunk)
        for what, now in ((plain, True), (shrunk, False), (two, False)):
            self.assertEqual(self.node.readable(what.content.hash), (0,))
            window = Window.of_shard(what.content, 0)
            assert window is not None

            def read(window: Window = window) -> tuple[bool, bytes]:
                block = bytearray(window.size)
                return self.node.read_now(0, window, memoryview(block)), bytes(block)

            if what is plain:
                self.assertFalse(read()[0])
            self.assert_there(what)
            self.assertEqual(read()[0], now)
            if now:
                self.assertEqual(read()[1], what.plain(0))
                path, offset = self.place(what)
                self.damage(path, offset + HEAD_BYTES)
                self.assertFalse(read()[0])
                self.damage(path, offset + HEAD_BYTES)
                self.files.fail(str(path), errno.EIO, operations={"read_parts_now"})
                self.assertFalse(read()[0])
                self.files.lift_all()
                self.assertEqual(self.do(self.node.glance([(what.content, 0)])), [])

    def test_long_one(self) -> None:
        """One that is too long for that is read on a thread."""
        self.node.store.pack_below = 1 << 20
        what = sample((1 << 20) - 1)
        self.put(what)
        self.assert_there(what)
        self.assert_there(what)

    def test_many_volumes(self) -> None:
        """Only so many are kept open."""
        samples = []
        for seed in range(KEPT_OPEN + 5):
            samples += self.put_some(seed, size=16_000)
        self.assertGreater(len(self.volumes.log.numbers), KEPT_OPEN)
        for _ in range(2):
            self.assert_there(*samples)
        open_now = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]
        inside = [path for path in open_now if path.startswith(str(self.folder / "volumes"))]
        self.assertLessEqual(len(inside), KEPT_OPEN + 1)


class ChangeTests(VolumeCase):
    """Shards that are removed, brought back, renewed, replaced."""

    def test_removed(self) -> None:
        """What was removed is given back until it is purged, over starts too."""
        for restarts in (False, True):
            kept, back, purged = samples = self.put_some(1, 2, 3)
            self.delete(*samples)
            self.now += 100.0
            if restarts:
                self.restart()
            self.assertEqual([self.node.held(s.content.hash) for s in samples], [(0,)] * 3)
            self.assertEqual(self.volumes.state.live.page(kept.content.hash.digest[0]), {})
            self.assert_there(back)
            self.assertEqual(self.do(self.node.purge(self.now - 200.0)), 0)
            self.put(kept)
            self.assertEqual(self.do(self.node.purge(self.now)), 1)
            if restarts:
                self.restart()
            self.assert_there(kept, back)
            self.assert_gone(purged)

    def test_purged_meanwhile(self) -> None:
        """What was brought back, or removed again, while others were purged, is spared."""
        (what,) = self.put_some(1)
        self.delete(what)
        old = list(self.volumes.state.all_removed())
        self.assert_there(what)
        self.now += 10.0
        self.delete(what)
        self.patch(self.volumes.state, "all_removed", lambda: iter(old))
        self.assertEqual(self.volumes.purge(2.0**40), 0)
        self.assert_there(what)

    def test_times(self) -> None:
        """The time is that of the writing, or of the last renewal or return, over starts too."""
        (what,) = self.put_some(1)
        times = [self.do(self.node.modified(what.content.hash))]
        for change in ("renew", "back", "put"):
            self.now += 10.5
            if change == "renew":
                self.do(self.node.renew(what.content.hash))
            elif change == "back":
                self.delete(what)
                self.assert_there(what)
            else:
                self.put(what)
            times.append(self.do(self.node.modified(what.content.hash)))
            self.restart()
            self.assertEqual(self.do(self.node.modified(what.content.hash)), times[-1])
        self.assertEqual(times, [1e9, 1e9 + 10.5, 1e9 + 21, 1e9 + 31.5])

    def test_files_and_volumes(self) -> None:
        """What takes the place of the other is the only one, also when a crash came between."""
        (what,) = self.put_some(1)
        self.pack_below = 0
        self.restart()
        self.assert_there(what)
        self.put(what)
        self.assertEqual(len(self.names("objects")), 1)
        self.assertIsNone(self.volumes.find(what.content.hash, 0))
        self.pack_below = 65536
        self.restart()
        self.assert_there(what)
        name = self.names("objects")[0]
        data = (self.folder / "objects" / name).read_bytes()
        self.put(what)
        self.assertEqual(self.names("objects"), [])
        (self.folder / "objects" / name).write_bytes(data)
        self.restart()
        self.assertEqual(self.names("objects"), [])
        self.assert_there(what)
        (self.folder / "objects" / name).write_bytes(data)
        path, offset = self.place(what)
        self.damage(path, offset + HEAD_BYTES)
        self.restart()
        self.assertEqual(self.names("objects"), [name])
        self.assert_there(what)

    def test_garbage_of_both_kinds(self) -> None:
        """What was removed as a file and as a packed shard is given back as one of them."""
        self.pack_below = 0
        self.restart()
        (what,) = self.put_some(1)
        self.delete(what)
        self.pack_below = 65536
        self.restart()
        self.put(what)
        self.delete(what)
        self.assertEqual(self.node.held(what.content.hash), (0,))
        self.assert_there(what)

    def test_several_of_one_content(self) -> None:
        """All shards of a content are removed and renewed together."""
        what = sample(1000)
        for index in range(6):
            self.do(self.node.put(what.content, index, what.shards[index]))
        self.assertEqual(self.node.contents, 1)
        self.do(self.node.discard(what.content.hash, 3))
        self.do(self.node.delete(what.content.hash))
        self.restart()
        self.assertEqual(sorted(self.node.held(what.content.hash)), [0, 1, 2, 4, 5])
        self.assertEqual(self.do(self.node.purge(2.0**40)), 5)


class StartTests(VolumeCase):
    """What a start makes of volumes."""

    def hints(self, number: int) -> Path:
        """The hint of a volume."""
        return self.folder / "volumes" / f"{number}.hint"

    def test_hints(self) -> None:
        """A start reads no record that a hint tells of, and completes hints; none is needed."""
        samples = self.put_some(*range(30))
        self.delete(samples[3])
        self.do(self.node.checkpoint())
        self.assertGreater(len(self.volumes.log.numbers), 2)
        for lost in (False, True):
            if lost:
                for name in self.names():
                    if name.endswith(".hint"):
                        (self.folder / "volumes" / name).unlink()
            before = len(self.files.calls)
            self.restart()
            preads = sum(
                1
                for call, path in self.files.calls[before:]
                if call == "pread" and path.split("/")[-1].isdecimal()
            )
            if not lost:
                # The headers, and what is after the last record of the last volume.
                self.assertLessEqual(preads, len(self.volumes.log.numbers) + 2)
            self.assertEqual(self.volumes.removed(samples[3].content.hash), (0,))
            self.assert_there(*samples[:3], *samples[4:])
        hints = [name for name in self.names() if name.endswith(".hint")]
        self.assertEqual(len(hints), len(self.names()) / 2)

    def test_hints_after_a_kill(self) -> None:
        """What was appended after the last chunk of a hint is read, synced, and then told of."""
        samples = self.put_some(*range(5), size=100)
        size = self.hints(1).stat().st_size
        before = len(self.files.calls)
        self.restart()
        self.assertIn(("sync", str(self.folder / "volumes" / "1")), self.files.calls[before:])
        self.assertGreaterEqual(self.hints(1).stat().st_size, size + 2 * HINT_BYTES)
        before = len(self.files.calls)
        self.restart()
        self.assertNotIn("sync", [call for call, _ in self.files.calls[before:]])
        self.assert_there(*samples)

    def test_damaged_hints(self) -> None:
        """A hint that is damaged, another's, or of a volume that is gone, misleads nobody."""
        samples = self.put_some(*range(30))
        self.do(self.node.checkpoint())
        self.damage(self.hints(1), 60)
        self.hints(2).write_bytes(self.hints(3).read_bytes())
        self.hints(99).write_bytes(b"what")
        (self.folder / "volumes" / "notes").write_bytes(b"mine")
        self.restart()
        self.assert_there(*samples)
        self.assertFalse(self.hints(99).exists())
        self.assertIn("notes", self.names())

    def test_hint_that_cannot_be_had(self) -> None:
        """A hint that can be neither read nor written costs time only."""
        samples = self.put_some(*range(12))
        self.files.fail(str(self.folder), errno.EIO, containing=".hint", operations={"open"})
        samples += self.put_some(*range(20, 30))
        lines = self.logged()
        self.restart()
        self.assert_there(*samples)
        self.assertEqual(lines, [])

    def test_cut(self) -> None:
        """A volume that is shorter than its hint tells is read by itself."""
        samples = self.put_some(*range(20))
        self.do(self.node.checkpoint())
        path, offset = self.place(samples[5])
        os.truncate(path, offset + HEAD_BYTES + 10)
        for _ in range(2):
            self.restart()
            gone = [s for s in samples if not self.node.held(s.content.hash)]
            self.assertIn(samples[5], gone)
            self.assert_there(*[s for s in samples if s not in gone])

    def test_damaged(self) -> None:
        """Damage, when nothing tells what was there, is told of; it hides nothing after it."""
        samples = self.put_some(*range(3))
        self.node.store.close()
        (path, first), (_, second), _ = map(self.place, samples)
        self.damage(path, first + HEAD_BYTES + 3, second + 5)
        self.hints(1).unlink()
        lines = self.logged()
        self.restart()
        self.assertEqual(["damaged from byte" in line for line in lines], [True] * 2)
        self.assert_gone(*samples[:2])
        self.assert_there(samples[2])
        del lines[:]
        self.restart()
        self.assertEqual(lines, [])

    def test_torn(self) -> None:
        """A torn end was never told to anybody, and what was there before of the same counts."""
        samples = self.put_some(1, size=100)
        before = self.volumes.log.end
        self.put(*samples)
        self.node.store.close()
        self.damage(self.folder / "volumes" / "1", before + HEAD_BYTES + 3)
        lines = self.logged()
        self.restart()
        self.assert_there(*samples)
        self.assertLess(self.place(samples[0])[1], before)
        self.assertEqual(lines, [])

    def test_damaged_header(self) -> None:
        """The seed in the hint will do; without it nothing in a volume can be read."""
        samples = self.put_some(*range(6))
        self.do(self.node.checkpoint())
        first = [what for what in samples if self.place(what)[0].name == "1"]
        self.damage(self.folder / "volumes" / "1", 20)
        self.restart()
        self.assert_there(*samples)
        self.hints(1).unlink()
        lines = self.logged()
        self.restart()
        self.assertIn("damaged from byte 0", lines[0])
        self.assert_gone(*first)
        self.assert_there(*[what for what in samples if what not in first])

    def test_not_begun(self) -> None:
        """A volume whose header never came to the drive is none, and nothing to tell of."""
        (self.folder / "volumes" / "7").write_bytes(bytes(HEAD_BYTES))
        lines = self.logged()
        self.restart()
        self.put_some(1)
        self.assertEqual(self.names(), ["7", "8"])
        self.assertEqual(lines, [])

    def test_newer(self) -> None:
        """A drive with volumes of a newer format is refused, in a sentence."""
        (self.folder / "volumes" / "7").write_bytes(SegmentHeader(7, 1, 3).encode())
        with self.assertRaises(ConfigError) as caught:
            self.restart()
        self.assertIn("format 3", str(caught.exception))
        (self.folder / "volumes" / "7").unlink()

    def test_new_volume_each_time(self) -> None:
        """Nothing is appended to what another process has made."""
        samples = self.put_some(1, size=100)
        self.restart()
        samples += self.put_some(2, size=100)
        self.assertEqual(self.volumes.log.numbers, [1, 2])
        self.restart()
        self.assert_there(*samples)


class DamageTests(VolumeCase):
    """Records that are not what was written."""

    def test_any_byte(self) -> None:
        """A damaged record is met once, its shard is gone then, and the next one is sound."""
        for at in (5, 40, HEAD_BYTES - 1, HEAD_BYTES + 7):
            hurt, sound = self.put_some(at, at + 1)
            path, offset = self.place(hurt)
            self.damage(path, offset + at)
            self.assert_fails(self.node.open(hurt.content.hash, 0), BadShard)
            self.assert_gone(hurt)
            self.assert_there(sound)
            self.restart()
            self.assert_gone(hurt)
            self.put(hurt)
            self.assert_there(hurt, sound)

    def test_swapped(self) -> None:
        """A record in the place of another is not taken for it."""
        one, two = self.put_some(1, 1001, size=1000)
        (path, first), (_, second) = self.place(one), self.place(two)
        data = bytearray(path.read_bytes())
        size = second - first
        data[first:second] = data[second : second + size]
        path.write_bytes(data)
        self.assert_fails(self.node.open(one.content.hash, 0), BadShard)
        self.assert_there(two)

    def test_glance(self) -> None:
        """A glance reads the record, so it finds what is damaged, and what is not there."""
        samples = self.put_some(*range(4))
        path, offset = self.place(samples[1])
        self.damage(path, offset + HEAD_BYTES)
        self.do(self.node.discard(samples[2].content.hash, 0))
        wanted = [(what.content, 0) for what in samples]
        self.assertEqual(self.do(self.node.glance(wanted)), wanted[1:3])
        self.assert_gone(*samples[1:3])
        self.assert_there(samples[0], samples[3])

    def test_bad_sector(self) -> None:
        """Where the drive cannot read, one shard is lost, and the drive is looked at."""
        one, two = self.put_some(1, 2)
        self.files.fail(str(self.folder / "volumes"), errno.EIO, operations={"pread"}, times=1)
        self.assert_fails(self.node.open(one.content.hash, 0), BadShard)
        self.assertEqual(self.troubles, 1)
        self.assert_gone(one)
        self.assert_there(two)

    def test_short_of_descriptors(self) -> None:
        """What the process lacks is no fault of the shard, nor of the drive."""
        (what,) = self.put_some(1)
        fault = self.files.fail(str(self.folder / "volumes"), errno.EMFILE, operations={"open"})
        self.assert_fails(self.node.open(what.content.hash, 0), NodeUnavailable)
        fault.lift()
        self.assertEqual(self.troubles, 0)
        self.assert_there(what)
        self.restart()
        self.files.fail(str(self.folder / "volumes"), errno.EACCES, operations={"open"}, times=1)
        self.assert_fails(self.node.open(what.content.hash, 0), NodeUnavailable)
        self.assertEqual(self.troubles, 1)
        self.assert_there(what)

    def test_volume_gone(self) -> None:
        """A volume that somebody removed is known to be gone with the first shard missed."""
        samples = self.put_some(*range(20))
        self.restart()
        path, _ = self.place(samples[0])
        inside = [what for what in samples if self.place(what)[0] == path]
        path.unlink()
        (faulty,) = self.do(self.node.glance([(inside[1].content, 0)]))
        self.assertEqual(faulty[0], inside[1].content)
        self.assert_fails(self.node.open(inside[0].content.hash, 0), ShardMissing)
        self.assertEqual(self.volumes.losses, len(inside))
        self.assert_gone(*inside)
        self.assert_there(*[what for what in samples if what not in inside])
        self.volumes.lose(99)

    def test_open_volume_gone(self) -> None:
        """So it is when it was appended to; puts go on in another."""
        (one,) = self.put_some(1)
        (self.folder / "volumes" / "1").unlink()
        self.do(self.node.glance([(one.content, 0)]))
        self.volumes.lose(1)
        (two,) = self.put_some(2)
        self.assert_gone(one)
        self.assert_there(two)
        self.assertEqual(self.volumes.log.numbers, [2])

    def test_folder_gone(self) -> None:
        """When the folder is gone, so is the drive: no shard is given up for that."""
        (what,) = self.put_some(1)
        self.restart()
        (self.folder / "volumes").rename(self.folder / "elsewhere")
        self.assert_fails(self.node.open(what.content.hash, 0), NodeUnavailable)
        self.assertEqual(self.troubles, 1)
        self.assertFalse(self.node.store.is_prepared())
        (self.folder / "elsewhere").rename(self.folder / "volumes")
        self.assert_there(what)


class FailureTests(VolumeCase):
    """System calls that fail."""

    def test_put_fails(self) -> None:
        """Whatever fails, the put is told, what was there before stays, and it goes on."""
        sound = self.put_some(*range(3))
        for operation, number, error in (
            ("create", errno.ENOSPC, NoSpace),
            ("allocate", errno.EDQUOT, NoSpace),
            ("write", errno.EIO, NodeUnavailable),
            ("sync", errno.EIO, NodeUnavailable),
            ("sync_folder", errno.EROFS, NodeUnavailable),
        ):
            if operation in ("create", "sync_folder"):
                self.restart()
            if operation == "allocate":
                self.next_volume()
            self.files.fail(str(self.folder / "volumes"), number, operations={operation}, times=2)
            what = sample(6000, seed=len(operation))
            self.assert_fails(self.node.put(what.content, 0, what.shards[0]), error)
            self.assertEqual(self.node.state, DriveState.READ_ONLY)
            self.assertIsNone(self.volumes.find(what.content.hash, 0))
            self.files.lift_all()
            self.node.recover()
            self.assert_there(*sound)
            self.put(what)
            self.assert_there(what)
        self.restart()
        self.assert_there(*sound)

    def test_temp_that_is_damaged(self) -> None:
        """What was written in parts is verified before it is packed."""
        what = sample(5000)

        async def write() -> None:
            writer = await self.node.begin(0, what.content.scheme)
            await writer.write(what.shards[0])
            publish = self.node.store.pack_temp

            def damage(temp: object) -> object:
                (path,) = (self.folder / "temp").iterdir()
                self.damage(path, path.stat().st_size - 5)
                return publish(temp)  # type: ignore[arg-type]

            self.patch(self.node.store, "pack_temp", damage)
            await writer.commit(what.content)

        self.assert_fails(write(), BadShard)
        self.assert_gone(what)
        self.assertEqual(self.names("temp"), [])

    def test_removing_from_a_full_drive(self) -> None:
        """A full drive lets things be removed and purged; what is given back takes room."""
        one, two, three = self.put_some(1, 2, 3)
        self.delete(three)
        self.files.fail(str(self.folder / "volumes"), errno.ENOSPC, operations={"write"})
        self.delete(one, two)
        self.assertEqual(self.node.state, DriveState.LIVE)
        self.do(self.node.renew(one.content.hash))
        self.assert_fails(self.node.open(three.content.hash, 0), NoSpace)
        self.node.recover()
        self.now += 10.0
        self.assertEqual(self.do(self.node.purge(self.now)), 3)
        self.assert_gone(one, two, three)
        self.files.lift_all()
        # As after a power cut.
        self.restart()
        self.assert_there(one, two, three)

    def test_spare(self) -> None:
        """What is allocated is not all for puts, so that a change needs no room."""
        self.patch(volumes, "_SPARE_BYTES", 1000)
        samples = self.put_some(*range(3))
        self.files.fail(str(self.folder / "volumes"), errno.ENOSPC, operations={"allocate"})
        put = len(samples)
        while self.node.state is DriveState.LIVE:
            what = sample(50, 100 + put)
            _ = Deferred.fromCoroutine(self.node.put(what.content, 0, what.shards[0])).addErrback(
                lambda _: None
            )
            put += 1
            self.assertLess(put, 100)
        self.node.recover()
        self.delete(*samples)
        self.assert_there(samples[0])
        self.restart()
        self.assertEqual(self.volumes.removed(samples[1].content.hash), (0,))

    def test_changes_fail(self) -> None:
        """An error of the drive is told, and nothing has changed."""
        (what,) = self.put_some(1)
        self.files.fail(str(self.folder / "volumes"), errno.EIO, operations={"write"})
        self.assert_fails(self.node.delete(what.content.hash), NodeUnavailable)
        self.assert_fails(self.node.renew(what.content.hash), NodeUnavailable)
        self.assertTrue(self.volumes.find(what.content.hash, 0))
        path, offset = self.place(what)
        self.damage(path, offset)
        self.assert_fails(self.node.open(what.content.hash, 0), BadShard)
        # It cannot be noted that it is gone, so it is met again.
        self.assert_fails(self.node.open(what.content.hash, 0), BadShard)
        self.files.lift_all()
        self.do(self.node.discard(what.content.hash, 0))
        self.assert_gone(what)

    def test_settle_fails(self) -> None:
        """What cannot be synced is not told of in a hint, and told of to who asks."""
        (what,) = self.put_some(1)
        self.delete(what)
        self.files.fail(str(self.folder / "volumes"), errno.EIO, operations={"sync"}, times=1)
        self.assert_fails(self.node.checkpoint(), NodeUnavailable)
        self.assertEqual(self.names(), ["1"])
        self.do(self.node.checkpoint())
        self.node.recover()
        self.put_some(2)
        self.assertEqual(self.volumes.log.numbers, [1, 2])

    def test_released(self) -> None:
        """A drive that goes away is closed, unless it has come back since."""
        (what,) = self.put_some(1)
        life = self.node.store.life
        self.restart()
        self.assert_there(what)
        self.node.store.close(life)
        self.node.release()
        self.assertEqual(self.volumes.log.numbers, [])
