"""The metadata log by itself: which drives it is on, what is synced when, what is void."""

from __future__ import annotations

import errno
import os
import threading

from dostore.adapters.metadata_drives import LogDrive, LogPlace
from dostore.adapters.metadata_log import MetadataLog
from dostore.adapters.metadata_survey import Replay, Survey
from dostore.core.logrecord import Record
from dostore.errors import MetadataUnavailable
from dostore.threads import Workers
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.workers import InlineWorkers

STORE = bytes(range(16))


class LogCase(SyncTestCase):
    """Four drives, of which two keep the log."""

    def setUp(self) -> None:
        """Make the drives."""
        super().setUp()
        self.root = os.path.abspath(self.mktemp())
        self.files = FaultyFiles()
        self.addCleanup(self.files.lift_all)
        self.away: set[int] = set()
        for number in range(4):
            os.makedirs(self.drive(number))
        self.log = self.new_log()

    def drive(self, number: int) -> str:
        """A drive's folder."""
        return os.path.join(self.root, str(number))

    def new_log(self) -> MetadataLog:
        """The log as a new process has it."""

        def place(number: int) -> LogPlace:
            return LogPlace(
                str(number),
                os.path.join(self.drive(number), "meta"),
                InlineWorkers(),
                lambda: number not in self.away,
            )

        return MetadataLog([place(n) for n in range(4)], 2, self.files, STORE, 5.0)

    def put(self, *payloads: bytes) -> None:
        """Append batches."""
        for payload in payloads:
            self.log.start(payload)
            self.log.finish()
            self.log.accept()

    def refuse(self, payload: bytes) -> None:
        """Append a batch that is not taken, and give it up."""
        self.log.start(payload)
        with self.assertRaises(MetadataUnavailable):
            self.log.finish()
        self.log.abandon()

    def members(self) -> list[str]:
        """The addresses of the drives that keep the log."""
        return sorted(drive.place.address for drive in self.log.members)

    def replayed(self, *numbers: int) -> list[bytes]:
        """The payloads that count, by the logs on some drives (all when none is named)."""
        log = self.new_log()
        drives = [d for d in log.drives if not numbers or int(d.place.address) in numbers]
        log.look(drives)
        walk = Replay(Survey.of(drives, 5.0))
        return [record.payload for _, record in walk.records(0, strict=True)]


class AppendTests(LogCase):
    """Batches."""

    def test_each_batch_is_synced_on_every_copy(self) -> None:
        """A batch counts after a write and a sync on each drive of the log."""
        self.log.begin()
        self.assertEqual(self.members(), ["0", "1"])
        self.files.calls.clear()
        self.put(b"one")
        for number in (0, 1):
            path = os.path.join(self.drive(number), "meta", "log.1")
            mine = [call for call, called in self.files.calls if called == path]
            self.assertEqual(mine, ["write", "sync"])
        self.put(b"two")
        for number in (0, 1):
            self.assertEqual(self.replayed(number), [b"one", b"two"])

    def test_copies_are_synced_at_the_same_time(self) -> None:
        """No copy waits for another: both are in their sync at once."""
        meeting = threading.Barrier(2, timeout=10)

        class Meeting(FaultyFiles):
            def sync(self, fd: int) -> None:
                if self._path(fd).endswith("log.1"):
                    meeting.wait()
                super().sync(fd)

        files = Meeting()
        workers = [Workers(None, f"d{n}", 1) for n in range(2)]  # type: ignore[arg-type]
        places = [
            LogPlace(str(n), os.path.join(self.drive(n), "meta"), workers[n], lambda: True)
            for n in range(2)
        ]
        log = MetadataLog(places, 2, files, STORE, 10.0)
        log.begin()
        log.start(b"one")
        log.finish()
        log.accept()
        self.assertEqual(len(log.members), 2)
        log.close_segment()
        for each in workers:
            self.assertTrue(each.stop(5.0))

    def test_segment_is_durable_before_it_is_used(self) -> None:
        """A segment appears whole: written and synced under another name, then renamed."""
        self.log.begin()
        meta = os.path.join(self.drive(0), "meta")
        mine = [(c, os.path.basename(p)) for c, p in self.files.calls if p.startswith(meta)]
        at = mine.index(("write", "log.1.new"))
        self.assertEqual(
            mine[at:],
            [
                ("write", "log.1.new"),
                ("sync", "log.1.new"),
                ("rename", "log.1.new"),
                ("sync_folder", "meta"),
            ],
        )

    def test_one_copy_is_enough(self) -> None:
        """A batch that one drive synced counts; the other is dropped."""
        self.put(b"one")
        self.files.fail(self.drive(0), errno.EIO, operations=["sync"])
        self.put(b"two", b"three")
        self.assertEqual(self.members(), ["1"])
        self.assertEqual(self.replayed(1), [b"one", b"two", b"three"])
        self.assertEqual(self.log.degraded, "The metadata log is kept on 1 of 2 drives.")

    def test_spare_comes_in_with_a_new_term(self) -> None:
        """A healthy drive takes the place of one that failed, in a new segment."""
        self.put(b"one")
        self.files.fail(self.drive(0), errno.ENOSPC)
        self.put(b"two")
        self.log.heal(retry=False)
        self.assertEqual(self.members(), ["1", "2"])
        self.put(b"three")
        self.assertEqual(self.replayed(1), [b"one", b"two", b"three"])
        self.assertEqual(os.listdir(os.path.join(self.drive(2), "meta")), ["log.2"])
        self.assertEqual(self.log.degraded, "The metadata log is being copied to 2.")

    def test_drive_that_failed_is_left_alone_until_tried_again(self) -> None:
        """Healing does not touch a failed drive unless it is told to."""
        self.away = {2, 3}
        self.put(b"one")
        fault = self.files.fail(self.drive(0), errno.EIO)
        self.put(b"two")
        met = fault.met
        self.log.heal(retry=False)
        self.assertEqual(fault.met, met)
        self.log.heal(retry=True)
        self.assertGreater(fault.met, met)
        self.assertEqual(self.members(), ["1"])
        term = self.log.term
        fault.lift()
        self.log.heal(retry=False, joined="0")
        self.assertEqual(self.members(), ["0", "1"])
        self.assertEqual(self.log.term, term + 1)

    def test_no_drive(self) -> None:
        """With no drive at all a batch is refused before anything is written."""
        self.away = {0, 1, 2, 3}
        with self.assertRaises(MetadataUnavailable):
            self.log.start(b"one")
        self.assertFalse(self.log.pending)
        self.away = {0, 1, 2}
        self.put(b"one")
        self.assertEqual(self.members(), ["3"])

    def test_missing_drive_is_not_made(self) -> None:
        """The mount point of a drive that is away is not taken for an empty drive."""
        os.rmdir(self.drive(0))
        self.put(b"one")
        self.assertFalse(os.path.exists(self.drive(0)))
        self.assertEqual(self.members(), ["1", "2"])

    def test_stopped_threads_count_as_failure(self) -> None:
        """A drive whose threads were stopped is a drive that failed."""
        workers = Workers(None, "stopped", 1)  # type: ignore[arg-type]
        workers.stop()
        folder = os.path.join(self.drive(0), "meta")
        log = MetadataLog([LogPlace("0", folder, workers, lambda: True)], 1, self.files, STORE, 5.0)
        with self.assertRaises(MetadataUnavailable):
            log.begin()


class VoidTests(LogCase):
    """Batches that were given up."""

    def test_refused_batch_is_void_by_the_next_segment(self) -> None:
        """What was written and not synced does not count beside the batch that has its number."""
        self.put(b"one")
        fault = self.files.fail(self.root, errno.EIO, operations=["sync"])
        self.refuse(b"refused")
        fault.lift()
        self.put(b"two")
        self.assertEqual(self.replayed(), [b"one", b"two"])
        for number in (0, 1):
            self.assertEqual(self.replayed(number), [b"one", b"two"])

    def test_abandoned_batch_is_void_at_once(self) -> None:
        """A batch that the log took, and that is given up, is void when abandon returns."""
        self.put(b"one")
        self.log.start(b"refused")
        self.log.finish()
        self.assertTrue(self.log.abandon())
        self.assertEqual(self.replayed(), [b"one"])
        self.put(b"two")
        self.assertEqual(self.replayed(), [b"one", b"two"])

    def test_void_segments_do_not_pile_up(self) -> None:
        """Segments without a record that counts are removed by the next."""
        self.put(b"one")
        for _ in range(20):
            self.log.start(b"refused")
            self.log.finish()
            self.log.abandon()
        self.put(b"two")
        names = sorted(os.listdir(os.path.join(self.drive(0), "meta")))
        self.assertEqual(names, ["log.1", "log.21"])
        self.assertEqual(self.replayed(), [b"one", b"two"])

    def test_late_write_of_a_hung_drive_is_void(self) -> None:
        """A batch that a hung drive writes after it was refused does not count."""
        workers = [Workers(None, f"d{n}", 1) for n in range(4)]  # type: ignore[arg-type]
        places = [
            LogPlace(str(n), os.path.join(self.drive(n), "meta"), workers[n], lambda: True)
            for n in range(4)
        ]
        self.log = MetadataLog(places, 2, self.files, STORE, 0.2)
        self.put(b"one")
        hang = self.files.hang(self.drive(0), operations=["write"])
        fail = self.files.fail(self.drive(1), errno.EIO, operations=["write"])
        self.refuse(b"refused")
        self.assertTrue(hang.hanging.is_set())
        fail.lift()
        self.put(b"two")
        hang.lift()
        self.log.close_segment()
        for each in workers:
            self.assertTrue(each.stop(5.0))
        self.assertEqual(self.replayed(0), [b"one", b"refused"])
        self.assertEqual(self.replayed(), [b"one", b"two"])

    def test_terms_of_a_drive_that_was_away_are_not_used_again(self) -> None:
        """A drive that joins later makes the log's term higher than any of its own."""
        for _ in range(5):
            self.log.begin()
        self.log.close_segment()
        self.log = self.new_log()
        self.away = {0, 1}
        self.log.begin()
        self.assertEqual(self.log.term, 1)
        self.away = {1, 2}
        self.log.begin()
        self.assertEqual(self.log.term, 6)

    def test_carried_records_do_not_void(self) -> None:
        """A segment may repeat the records before it; those of lower terms count as before."""
        self.put(b"one", b"two")
        self.log.begin(carried=[Record(2, b"two")])
        self.put(b"three")
        self.assertEqual(self.replayed(), [b"one", b"two", b"three"])
        os.unlink(os.path.join(self.drive(0), "meta", "log.2"))
        os.truncate(os.path.join(self.drive(1), "meta", "log.1"), 100)
        self.assertEqual(self.replayed(0), [b"one", b"two"])
        self.assertEqual(self.replayed(), [b"one", b"two", b"three"])


class LookTests(LogCase):
    """What is found on a drive."""

    def test_files_of_others_are_passed_over(self) -> None:
        """Another store's segments, damaged ones and unknown files are not this log."""
        self.put(b"one")
        meta = os.path.join(self.drive(0), "meta")
        strange = MetadataLog(
            [LogPlace("x", meta, InlineWorkers(), lambda: True)],
            1,
            self.files,
            bytes(16),
            5.0,
        )
        strange.term = 7
        strange.begin()
        for name in ("log.9", "snapshot.3"):
            with open(os.path.join(meta, name), "wb") as file:
                file.write(b"garbage" * 100)
        for name in ("notes.txt", "log", "log.x", "log.1.bak"):
            with open(os.path.join(meta, name), "wb") as file:
                file.write(b"not ours")
        drive = self.new_log().drives[0]
        listing = drive.look()
        self.assertEqual(sorted(listing.segments), [1])
        self.assertEqual(listing.snapshots, {})
        self.assertEqual(listing.foreign, 3)
        self.assertFalse(listing.newer)
        self.assertEqual(self.replayed(), [b"one"])

    def test_sweep_removes_what_is_unfinished(self) -> None:
        """Files of writes that never ended are removed at the start, and only then."""
        self.put(b"one")
        left = os.path.join(self.drive(0), "meta", "snapshot.5.new")
        with open(left, "wb") as file:
            file.write(b"half")
        drive = self.new_log().drives[0]
        drive.look()
        self.assertTrue(os.path.exists(left))
        drive.look(sweep=True)
        self.assertFalse(os.path.exists(left))

    def test_drive_that_cannot_be_read_is_set_aside(self) -> None:
        """EIO while listing is a failed drive, not an empty one."""
        self.put(b"one")
        self.files.fail(self.drive(0), errno.EIO, operations=["list"])
        log = self.new_log()
        log.look(log.drives)
        self.assertIsNone(log.drives[0].listing)
        self.assertTrue(log.drives[0].failed)
        self.assertIsNotNone(log.drives[1].listing)

    def test_read_that_fails_half_way(self) -> None:
        """Records come from the other copy when a drive fails while it is read."""
        self.put(b"one", b"two")
        log = self.new_log()
        log.look(log.drives)
        self.files.fail(self.drive(0), errno.EIO, operations=["pread"])
        walk = Replay(Survey.of(log.drives, 5.0))
        payloads = [record.payload for _, record in walk.records(0, strict=True)]
        self.assertEqual(payloads, [b"one", b"two"])
        self.assertTrue(log.drives[0].failed)

    def test_verify_drops_copies_that_are_gone(self) -> None:
        """A segment removed under the log is noticed, though its descriptor still takes writes."""
        self.put(b"one")
        os.unlink(os.path.join(self.drive(1), "meta", "log.1"))
        self.put(b"two")
        self.assertEqual(self.members(), ["0", "1"])
        self.log.verify()
        self.assertEqual(self.members(), ["0"])

    def test_cut(self) -> None:
        """A cut removes what is older than a snapshot, and nothing else; twice does no harm."""
        meta = os.path.join(self.drive(0), "meta")
        os.makedirs(meta)
        for name in ("log.1", "log.2", "log.10", "snapshot.5", "snapshot.30", "probe.new", "x.1"):
            with open(os.path.join(meta, name), "wb"):
                pass
        drive: LogDrive = self.log.drives[0]
        for _ in range(2):
            drive.cut(before_term=10, before_seq=30)
            left = sorted(os.listdir(meta))
            self.assertEqual(left, ["log.10", "probe.new", "snapshot.30", "x.1"])
