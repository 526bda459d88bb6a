"""The drives that keep copies of the metadata log: what is in their folders, and work done on many.

Everything here blocks and is called on the metadata writer's thread; the drives' own threads do the
work, so that a drive that hangs costs a bounded wait and nothing more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field, frozen
from twisted.logger import Logger

from dostore.adapters.files import Files
from dostore.core.logrecord import (
    FOOTER_BYTES,
    HEADER_BYTES,
    End,
    Record,
    SegmentHeader,
    SegmentReader,
    SnapshotFooter,
)
from dostore.threads import IWorkers

T = TypeVar("T")

CHUNK_BYTES = 1 << 20

log = Logger()


@frozen(slots=True)
class LogPlace:
    """A drive that may keep a copy of the metadata log.

    :ivar address: what the drive is called.
    :ivar folder: the absolute path of the folder for metadata on it; it need not exist yet, but the
        folder that holds it does while the drive is there.
    :ivar workers: the threads for its blocking calls; best its own ones, as a sync waits in them.
    :ivar live: whether the drive can be used now, as far as is known; called on any thread.
    """

    address: str
    folder: str
    workers: IWorkers
    live: Callable[[], bool]


@frozen(slots=True)
class Listing:
    """What a drive's folder holds of this store.

    :ivar segments: headers by term.
    :ivar snapshots: footers by sequence number.
    :ivar newer: a file there was written by a newer release.
    :ivar foreign: how many files belong to another store or are damaged in their header or footer.
    """

    segments: dict[int, SegmentHeader]
    snapshots: dict[int, SnapshotFooter]
    sizes: dict[str, int]
    newer: bool
    foreign: int


@define(slots=True, eq=False)
class LogDrive:
    """A place and what is known of it.

    :ivar failed: its last use failed; it is left alone until it is tried again on purpose.
    :ivar whole: its snapshot and segments alone give every record.
    :ivar since: the term from which on it took part without a break.
    :ivar listing: what was in its folder when it was last looked at, kept up to date; None: not
        looked at since it was away.
    """

    place: LogPlace
    files: Files
    store_id: bytes
    failed: bool = False
    whole: bool = False
    since: int = 0
    listing: Listing | None = None
    stuck: Future[Any] | None = field(default=None)

    @property
    def usable(self) -> bool:
        """Whether a call may be tried: it is live, and an earlier call does not hang in it."""
        return self.place.live() and (self.stuck is None or self.stuck.done())

    def path(self, name: str) -> str:
        """The path of a file in its folder."""
        return os.path.join(self.place.folder, name)

    # The methods below block, and run on the drive's own threads.

    def look(self, sweep: bool = False) -> Listing:
        """Read what the folder holds; with ``sweep`` remove what an earlier run left unfinished."""
        segments: dict[int, SegmentHeader] = {}
        snapshots: dict[int, SnapshotFooter] = {}
        sizes: dict[str, int] = {}
        found: set[End] = set()
        foreign = 0
        self._require_drive()
        for name in self._names():
            kind, _, number = name.partition(".")
            if name.endswith(".new"):
                if sweep:
                    self.files.unlink(self.path(name))
                continue
            if kind not in ("log", "snapshot") or not number.isdecimal():
                continue
            read = self._segment_header if kind == "log" else self._snapshot_footer
            head, size = read(name)
            sizes[name] = size
            if isinstance(head, End):
                found.add(head)
                foreign += 1
            elif head.store_id != self.store_id:
                foreign += 1
            elif isinstance(head, SegmentHeader):
                segments[head.term] = head
            else:
                snapshots[head.seq] = head
        return Listing(segments, snapshots, sizes, End.NEWER_FORMAT in found, foreign)

    def _names(self) -> list[str]:
        try:
            return self.files.list(self.place.folder)
        except FileNotFoundError:
            return []

    def _require_drive(self) -> None:
        """Not to mistake the empty mount point of a drive that is away for an empty drive."""
        parent = os.path.dirname(self.place.folder)
        if not self.files.is_folder(parent):
            raise OSError(errno.ENOENT, "the drive is not there", parent)

    def _segment_header(self, name: str) -> tuple[SegmentHeader | End, int]:
        fd = self.files.open(self.path(name), os.O_RDONLY)
        try:
            head = SegmentHeader.parse(self.files.pread(fd, HEADER_BYTES, 0))
            return head, self.files.size(fd)
        finally:
            self.files.close(fd)

    def _snapshot_footer(self, name: str) -> tuple[SnapshotFooter | End, int]:
        fd = self.files.open(self.path(name), os.O_RDONLY)
        try:
            size = self.files.size(fd)
            data = self.files.pread(fd, FOOTER_BYTES, max(0, size - FOOTER_BYTES))
            return SnapshotFooter.parse(data, size), size
        finally:
            self.files.close(fd)

    def make_folder(self) -> None:
        """Have the folder, durably.

        :raises OSError: ENOENT when the drive itself is not there.
        """
        self._require_drive()
        if not self.files.is_folder(self.place.folder):
            self.files.make_folder(self.place.folder)
            self.files.sync_folder(os.path.dirname(self.place.folder))

    def put_segment(self, header: SegmentHeader, content: bytes) -> int:
        """Make a segment durable, whole or not at all, and remove those that it makes void.

        :returns: a descriptor to append with.
        """
        self.make_folder()
        path = self.path(f"log.{header.term}")
        fd = self.files.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.files.write(fd, [content])
            self.files.sync(fd)
            self.files.rename(path + ".new", path)
            self.files.sync_folder(self.place.folder)
            for term, old in list(self.listing.segments.items() if self.listing else ()):
                # Nothing in it counts any more, and this segment voids all that it made void.
                if old.carried_from >= header.first_seq:
                    self.remove(f"log.{term}")
        except OSError:
            self.files.close(fd)
            raise
        return fd

    def append(self, fd: int, data: bytes) -> None:
        """Write and sync at the end of an open segment."""
        self.files.write(fd, [data])
        self.files.sync(fd)

    def probe(self) -> None:
        """Find out whether the drive takes writes, by one."""
        self.make_folder()
        path = self.path("probe.new")
        fd = self.files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.files.write(fd, [bytes(4096)])
            self.files.sync(fd)
        finally:
            self.files.close(fd)
        self.files.unlink(path)

    def require_files(self) -> None:
        """Check that what was found or put in the folder is still there.

        :raises OSError: ENOENT when it is not.
        """
        assert self.listing is not None
        wanted = {f"log.{term}" for term in self.listing.segments}
        wanted |= {f"snapshot.{seq}" for seq in self.listing.snapshots}
        if gone := wanted.difference(self.files.list(self.place.folder)):
            raise OSError(errno.ENOENT, f"{len(gone)} metadata files are gone")

    def cut(self, before_term: int, before_seq: int) -> None:
        """Remove the segments and snapshots that a newer snapshot made needless."""
        self._require_drive()
        for name in self._names():
            kind, _, number = name.partition(".")
            if not number.isdecimal():
                continue
            if (kind == "log" and int(number) < before_term) or (
                kind == "snapshot" and int(number) < before_seq
            ):
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a file, which may be gone already."""
        with suppress(FileNotFoundError):
            self.files.unlink(self.path(name))

    # The methods below run on the caller's thread again.

    def records(self, term: int, timeout_s: float) -> Iterator[Record]:
        """The sound records of its segment of ``term``, up to the first that is not."""
        reader = SegmentReader()
        position = 0
        while reader.end is None:
            data = self.read(f"log.{term}", position, timeout_s)
            if data is None:
                return
            yield from reader.feed(data)
            position += len(data)
            if len(data) < CHUNK_BYTES:
                reader.finish()
        if reader.end is not End.CLEAN:
            log.info(
                "The metadata log segment {term} on {drive} {why}, after {offset} sound bytes.",
                term=term,
                drive=self.place.address,
                why=reader.end.value,
                offset=reader.offset,
            )

    def took(self, header: SegmentHeader) -> None:
        """Note that :meth:`put_segment` returned."""
        assert self.listing is not None
        self.failed = False
        # What holds everything from the first record on needs no snapshot before it.
        self.whole = self.whole or header.carried_from == 1
        segments = self.listing.segments
        for term in [t for t, s in segments.items() if s.carried_from >= header.first_seq]:
            del segments[term]
        segments[header.term] = header

    def was_cut(self, before_term: int, footer: SnapshotFooter | None, before_seq: int) -> None:
        """Note what :meth:`cut` is about to remove, and the snapshot that allows it."""
        if self.listing is None:
            return
        for term in [term for term in self.listing.segments if term < before_term]:
            del self.listing.segments[term]
        for seq in [seq for seq in self.listing.snapshots if seq < before_seq]:
            del self.listing.snapshots[seq]
        if footer is not None:
            self.listing.snapshots[footer.seq] = footer

    def close_when_done(self, opening: Future[int]) -> None:
        """Close the descriptor that a call that hangs will return when it is too late."""

        def close(done: Future[int]) -> None:
            if not done.cancelled() and done.exception() is None:
                self.files.close(done.result())

        opening.add_done_callback(close)

    def read(self, name: str, position: int, timeout_s: float) -> bytes | None:
        """Up to CHUNK_BYTES of a file; None, and the drive set aside, when that fails."""
        return on_all([self], lambda drive: drive.read_chunk(name, position), timeout_s).get(self)

    def read_chunk(self, name: str, position: int) -> bytes:
        """Up to CHUNK_BYTES of a file; blocks, on the drive's own thread."""
        fd = self.files.open(self.path(name), os.O_RDONLY)
        try:
            return self.files.pread(fd, CHUNK_BYTES, position)
        finally:
            self.files.close(fd)


def start_on(drive: LogDrive, function: Callable[..., T], *args: object) -> Future[T]:
    """Begin a call on a drive's own threads."""
    try:
        return drive.place.workers.submit(function, *args)
    except RuntimeError as error:
        # The workers were stopped before the store was closed.
        future: Future[T] = Future()
        future.set_exception(OSError(errno.ESHUTDOWN, str(error)))
        return future


@frozen(slots=True)
class Lapse:
    """How a call on a drive failed.

    :ivar hung: the call, when it has not returned yet.
    """

    why: str
    hung: Future[Any] | None = None


def collect(
    futures: dict[LogDrive, Future[T]], timeout_s: float
) -> tuple[dict[LogDrive, T], dict[LogDrive, Lapse]]:
    """Wait for calls on drives, up to ``timeout_s``: what they returned, and how others failed."""
    wait(futures.values(), timeout_s)
    results: dict[LogDrive, T] = {}
    lapses: dict[LogDrive, Lapse] = {}
    for drive, future in futures.items():
        if not future.done() and not future.cancel():
            lapses[drive] = Lapse(f"no answer within {timeout_s} s", future)
        elif future.cancelled():
            lapses[drive] = Lapse(f"its threads were busy for {timeout_s} s")
        else:
            try:
                results[drive] = future.result()
            except OSError as error:
                lapses[drive] = Lapse(error.strerror or str(error))
    return results, lapses


def outcomes(futures: dict[LogDrive, Future[T]], timeout_s: float) -> dict[LogDrive, T]:
    """Wait for calls on drives; what they returned. The other drives are set aside.

    Called on the metadata writer's thread only.
    """
    results, lapses = collect(futures, timeout_s)
    for drive, lapse in lapses.items():
        set_aside(drive, lapse)
    return results


def on_all(
    drives: Iterable[LogDrive], function: Callable[[LogDrive], T], timeout_s: float
) -> dict[LogDrive, T]:
    """Call ``function(drive)`` on each drive's own threads; see :func:`outcomes`."""
    return outcomes({drive: start_on(drive, function, drive) for drive in drives}, timeout_s)


def set_aside(drive: LogDrive, lapse: Lapse) -> None:
    """Note that a drive failed. Called on the metadata writer's thread only."""
    if not drive.failed:
        log.error(
            "The metadata log does without the drive {drive}: {why}.",
            drive=drive.place.address,
            why=lapse.why,
        )
    drive.failed, drive.whole, drive.listing = True, False, None
    if lapse.hung is not None:
        drive.stuck = lapse.hung
