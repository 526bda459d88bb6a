"""Volumes that are mostly garbage: which are emptied, what is left, what happens meanwhile."""

from __future__ import annotations

import errno
import os

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters import volume_emptying, volumes
from dostore.adapters.drive_state import DriveState
from dostore.adapters.volume_emptying import Emptying, next_to_empty
from dostore.core.volumelog import HEAD_BYTES
from dostore.errors import NodeUnavailable
from tests.support.shards import Sample
from tests.support.volumes import VolumeCase


class EmptyingCase(VolumeCase):
    """A drive with several volumes."""

    def fill(self, count: int = 40) -> list[Sample]:
        """Put shards into several volumes."""
        samples = self.put_some(*range(count))
        self.assertGreater(len(self.volumes.log.numbers), 2)
        return samples

    def inside(self, number: int, samples: list[Sample]) -> list[Sample]:
        """Those that are in a volume."""
        return [
            what
            for what in samples
            if (place := self.volumes.find(what.content.hash, 0)) and place.volume == number
        ]

    def drop(self, *samples: Sample) -> None:
        """They are gone for good."""
        for what in samples:
            self.do(self.node.discard(what.content.hash, 0))


class ChoiceTests(EmptyingCase):
    """Which volume is emptied."""

    def test_garbage(self) -> None:
        """That of which most is garbage, when it is more than half of it; never the last one."""
        samples = self.fill()
        self.assertIsNone(next_to_empty(self.volumes))
        one, two = self.inside(1, samples), self.inside(2, samples)
        half = len(one) // 2 - 1
        self.drop(*one[:half])
        self.assertIsNone(next_to_empty(self.volumes))
        self.drop(*one[half : half + 2])
        self.assertEqual(next_to_empty(self.volumes), 1)
        self.drop(*two[:-1])
        self.assertEqual(next_to_empty(self.volumes), 2)
        self.restart()
        self.assertEqual(next_to_empty(self.volumes), 2)
        # What can be given back is no garbage.
        kept = self.inside(3, samples)
        self.delete(*kept)
        self.assertGreater(self.volumes.state.needed(3), 3000)
        last = self.volumes.log.numbers[-1]
        self.drop(*self.inside(last, samples))
        self.assertNotEqual(next_to_empty(self.volumes), last)

    def test_full(self) -> None:
        """On a full drive only one that holds nothing but garbage."""
        samples = self.fill()
        one = self.inside(1, samples)
        self.drop(*one[:-1])
        self.assertIsNone(next_to_empty(self.volumes, full=True))
        self.drop(one[-1])
        self.assertEqual(next_to_empty(self.volumes, full=True), 1)
        self.files.fail(str(self.folder), errno.ENOSPC, operations={"create", "write"})
        self.empty(self.node, 1)
        self.assertNotIn("1", self.names())

    def test_small(self) -> None:
        """When there are many small ones, as after many starts, they are put together."""
        self.patch(volume_emptying, "SMALL_BYTES", 3000)
        self.patch(volumes, "VOLUME_BYTES", 20_000)
        samples = []
        for seed in range(12):
            samples += self.put_some(seed, size=4000)
            self.restart()
        self.assertEqual(len(self.volumes.log.numbers), 12)
        self.assertEqual(self.empty_all(self.node), 4)
        self.assertEqual(len(self.volumes.log.numbers), 9)
        self.restart()
        self.assert_there(*samples)


class EmptiedTests(EmptyingCase):
    """What is left of one."""

    def test_what_counts(self) -> None:
        """All that counts counts on, with its time; what was removed can be given back."""
        samples = self.fill()
        kept, removed, dropped, purged, renewed = self.inside(1, samples)[:5]
        self.delete(purged)
        self.do(self.node.purge(2.0**40))
        self.drop(dropped)
        self.now += 10.0
        self.delete(removed)
        self.now += 10.0
        self.do(self.node.renew(renewed.content.hash))
        modified = [self.do(self.node.modified(s.content.hash)) for s in (kept, renewed)]
        self.assertEqual(modified, [1e9, 1e9 + 20])
        self.now += 1000.0
        self.empty(self.node, 1)
        self.assertNotIn("1", self.names())
        self.assertNotIn("1.hint", self.names())
        for _ in range(2):
            self.assertEqual(self.inside(1, samples), [])
            again = [self.do(self.node.modified(s.content.hash)) for s in (kept, renewed)]
            self.assertEqual(again, modified)
            self.assertEqual(self.volumes.removed(removed.content.hash), (0,))
            self.assertEqual(next(self.volumes.state.all_removed()).time_ms, 10**12 + 10_000)
            self.assert_gone(dropped, purged)
            self.restart()
        self.assertEqual(self.do(self.node.purge(1e9 + 9)), 0)
        self.assertEqual(self.do(self.node.purge(1e9 + 11)), 1)
        left = [s for s in samples if s not in (removed, dropped, purged)]
        self.assert_there(*left)

    def test_without_a_hint(self) -> None:
        """The hint need not be there, nor tell of all."""
        samples = self.fill()
        self.drop(*self.inside(1, samples)[::2])
        (self.folder / "volumes" / "1.hint").unlink()
        self.empty(self.node, 1)
        self.assertNotIn("1", self.names())
        two = self.inside(2, samples)
        self.files.fail(str(self.folder), errno.EIO, operations={"open"}, containing="2.hint")
        path, offset = self.place(two[0])
        # Without the hint this one is not found in the volume; but it is known where it is.
        self.damage(path, offset + 10)
        self.empty(self.node, 2)
        self.assertEqual(self.volumes.losses, 1)
        self.assert_gone(two[0])
        self.assert_there(*two[1:])

    def test_damaged(self) -> None:
        """What is damaged is not copied but dropped, removed or not, told of, and counted."""
        samples = self.fill()
        one = self.inside(1, samples)
        self.delete(one[2])
        path, first = self.place(one[0])
        self.files.fail(str(path), errno.EIO, operations={"pread"}, after=2, times=1)
        self.damage(path, first + HEAD_BYTES + 1)
        place = self.volumes.state.find_removed(one[2].content.hash.digest, 0)
        assert place is not None
        self.damage(path, place.offset + HEAD_BYTES + 1)
        lines = self.logged()
        self.empty(self.node, 1)
        self.assertEqual(["is damaged at byte" in line for line in lines], [True] * 3)
        self.assertEqual(self.volumes.losses, 3)
        self.assert_gone(one[0], one[1], one[2])
        self.restart()
        self.assert_gone(one[0], one[1], one[2])
        self.assert_there(*one[3:])

    def carried(self) -> int:
        """Bytes of carried changes that are needed."""
        state = self.volumes.state
        numbers = self.volumes.log.numbers
        return sum(state.needed(number) - state.held.get(number, 0) for number in numbers)

    def test_changes_of_older_volumes(self) -> None:
        """What tells of shards in older volumes is carried on as long as these are there."""
        back, gone, removed, _ = self.put_some(1, 2, 3, 4, size=200)
        self.next_volume()
        self.delete(back, removed)
        self.assert_there(back)
        self.drop(gone)
        self.next_volume()
        self.assertGreater(self.volumes.state.needed(1), 3000)
        self.empty(self.node, 2)
        for _ in range(3):
            self.assertEqual(self.carried(), 3 * HEAD_BYTES)
            self.restart()
            self.assert_there(back)
            self.assert_gone(gone)
            self.assertEqual(self.volumes.removed(removed.content.hash), (0,))
        self.empty(self.node, 1)
        # Nothing needs to be told of it any more; what was removed is in another one now.
        self.assertEqual(self.carried(), HEAD_BYTES)
        for number in self.volumes.log.numbers[:-1]:
            self.empty(self.node, number)
        self.restart()
        self.assert_there(back)
        self.assert_gone(gone)

    def test_the_same_again(self) -> None:
        """A shard that was written again since is not copied from where it was before."""
        samples = self.fill()
        one = self.inside(1, samples)
        self.put(*one)
        self.assertEqual(next_to_empty(self.volumes), 1)
        before = self.volumes.log.end
        self.empty(self.node, 1)
        self.assertEqual(self.volumes.log.end, before)
        self.assert_there(*samples)

    def test_gone_before(self) -> None:
        """A volume that somebody removed is lost, whenever that is found out."""
        samples = self.fill()
        one, two = self.inside(1, samples), self.inside(2, samples)
        (self.folder / "volumes" / "1").unlink()
        self.empty(self.node, 1)
        self.assertEqual(self.volumes.losses, len(one))
        self.assert_gone(*one)
        emptying = Emptying(self.volumes, 2)
        self.assertTrue(emptying.step())
        self.drop(*self.inside(2, samples))
        (self.folder / "volumes" / "2").unlink()
        while emptying.step():
            pass
        self.assertNotIn(2, self.volumes.log.numbers)
        self.restart()
        self.assert_there(*self.inside(3, samples), two[0])


class MeanwhileTests(EmptyingCase):
    """What happens while a volume is emptied."""

    def test_between_steps(self) -> None:
        """Shards are read, removed, given back and written while they are copied."""
        samples = self.fill(60)
        one = self.inside(1, samples)
        self.delete(one[-1])
        gone, deleted = one[1::4], one[2::4]
        emptying = Emptying(self.volumes, 1)
        step = 0
        while emptying.step():
            self.assert_there(*[s for s in one[:-1] if s not in gone + deleted])
            if step == 1:
                self.drop(*gone)
                self.delete(*deleted)
                self.put(one[0])
                self.assert_there(one[-1])
            step += 1
        self.assertGreater(step, 3)
        for _ in range(2):
            self.assertNotIn("1", self.names())
            self.assert_gone(*gone)
            for what in deleted:
                self.assertEqual(self.volumes.removed(what.content.hash), (0,))
            self.assert_there(*[s for s in samples if s not in gone + deleted])
            self.restart()

    def test_changed_while_read(self) -> None:
        """So they are between the reading of a record and its copy."""
        samples = self.fill()
        one = self.inside(1, samples)
        read = self.volumes.read_record
        queue = [
            lambda: self.drop(one[0]),
            lambda: self.delete(one[1]),
            lambda: self.put(one[2]),
        ]

        def read_record(place: object) -> object:
            record = read(place)  # type: ignore[arg-type]
            if queue:
                queue.pop(0)()
            return record

        self.patch(self.volumes, "read_record", read_record)
        self.empty(self.node, 1)
        for _ in range(2):
            self.assert_gone(one[0])
            self.assertEqual(self.volumes.removed(one[1].content.hash), (0,))
            self.assert_there(*one[2:])
            self.restart()

    def test_reader_behind(self) -> None:
        """A reader that found a place before the volume was emptied finds the new one."""
        samples = self.fill()
        what = self.inside(1, samples)[0]
        place = self.volumes.find(what.content.hash, 0)
        assert place is not None
        self.empty(self.node, 1)
        places = [place, place]
        find = self.volumes.find
        self.patch(self.volumes, "find", lambda *a: places.pop() if places else find(*a))
        self.assert_there(what)
        self.assertEqual(places, [])
        places.append(place)
        self.assertEqual(self.do(self.node.glance([(what.content, 0)])), [])

    def test_loaded_meanwhile(self) -> None:
        """When the drive went away and came back, the copying ends, and begins anew."""
        samples = self.fill()
        for steps in range(4):
            emptying = Emptying(self.volumes, 1)
            for _ in range(steps):
                self.assertTrue(emptying.step())
            self.volumes.load()
            self.assertFalse(emptying.step())
            self.assertIn("1", self.names())
            self.assert_there(*samples)

    def test_loaded_in_the_middle_of_a_step(self) -> None:
        """Also when that comes in the middle of a step."""
        samples = self.fill()
        read = self.volumes.read_record

        def read_record(place: object) -> object:
            record = read(place)  # type: ignore[arg-type]
            self.volumes.load()
            return record

        self.patch(self.volumes, "read_record", read_record)
        end = self.volumes.log.end
        self.empty(self.node, 1)
        self.assertIn("1", self.names())
        self.assertLessEqual(self.volumes.log.end, end)
        self.assert_there(*samples)

    def test_failures(self) -> None:
        """Whatever fails, nothing is lost, and it can be done again."""
        samples = self.fill(60)
        one = self.inside(1, samples)
        self.delete(one[0])
        self.delete(self.inside(2, samples)[0])
        for operation in ("open", "pread", "write", "sync", "unlink", "sync_folder"):
            for after in range(3):
                if "1" not in self.names():
                    break
                fault = self.files.fail(
                    str(self.folder / "volumes"), errno.EACCES, operations={operation}, after=after
                )
                emptying = Emptying(self.volumes, 1)
                failed = False
                try:
                    while emptying.step():
                        pass
                except OSError:
                    failed = True
                fault.lift()
                self.assertTrue(failed or not fault.met, operation)
                self.assertEqual(len(self.volumes.removed(one[0].content.hash)), 1)
                self.assert_there(*one[1:])
        self.restart()
        self.empty_all(self.node)
        self.restart()
        self.assert_there(*one[1:])


class PausesTests(EmptyingCase):
    """A node empties a volume with pauses."""

    def test_pauses(self) -> None:
        """They are twice as long as the steps; readers find all meanwhile."""
        samples = self.fill()
        clock = Clock()
        step = Emptying.step

        def slow_step(emptying: Emptying) -> bool:
            clock.advance(0.01)
            return step(emptying)

        self.patch(Emptying, "step", slow_step)
        done = Deferred.fromCoroutine(self.node.packed.empty(1, clock))
        pauses = 0
        while not done.called:
            (call,) = clock.getDelayedCalls()
            self.assertAlmostEqual(call.getTime() - clock.seconds(), 0.02)
            self.assert_there(*samples)
            clock.advance(0.0201)
            pauses += 1
        self.successResultOf(done)
        self.assertGreater(pauses, 3)
        self.assertFalse(os.path.exists(self.folder / "volumes" / "1"))

    def test_failure(self) -> None:
        """An error is told, and the drive judged by it."""
        self.fill()
        self.files.fail(str(self.folder / "volumes"), errno.EIO, operations={"write"})
        self.assert_fails(self.node.packed.empty(1, Clock()), NodeUnavailable)
        self.assertEqual(self.node.state, DriveState.READ_ONLY)
