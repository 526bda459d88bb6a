"""Shards that another process knows the places of, read from this machine's memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from dostore.adapters.drives import AT_ONCE_BYTES
from dostore.adapters.files import Files
from dostore.adapters.kept_files import KeptFiles
from dostore.adapters.kept_shards import KeptShards
from dostore.core.model import Content
from dostore.core.names import ShardName
from dostore.core.packed import is_packed_block
from dostore.core.shard_places import InFile, InVolume, ShardPlace
from dostore.core.volumelog import HEAD_BYTES
from dostore.core.window import Part, Window


@frozen(slots=True)
class KnownShard:
    """One shard.

    :ivar path: of its file, or of its volume.
    :ivar record: where it is in its volume; None: it has a file of its own.
    """

    path: str
    record: InVolume | None


class KnownShards:
    """Reads what is in the system's memory, verifies it, and never writes anything.

    :param folders: of the drives.
    :param kept_files: how many files are kept open.
    """

    def __init__(self, folders: Sequence[str], files: Files, kept_files: int) -> None:
        self._objects = [os.path.join(folder, "objects") for folder in folders]
        self._volumes = [os.path.join(folder, "volumes") for folder in folders]
        self._files = files
        self._kept = KeptFiles(files, kept_files)
        self._shards = KeptShards(files, self._kept)
        self._head = bytearray(HEAD_BYTES)

    def resolve(self, content: Content, places: Iterable[ShardPlace]) -> Mapping[int, KnownShard]:
        """The shards of a content by their indexes.

        :raises ValueError: there is no such drive.
        """
        shards: dict[int, KnownShard] = {}
        for place in places:
            if place.drive >= len(self._objects):
                raise ValueError(f"there is no drive {place.drive}")
            if isinstance(place, InFile):
                name = ShardName(content.hash, place.index, place.shard_hash)
                path = f"{self._objects[place.drive]}/{name}"
                shards[place.index] = KnownShard(path, None)
            else:
                path = f"{self._volumes[place.drive]}/{place.volume}"
                shards[place.index] = KnownShard(path, place)
        return shards

    def read_now(
        self, content: Content, shards: Mapping[int, KnownShard], start: int, stop: int
    ) -> memoryview | None:
        """See ICluster.read_now."""
        window = Window.around(content, start, stop)
        if window is None or window.size > AT_ONCE_BYTES:
            return None
        buffer = memoryview(bytearray(window.size))
        for index in window.shards:
            shard = shards.get(index)
            if shard is None or not self._read(shard, index, window, buffer):
                return None
        return buffer[window.before : window.before + stop - start]

    def _read(self, shard: KnownShard, index: int, window: Window, buffer: memoryview) -> bool:
        places = window.places(buffer, index)
        if shard.record is not None:
            return window.stripes == 1 and self._read_packed(
                shard.path, shard.record, window.content, places[0]
            )
        done = self._shards.read(index, window, places)
        return self._shards.open(shard.path, index, window, places) if done is None else done

    def _read_packed(
        self, path: str, record: InVolume, content: Content, block: memoryview
    ) -> bool:
        if record.length != len(block):
            return False
        view = memoryview(self._head)
        parts = ((record.offset, (view, block), HEAD_BYTES + record.length),)
        return self._read_parts(path, parts) and is_packed_block(
            record.seed, record.offset, bytes(view), content, record.index, block
        )

    def _read_parts(self, path: str, parts: Sequence[Part]) -> bool:
        done = self._kept.read(path, parts)
        return self._kept.open(path, path, parts) if done is None else done

    def let_go(self) -> None:
        """Keep no file open."""
        for descriptor in self._kept.take_all():
            self._files.close(descriptor)
