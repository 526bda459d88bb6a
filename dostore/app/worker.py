"""A process that a :mod:`dostore.app.supervisor` starts: ``python -m dostore.app.worker FD``."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.app.config import Config
from dostore.app.handing import adopt
from dostore.app.process import allow_open_files, collect_seldom, keep_memory
from dostore.app.server import Threads
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
from dostore.errors import DostoreError
from dostore.packets import MAX_BYTES, Packets
from dostore.web.api.counts import Counts
from dostore.web.channel import Channel
from dostore.web.connections import Connections
from dostore.web.request import Request

_log = Logger(namespace="dostore")

#: More messages than this that the front has not read: it hangs, or is overwhelmed. Then no more
#: connections are passed on, and no more lines are logged.
_MAX_WAITING = 1024

#: What the front has not read when the worker ends gets so long.
_FLUSH_S = 3.0
_FLUSH_LOOK_S = 0.02

_PR_SET_PDEATHSIG = 1


class Parts(Protocol):
    """What a worker is made of."""

    async def start(self) -> Connections:
        """Start everything; what answers the requests."""

    async def stop(self) -> None:
        """Stop what was started. No request is under way any more."""

    def counts(self) -> Counts:
        """What was counted up to now."""

    def keeps(self, request: Request) -> bool:
        """See web.passing.Passing."""

    def receive(self, data: bytes) -> None:
        """Take a message of a kind that only this shape has."""


class Front(Protocol):
    """The process that accepts connections, as a worker's parts see it."""

    def send(self, data: bytes) -> None:
        """Send it a message."""


#: Makes the parts of a configuration, with the descriptor that came with it.
Make = Callable[[Config, int | None, Threads, Front, Any], Parts]


@implementer(ILogObserver)
class WorkerProcess:
    """One such process. It ends with status 0 when it is told to, and else with 1.

    It is its connections' web.passing.Passing.

    :param end: of the socket to the front.
    """

    serves_all = False

    def __init__(
        self, end: socket.socket, reactor: Any, make: Make, end_process: Callable[[int], None]
    ) -> None:
        self._reactor = reactor
        self._make = make
        self._end_process = end_process
        self._threads = Threads(reactor)
        self._parts: Parts | None = None
        self._connections: Connections | None = None
        self._packets = Packets(end, reactor, self._receive, self._orphaned)

    def _orphaned(self) -> None:
        """The front is gone. Whatever is under way cannot end well."""
        self._end_process(1)

    # The front

    def send(self, data: bytes) -> None:
        """See Front."""
        self._packets.send(data)

    def __call__(self, event: LogEvent) -> None:
        """Give an event to the front, whose log it belongs in."""
        if len(self._packets) >= _MAX_WAITING:
            return
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            text = f"{text}\n{failure.getTraceback()}"
        level = event.get("log_level", LogLevel.info)
        self.send(format_log(level.name, event.get("log_namespace", ""), text))

    def _receive(self, data: bytes, descriptor: int | None) -> None:
        kind = data[:1]
        if kind == GIVE and descriptor is not None:
            self._take(descriptor, *parse_connection(data))
        elif kind == HELLO:
            # From the process that started this one, over a socket that nobody else has.
            self._begin(pickle.loads(data[1:]), descriptor)
        elif kind == COUNT:
            counts = Counts() if self._parts is None else self._parts.counts()
            self.send(format_json(COUNT, counts.as_json()))
        elif kind == STOP:
            self._run(self._stop(parse_seconds(data)))
        elif self._parts is not None:
            self._parts.receive(data)

    # Connections

    def _take(self, descriptor: int, number: int, full: bool, data: bytes) -> None:
        connections = self._connections
        channel = None if connections is None else connections.make_channel(full)
        if channel is None:
            os.close(descriptor)
            self.send(format_connection(ENDED, number, False))
            return
        channel.number = number
        adopt(self._reactor, descriptor, channel, data)

    def keeps(self, request: Request) -> bool:
        """See web.passing.Passing."""
        return self._parts is not None and self._parts.keeps(request)

    def answered(self, request: Request, at_once: bool) -> None:
        """See web.passing.Passing."""

    def take(self, channel: Channel, descriptor: int, data: bytes) -> bool:
        """See web.passing.Passing."""
        message = format_connection(BACK, channel.number, channel.late, data)
        if len(message) > MAX_BYTES or len(self._packets) >= _MAX_WAITING:
            return False
        self._packets.send(message, descriptor)
        return True

    def ended(self, channel: Channel) -> None:
        """See web.passing.Passing."""
        self.send(format_connection(ENDED, channel.number, False))

    # Its life

    def _run(self, coroutine: Any) -> None:
        _ = Deferred.fromCoroutine(coroutine).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, (DostoreError, OSError)):
            _log.critical("It cannot start: {error}", error=failure.value)
        else:
            _log.failure("It cannot go on", failure)
        self._finish(1)

    def _finish(self, status: int) -> None:
        self._threads.stop()
        # What was logged is on its way already, or waits for a process that does not read.
        self._end_process(status)

    def _begin(self, config: Config, descriptor: int | None) -> None:
        self._parts = self._make(config, descriptor, self._threads, self, self._reactor)
        self._run(self._start(self._parts))

    async def _start(self, parts: Parts) -> None:
        connections = await parts.start()
        connections.passing = self
        connections.doStart()  # type: ignore[no-untyped-call]
        self._connections = connections
        collect_seldom()
        self.send(READY)

    async def _stop(self, grace_s: float) -> None:
        if self._connections is not None:
            await self._connections.drain(grace_s)
            self._connections.doStop()  # type: ignore[no-untyped-call]
        if self._parts is not None:
            await self._parts.stop()
        # Connections that were passed on at last.
        until_s = self._reactor.seconds() + _FLUSH_S
        while len(self._packets) and self._reactor.seconds() < until_s:
            await deferLater(self._reactor, _FLUSH_LOOK_S)
        self._finish(0)


def die_with_parent() -> None:
    """Have the system end this process when its parent ends, even if it hangs then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(descriptor: int) -> None:
    """Run until the front says that it is enough, or is gone."""
    from twisted.internet import reactor

    from dostore.app.worker_parts import make

    # A terminal, or systemd, sends these to all processes; the front passes them on.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    keep_memory()
    allow_open_files()
    end = socket.socket(fileno=descriptor)
    end.setblocking(False)
    process = WorkerProcess(end, reactor, make, os._exit)
    globalLogBeginner.beginLoggingTo([process], redirectStandardIO=False)
    running: Any = reactor
    running.run(installSignalHandlers=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
