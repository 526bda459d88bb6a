"""The command line client over a network in memory, under a clock that the test turns."""

from __future__ import annotations

import io
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dostore.client.addresses import parse_addresses
from dostore.client.attempts import Servers
from dostore.client.context import Context
from dostore.client.link import Link
from dostore.client.output import Output
from dostore.client.state import Kept
from dostore.client.store import Store
from tests.support.http import HttpTestCase
from tests.support.wire import Wire
from tests.support.workers import InlineWorkers

T = TypeVar("T")

#: Servers that are there; both are the same store's.
URL = "http://one:1"
URLS = "http://one:1,http://two:2"


class ClientTestCase(HttpTestCase):
    """A client and a server over a store in memory.

    :ivar folder: for files.
    :ivar out: what goes to standard output.
    :ivar err: what goes to standard error.
    """

    def setUp(self) -> None:
        """Build everything."""
        super().setUp()
        self.wire = Wire(self.clock)
        self.wire.servers = {"one:1": self.factory, "two:2": self.factory}
        self.addCleanup(self._close_wire)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.out = io.StringIO()
        self.err = io.StringIO()
        self.workers = InlineWorkers()

    def _close_wire(self) -> None:
        for end in self.wire.ends:
            if not end.refused and not end.lost:
                end.close()
        self.settle()

    def servers(self, urls: str = URL, patience_s: float | None = None) -> Servers:
        """What a client asks; its pauses are as long as they can be."""
        links = [Link(each, self.wire.agent, self.clock) for each in parse_addresses(urls)]
        return Servers(links, self.clock, lambda: 1.0, patience_s)

    def context(
        self,
        urls: str = URL,
        *,
        patience_s: float | None = 60.0,
        as_json: bool = False,
        quiet: bool = False,
        stdin: int = -1,
        stdout: int = -1,
    ) -> Context:
        """What a command works with; its state is in a folder beside the others."""
        output = Output(self.out, self.err, self.workers, as_json=as_json, quiet=quiet)
        servers = self.servers(urls, patience_s)
        return Context(
            Store(servers, output.trouble),
            Kept(self.folder / "state", lambda: 1e9),
            self.workers,
            output,
            self.clock,
            stdin,
            stdout,
        )

    def start(self, coro: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Begin something; it goes on as the clock is turned."""
        return Deferred.fromCoroutine(coro)

    def finish(self, coro: Coroutine[Any, Any, T], seconds: float = 3600.0) -> T:
        """What something returns or raises, however long it waits."""
        task = self.start(coro)
        outcome: list[Any] = []
        _ = task.addBoth(outcome.append)
        deadline = self.clock.seconds() + seconds
        while not outcome:
            self._turn()
            if not outcome and self.clock.seconds() > deadline:
                raise AssertionError(f"it did not end in {seconds:g} s")
        self.settle()
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        result: T = outcome[0]
        return result

    def _turn(self) -> None:
        """Let the next thing happen."""
        calls = self.clock.getDelayedCalls()
        next_at = min((call.getTime() for call in calls), default=self.clock.seconds() + 1)
        self.clock.advance(max(0.0, next_at - self.clock.seconds()))

    def file(self, name: str, data: bytes) -> str:
        """A file in the folder; its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def lines(self) -> list[str]:
        """What was printed as results."""
        return self.out.getvalue().splitlines()

    def complaints(self) -> list[str]:
        """What was printed besides."""
        return self.err.getvalue().splitlines()

    def state_files(self) -> list[str]:
        """What is kept for the next run."""
        folder = self.folder / "state"
        return sorted(os.listdir(folder)) if folder.exists() else []
