"""Runs the rows: each store started, warmed up, measured in turn with its reference, verified."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import prepare, processes, starts
from benchmarks.bare import Bare, Settings
from benchmarks.measured import Figures, Measured
from benchmarks.rows import Row, Scale
from benchmarks.stores import Clustered, Embedded, Served, Services, Variant
from benchmarks.workloads import Client, Listing, Run, Starting, Workload

#: A store that clients have put more into is started anew, with nothing in it.
_WRITTEN_BYTES = 6 << 30

Say = Callable[[str], None]


class Reference:
    """A bare server as something to talk to."""

    def __init__(self, settings: Settings) -> None:
        self.bare = Bare(settings)
        self.made: dict[object, int] = {}
        self.written_bytes = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.bare.port

    def pids(self) -> list[int]:
        """Its process."""
        return [self.bare.pid]

    def service_pids(self) -> list[int]:
        """It needs nobody."""
        return []


class Bench:
    """All that runs while rows are measured.

    :param folder: where stores keep what they are given; emptied at the end.
    :param kept: where prepared stores are, or are made to be.
    :param say: told what is being done.
    """

    def __init__(self, folder: Path, kept: Path, scale: Scale, say: Say) -> None:
        self.scale = scale
        self.client = Client()
        self._folder = folder
        self._kept = kept
        self._say = say
        self._numbers = itertools.count(1)
        self._references: dict[Settings, Reference] = {}
        self._besides: dict[Variant, Embedded] = {}
        self._services = Services(folder / "services")
        self._warm: set[tuple[int, str]] = set()

    def close(self) -> None:
        """Stop what was started, and remove what it has left."""
        for reference in self._references.values():
            reference.bare.close()
        for beside in self._besides.values():
            beside.close()
        self._services.close()
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # Stores

    def store(self, row: Row) -> Served:
        """A store for a row, not started."""
        folder = self._folder / f"store-{next(self._numbers)}"
        if row.prepared:
            # It has services of its own, and two of each would be in each other's way.
            self._services.close()
            self._say(f"{row.key}: a store with {self.scale.names:,} names, made if need be")
            return prepare.store(row.shape, row.variant, self._kept, self.scale)
        if row.shape == "cluster":
            return Clustered(folder, self._services, row.variant)
        return Embedded(folder, row.variant)

    def groups(self, rows: Iterable[Row]) -> list[list[Row]]:
        """The rows that share a store, in order."""
        groups: dict[object, list[Row]] = {}
        for row in rows:
            key = (row.shape, row.variant.name, row.lost, row.prepared)
            groups.setdefault(key, []).append(row)
        return list(groups.values())

    def run(self, rows: Sequence[Row], rounds: int) -> list[Measured]:
        """Measure rows that share a store, again and again in turn."""
        measured = [Measured(row) for row in rows]
        with ExitStack() as stack:
            served = self.store(rows[0])
            if isinstance(served, Clustered) and rows[0].prepared:
                stack.callback(served.services.close)
            stack.callback(served.stop if rows[0].prepared else served.close)
            chosen = self._begin(served, rows)
            for number in range(rounds):
                for each in measured:
                    self._say(f"{each.row.key}: run {number + 1} of {rounds}")
                    self._turn(each, served, chosen.get(each.row.key, ()), number)
        return measured

    def _begin(self, served: Served, rows: Sequence[Row]) -> dict[str, Sequence[int]]:
        """Start a store; which contents each row is about when two places are gone."""
        if rows[0].prepared:
            served.resume()
            return {}
        served.start()
        if not rows[0].lost:
            return {}
        works = [row.work for row in rows if isinstance(row.work, Workload)]
        for work in works:
            work.prepare(served, self.client)
        return _lose_two(served, dict(zip([row.key for row in rows], works, strict=True)))

    def reference(self, row: Row) -> Reference | Served:
        """The bare server that does what a row asks for, or the store that it is compared with."""
        work = row.work
        if row.variant.beside is not None:
            return self._beside(row.variant.beside)
        if isinstance(work, Listing):
            database = prepare.database(self._kept, self.scale)
            settings = Settings(str(self._folder / "bare-list"), False, 1, database=str(database))
        else:
            assert isinstance(work, Workload), "a start is no request"
            large = work.size > 1 << 20
            put = work.method == "PUT"
            room = self.scale.large_mib + 32 if large else min(64, 2 * self.scale.large_mib)
            name = f"bare-{'large-' * large}{work.method}-{row.synced}-{work.lost}"
            settings = Settings(str(self._folder / name), put and row.synced, room, work.lost)
        if settings not in self._references:
            self._references[settings] = Reference(settings)
        return self._references[settings]

    def _beside(self, variant: Variant) -> Served:
        if variant not in self._besides:
            folder = self._folder / f"store-{next(self._numbers)}"
            self._besides[variant] = Embedded(folder, variant)
        beside = self._besides[variant]
        if not beside.running or beside.written_bytes > _WRITTEN_BYTES:
            beside.start()
        return beside

    # Runs

    def _turn(self, each: Measured, served: Served, numbers: Sequence[int], turn: int) -> None:
        """One run of a row and one of its reference; who is first changes from turn to turn."""
        row = each.row
        if isinstance(row.work, Starting):
            folders = prepare.shard_folders(self._kept, self.scale)
            start = row.work
            parts: list[Callable[[], None]] = [
                lambda: each.store.append(starts.of_store(served, start)),
                lambda: each.reference.append(starts.of_reference(folders)),
            ]
            each.verified[0] += 1
            each.verified[1] += 1
        else:
            if served.written_bytes > _WRITTEN_BYTES and not (row.lost or row.prepared):
                served.start()
                # What is to be read is another content now, and in nobody's memory.
                self._warm = {mark for mark in self._warm if mark[0] != served.port}
            parts = [
                lambda: self._measure(each, served, 0, numbers),
                lambda: self._measure(each, self.reference(row), 1, ()),
            ]
        for part in reversed(parts) if turn % 2 else parts:
            part()

    def _measure(
        self, each: Measured, target: Served | Reference, which: int, numbers: Sequence[int]
    ) -> None:
        work = each.row.work
        assert not isinstance(work, Starting), "it has runs of its own"
        each.verified[which] += work.prepare(target, self.client)
        mark = (target.port, each.row.key)
        if mark not in self._warm:
            self._warm.add(mark)
            run = work.measure(target, self.client, self.scale.warm_seconds, numbers)
            each.verified[which] += work.verify(target, self.client, run, numbers)
            if isinstance(target, Reference) and isinstance(work, Workload):
                each.verified[which] += target.bare.verify()
        run, figures = self.figures(target, work, numbers)
        (each.reference if which else each.store).append(figures)

    def figures(
        self, target: Served | Reference, work: Workload | Listing, numbers: Sequence[int]
    ) -> tuple[Run, Figures]:
        """One run, and what it took of the machine."""
        pids, services = target.pids(), target.service_pids()
        processes.forget_peak(pids)
        began = time.perf_counter()
        machine = processes.machine_cpu_seconds()
        ours, theirs = processes.cpu_seconds(pids), processes.cpu_seconds(services)
        run = work.measure(target, self.client, self.scale.seconds, numbers)
        ours = processes.cpu_seconds(pids) - ours
        theirs = max(0.0, processes.cpu_seconds(services) - theirs)
        machine = processes.machine_cpu_seconds() - machine
        seconds = time.perf_counter() - began
        done = run.done
        others = machine - ours - theirs - done.cpu_seconds
        return run, Figures(
            rate=work.rate(done),
            count=done.count,
            seconds=done.seconds,
            p50_ms=done.p50_ms,
            p99_ms=done.p99_ms,
            cpu_us=ours / done.count * 1e6,
            services_cpu_us=theirs / done.count * 1e6,
            client_cpu_us=done.cpu_seconds / done.count * 1e6,
            others=processes.share_of_machine(others, seconds),
            resident_bytes=processes.resident_bytes(pids),
            peak_bytes=processes.peak_resident_bytes(pids),
            each_ms=tuple(round(each * 1e3, 3) for each in done.each),
        )


def _lose_two(served: Served, works: dict[str, Workload]) -> dict[str, Sequence[int]]:
    """Take two places away; for each workload the contents that lose two data shards by it."""
    largest = max(works.values(), key=lambda work: work.size)
    holders = served.locate(largest.hashes(served)[0])
    gone = [holders["0"], holders["1"]]
    chosen: dict[str, Sequence[int]] = {}
    for key, work in works.items():
        places = [served.locate(each) for each in work.hashes(served)]
        data = [{place[str(index)] for index in range(4)} for place in places]
        chosen[key] = [number for number, each in enumerate(data) if set(gone) <= each]
    served.lose(gone)
    return chosen
