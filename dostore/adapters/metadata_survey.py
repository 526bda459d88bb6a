"""What all drives hold of the metadata log, taken together, and its records in order.

Blocks; runs on the metadata writer's thread. ``docs/metadata-log.rst`` tells the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field

from dostore.adapters.metadata_drives import LogDrive
from dostore.core.logrecord import Record, SnapshotFooter, TermStart, is_void, last_seq


class Gap(Exception):
    """Records between the database and the log are missing."""


@define(slots=True)
class Replay:
    """Walks the records of all drives' segments that count, in order.

    :ivar missing: records that no drive has, so far.
    """

    survey: Survey
    missing: int = 0

    def records(self, after: int, *, strict: bool) -> Iterator[tuple[int, Record]]:
        """Each record after number ``after``, with its term.

        :raises Gap: one is missing, if ``strict``.
        """
        expected = after + 1
        survey = self.survey
        for term in sorted(survey.holders):
            end = last_seq(term, survey.starts)
            for drive in survey.holders[term]:
                if end is not None and end < expected:
                    break
                for record in drive.records(term, survey.timeout_s):
                    if end is not None and record.seq > end:
                        break
                    if record.seq < expected:
                        continue
                    if record.seq > expected:
                        if strict:
                            raise Gap
                        self.missing += record.seq - expected
                    yield term, record
                    expected = record.seq + 1
        if expected <= survey.accepted:
            if strict:
                raise Gap
            self.missing += survey.accepted + 1 - expected


@define(slots=True)
class Survey:
    """What is on all drives together.

    :ivar starts: the terms, each with the record from which on it voids lower ones.
    :ivar created_ms: when the store of versions began, by the newest word of it.
    :ivar holders: for each term the drives that have a segment of it.
    """

    timeout_s: float
    starts: list[TermStart] = field(factory=list)
    holders: dict[int, list[LogDrive]] = field(factory=dict)
    snapshots: list[tuple[SnapshotFooter, LogDrive]] = field(factory=list)
    lowest_seq: int | None = None
    created_ms: int | None = None

    @classmethod
    def of(cls, drives: Sequence[LogDrive], timeout_s: float) -> Survey:
        """Put together what was found when the drives were looked at."""
        survey = cls(timeout_s)
        for drive in drives:
            if drive.listing is None:
                continue
            for term, header in drive.listing.segments.items():
                survey.starts.append(TermStart(term, header.first_seq))
                survey.holders.setdefault(term, []).append(drive)
                lowest = survey.lowest_seq
                survey.created_ms = max(survey.created_ms or 0, header.created_ms)
                survey.lowest_seq = min(lowest or header.carried_from, header.carried_from)
            survey.snapshots += [(footer, drive) for footer in drive.listing.snapshots.values()]
        survey.snapshots.sort(key=lambda found: found[0].seq, reverse=True)
        return survey

    @property
    def empty(self) -> bool:
        """Whether there is neither a segment nor a snapshot."""
        return not self.holders and not self.snapshots

    @property
    def accepted(self) -> int:
        """Up to which record all had been accepted when the highest term began."""
        newest = max(self.starts, key=lambda start: start.term, default=None)
        return 0 if newest is None else newest.first_seq - 1

    def void(self, term: int, seq: int) -> bool:
        """Whether a state that ends with this record holds what was given up."""
        return seq > 0 and is_void(term, seq, self.starts)

    def connects(self, seq: int) -> bool:
        """Whether the log goes on after record ``seq`` without a gap, by its headers."""
        newest = max((footer.seq for footer, _ in self.snapshots), default=0)
        if self.lowest_seq is None:
            return newest <= seq
        return self.lowest_seq <= seq + 1

    def reach(self, drive: LogDrive) -> int:
        """Up to which record a drive alone gives everything."""
        assert drive.listing is not None
        sound = [
            seq
            for seq, footer in drive.listing.snapshots.items()
            if not self.void(footer.term, seq)
        ]
        expected = max(sound, default=0) + 1
        for term in sorted(drive.listing.segments):
            end = last_seq(term, self.starts)
            if end is not None and end < expected:
                continue
            for record in drive.records(term, self.timeout_s):
                if record.seq > expected or (end is not None and record.seq > end):
                    break
                expected = max(expected, record.seq + 1)
        return expected - 1
