"""A drive's volumes: small shards that stay in the log that they were appended to.

``docs/volumes.rst`` tells the format and the rules. What blocks is run on the drive's threads;
errors are the system's own OSError, or BadShard and NewerFormat from what is in a volume.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from twisted.logger import Logger

from dostore.adapters.append_log import FULL, AppendLog, Encode, Records
from dostore.adapters.files import Files
from dostore.adapters.volume_files import HintFiles, VolumeFiles
from dostore.adapters.volume_start import read_all
from dostore.adapters.volume_state import Place, VolumeState
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.packed import PlainShards, is_packed_block, record_of, shard_of
from dostore.core.shardfile import Footer
from dostore.core.shardlog import HEADER_BYTES, Kind
from dostore.core.volumelog import (
    BODIES,
    CARRIED,
    HEAD_BYTES,
    HINT,
    UNIT,
    VOLUME,
    Entry,
    VolumeRecord,
    change,
)
from dostore.errors import BadShard

_log = Logger()

#: A volume of this size is closed. Emptying one takes half as much room at most, and so do the
#: shards that go with one whose header is lost; a terabyte in them is 4,096 files.
VOLUME_BYTES = 256 << 20

#: Puts leave so much of what is allocated to changes, so that things can be removed from a drive
#: that is full.
_SPARE_BYTES = 64 * 1024

#: A hint is told of so many records at a time.
_HINTED = 4096

#: What is read of a shard on the reactor's thread is no longer.
_CACHED_BYTES = 128 * 1024

#: So many shards are purged with one write.
_PURGED = 256


class Volumes:
    """Those of one drive. Any thread may call.

    :param folder: the drive's folder, absolute.
    :param now: the time of day in seconds since the epoch, for the records' times.
    :param sync: whether shards are synced before they count as durable.
    :ivar state: what counts; changed with the lock held.
    :ivar life: how often it was loaded.
    :ivar losses: how many shards were found gone by nobody who would have them made again.
    :ivar sizes: bytes of the volumes that are closed.
    """

    def __init__(
        self, folder: str, files: Files, now: Callable[[], float], *, sync: bool = True
    ) -> None:
        self.folder = os.path.join(folder, "volumes")
        self.lock = threading.RLock()
        self.state = VolumeState()
        self.life = 0
        self.losses = 0
        self.log: AppendLog[VolumeRecord] = AppendLog(self.folder, files, VOLUME, reuse=False)
        self.hints = HintFiles(self.folder, files)
        self.sizes: dict[int, int] = {}
        self._files = files
        self._now = now
        self._sync = sync
        self._opened = VolumeFiles(self.folder, files)
        self._buffer = bytearray(_CACHED_BYTES)
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._waiting: list[bytes] = []
        self._hinted = HEADER_BYTES
        self._hint_size = 0

    # Starting and stopping

    def load(self) -> None:
        """Find out what is there.

        :raises ConfigError: a volume is of a newer format.
        """
        with self.lock:
            self.close()
            self.life += 1
            self.state, told = read_all(self.log, self.hints, self._files)
            self.sizes = {number: volume.size for number, volume in told.items()}
            self._opened.seeds = {
                number: volume.seed for number, volume in told.items() if volume.seed is not None
            }

    def settle(self, *, last: bool = False) -> None:
        """Sync what was appended, and have the hint tell of it, so that a start is quick.

        :param last: nothing will be appended for now: give back what is allocated ahead.
        """
        with self.lock:
            if not self.log.is_open:
                return
            if last:
                self._end_volume()
            else:
                self._sync_log()
                self._add_hints()

    def close(self, life: int | None = None) -> None:
        """Release all files. What counts is found out again by the next :meth:`load`.

        :param life: unless it was loaded since :attr:`life` was this.
        """
        with self.lock:
            if life not in (None, self.life):
                return
            self.log.close()
            self.log.numbers.clear()
            self._opened.close()
            self._opened.seeds = {}
            self._begin_hint()

    # Writing

    def keep(
        self,
        entries: Sequence[Entry],
        plain: Sequence[tuple[Content, int, bytes | memoryview]] = (),
    ) -> None:
        """Keep shards: durable on return, and there.

        :param plain: others; see PlainShards.
        """
        with self.lock:
            made = PlainShards(plain, self.time_ms())
            in_volume = 0
            if plain:
                sync = self._sync and not entries
                in_volume = self._write(made.encode, sync=sync, spare=_SPARE_BYTES)
                self._hint(made.hints)
            if entries:
                number, offsets, time_ms = self.append(entries, sync=self._sync, spare=_SPARE_BYTES)
                for entry, offset in zip(entries, offsets, strict=True):
                    place = entry.digest, entry.index, number, offset, len(entry.body), time_ms
                    self.state.put(*place)
            if plain:
                self.state.put_all(
                    in_volume,
                    made.time_ms,
                    [
                        (content.hash.digest, index, offset, len(block))
                        for (content, index, block), offset in zip(plain, made.offsets, strict=True)
                    ],
                )

    def append(
        self, entries: Sequence[Entry], *, sync: bool, spare: int = 0
    ) -> tuple[int, list[int], int]:
        """Append records, with the lock held: in which volume, where in it, and when.

        After an error none of them counts. The index is the caller's to change.
        """
        time_ms = self.time_ms()
        records = Records(VOLUME, entries, time_ms)
        number = self._write(records.encode, sync=sync, spare=spare)
        self._hint(
            [
                HINT.pack(
                    entry.digest,
                    entry.index,
                    entry.kind | CARRIED if entry.carried else entry.kind,
                    offset // UNIT,
                    len(entry.body) if entry.kind in BODIES else entry.size,
                    time_ms if entry.time_ms is None else entry.time_ms,
                )
                for entry, offset in zip(entries, records.offsets, strict=True)
            ]
        )
        return number, records.offsets, time_ms

    def _write(self, encode: Encode, *, sync: bool, spare: int) -> int:
        """Append records, with the lock held; in which volume. After an error none counts."""
        log = self.log
        if log.is_open and log.end >= VOLUME_BYTES:
            self._end_volume()
        try:
            log.write(encode, sync=sync, spare=spare)
        except OSError:
            self._note_closed()
            raise
        number = log.numbers[-1]
        if number not in self._opened.seeds:
            self._opened.seeds[number] = log.seed
        return number

    def _hint(self, hints: Sequence[bytes]) -> None:
        """Have the hint tell of records that were appended, in time."""
        self._waiting += hints
        if len(self._waiting) >= _HINTED:
            self._sync_log()
            self._add_hints()

    def next_number(self) -> int:
        """Of the volume that the next records go to; with the lock held."""
        if self.log.is_open and self.log.end < VOLUME_BYTES:
            return self.log.numbers[-1]
        return self.log.next_number

    def _sync_log(self) -> None:
        """Sync what was appended but was not yet."""
        log = self.log
        if log.synced < log.end:
            try:
                log.sync()
            except OSError:
                self._note_closed()
                raise

    def _end_volume(self) -> None:
        """The open volume is full."""
        self._sync_log()
        self._add_hints()
        self.log.end_segment()
        self._note_closed()

    def _note_closed(self) -> None:
        """Take note when a volume was closed, as one is that cannot be synced."""
        log = self.log
        if log.numbers and not log.is_open and log.numbers[-1] not in self.sizes:
            self.sizes[log.numbers[-1]] = log.room
            self._begin_hint()

    def _begin_hint(self) -> None:
        self._waiting, self._hinted, self._hint_size = [], HEADER_BYTES, 0

    def _add_hints(self) -> None:
        """Have the hint tell of what is synced."""
        if not self._waiting:
            return
        log, number = self.log, self.log.numbers[-1]
        waiting, self._waiting = self._waiting, []
        if self._hint_size < 0:
            return
        try:
            self._hint_size = self.hints.add(
                number, self._hint_size, log.seed, self._hinted, log.synced, waiting
            )
            self._hinted = log.synced
        except OSError as error:
            # The next start reads the volume from there.
            _log.info("{path} is not complete: {error}", path=self.hints.path(number), error=error)
            self._hint_size = -1

    def time_ms(self) -> int:
        """The time of now, for records."""
        return max(0, int(self._now() * 1000))

    # Finding and reading

    def find(self, content_hash: ContentHash, index: int) -> Place | None:
        """Where a shard is that is there."""
        return self.state.find(content_hash.digest, index)

    def places(self, content_hash: ContentHash) -> list[Place]:
        """Where the shards of a content are that are there."""
        return self.state.find_all(content_hash.digest)

    def indexes(self, content_hash: ContentHash) -> tuple[int, ...]:
        """Which shards of a content are there."""
        return self.state.live.indexes(content_hash.digest)

    def removed(self, content_hash: ContentHash) -> tuple[int, ...]:
        """Which shards of a content can be given back."""
        removed = self.state.removed
        return removed.indexes(content_hash.digest) if len(removed) else ()

    def read(self, place: Place) -> tuple[Footer, bytes]:
        """A shard; see packed.shard_of.

        :raises BadShard: it is damaged.
        :raises FileNotFoundError: its volume is gone.
        """
        return _shard(*self._stored(place))

    def _stored(self, place: Place) -> tuple[int, Place, bytes]:
        """The seed of a record's volume, its place and its bytes, of which nothing is verified."""
        file = self._opened.open(place.volume)
        data = self._files.pread(file.fd, HEAD_BYTES + place.length, place.offset)
        return file.seed, place, data

    def read_cached(self, place: Place) -> tuple[Footer, bytes] | None:
        """The same, on the reactor's thread.

        :returns: None when that would take a wait for the drive: read it on a thread.
        """
        file = self._opened.opened(place.volume)
        size = HEAD_BYTES + place.length
        if file is None or size > _CACHED_BYTES:
            return None
        data = self._files.pread_cached(file.fd, size, place.offset, self._buffer)
        return None if data is None else _shard(file.seed, place, data)

    def seed_of(self, number: int) -> int | None:
        """What tells the records of a volume from those of others; None: it is not there."""
        return self._opened.seeds.get(number)

    def read_now(self, place: Place, content: Content, block: memoryview) -> bool:
        """Read a shard of one plain block to a buffer, verified, on the reactor's thread.

        :param block: as long as the block.
        :returns: False when it is something else, or cannot be had without a wait: read it in
            another way, and see why.
        """
        file = self._opened.opened(place.volume)
        if file is None or place.length != len(block):
            return False
        head = self._head
        return self._files.read_parts_now(
            file.fd, ((place.offset, (head, block), HEAD_BYTES + place.length),)
        ) and is_packed_block(file.seed, place.offset, bytes(head), content, place.index, block)

    def read_record(self, place: Place) -> tuple[VolumeRecord, bytes]:
        """A shard's record and its body, verified.

        :raises BadShard: it is damaged.
        :raises FileNotFoundError: its volume is gone.
        """
        return _record(*self._stored(place))

    # Changing

    def remove(self, content_hash: ContentHash) -> None:
        """Remove all shards of a content; they can be given back."""
        digest = content_hash.digest
        with self.lock:
            places = self.state.find_all(digest)
            time_ms = self._tell(Kind.REMOVED, places)
            for place in places:
                self.state.remove(digest, place.index, time_ms)

    def restore(self, content_hash: ContentHash, index: int) -> None:
        """Give a shard back, durably; another thread may have done so already.

        :raises FileNotFoundError: it is not there, nor removed.
        """
        digest = content_hash.digest
        with self.lock:
            if self.state.find(digest, index) is not None:
                return
            place = self.state.find_removed(digest, index)
            if place is None:
                raise FileNotFoundError(f"there is no shard {index} of {content_hash}")
            entry = change(Kind.RESTORED, digest, index, place.volume)
            _, _, time_ms = self.append([entry], sync=self._sync)
            self.state.restore(digest, index, time_ms)

    def drop(self, place: Place) -> bool:
        """A shard is gone for good; False: it is elsewhere now, or not there any more."""
        with self.lock:
            now = self.state.find(place.digest, place.index)
            if now is None or not now.is_at(place.volume, place.offset):
                return False
            self._tell(Kind.DROPPED, [now])
            self.state.drop(place.digest, place.index)
            return True

    def drop_any(self, place: Place) -> bool:
        """The same of one that is there or removed."""
        with self.lock:
            now = self.state.find_removed(place.digest, place.index)
            if now is None or not now.is_at(place.volume, place.offset):
                return self.drop(place)
            self._tell(Kind.PURGED, [now])
            self.state.purge(place.digest, place.index)
            return True

    def lose(self, number: int) -> None:
        """A volume was found gone, and so are the shards in it."""
        with self.lock:
            if number not in self.log.numbers:
                return
            if number == self.log.numbers[-1]:
                self.log.close()
                self._note_closed()
            self.losses += self.state.lose(number)
            self.forget(number)
            self.log.numbers.remove(number)

    def forget(self, number: int) -> None:
        """A volume is not there any more; with the lock held."""
        self.state.forget(number)
        self.sizes.pop(number, None)
        self._opened.forget(number)

    def renew(self, content_hash: ContentHash) -> None:
        """Set the time of a content's shards to now."""
        digest = content_hash.digest
        with self.lock:
            places = self.state.find_all(digest)
            time_ms = self._tell(Kind.RENEWED, places)
            for place in places:
                self.state.renew(digest, place.index, time_ms)

    def modified(self, content_hash: ContentHash) -> list[float]:
        """When each shard of a content was written or renewed, in seconds since the epoch."""
        return [place.time_ms / 1000 for place in self.state.find_all(content_hash.digest)]

    def purge(self, before: float) -> int:
        """Shards that were removed before a time (seconds since the epoch) are gone for good."""
        old = [place for place in self.state.all_removed() if place.time_ms < before * 1000]
        purged = 0
        for at in range(0, len(old), _PURGED):
            with self.lock:
                # It may have been given back, or removed again.
                still = [p for p in old[at : at + _PURGED] if self._is_removed(p)]
                self._tell(Kind.PURGED, still)
                for place in still:
                    self.state.purge(place.digest, place.index)
                purged += len(still)
        return purged

    def _is_removed(self, place: Place) -> bool:
        now = self.state.find_removed(place.digest, place.index)
        return now is not None and now.time_ms == place.time_ms

    def _tell(self, kind: Kind, places: Sequence[Place]) -> int:
        """Write changes, not synced, with the lock held; their time.

        A full drive must let things be removed. As a power cut may undo such a change, so may the
        end of the process when there was no room for it.
        """
        if not places:
            return self.time_ms()
        entries = [change(kind, place.digest, place.index, place.volume) for place in places]
        try:
            _, _, time_ms = self.append(entries, sync=False)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return self.time_ms()
        return time_ms


def _record(seed: int, place: Place, data: bytes) -> tuple[VolumeRecord, bytes]:
    record, body = record_of(seed, place.offset, data)
    if (record.digest, record.index) != (place.digest, place.index):
        raise BadShard("The record is another shard's.")
    return record, body


def _shard(seed: int, place: Place, data: bytes) -> tuple[Footer, bytes]:
    return shard_of(*_record(seed, place, data))
