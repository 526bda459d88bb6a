"""The drives of a machine: which folders are taken, and how they are watched."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil

from twisted.internet.defer import Deferred

from dostore.adapters import drive_watch
from dostore.adapters.drive_opening import HUNG_AFTER_S
from dostore.adapters.drive_state import DriveState
from dostore.adapters.drive_watch import STUCK_LOOKS, WATCH_INTERVAL_S
from dostore.adapters.journal import LOG_AGE_S
from dostore.core.scheme import Scheme
from dostore.errors import ConfigError, DostoreError
from dostore.ports import ICluster
from tests.support.machine import SCHEME, Machine, MachineCase
from tests.support.shards import sample

LIVE, READ_ONLY, AWAY = "live", "read-only", "away"

#: Longer than between two looks.
LOOK_S = WATCH_INTERVAL_S + 0.5


class StartTests(MachineCase):
    """Which folders make a store."""

    async def assert_refused(self, machine: Machine, words: str) -> None:
        """The start fails, says why, and holds no drive."""
        with self.assertRaises(ConfigError) as caught:
            await machine.start_drives()
        self.assertIn(words, caught.exception.detail)
        await machine.stop()
        for folder in machine.folders:
            if (folder / "lock").exists():
                os.close(machine.files.lock(str(folder / "lock")))

    async def test_new(self) -> None:
        """Missing folders become drives 1 … n of one store, with all that a drive has."""
        machine = self.new_machine()
        drives = await machine.start_drives()
        self.assert_provides(ICluster, drives)
        markers = [json.loads((f / "dostore.json").read_bytes()) for f in machine.folders]
        self.assertEqual([marker["drive"] for marker in markers], [1, 2, 3, 4, 5, 6])
        self.assertEqual({marker["store"] for marker in markers}, {drives.store_id})
        self.assertEqual(machine.states(), [LIVE] * 6)
        self.assertEqual(machine.folders_files("objects"), [])

    async def test_the_same_again(self) -> None:
        """A second start finds the same store; temporary files of the first are gone."""
        machine = self.new_machine()
        store_id = (await machine.start_drives()).store_id
        await machine.stop()
        (machine.folders[2] / "temp" / "left").write_bytes(b"half")
        drives = await machine.start_drives()
        self.assertEqual(drives.store_id, store_id)
        self.assertEqual(drives.temp_files_removed, 1)

    async def test_crash_while_drives_are_made(self) -> None:
        """Wherever the first start ends, the second one succeeds."""
        total = 0
        for calls in range(200):
            machine = self.new_machine(Scheme(1, 1))
            fault = machine.files.fail(str(machine.root), errno.EIO, after=calls)
            with contextlib.suppress(DostoreError):
                await machine.start_drives()
            machine.files.lift_all()
            await machine.stop()
            await machine.start_drives()
            self.assertEqual(machine.states(), [LIVE] * 2)
            if fault.met == 0:
                break
            total += 1
        self.assertGreater(total, 20)

    async def test_another_scheme(self) -> None:
        """A store of another k + m is refused."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        machine.scheme = Scheme(3, 3)
        await self.assert_refused(machine, "was made with 4 + 2 shards")

    async def test_newer(self) -> None:
        """A store that a newer program made is refused."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        marker = machine.folders[4] / "dostore.json"
        marker.write_text(json.dumps(json.loads(marker.read_bytes()) | {"format": 2}))
        await self.assert_refused(machine, "newer dostore")

    async def test_damaged_marker(self) -> None:
        """A drive whose marker is damaged is away, as one that fails is, until it is mended."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        marker = machine.folders[2] / "dostore.json"
        sound = marker.read_bytes()
        marker.write_bytes(b"\0" * len(sound))
        drives = await machine.start_drives()
        self.assertEqual(
            [member.live for member in drives.members()], [True, True, False, True, True, True]
        )
        marker.write_bytes(sound)
        await machine.pass_time(LOOK_S)
        self.assertTrue(all(member.live for member in drives.members()))

    async def test_lost_marker(self) -> None:
        """A drive that lacks nothing but its marker is taken back with the shards that it has."""
        machine = self.new_machine()
        drives = await machine.start_drives()
        await drives.drives[2].node.put(sample(5000).content, 1, sample(5000).shards[1])
        await machine.stop()
        marker = machine.folders[2] / "dostore.json"
        before = marker.read_bytes()
        marker.unlink()
        drives = await machine.start_drives()
        self.assertEqual(machine.states(), [LIVE] * 6)
        self.assertEqual(marker.read_bytes(), before)
        self.assertEqual(list(await drives.drives[2].node.holds(sample(5000).content.hash)), [1])

    async def test_no_marker_left(self) -> None:
        """Folders with shards but without any marker are not taken for a new store."""
        machine = self.new_machine()
        drives = await machine.start_drives()
        await drives.drives[2].node.put(sample(5000).content, 1, sample(5000).shards[1])
        await machine.stop()
        for folder in machine.folders:
            (folder / "dostore.json").unlink()
        await self.assert_refused(machine, "lost its marker")

    async def test_foreign(self) -> None:
        """A drive of another store is refused."""
        one, other = self.new_machine(), self.new_machine()
        for machine in (one, other):
            await machine.start_drives()
            await machine.stop()
        shutil.rmtree(one.folders[3])
        other.folders[3].rename(one.folders[3])
        other.folders[3].mkdir()
        await self.assert_refused(one, "another store")

    async def test_copy(self) -> None:
        """A copy of a drive beside it is refused."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        shutil.rmtree(machine.folders[5])
        shutil.copytree(machine.folders[0], machine.folders[5])
        await self.assert_refused(machine, "one is a copy")

    async def test_other_files(self) -> None:
        """A folder with somebody's files is refused and left as it is."""
        machine = self.new_machine()
        machine.folders[1].mkdir()
        (machine.folders[1] / "letter").write_text("dear")
        await self.assert_refused(machine, "holds other files")
        self.assertEqual(os.listdir(machine.folders[1]), ["letter"])

    async def test_in_use(self) -> None:
        """A second user of the drives is refused, and the first one goes on."""
        machine = self.new_machine()
        await machine.start_drives()
        second = Machine(machine.root)
        with self.assertRaises(ConfigError) as caught:
            await second.start_drives()
        self.assertIn("in use", caught.exception.detail)
        await second.stop()
        self.assertEqual(machine.states(), [LIVE] * 6)
        await machine.stop()
        await second.start_drives()
        await second.stop()

    async def test_moved(self) -> None:
        """Drives in other places are known by what they say, not by where they are."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        machine.folders[0].rename(machine.root / "x")
        machine.folders[1].rename(machine.folders[0])
        (machine.root / "x").rename(machine.folders[1])
        drives = await machine.start_drives()
        self.assertEqual(
            [member.address for member in drives.members()],
            ["drive-2", "drive-1", "drive-3", "drive-4", "drive-5", "drive-6"],
        )

    async def test_missing(self) -> None:
        """A drive that cannot be reached at the start is away; all of them is an error."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        machine.files.fail(str(machine.folders[2]), errno.EIO)
        await machine.start_drives()
        self.assertEqual(machine.states(), [LIVE, LIVE, AWAY, LIVE, LIVE, LIVE])
        machine.files.lift_all()
        await machine.pass_time(LOOK_S)
        self.assertEqual(machine.states(), [LIVE] * 6)
        await machine.stop()
        machine.files.fail(str(machine.root), errno.EIO)
        with self.assertRaises(ConfigError) as caught:
            await machine.start_drives()
        self.assertIn("None of the drives", caught.exception.detail)

    async def test_missing_is_told(self) -> None:
        """The log says which drives are away at the start, and why."""
        machine = self.new_machine()
        machine.folders[2].write_text("a file")
        lines = self.logged()
        await machine.start_drives()
        self.assertEqual(
            [line for line in lines if "away" in line], ["drive-3 is away: File exists"]
        )

    async def test_hangs_at_the_start(self) -> None:
        """A drive that hangs does not keep the others from starting."""
        machine = self.new_machine()
        await machine.start_drives()
        await machine.stop()
        watch = machine._make_workers("watch-2", 1)
        machine.workers["watch-2"].stalled = True
        await machine.run(machine.start_drives())
        self.assertEqual(machine.states(), [LIVE, AWAY, LIVE, LIVE, LIVE, LIVE])
        self.assertGreater(watch.backlog(), 0)
        machine.workers["watch-2"].recover()
        await machine.pass_time(LOOK_S + HUNG_AFTER_S)
        self.assertEqual(machine.states(), [LIVE] * 6)


class WatchCase(MachineCase):
    """A machine's drives, and who came back."""

    async def watched(self) -> Machine:
        """Drives that are watched."""
        machine = self.new_machine()
        drives = await machine.start_drives()
        self.joined: list[str] = []
        drives.watch(self.joined.append)
        return machine

    async def put(self, machine: Machine, drive: int) -> None:
        """Put some shard there."""
        what = sample(5000)
        await machine.drives.drives[drive - 1].node.put(what.content, 0, what.shards[0])

    def assert_drive(self, machine: Machine, number: int, state: str, joined: int = 0) -> None:
        """One drive is in that state and the others live, and it came back so many times."""
        states = [LIVE] * 6
        states[number - 1] = state
        self.assertEqual(machine.states(), states)
        self.assertEqual(self.joined, [f"drive-{number}"] * joined)
        member = machine.drives.members()[number - 1]
        self.assertEqual(member.live, state != AWAY)
        self.assertEqual(member.writable, state == LIVE)


class WatchTests(WatchCase):
    """Drives that change while the store runs."""

    async def test_pulled_and_put_back(self) -> None:
        """A drive that vanishes is away; back, it has what it had."""
        machine = await self.watched()
        await self.put(machine, 3)
        machine.pull(3)
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, AWAY)
        machine.put_back(3)
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, LIVE, joined=1)
        node = machine.drives.drives[2].node
        self.assertEqual(list(await node.holds(sample(5000).content.hash)), [0])

    async def test_noticed_at_once(self) -> None:
        """A write that meets the empty place has it looked at without waiting for the next look."""
        machine = await self.watched()
        machine.pull(3)
        with self.assertRaises(DostoreError):
            await self.put(machine, 3)
        self.assert_drive(machine, 3, AWAY)

    async def test_empty_one_in_its_place(self) -> None:
        """An empty folder in a drive's place becomes that drive, with nothing on it."""
        machine = await self.watched()
        await self.put(machine, 3)
        for emptied_at_once in (False, True):
            machine.pull(3)
            if not emptied_at_once:
                await machine.pass_time(LOOK_S)
            machine.folders[2].mkdir()
            await machine.pass_time(LOOK_S)
            self.assert_drive(machine, 3, LIVE, joined=1 + emptied_at_once)
            marker = json.loads((machine.folders[2] / "dostore.json").read_bytes())
            self.assertEqual(marker["drive"], 3)
            node = machine.drives.drives[2].node
            self.assertEqual(list(await node.holds(sample(5000).content.hash)), [])
            shutil.rmtree(machine.away(3))

    async def test_folders_removed(self) -> None:
        """A drive that lost a folder, whichever, is taken up again with what is left of it."""
        machine = await self.watched()
        for times, name in enumerate(("temp", "garbage", "log", "objects"), 1):
            await self.put(machine, 3)
            lines = self.logged()
            shutil.rmtree(machine.folders[2] / name)
            await machine.pass_time(LOOK_S)
            self.assert_drive(machine, 3, LIVE, joined=times)
            self.assertIn("lacks folders", lines[0])
            node = machine.drives.drives[2].node
            # The journal still has what it was told last.
            self.assertEqual(list(await node.holds(sample(5000).content.hash)), [0])
            await node.delete(sample(5000).content.hash)
        await self.put(machine, 3)

    async def test_checkpoints(self) -> None:
        """A drive's journal is cut when it is due, on a full drive too, and at a stop."""
        machine = await self.watched()
        logs = [folder / "log" for folder in machine.folders]
        await self.put(machine, 3)
        await machine.pass_time(LOOK_S)
        self.assertEqual(os.listdir(logs[2]), ["1"])
        await machine.pass_time(LOG_AGE_S + LOOK_S)
        self.assertEqual(os.listdir(logs[2]), ["free"])
        for drive in (2, 3, 4):
            await self.put(machine, drive)
        machine.drives.drives[1].node.degrade(DriveState.READ_ONLY, "it fails")
        fault = machine.files.fail(str(logs[1].parent / "temp"), errno.EIO, operations={"write"})
        full = machine.files.fail(str(logs[3].parent / "temp"), errno.ENOSPC, operations={"write"})
        machine.drives.drives[3].node.degrade(DriveState.READ_ONLY, "full", full=True)
        await machine.pass_time(LOG_AGE_S + LOOK_S)
        self.assertEqual([os.listdir(logs[n]) for n in (1, 2, 3)], [["1"], ["free"], ["free"]])
        fault.lift()
        full.lift()
        await machine.pass_time(LOOK_S)
        self.assertEqual(os.listdir(logs[1]), ["free"])
        await self.put(machine, 5)
        await machine.run(machine.drives.stop())
        self.assertEqual(os.listdir(logs[4]), ["free"])

    async def test_checkpoint_fails(self) -> None:
        """One that fails is told, and the drive takes writes again when its probe passes."""
        machine = await self.watched()
        await self.put(machine, 3)
        lines = self.logged()
        machine.files.fail(
            str(machine.folders[2] / "objects"), errno.EIO, operations={"sync"}, times=1
        )
        await machine.pass_time(LOG_AGE_S + LOOK_S)
        self.assertTrue(any("journal is kept" in line for line in lines), lines)
        self.assert_drive(machine, 3, LIVE, joined=1)
        await machine.pass_time(LOG_AGE_S + LOOK_S)
        self.assertEqual(os.listdir(machine.folders[2] / "log"), ["free"])

    async def test_unmounted(self) -> None:
        """The empty place where a drive was mounted is not filled."""
        machine = await self.watched()
        # As if the drive's own file system had been there.
        machine.drives.drives[2].device += 1
        machine.pull(3)
        machine.folders[2].mkdir()
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, AWAY)
        self.assertEqual(os.listdir(machine.folders[2]), [])
        machine.put_back(3)
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, LIVE, joined=1)

    async def test_somebodys_files_in_its_place(self) -> None:
        """A folder with other files in a drive's place is left alone."""
        machine = await self.watched()
        machine.pull(3)
        machine.folders[2].mkdir()
        (machine.folders[2] / "letter").write_text("dear")
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, AWAY)
        self.assertEqual(os.listdir(machine.folders[2]), ["letter"])

    async def test_swapped(self) -> None:
        """Two drives that change places are away until a start takes them as they are."""
        machine = await self.watched()
        machine.folders[0].rename(machine.root / "x")
        machine.folders[1].rename(machine.folders[0])
        (machine.root / "x").rename(machine.folders[1])
        await machine.pass_time(LOOK_S)
        self.assertEqual(machine.states(), [AWAY, AWAY, LIVE, LIVE, LIVE, LIVE])
        self.assertIn("holds drive 2", machine.drives.drives[0].node.reason)
        await machine.stop()
        await machine.start_drives()
        self.assertEqual(machine.states(), [LIVE] * 6)

    async def test_another_stores_drive(self) -> None:
        """Another store's drive in a drive's place is not touched."""
        other = self.new_machine()
        await other.start_drives()
        await other.stop()
        machine = await self.watched()
        machine.pull(3)
        shutil.copytree(other.folders[2], machine.folders[2])
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, AWAY)
        self.assertIn("another store", machine.drives.drives[2].node.reason)

    async def test_read_only(self) -> None:
        """A drive that turns read-only is read; it takes writes when a probe succeeds again."""
        machine = await self.watched()
        await self.put(machine, 3)
        fault = machine.files.fail(
            str(machine.folders[2]), errno.EROFS, operations={"create", "write", "rename"}
        )
        with self.assertRaises(DostoreError):
            await self.put(machine, 3)
        self.assert_drive(machine, 3, READ_ONLY)
        await machine.pass_time(5 * LOOK_S)
        self.assert_drive(machine, 3, READ_ONLY)
        reader = await machine.drives.drives[2].node.open(sample(5000).content.hash, 0)
        await reader.close()
        fault.lift()
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, LIVE, joined=1)
        await self.put(machine, 3)

    async def test_passes_probes_only(self) -> None:
        """A drive that passes its probe and fails every write is tried once between two looks."""
        machine = await self.watched()
        fault = machine.files.fail(str(machine.folders[2] / "log"), errno.EIO, operations={"write"})

        def try_again(address: str) -> None:
            _ = Deferred.fromCoroutine(self.put(machine, 3)).addErrback(lambda failure: None)

        machine.drives.watch(try_again)
        try_again("")
        self.assert_drive(machine, 3, READ_ONLY)
        await machine.pass_time(5 * WATCH_INTERVAL_S + 0.5)
        self.assertLessEqual(len(self.joined), 5)
        self.assertEqual(fault.met, len(self.joined) + 1)

    async def test_folder_sync_fails(self) -> None:
        """A drive whose folders cannot be synced does not pass its probe."""
        machine = await self.watched()
        machine.files.fail(str(machine.folders[2]), errno.EIO, operations={"sync_folder"})
        with self.assertRaises(DostoreError):
            await self.put(machine, 3)
        await machine.pass_time(3 * LOOK_S)
        self.assert_drive(machine, 3, READ_ONLY)

    async def test_full(self) -> None:
        """A full drive takes writes again when it has room, and not one probe's worth of it."""
        machine = await self.watched()
        fault = machine.files.fail(str(machine.folders[2]), errno.ENOSPC, operations={"write"})
        free = drive_watch.FREE_AGAIN_BYTES - 1
        self.patch(machine.files, "free_bytes", lambda path: free)
        with self.assertRaises(DostoreError):
            await self.put(machine, 3)
        fault.lift()
        await machine.pass_time(3 * LOOK_S)
        self.assert_drive(machine, 3, READ_ONLY)
        free += 1
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, LIVE, joined=1)
        self.assertEqual(os.listdir(machine.folders[2] / "temp"), [])

    async def test_full_of_garbage(self) -> None:
        """A full drive does not keep for a day what was removed an hour ago."""
        machine = await self.watched()
        await self.put(machine, 3)
        node = machine.drives.drives[2].node
        await node.delete(sample(5000).content.hash)
        (path,) = machine.folders_files("garbage")
        os.utime(path, (machine.now() - 3500.0,) * 2)
        fault = machine.files.fail(str(machine.folders[2]), errno.ENOSPC, operations={"write"})
        self.patch(machine.files, "free_bytes", lambda _: 0 if path.exists() else 1 << 30)
        with self.assertRaises(DostoreError):
            await self.put(machine, 3)
        fault.lift()
        await machine.pass_time(90.0)
        self.assertTrue(path.exists())
        self.assert_drive(machine, 3, READ_ONLY)
        await machine.pass_time(700.0, 1.0)
        self.assertFalse(path.exists())
        self.assert_drive(machine, 3, LIVE, joined=1)
        self.assertEqual(list(await node.holds(sample(5000).content.hash)), [])

    async def test_hangs(self) -> None:
        """A drive that does not answer a look is away, and back when it answers again."""
        machine = await self.watched()
        go_on = machine.stall(3)
        await machine.pass_time(WATCH_INTERVAL_S + HUNG_AFTER_S - 0.2)
        self.assert_drive(machine, 3, LIVE)
        await machine.pass_time(0.4)
        self.assert_drive(machine, 3, AWAY)
        await machine.pass_time(30.0)
        self.assert_drive(machine, 3, AWAY)
        go_on()
        await machine.pass_time(LOOK_S + HUNG_AFTER_S)
        self.assert_drive(machine, 3, LIVE, joined=1)

    async def test_calls_hang_but_looks_do_not(self) -> None:
        """A drive whose calls never end is away although a look at it succeeds."""
        machine = await self.watched()
        workers = machine.workers["drive-3"]
        workers.stalled = True
        put = self.put(machine, 3)
        failing = machine.run(put)
        with self.assertRaises(DostoreError):
            await failing
        self.assert_drive(machine, 3, AWAY)
        await machine.pass_time(10 * LOOK_S)
        self.assert_drive(machine, 3, AWAY)
        workers.recover()
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, LIVE, joined=1)

    async def test_slow_is_not_hung(self) -> None:
        """A drive that ends a call now and then is not given up, however many wait."""
        machine = await self.watched()
        node = machine.drives.drives[2].node
        workers = machine.workers["drive-3"]
        workers.stalled = True
        calls = [
            Deferred.fromCoroutine(node.renew(sample(10, seed).content.hash)) for seed in range(8)
        ]
        for _ in calls:
            await machine.pass_time(WATCH_INTERVAL_S * STUCK_LOOKS * 0.7)
            self.assert_drive(machine, 3, LIVE)
            workers.step()
        for call in calls:
            self.assertIs(self.successResultOf(call), None)

    async def test_one_that_hangs_in_its_scan(self) -> None:
        """A drive that hangs while it comes back keeps the others from nothing."""
        machine = await self.watched()
        machine.pull(3)
        await machine.pass_time(LOOK_S)
        machine.workers["drive-3"].stalled = True
        machine.put_back(3)
        await machine.pass_time(LOOK_S)
        machine.pull(5)
        await machine.pass_time(LOOK_S)
        self.assertEqual(machine.states(), [LIVE, LIVE, AWAY, LIVE, AWAY, LIVE])
        machine.workers["drive-3"].recover()
        self.assertEqual(machine.states(), [LIVE, LIVE, LIVE, LIVE, AWAY, LIVE])

    async def test_fails_reading_its_marker(self) -> None:
        """A drive with read errors is still asked for shards, but written no more."""
        machine = await self.watched()
        machine.files.fail(str(machine.folders[2] / "dostore.json"), errno.EIO)
        await machine.pass_time(LOOK_S)
        self.assert_drive(machine, 3, READ_ONLY)

    async def test_garbage_is_purged(self) -> None:
        """What was removed is kept for a day, by the time of day, and then deleted."""
        machine = await self.watched()
        await self.put(machine, 3)
        node = machine.drives.drives[2].node
        await node.delete(sample(5000).content.hash)
        (path,) = machine.folders_files("garbage")
        removed = machine.now() - 23 * 3600
        os.utime(path, (removed, removed))
        await machine.pass_time(3500.0, 10.0)
        self.assertTrue(path.exists())
        await machine.pass_time(2 * 3700.0, 10.0)
        self.assertFalse(path.exists())

    async def test_abandoned_writes_are_swept(self) -> None:
        """What a write left in temp/ goes half an hour after it was last touched; a write that is
        still under way, however slow its client, keeps its file, and can be committed.
        """
        machine = await self.watched()
        what = sample(2 * SCHEME.stripe_size)
        left = machine.folders[1] / "temp" / ("a" * 32)
        left.write_bytes(b"of a write that broke off")
        writer = await machine.drives.drives[2].node.begin(0, SCHEME)
        await writer.write(what.shards[0])
        await machine.pass_time(1.0)
        (slow,) = (machine.folders[2] / "temp").iterdir()
        for path, age_s in ((left, 1700), (slow, 9000)):
            os.utime(path, (machine.now() - age_s, machine.now() - age_s))
        await machine.pass_time(60.0, 1.0)
        self.assertTrue(left.exists())
        await machine.pass_time(80.0, 1.0)
        self.assertFalse(left.exists())
        self.assertTrue(slow.exists())
        await machine.run(writer.commit(what.content))
        self.assertEqual(machine.states(), [LIVE] * 6)
        self.assertEqual(list(machine.drives.drives[2].node.held(what.content.hash)), [0])
        abandoned = await machine.drives.drives[2].node.begin(1, SCHEME)
        await abandoned.write(what.shards[1])
        await machine.run(abandoned.abort())
        self.assertEqual(machine.drives.drives[2].node.writing, set())

    async def test_stopped(self) -> None:
        """After the stop no drive is used, and none is locked."""
        machine = await self.watched()
        await machine.stop()
        self.assertEqual(machine.states(), [AWAY] * 6)
        self.assertEqual(machine.clock.getDelayedCalls(), [])
        for folder in machine.folders:
            os.close(machine.files.lock(str(folder / "lock")))


class MemberTests(MachineCase):
    """What the cluster says."""

    async def test_locate(self) -> None:
        """Shards are where the drives say that they are; drives that are away say nothing."""
        machine = self.new_machine(SCHEME, 7)
        drives = await machine.start_drives()
        what = sample(5000)
        for number, index in ((1, 0), (2, 1), (5, 0)):
            await drives.drives[number - 1].node.put(what.content, index, what.shards[index])
        everywhere = {0: ["drive-1", "drive-5"], 1: ["drive-2"]}
        self.assertEqual(await drives.locate(what.content.hash), everywhere)
        self.assertEqual(drives.expected(what.content.hash, 6), everywhere)
        machine.pull(1)
        await machine.pass_time(LOOK_S)
        self.assertEqual(await drives.locate(what.content.hash), {0: ["drive-5"], 1: ["drive-2"]})
        self.assertEqual(await drives.locate(sample(1).content.hash), {})
