"""Measure the store beside the bare machine: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from attrs import asdict

from benchmarks.references import REFERENCES, Scale
from benchmarks.report import Measured, as_json, table
from benchmarks.rows import Bench, Row, rows

FULL = Scale(large_mib=256, small_count=8000, synced_count=2000, names=20_000)
QUICK = Scale(large_mib=64, small_count=2000, synced_count=400, names=2000)

JSON_PATH = Path(".cache/benchmarks.json")


def main(arguments: list[str]) -> None:
    """Run what was asked for and print it."""
    options = _options().parse_args(arguments)
    scale = QUICK if options.quick else FULL
    runs = options.runs or (1 if options.quick else 3)
    every = rows(scale)
    chosen = {key: every[key] for key in options.rows or every}
    folder = Path(tempfile.mkdtemp(prefix="dostore-bench-", dir=options.folder))
    bench = Bench(folder, scale)
    measured = {key: Measured(row.title, row.unit) for key, row in chosen.items()}
    bare: dict[str, Measured] = {}
    began = time.monotonic()
    try:
        for run in range(runs):
            for key, row in chosen.items():
                print(f"run {run + 1} of {runs}: {row.title}", file=sys.stderr)
                _measure(bench, row, measured[key], bare, folder / "bare")
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(table(measured.values(), bare.values()))
    print(f"\n{runs} runs in {time.monotonic() - began:.0f} s; medians, each beside its own run's.")
    path: Path = options.json
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(measured, bare, asdict(scale)), indent=1))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once, with little: under a minute")
    parser.add_argument("--runs", type=int, help="how often each row is measured")
    parser.add_argument("--rows", nargs="+", choices=list(rows(FULL)), help="only these rows")
    parser.add_argument("--folder", help="on which disk: where a temporary folder is made")
    parser.add_argument("--json", type=Path, default=JSON_PATH, help="where every run is written")
    return parser


def _measure(
    bench: Bench, row: Row, measured: Measured, bare: dict[str, Measured], folder: Path
) -> None:
    """One run of a row, in turn with what it stands beside."""
    rates = {}
    for key in row.references:
        reference = REFERENCES[key]
        rates[reference.title] = reference.measure(folder, bench.scale)
        kept = bare.setdefault(key, Measured(reference.title, reference.unit))
        kept.rates.append(rates[reference.title])
    store = bench.store(row.synced)
    store.forget_peak()
    figures = row.measure(bench)
    measured.peak_bytes = max(measured.peak_bytes, store.peak_resident_bytes())
    measured.add(figures)
    for title, rate in rates.items():
        measured.beside.setdefault(title, []).append(figures["rate"] / rate)


if __name__ == "__main__":
    main(sys.argv[1:])
