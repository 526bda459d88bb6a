"""Files that are all in the system's memory, as far as can be told."""

from __future__ import annotations

import os
from collections.abc import Callable
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from dostore.adapters import files as files_module


def keep_files_in_memory(case: SynchronousTestCase) -> None:
    """Have every file be in memory while a test runs, on any kernel and file system."""
    preadv = os.preadv

    def open_cached(path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1

    case.patch(files_module, "_open_cached", open_cached)
    case.patch(os, "preadv", lambda fd, buffers, offset, flags=0: preadv(fd, buffers, offset))


def opened(function: Callable[[], object]) -> int:
    """How many files a function opens on the reactor's thread."""
    with mock.patch.object(
        files_module, "_open_cached", wraps=files_module._open_cached
    ) as opening:
        function()
    return opening.call_count
