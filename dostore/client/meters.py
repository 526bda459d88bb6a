"""Who is told how far each transfer is."""

from __future__ import annotations


class Meter:
    """How far one transfer is, for whoever looks. This one shows nothing."""

    def at(self, done_bytes: int) -> None:
        """So much of it is done."""

    def whole(self, size_bytes: int) -> None:
        """It is found out how much it is."""

    def say(self, text: str) -> None:
        """What it is doing, or waiting for; empty: it is on its way."""

    def end(self) -> None:
        """It has ended, well or not."""


class Meters:
    """How far all transfers of a command are. This one shows nothing.

    :ivar live: something is shown on the terminal, and other lines must go through :meth:`line`.
    """

    live = False

    def expect(self, files: int, size_bytes: int) -> None:
        """So many more files are there to be done."""

    def begin(self, title: str, size_bytes: int | None) -> Meter:
        """A transfer begins; None: its size is not known."""
        return Meter()

    def line(self, text: str) -> None:
        """Show a line above what is shown."""
        raise AssertionError("nothing is shown")

    def refresh(self) -> None:
        """Show what is new. Blocks as long as the terminal does."""

    def close(self) -> None:
        """Show nothing more."""
