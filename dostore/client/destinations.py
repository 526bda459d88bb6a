"""Where what is got goes: files, of which a part is kept until they are whole, and streams.

Names come from a server, so below a target folder no link is followed and no name is taken that
could lead out of it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dostore.client.failures import LocalTrouble, ReaderGone, local
from dostore.core.names import ContentHash
from dostore.ports import IWorkers

#: What a file that is not whole yet is called: the file's name, and this.
PART_SUFFIX = ".dostore-part"

#: The most bytes that a file's name may have, on every file system that matters.
_MAX_NAME_BYTES = 255

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PART = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_READ_BYTES = 1 << 20


def relative_parts(name: str, prefix: str) -> tuple[str, ...]:
    """Where an object goes below the target folder: its name, cut at ``/``, without the folders
    that all names with the prefix share.

    :raises LocalTrouble: the name is none for a file there.
    """
    parts = tuple(name[prefix.rfind("/") + 1 :].split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise LocalTrouble(
            f"{name!r} is no name for a file below a folder, since a part of it is empty, '.' or"
            " '..'. Get it alone, with --to FILE."
        )
    if parts[-1].endswith(PART_SUFFIX):
        raise LocalTrouble(
            f"{name!r} ends like the name of a file that is not whole yet. Get it alone, with --to"
            " FILE."
        )
    if any(len(os.fsencode(part)) > _MAX_NAME_BYTES - len(PART_SUFFIX) for part in parts):
        raise LocalTrouble(
            f"{name!r} has a part that is too long for a file's name. Get it alone, with --to FILE."
        )
    return parts


class Place:
    """A file that is to be written, in a folder that is open.

    :ivar path: absolute, and without links.
    :ivar title: how the user would write it.
    """

    def __init__(self, folder: int, base: str, path: str, title: str) -> None:
        self.path = path
        self.title = title
        self._folder = folder
        self._base = base
        self._part = base + PART_SUFFIX

    @classmethod
    def of(cls, path: str) -> Place:
        """The place that a user named; links in it are followed.

        :raises LocalTrouble: it cannot be one.
        """
        title, path = path, os.path.realpath(path)
        parent, base = os.path.split(path)
        if len(os.fsencode(base)) > _MAX_NAME_BYTES - len(PART_SUFFIX):
            raise LocalTrouble(f"{title} is too long for a file's name. Choose another with --to.")
        try:
            return cls(os.open(parent, _FOLDER), base, path, title)
        except OSError as error:
            raise local(error, f"The folder {parent} cannot be used") from error

    def size(self) -> int | None:
        """The bytes of the file that is there; None: there is none.

        :raises LocalTrouble: something else is there.
        """
        try:
            info = os.stat(self._base, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise local(error, f"{self.title} cannot be written") from error
        if stat.S_ISDIR(info.st_mode):
            raise LocalTrouble(
                f"{self.title} is a folder, and cannot be a file too. Get the object alone, with"
                " --to FILE."
            )
        if not stat.S_ISREG(info.st_mode):
            raise LocalTrouble(f"{self.title} is no regular file. Remove it first.")
        return info.st_size

    def hash(self) -> ContentHash:
        """The SHA-256 of the file that is there.

        :raises LocalTrouble: it cannot be read.
        """
        try:
            descriptor = os.open(
                self._base, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder
            )
            with open(descriptor, "rb") as file:
                return ContentHash(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise local(error, f"{self.title} cannot be read") from error

    def open_part(self) -> int:
        """A descriptor of what there is of the file so far.

        :raises LocalTrouble: it cannot be had, or another is writing it.
        """
        try:
            descriptor = os.open(self._part, _PART, 0o666, dir_fd=self._folder)
        except OSError as error:
            raise local(error, f"{self.title}{PART_SUFFIX} cannot be written") from error
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1 or info.st_uid != os.geteuid():
                raise LocalTrouble(
                    f"{self.title}{PART_SUFFIX} is not a file of yours alone. Remove it first."
                )
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise LocalTrouble(
                f"{self.title}{PART_SUFFIX} is being written by another dostore. Let it end first."
            ) from error
        except LocalTrouble:
            os.close(descriptor)
            raise
        return descriptor

    def finish(self) -> None:
        """The part is whole: it becomes the file.

        :raises LocalTrouble: it cannot.
        """
        try:
            os.rename(self._part, self._base, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise local(error, f"{self.title} cannot be written") from error

    def remove_part(self) -> None:
        """What there is of it is of no use."""
        try:
            os.unlink(self._part, dir_fd=self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise local(error, f"{self.title}{PART_SUFFIX} cannot be removed") from error

    def close(self) -> None:
        """Let go of the folder. Idempotent."""
        if self._folder >= 0:
            folder, self._folder = self._folder, -1
            os.close(folder)


class Target:
    """A folder that objects are written below. Its methods block.

    :raises LocalTrouble: it cannot be made or opened.
    """

    def __init__(self, path: str) -> None:
        self._title = os.path.normpath(path)
        self._path = os.path.realpath(path)
        try:
            os.makedirs(self._path, exist_ok=True)
            self._descriptor = os.open(self._path, _FOLDER)
        except OSError as error:
            raise local(error, f"The folder {path} cannot be used") from error

    def place(self, parts: Sequence[str]) -> Place:
        """The place for a file, with the folders that it is in made.

        :raises LocalTrouble: it cannot be there.
        """
        folder = os.dup(self._descriptor)
        title = self._title
        try:
            for part in parts[:-1]:
                title = os.path.normpath(os.path.join(title, part))
                inner = _enter(folder, part, title)
                os.close(folder)
                folder = inner
        except BaseException:
            os.close(folder)
            raise
        title = os.path.normpath(os.path.join(title, parts[-1]))
        return Place(folder, parts[-1], os.path.join(self._path, *parts), title)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def _enter(folder: int, part: str, title: str) -> int:
    """Open a folder in a folder; make it if it is not there."""
    try:
        with _ignoring(errno.EEXIST):
            os.mkdir(part, dir_fd=folder)
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise LocalTrouble(
                f"{title} is a file or a link, so nothing is written below it. Get what belongs"
                " there alone, with --to FILE, or into another folder."
            ) from error
        raise local(error, f"The folder {title} cannot be used") from error


@contextmanager
def _ignoring(number: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise


class FileSink:
    """Writes the part of a file, on threads.

    :ivar held: bytes that are there.
    :ivar left: bytes that an earlier run had left.
    """

    #: What came before can be dropped.
    restartable = True

    def __init__(self, place: Place, descriptor: int, workers: IWorkers) -> None:
        self.held = 0
        self.left = os.fstat(descriptor).st_size
        self._place = place
        self._descriptor = descriptor
        self._workers = workers
        self._hasher = hashlib.sha256()

    @classmethod
    async def open(cls, place: Place, workers: IWorkers) -> FileSink:
        """Open what there is of a file.

        :raises LocalTrouble: it cannot be had.
        """
        return cls(place, await workers.run(place.open_part), workers)

    async def resume(self, size: int) -> None:
        """Go on after what is there, of a file that will have ``size`` bytes. At least one byte is
        left to be got, so that the server tells what it has.
        """
        self.held = await self._workers.run(self._rehash, size)

    def _rehash(self, size: int) -> int:
        self._hasher = hashlib.sha256()
        usable = min(os.fstat(self._descriptor).st_size, max(0, size - 1))
        done = 0
        with self._trouble("read"):
            while data := os.pread(self._descriptor, min(_READ_BYTES, usable - done), done):
                self._hasher.update(data)
                done += len(data)
            os.ftruncate(self._descriptor, done)
        return done

    async def restart(self) -> None:
        """Drop what is there."""
        self.held = await self._workers.run(self._rehash, 0)

    async def write(self, data: bytes) -> None:
        """Append.

        :raises LocalTrouble: the disk is full, or fails.
        """
        await self._workers.run(self._write, data, self.held)
        self.held += len(data)

    def _write(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        with self._trouble("written"):
            while view:
                count = os.pwrite(self._descriptor, view, at)
                view, at = view[count:], at + count
        self._hasher.update(data)

    @contextmanager
    def _trouble(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise local(error, f"{self._place.title} cannot be {done}") from error

    def hash(self) -> ContentHash:
        """The SHA-256 of what is there."""
        return ContentHash(self._hasher.digest())

    async def finish(self) -> None:
        """All is there, and right."""
        await self._workers.run(self._place.finish)

    async def discard(self) -> None:
        """What is there is of no use."""
        self.held = 0
        await self._workers.run(self._place.remove_part)

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class StreamSink:
    """Writes to standard output, or to what else cannot be taken back, on threads."""

    restartable = False

    def __init__(self, descriptor: int, title: str, workers: IWorkers) -> None:
        self.held = 0
        self._descriptor = descriptor
        self._title = title
        self._workers = workers
        self._hasher = hashlib.sha256()

    async def restart(self) -> None:
        """Nothing was written yet."""

    async def write(self, data: bytes) -> None:
        """Write.

        :raises ReaderGone: nobody reads it any more.
        :raises LocalTrouble: it cannot be written.
        """
        await self._workers.run(self._write, data)
        self.held += len(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError as error:
            raise ReaderGone(f"Nobody reads {self._title} any more.") from error
        except OSError as error:
            raise local(error, f"{self._title} cannot be written") from error
        self._hasher.update(data)

    def hash(self) -> ContentHash:
        """The SHA-256 of what was written."""
        return ContentHash(self._hasher.digest())

    async def finish(self) -> None:
        """Nothing is left to do."""

    async def discard(self) -> None:
        """What was written cannot be taken back."""

    def close(self) -> None:
        """It belongs to somebody else."""
