"""What may go wrong for the command line, and the exit status that says which."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from dostore.errors import Corrupt, DigestMismatch, DostoreError, InvalidName, NotFound, Unavailable


class Exit(IntEnum):
    """Exit statuses; scripts go by them. See ``docs/client.rst``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    OUT_OF_REACH = 4
    WRONG_BYTES = 5
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


class Later(Unavailable):
    """The server cannot do it now.

    :ivar after_s: when it wants to be asked again; None: it did not say.
    """

    def __init__(self, detail: str, after_s: float | None = None) -> None:
        super().__init__(detail)
        self.after_s = after_s


class OutOfReach(Unavailable):
    """No server could be reached, or none could do it, for as long as was waited. Nothing else that
    the command was to do will fare better.
    """


class Refused(DostoreError):
    """The server will not do it; asking again does not help."""


class BadAnswer(DostoreError):
    """An answer is not what this program's server sends."""


class LocalTrouble(DostoreError):
    """A file of this machine cannot be read or written, or is not what it was."""


class ReaderGone(DostoreError):
    """Whoever read standard output does not any more, as ``head`` when it has enough."""


def exit_of(error: DostoreError) -> Exit:
    """The exit status for one failure."""
    if isinstance(error, ReaderGone):
        return Exit.READER_GONE
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    if isinstance(error, Unavailable):
        return Exit.OUT_OF_REACH
    if isinstance(error, (DigestMismatch, Corrupt)):
        return Exit.WRONG_BYTES
    if isinstance(error, InvalidName):
        return Exit.USAGE
    return Exit.FAILED


def exit_of_all(failures: Iterable[Exit]) -> Exit:
    """The exit status of a command that met these: theirs, if they are all the same."""
    different = set(failures)
    if not different:
        return Exit.OK
    return different.pop() if len(different) == 1 else Exit.FAILED


def local(error: OSError, what: str) -> LocalTrouble:
    """What the system's refusal means.

    :param what: was tried, as the beginning of a sentence: "x cannot be read".
    """
    return LocalTrouble(f"{what}: {error.strerror or type(error).__name__}.")
