"""``make test``: how the tests are shared out among processes."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path

from tests.__main__ import FIRST, ROOT, Group, Lanes, Outcome, groups
from tests.support.cases import SyncTestCase


class GroupsTests(SyncTestCase):
    """The groups of this checkout's tests."""

    def test_every_module_once(self) -> None:
        """No test is left out, and none is run twice."""
        told = sorted(module for group in groups(ROOT / "tests") for module in group.modules)
        paths = sorted((ROOT / "tests").rglob("test_*.py"))
        names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
        self.assertEqual(told, sorted(names))

    def test_the_first_are_there(self) -> None:
        """Those that are to begin first are the first."""
        told = [group.name for group in groups(ROOT / "tests")]
        self.assertEqual(told[: len(FIRST)], list(FIRST))


class _Program(Group):
    """A group that is a program in its place."""

    def command(self) -> list[str]:
        """See Group."""
        return [sys.executable, "-c", *self.modules]


class LanesTests(SyncTestCase):
    """What is told of groups."""

    def test_outcomes(self) -> None:
        """Each group has its own exit status and its own log, and a killed one has failed too."""
        folder = Path(self.mktemp())
        folder.mkdir()
        programs = {
            "good": "print('PASSED (successes=1)')",
            "bad": "raise SystemExit(3)",
            "killed": "import os; os.kill(os.getpid(), 9)",
        }
        told: list[Outcome] = []
        waiting: deque[Group] = deque(_Program(name, (text,)) for name, text in programs.items())
        Lanes(waiting, folder, told.append).run(2)
        status = {each.group.name: each.status for each in told}
        self.assertEqual(status, {"good": 0, "bad": 3, "killed": -9})
        self.assertEqual((folder / "good.log").read_text(), "PASSED (successes=1)\n")
