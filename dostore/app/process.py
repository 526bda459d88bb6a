"""What the commands of twistd have in common: the limit of open files, signals, words of help."""

from __future__ import annotations

import ctypes
import gc
import os
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

#: What glibc's malloc calls its settings (<malloc.h>), and what they are set to: memory that is
#: freed stays with the process up to 64 MiB, buffers of less than 32 MiB (no more can be said) are
#: not given back one by one, and all threads take from one arena.
_MALLOC = {-1: 64 << 20, -3: 32 << 20, -8: 1}

#: By these an operator sets the same.
_MALLOC_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")

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


def keep_memory() -> bool:
    """Have what bodies and blocks were in be used again for the next, before any thread is started.

    To get memory from the system anew for each costs page faults: a tenth of the processor time of
    a large object, and more where a virtual machine has to get it from its host. Where each thread
    has an arena of its own, much of it is kept twice.

    :returns: False when the environment says otherwise, or the C library is not glibc.
    """
    if any(name.startswith(_MALLOC_VARIABLES) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*each) for each in _MALLOC.items())


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
