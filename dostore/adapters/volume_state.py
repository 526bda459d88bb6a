"""What counts of a drive's packed shards: where they are, and what of each volume is garbage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from dostore.adapters.pack_index import PLACE, PackIndex
from dostore.core.volumelog import HEAD_BYTES, UNIT, VOLUME


@frozen(slots=True)
class Place:
    """Where a packed shard is.

    :ivar digest: the content's hash.
    :ivar length: bytes of the record's body.
    :ivar time_ms: when it was written or renewed; or removed.
    """

    digest: bytes
    index: int
    volume: int
    offset: int
    length: int
    time_ms: int

    def is_at(self, volume: int, offset: int) -> bool:
        """Whether it is that record."""
        return (self.volume, self.offset) == (volume, offset)


def place_of(digest: bytes, index: int, kept: bytes | None) -> Place | None:
    """What an index keeps, as a Place."""
    if kept is None:
        return None
    volume, units, length, time_ms = PLACE.unpack(kept)
    return Place(digest, index, volume, units * UNIT, length, time_ms)


class VolumeState:
    """See ``docs/volumes.rst``, "What counts". One thread at a time may change it.

    :ivar live: shards that are there.
    :ivar removed: those that can be given back; their time is that of the removal.
    :ivar held: bytes of the records of both, by volume.
    """

    def __init__(self) -> None:
        self.live = PackIndex()
        self.removed = PackIndex()
        self.held: dict[int, int] = {}
        # Bytes of carried changes: by the volume of which they tell, by that in which they are; and
        # by that alone.
        self._telling: dict[int, dict[int, int]] = {}
        self._carried: dict[int, int] = {}

    def find(self, digest: bytes, index: int) -> Place | None:
        """Where a shard is that is there. Any thread may ask."""
        return place_of(digest, index, self.live.get(digest, index))

    def find_removed(self, digest: bytes, index: int) -> Place | None:
        """Where one is that is removed. Any thread may ask."""
        return place_of(digest, index, self.removed.get(digest, index))

    def find_all(self, digest: bytes) -> list[Place]:
        """Where the shards of a content are that are there. Any thread may ask."""
        places = [self.find(digest, index) for index in self.live.indexes(digest)]
        return [place for place in places if place is not None]

    def all_removed(self) -> Iterator[Place]:
        """Those that are removed. Any thread may ask."""
        for key, kept in self.removed:
            if place := place_of(key[:-1], key[-1], kept):
                yield place

    # Changes

    def put(
        self, digest: bytes, index: int, volume: int, offset: int, length: int, time_ms: int
    ) -> None:
        """A shard was written."""
        self.put_all(volume, time_ms, [(digest, index, offset, length)])

    def put_all(
        self, volume: int, time_ms: int, shards: Sequence[tuple[bytes, int, int, int]]
    ) -> None:
        """Shards were written.

        :param shards: of each the content's hash, its index, where its record begins, and bytes of
            the body.
        """
        held = self.held.get(volume, 0)
        put, record_size = self.live.set, VOLUME.record_size
        replaced: list[bytes] = []
        for digest, index, offset, length in shards:
            held += record_size(length)
            before = put(digest, index, PLACE.pack(volume, offset // UNIT, length, time_ms))
            if before is not None:
                replaced.append(before)
        self.held[volume] = held
        for before in replaced:
            self._let_go(before)
        if len(self.removed):
            for digest, index, _, _ in shards:
                self._let_go(self.removed.pop(digest, index))

    def remove(self, digest: bytes, index: int, time_ms: int) -> None:
        """One that is there is removed."""
        self._shift(self.live, self.removed, digest, index, time_ms)

    def restore(self, digest: bytes, index: int, time_ms: int) -> None:
        """One that is removed is there again."""
        self._shift(self.removed, self.live, digest, index, time_ms)

    def drop(self, digest: bytes, index: int) -> None:
        """One that is there is gone for good."""
        self._let_go(self.live.pop(digest, index))

    def purge(self, digest: bytes, index: int) -> None:
        """One that is removed is gone for good."""
        self._let_go(self.removed.pop(digest, index))

    def renew(self, digest: bytes, index: int, time_ms: int) -> None:
        """One that is there counts as written now."""
        self._shift(self.live, self.live, digest, index, time_ms)

    def move(self, old: Place, volume: int, offset: int) -> bool:
        """The record of a shard is in another place as well, and the new one counts; False: it is
        not that any more which was at the old one.
        """
        for index in (self.live, self.removed):
            place = place_of(old.digest, old.index, index.get(old.digest, old.index))
            if place is not None and place.is_at(old.volume, old.offset):
                kept = PLACE.pack(volume, offset // UNIT, place.length, place.time_ms)
                self.held[volume] = self.held.get(volume, 0) + VOLUME.record_size(place.length)
                self._let_go(index.set(old.digest, old.index, kept))
                return True
        return False

    def _shift(
        self, source: PackIndex, target: PackIndex, digest: bytes, index: int, time_ms: int
    ) -> None:
        kept = source.pop(digest, index) if source is not target else source.get(digest, index)
        if kept is not None:
            volume, units, length, _ = PLACE.unpack(kept)
            before = target.set(digest, index, PLACE.pack(volume, units, length, time_ms))
            if source is not target:
                self._let_go(before)

    def _let_go(self, kept: bytes | None) -> None:
        if kept is not None:
            volume, _, length, _ = PLACE.unpack(kept)
            self.held[volume] -= VOLUME.record_size(length)

    # Garbage

    def carried(self, told_of: int, volume: int) -> None:
        """A carried change is in ``volume`` that tells of a shard in another one."""
        telling = self._telling.setdefault(told_of, {})
        telling[volume] = telling.get(volume, 0) + HEAD_BYTES
        self._carried[volume] = self._carried.get(volume, 0) + HEAD_BYTES

    def needed(self, volume: int) -> int:
        """Bytes of a volume that are no garbage."""
        return self.held.get(volume, 0) + self._carried.get(volume, 0)

    def places_in(self, volume: int) -> list[Place]:
        """Where shards are, there or removed, in a volume. It goes through all that there are."""
        first = volume.to_bytes(4, "big")
        found = [
            place_of(key[:-1], key[-1], kept)
            for index in (self.live, self.removed)
            for key, kept in index
            if kept.startswith(first)
        ]
        return [place for place in found if place is not None]

    def lose(self, volume: int) -> int:
        """Shards in a volume are not there any more; how many."""
        places = self.places_in(volume)
        for place in places:
            self.drop(place.digest, place.index)
            self.purge(place.digest, place.index)
        return len(places)

    def forget(self, volume: int) -> None:
        """A volume is gone."""
        self.held.pop(volume, None)
        self._carried.pop(volume, None)
        for inside, count in self._telling.pop(volume, {}).items():
            if inside in self._carried:
                self._carried[inside] -= count
