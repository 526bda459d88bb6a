"""Work that nobody waits for: logged when it fails, and waited for when the process stops."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

#: How many seconds what was cancelled by :meth:`Background.stop` gets to clean up.
CLEAN_UP_S = 5.0


class Background:
    """The coroutines that run by themselves, all of one part of the program.

    :param name: the part, as the log calls it.
    """

    def __init__(self, name: str) -> None:
        self._log = Logger(namespace=name)
        self._running: dict[Deferred[object], str] = {}
        self._pauses: set[Deferred[None]] = set()
        self._stopping = False
        self._idle: list[Deferred[None]] = []

    def __len__(self) -> int:
        """How many are under way, periodic ones included."""
        return len(self._running)

    def run(self, name: str, coroutine: Coroutine[Any, Any, object]) -> None:
        """Start a coroutine; its failure is logged, unless it was cancelled.

        After :meth:`stop` it is closed instead, without having begun.
        """
        if self._stopping:
            coroutine.close()
            return
        task = Deferred.fromCoroutine(coroutine)
        self._running[task] = name
        _ = task.addErrback(self._failed, name).addBoth(self._ended, task)

    def _failed(self, failure: Failure, name: str) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("{task} failed", failure, task=name)

    def _ended(self, _: object, task: Deferred[object]) -> None:
        del self._running[task]
        if not self._running:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def periodic(
        self,
        name: str,
        interval_s: float,
        function: Callable[[], Coroutine[Any, Any, object]],
        clock: IReactorTime,
    ) -> None:
        """Call ``function`` again and again, ``interval_s`` seconds after its last end.

        The first call comes after the first interval. A failure is logged and ends only that call.
        """
        self.run(name, self._repeat(name, interval_s, function, clock))

    async def _repeat(
        self,
        name: str,
        interval_s: float,
        function: Callable[[], Coroutine[Any, Any, object]],
        clock: IReactorTime,
    ) -> None:
        while not self._stopping:
            pause: Deferred[None] = deferLater(clock, interval_s)
            self._pauses.add(pause)
            try:
                await pause
            finally:
                self._pauses.discard(pause)
            try:
                await function()
            except CancelledError:
                # Either stop() did it, and the loop ends; or something that the function awaited
                # was cancelled by another, which is no reason never to call it again.
                continue
            except Exception:
                self._log.failure("{task} failed", task=name)

    async def stop(self, clock: IReactorTime, timeout_s: float) -> None:
        """Take no more work and return when all has ended.

        What is still under way after ``timeout_s`` seconds is cancelled and gets CLEAN_UP_S more;
        what has not ended even then is named in the log and left. Pauses between periodic calls end
        at once.
        """
        self._stopping = True
        for pause in list(self._pauses):
            pause.cancel()
        if await self._wait(clock, timeout_s):
            return
        for task in list(self._running):
            task.cancel()
        if not await self._wait(clock, CLEAN_UP_S):
            self._log.error(
                "Still running although cancelled: {tasks}",
                tasks=", ".join(sorted(self._running.values())),
            )

    async def _wait(self, clock: IReactorTime, timeout_s: float) -> bool:
        """Whether all ended within ``timeout_s`` seconds."""
        if not self._running:
            return True
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        timer = clock.callLater(timeout_s, waiter.callback, None)
        try:
            await waiter
        finally:
            if waiter in self._idle:
                self._idle.remove(waiter)
            if timer.active():
                timer.cancel()
        return not self._running
