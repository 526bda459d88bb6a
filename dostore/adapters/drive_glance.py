"""A look at the files of shards: those that are as they were left are taken to be right."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dostore.adapters.open_shard import OpenShard
from dostore.core.model import Content
from dostore.core.names import ShardName
from dostore.errors import BadShard

if TYPE_CHECKING:
    from dostore.adapters.drive_store import DriveStore

#: A shard up to this size is read in full by a glance, when its file is not as it was left.
GLANCED_BYTES = 64 << 20

#: So many bytes of it at a time.
_GLANCE_STEP_BYTES = 1 << 20

#: So many shards are remembered that were found right.
_KNOWN = 10_000


class Glances:
    """Those of one drive. Any thread may call."""

    def __init__(self, store: DriveStore) -> None:
        self._store = store
        self._known: dict[ShardName, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def faulty(
        self, named: Sequence[tuple[ShardName | None, Content, int]]
    ) -> list[tuple[ShardName | None, Content, int]]:
        """Those of the shards that are not there or not whole; what is not is put out of the way.

        A file that is as it was when it was written here, or found right before, is taken to be
        right: what decays on the drive without a write is for whoever reads every shard.
        """
        return [each for each in named if each[0] is None or not self._is_whole(each[0], each[1])]

    def _is_whole(self, name: ShardName, content: Content) -> bool:
        path = os.path.join(self._store.objects, str(name))
        shard: OpenShard | None = None
        try:
            signature = self._store.files.signature(path)
            if self._known.get(name) == signature:
                return True
            shard = self._store.open(name)
            size = content.scheme.shard_size(content.size)
            if shard.footer.info.content == content and size <= GLANCED_BYTES:
                blocks = content.scheme.stripe_count(content.size)
                step = max(1, _GLANCE_STEP_BYTES // content.scheme.block_size)
                for first in range(0, blocks, step):
                    shard.read(first, min(step, blocks - first))
            self.know(name, signature)
        except FileNotFoundError:
            return False
        except BadShard:
            self._store.remove(name, bad=True, opened=shard)
            return False
        finally:
            if shard is not None:
                shard.close()
        return True

    def know(self, name: ShardName, signature: tuple[int, int, int]) -> None:
        """A file is right, as far as one with this signature is the one that was seen."""
        with self._lock:
            self._known.pop(name, None)
            self._known[name] = signature
            if len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
