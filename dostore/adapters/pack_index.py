"""Where packed shards are, in memory: 53 bytes a shard and little more."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator

from dostore.core.names import HASH_BYTES

#: Pages by the first bits of the hash, so that a change copies a small part of the index: 31
#: entries, when there are a million.
_PAGES = 32768
_PAGES_A_BYTE = _PAGES // 256

#: What is kept of a shard: volume, offset in units of 8 bytes, length of the body, time in
#: milliseconds.
PLACE = struct.Struct(">IIIQ")

#: A content's hash and a shard's index.
KEY_BYTES = HASH_BYTES + 1

_ENTRY_BYTES = KEY_BYTES + PLACE.size


class PackIndex:
    """Shards by content hash and index.

    A page is one bytes object, an entry after the other in no order, and is replaced as a whole.
    So one thread at a time may change the index, and any number may read it meanwhile.

    :ivar pages: those, to be looked into by others, no more.
    """

    def __init__(self) -> None:
        self.pages = [b""] * _PAGES
        self._contents = 0

    def __len__(self) -> int:
        """How many contents have a shard here."""
        return self._contents

    def get(self, digest: bytes, index: int) -> bytes | None:
        """Where a shard is, as PLACE has it; None: not here."""
        page = self.pages[digest[0] << 7 | digest[1] >> 1]
        at = _find(page, digest + bytes((index,)))
        return None if at < 0 else page[at + KEY_BYTES : at + _ENTRY_BYTES]

    def indexes(self, digest: bytes) -> tuple[int, ...]:
        """Which shards of a content are here."""
        page = self.pages[digest[0] << 7 | digest[1] >> 1]
        at = page.find(digest)
        if at < 0:
            return ()
        found = []
        while at >= 0:
            if at % _ENTRY_BYTES == 0:
                found.append(page[at + HASH_BYTES])
            at = page.find(digest, at + 1)
        return tuple(found)

    def set(self, digest: bytes, index: int, place: bytes) -> bytes | None:
        """Note where a shard is; where it was before, if it was here."""
        number = digest[0] << 7 | digest[1] >> 1
        page = self.pages[number]
        key = digest + bytes((index,))
        if digest not in page or _find(page, digest) < 0:
            self._contents += 1
        elif (at := _find(page, key)) >= 0:
            end = at + _ENTRY_BYTES
            self.pages[number] = page[: at + KEY_BYTES] + place + page[end:]
            return page[at + KEY_BYTES : end]
        self.pages[number] = page + key + place
        return None

    def pop(self, digest: bytes, index: int) -> bytes | None:
        """Forget a shard; where it was, if it was here."""
        number = digest[0] << 7 | digest[1] >> 1
        page = self.pages[number]
        at = _find(page, digest + bytes((index,)))
        if at < 0:
            return None
        end = at + _ENTRY_BYTES
        left = self.pages[number] = page[:at] + page[end:]
        self._contents -= _find(left, digest) < 0
        return page[at + KEY_BYTES : end]

    def page(self, number: int) -> dict[bytes, tuple[int, ...]]:
        """The shards of contents whose hash begins with the byte ``number``."""
        held: dict[bytes, tuple[int, ...]] = {}
        for page in self.pages[number * _PAGES_A_BYTE : (number + 1) * _PAGES_A_BYTE]:
            for at in range(0, len(page), _ENTRY_BYTES):
                digest, index = page[at : at + HASH_BYTES], page[at + HASH_BYTES]
                held[digest] = (*held[digest], index) if digest in held else (index,)
        return held

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """The keys and places of all shards; what changes meanwhile may come or not."""
        for page in self.pages:
            for at in range(0, len(page), _ENTRY_BYTES):
                middle = at + KEY_BYTES
                yield page[at:middle], page[middle : at + _ENTRY_BYTES]

    def fill(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Note many shards, by key, none of which is here yet, nor another of their contents."""
        pages = defaultdict(list)
        for key, place in entries:
            pages[key[0] << 7 | key[1] >> 1].append(key + place)
        for number, new in pages.items():
            self.pages[number] += b"".join(new)
            self._contents += len({entry[:HASH_BYTES] for entry in new})


def _find(page: bytes, key: bytes) -> int:
    """Where an entry is that begins so; -1: nowhere."""
    at = page.find(key)
    # By chance, or by somebody's will, it may be in the middle of others.
    while at >= 0 and at % _ENTRY_BYTES:
        at = page.find(key, at + 1)
    return at
