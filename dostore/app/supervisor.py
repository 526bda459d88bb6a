"""The other processes of an API server: started, started again, ended."""

from __future__ import annotations

import os
import pickle
import signal
import site
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel

import dostore
from dostore.app.config import Config
from dostore.core.worker_messages import (
    BACK,
    COUNT,
    ENDED,
    GIVE,
    HELLO,
    LOG,
    READY,
    STOP,
    format_connection,
    format_seconds,
    parse_connection,
    parse_json,
)
from dostore.fanout import gather
from dostore.packets import MAX_BYTES, Packets, pair
from dostore.web.api.counts import Counts

_log = Logger(namespace="dostore")

#: A worker that ended is started again after the first pause, and after twice as long each time
#: that it ends before it has lived for the last.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONG_LIFE_S = 60.0

#: A worker that is asked what it has counted, or whose connection has ended, gets so long.
ANSWER_S = 1.0
END_S = 5.0

#: Beyond the grace for requests, a worker that is told to end gets so long.
_MORE_S = 6.0

_REAP_S = 0.02

#: A worker that has not read so many messages gets no more connections.
_MAX_WAITING = 256

#: What is run, with the descriptor by which the worker finds the front; never from a folder where
#: somebody may have put modules of these names.
_COMMAND = (sys.executable, "-P", "-m", "dostore.app.worker")

#: Takes a connection that a worker gives back: its descriptor, whether the worker had tried to
#: answer, and what has come.
ComeBack = Callable[[int, bool, bytes], None]

#: Takes a message of a kind that only one shape has.
Receive = Callable[["Worker", bytes], None]


class Process(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Its exit status, once it has ended; negative: the signal that ended it."""

    def kill(self) -> None:
        """End it at once."""


def spawn_worker(descriptor: int) -> Process:
    """Start one.

    :raises OSError: that is not possible now.
    """
    environ = dict(os.environ)
    # Where this process found the program, whatever its working folder is now.
    root = str(Path(dostore.__file__).resolve().parent.parent)
    if root not in site.getsitepackages():
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [*_COMMAND, str(descriptor)],
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor],
        env=environ,
    )


class Worker:
    """One of them, over its lives; see handing.Taker.

    :ivar packets: what goes to it, while it lives.
    :ivar serving: it takes requests.
    :ivar given: the connections that it has.
    :ivar counts: what it last told that it has counted, in this life.
    :ivar past: what it had counted in those before.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.packets: Packets | None = None
        self.serving = False
        self.given: set[int] = set()
        self.last_given = 0
        self.counts = Counts()
        self.past = Counts()
        self.began_s = 0.0
        self.pause_s = FIRST_PAUSE_S
        self.timer: IDelayedCall | None = None
        self.counted: list[Deferred[None]] = []
        self.ended: list[Deferred[None]] = []

    @property
    def count(self) -> int:
        """See handing.Taker."""
        return len(self.given)

    @property
    def ready(self) -> bool:
        """See handing.Taker."""
        return self.serving and self.packets is not None and len(self.packets) < _MAX_WAITING

    def give(self, descriptor: int, full: bool, data: bytes) -> bool:
        """See handing.Taker."""
        self.last_given += 1
        message = format_connection(GIVE, self.last_given, full, data)
        if self.packets is None or len(message) > MAX_BYTES:
            return False
        self.packets.send(message, descriptor)
        self.given.add(self.last_given)
        return True

    def send(self, data: bytes, descriptor: int | None = None) -> None:
        """Send it a message, if it lives."""
        if self.packets is not None:
            self.packets.send(data, descriptor)


class Supervisor:
    """Looks after workers.

    :param config: how each is configured.
    :param descriptor: of a file that each gets; it stays the caller's.
    :param receive: takes messages of other kinds.
    :param spawn: starts a process that finds the front by a descriptor.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        *,
        descriptor: int | None = None,
        receive: Receive | None = None,
        spawn: Callable[[int], Process] | None = None,
    ) -> None:
        self.workers = [Worker(number + 1) for number in range(config.workers - 1)]
        self._config = config
        self._reactor = reactor
        self._descriptor = descriptor
        self._receive = receive
        self._spawn = spawn or spawn_worker
        self._come_back: ComeBack | None = None
        self._stopping = False

    @property
    def alive(self) -> int:
        """How many take requests."""
        return sum(worker.serving for worker in self.workers)

    def start(self, come_back: ComeBack) -> None:
        """Start all of them."""
        self._come_back = come_back
        for worker in self.workers:
            self._begin(worker)

    # A worker's life

    def _begin(self, worker: Worker) -> None:
        worker.timer = None
        ours, theirs = pair()
        try:
            worker.process = self._spawn(theirs.fileno())
        except OSError as error:
            ours.close()
            _log.error("Worker {n} cannot be started: {error}", n=worker.number, error=error)
            self._again(worker)
            return
        finally:
            theirs.close()
        worker.began_s = self._reactor.seconds()
        worker.packets = Packets(
            ours, self._reactor, partial(self._take_message, worker), partial(self._lost, worker)
        )
        worker.send(HELLO + pickle.dumps(self._config), self._descriptor)

    def _take_message(self, worker: Worker, data: bytes, descriptor: int | None) -> None:
        kind = data[:1]
        if kind == BACK and descriptor is not None and self._come_back is not None:
            number, late, rest = parse_connection(data)
            worker.given.discard(number)
            self._come_back(descriptor, late, rest)
        elif kind == ENDED:
            worker.given.discard(parse_connection(data)[0])
        elif kind == COUNT:
            worker.counts = Counts.from_json(parse_json(data))
            self._wake(worker.counted)
        elif kind == LOG:
            self._tell(worker, parse_json(data))
        elif kind == READY:
            worker.serving = True
            _log.info("Worker {n} takes requests", n=worker.number)
        elif self._receive is not None:
            self._receive(worker, data)
        else:
            raise ValueError(f"worker {worker.number} sent a message of no kind that there is")

    def _tell(self, worker: Worker, told: dict[str, Any]) -> None:
        level = LogLevel.levelWithName(str(told["level"]))
        logger = Logger(namespace=str(told["namespace"]))
        logger.emit(level, "{text} [worker {n}]", text=str(told["text"]), n=worker.number)

    def _lost(self, worker: Worker) -> None:
        """Its end of the connection is closed: it ends, or has ended."""
        worker.packets = None
        worker.serving = False
        worker.given.clear()
        worker.past.add(worker.counts.ended())
        worker.counts = Counts()
        self._wake(worker.counted)
        self._reap(worker, self._reactor.seconds() + END_S)

    def _reap(self, worker: Worker, until_s: float) -> None:
        process = worker.process
        assert process is not None, "it was started"
        status = process.poll()
        if status is None:
            if self._reactor.seconds() > until_s:
                process.kill()
            worker.timer = self._reactor.callLater(_REAP_S, self._reap, worker, until_s)
            return
        worker.timer = worker.process = None
        self._wake(worker.ended)
        if self._stopping:
            return
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        if self._reactor.seconds() - worker.began_s >= LONG_LIFE_S:
            worker.pause_s = FIRST_PAUSE_S
        _log.error(
            "Worker {n} ended {how}; it is started again in {pause:g} s",
            n=worker.number,
            how=how,
            pause=worker.pause_s,
        )
        self._again(worker)

    def _again(self, worker: Worker) -> None:
        worker.timer = self._reactor.callLater(worker.pause_s, self._begin, worker)
        worker.pause_s = min(2 * worker.pause_s, LONGEST_PAUSE_S)

    @staticmethod
    def _wake(waiters: list[Deferred[None]]) -> None:
        waking, waiters[:] = list(waiters), []
        for waiter in waking:
            if not waiter.called:
                waiter.callback(None)

    # What is asked of all

    async def counts(self) -> list[Counts]:
        """What each of them has counted, in all its lives; of one that does not answer, as it was
        last told.
        """
        await gather([self._counted(worker) for worker in self.workers if worker.serving])
        found = []
        for worker in self.workers:
            counts = Counts()
            counts.add(worker.past)
            counts.add(worker.counts)
            found.append(counts)
        return found

    async def _counted(self, worker: Worker) -> None:
        worker.send(COUNT)
        await self._wait(worker.counted, ANSWER_S)

    async def _wait(self, waiters: list[Deferred[None]], seconds: float) -> bool:
        """Whether somebody woke them in time."""
        waiter: Deferred[None] = Deferred()
        waiters.append(waiter)
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            waiter.callback(None)

        timer = self._reactor.callLater(seconds, give_up)
        try:
            await waiter
        finally:
            if timer.active():
                timer.cancel()
            if waiter in waiters:
                waiters.remove(waiter)
        return not late

    async def stop(self, grace_s: float) -> None:
        """End all of them: they get so long for the requests under way, and a little more."""
        self._stopping = True
        await gather([self._stop(worker, grace_s) for worker in self.workers])

    async def _stop(self, worker: Worker, grace_s: float) -> None:
        if worker.process is None:
            timer, worker.timer = worker.timer, None
            if timer is not None and timer.active():
                timer.cancel()
            return
        worker.send(format_seconds(STOP, grace_s))
        if not await self._wait(worker.ended, grace_s + _MORE_S):
            _log.error("Worker {n} does not end; it is killed", n=worker.number)
            if worker.process is not None:
                worker.process.kill()
            await self._wait(worker.ended, END_S)
