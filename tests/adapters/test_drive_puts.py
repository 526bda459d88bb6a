"""dostore.adapters.drive_puts: small contents on six drives, with threads and a clock by hand."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from dostore.adapters.drive_commits import BATCH
from dostore.adapters.drive_puts import LATE_S
from dostore.adapters.drives import DriveSet
from dostore.errors import NodeUnavailable, NoSpace
from dostore.ports import PUT_GRACE_S
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample, sample
from tests.support.stepped import SteppedWorkers
from tests.support.workers import InlineWorkers

Outcomes = Mapping[int, Exception | None]

SHARDS = range(6)


class _Bytes(bytearray):
    """Bytes of which can be told whether they are still there."""


class DrivePutsTests(SyncTestCase):
    """Puts on six drives, each with a thread by hand."""

    def setUp(self) -> None:
        """Six folders, whose drives do nothing until they are told to."""
        super().setUp()
        self.clock = Clock()
        self.files = FaultyFiles(durable=False)
        self.soon: list[Callable[[], None]] = []
        self.workers: dict[str, SteppedWorkers] = {}
        root = os.path.abspath(self.mktemp())
        os.mkdir(root)
        self.drives = DriveSet(
            [os.path.join(root, str(number)) for number in range(1, 7)],
            SCHEME,
            files=self.files,
            make_workers=self.make_workers,
            clock=self.clock,
            now=self.clock.seconds,
            soon=self.soon.append,
        )
        self.successResultOf(Deferred.fromCoroutine(self.drives.start()))
        self.addCleanup(self.stop)
        self.placed = {index: member.address for index, member in enumerate(self.drives.members())}
        for workers in self.workers.values():
            workers.stalled = True

    def make_workers(self, name: str, size: int) -> SteppedWorkers | InlineWorkers:
        """Threads by hand for what is done with shards."""
        if not name.startswith("drive-"):
            return InlineWorkers()
        self.workers[name] = SteppedWorkers()
        return self.workers[name]

    def stop(self) -> None:
        """Stop the drives, whatever hangs in them, and leave no timer behind."""
        for workers in self.workers.values():
            workers.recover()
        stopping = Deferred.fromCoroutine(self.drives.stop())
        self.clock.advance(0)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def put(self, what: Sample, need: int = 5) -> Deferred[Outcomes]:
        """Begin to put a content."""
        return Deferred.fromCoroutine(self.drives.put(what.content, self.placed, what.shards, need))

    def end_turn(self) -> None:
        """The reactor's turn ends."""
        calls = self.soon[:]
        self.soon.clear()
        for call in calls:
            call()

    def end_turns(self) -> None:
        """So many turns of the reactor end that nothing waits for one."""
        while self.soon:
            self.end_turn()

    def work(self, *indexes: int) -> None:
        """Threads of drives do all that waits for them."""
        for index in indexes:
            self.workers[self.placed[index]].finish()

    def outcome(self, put: Deferred[Outcomes]) -> Outcomes:
        """How a put ended."""
        return self.successResultOf(put)

    def held(self, what: Sample) -> set[int]:
        """The shards that are found."""
        return set(self.drives.expected(what.content.hash, 6))

    def test_waits_for_all(self) -> None:
        """A put ends when the last shard is there, not when enough are."""
        what = sample(10_000)
        put = self.put(what)
        self.end_turns()
        self.work(0, 1, 2, 3, 5)
        self.assertNoResult(put)
        self.work(4)
        self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))
        self.assertEqual(self.held(what), set(SHARDS))

    def test_what_was_written_is_let_go(self) -> None:
        """Shards are freed when they are written, without the collector of cycles: it comes so
        seldom that hundreds of megabytes would wait for it.
        """
        gc.disable()
        self.addCleanup(gc.enable)
        what = sample(300_000)
        shards = [[_Bytes(piece) for piece in shard] for shard in what.shards]
        there = [weakref.ref(piece) for shard in shards for piece in shard]
        given: Any = shards
        put = Deferred.fromCoroutine(self.drives.put(what.content, self.placed, given, 5))
        del shards, given
        self.end_turns()
        self.work(*SHARDS)
        self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))
        self.assertEqual([each() for each in there if each() is not None], [])
        self.clock.advance(LATE_S)

    def log_syncs(self) -> list[str]:
        """The logs that were synced since this was last asked."""
        syncs = [path for call, path in self.files.calls if call == "sync" and "/log/" in path]
        self.files.calls.clear()
        return syncs

    def test_one_round_for_all_that_come_together(self) -> None:
        """Contents that come in turns of the reactor that follow one another are made durable by
        one sync a drive; the round begins when a turn brings no more."""
        # Making the log takes a sync more.
        first = self.put(sample(1))
        self.end_turns()
        self.work(*SHARDS)
        self.outcome(first)
        self.log_syncs()
        puts = []
        for seed in range(5):
            puts.append(self.put(sample(10_000, seed)))
            self.end_turn()
            self.assertEqual([workers.backlog() for workers in self.workers.values()], [0] * 6)
        self.end_turn()
        self.assertEqual([workers.backlog() for workers in self.workers.values()], [1] * 6)
        self.assertEqual(self.soon, [])
        self.work(*SHARDS)
        for put in puts:
            self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))
        self.assertEqual(len(self.log_syncs()), 6)

    def test_those_before_are_waited_for(self) -> None:
        """A round waits until what was put before is followed up, once; not when many wait."""
        waiting: list[Callable[[], None]] = []

        def follow(call: Callable[[], None]) -> bool:
            waiting.append(call)
            return True

        self.drives.pace(follow)
        first = self.put(sample(10_000, 1))
        self.end_turns()
        second = self.put(sample(10_000, 2))
        self.end_turns()
        self.assertEqual([workers.backlog() for workers in self.workers.values()], [0] * 6)
        (call,) = waiting
        call()
        third = self.put(sample(10_000, 3))
        self.end_turns()
        self.work(*SHARDS)
        for put in (first, second, third):
            self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))
        self.assertEqual(len(waiting), 1)
        many = [self.put(sample(1, seed)) for seed in range(BATCH)]
        self.end_turns()
        self.work(*SHARDS)
        for put in many:
            self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))

    def test_no_wait_for_too_many(self) -> None:
        """When as many wait as are written together, the round begins."""
        puts = [self.put(sample(1, seed)) for seed in range(BATCH + 1)]
        self.end_turn()
        self.assertEqual(self.soon, [])
        self.work(*SHARDS)
        for put in puts[:BATCH]:
            self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))
        self.assertNoResult(puts[BATCH])
        self.end_turns()
        self.work(*SHARDS)
        self.assertEqual(self.outcome(puts[BATCH]), dict.fromkeys(SHARDS))

    def test_those_who_come_meanwhile(self) -> None:
        """What comes while drives write is written when all drives have, and not by each when it
        has."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        second = self.put(sample(10_000, 2))
        self.work(0, 1, 2, 3, 4)
        self.assertEqual(self.soon, [])
        self.work(5)
        self.assertEqual(self.outcome(first), dict.fromkeys(SHARDS))
        self.assertNoResult(second)
        self.end_turns()
        self.work(*SHARDS)
        self.assertEqual(self.outcome(second), dict.fromkeys(SHARDS))

    def test_nobody_waits_for_a_late_drive(self) -> None:
        """The next round does not wait long for a drive that hangs, and later ones not at all."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        self.work(*range(5))
        second = self.put(sample(10_000, 2))
        self.clock.advance(LATE_S * 0.9)
        self.assertEqual(self.soon, [])
        self.clock.advance(LATE_S * 0.2)
        self.end_turns()
        self.work(*range(5))
        what = sample(10_000, 3)
        third = self.put(what)
        self.end_turns()
        self.work(*range(5))
        self.assertEqual(self.held(what), set(range(5)))
        # And when the drive goes on, nothing is missing.
        self.work(5)
        for put in (first, second, third):
            self.assertEqual(self.outcome(put), dict.fromkeys(SHARDS))

    def test_a_round_whose_writers_are_gone(self) -> None:
        """A round that nobody waits for is over."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        second = self.put(sample(10_000, 2))
        third = self.put(sample(10_000, 3))
        first.cancel()
        third.cancel()
        for put in (first, third):
            self.failureResultOf(put, CancelledError)
        self.end_turns()
        # First what was begun, then what waited behind it.
        self.work(*SHARDS)
        self.work(*SHARDS)
        self.assertEqual(self.outcome(second), dict.fromkeys(SHARDS))

    def test_gone_while_a_drive_hangs(self) -> None:
        """That nobody waits for a round any more keeps no drive from the next."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.work(*range(5))
        what = sample(10_000, 2)
        second = self.put(what)
        self.end_turns()
        self.clock.advance(LATE_S)
        self.work(*range(5))
        self.assertEqual(self.held(what), set(range(5)))
        self.work(5)
        self.assertEqual(self.outcome(second), dict.fromkeys(SHARDS))

    def test_all_gone_before_the_round(self) -> None:
        """When all who wait are gone before a round begins, there is none."""
        put = self.put(sample(10_000))
        put.cancel()
        self.failureResultOf(put, CancelledError)
        self.end_turns()
        self.assertEqual([workers.backlog() for workers in self.workers.values()], [0] * 6)
        self.test_waits_for_all()

    def test_one_drive_hangs(self) -> None:
        """When enough shards are there, the others have the grace time and no more."""
        what = sample(10_000)
        put = self.put(what)
        self.end_turns()
        self.clock.advance(60)
        self.work(0, 1, 2, 3, 4)
        self.clock.advance(PUT_GRACE_S - 0.1)
        self.assertNoResult(put)
        self.clock.advance(0.2)
        self.assertEqual(self.outcome(put), dict.fromkeys(range(5)))
        # It is there all the same when the drive goes on.
        self.work(5)
        self.assertEqual(self.held(what), set(SHARDS))

    def test_each_has_its_own_grace(self) -> None:
        """Of several that wait for a drive, each is given up in its own time."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        self.work(*range(5))
        self.clock.advance(LATE_S)
        self.clock.advance(PUT_GRACE_S / 2)
        second = self.put(sample(10_000, 2))
        self.end_turns()
        self.work(*range(5))
        self.clock.advance(LATE_S)
        self.clock.advance(PUT_GRACE_S / 2)
        self.assertEqual(self.outcome(first), dict.fromkeys(range(5)))
        self.assertNoResult(second)
        self.clock.advance(PUT_GRACE_S / 2)
        self.assertEqual(self.outcome(second), dict.fromkeys(range(5)))

    def test_given_up_before_it_began(self) -> None:
        """A shard that waits behind a drive that hangs is not written when nobody waits for it."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        self.work(*range(5))
        self.clock.advance(LATE_S)
        what = sample(10_000, 2)
        second = self.put(what)
        self.end_turns()
        self.work(*range(5))
        self.clock.advance(PUT_GRACE_S)
        for put in (first, second):
            self.assertEqual(self.outcome(put), dict.fromkeys(range(5)))
        self.work(5)
        self.assertEqual(self.held(what), set(range(5)))

    def test_nothing_to_put(self) -> None:
        """Of nothing, nothing is written."""
        self.placed.clear()
        self.assertEqual(self.outcome(self.put(sample(10_000))), {})
        self.assertEqual(self.soon, [])

    def test_too_few(self) -> None:
        """When too many drives fail, those that are left have the grace time."""
        for index in (0, 1):
            folder = self.drives.drives[index].folder
            self.files.fail(folder, errno.EIO, operations={"sync"})
        put = self.put(sample(10_000))
        self.end_turns()
        self.work(0, 1, 2)
        self.clock.advance(LATE_S)
        self.assertNoResult(put)
        self.clock.advance(PUT_GRACE_S)
        outcomes = dict(self.outcome(put))
        for index in (0, 1):
            self.assertIsInstance(outcomes.pop(index), NodeUnavailable)
        self.assertEqual(outcomes, {2: None})

    def test_no_room(self) -> None:
        """That a drive is full is told as such, and the next put does not ask it."""
        fault = self.files.fail(
            self.drives.drives[3].folder, errno.ENOSPC, operations={"write", "create"}
        )
        put = self.put(sample(10_000, 1))
        self.end_turns()
        self.work(*SHARDS)
        outcomes = dict(self.outcome(put))
        self.assertIsInstance(outcomes.pop(3), NoSpace)
        self.assertEqual(outcomes, dict.fromkeys((0, 1, 2, 4, 5)))
        met = fault.met
        second = self.put(sample(10_000, 2))
        self.end_turns()
        self.work(*SHARDS)
        self.assertIsInstance(self.outcome(second)[3], NodeUnavailable)
        self.assertEqual(fault.met, met)

    def test_a_drive_goes_away(self) -> None:
        """Who waits for a drive that is found to be away is told at once."""
        put = self.put(sample(10_000))
        self.end_turns()
        self.work(*range(5))
        self.clock.advance(LATE_S)
        self.assertNoResult(put)
        self.drives.drives[5].node.stop()
        outcomes = dict(self.outcome(put))
        self.assertIsInstance(outcomes.pop(5), NodeUnavailable)
        self.assertEqual(outcomes, dict.fromkeys(range(5)))

    def test_cancelled(self) -> None:
        """Who is cancelled waits no longer, and what was not begun is not written."""
        first = self.put(sample(10_000, 1))
        self.end_turns()
        what = sample(10_000, 2)
        second = self.put(what)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.work(*SHARDS)
        self.assertEqual(self.outcome(first), dict.fromkeys(SHARDS))
        self.assertEqual(self.held(what), set())

    def test_cancelled_in_its_grace(self) -> None:
        """One that is cancelled while it waits for the last shard leaves the others' time alone."""
        first = self.put(sample(10_000, 1))
        second = self.put(sample(10_000, 2))
        self.end_turns()
        self.work(*range(5))
        self.clock.advance(LATE_S)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.clock.advance(PUT_GRACE_S)
        self.assertEqual(self.outcome(second), dict.fromkeys(range(5)))

    def test_members_are_remembered(self) -> None:
        """The members are the same object until something of them changes."""
        members = self.drives.members()
        self.assertIs(self.drives.members(), members)
        changes: list[Callable[[], object]] = [
            partial(self.drives.drives[0].measured, 1),
            self.drives.drives[1].node.stop,
        ]
        for change in changes:
            change()
            changed = self.drives.members()
            self.assertNotEqual(changed, members)
            self.assertIs(self.drives.members(), changed)
            members = changed
