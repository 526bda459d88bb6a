"""What shards a drive has, and which of two counts that a crash has left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dostore.adapters.shard_index import ShardIndex
from dostore.core.names import ShardName
from dostore.core.shardfile import Footer
from dostore.errors import BadShard

if TYPE_CHECKING:
    from dostore.adapters.drive_store import DriveStore


class DriveScan:
    """Goes through the folders of a drive, once. Blocks."""

    def __init__(self, store: DriveStore) -> None:
        self._store = store

    def run(self) -> tuple[ShardIndex, ShardIndex]:
        """The shards in ``objects/``, and those in ``garbage/`` that can be given back.

        What a crash left of the files of small shards is put right before.
        """
        store = self._store
        store.journal.load()
        store.volumes.load()
        index, removed = ShardIndex(), ShardIndex()
        for name in self._noted(index):
            if self._is_packed_too(name):
                store.unlink_object(name)
                continue
            twin = index.add(name)
            if twin is not None:
                # Two files for one shard: a crash between a rename and the removal of what it
                # replaced, which may be of another scheme. A third party's is found out when it is
                # read.
                older, newer = sorted((twin, name), key=self._written_s)
                kept, other = (newer, older) if self._footer_of(newer) else (older, newer)
                index.add(kept)
                store.files.unlink(os.path.join(store.objects, str(other)))
        for names in store.files.names(store.garbage):
            for name in removed.load(names):
                removed.add(name)
        return index, removed

    def _noted(self, index: ShardIndex) -> list[ShardName]:
        """Note the shards in ``objects/``; what is to be looked at one by one."""
        store, rest = self._store, []
        packed = store.volumes.state.live
        known = [packed.indexes] if len(packed) else []
        for names in store.files.names(store.objects):
            rest += index.load(names, *known)
        return rest

    def _is_packed_too(self, name: ShardName) -> bool:
        """Whether a shard is in a volume as well: a crash between the two. If so, it is whole.

        The file may be the newer one, of another scheme; then it is not in the volume any more.
        """
        place = self._store.volumes.find(name.content_hash, name.index)
        if place is None:
            return False
        try:
            footer, _ = self._store.volumes.read(place)
        except (BadShard, FileNotFoundError):
            self._store.volumes.drop(place)
            return False
        if place.time_ms >= self._written_s(name) * 1000 or not self._is_otherwise(name, footer):
            return True
        self._store.volumes.drop(place)
        return False

    def _is_otherwise(self, name: ShardName, footer: Footer) -> bool:
        """Whether a file is a shard by another scheme than that with a footer."""
        found = self._footer_of(name)
        return found is not None and found.info != footer.info

    def _footer_of(self, name: ShardName) -> Footer | None:
        """The footer of a file; None: it is damaged. Blocks that are in memory are read as well."""
        try:
            shard = self._store.open(name)
        except BadShard:
            return None
        try:
            content = shard.footer.info.content
            blocks = content.scheme.stripe_count(content.size)
            if shard.is_quick(0, blocks):
                shard.read(0, blocks)
        except BadShard:
            return None
        finally:
            shard.close()
        return shard.footer

    def _written_s(self, name: ShardName) -> float:
        return self._store.files.modified(os.path.join(self._store.objects, str(name)))
