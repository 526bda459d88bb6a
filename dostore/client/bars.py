"""Progress on a terminal: a bar for each transfer, and one for all of them."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from dostore.client.meters import Meter, Meters
from dostore.client.text import count_text, seconds_text, shown

#: A longer time left is only a guess.
_LONGEST_S = 3600 * 48

#: The longest title that is shown whole.
_TITLE_WIDTH = 32


class Bars(Meters):
    """Bars on a terminal, drawn whenever :meth:`refresh` is called.

    :param err: the terminal.
    """

    live = True

    def __init__(self, err: TextIO) -> None:
        self._console = Console(file=err, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            _DoingColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._all: TaskID | None = None
        self._files = self._ended = 0
        self._bytes = 0
        self._progress.start()

    def expect(self, files: int, size_bytes: int) -> None:
        """See Meters. Any thread may call it."""
        self._files += files
        self._bytes += size_bytes
        if self._files > 1 and self._all is None:
            self._all = self._progress.add_task("", doing="")
        self._title()

    def _title(self) -> None:
        if self._all is not None:
            title = f"{self._ended} of {count_text(self._files, 'file')}"
            self._progress.update(self._all, description=title, total=self._bytes)

    def begin(self, title: str, size_bytes: int | None) -> Meter:
        """See Meters."""
        task = self._progress.add_task(_shortened(shown(title)), total=size_bytes, doing="")
        return _Bar(self, self._progress, task, size_bytes)

    def advance_all(self, by: int) -> None:
        """So much more of everything is done."""
        if self._all is not None:
            self._progress.advance(self._all, by)

    def end_one(self) -> None:
        """One more is done, well or not."""
        self._ended += 1
        self._title()

    def line(self, text: str) -> None:
        """See Meters."""
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)

    def refresh(self) -> None:
        """See Meters."""
        self._progress.refresh()

    def close(self) -> None:
        """See Meters. Idempotent."""
        self.live = False
        self._progress.stop()


class _Bar(Meter):
    """One transfer."""

    def __init__(self, bars: Bars, progress: Progress, task: TaskID, size: int | None) -> None:
        self._bars = bars
        self._progress = progress
        self._task = task
        self._size = size
        self._doing = ""
        self._done = 0

    def at(self, done_bytes: int) -> None:
        self._progress.update(self._task, completed=done_bytes)
        if self._doing not in _NO_TRANSFER:
            self._bars.advance_all(done_bytes - self._done)
            self._done = done_bytes

    def whole(self, size_bytes: int) -> None:
        if self._size is None:
            self._size = size_bytes
            self._progress.update(self._task, total=size_bytes)
            self._bars.expect(0, size_bytes)

    def say(self, text: str) -> None:
        if self._doing in _NO_TRANSFER and text not in _NO_TRANSFER:
            # What was counted until now was no transfer.
            self._progress.reset(self._task, completed=self._done)
        self._doing = text
        self._progress.update(self._task, doing=text)

    def end(self) -> None:
        self._progress.remove_task(self._task)
        self._bars.end_one()
        if self._size is not None:
            self._bars.advance_all(self._size - self._done)


class _DoingColumn(ProgressColumn):
    """What a transfer does besides, or how long it will take."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        left_s = task.time_remaining
        if task.fields["doing"]:
            return Text(task.fields["doing"])
        return Text("" if left_s is None or left_s > _LONGEST_S else seconds_text(left_s))


_NO_TRANSFER = ("hashing", "comparing")


def _shortened(title: str) -> str:
    """The end of a title says more than its beginning."""
    return title if len(title) <= _TITLE_WIDTH else "…" + title[1 - _TITLE_WIDTH :]
