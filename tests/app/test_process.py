"""dostore.app.process: what a command does to its process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

from dostore.app.process import collect_seldom
from tests.support.cases import SyncTestCase
from tests.support.processes import ROOT

#: Buffers in two threads, and what is then printed: whether it was set, and page faults.
_BUFFERS = """
import resource, threading
from dostore.app.process import keep_memory
print(keep_memory())

def use():
    for _ in range(200):
        bytearray(4 << 20)

for _ in range(2):
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


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


class MemoryTests(SyncTestCase):
    """Memory that was used before."""

    def use(self, **environ: str) -> tuple[str, int]:
        """What a process says that uses buffers."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
        done = subprocess.run(
            [sys.executable, "-c", _BUFFERS],
            cwd=ROOT,
            env=inherited | environ,
            capture_output=True,
            text=True,
            check=True,
        )
        kept, faults = done.stdout.split()
        return kept, int(faults)

    def test_is_used_again(self) -> None:
        """Whatever thread used it, it is not got from the system again."""
        kept, faults = self.use()
        self.assertEqual(kept, "True")
        self.assertLess(faults, 4096)

    def test_operator_decides(self) -> None:
        """What the environment says of it counts more."""
        kept, faults = self.use(MALLOC_MMAP_THRESHOLD_="65536")
        self.assertEqual(kept, "False")
        self.assertGreater(faults, 4096)
