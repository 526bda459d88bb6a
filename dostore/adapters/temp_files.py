"""Temporary shards that outlive the process: the blocking half, run on the drive's threads.

``temp/<token>`` is a shard file without its footer, as far as it was written: blocks, and a page
after each 1,024 of them. ``temp/<token>.index`` has the footer's entry of each block, in order, so
that a shard is taken up again without reading it; what it does not speak of does not count.
``temp/<token>.json`` says what the shard is to become; without the shard, what it has become.
``temp/<token>.state`` says what is durable: after a restart of the machine, which loses what was
not written from its memory, only that counts. ``temp/<token>.owner`` says who wrote last, and from
which block on.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from contextlib import suppress
from itertools import islice

from dostore.adapters.drive_store import ABOUT, DriveStore
from dostore.adapters.large_files import LargeWrites
from dostore.adapters.temp_records import Settled, about_from_bytes, about_to_bytes
from dostore.adapters.temp_shard import TempShard
from dostore.adapters.temp_sweep import sweep
from dostore.adapters.temp_upload import Upload, block_lengths, plain_lengths
from dostore.core.model import Content
from dostore.core.scheme import Scheme
from dostore.core.shardfile import (
    ENTRY_BYTES,
    PAGE_BLOCKS,
    PAGE_BYTES,
    ShardFileBuilder,
    page_of,
)
from dostore.errors import BadShard, Conflict, InvalidRequest
from dostore.ports import MAX_NOTE_BYTES, Tail, TempAbout

INDEX = ".index"
STATE = ".state"
OWNER = ".owner"

_ABOUT_LIMIT_BYTES = 2 * MAX_NOTE_BYTES + 4096

#: The largest index: that of a shard of 1.7 TB, in blocks of the usual size.
_INDEX_LIMIT_BYTES = 1 << 29

#: A tail is shorter than a stripe of the largest scheme.
_STATE_LIMIT_BYTES = (32 << 20) + 4096

#: Blocks that are read at a time.
_READ_BLOCKS = 16

#: An owner has 32 characters, and then comes a number.
_OWNER_LIMIT_BYTES = 64


class TempFiles:
    """The temporary shards in a drive's ``temp/``. Errors are the system's own, or BadShard.

    :param boot: see :func:`boot_id`.
    """

    def __init__(self, store: DriveStore, boot: str) -> None:
        self._store = store
        self._files = store.files
        self._boot = boot

    def _path(self, token: str, suffix: str = "") -> str:
        return os.path.join(self._store.temp, token + suffix)

    def create(self, about: TempAbout, token: str | None) -> Upload:
        """Begin a shard.

        :raises Conflict: the token is taken.
        """
        token = token or uuid.uuid4().hex
        # In this order: a file that nothing is known of is removed at the next start.
        for suffix, data in (("", b""), (INDEX, b""), (ABOUT, about_to_bytes(about, self._boot))):
            try:
                fd = self._files.open(
                    self._path(token, suffix), os.O_WRONLY | os.O_CREAT | os.O_EXCL
                )
            except FileExistsError as error:
                raise Conflict("There is a temporary shard of that token already.") from error
            try:
                self._files.write(fd, [data])
            finally:
                self._files.close(fd)
        return Upload(token, about, self._temp(token, about))

    def _temp(self, token: str, about: TempAbout) -> TempShard:
        return TempShard(self._path(token), self._store.builder(about.index, about.scheme))

    def touch(self, token: str, suffix: str = "") -> None:
        """Put off the sweep of a shard."""
        self._files.touch(self._path(token, suffix))

    def tail(self, token: str) -> Tail | None:
        """What was settled last after the whole blocks."""
        state = self._state(token)
        return None if state is None else state.tail

    # Taking up again

    def resume(self, token: str) -> Upload:
        """Take up a shard that was begun before, by its index. What counts no more is cut away.

        :raises BadShard: what is known of it is damaged.
        """
        about, boot = self._about(token)
        state = self._state(token) or Settled(boot, 0, None)
        index = self._read_all(token, INDEX, _INDEX_LIMIT_BYTES)
        entries = self._sound(index, about, self._files.path_size(self._path(token)))
        if state.boot != self._boot:
            # What was in the machine's memory only is lost, whatever the files' sizes say.
            entries = entries[: state.blocks * ENTRY_BYTES]
        count = len(entries) // ENTRY_BYTES
        upload = Upload(token, about, self._temp(token, about))
        builder = upload.temp.builder
        builder.go_on(entries, islice(plain_lengths(about), count))
        if len(entries) != len(index):
            self._cut(self._path(token, INDEX), len(entries))
        self._cut(self._path(token), builder.size)
        upload.settled = min(state.blocks, count)
        if state.boot != self._boot:
            self._write_state(upload, upload.settled, state.tail)
        if count == 1:
            builder.keep_first(self.read(upload, 0, builder.plain_size))
        if state.boot == self._boot:
            upload.owner, upload.since = self._owner(token)
        return upload

    def _owner(self, token: str) -> tuple[str, int]:
        with suppress(FileNotFoundError, ValueError):
            told = self._read_all(token, OWNER, _OWNER_LIMIT_BYTES).decode("ascii")
            owner, blocks = told.split(" ")
            return owner, int(blocks)
        return "", 0

    def _about(self, token: str) -> tuple[TempAbout, str]:
        return about_from_bytes(self._read_all(token, ABOUT, _ABOUT_LIMIT_BYTES))

    def _read_all(self, token: str, suffix: str, limit: int) -> bytes:
        path = self._path(token, suffix)
        return self._files.read_all(path, min(self._files.path_size(path), limit))

    def _state(self, token: str) -> Settled | None:
        """What was settled; None: nothing, or it cannot be told."""
        try:
            return Settled.from_bytes(self._read_all(token, STATE, _STATE_LIMIT_BYTES))
        except (FileNotFoundError, ValueError):
            return None

    def _sound(self, index: bytes, about: TempAbout, size: int) -> bytes:
        """Those entries of an index, from the first on, that can be, and whose blocks are there.

        :param size: bytes of the shard's file.
        """
        at = offset = 0
        for number, length in enumerate(plain_lengths(about), 1):
            if at + ENTRY_BYTES > len(index):
                break
            stored = int.from_bytes(index[at : at + 4], "little")
            offset += stored + (PAGE_BYTES if number % PAGE_BLOCKS == 0 else 0)
            if not 0 < stored <= length or offset > size:
                break
            at += ENTRY_BYTES
        return index[:at]

    def _cut(self, path: str, size: int) -> None:
        fd = self._files.open(path, os.O_WRONLY)
        try:
            self._files.truncate(fd, size)
        finally:
            self._files.close(fd)

    # Writing

    def append(self, upload: Upload, data: bytes, owner: str = "", last: bool = False) -> None:
        """Append bytes. After an error take the shard up again by :meth:`resume`.

        :param last: of this request; else :meth:`close` must follow.
        """
        about, builder = upload.about, upload.temp.builder
        with upload.temp.lock:
            fd = self._open(upload)
            self._own(upload, owner)
            view = memoryview(upload.pending + data if upload.pending else data)
            whole = len(view) // about.scheme.block_size * about.scheme.block_size
            if about.size is not None:
                end = about.scheme.shard_size(about.size) - builder.plain_size
                # The shard's last block may be a short one.
                whole = len(view) if len(view) == end else whole
            entries: list[bytes] = []
            pieces = builder.add(_cut(view[:whole], about.scheme), entries)
            self._store.write(upload.temp, fd, pieces)
            upload.pending = bytes(view[whole:])
            if entries:
                self._append_to_index(upload, entries)
            if last:
                self._close(upload.temp)

    def _append_to_index(self, upload: Upload, entries: list[bytes]) -> None:
        fd = self._files.open(self._path(upload.token, INDEX), os.O_WRONLY)
        try:
            self._files.seek(fd, (upload.temp.builder.blocks - len(entries)) * ENTRY_BYTES)
            self._files.write(fd, [b"".join(entries)])
        finally:
            self._files.close(fd)

    def _open(self, upload: Upload) -> int:
        temp = upload.temp
        if temp.done:
            raise FileNotFoundError("the shard was dropped")
        if temp.fd is None:
            temp.fd = self._files.open(temp.path, os.O_WRONLY)
            self._files.seek(temp.fd, temp.builder.size)
            temp.large = LargeWrites(self._files, position=temp.builder.size)
        return temp.fd

    def close(self, upload: Upload) -> None:
        """Keep no file open between two requests."""
        with upload.temp.lock:
            self._close(upload.temp)

    def _close(self, temp: TempShard) -> None:
        fd, temp.fd = temp.fd, None
        if fd is not None:
            try:
                self._flush(temp, fd)
            finally:
                self._files.close(fd)

    def _flush(self, temp: TempShard, fd: int) -> None:
        """Have what was appended be in the file, to its last byte."""
        if temp.large is not None:
            temp.large.flush(fd)

    def settle(self, upload: Upload, tail: Tail | None, owner: str = "") -> None:
        """Make what was appended durable, and the tail in the place of that from before."""
        with upload.temp.lock:
            if upload.temp.done:
                raise FileNotFoundError("the shard was dropped")
            self._own(upload, owner)
            blocks = upload.temp.builder.blocks
            suffixes = ["", INDEX] if blocks != upload.settled else []
            if not upload.known:
                suffixes.append(ABOUT)
            for suffix in suffixes:
                fd = self._files.open(self._path(upload.token, suffix), os.O_WRONLY)
                try:
                    self._files.sync(fd)
                finally:
                    self._files.close(fd)
            self._write_state(upload, blocks, tail)
            upload.known, upload.settled = True, blocks

    def _own(self, upload: Upload, owner: str) -> None:
        """Take note of who writes, before he does."""
        if owner not in ("", upload.owner):
            upload.owner, upload.since = owner, upload.temp.builder.blocks
            self._write_owner(upload)

    def _write_owner(self, upload: Upload) -> None:
        fd = self._files.open(
            self._path(upload.token, OWNER), os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        )
        try:
            self._files.write(fd, [f"{upload.owner} {upload.since}".encode("ascii")])
        finally:
            self._files.close(fd)

    def _write_state(self, upload: Upload, blocks: int, tail: Tail | None) -> None:
        # Its folder is synced with it, and so the names of the other files.
        state = Settled(self._boot, blocks, tail)
        self._files.write_durably(self._path(upload.token, STATE), state.to_bytes())

    def cut(self, upload: Upload, held: int) -> Upload:
        """Forget what comes after the first ``held`` bytes; the shard, taken up again.

        :raises Conflict: so many bytes are not held, or are no whole blocks.
        """
        if held == upload.temp.builder.plain_size and not upload.pending:
            return upload
        blocks, rest = divmod(held, upload.about.scheme.block_size)
        if rest or blocks > upload.temp.builder.blocks:
            raise Conflict(f"{upload.held} bytes are held: they cannot be cut to {held}.")
        if blocks < upload.settled:
            # Before the index is cut: what is appended then is not durable yet.
            self._write_state(upload, blocks, self.tail(upload.token))
        if blocks < upload.since:
            upload.since = blocks
            self._write_owner(upload)
        self._cut(self._path(upload.token, INDEX), blocks * ENTRY_BYTES)
        return self.resume(upload.token)

    # The end

    def finish(self, upload: Upload, content: Content, shard_hash: bytes | None) -> None:
        """Append the footer and make the file's bytes durable.

        :raises ValueError: the bytes are not a shard of such a content.
        :raises InvalidRequest: the shard's hash is another.
        """
        temp = upload.temp
        with temp.lock:
            fd = self._open(upload)
            if upload.pending:
                pending, upload.pending = upload.pending, b""
                self._store.write(temp, fd, temp.builder.add([pending]))
        self._store.finish(temp, content)
        if shard_hash is not None and temp.name is not None and temp.name.shard_hash != shard_hash:
            raise InvalidRequest("The bytes are not those that were sent: their hash is another.")
        self._store.settle(temp)

    def close_book(self, token: str) -> None:
        """Remove what tells about a shard that is committed, but that it was there."""
        self.touch(token, ABOUT)
        self._forget(token, (INDEX, STATE, OWNER))

    def committed(self, token: str) -> TempAbout | None:
        """What is known of a shard that is no temporary one any more; None: nothing. Puts off its
        sweep.
        """
        try:
            about, _ = self._about(token)
            self.touch(token, ABOUT)
        except (FileNotFoundError, BadShard):
            return None
        return about

    def forget(self, token: str) -> None:
        """Remove all that tells about a shard."""
        self._forget(token, (ABOUT, INDEX, STATE, OWNER))

    def _forget(self, token: str, suffixes: Collection[str]) -> None:
        for suffix in suffixes:
            with suppress(FileNotFoundError):
                self._files.unlink(self._path(token, suffix))

    def drop(self, token: str, upload: Upload | None) -> None:
        """Remove a shard; it need not be there. A write that is under way fails."""
        # In this order: a shard that nothing tells about is removed at the next start.
        self.forget(token)
        self._store.drop(upload.temp if upload else TempShard(self._path(token), _NO_BUILDER))

    # Reading

    def read(self, upload: Upload, offset: int, size: int) -> bytes:
        """Up to ``size`` plain bytes from ``offset`` on, of whole blocks verified.

        :raises BadShard: a block is not what was appended.
        """
        temp = upload.temp
        with temp.lock:
            if temp.fd is not None:
                self._flush(temp, temp.fd)
        builder, block_size = temp.builder, upload.about.scheme.block_size
        first = offset // block_size
        if first >= builder.blocks:
            return upload.pending[offset - builder.plain_size :][:size]
        count = min(
            -(-(offset + size) // block_size) - first,
            _READ_BLOCKS,
            builder.blocks - first,
            PAGE_BLOCKS - first % PAGE_BLOCKS,
        )
        group = first // PAGE_BLOCKS
        start = group * PAGE_BLOCKS
        entries = self._pread(
            upload.token, INDEX, (first + count - start) * ENTRY_BYTES, start * ENTRY_BYTES
        )
        lengths = block_lengths(upload.about, start, first + count - start)
        page = page_of(start, builder.group_offset(group), entries, lengths)
        where, length = page.span(first, count)
        plain = page.plain(first, count, self._pread(upload.token, "", length, where))
        begin = offset - first * block_size
        return bytes(plain[begin : begin + size])

    def _pread(self, token: str, suffix: str, size: int, offset: int) -> bytes:
        fd = self._files.open(self._path(token, suffix), os.O_RDONLY)
        try:
            data = self._files.pread(fd, size, offset)
        finally:
            self._files.close(fd)
        if len(data) < size:
            raise BadShard("The temporary shard is shorter than it was.")
        return data

    # Cleaning up

    def sweep(self, now: float, default_s: float, spared: Collection[str]) -> list[str]:
        """Remove what nobody has touched for as long as it is to be kept; see :func:`sweep`."""
        return sweep(self._files, self._store.temp, self._keep_s, now, default_s, spared)

    def _keep_s(self, token: str) -> int | None:
        try:
            return self._about(token)[0].keep_s
        except (BadShard, FileNotFoundError):
            return None


def _cut(data: memoryview, scheme: Scheme) -> list[bytes | memoryview]:
    return [data[at : at + scheme.block_size] for at in range(0, len(data), scheme.block_size)]


_NO_BUILDER = ShardFileBuilder(0, Scheme())
