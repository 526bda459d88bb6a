"""Runs a command: the reactor, its signals, what the command works with, and its exit status."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater, react

from dostore.background import Background
from dostore.client.addresses import Address
from dostore.client.attempts import Servers
from dostore.client.context import Context
from dostore.client.failures import Exit, exit_of_all
from dostore.client.link import CONNECT_TIMEOUT_S, Link
from dostore.client.output import Output
from dostore.client.state import Kept, state_folder
from dostore.client.store import Store
from dostore.errors import DostoreError
from dostore.http.pool import HttpPool
from dostore.threads import Mailbox, Workers

Command = Callable[[Context], Coroutine[Any, Any, None]]

_REFRESH_S = 0.1

#: How long what was broken off gets to clean up.
_CLEAN_UP_S = 2.0

_SIGNALS = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


@frozen(slots=True)
class Settings:
    """What is common to all commands.

    :ivar patience_s: how long something is tried; None: as Servers has it.
    :ivar bars: whether progress may be shown, on a terminal.
    :ivar resumable: what is broken off goes on when the command is run again.
    """

    addresses: Sequence[Address]
    patience_s: float | None = None
    as_json: bool = False
    quiet: bool = False
    bars: bool = False
    resumable: bool = False
    jobs: int = 1


def run(command: Command, settings: Settings, environ: Mapping[str, str]) -> None:
    """Run a command in this process, which ends with it.

    :raises SystemExit: always.
    """
    _open_standard_streams()
    react(lambda reactor: _Program(reactor, settings, environ).main(command))


def _open_standard_streams() -> None:
    """Have all three, and take any character: a socket must not get the number of a closed one."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", errors="backslashreplace"))  # noqa: SIM115
        else:
            stream.reconfigure(errors="backslashreplace")


class _Program:
    """One run of the command."""

    def __init__(self, reactor: Any, settings: Settings, environ: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._settings = settings
        mailbox = Mailbox(reactor.callFromThread)
        # Each job reads or writes on one thread, and something else may be slow on another.
        self._workers = Workers(mailbox, "files", settings.jobs + 2)
        self._printer = Workers(mailbox, "printer", 1)
        self._can_draw = environ.get("TERM", "") not in ("", "dumb", "unknown")
        self._output = Output(
            sys.stdout,
            sys.stderr,
            self._printer,
            as_json=settings.as_json,
            quiet=settings.quiet,
        )
        self._pool = HttpPool(reactor, CONNECT_TIMEOUT_S)
        links = [Link(address, self._pool.agent, reactor) for address in settings.addresses]
        servers = Servers(links, reactor, random.random, settings.patience_s)
        self._context = Context(
            Store(servers, self._output.trouble),
            Kept(state_folder(environ), time.time),
            self._workers,
            self._output,
            reactor,
            0,
            1,
        )
        self._background = Background("dostore.client")
        self._task: Deferred[None] | None = None
        self._ended_by: Exit | None = None

    async def main(self, command: Command) -> None:
        """Run a command.

        :raises SystemExit: always.
        """
        # When it begins to run, the reactor takes SIGTERM for itself.
        await deferLater(self._reactor, 0.0)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        if self._settings.bars and sys.stderr.isatty() and self._can_draw:
            self._show_bars()
        status = await self._run(command)
        await self._background.stop(self._reactor, 0.0)
        self._output.meters.close()
        if status in _SIGNALS.values() and self._settings.resumable:
            await self._output.note("Broken off. Run the same command again, and it goes on here.")
        # In their order: what was printed must be out before the process ends.
        await self._printer.run(lambda: None)
        await self._pool.close()
        sys.stderr.flush()
        if status is Exit.READER_GONE:
            # Or Python would complain that it cannot be flushed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(int(status))

    async def _run(self, command: Command) -> Exit:
        self._task = Deferred.fromCoroutine(command(self._context))
        try:
            await self._task
        except (CancelledError, DostoreError) as error:
            if self._ended_by is None and isinstance(error, DostoreError):
                await self._output.failed(error)
                return self._output.failures[-1]
        except BaseException:
            self._output.meters.close()
            raise
        return self._ended_by or exit_of_all(self._output.failures)

    def _signalled(self, number: int, frame: object) -> None:
        if self._ended_by is not None:
            # Once more: at once.
            os._exit(self._ended_by)
        self._ended_by = _SIGNALS[signal.Signals(number)]
        self._reactor.callFromThread(self._break_off)

    def _break_off(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._reactor.callLater(_CLEAN_UP_S, os._exit, self._ended_by)

    def _show_bars(self) -> None:
        # Only who sees them pays for their library.
        from dostore.client.bars import Bars

        bars = self._output.meters = Bars(sys.stderr)

        async def refresh() -> None:
            await self._printer.run(bars.refresh)

        self._background.periodic("progress", _REFRESH_S, refresh, self._reactor)
