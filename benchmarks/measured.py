"""What was measured, and what is made of it: medians, spreads, ratios."""

from __future__ import annotations

from statistics import median
from typing import Any

from attrs import asdict, define, field, frozen

from benchmarks.rows import Row


@frozen(slots=True)
class Figures:
    """One run, of a store or of a reference.

    :ivar rate: in the row's unit.
    :ivar count: requests.
    :ivar cpu_us: processor time a request of the server, of what else it needs (RabbitMQ and
        Elasticsearch), and of the client.
    :ivar others: the part of the machine's processors that went to nobody of these.
    :ivar each_ms: how long the first requests took.
    :ivar resident_bytes: of the server, at the end, and the most meanwhile.
    """

    rate: float
    count: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    services_cpu_us: float
    client_cpu_us: float
    others: float
    resident_bytes: int
    peak_bytes: int
    each_ms: tuple[float, ...] = ()


@define
class Measured:
    """A row over all runs.

    :ivar verified: contents that were compared byte by byte, of the store and of the reference.
    """

    row: Row
    store: list[Figures] = field(factory=list)
    reference: list[Figures] = field(factory=list)
    verified: list[int] = field(factory=lambda: [0, 0])

    @property
    def less_is_better(self) -> bool:
        """Whether the unit is one of time."""
        return self.row.work.unit in ("s", "ms")

    @property
    def ratios(self) -> list[float]:
        """The store's speed in parts of the reference's, a run each."""
        pairs = zip(self.store, self.reference, strict=True)
        if self.less_is_better:
            return [bare.rate / ours.rate for ours, bare in pairs]
        return [ours.rate / bare.rate for ours, bare in pairs]

    def as_json(self) -> dict[str, Any]:
        """Every run, and the medians."""
        return {
            "title": self.row.title,
            "shape": self.row.shape,
            "variant": self.row.variant.name,
            "synced": self.row.synced,
            "unit": self.row.work.unit,
            "store": _series(self.store),
            "reference": _series(self.reference),
            "ratio": median(self.ratios),
            "ratios": self.ratios,
            "verified": {"store": self.verified[0], "reference": self.verified[1]},
        }


def _series(runs: list[Figures]) -> dict[str, Any]:
    rates = [each.rate for each in runs]
    return {
        "median": median(rates),
        "least": min(rates),
        "most": max(rates),
        "p50_ms": median(each.p50_ms for each in runs),
        "p99_ms": median(each.p99_ms for each in runs),
        "cpu_us": median(each.cpu_us for each in runs),
        "services_cpu_us": median(each.services_cpu_us for each in runs),
        "client_cpu_us": median(each.client_cpu_us for each in runs),
        "others": median(each.others for each in runs),
        "resident_bytes": max(each.resident_bytes for each in runs),
        "peak_bytes": max(each.peak_bytes for each in runs),
        "runs": [asdict(each) for each in runs],
    }
