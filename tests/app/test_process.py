"""dostore.app.process: what a command does to its process."""

from __future__ import annotations

import gc

from dostore.app.process import collect_seldom
from tests.support.cases import SyncTestCase


class CollectorTests(SyncTestCase):
    """The garbage collector."""

    def test_comes_less_often(self) -> None:
        """What is there is left alone, and cycles that are made later are still found."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        collect_seldom()
        self.assertGreater(gc.get_freeze_count(), 1000)
        self.assertGreater(gc.get_threshold()[0], 700)
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        self.assertGreaterEqual(gc.collect(), 1)
