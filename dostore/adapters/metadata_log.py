"""The metadata log: each batch of versions on several drives, synced, before it counts.

``docs/metadata-log.rst`` tells the format and the rules of recovery. Used by the metadata writer's
thread only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future

from attrs import frozen
from twisted.logger import Logger

from dostore.adapters.files import Files
from dostore.adapters.metadata_drives import LogDrive, LogPlace, on_all, outcomes, start_on
from dostore.core.logrecord import Record, SegmentHeader, encode_record
from dostore.errors import MetadataUnavailable

log = Logger()


@frozen(slots=True)
class _Append:
    """A batch on its way to the drives."""

    size: int
    futures: dict[LogDrive, Future[None]]


class MetadataLog:
    """Appends batches to the segment that is open on up to ``copies`` drives.

    :param store_id: the 16 bytes of the store's uuid.
    :param timeout_s: seconds after which a drive that has not answered counts as failed.
    :ivar term: the highest term that is known to have been used.
    :ivar created_ms: when the store of versions began, in milliseconds since the epoch.
    :ivar next_seq: the number of the next batch.
    :ivar bytes_since_cut: bytes of records since the segments were last cut.
    """

    def __init__(
        self,
        places: Sequence[LogPlace],
        copies: int,
        files: Files,
        store_id: bytes,
        timeout_s: float,
    ) -> None:
        self.drives = [LogDrive(place, files, store_id) for place in places]
        self.copies = copies
        self.store_id = store_id
        self.timeout_s = timeout_s
        self.term = 0
        self.created_ms = 0
        self.next_seq = 1
        self.bytes_since_cut = 0
        self._open: dict[LogDrive, int] = {}
        self._seed = 0
        self._append: _Append | None = None
        self._told = ""

    @property
    def members(self) -> Collection[LogDrive]:
        """The drives of the open segment; none when there is no open segment."""
        return self._open.keys()

    @property
    def degraded(self) -> str | None:
        """What is lacking, as a sentence; None when nothing is."""
        if len(self._open) >= self.copies:
            # A list first: this is asked on other threads, too.
            behind = [drive.place.address for drive in list(self._open) if not drive.whole]
            if not behind:
                return None
            return f"The metadata log is being copied to {', '.join(behind)}."
        return f"The metadata log is kept on {len(self._open)} of {self.copies} drives."

    def begin(self, carried: Sequence[Record] = (), prefer: Collection[LogDrive] = ()) -> None:
        """Open a new segment, from :attr:`next_seq` on, on the best drives there are.

        Whatever an earlier segment holds from that number on is void as soon as this returns.

        :param carried: the records just before, to be repeated in it.
        :param prefer: drives to take before others.
        :raises MetadataUnavailable: no drive took it; there is no open segment then.
        """
        before = list(self._open)
        first = [*before, *prefer]
        self.close_segment()
        ranked = sorted(self.drives, key=lambda drive: (drive not in first, not drive.whole))
        for failed in (False, True):
            # Drives that failed before are asked only when no other takes it.
            self._put([d for d in ranked if d.usable and d.failed is failed], carried)
            if self._open:
                for drive in self.drives:
                    drive.whole = drive.whole and drive in self._open
                    if drive not in before:
                        drive.since = self.term
                return
        raise MetadataUnavailable(
            "No drive can take the metadata log. Free space on the drives or bring them back."
        )

    def _put(self, ranked: Sequence[LogDrive], carried: Sequence[Record]) -> None:
        """Put the segment on the first ``copies`` of ``ranked`` that take it."""
        self.look([drive for drive in ranked if drive.listing is None])
        waiting = [drive for drive in ranked if drive.listing is not None]
        self.term += 1
        carried_from = carried[0].seq if carried else self.next_seq
        header = SegmentHeader(
            self.store_id, self.term, self.next_seq, carried_from, self.created_ms
        )
        self._seed = header.seed
        content = b"".join(
            [header.encode(), *(encode_record(self._seed, record) for record in carried)]
        )
        while waiting and len(self._open) < self.copies:
            need = self.copies - len(self._open)
            batch, waiting = waiting[:need], waiting[need:]
            futures = {
                drive: start_on(drive, drive.put_segment, header, content) for drive in batch
            }
            opened = outcomes(futures, self.timeout_s)
            for drive in batch:
                if drive in opened:
                    self._open[drive] = opened[drive]
                    drive.took(header)
                else:
                    drive.close_when_done(futures[drive])
        if self._open:
            # Told when it changes: a database that takes no writes makes a segment for each try.
            kept = ", ".join(drive.place.address for drive in self._open)
            if kept != self._told:
                self._told = kept
                log.info("The metadata log is kept on {kept}.", kept=kept)

    def look(self, drives: Iterable[LogDrive], sweep: bool = False) -> None:
        """Find out what is on drives, so that no term of theirs is used again."""
        for drive, listing in on_all(drives, lambda d: d.look(sweep), self.timeout_s).items():
            drive.listing = listing
            highest = max(listing.segments, default=0)
            if self._open and highest > self.term:
                log.error(
                    "The drive {drive} holds metadata of another run of this store, newer than "
                    "this one's. It is left out of the history.",
                    drive=drive.place.address,
                )
            self.term = max(self.term, highest)

    def start(self, payload: bytes) -> int:
        """Begin to write a batch; :meth:`finish` or :meth:`abandon` must follow.

        :returns: its sequence number.
        :raises MetadataUnavailable: no drive takes the log.
        """
        if not self._open:
            self.begin()
        data = encode_record(self._seed, Record(self.next_seq, payload))
        futures = {d: start_on(d, d.append, fd, data) for d, fd in self._open.items()}
        self._append = _Append(len(data), futures)
        return self.next_seq

    def finish(self) -> None:
        """Return when the batch is durable on every copy that has not failed, at least on one.

        :meth:`accept` or :meth:`abandon` must follow.

        :raises MetadataUnavailable: it is on none; :meth:`abandon` must follow.
        """
        assert self._append is not None
        synced = outcomes(self._append.futures, self.timeout_s)
        self.drop_failed()
        if not synced:
            raise MetadataUnavailable(
                "No drive could sync the metadata log. Free space on the drives or bring them back."
            )

    def accept(self) -> None:
        """Have the batch count for good."""
        assert self._append is not None
        self.next_seq += 1
        self.bytes_since_cut += self._append.size
        self._append = None

    @property
    def pending(self) -> bool:
        """Whether a batch was begun, and neither accepted nor abandoned."""
        return self._append is not None

    def drop_failed(self) -> None:
        """Append no more to the copies on drives that failed."""
        for drive in [drive for drive in self._open if drive.failed]:
            self._drop(drive)

    def _drop(self, drive: LogDrive) -> None:
        fd = self._open.pop(drive)
        if drive.stuck is not None and not drive.stuck.done():
            # The descriptor may not be given out again while a hung call still holds its number.
            drive.stuck.add_done_callback(lambda _: drive.files.close(fd))
        else:
            start_on(drive, drive.files.close, fd)

    def abandon(self) -> bool:
        """Make sure that the batch that was begun never counts.

        :returns: whether that is durable; otherwise the next segment that opens does it.
        """
        assert self._append is not None
        # Not to close descriptors under calls that still run.
        outcomes(self._append.futures, self.timeout_s)
        self._append = None
        self.drop_failed()
        try:
            self.begin()
        except MetadataUnavailable:
            return False
        return True

    def heal(self, retry: bool, joined: str | None = None) -> None:
        """Bring the log to its full number of drives, if there are sound ones to be had.

        :param retry: try drives that failed before, too.
        :param joined: the address of a drive that is sound again.
        """
        for drive in self.drives:
            if drive.place.address == joined and drive not in self._open:
                drive.failed = False
        if len(self._open) >= self.copies:
            return
        spare = [
            drive
            for drive in self.drives
            if drive not in self._open and drive.usable and (retry or not drive.failed)
        ]
        ready = on_all(spare, LogDrive.probe, self.timeout_s)
        for drive in ready:
            drive.failed = False
        if ready:
            self.begin()

    def verify(self) -> None:
        """Drop the copies whose files are no longer where they were, say on a drive replaced."""
        on_all(self._open, LogDrive.require_files, self.timeout_s)
        self.drop_failed()

    def close_segment(self) -> None:
        """Append to the open segment no more."""
        for drive in list(self._open):
            self._drop(drive)
