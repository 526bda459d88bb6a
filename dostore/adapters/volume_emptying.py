"""Volumes that are mostly garbage are emptied: what counts of them is copied, and they are removed.

``docs/volumes.rst`` tells the rules. What is here blocks, but for a short time; whoever calls
pauses between two steps.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from attrs import define
from twisted.logger import Logger

from dostore.adapters.pack_index import KEY_BYTES
from dostore.adapters.volume_start import read_volume
from dostore.adapters.volume_state import Place
from dostore.adapters.volumes import VOLUME_BYTES, Volumes
from dostore.core.shardlog import Kind
from dostore.core.volumelog import (
    BODIES,
    CARRIED,
    HEAD_BYTES,
    HINT,
    UNIT,
    Entry,
    VolumeRecord,
    change,
)
from dostore.errors import BadShard

_log = Logger()

#: A volume of which more than this part is garbage is emptied.
GARBAGE_SHARE = 0.5

#: A closed volume of less than this is a small one, and of more such than this one is emptied.
SMALL_BYTES = VOLUME_BYTES // 8
SMALL_VOLUMES = 8

#: So much is copied with one append and one sync.
_STEP_BYTES = 256 * 1024
_STEP_RECORDS = 128


def next_to_empty(volumes: Volumes, *, full: bool = False) -> int | None:
    """The volume that most should be emptied; None: none has to be.

    :param full: only one for which that takes no room.
    """
    state = volumes.state
    best, most = None, GARBAGE_SHARE
    small: list[tuple[int, int]] = []
    # A copy, for the drive's threads may close one at the same time.
    for number, size in list(volumes.sizes.items()):
        needed = state.needed(number)
        share = 1 - needed / size if size else 1.0
        if share > most and (not full or not needed):
            best, most = number, share
        if size < SMALL_BYTES:
            small.append((needed, number))
    if best is None and not full and len(small) > SMALL_VOLUMES:
        best = min(small)[1]
    return best


@define
class _Change:
    """The last that a volume says by a change of a shard.

    :ivar told_of: the number of the volume with the shard's record.
    """

    told_of: int
    time_ms: int


class Emptying:
    """One volume on its way out."""

    def __init__(self, volumes: Volumes, number: int) -> None:
        self.number = number
        self._volumes = volumes
        self._life = volumes.life
        self._steps = self._run()

    def step(self) -> bool:
        """Do some of it; whether there is more to do.

        :raises OSError: it cannot be done now; what counts is where it was.
        """
        # When the volumes were loaded anew, others decide what is to be done.
        return not self._is_over() and next(self._steps, None) is not None

    def _run(self) -> Iterator[bool]:
        volumes, number = self._volumes, self.number
        try:
            told = read_volume(volumes.log, volumes.hints, number)
        except FileNotFoundError:
            volumes.lose(number)
            return
        changes: dict[bytes, _Change] = {}
        batch: list[Place] = []
        size = 0
        for digest, index, kind, units, length, time_ms in HINT.iter_unpack(told.entries):
            if kind & ~CARRIED not in BODIES:
                changes[digest + bytes((index,))] = _Change(length, time_ms)
                continue
            place = self._counting(digest, index)
            if place is None or not place.is_at(number, units * UNIT):
                continue
            batch.append(place)
            size += HEAD_BYTES + length
            if size >= _STEP_BYTES or len(batch) >= _STEP_RECORDS:
                yield from self._copy(batch)
                batch, size = [], 0
        yield from self._copy(batch)
        if volumes.state.held.get(number):
            # The hint did not tell of all: it cannot be trusted, nor what was found without it.
            left = volumes.state.places_in(number)
            for at in range(0, len(left), _STEP_RECORDS):
                yield from self._copy(left[at : at + _STEP_RECORDS])
        keys = list(changes)
        for at in range(0, len(keys), _STEP_RECORDS):
            yield from self._carry(keys[at : at + _STEP_RECORDS], changes)
        self._remove()

    def _counting(self, digest: bytes, index: int) -> Place | None:
        """Where a shard is, there or removed."""
        state = self._volumes.state
        return state.find(digest, index) or state.find_removed(digest, index)

    def _is_over(self) -> bool:
        """Whether the volumes were loaded anew."""
        return self._volumes.life != self._life

    # Copying

    def _copy(self, places: Sequence[Place]) -> Iterator[bool]:
        """Copy the records of shards, as far as they are still there."""
        volumes = self._volumes
        found: list[tuple[Place, VolumeRecord, bytes]] = []
        for place in places:
            if (whole := self._read(place)) is not None:
                found.append((place, *whole))
        with volumes.lock:
            if self._is_over():
                return
            entries: list[Entry] = []
            copied: list[tuple[Place, int]] = []
            target = volumes.next_number()
            state = volumes.state
            for place, record, body in found:
                there = state.find(place.digest, place.index)
                now = there or state.find_removed(place.digest, place.index)
                if now is None or not now.is_at(place.volume, place.offset):
                    continue
                copied.append((now, len(entries)))
                entries.append(record.again(body, now.time_ms))
                if there is None:
                    entries.append(_carried(Kind.REMOVED, now, target))
            if not entries:
                return
            number, offsets, _ = volumes.append(entries, sync=True)
            for now, at in copied:
                state.move(now, number, offsets[at])
            for entry in entries:
                if entry.carried:
                    state.carried(number, number)
        yield True

    def _read(self, place: Place) -> tuple[VolumeRecord, bytes] | None:
        """A shard's record and body; None: it is damaged, and dropped."""
        try:
            return self._volumes.read_record(place)
        except BadShard as error:
            reason = error.detail
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            reason = f"{error.strerror}."
        if self._volumes.drop_any(place):
            self._volumes.losses += 1
            _log.error(
                "{path} is damaged at byte {offset}: {reason} The shard is made again from the"
                " others",
                path=self._volumes.log.path(place.volume),
                offset=place.offset,
                reason=reason,
            )
        return None

    # Changes

    def _carry(self, keys: Sequence[bytes], changes: dict[bytes, _Change]) -> Iterator[bool]:
        """Write again what changes in the volume tell of shards in older ones."""
        volumes = self._volumes
        with volumes.lock:
            if self._is_over():
                return
            entries = [
                entry
                for key in keys
                if (entry := self._still_told(key[: KEY_BYTES - 1], key[-1], changes[key]))
            ]
            if not entries:
                return
            number, _, _ = volumes.append(entries, sync=True)
            for entry in entries:
                volumes.state.carried(entry.size, number)
        yield True

    def _still_told(self, digest: bytes, index: int, last: _Change) -> Entry | None:
        state = self._volumes.state
        if place := state.find(digest, index):
            return _carried(Kind.RESTORED, place) if place.volume < self.number else None
        if place := state.find_removed(digest, index):
            return _carried(Kind.REMOVED, place) if place.volume < self.number else None
        if last.told_of != self.number and last.told_of in self._volumes.log.numbers:
            return change(Kind.DROPPED, digest, index, last.told_of, last.time_ms, carried=True)
        return None

    # The end

    def _remove(self) -> None:
        volumes = self._volumes
        with volumes.lock:
            if self._is_over() or volumes.state.held.get(self.number):
                return
            volumes.hints.remove(self.number)
            try:
                volumes.log.drop([self.number])
            except FileNotFoundError:
                volumes.log.numbers.remove(self.number)
            volumes.forget(self.number)


def _carried(kind: Kind, place: Place, volume: int | None = None) -> Entry:
    """A change that says once more what counts."""
    told_of = place.volume if volume is None else volume
    return change(kind, place.digest, place.index, told_of, place.time_ms, carried=True)
