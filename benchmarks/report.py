"""What was measured, as a table and as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from attrs import asdict, define, field

from benchmarks.load import MIB, Figures


@define
class Measured:
    """A row of the store or a reference, over all runs.

    :ivar rates: in ``unit``, a run each.
    :ivar peak_bytes: the most memory that the store had in use; 0 for a reference.
    :ivar beside: for each reference the rate of this row in parts of its, a run each.
    """

    title: str
    unit: str
    rates: list[float] = field(factory=list)
    p50_ms: list[float] = field(factory=list)
    p99_ms: list[float] = field(factory=list)
    peak_bytes: int = 0
    beside: dict[str, list[float]] = field(factory=dict)

    def add(self, figures: Figures) -> None:
        """Add a run."""
        self.rates.append(figures["rate"])
        if "p50_ms" in figures:
            self.p50_ms.append(figures["p50_ms"])
            self.p99_ms.append(figures["p99_ms"])


def table(rows: Iterable[Measured], references: Iterable[Measured]) -> str:
    """All of it for a terminal: medians, and the least and the most of the runs."""
    lines = [("", "median", "runs", "p50", "p99", "memory", "")]
    for row in rows:
        ratios = [f"{median(all_):.2g} of {title}" for title, all_ in row.beside.items()]
        lines.append(
            (
                row.title,
                _rate(median(row.rates), row.unit),
                _range(row.rates),
                _ms(row.p50_ms),
                _ms(row.p99_ms),
                f"{row.peak_bytes / MIB:.0f} MiB",
                "; ".join(ratios),
            )
        )
    text = _columns(lines)
    bare = [
        (each.title, _rate(median(each.rates), each.unit), _range(each.rates))
        for each in references
    ]
    if bare:
        text += "\n\nBare, on the same machine in the same run:\n" + _columns(bare)
    return text


def as_json(
    rows: dict[str, Measured], references: dict[str, Measured], scale: dict[str, int]
) -> dict[str, Any]:
    """All of it for a program; every run is there."""
    return {
        "machine": platform.platform(),
        "python": platform.python_version(),
        "scale": scale,
        "rows": {key: asdict(row) for key, row in rows.items()},
        "references": {key: asdict(row) for key, row in references.items()},
    }


def _rate(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{number} {unit}" if unit[0].isalpha() else number + unit


def _range(values: Sequence[float]) -> str:
    if len(values) == 1:
        return ""
    return f"{min(values):,.0f}-{max(values):,.0f}"


def _ms(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ms" if values else ""


def _columns(lines: Sequence[Sequence[str]]) -> str:
    """The first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
