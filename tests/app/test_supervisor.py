"""How the front looks after its workers; these are sockets that the test holds."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from dostore.app.supervisor import (
    ANSWER_S,
    END_S,
    FIRST_PAUSE_S,
    LONG_LIFE_S,
    LONGEST_PAUSE_S,
    Supervisor,
    Worker,
)
from dostore.core.worker_messages import (
    BACK,
    COUNT,
    ENDED,
    GIVE,
    HELLO,
    READY,
    STOP,
    format_connection,
    format_json,
    format_log,
    parse_connection,
    parse_seconds,
)
from dostore.packets import MAX_BYTES
from dostore.web.api.counts import Counts
from tests.app.test_config import DEFAULT
from tests.support.cases import SyncTestCase
from tests.test_packets import Selecting


class Reactor(Clock, Selecting):
    """Time and descriptors, in the test's hands."""

    def __init__(self) -> None:
        Clock.__init__(self)
        Selecting.__init__(self)

    def turn(self) -> None:
        """Read what has come."""
        for reader in list(self.readers):
            reader.doRead()


class Process:
    """A worker that is not there.

    :ivar end: its end of the socket.
    :ivar status: its exit status, once it has ended.
    """

    def __init__(self, descriptor: int) -> None:
        self.end = socket.socket(fileno=os.dup(descriptor))
        self.end.setblocking(False)
        self.status: int | None = None
        self.killed = False

    def poll(self) -> int | None:
        """See supervisor.Process."""
        return self.status

    def kill(self) -> None:
        """See supervisor.Process."""
        self.killed = True
        self.end_with(-signal.SIGKILL)

    def end_with(self, status: int) -> None:
        """End."""
        self.status = status
        self.end.close()

    def received(self) -> list[bytes]:
        """What it was sent."""
        found: list[bytes] = []
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.end, MAX_BYTES, 1)
            except BlockingIOError:
                return found
            found.append(data)
            for descriptor in descriptors:
                os.close(descriptor)


class SupervisorTests(SyncTestCase):
    """A front with two workers."""

    def setUp(self) -> None:
        """Start them."""
        super().setUp()
        self.reactor = Reactor()
        self.processes: list[Process] = []
        self.failing = False
        self.back: list[tuple[bool, bytes]] = []
        self.others: list[tuple[int, bytes]] = []
        self.supervisor = Supervisor(
            evolve(DEFAULT, workers=3), self.reactor, receive=self._receive, spawn=self._spawn
        )
        self.supervisor.start(self._come_back)
        self.addCleanup(self._close)

    def _spawn(self, descriptor: int) -> Process:
        if self.failing:
            raise OSError(11, os.strerror(11))
        process = Process(descriptor)
        self.processes.append(process)
        return process

    def _come_back(self, descriptor: int, late: bool, data: bytes) -> None:
        os.close(descriptor)
        self.back.append((late, data))

    def _receive(self, worker: Worker, data: bytes) -> None:
        self.others.append((worker.number, data))

    def _close(self) -> None:
        for process in self.processes:
            process.end.close()
        for worker in self.supervisor.workers:
            if worker.packets is not None:
                worker.packets.close()

    def say(self, process: Process, *messages: bytes) -> None:
        """Have a worker send messages."""
        for message in messages:
            process.end.send(message)
        self.reactor.turn()

    def die(self, process: Process, status: int = -signal.SIGKILL) -> None:
        """Have a worker end, and be found so."""
        process.end_with(status)
        self.reactor.turn()
        self.reactor.advance(0.0)

    def counted(self, gets: int) -> bytes:
        """What a worker says that it has counted."""
        counts = Counts()
        counts.store["gets"] = gets
        counts.http.connections = 1
        return format_json(COUNT, counts.as_json())

    def test_configuration(self) -> None:
        """Each is told how it is configured, and serves when it says so."""
        for process in self.processes:
            (hello,) = process.received()
            self.assertEqual(hello[:1], HELLO)
            self.assertEqual(pickle.loads(hello[1:]), evolve(DEFAULT, workers=3))
        worker = self.supervisor.workers[0]
        self.assertFalse(worker.ready)
        self.say(self.processes[0], READY)
        self.assertTrue(worker.ready)
        self.assertEqual(self.supervisor.alive, 1)

    def test_connections(self) -> None:
        """Those that it was given count until it says that they ended, or gives them back."""
        self.say(self.processes[0], READY)
        self.processes[0].received()
        worker = self.supervisor.workers[0]
        one, other = socket.socketpair()
        for full in (False, True):
            self.assertTrue(worker.give(one.fileno(), full, b"GET"))
        self.assertEqual(
            [(m[:1], parse_connection(m)) for m in self.processes[0].received()],
            [(GIVE, (1, False, b"GET")), (GIVE, (2, True, b"GET"))],
        )
        self.assertEqual(worker.count, 2)
        self.say(self.processes[0], format_connection(ENDED, 1, False))
        self.assertEqual(worker.count, 1)
        message = format_connection(BACK, 2, True, b"PUT")
        socket.send_fds(self.processes[0].end, [message], [one.fileno()])
        self.reactor.turn()
        self.assertEqual((worker.count, self.back), (0, [(True, b"PUT")]))
        self.assertFalse(worker.give(one.fileno(), False, b"x" * MAX_BYTES))
        self.say(self.processes[1], b"?")
        self.assertEqual(self.others, [(2, b"?")])
        one.close()
        other.close()

    def test_one_that_dies(self) -> None:
        """It is started again after a pause, which doubles until one has lived for long."""
        worker = self.supervisor.workers[0]
        self.say(self.processes[0], READY)
        one, other = socket.socketpair()
        worker.give(one.fileno(), False, b"")
        self.die(self.processes[0])
        self.assertEqual((worker.count, worker.ready), (0, False))
        self.assertFalse(worker.give(one.fileno(), False, b""))
        pause = FIRST_PAUSE_S
        for _ in range(9):
            count = len(self.processes)
            self.reactor.advance(pause - 0.01)
            self.assertEqual(len(self.processes), count)
            self.reactor.advance(0.01)
            self.assertEqual(len(self.processes), count + 1)
            self.die(self.processes[-1], 1)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        self.reactor.advance(pause)
        self.reactor.advance(LONG_LIFE_S)
        self.die(self.processes[-1], 1)
        count = len(self.processes)
        self.reactor.advance(FIRST_PAUSE_S)
        self.assertEqual(len(self.processes), count + 1)
        one.close()
        other.close()

    def test_one_that_cannot_be_started(self) -> None:
        """It is tried again."""
        self.failing = True
        self.die(self.processes[0])
        self.reactor.advance(FIRST_PAUSE_S)
        self.failing = False
        self.reactor.advance(2 * FIRST_PAUSE_S)
        self.assertEqual(len(self.processes), 3)

    def test_one_that_closes_its_end_and_stays(self) -> None:
        """It gets a moment to end, and is killed then."""
        self.processes[0].end.close()
        self.reactor.turn()
        self.reactor.pump([1.0] * (int(END_S) + 2))
        self.assertTrue(self.processes[0].killed)

    def test_lines_for_the_log(self) -> None:
        """They are logged here."""
        events: list[LogEvent] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.say(self.processes[0], format_log("warn", "dostore.drives", "a drive {hangs}"))
        (event,) = events
        self.assertEqual(event["log_namespace"], "dostore.drives")
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual(formatEvent(event), "a drive {hangs} [worker 1]")

    def counts(self) -> Deferred[list[Counts]]:
        """Ask all what they have counted."""
        return Deferred.fromCoroutine(self.supervisor.counts())

    def test_counts(self) -> None:
        """All are asked; of one that does not answer in time counts what it said last."""
        for process in self.processes:
            self.say(process, READY)
        asked = self.counts()
        self.say(self.processes[0], self.counted(5))
        self.assertNoResult(asked)
        self.say(self.processes[1], self.counted(7))
        found = self.successResultOf(asked)
        self.assertEqual([counts.store["gets"] for counts in found], [5, 7])
        asked = self.counts()
        self.say(self.processes[0], self.counted(6))
        self.reactor.advance(ANSWER_S)
        found = self.successResultOf(asked)
        self.assertEqual([counts.store["gets"] for counts in found], [6, 7])

    def test_counts_of_the_dead(self) -> None:
        """What one had counted stays counted, but for what was so only while it lived."""
        for process in self.processes:
            self.say(process, READY)
        asked = self.counts()
        self.say(self.processes[0], self.counted(5))
        self.die(self.processes[1])
        self.successResultOf(asked)
        self.die(self.processes[0])
        (found, _) = self.successResultOf(self.counts())
        self.assertEqual((found.store["gets"], found.http.connections), (5, 0))
        self.reactor.advance(FIRST_PAUSE_S)
        # The other's comes first, which had died before.
        self.say(self.processes[3], READY)
        asked = self.counts()
        self.say(self.processes[3], self.counted(3))
        self.assertEqual(self.successResultOf(asked)[0].store["gets"], 8)

    def stop(self, grace_s: float) -> Deferred[None]:
        """End all."""
        return Deferred.fromCoroutine(self.supervisor.stop(grace_s))

    def test_stopping(self) -> None:
        """Each is told how long it has, and none is started again."""
        self.die(self.processes[0])
        self.processes[1].received()
        stopped = self.stop(3.0)
        (message,) = self.processes[1].received()
        self.assertEqual((message[:1], parse_seconds(message)), (STOP, 3.0))
        self.assertNoResult(stopped)
        self.die(self.processes[1], 0)
        self.successResultOf(stopped)
        self.reactor.advance(100.0)
        self.assertEqual(len(self.processes), 2)

    def test_one_that_does_not_stop(self) -> None:
        """It is killed."""
        stopped = self.stop(3.0)
        self.die(self.processes[1], 0)
        self.reactor.advance(20.0)
        self.assertTrue(self.processes[0].killed)
        self.reactor.turn()
        self.reactor.advance(0.1)
        self.successResultOf(stopped)

    def test_no_such_message(self) -> None:
        """Where only connections are served, a message of another kind is an error."""
        alone: Any = Supervisor(evolve(DEFAULT, workers=2), self.reactor, spawn=self._spawn)
        alone.start(self._come_back)
        self.processes[-1].end.send(b"?")
        with self.assertRaises(ValueError):
            self.reactor.turn()
        alone.workers[0].packets.close()
