"""The shards that were read last, kept open: what their files tell of them is read once."""

from __future__ import annotations

from collections.abc import Sequence

from dostore.adapters.files import Files
from dostore.adapters.kept_files import KeptFiles
from dostore.core.names import ContentHash
from dostore.core.shardfile import ENTRY_BYTES
from dostore.core.window import Window

#: No more is remembered of a shard than what its file tells of so many blocks.
_MAX_ENTRIES_BYTES = 32 * ENTRY_BYTES


class KeptShards:
    """Shards with files of their own. Used in the reactor's thread only.

    What a file tells of the blocks was verified when it was opened; the blocks are compared with it
    whenever they are read.

    :param kept: where the files are kept.
    """

    def __init__(self, files: Files, kept: KeptFiles) -> None:
        self._files = files
        self._kept = kept

    def read(self, index: int, window: Window, places: Sequence[memoryview]) -> bool | None:
        """Read blocks of a shard that is kept to their places, verified.

        :returns: None when it is not kept, or not any more: then :meth:`open`. False when they
            would have to be waited for, or are damaged.
        """
        found = self._kept.find((window.content.hash.digest, index))
        if found is None:
            return None
        fd, entries = found
        if entries is not None:
            part = (window.offset, places, window.shard_bytes)
            return self._files.read_parts_now(fd, (part,)) and window.are_told(places, entries)
        told = memoryview(bytearray(window.told_bytes))
        return self._files.read_parts_now(fd, window.parts(places, told)) and window.is_sound(
            index, places, told
        )

    def open(
        self,
        path: str,
        index: int,
        window: Window,
        places: Sequence[memoryview],
        *,
        keep: bool = True,
    ) -> bool:
        """Open the file of a shard and read blocks of it to their places, verified.

        :param keep: keep it when all was right; it is not kept already.
        """
        key = (window.content.hash.digest, index)
        told = memoryview(bytearray(window.told_bytes))
        if not self._kept.open(key, path, window.parts(places, told), keep=keep):
            return False
        if not window.is_sound(index, places, told):
            if keep:
                self._kept.drop(key)
            return False
        entries = window.entries(told) if keep else None
        if entries is not None and len(entries) <= _MAX_ENTRIES_BYTES:
            self._kept.note(key, entries)
        return True

    def drop(self, content_hash: ContentHash, index: int) -> None:
        """Close a shard's file, if it is kept."""
        self._kept.drop((content_hash.digest, index))
