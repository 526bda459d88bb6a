"""What shards a node holds, in memory: made by a scan of file names, never written down."""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable, Sequence

from dostore.core.names import HASH_BYTES, ContentHash, ShardName

_ENTRY_BYTES = 1 + HASH_BYTES

#: The base64 of 32 bytes in its one spelling: the two bits that its last character has to spare
#: are 0.
_BASE64 = "([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)"

#: What ShardName.parse reads, among names that end with NUL, with their slashes unescaped: neither
#: is in the name of a file.
_FILE_NAME = re.compile(rf"(?<=\0){_BASE64}\.([0-9]{{1,3}})\.{_BASE64}(?=\0)")

#: How a shard's index is written, and the byte that it is.
_INDEXES = {str(index): bytes((index,)) for index in range(256)}


class ShardIndex:
    """Shard names by content hash and index.

    A million shards take 195 MB: an entry is one bytes object, the shard's index and hash,
    and contents are spread over 256 dicts by their first byte so that a page is listed without a
    sort of everything.

    :ivar pages: those dicts, to be looked into by others, no more.
    """

    def __init__(self) -> None:
        self.pages: list[dict[bytes, bytes]] = [{} for _ in range(256)]

    def __len__(self) -> int:
        """How many contents have a shard here."""
        return sum(len(page) for page in self.pages)

    def add(self, name: ShardName) -> ShardName | None:
        """Note a shard; the name that it had before, when that was another."""
        digest = name.content_hash.digest
        page = self.pages[digest[0]]
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

    def load(
        self, file_names: Sequence[str], known: Callable[[bytes], object] = lambda _: False
    ) -> list[ShardName]:
        """Note the shards that files are named after, in a fourth of the time of :meth:`add`.

        Names that are no shard's are passed over.

        :param known: whether a content, by its digest, has a shard elsewhere.
        :returns: those of contents that have a shard elsewhere, or here already; they are not
            noted.
        """
        pages, rest = self.pages, []
        text = "\0".join(["", *file_names, ""]).replace("%2F", "/")
        for content, index, shard in _FILE_NAME.findall(text):
            if (number := _INDEXES.get(index)) is None:
                continue
            digest = a2b_base64(content)
            page = pages[digest[0]]
            if digest in page or known(digest):
                rest.append(ShardName(ContentHash(digest), number[0], a2b_base64(shard)))
            else:
                page[digest] = number + a2b_base64(shard)
        return rest

    def remove(self, content_hash: ContentHash, index: int) -> None:
        """Forget a shard; it need not be there."""
        page = self.pages[content_hash.digest[0]]
        rest = self._without(page.get(content_hash.digest, b""), index)
        if rest:
            page[content_hash.digest] = rest
        else:
            page.pop(content_hash.digest, None)

    def get(self, content_hash: ContentHash, index: int) -> ShardName | None:
        """The name of a shard's file, or None."""
        entry = self.pages[content_hash.digest[0]].get(content_hash.digest, b"")
        for at in range(0, len(entry), _ENTRY_BYTES):
            if entry[at] == index:
                return ShardName(content_hash, index, entry[at + 1 : at + _ENTRY_BYTES])
        return None

    def indexes(self, content_hash: ContentHash) -> tuple[int, ...]:
        """Which shards of a content are here."""
        digest = content_hash.digest
        entry = self.pages[digest[0]].get(digest)
        return () if entry is None else tuple(entry[::_ENTRY_BYTES])

    def names(self, content_hash: ContentHash) -> Sequence[ShardName]:
        """Those of a content's shards that are here."""
        digest = content_hash.digest
        entry = self.pages[digest[0]].get(digest)
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
            for digest, entry in self.pages[number].items()
        }

    @staticmethod
    def _without(entry: bytes, index: int) -> bytes:
        return b"".join(
            entry[at : at + _ENTRY_BYTES]
            for at in range(0, len(entry), _ENTRY_BYTES)
            if entry[at] != index
        )
