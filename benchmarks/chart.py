"""What was measured, as a picture: SVG, each row as long as its part of the bare machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import amount

_LABEL = 400
_BAR = 420
_VALUE = 260
_ROW = 22
_TOP = 46

#: What is beyond is cut.
_MOST = 1.4

_COLOURS = {"embedded": "#2b6cb0", "cluster": "#b7791f"}


def chart(rows: Mapping[str, Any]) -> str:
    """An SVG of the rows of a report."""
    height = _TOP + _ROW * len(rows) + 10
    width = _LABEL + _BAR + _VALUE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            '<text x="10" y="18" font-size="14">The store in parts of the bare machine, in the same'
            " run: median, least and most</text>",
            *_scale(height),
            *(line for at, row in enumerate(rows.values()) for line in _row(at, row)),
            "</svg>\n",
        ]
    )


def _x(part: float) -> float:
    return _LABEL + _BAR * min(part, _MOST) / _MOST


def _scale(height: int) -> Iterator[str]:
    for percent in range(0, int(_MOST * 100) + 1, 20):
        x = _x(percent / 100)
        colour = "#444" if percent == 100 else "#ddd"
        yield (
            f'<line x1="{x:.0f}" y1="{_TOP - 6}" x2="{x:.0f}" y2="{height - 8}" stroke="{colour}"/>'
        )
        yield (
            f'<text x="{x:.0f}" y="{_TOP - 10}" fill="#666" text-anchor="middle">'
            f"{percent / 100:g}</text>"
        )


def _row(at: int, row: Mapping[str, Any]) -> Iterator[str]:
    top = _TOP + at * _ROW
    middle = top + _ROW / 2
    title = f"cluster: {row['title']}" if row["shape"] == "cluster" else row["title"]
    colour = _COLOURS[row["shape"]]
    least, most = min(row["ratios"]), max(row["ratios"])
    text = middle + 4
    yield f'<text x="{_LABEL - 8}" y="{text:.0f}" text-anchor="end">{escape(title)}</text>'
    yield (
        f'<rect x="{_LABEL}" y="{top + 4}" width="{_x(row["ratio"]) - _LABEL:.1f}"'
        f' height="{_ROW - 8}" fill="{colour}"/>'
    )
    yield (
        f'<line x1="{_x(least):.1f}" y1="{middle:.0f}" x2="{_x(most):.1f}" y2="{middle:.0f}"'
        ' stroke="black"/>'
    )
    ours, bare = (amount(row[key]["median"], row["unit"]) for key in ("store", "reference"))
    yield f'<text x="{_LABEL + _BAR + 8}" y="{text:.0f}">{escape(f"{ours} of {bare}")}</text>'
