"""What the command prints: results on standard output, all else on standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO

from dostore.client.failures import Exit, ReaderGone, exit_of, local
from dostore.client.meters import Meters
from dostore.client.text import seconds_text, shown
from dostore.errors import DostoreError
from dostore.ports import IWorkers


class Output:
    """Prints, on a thread of its own: a reader that is slow holds up only who prints.

    :param workers: one thread, so that lines stay in order.
    :param as_json: results, failures included, are JSON objects, one a line.
    :param quiet: results are not printed, failures are.
    :ivar failures: the exit status of each failure so far.
    """

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        workers: IWorkers,
        *,
        as_json: bool = False,
        quiet: bool = False,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.workers = workers
        self.meters = Meters()
        self.failures: list[Exit] = []
        self._out = out
        self._err = err
        self._told = ""

    async def result(self, fields: Mapping[str, Any], text: str) -> None:
        """A line for each thing that was done or found, as fields and for people.

        :raises ReaderGone: nobody reads it.
        """
        await self.results([(fields, text)])

    async def results(self, lines: list[tuple[Mapping[str, Any], str]]) -> None:
        """Several at once."""
        if self.as_json:
            # ASCII alone, so that no terminal and no locale makes anything of it.
            text = "".join(json.dumps(fields) + "\n" for fields, _ in lines)
        elif self.quiet:
            return
        else:
            text = "".join(text + "\n" for _, text in lines)
        if text:
            await self.workers.run(self._print, text)

    def _print(self, text: str) -> None:
        if self.meters.live and self._out.isatty():
            self.meters.line(text.rstrip("\n"))
            return
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError as error:
            raise ReaderGone("Nobody reads the output any more.") from error
        except OSError as error:
            raise local(error, "Standard output cannot be written") from error

    async def remark(self, text: str) -> None:
        """A line for people, at the end of results."""
        if not self.as_json:
            await self.results([({}, text)])

    async def note(self, text: str) -> None:
        """Something that one may want to know."""
        if not self.quiet and not self.as_json:
            await self._tell(text)

    def trouble(self, text: str, pause_s: float) -> None:
        """Something failed and will be tried again; see Attempts. Told once, as long as it stays
        the same.
        """
        if text == self._told or not pause_s:
            return
        self._told = text
        again = (
            f" Trying again in {seconds_text(pause_s)}." if pause_s >= 0.95 else " Trying again."
        )
        if not self.quiet:
            _ = self.workers.submit(self._tell_now, text + again)

    async def failed(self, error: DostoreError, **fields: Any) -> None:
        """Something could not be done. The command may go on with the rest."""
        status = exit_of(error)
        self.failures.append(status)
        if isinstance(error, ReaderGone):
            return
        await self._tell(error.detail)
        if self.as_json:
            failed = {**fields, "Error": error.detail, "Exit": int(status)}
            await self.workers.run(self._print, json.dumps(failed) + "\n")

    async def _tell(self, text: str) -> None:
        await self.workers.run(self._tell_now, text)

    def _tell_now(self, text: str) -> None:
        line = f"dostore: {shown(text)}"
        if self.meters.live:
            self.meters.line(line)
            return
        try:
            self._err.write(line + "\n")
            self._err.flush()
        except OSError:
            # There is nowhere left to tell it; the exit status does.
            return
