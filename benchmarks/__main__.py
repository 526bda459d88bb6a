"""Measure the store beside the bare machine: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from attrs import asdict, evolve

from benchmarks import machine, profiles, report
from benchmarks.bench import Bench
from benchmarks.chart import chart
from benchmarks.child import ChildFailed
from benchmarks.rows import FULL, QUICK, SHAPES, Row, Scale, rows

JSON_PATH = Path(".cache/benchmarks.json")


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for and print it; the exit status."""
    options = _options().parse_args(arguments)
    scale = QUICK if options.quick else FULL
    if options.seconds:
        scale = evolve(scale, seconds=options.seconds)
    chosen = _chosen(options, scale)
    if options.list:
        print("\n".join(f"{row.key:<28}  {row.title}" for row in chosen))
        return 0
    if not chosen:
        print("no row is called that; --list tells all", file=sys.stderr)
        return 2
    try:
        _run(options, scale, chosen)
    except (ChildFailed, AssertionError) as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, scale: Scale, chosen: Sequence[Row]) -> None:
    parent = options.folder or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dostore-bench-", dir=parent)).absolute()
    # What takes minutes to make is kept only where the caller has said so.
    kept = options.folder.absolute() / "prepared" if options.folder else folder / "prepared"
    rounds = options.rounds or (1 if options.quick else 5)
    began = time.monotonic()
    bench = Bench(folder, kept, scale, _say)
    try:
        if options.profile:
            profiles.run(bench, chosen, options.profile, options.profiler)
            return
        told = _measure(bench, chosen, rounds, folder)
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(report.table(told["rows"]))
    print("\nThe machine by itself, content a second:")
    print(report.machine(told["rates"]))
    taken = time.monotonic() - began
    print(f"\n{rounds} runs of {len(chosen)} rows in {taken:.0f} s; medians of all runs.")
    told = _merged(options.json, told)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(told, indent=1))
    picture: Path = options.chart or options.json.with_suffix(".svg")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(chart(told["rows"]))
    print(f"{options.json} has every run, {picture} a chart.")


def _measure(bench: Bench, chosen: Sequence[Row], rounds: int, folder: Path) -> dict[str, Any]:
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    measured = {}
    for group in bench.groups(chosen):
        for each in bench.run(group, rounds):
            scale = asdict(bench.scale)
            measured[each.row.key] = each.as_json() | {"date": date, "scale": scale}
    rates = machine.rates(folder / "rates")
    return {"machine": machine.described(folder), "rates": rates, "rows": measured}


def _merged(path: Path, told: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and what the file has of rows that were not."""
    try:
        before = json.loads(path.read_text())["rows"]
    except (FileNotFoundError, ValueError, KeyError):
        before = {}
    return told | {"rows": before | told["rows"]}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _chosen(options: argparse.Namespace, scale: Scale) -> list[Row]:
    shapes = SHAPES if options.shape == "both" else (options.shape,)
    every = [row for shape in shapes for row in rows(scale, shape)]
    return [row for row in every if any(fnmatchcase(row.key, each) for each in options.only)]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", default=["*"], help="rows by their names, with * for any characters")
    add("--list", action="store_true", help="tell the names of the rows, and measure nothing")
    add("--shape", choices=[*SHAPES, "both"], default="both")
    add("--rounds", type=int, help="how often each row is measured; by default 5 times")
    add("--seconds", type=float, help="how long one run takes; by default 2")
    add("--quick", action="store_true", help="once, with little of everything")
    add(
        "--folder",
        type=Path,
        help="on which disk: where a temporary folder is made, and stores with many names are kept",
    )
    add("--json", type=Path, default=JSON_PATH, help="takes every run, beside rows of earlier runs")
    add("--chart", type=Path, help="takes an SVG of all that is in it; by default beside it")
    add(
        "--profile", type=Path, metavar="DIR", help="say where the time goes instead; more is there"
    )
    add("--profiler", choices=profiles.PROFILERS, default=profiles.PROFILERS[0])
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
