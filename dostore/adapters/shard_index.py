"""What shards a node holds, in memory: made by a scan of file names, never written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dostore.core.names import HASH_BYTES, ContentHash, ShardName

_ENTRY_BYTES = 1 + HASH_BYTES


class ShardIndex:
    """Shard names by content hash and index.

    A million shards take 195 MB: an entry is one bytes object, the shard's index and hash,
    and contents are spread over 256 dicts by their first byte so that a page is listed without a
    sort of everything.
    """

    def __init__(self) -> None:
        self._pages: list[dict[bytes, bytes]] = [{} for _ in range(256)]

    def __len__(self) -> int:
        """How many contents have a shard here."""
        return sum(len(page) for page in self._pages)

    def add(self, name: ShardName) -> ShardName | None:
        """Note a shard; the name that it had before, when that was another."""
        digest = name.content_hash.digest
        page = self._pages[digest[0]]
        mine = b"%c%b" % (name.index, name.shard_hash)
        entry = page.get(digest)
        if entry is None:
            page[digest] = mine
            return None
        previous = self.get(name.content_hash, name.index)
        if previous == name:
            return None
        page[digest] = self._without(entry, name.index) + mine
        return previous

    def remove(self, content_hash: ContentHash, index: int) -> None:
        """Forget a shard; it need not be there."""
        page = self._pages[content_hash.digest[0]]
        rest = self._without(page.get(content_hash.digest, b""), index)
        if rest:
            page[content_hash.digest] = rest
        else:
            page.pop(content_hash.digest, None)

    def get(self, content_hash: ContentHash, index: int) -> ShardName | None:
        """The name of a shard's file, or None."""
        entry = self._pages[content_hash.digest[0]].get(content_hash.digest, b"")
        for at in range(0, len(entry), _ENTRY_BYTES):
            if entry[at] == index:
                return ShardName(content_hash, index, entry[at + 1 : at + _ENTRY_BYTES])
        return None

    def indexes(self, content_hash: ContentHash) -> tuple[int, ...]:
        """Which shards of a content are here."""
        digest = content_hash.digest
        entry = self._pages[digest[0]].get(digest)
        return () if entry is None else tuple(entry[::_ENTRY_BYTES])

    def names(self, content_hash: ContentHash) -> Sequence[ShardName]:
        """Those of a content's shards that are here."""
        digest = content_hash.digest
        entry = self._pages[digest[0]].get(digest)
        if entry is None:
            return ()
        if len(entry) == _ENTRY_BYTES:
            return (ShardName(content_hash, entry[0], entry[1:]),)
        return [
            ShardName(content_hash, entry[at], entry[at + 1 : at + _ENTRY_BYTES])
            for at in range(0, len(entry), _ENTRY_BYTES)
        ]

    def page(self, number: int) -> dict[ContentHash, tuple[int, ...]]:
        """The shards of contents whose hash begins with the byte ``number``."""
        return {
            ContentHash(digest): tuple(entry[::_ENTRY_BYTES])
            for digest, entry in self._pages[number].items()
        }

    @staticmethod
    def _without(entry: bytes, index: int) -> bytes:
        return b"".join(
            entry[at : at + _ENTRY_BYTES]
            for at in range(0, len(entry), _ENTRY_BYTES)
            if entry[at] != index
        )


def names_in(file_names: Iterable[str]) -> Iterator[ShardName]:
    """The shard names among file names; others are passed over."""
    for file_name in file_names:
        name = ShardName.parse(file_name)
        if name is not None:
            yield name
