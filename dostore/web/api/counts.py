"""What a process has counted, as a value that goes from process to process and can be added up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import define, field

#: Upper bounds of a request's duration, in seconds.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

#: Method and route of a request.
Kind = tuple[str, str]


@define
class HttpCounts:
    """Requests and connections.

    :ivar requests: by method, route and class of status; 0: the connection ended before the answer.
    :ivar durations: how many requests took so long, by method and route; see BUCKETS_S.
    :ivar seconds: how long all of them took, by method and route.
    :ivar refused: what was no proper request, by status.
    :ivar connections: open now.
    :ivar idle: of those, without a request.
    :ivar running: requests under way.
    """

    requests: Counter[tuple[str, str, int]] = field(factory=Counter)
    durations: dict[Kind, list[int]] = field(factory=dict)
    seconds: Counter[Kind] = field(factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    refused: Counter[int] = field(factory=Counter)
    connections: int = 0
    idle: int = 0
    running: int = 0

    def took(self, kind: Kind, seconds: float) -> None:
        """Count a duration."""
        buckets = self.durations.get(kind)
        if buckets is None:
            buckets = self.durations[kind] = [0] * (len(BUCKETS_S) + 1)
        buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds[kind] += seconds  # type: ignore[assignment]

    def add(self, other: HttpCounts) -> None:
        """Count what another process has counted, too."""
        self.requests.update(other.requests)
        for kind, buckets in other.durations.items():
            mine = self.durations.setdefault(kind, [0] * len(buckets))
            self.durations[kind] = [a + b for a, b in zip(mine, buckets, strict=True)]
        self.seconds.update(other.seconds)
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.refused.update(other.refused)
        self.connections += other.connections
        self.idle += other.idle
        self.running += other.running

    def ended(self) -> HttpCounts:
        """What stays counted when the process has ended."""
        past = HttpCounts()
        past.add(self)
        past.connections = past.idle = past.running = 0
        return past

    def as_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return {
            "requests": [[*key, count] for key, count in self.requests.items()],
            "durations": [[*kind, buckets] for kind, buckets in self.durations.items()],
            "seconds": [[*kind, seconds] for kind, seconds in self.seconds.items()],
            "bytes": [self.bytes_in, self.bytes_out],
            "refused": [[status, count] for status, count in self.refused.items()],
            "now": [self.connections, self.idle, self.running],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> HttpCounts:
        """Read what :meth:`as_json` made."""
        bytes_in, bytes_out = told["bytes"]
        connections, idle, running = told["now"]
        return cls(
            Counter({(method, route, status): n for method, route, status, n in told["requests"]}),
            {(method, route): list(buckets) for method, route, buckets in told["durations"]},
            Counter({(method, route): seconds for method, route, seconds in told["seconds"]}),
            bytes_in,
            bytes_out,
            Counter(dict(told["refused"])),
            connections,
            idle,
            running,
        )


@define
class Counts:
    """All of a process.

    :ivar store: what its store has counted, by name; see Stats.
    """

    http: HttpCounts = field(factory=HttpCounts)
    store: Counter[str] = field(factory=Counter)

    def add(self, other: Counts) -> None:
        """Count what another process has counted, too."""
        self.http.add(other.http)
        self.store.update(other.store)

    def ended(self) -> Counts:
        """What stays counted when the process has ended."""
        return Counts(self.http.ended(), Counter(self.store))

    def as_json(self) -> dict[str, Any]:
        """For :meth:`from_json`."""
        return {"http": self.http.as_json(), "store": dict(self.store)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Counts:
        """Read what :meth:`as_json` made."""
        return cls(HttpCounts.from_json(told["http"]), Counter(told["store"]))
