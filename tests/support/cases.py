"""The base cases of every test. No test derives from trial's classes directly."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial import unittest
from zope.interface import Interface
from zope.interface.verify import verifyObject

T = TypeVar("T", bound=Callable[..., Any])

#: Set by ``make test-unit``: leave out what takes seconds, and draw fewer examples.
QUICK = bool(os.environ.get("DOSTORE_TEST_QUICK"))


def slow(test: T) -> T:
    """Decorates a test, or a case, that takes more than a second: the quick round leaves it out."""
    if QUICK:
        test.skip = "slow; make test runs it"  # type: ignore[attr-defined]
    return test


def needs(server: str) -> None:
    """Called by what starts a server for tests: the quick round leaves such tests out.

    :raises SkipTest: this is the quick round.
    """
    if QUICK:
        raise unittest.SkipTest(f"needs {server}; make test runs it")


class _Guards:
    """What trial lets pass and we do not."""

    def setUp(self) -> None:
        """Arrange the guards."""
        self.addCleanup(self._no_unawaited_coroutine)  # type: ignore[attr-defined]

    def _no_unawaited_coroutine(self) -> None:
        # trial's SynchronousTestCase runs an ``async def`` test by not running it, and warns only.
        warnings = [
            w["message"]
            for w in self.flushWarnings()  # type: ignore[attr-defined]
            if "never awaited" in str(w["message"])
        ]
        self.assertEqual(warnings, [])  # type: ignore[attr-defined]

    def logged(self) -> list[str]:
        """What is logged from now on as a warning or worse, for it grows: the lines alone."""
        lines: list[str] = []

        def observe(event: LogEvent) -> None:
            if event["log_level"] >= LogLevel.warn:
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, observe)  # type: ignore[attr-defined]
        return lines

    def assert_provides(self, interface: type[Interface], thing: object) -> None:
        """``thing`` provides ``interface``, signatures and all."""
        verifyObject(interface, thing)


class SyncTestCase(_Guards, unittest.SynchronousTestCase):
    """A test of pure code: no reactor."""


class AsyncTestCase(_Guards, unittest.TestCase):
    """A test whose methods may be ``async def``."""

    timeout = 120
