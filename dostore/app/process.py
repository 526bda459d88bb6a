"""What the commands of twistd have in common: the limit of open files, signals, words of help."""

from __future__ import annotations

import gc
import resource
import signal
from types import FrameType
from typing import Any

from twisted.python import usage

from dostore import __version__
from dostore.app.settings import environment_variable
from dostore.core.compression import DEFAULT_LEVEL, MAX_LEVEL, MIN_LEVEL

#: As many open files as the default of --max-connections can make use of, with 4 + 2 shards, and
#: as many as are kept open besides.
_WANTED_OPEN_FILES = 40960

#: How many more objects may be made than were given up before the youngest are searched for cycles;
#: and how often that may be before older ones are. Few cycles are made, and with many requests
#: under way nearly all that is searched is in use: a tenth of the processor time of small PUTs.
_COLLECT_AFTER = (20_000, 20, 20)

#: Name, short form, what it means: of both commands.
SHARD_PARAMETERS = (
    (
        "compression",
        None,
        "How shards are written: none or gzip. What is there stays readable and as it is, whatever"
        " is given. What does not shrink is stored plain. Default: none",
    ),
    (
        "compression-level",
        None,
        f"From {MIN_LEVEL}, fast, to {MAX_LEVEL}, thorough. Default: {DEFAULT_LEVEL}",
    ),
    (
        "pack-below",
        None,
        "The shards of contents of fewer bytes (or K, at most 1M) share large files, volumes, and"
        " get none of their own. What is there stays where it is, whatever is given. 65536 is good"
        " for many small objects. Default: 0, none",
    ),
)


class Options(usage.Options):
    """What every command takes."""

    synopsis = "[options]"

    def opt_version(self) -> None:
        """Display dostore's version and exit."""
        print(f"dostore {__version__}")  # noqa: T201 - what --version is for
        raise SystemExit(0)


def described(name: str, text: str) -> str:
    """The help of an option, with its environment variable."""
    return f"{text} [environment: {environment_variable(name)}]"


def stop_on_signals(reactor: Any) -> None:
    """Have SIGTERM and Ctrl-C stop the store with exit status 0.

    Twisted would end the process by the signal again when all is closed, which to a supervisor
    looks like a store that did not stop as it should. A second signal ends the process at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        reactor.callFromThread(reactor.stop)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)


def collect_seldom() -> None:
    """Have the garbage collector pass over all that there is now, and come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def allow_open_files() -> int:
    """Raise the soft limit of open files towards the hard one; what may be open then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _WANTED_OPEN_FILES if hard == unlimited else min(hard, _WANTED_OPEN_FILES)
    if soft == unlimited or soft >= wanted:
        return _WANTED_OPEN_FILES if soft == unlimited else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
