"""Temporary shards that outlive the process: the blocking half, run on the drive's threads.

``temp/<token>`` is a shard file without its footer, as far as it was written: blocks, a page after
each 1,024 of them, and the beginning of a block that is not whole yet. ``temp/<token>.json`` says
what it is to become. The file alone tells how much is held, so nothing is lost with the process.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Collection
from contextlib import suppress

from attrs import define

from dostore.adapters.drive_store import ABOUT, DriveStore, TempShard
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shardfile import PAGE_BLOCKS, PAGE_BYTES, ShardFileBuilder
from dostore.errors import BadShard, DostoreError, InvalidRequest
from dostore.ports import TempAbout

_TOKEN = re.compile("[0-9a-f]{32}")
_ABOUT_LIMIT_BYTES = 4096

#: Blocks that are read at a time when a temporary shard is taken up again.
_RESUME_BLOCKS = 64


@define(eq=False)
class Upload:
    """A temporary shard that is being written.

    :ivar tail: what was appended after the last whole block; it is in the file too.
    """

    token: str
    about: TempAbout
    temp: TempShard
    tail: bytes = b""

    @property
    def held(self) -> int:
        """Plain bytes that were appended."""
        return plain_size(self.temp.builder.size, self.about.scheme.block_size) + len(self.tail)


def is_token(text: str) -> bool:
    """Whether it can be the token of a temporary shard."""
    return _TOKEN.fullmatch(text) is not None


def plain_size(written: int, block_size: int) -> int:
    """How many plain bytes there are in the first ``written`` bytes of a shard file's blocks."""
    group = PAGE_BLOCKS * block_size
    groups, rest = divmod(written, group + PAGE_BYTES)
    return groups * group + min(rest, group)


def file_offset(plain: int, block_size: int) -> int:
    """Where in a shard file its plain byte ``plain`` is."""
    return plain + plain // (PAGE_BLOCKS * block_size) * PAGE_BYTES


def _to_bytes(about: TempAbout) -> bytes:
    scheme = about.scheme
    fields = {
        "index": about.index,
        "scheme": [scheme.k, scheme.m, scheme.block_size],
        "hash": None if about.hash is None else str(about.hash),
        "size": about.size,
    }
    return json.dumps(fields).encode() + b"\n"


def _from_bytes(data: bytes) -> TempAbout:
    """Read what :func:`_to_bytes` made.

    :raises BadShard: it is damaged.
    """
    try:
        fields = json.loads(data)
        content_hash, size = fields["hash"], fields["size"]
        return TempAbout(
            int(fields["index"]),
            Scheme(*map(int, fields["scheme"])),
            None if content_hash is None else ContentHash.parse(str(content_hash)),
            None if size is None else int(size),
        )
    except (ValueError, KeyError, TypeError, DostoreError) as error:
        raise BadShard("What is known of the temporary shard is damaged.") from error


class TempFiles:
    """The temporary shards in a drive's ``temp/``. Errors are the system's own, or BadShard."""

    def __init__(self, store: DriveStore) -> None:
        self._store = store
        self._files = store.files

    def _path(self, token: str) -> str:
        return os.path.join(self._store.temp, token)

    def create(self, about: TempAbout) -> Upload:
        """Begin a shard."""
        token = uuid.uuid4().hex
        path = self._path(token)
        # In this order: a file that nothing is known of is removed at the next start.
        for file, data in ((path, b""), (path + ABOUT, _to_bytes(about))):
            fd = self._files.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                self._files.write(fd, [data])
            finally:
                self._files.close(fd)
        return Upload(token, about, self._temp(token, about))

    def _temp(self, token: str, about: TempAbout) -> TempShard:
        return TempShard(self._path(token), ShardFileBuilder(about.index, about.scheme))

    def about(self, token: str) -> tuple[TempAbout, int]:
        """What is known of a shard, and how many bytes are held, without reading them."""
        about = _from_bytes(self._files.read_all(self._path(token) + ABOUT, _ABOUT_LIMIT_BYTES))
        size = self._files.path_size(self._path(token))
        return about, plain_size(size, about.scheme.block_size)

    def touch(self, token: str) -> None:
        """Put off the sweep of a shard."""
        self._files.touch(self._path(token))

    def resume(self, token: str) -> Upload:
        """Take up a shard that was begun before the process, by reading all of it.

        :raises BadShard: what is there was not written so.
        """
        about, held = self.about(token)
        upload = Upload(token, about, self._temp(token, about))
        builder, block_size = upload.temp.builder, about.scheme.block_size
        blocks, rest = divmod(held, block_size)
        fd = self._files.open(self._path(token), os.O_RDWR)
        try:
            done = 0
            while done < blocks:
                count = min(_RESUME_BLOCKS, blocks - done, PAGE_BLOCKS - done % PAGE_BLOCKS)
                data = memoryview(self._files.pread(fd, count * block_size, builder.size))
                pieces = builder.add(_cut(data, block_size))
                done += count
                if done % PAGE_BLOCKS == 0:
                    self._check_page(fd, bytes(pieces[-1]), builder.size - PAGE_BYTES)
            upload.tail = self._files.pread(fd, rest, builder.size)
        finally:
            self._files.close(fd)
        return upload

    def _check_page(self, fd: int, page: bytes, offset: int) -> None:
        stored = self._files.pread(fd, PAGE_BYTES, offset)
        if len(stored) < PAGE_BYTES:
            # The process ended in the middle of writing it.
            self._files.seek(fd, offset)
            self._files.write(fd, [page])
        elif stored != page:
            raise BadShard("Blocks of the temporary shard are not what was written.")

    def append(self, upload: Upload, data: bytes) -> None:
        """Append bytes. After an error take the shard up again by :meth:`resume`."""
        block_size = upload.about.scheme.block_size
        with upload.temp.lock:
            fd = self._open(upload)
            view = memoryview(upload.tail + data if upload.tail else data)
            whole = len(view) // block_size * block_size
            self._files.write(fd, upload.temp.builder.add(_cut(view[:whole], block_size)))
            upload.tail = bytes(view[whole:])
            if upload.tail:
                # The next bytes will be written over it, with the whole block.
                self._files.write(fd, [upload.tail])
                self._files.seek(fd, upload.temp.builder.size)

    def _open(self, upload: Upload) -> int:
        temp = upload.temp
        if temp.done:
            raise FileNotFoundError("the shard was dropped")
        if temp.fd is None:
            temp.fd = self._files.open(temp.path, os.O_WRONLY)
            self._files.seek(temp.fd, temp.builder.size)
        return temp.fd

    def close(self, upload: Upload) -> None:
        """Keep no file open between two requests."""
        temp = upload.temp
        with temp.lock:
            fd, temp.fd = temp.fd, None
            if fd is not None:
                self._files.close(fd)

    def finish(self, upload: Upload, content: Content, shard_hash: bytes | None) -> None:
        """Append the footer and make the file's bytes durable.

        :raises ValueError: the bytes are not a shard of such a content.
        :raises InvalidRequest: the shard's hash is another.
        """
        temp = upload.temp
        with temp.lock:
            fd = self._open(upload)
            if upload.tail:
                tail, upload.tail = upload.tail, b""
                self._files.write(fd, temp.builder.add([tail]))
        self._store.finish(temp, content)
        if shard_hash is not None and temp.name is not None and temp.name.shard_hash != shard_hash:
            raise InvalidRequest("The bytes are not those that were sent: their hash is another.")
        self._store.settle(temp)

    def forget(self, token: str) -> None:
        """Remove what tells about a shard that is committed."""
        with suppress(FileNotFoundError):
            self._files.unlink(self._path(token) + ABOUT)

    def drop(self, token: str, upload: Upload | None) -> None:
        """Remove a shard; it need not be there. A write that is under way fails."""
        self._store.drop(upload.temp if upload else TempShard(self._path(token), _NO_BUILDER))
        self.forget(token)

    def read(self, token: str, about: TempAbout, offset: int, size: int) -> bytes:
        """Up to ``size`` plain bytes from ``offset`` on."""
        block_size = about.scheme.block_size
        # Up to the next page: a reader asks again.
        size = min(size, PAGE_BLOCKS * block_size - offset % (PAGE_BLOCKS * block_size))
        fd = self._files.open(self._path(token), os.O_RDONLY)
        try:
            return self._files.pread(fd, size, file_offset(offset, block_size))
        finally:
            self._files.close(fd)

    def sweep(self, before: float, spared: Collection[str]) -> list[str]:
        """Remove what nobody has touched since a time (seconds since the epoch).

        :param spared: tokens to leave alone.
        :returns: the names of the files that were removed.
        """
        swept = []
        for name in self._files.list(self._store.temp):
            token = name.removesuffix(ABOUT)
            if token in spared:
                continue
            path = self._path(token)
            with suppress(FileNotFoundError):
                # What tells about a shard is as old as its beginning; the shard's file counts.
                newest = path if self._files.exists(path) else self._path(name)
                if self._files.modified(newest) < before:
                    self._files.unlink(self._path(name))
                    swept.append(name)
        return swept


def _cut(data: memoryview, block_size: int) -> list[bytes | memoryview]:
    return [data[at : at + block_size] for at in range(0, len(data), block_size)]


_NO_BUILDER = ShardFileBuilder(0, Scheme())
