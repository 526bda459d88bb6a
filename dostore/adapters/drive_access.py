"""What a drive is good for, and calls on its threads while it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from dostore.adapters.drive_state import OURS, DriveState
from dostore.adapters.journal import FULL
from dostore.errors import DostoreError, NodeUnavailable, NoSpace
from dostore.threads import IWorkers

T = TypeVar("T")

_log = Logger()

_NOT_STARTED = "not started"


def _nobody() -> None:
    """Nobody wants to know."""


class DriveAccess:
    """The way to one drive, which may become worse or go away at any moment.

    :param address: what the drive is called in the cluster.
    :param workers: its threads.
    :ivar full: it takes no writes because it has no room.
    :ivar changed: called, on any thread, when it is good for more or less than before.
    """

    def __init__(self, address: str, workers: IWorkers) -> None:
        self.address = address
        self.workers = workers
        self.state = DriveState.AWAY
        self.reason = _NOT_STARTED
        self.full = False
        self.changed: Callable[[], object] = _nobody
        self._calls: set[Deferred[Any]] = set()
        self._ended = 0

    def trouble(self) -> None:
        """The drive may be worse than its state says."""

    def degrade(self, state: DriveState, reason: str, *, full: bool = False) -> None:
        """The drive is good for less from now on; ``full``: for want of room."""
        if self.state is not state or self.reason == _NOT_STARTED:
            _log.warn(
                "{address} is {state}: {reason}",
                address=self.address,
                state=state.value,
                reason=reason,
            )
        self.become(state, reason, full=full)
        if state is DriveState.AWAY:
            self.give_up()

    def become(self, state: DriveState, reason: str, *, full: bool = False) -> None:
        """It is good for this from now on."""
        self.state, self.reason, self.full = state, reason, full
        self.changed()

    @property
    def calls(self) -> int:
        """How many calls wait for the drive."""
        return len(self._calls)

    @property
    def ended(self) -> int:
        """How many calls have ended, so that a drive which hangs can be told."""
        return self._ended

    def give_up(self) -> None:
        """Nobody waits any longer for a drive that may never answer."""
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """What ``function(*args)`` returns or raises on one of the drive's threads.

        :raises NodeUnavailable: the drive is away, or went away meanwhile.
        """
        self.require(DriveState.LIVE, DriveState.READ_ONLY)
        return await self._unless_away(Deferred.fromCoroutine(self.workers.run(function, *args)))

    async def _unless_away(self, call: Deferred[T]) -> T:
        self._calls.add(call)
        try:
            return await call
        except CancelledError:
            if call in self._calls:
                raise
            raise NodeUnavailable(f"{self.address} went away: {self.reason}.") from None
        finally:
            self._calls.discard(call)
            self._ended += 1

    def require(self, *states: DriveState) -> None:
        """Refuse to go on when the drive is in another state.

        :raises NodeUnavailable: it is.
        """
        if self.state not in states:
            raise NodeUnavailable(f"{self.address} is {self.state.value}: {self.reason}.")

    def translated(self, error: OSError, doing: str) -> DostoreError:
        """The error of our tree for a system error of a write, after drawing its conclusion."""
        text = f"{self.address} cannot {doing}: {error.strerror}."
        if error.errno in OURS:
            return NodeUnavailable(text)
        if self.state is DriveState.LIVE:
            full = error.errno in FULL
            reason = f"it cannot {doing} ({error.strerror})"
            self.degrade(DriveState.READ_ONLY, reason, full=full)
        self.trouble()
        return NoSpace(text) if error.errno in FULL else NodeUnavailable(text)

    def log_failure(self, done: Future[Any]) -> None:
        """For what nobody waits for: log how it ended, if badly. Runs on a worker thread."""
        error = done.exception()
        if error is not None:
            _log.warn("{address} cannot clean up: {error}", address=self.address, error=error)
