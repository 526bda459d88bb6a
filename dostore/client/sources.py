"""Files that are put: which they are, how their objects are called, their bytes and their hash."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from attrs import frozen

from dostore.client.failures import LocalTrouble, local
from dostore.core.names import ContentHash, check_object_name
from dostore.errors import ConfigError, DostoreError, InvalidName
from dostore.ports import IWorkers

#: What is read at a time.
BLOCK_BYTES = 1 << 20

#: What is hashed on a thread before somebody is told how far it is.
_SLICE_BLOCKS = 16

T = TypeVar("T")

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY


@frozen(slots=True)
class Source:
    """A file that is to be put.

    :ivar path: as the user wrote it, or below that.
    :ivar name: of the object.
    """

    path: str
    name: str


@frozen(slots=True)
class Passed:
    """What a folder has and cannot be put.

    :ivar error: it should have been; None: it is no file.
    """

    path: str
    why: str
    error: DostoreError | None = None


@frozen(slots=True)
class Identity:
    """What tells a file from what it was, without reading it."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, info: os.stat_result) -> Identity:
        """That of a file as the system describes it."""
        return cls(info.st_size, info.st_mtime_ns, info.st_ino)


def walk(paths: Sequence[str], prefix: str) -> Iterator[Source | Passed]:
    """The files that ``paths`` name, and those in the folders that they name, by path.

    Links to files are followed; links to folders are only where a path names one.

    :param prefix: what the objects' names begin with.
    """
    for path in paths:
        base = os.path.basename(os.path.normpath(path))
        # The folder that one is in has no name of its own.
        base = "" if base in (".", "..") else base
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            yield Passed(path, "", local(error, f"{path} cannot be read"))
            continue
        if stat.S_ISDIR(mode):
            yield from _below(path, prefix + (f"{base}/" if base else ""))
        elif stat.S_ISREG(mode):
            yield _source(path, prefix + base)
        else:
            why = f"{path} is no regular file. Pipe what it gives into: dostore put - --to NAME"
            yield Passed(path, "", LocalTrouble(why))


def walk_one(path: str, name: str) -> Iterator[Source | Passed]:
    """One file, whose object's name is told."""
    for found in walk([path], ""):
        yield Source(found.path, name) if isinstance(found, Source) else found


def _below(folder: str, prefix: str) -> Iterator[Source | Passed]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Passed(folder, "", local(error, f"{folder} cannot be read"))
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield _source(entry.path, prefix + entry.name)
            elif entry.is_symlink():
                to = "a link to a folder" if entry.is_dir() else "a link to nothing that is a file"
                yield Passed(entry.path, f"{entry.path} is {to}: passed over.")
            else:
                yield Passed(entry.path, f"{entry.path} is no regular file: passed over.")
        except OSError as error:
            yield Passed(entry.path, "", local(error, f"{entry.path} cannot be read"))


def _source(path: str, name: str) -> Source | Passed:
    try:
        check_object_name(name)
    except InvalidName as error:
        why = f"{path} cannot name an object: {error.detail} Or put it alone, with --to NAME."
        return Passed(path, "", LocalTrouble(why))
    return Source(path, name)


def check_apart(paths: Sequence[str]) -> None:
    """Refuse paths whose objects would have the same names.

    :raises ConfigError: two of them are called alike.
    """
    seen: dict[str, str] = {}
    for path in paths:
        base = os.path.basename(os.path.normpath(path))
        if base in seen:
            raise ConfigError(
                f"{seen[base]} and {path} would be the same object. Put them one by one, each with"
                " another --to."
            )
        seen[base] = path


def take(items: Iterator[Source | Passed], count: int) -> list[Source | Passed]:
    """The next ``count`` items, fewer only at the end."""
    return list(islice(items, count))


def measure(paths: Sequence[str], add: Callable[[int, int], None]) -> None:
    """Tell ``add`` how many files there are and how many bytes they have, bit by bit. What cannot
    be read is not counted.
    """
    items = walk(paths, "x")
    while batch := take(items, 256):
        sizes = []
        for item in batch:
            if isinstance(item, Source):
                try:
                    sizes.append(os.stat(item.path).st_size)
                except OSError:
                    # Whoever puts it will tell.
                    sizes.append(0)
        add(len(sizes), sum(sizes))


class SourceFile:
    """An open file, read on threads.

    :ivar identity: as it was when it was opened.
    """

    def __init__(self, path: str, descriptor: int, workers: IWorkers) -> None:
        self.path = path
        self.identity = Identity.of(os.fstat(descriptor))
        self._descriptor = descriptor
        self._workers = workers

    @classmethod
    async def open(cls, path: str, workers: IWorkers) -> SourceFile:
        """Open a file.

        :raises LocalTrouble: it cannot be read, or is no regular file.
        """
        return cls(path, await workers.run(_open, path), workers)

    async def hash(self, at: Callable[[int], None]) -> ContentHash:
        """The SHA-256 of all bytes; ``at`` is told how many have been read."""
        hasher = hashlib.sha256()
        offset = 0
        while count := await self._workers.run(self._update, hasher, offset):
            offset += count
            at(offset)
        return ContentHash(hasher.digest())

    def _update(self, hasher: hashlib._Hash, offset: int) -> int:
        block = bytearray(BLOCK_BYTES)
        view = memoryview(block)
        done = 0
        for _ in range(_SLICE_BLOCKS):
            count = self._in(lambda at: os.preadv(self._descriptor, [block], at), offset + done)
            hasher.update(view[:count])
            done += count
            if not count:
                break
        return done

    async def read(self, offset: int, size: int = BLOCK_BYTES) -> bytes:
        """The bytes from ``offset`` on, at most ``size``; none at the end.

        :raises LocalTrouble: they cannot be read.
        """
        data: bytes = await self._workers.run(
            self._in, lambda at: os.pread(self._descriptor, size, at), offset
        )
        return data

    async def read_whole(self) -> tuple[bytes, ContentHash]:
        """All bytes of a small file, and their hash.

        :raises LocalTrouble: they cannot be read, or are not as many as they were.
        """
        whole: tuple[bytes, ContentHash] = await self._workers.run(self._read_whole)
        return whole

    def _read_whole(self) -> tuple[bytes, ContentHash]:
        size = self.identity.size
        # One more, to see whether it has grown.
        data = self._in(lambda at: os.pread(self._descriptor, size + 1, at), 0)
        if len(data) != size:
            raise self.changed()
        return data, ContentHash(hashlib.sha256(data).digest())

    def _in(self, read: Callable[[int], T], offset: int) -> T:
        try:
            return read(offset)
        except OSError as error:
            raise local(error, f"{self.path} cannot be read") from error

    async def check_same(self) -> None:
        """Return if it is as it was when it was opened.

        :raises LocalTrouble: it was changed.
        """
        if (
            await self._workers.run(lambda: Identity.of(os.fstat(self._descriptor)))
            != self.identity
        ):
            raise self.changed()

    def changed(self) -> LocalTrouble:
        """For a file that is not what it was."""
        return LocalTrouble(
            f"{self.path} was changed while it was read. Put it again when nobody writes to it."
        )

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open(path: str) -> int:
    try:
        # A pipe that took the file's place would make an open wait.
        descriptor = os.open(path, _OPEN | os.O_NONBLOCK)
    except OSError as error:
        raise local(error, f"{path} cannot be read") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LocalTrouble(f"{path} is no regular file.")
    return descriptor
