"""Shard files on one drive: the blocking half, run on the drive's worker threads.

The drive's folder holds ``objects/`` (committed shards), ``temp/`` (shards that are being written),
``garbage/`` (what was removed), ``log/`` (the journal of small shards), ``volumes/`` (packed
shards) and ``meta/`` (a copy of the metadata log). Errors are the system's own OSError, or BadShard
and NewerFormat from a file's content.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath

from dostore.adapters.drive_glance import Glances
from dostore.adapters.drive_scan import DriveScan
from dostore.adapters.files import Files
from dostore.adapters.journal import Journal
from dostore.adapters.kept_files import KeptFiles
from dostore.adapters.kept_shards import KeptShards
from dostore.adapters.large_files import LargeWrites
from dostore.adapters.open_shard import OpenShard, footer_of
from dostore.adapters.shard_index import ShardIndex
from dostore.adapters.temp_shard import TempShard
from dostore.adapters.volumes import Volumes
from dostore.core.model import Content
from dostore.core.names import ShardName
from dostore.core.packed import entry_of_blocks, entry_of_file
from dostore.core.scheme import Scheme
from dostore.core.shardfile import (
    TRAILER_BYTES,
    ShardFileBuilder,
    footer_size,
    plain_shard,
)
from dostore.core.shardlog import Kind
from dostore.core.volumelog import Entry
from dostore.core.window import Window
from dostore.errors import BadShard

#: A file up to this size is read whole when it is opened: one read where three would be needed.
WHOLE_FILE_BYTES = 320 * 1024

#: Else this much of its end, which holds the footer of any shard but one of terabytes.
_TAIL_BYTES = 24 * 1024

#: A shard up to this size that comes whole is durable in the journal before it is in its file.
JOURNALED_BYTES = 128 * 1024

#: Suffix in garbage/ of what was found damaged: it is kept for a look, never given back.
_BAD = ".bad"

#: Suffix in temp/ of what tells about a shard that is written over several requests.
ABOUT = ".json"

Block = bytes | memoryview


class DriveStore:
    """The files of one drive.

    :param folder: the drive's folder, absolute.
    :param sync: whether shards are synced before they count as durable.
    :param compression_level: to compress shards by; None: not to. Those that are there stay as they
        are.
    :param pack_below: shards of contents of fewer bytes are packed.
    :param kept_files: how many of the files that were read last are kept open.
    :param now: the time of day in seconds since the epoch.
    :ivar pack_below: that.
    :ivar kept: those.
    :ivar shards: how they are read.
    """

    def __init__(
        self,
        folder: str,
        files: Files,
        *,
        sync: bool = True,
        compression_level: int | None = None,
        pack_below: int = 0,
        kept_files: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.files = files
        self.journal = Journal(folder, files, now)
        self.volumes = Volumes(folder, files, now, sync=sync)
        self._sync = sync
        self._compression_level = compression_level
        self.pack_below = pack_below
        self._buffer = bytearray(WHOLE_FILE_BYTES + 1)
        self.kept = KeptFiles(files, kept_files)
        self.shards = KeptShards(files, self.kept)
        self._glances = Glances(self)
        self.objects = os.path.join(folder, "objects")
        self.temp = os.path.join(folder, "temp")
        self.garbage = os.path.join(folder, "garbage")

    def is_prepared(self) -> bool:
        """Whether none of the folders is missing."""
        return not self._missing()

    def _missing(self) -> list[str]:
        folders = (self.objects, self.temp, self.garbage, self.journal.folder, self.volumes.folder)
        return [folder for folder in folders if not self.files.is_folder(folder)]

    def prepare(self) -> None:
        """Make the folders that are missing, durably."""
        missing = self._missing()
        for folder in missing:
            self.files.make_folder(folder)
        if missing:
            self.files.sync_folder(self.folder)

    def clean_temp(self) -> int:
        """Remove what a crash left in ``temp/``; how many files.

        A shard that something is known of, by a file beside it, will be taken up again; without
        the shard, that file tells of one that was committed.
        """
        names = set(self.files.list(self.temp))
        known = {name.removesuffix(ABOUT) for name in names if name.endswith(ABOUT)}
        left = [name for name in names if name.partition(".")[0] not in known]
        for name in left:
            # A write that was given up may remove its file at the same time.
            self._unlink(os.path.join(self.temp, name))
        return len(left)

    def scan(self) -> tuple[ShardIndex, ShardIndex]:
        """The shards in ``objects/``, and those in ``garbage/`` that can be given back.

        What a crash left of the files of small shards is put right before.
        """
        return DriveScan(self).run()

    def checkpoint(self, last: bool = False) -> None:
        """Have small shards be durable in their files, and packed ones be found quickly.

        :param last: nothing will be written for now.
        """
        self.journal.checkpoint()
        self.volumes.settle(last=last)

    @property
    def life(self) -> tuple[int, int]:
        """Differs after each scan."""
        return self.journal.life, self.volumes.life

    def close(self, life: tuple[int, int] | None = None) -> None:
        """Release what is held open.

        :param life: unless it was scanned since :attr:`life` was this.
        """
        journal, volumes = life or (None, None)
        self.journal.close(journal)
        self.volumes.close(volumes)

    @property
    def packs_plain(self) -> bool:
        """Whether blocks are packed as they are."""
        return self._compression_level is None

    def is_packed(self, content: Content) -> bool:
        """Whether shards of a content go into volumes."""
        return content.size < self.pack_below

    def pack(self, content: Content, index: int, blocks: Sequence[Block]) -> Entry:
        """What is to be packed of a whole shard.

        :raises ValueError: the blocks are not a shard of such a content.
        """
        return entry_of_blocks(content, index, blocks, self._compression_level)

    def pack_temp(self, temp: TempShard) -> Entry:
        """The same, of one that was written in ``temp/`` and is finished."""
        with temp.lock:
            size = self.files.path_size(temp.path)
            return entry_of_file(self.files.read_all(temp.path, size))

    def is_small(self, blocks: Sequence[Block]) -> bool:
        """Whether a whole shard goes by way of the journal."""
        return self._sync and sum(map(len, blocks)) <= JOURNALED_BYTES

    def builder(self, index: int, scheme: Scheme) -> ShardFileBuilder:
        """What makes a shard's file."""
        return ShardFileBuilder(index, scheme, self._compression_level)

    def build(
        self, content: Content, index: int, blocks: Sequence[Block]
    ) -> tuple[ShardName, bytes]:
        """The bytes of a whole shard's file, and its name.

        :raises ValueError: the blocks are not a shard of such a content.
        """
        if len(blocks) == 1 and self._compression_level is None:
            data, name = plain_shard(content, index, blocks[0])
            return name, data
        builder = self.builder(index, content.scheme)
        pieces = builder.add(blocks)
        footer, name = builder.finish(content)
        return name, b"".join([*pieces, footer])

    def begin(self, index: int, scheme: Scheme) -> TempShard:
        """A shard that will be written in ``temp/``. Touches no disk yet."""
        path = os.path.join(self.temp, uuid.uuid4().hex)
        return TempShard(path, self.builder(index, scheme), LargeWrites(self.files))

    def append(self, temp: TempShard, blocks: Sequence[Block]) -> None:
        """Append blocks."""
        with temp.lock:
            self.write(temp, self._fd(temp), temp.builder.add(blocks))

    def write(self, temp: TempShard, fd: int, pieces: Sequence[Block]) -> None:
        """Append bytes of a shard's file; the caller holds its lock."""
        if temp.large is None:
            self.files.write(fd, pieces)
        else:
            temp.large.write(fd, pieces)

    def finish(self, temp: TempShard, content: Content) -> None:
        """Append the footer."""
        with temp.lock:
            fd = self._fd(temp)
            footer, temp.name = temp.builder.finish(content)
            temp.packed = self.is_packed(content)
            self.write(temp, fd, [footer])
            if temp.large is not None:
                temp.large.flush(fd)

    def settle(self, temp: TempShard) -> None:
        """Make the file's bytes durable and close it; nothing of one that is going to be packed."""
        with temp.lock:
            if temp.fd is not None:
                if self._sync and not temp.packed:
                    self.files.sync(temp.fd)
                temp.done = True
                temp.signature = self.files.signature(temp.fd)
                self._close(temp)

    def _fd(self, temp: TempShard) -> int:
        if temp.done:
            raise OSError(errno.ECANCELED, "the write was given up")
        if temp.fd is None:
            temp.fd = self.files.open(temp.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        return temp.fd

    def publish(self, temp: TempShard) -> ShardName:
        """Move a settled file into ``objects/``; durable only after :meth:`sync_objects`."""
        assert temp.name is not None, "finish comes before publish"
        self.files.rename(temp.path, os.path.join(self.objects, str(temp.name)))
        if temp.signature is not None:
            self._glances.know(temp.name, temp.signature)
        return temp.name

    def sync_objects(self) -> None:
        """Make the renames into ``objects/`` durable."""
        if self._sync:
            self.files.sync_folder(self.objects)

    def drop(self, temp: TempShard) -> None:
        """Remove a file from ``temp/``; it need not be there, or not any more."""
        with temp.lock:
            temp.done = True
            try:
                self._close(temp)
            finally:
                self._unlink(temp.path)

    def _close(self, temp: TempShard) -> None:
        fd, temp.fd = temp.fd, None
        if fd is not None:
            self.files.close(fd)

    def open(self, name: ShardName) -> OpenShard:
        """Open a shard and verify its footer.

        :raises BadShard: it is damaged, or another shard's.
        """
        fd = self.files.open(os.path.join(self.objects, str(name)), os.O_RDONLY)
        try:
            size = self.files.size(fd)
            start = 0 if size <= WHOLE_FILE_BYTES else size - _TAIL_BYTES
            tail = self.files.pread(fd, size - start, start)
            length = footer_size(tail[-TRAILER_BYTES:])
            if length > size:
                raise BadShard("The footer claims to be longer than its file.")
            if length > len(tail):
                tail = self.files.pread(fd, length, size - length)
            footer = footer_of(name, tail[-length:], size)
        except BaseException:
            self.files.close(fd)
            raise
        return OpenShard(self.files, fd, footer, tail if len(tail) == size else None, size)

    def open_cached(self, name: ShardName) -> OpenShard | None:
        """Open a small shard that is in the system's memory, on the reactor's thread.

        A hop to a thread and back costs as much as reading eight shards like this.

        :returns: None when it is not, or not small: open it on a thread.
        :raises BadShard: see :meth:`open`.
        """
        path = os.path.join(self.objects, str(name))
        data = self.files.read_cached(path, self._buffer)
        if data is None:
            return None
        length = footer_size(data[-TRAILER_BYTES:])
        footer = footer_of(name, data[-length:], len(data))
        return OpenShard(self.files, None, footer, data)

    def read_now(
        self,
        name: ShardName,
        window: Window,
        places: Sequence[memoryview],
        *,
        keep: bool = True,
    ) -> bool:
        """Open a shard that is in the system's memory, and read blocks of it to their places,
        verified; on the reactor's thread.

        :param keep: it may be kept open; it is not yet.
        :returns: False when they cannot be had so: open it, and see why.
        """
        path = f"{self.objects}/{name}"
        return self.shards.open(path, name.index, window, places, keep=keep)

    def forget(self, name: ShardName) -> None:
        """A shard is not to be read any more; on the reactor's thread."""
        self.shards.drop(name.content_hash, name.index)

    def close_all(self, fds: Sequence[int]) -> None:
        """Close the descriptors of files that were kept."""
        for fd in fds:
            self.files.close(fd)

    def remove(self, name: ShardName, *, bad: bool, opened: OpenShard | None = None) -> bool:
        """Move a shard to ``garbage/``; it need not be there any more.

        :param bad: it is damaged and must never be given back.
        :param opened: move only this very file, not one that has taken its place.
        :returns: False when another has.
        """
        source = os.path.join(self.objects, str(name))
        target = os.path.join(self.garbage, str(name) + (_BAD if bad else ""))

        def move() -> bool:
            try:
                if opened is not None and not opened.is_at(source):
                    return False
                self.files.rename(source, target)
            except FileNotFoundError:
                return True
            # Purging goes by the time of removal, and a rename does not set one.
            self.files.touch(target)
            return True

        return self.journal.change(Kind.DROPPED if bad else Kind.REMOVED, [name], move)

    def unlink_object(self, name: ShardName) -> None:
        """Remove a shard that another file has replaced, or that could not be made durable."""
        path = os.path.join(self.objects, str(name))
        self.journal.change(Kind.DROPPED, [name], lambda: self._unlink(path))

    def restore(self, name: ShardName) -> None:
        """Move a shard back from ``garbage/``, durably; another thread may have done so already.

        :raises FileNotFoundError: it is in neither place.
        """
        source = os.path.join(self.garbage, str(name))
        target = os.path.join(self.objects, str(name))

        def move() -> None:
            with suppress(FileNotFoundError):
                if self._sync:
                    # The log says that it was removed, so it does not vouch for it any more.
                    self.journal.sync_file(source)
                self.files.rename(source, target)
            self.files.touch(target)
            self.sync_objects()

        self.journal.change(Kind.RESTORED, [name], move)

    def touch(self, names: Sequence[ShardName]) -> None:
        """Renew the shards of a content, so that no collector takes them for old."""
        for name in names:
            self.files.touch(os.path.join(self.objects, str(name)))

    def modified(self, names: Sequence[ShardName]) -> list[float]:
        """When each shard was last written or renewed; those that are not there are left out."""
        times = []
        for name in names:
            try:
                times.append(self.files.modified(os.path.join(self.objects, str(name))))
            except FileNotFoundError:
                continue
        return times

    def glance(
        self, named: Sequence[tuple[ShardName | None, Content, int]]
    ) -> list[tuple[ShardName | None, Content, int]]:
        """See Glances.faulty."""
        return self._glances.faulty(named)

    def purge(self, before: float) -> list[str]:
        """Delete from ``garbage/`` what was removed before a time (seconds since the epoch)."""
        purged = []
        for file_name in self.files.list(self.garbage):
            path = os.path.join(self.garbage, file_name)
            if self.files.modified(path) < before:
                name = ShardName.parse(file_name)
                self.journal.change(
                    Kind.PURGED, [] if name is None else [name], partial(self._unlink, path)
                )
                purged.append(PurePosixPath(path).name)
        return purged

    def probe(self) -> None:
        """Prove that the drive takes and syncs a file, and a change of a folder."""
        # One name for all: a drive that lets nothing be removed must not fill up with probes.
        path = os.path.join(self.temp, "probe")
        fd = self.files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.files.write(fd, [bytes(4096)])
            self.files.sync(fd)
        finally:
            self.files.close(fd)
            self._unlink(path)
        self.sync_objects()

    def _unlink(self, path: str) -> None:
        try:
            self.files.unlink(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
