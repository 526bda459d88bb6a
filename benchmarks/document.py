"""Puts what was measured into documents: ``make bench-tables``.

``python -m benchmarks.document JSON DOCUMENT...`` makes the tables anew that stand between two
comments of reStructuredText. The first names rows, with ``*`` for any characters, in one line:
``.. measured: put-4k-* list``, or ``.. measured in short:`` for a table of the medians beside what
they are to reach; the second is ``.. end of what was measured``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.aims import BESIDE, NOTHING
from benchmarks.report import amount, cpu, milliseconds, spread

_MIB = 1 << 20

_PLACE = re.compile(
    r"^(?P<begin>\.\. measured(?P<short> in short)?: (?P<patterns>[^\n]*)\n).*?"
    r"^(?P<end>\.\. end of what was measured\n)",
    re.MULTILINE | re.DOTALL,
)


def renewed(text: str, told: Mapping[str, Any]) -> str:
    """A document with its tables made of what was measured.

    A place that asks for rows of which none was measured stays as it is.

    :param told: a report, as it is in the JSON.
    """

    def table(match: re.Match[str]) -> str:
        found = _chosen(match["patterns"].split(), told["rows"])
        if not found:
            print(f"nothing was measured of {match['patterns']}", file=sys.stderr)
            return match[0]
        lines = _short(found) if match["short"] else _long(found.values())
        caption = [] if match["short"] else [*_caption([*found.values()], told["machine"]), ""]
        body = "\n".join(["", *caption, *_table(lines), "", ""])
        return f"{match['begin']}{body}{match['end']}"

    return _PLACE.sub(table, text)


def _chosen(patterns: Sequence[str], rows: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Rows by their keys, in the order of the patterns."""
    keys = [key for each in patterns for key in rows if fnmatchcase(key, each)]
    return {key: rows[key] for key in keys}


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['title']}, cluster" if row["shape"] == "cluster" else str(row["title"])


def _short(rows: Mapping[str, Mapping[str, Any]]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = [("what", "the store", "aim", "bare", "MinIO", "SeaweedFS")]
    for key, row in rows.items():
        ours, bare = _medians(row)
        beside = BESIDE.get(key, NOTHING)
        if beside.aim.startswith("p50"):
            ours += f", p50 {milliseconds(row['store']['p50_ms'])}"
        lines.append((_title(row), ours, beside.aim, bare, beside.minio, beside.seaweedfs))
    return lines


def _medians(row: Mapping[str, Any]) -> tuple[str, str]:
    unit = row["unit"]
    return amount(row["store"]["median"], unit), amount(row["reference"]["median"], unit)


def _long(rows: Iterable[Mapping[str, Any]]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = [
        ("what", "median", "least-most", "bare", "part", "p50", "p99", "CPU us", "memory")
    ]
    for row in rows:
        store = row["store"]
        lines.append(
            (
                row["title"],
                _medians(row)[0],
                spread(store) or "\\-",
                _medians(row)[1],
                f"{row['ratio']:.2f}",
                milliseconds(store["p50_ms"]),
                milliseconds(store["p99_ms"]),
                cpu(row),
                f"{store['peak_bytes'] / _MIB:.0f} MiB",
            )
        )
    return lines


def _caption(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> Iterator[str]:
    dates = sorted(row["date"].partition(" ")[0] for row in rows)
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    runs = max(len(row["store"]["runs"]) for row in rows)
    others = max(row["store"]["others"] for row in rows)
    yield (
        f"Measured on {days}: {machine['processors']} processors ({machine['model']}), Linux"
        f" {machine['system']}, {machine['file_system']},"
    )
    yield (
        f"Python {machine['python']}; medians of {runs} runs, in which others took at most"
        f" {others:.0%} of the machine."
    )


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for number, line in enumerate(lines):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield rule
    yield rule


def main(source: str, documents: Sequence[str]) -> None:
    """Renew the documents."""
    told = json.loads(Path(source).read_text())
    for path in map(Path, documents):
        path.write_text(renewed(path.read_text(), told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
