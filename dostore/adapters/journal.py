"""A drive's journal: small shards are durable by one sync for all that wait, and files by another.

A shard is appended to the log and synced there, then written to ``objects/`` without a sync. A
checkpoint syncs the files and forgets the log; a start that finds a log puts right what a crash
left of the files. ``docs/shard-log.rst`` tells the format and the rules.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from attrs import frozen
from twisted.logger import Logger

from dostore.adapters.append_log import FULL as FULL
from dostore.adapters.append_log import AppendLog, Entry, Segment
from dostore.adapters.files import Files
from dostore.core.names import ShardName
from dostore.core.shardlog import JOURNAL, Gap, Kind, Record

T = TypeVar("T")

#: What the log says last of a shard whose file need not be there.
_GONE = {Kind.DROPPED, Kind.PURGED}

_log = Logger()

#: A log of this size is checkpointed. A start after a crash reads up to twice as much.
LOG_BYTES = 16 << 20

#: So is one whose first record is this old, in seconds.
LOG_AGE_S = 30.0

#: Up to so many files are synced one by one; for more, the whole file system is.
_EACH = 256


@frozen(slots=True)
class _Last:
    """The last that the log says of a shard, and where its bytes are."""

    kind: Kind
    number: int
    written: Record


class Journal:
    """The log of one drive, and what it does to the drive's files. Any thread may call.

    :param folder: the drive's folder, absolute.
    :param now: the time of day in seconds since the epoch, for the records' times.
    :ivar lock: held while files of ``objects/`` and ``garbage/`` are written, moved or removed and
        the log is told, so that it tells of them in the order in which they happened.
    :ivar checkpoints: how often the log was cut.
    :ivar life: how often it was loaded.
    """

    def __init__(self, folder: str, files: Files, now: Callable[[], float]) -> None:
        self.folder = os.path.join(folder, "log")
        self.lock = threading.RLock()
        self.checkpoints = 0
        self.life = 0
        self._objects = os.path.join(folder, "objects")
        self._garbage = os.path.join(folder, "garbage")
        self._files = files
        self._now = now
        self._log = AppendLog(self.folder, files, JOURNAL, reuse=True)
        self._since: float | None = None
        self._names: list[str] | None = []
        self._suspect = False
        self._one_at_a_time = threading.Lock()
        self._system: int | None = None

    # Writing

    def keep(self, shards: Sequence[tuple[ShardName, bytes]]) -> None:
        """Make small shards durable; call :meth:`write` for each after that, with the lock held."""
        entries = [Entry(Kind.WRITTEN, name, data) for name, data in shards]
        self._log.append(entries, self._time_ms(), sync=True)
        if self._since is None:
            self._since = self._now()
            self._hold_system()
        if self._names is not None:
            self._names += [str(name) for name, _ in shards]
            if len(self._names) > _EACH:
                self._names = None

    def _hold_system(self) -> None:
        """Have a sync of the file system tell of errors from now on: it tells them to whoever held
        a file open when they were met.
        """
        if self._system is None:
            self._system = self._files.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)

    def write(self, name: ShardName, data: bytes) -> None:
        """Write a file of ``objects/`` whose bytes :meth:`keep` has made durable."""
        path = f"{self._objects}/{name}"
        try:
            self._create(path, data)
        except FileExistsError:
            # A reader must not meet half of it.
            self._replace(path, data)

    def _create(self, path: str, data: bytes) -> None:
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                self._files.write(fd, [data])
            finally:
                self._files.close(fd)
        except OSError:
            # What failed first is what the caller has to know.
            with suppress(OSError):
                self._files.unlink(path)
            raise

    def _replace(self, path: str, data: bytes) -> None:
        beside = os.path.join(self.folder, "new")
        with suppress(FileNotFoundError):
            self._files.unlink(beside)
        self._create(beside, data)
        self._files.rename(beside, path)

    def change(self, kind: Kind, names: Sequence[ShardName], step: Callable[[], T]) -> T:
        """Move or remove files by ``step``, and tell the log, if it may tell otherwise; a step that
        returns False has changed nothing.

        That is not synced: like the change of the folder, it may be undone by a power cut.
        """
        with self.lock:
            result = step()
            if result is False or self._note(kind, names):
                return result
        # A full drive must let things be removed. Without a log there is nothing to tell.
        self.checkpoint()
        return result

    def _note(self, kind: Kind, names: Sequence[ShardName]) -> bool:
        """Whether the log was told, or there is none; hold the lock."""
        if not names or not self._log.numbers:
            return True
        try:
            self._log.append([Entry(kind, name) for name in names], self._time_ms(), sync=False)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return False
        return True

    def _time_ms(self) -> int:
        return max(0, int(self._now() * 1000))

    # Checkpoints

    @property
    def size(self) -> int:
        """Bytes in the open segment."""
        return self._log.end if self._log.is_open else 0

    def is_due(self) -> bool:
        """Whether the log has grown so large or so old that it should be cut."""
        since = self._since
        if since is None:
            return False
        return self.size >= LOG_BYTES or not 0 <= self._now() - since < LOG_AGE_S

    def checkpoint(self) -> None:
        """Make the files durable and forget the log that told of them.

        :raises OSError: they are not; the log is kept.
        """
        with self._one_at_a_time:
            with self.lock:
                numbers = list(self._log.numbers)
                if not numbers:
                    return
                names, self._names, self._since = self._names, [], None
                self._log.close()
            try:
                if self._suspect:
                    # What the system has in memory of files whose sync failed proves nothing.
                    with self.lock:
                        self._apply(self._log.numbers, again=True)
                    names = None
                self._sync_files(names, numbers)
            except BaseException:
                self._suspect = True
                with self.lock:
                    self._since = self._now()
                raise
            self._suspect = False
            with self.lock:
                self._log.drop(numbers)
            self.checkpoints += 1

    def _sync_files(self, names: Sequence[str] | None, numbers: Sequence[int]) -> None:
        if names is None:
            assert self._system is not None, "there is a log"
            if not self._files.sync_file_system(self._system):
                names = [str(name) for name in self._last_of(numbers)]
        for name in names or ():
            # What is in neither place was removed for good.
            for folder in (self._objects, self._garbage):
                with suppress(FileNotFoundError):
                    self.sync_file(os.path.join(folder, name))
                    break
        self._files.sync_folder(self._objects)
        self._files.sync_folder(self._garbage)

    def sync_file(self, path: str) -> None:
        """Make the bytes of a file durable."""
        fd = self._files.open(path, os.O_RDONLY)
        try:
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    # Starting and stopping

    def load(self) -> int:
        """Put right what a crash left of the files that the log tells of; how many.

        The log is kept until the next checkpoint.
        """
        with self.lock:
            self.close()
            self.life += 1
            numbers = self._log.load()
            if not numbers:
                return 0
            self._hold_system()
            self._names, self._since = None, self._now() - LOG_AGE_S
            return self._apply(numbers, again=False)

    def _apply(self, numbers: Sequence[int], *, again: bool) -> int:
        last = self._last_of(numbers)
        done = 0
        for number in numbers:
            with self._segment(number) as segment:
                for name, what in last.items():
                    if what.number == number and what.kind not in _GONE:
                        done += self._restore(segment, name, what, again=again)
        return done

    def _last_of(self, numbers: Sequence[int]) -> dict[ShardName, _Last]:
        last: dict[ShardName, _Last] = {}
        for number in numbers:
            with self._segment(number) as segment:
                self._take(segment, last)
        return last

    @contextmanager
    def _segment(self, number: int) -> Iterator[Segment[Record]]:
        segment = self._log.read(number)
        try:
            yield segment
        finally:
            segment.close()

    def _take(self, segment: Segment[Record], last: dict[ShardName, _Last]) -> None:
        """Note the last of each shard that a segment tells of."""
        gaps: list[Gap] = []
        synced = 0
        for found in segment.found():
            if isinstance(found, Gap):
                gaps.append(found)
                continue
            synced = max(synced, found.synced)
            if found.kind is Kind.WRITTEN:
                if segment.body(found) is None:
                    # What was written before under the same name may be whole.
                    gaps.append(Gap(found.offset, found.end))
                    continue
                last[found.name] = _Last(found.kind, segment.number, found)
                continue
            before = last.get(found.name)
            # It may have been written again while it was in garbage/ too.
            if before and (found.kind is not Kind.PURGED or before.kind is Kind.REMOVED):
                last[found.name] = _Last(found.kind, before.number, before.written)
        for gap in gaps:
            # Else it was written when the power was cut, and nobody was told that it was.
            if gap.offset < synced:
                self._tell_damage(segment.number, gap.offset, gap.end)

    def _tell_damage(self, number: int, offset: int, end: int) -> None:
        _log.error(
            "{path} is damaged from byte {offset} to {end}: the shards that it told of there are "
            "made again from the others, if they were not written yet",
            path=self._log.path(number),
            offset=offset,
            end=end,
        )

    def _restore(
        self, segment: Segment[Record], name: ShardName, what: _Last, *, again: bool
    ) -> bool:
        """Have a file be what the log says; whether it was not."""
        path = os.path.join(self._objects, str(name))
        if what.kind is Kind.REMOVED and not self._files.exists(path):
            path = os.path.join(self._garbage, str(name))
        body = segment.body(what.written)
        if body is None:
            # It was whole a moment ago: the drive fails. The file, if there is one, is judged when
            # it is read.
            return False
        try:
            if not again and self._files.read_all(path, len(body) + 1) == body:
                return False
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        try:
            self._replace(path, body)
            if what.kind is not Kind.REMOVED:
                # Another, by another scheme, may have taken its place: of two the later one counts.
                self._files.touch(path, what.written.time_ms / 1000)
        except OSError as error:
            if error.errno not in FULL or again:
                raise
            # The next checkpoint tries again, and the log is kept until one succeeds.
            self._suspect = True
            return False
        return True

    def close(self, life: int | None = None) -> None:
        """Release the log's files. What it tells of is put right by the next :meth:`load`.

        :param life: unless it was loaded since :attr:`life` was this.
        """
        with self.lock:
            if life not in (None, self.life):
                return
            self._log.close()
            self._log.numbers.clear()
            self._since = None
            fd, self._system = self._system, None
            if fd is not None:
                self._files.close(fd)
