"""The rows of the table: what is measured of which store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from benchmarks.bodies import MIB
from benchmarks.stores import (
    COPIES,
    GZIP,
    JOURNAL,
    NOISE,
    PACKED,
    UNSYNCED,
    WORKERS,
    Variant,
    takes,
)
from benchmarks.workloads import Listing, Starting, Workload

SHAPES = ("embedded", "cluster")

_KIB = 1024


@frozen(slots=True)
class Scale:
    """How much is done at a time.

    :ivar seconds: of one run.
    :ivar warm_seconds: of the run before the first, which is not counted.
    :ivar large_mib: the size of a large object.
    :ivar names: objects of the store that is listed.
    :ivar shards: of the store that is started.
    """

    seconds: float
    warm_seconds: float
    large_mib: int
    names: int
    shards: int


FULL = Scale(seconds=2.0, warm_seconds=0.7, large_mib=256, names=1_000_000, shards=1_000_000)
QUICK = Scale(seconds=0.4, warm_seconds=0.2, large_mib=32, names=5000, shards=1200)


@frozen(slots=True)
class Row:
    """A line of the table.

    :ivar key: how it is chosen on the command line.
    :ivar shape: embedded or cluster.
    :ivar prepared: it is about the store with many names and shards.
    """

    key: str
    title: str
    shape: str
    variant: Variant
    work: Workload | Listing | Starting
    prepared: bool = False

    @property
    def synced(self) -> bool:
        """Whether shards are on disk before an answer."""
        return self.variant is not UNSYNCED

    @property
    def lost(self) -> bool:
        """Whether two places are gone."""
        return isinstance(self.work, Workload) and self.work.lost


def rows(scale: Scale, shape: str) -> list[Row]:
    """All rows of a shape whose options its programs know."""
    plugins = ["dostore-api"] if shape == "embedded" else ["dostore-data", "dostore-api"]
    found = []
    for variant, name, what, work in _works(scale):
        if not all(any(takes(p, option) for p in plugins) for option in variant.options):
            continue
        if variant.beside is not None and shape == "cluster":
            # Two clusters are more than one machine should run.
            continue
        parts = ["cluster"] if shape == "cluster" else []
        parts += [name, variant.name] if variant.name else [name]
        title = f"{what}, {variant.title}" if variant.title else what
        if isinstance(work, Workload) and work.method == "PUT" and variant is not UNSYNCED:
            title += ", synced"
        prepared = not isinstance(work, Workload)
        found.append(Row("-".join(parts), title, shape, variant, work, prepared))
    return found


_Work = tuple[Variant, str, str, Workload | Listing | Starting]


def _works(scale: Scale) -> Iterator[_Work]:
    for variant in (JOURNAL, UNSYNCED, PACKED, WORKERS, COPIES, GZIP, NOISE):
        for method in ("PUT", "GET"):
            for name, size, connections in _sizes(scale):
                if variant is JOURNAL or (method, name, connections) in _OF[variant.name]:
                    yield _plain(variant, method, name, size, connections)
        if variant is JOURNAL:
            yield from _large(scale)
            yield from _lost(scale)
    large = scale.large_mib * MIB
    one = Workload("GET", large, 16, names=_LARGE_NAMES, byte=True)
    yield JOURNAL, "get-byte-16", f"GET 1 byte of {scale.large_mib} MiB, 16 connections", one
    yield (
        JOURNAL,
        "list",
        f"list 1,000 of {scale.names:,} names",
        Listing("many/", scale.names),
    )
    for variant in (JOURNAL, PACKED):
        yield variant, "start", f"start with {scale.shards:,} shards", Starting("many/0000000")


def _sizes(scale: Scale) -> Sequence[tuple[str, int, int]]:
    return (
        *(("4k", 4 * _KIB, connections) for connections in (1, 16, 64)),
        *(("64k", 64 * _KIB, connections) for connections in (16, 64)),
        *(("1m", MIB, connections) for connections in (8, 16, 64)),
        *(("large", scale.large_mib * MIB, connections) for connections in (1, 4)),
    )


_SMALL = {
    (method, name, connections)
    for method in ("PUT", "GET")
    for name in ("4k", "64k")
    for connections in (16, 64)
}

#: What is measured of a variant.
_OF = {
    "nosync": {("PUT", "4k", 16), ("PUT", "64k", 16), ("PUT", "1m", 8), ("PUT", "large", 1)},
    "packed": _SMALL,
    "workers": {*_SMALL, ("PUT", "1m", 8), ("GET", "1m", 8)},
    "copies": {("PUT", "4k", 16), ("GET", "4k", 16)},
    "noise": {("PUT", "4k", 16), ("PUT", "64k", 16), ("PUT", "1m", 8), ("PUT", "large", 1)},
    "gzip": {("PUT", "64k", 16), ("GET", "64k", 16), ("PUT", "1m", 8), ("GET", "1m", 8)},
}

#: How many contents are read in turn.
_NAMES = {4 * _KIB: 1000, 64 * _KIB: 300, MIB: 64}
_LARGE_NAMES = 4


def _plain(variant: Variant, method: str, name: str, size: int, connections: int) -> _Work:
    large = size > MIB
    names = 0 if method == "PUT" else _NAMES.get(size, _LARGE_NAMES)
    work = Workload(
        method,
        size,
        connections,
        names=names,
        count=connections if large else 0,
        text=variant is GZIP,
    )
    return variant, f"{method.lower()}-{name}-{connections}", _title(work), work


def _title(work: Workload) -> str:
    size = f"{work.size // MIB} MiB" if work.size >= MIB else f"{work.size // _KIB} KiB"
    kind = "stream" if work.size > MIB else "connection"
    clients = f"one {kind}" if work.connections == 1 else f"{work.connections} {kind}s"
    text = " of text" if work.text else ""
    return f"{work.method} {size}{text}, {clients}"


def _large(scale: Scale) -> Iterator[_Work]:
    work = Workload("PUT", scale.large_mib * MIB, 1, count=8)
    title = f"PUT {scale.large_mib} MiB, 8 in a row"
    yield JOURNAL, "put-large-8x", title, work


def _lost(scale: Scale) -> Iterator[_Work]:
    for name, size, connections, names in (
        ("4k", 4 * _KIB, 16, 400),
        ("64k", 64 * _KIB, 16, 200),
        ("1m", MIB, 8, 48),
        ("large", scale.large_mib * MIB, 1, 1),
    ):
        work = Workload("GET", size, connections, names=names, lost=True, count=int(names == 1))
        title = f"{_title(work)}, two shards missing"
        yield JOURNAL, f"get-{name}-{connections}-lost", title, work
