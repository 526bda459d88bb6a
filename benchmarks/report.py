"""What was measured, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MIB = 1 << 20

#: A row is marked when others took more than this of the machine while it was measured.
BUSY = 0.1

HEAD = ("", "median", "least-most", "bare", "part", "p50", "p99", "CPU us a request", "memory", "")


def table(rows: Mapping[str, Any]) -> str:
    """The rows of a report.

    :param rows: as in the JSON: by key.
    """
    lines = [HEAD]
    for key, row in rows.items():
        store, bare, unit = row["store"], row["reference"], row["unit"]
        busy = max(store["others"], bare["others"])
        lines.append(
            (
                f"{key}: {row['title']}",
                amount(store["median"], unit),
                spread(store),
                amount(bare["median"], unit),
                f"{row['ratio']:.2f}",
                milliseconds(store["p50_ms"]),
                milliseconds(store["p99_ms"]),
                cpu(row),
                f"{store['peak_bytes'] / _MIB:.0f} MiB",
                f"others took {busy:.0%}" if busy > BUSY else "",
            )
        )
    return "\n".join(columns(lines))


def machine(rates: Mapping[str, float]) -> str:
    """What the machine does by itself."""
    return "\n".join(columns([(name, f"{rate:,.0f} MB/s") for name, rate in rates.items()]))


def amount(value: float, unit: str) -> str:
    """A rate with its unit."""
    number = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{number} {unit}" if unit[0].isalpha() else number + unit


def spread(series: Mapping[str, Any]) -> str:
    """The least and the most of the runs; nothing for one run."""
    if len(series["runs"]) == 1:
        return ""
    digits = 0 if series["least"] >= 100 else 2
    return f"{series['least']:,.{digits}f}-{series['most']:,.{digits}f}"


def milliseconds(value: float) -> str:
    """A time."""
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def cpu(row: Mapping[str, Any]) -> str:
    """Processor time a request: of the store (and of what else it needs), the client, the bare
    server.
    """
    store, bare = row["store"], row["reference"]
    services = f" + {store['services_cpu_us']:,.0f}" if store["services_cpu_us"] else ""
    client = f"{store['client_cpu_us']:,.0f}"
    return f"{store['cpu_us']:,.0f}{services}, client {client}, bare {bare['cpu_us']:,.0f}"


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """The first and the last column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
