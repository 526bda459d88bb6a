"""The benchmarks run, and say what they measured. How fast anything is, no test asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.cases import SyncTestCase
from tests.support.processes import ROOT

QUICK_ROWS = ("put-lone-unsynced",)


class BenchmarkTests(SyncTestCase):
    """The command of ``make bench``."""

    def test_quick_rows(self) -> None:
        """A row is measured, compared with the bare machine, and printed; nothing is left."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks", "--quick", "--rows", *QUICK_ROWS),
                *(f"--folder={folder}", f"--json={folder}.json"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"PUT 4 KiB.* \d+/s .* MiB .* of six small files")
        told = json.loads(Path(f"{folder}.json").read_text())
        self.assertEqual(set(told["rows"]), set(QUICK_ROWS))
        for row in told["rows"].values():
            self.assertTrue(row["rates"][0] > 0 and row["peak_bytes"] > 0)
            self.assertTrue(all(ratios[0] > 0 for ratios in row["beside"].values()))
        self.assertEqual(list(folder.iterdir()), [])
