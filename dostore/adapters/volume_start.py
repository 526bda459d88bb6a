"""What a start makes of a drive's volumes: which packed shards there are, and where.

``docs/volumes.rst`` tells the rules. Everything here blocks.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from attrs import frozen
from twisted.logger import Logger

from dostore.adapters.append_log import AppendLog, Segment
from dostore.adapters.files import Files
from dostore.adapters.pack_index import KEY_BYTES, PLACE
from dostore.adapters.volume_files import HINT_SUFFIX, HintFiles
from dostore.adapters.volume_state import VolumeState
from dostore.core.shardlog import Gap, Kind
from dostore.core.volumelog import (
    BODIES,
    CARRIED,
    FORMAT,
    HINT_BYTES,
    VOLUME,
    VolumeRecord,
    hint_of,
    parse_hints,
)
from dostore.errors import ConfigError

_log = Logger()

#: A hint's entry: the key, the kind, and what a place has after its volume: at the end of it the
#: time.
_APART = struct.Struct(f">{KEY_BYTES}sB{PLACE.size - 4}s")
_TIME_BYTES = 8


@frozen(slots=True)
class Told:
    """What is known of a volume.

    :ivar seed: of its checks; None: nobody knows it, so nothing in it can be read.
    :ivar size: bytes of its file.
    :ivar entries: of its records, as a hint has them.
    """

    seed: int | None
    size: int
    entries: bytes


def read_volume(log: AppendLog[VolumeRecord], hints: HintFiles, number: int) -> Told:
    """All records of a volume, by its hint as far as that tells; the hint is completed.

    :raises ConfigError: it is of a newer format.
    """
    segment = log.read(number)
    try:
        header = segment.header()
        if header is not None and header.format != FORMAT:
            raise ConfigError(
                f"{log.path(number)} has format {header.format}, and this dostore knows {FORMAT}."
                " It may have been made by a newer one: upgrade dostore."
            )
        told = hints.read(number, header.seed if header else None)
        seed = header.seed if header else told.seed
        if seed is None:
            # A crash while it was made, unless there is more of it.
            if segment.size > log.form.head_bytes:
                _tell_damage(log.path(number), 0, segment.size)
            return Told(None, segment.size, b"")
        if told.end > segment.size:
            # The volume was cut, so who knows what else happened to it.
            hints.remove(number)
            told = parse_hints(b"", None)
        new, end = _read_on(log.path(number), segment, seed, told.end)
        if new:
            # A process that was killed may not have come to it.
            segment.sync()
            _complete(hints, number, told.size, seed, told.end, end, new)
        return Told(seed, segment.size, b"".join([told.entries, *new]))
    finally:
        segment.close()


def _read_on(
    path: str, segment: Segment[VolumeRecord], seed: int, start: int
) -> tuple[list[bytes], int]:
    """The entries of the records from an offset on, and where the last of them ends."""
    new: list[bytes] = []
    gaps: list[Gap] = []
    end, synced = start, 0
    for found in segment.found_after(seed, start):
        if isinstance(found, Gap):
            gaps.append(found)
            continue
        synced = max(synced, found.synced)
        end = found.end
        if found.kind in BODIES and segment.body(found) is None:
            # What was written before of the same shard may be whole.
            gaps.append(Gap(found.offset, found.end))
            continue
        new.append(hint_of(found))
    for gap in gaps:
        # Else it was written when the power was cut, and nobody was told that it was.
        if gap.offset < synced:
            _tell_damage(path, gap.offset, gap.end)
    return new, end


def _tell_damage(path: str, offset: int, end: int) -> None:
    _log.error(
        "{path} is damaged from byte {offset} to {end}: the shards that were there are made again"
        " from the others",
        path=path,
        offset=offset,
        end=end,
    )


def _complete(
    hints: HintFiles, number: int, at: int, seed: int, begin: int, end: int, new: Sequence[bytes]
) -> None:
    try:
        hints.add(number, at, seed, begin, end, new)
    except OSError as error:
        # The next start reads the volume again.
        _log.info("{path} is not written: {error}", path=hints.path(number), error=error)


def read_all(
    log: AppendLog[VolumeRecord], hints: HintFiles, files: Files
) -> tuple[VolumeState, dict[int, Told]]:
    """What counts, and what is known of each volume but for the entries."""
    numbers = log.load()
    _remove_lonely_hints(log.folder, files, set(numbers))
    told: dict[int, Told] = {}
    parts: list[list[tuple[int, bytes]]] = [[] for _ in range(256)]
    for number in numbers:
        volume = read_volume(log, hints, number)
        told[number] = Told(volume.seed, volume.size, b"")
        for first, part in enumerate(_by_first_byte(volume.entries)):
            if part:
                parts[first].append((number, part))
    state = VolumeState()
    for first in range(256):
        # What is not needed any more is let go of on the way.
        part_of_all, parts[first] = parts[first], []
        _replay(state, part_of_all, told)
    return state, told


def _remove_lonely_hints(folder: str, files: Files, numbers: set[int]) -> None:
    """Remove the hints of volumes that are gone: a crash between the two."""
    for name in files.list(folder):
        number, dot, rest = name.partition(".")
        if number.isdecimal() and dot + rest == HINT_SUFFIX and int(number) not in numbers:
            files.unlink(os.path.join(folder, name))


def _by_first_byte(entries: bytes) -> list[bytes]:
    parts = [bytearray() for _ in range(256)]
    for at in range(0, len(entries), HINT_BYTES):
        parts[entries[at]] += entries[at : at + HINT_BYTES]
    return [bytes(part) for part in parts]


def _replay(
    state: VolumeState, parts: Sequence[tuple[int, bytes]], volumes: dict[int, Told]
) -> None:
    """Note what counts of some contents.

    :param parts: the entries about them, by volume.
    """
    live: dict[bytes, bytes] = {}
    removed: dict[bytes, bytes] = {}
    for number, entries in parts:
        volume = number.to_bytes(4, "big")
        for key, kind, rest in _APART.iter_unpack(entries):
            if kind in BODIES:
                live[key] = volume + rest
                if removed:
                    removed.pop(key, None)
                continue
            _change(live, removed, key, kind & ~CARRIED, rest[-_TIME_BYTES:])
            if kind & CARRIED:
                told_of = int.from_bytes(rest[4:8], "big")
                if told_of in volumes:
                    state.carried(told_of, number)
    held = state.held
    record_size = VOLUME.record_size
    for kept in (live, removed):
        for number, _, length, _ in PLACE.iter_unpack(b"".join(kept.values())):
            held[number] = held.get(number, 0) + record_size(length)
    state.live.fill(live.items())
    state.removed.fill(removed.items())


def _change(
    live: dict[bytes, bytes], removed: dict[bytes, bytes], key: bytes, kind: int, time: bytes
) -> None:
    """See ``docs/volumes.rst``, "What counts"."""
    if kind == Kind.REMOVED:
        if place := live.pop(key, None) or removed.get(key):
            removed[key] = place[:-_TIME_BYTES] + time
    elif kind == Kind.RESTORED or kind == Kind.RENEWED:
        place = live.get(key)
        if kind == Kind.RESTORED:
            place = place or removed.pop(key, None)
        if place:
            live[key] = place[:-_TIME_BYTES] + time
    else:
        removed.pop(key, None)
        if kind == Kind.DROPPED:
            live.pop(key, None)
