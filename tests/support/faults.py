"""System calls that fail or hang on demand."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from attrs import define, field

from dostore.adapters.files import Files
from dostore.core.window import Part

#: The operations that change a drive.
WRITES = frozenset({"write", "sync", "sync_folder", "rename", "unlink", "make_folder", "touch"})


@define(slots=True, eq=False)
class Fault:
    """What happens to the calls on the files in and below a folder.

    :ivar error: the errno that a call fails with; None: it hangs until :meth:`lift`, then goes on.
    :ivar operations: the names of the methods of Files that are struck; None: all. Opening a file
        to write counts as ``create`` as well as ``open``.
    :ivar after: how many calls pass before.
    :ivar times: how many calls are struck; None: all that follow.
    :ivar containing: only paths with this in them.
    :ivar torn_bytes: how many bytes a failing ``write`` writes nevertheless.
    :ivar met: how many calls were struck so far.
    :ivar hanging: set as soon as a call hangs.
    """

    folder: str
    error: int | None
    operations: Collection[str] | None = None
    after: int = 0
    times: int | None = None
    torn_bytes: int = 0
    containing: str = ""
    met: int = 0
    hanging: threading.Event = field(factory=threading.Event)
    _lifted: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)

    def lift(self) -> None:
        """Strike no more, and let calls that hang go on."""
        self._lifted.set()

    def strikes(self, operations: Collection[str], path: str) -> bool:
        """Whether this call is one to strike; counts it."""
        if self._lifted.is_set() or not f"{path}/".startswith(f"{self.folder}/"):
            return False
        if self.containing not in path:
            return False
        if self.operations is not None and not set(operations) & set(self.operations):
            return False
        with self._lock:
            if self.after > 0:
                self.after -= 1
                return False
            if self.times is not None and self.met >= self.times:
                return False
            self.met += 1
            return True

    def strike(self, path: str) -> None:
        """Fail with the error, or return when lifted."""
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error), path)
        self.hanging.set()
        self._lifted.wait()


class FaultyFiles(Files):
    """Files whose calls below given folders fail or hang.

    :param durable: whether a sync that succeeds really syncs; no test of this process can tell.
    :ivar calls: every call so far, as (method, path).
    """

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable
        self.calls: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._paths: dict[int, str] = {}

    def fail(
        self,
        folder: str,
        error: int,
        *,
        operations: Collection[str] | None = None,
        after: int = 0,
        times: int | None = None,
        torn_bytes: int = 0,
        containing: str = "",
    ) -> Fault:
        """Have calls below ``folder`` fail; see Fault."""
        fault = Fault(folder, error, operations, after, times, torn_bytes, containing)
        return self._add(fault)

    def hang(
        self,
        folder: str,
        *,
        operations: Collection[str] | None = None,
        after: int = 0,
        times: int | None = None,
        containing: str = "",
    ) -> Fault:
        """Have calls below ``folder`` hang until the fault is lifted; see Fault."""
        return self._add(Fault(folder, None, operations, after, times, 0, containing))

    def lift_all(self) -> None:
        """End every fault."""
        for fault in self._faults:
            fault.lift()

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def _meet(self, path: str, *operations: str) -> None:
        self.calls.append((operations[0], path))
        for fault in self._faults:
            if fault.strikes(operations, path):
                fault.strike(path)

    def _path(self, fd: int) -> str:
        return self._paths.get(fd, "")

    # Files

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        """See Files."""
        if flags & (os.O_WRONLY | os.O_RDWR):
            self._meet(path, "open", "create")
        else:
            self._meet(path, "open")
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        """See Files."""
        path = self._paths.pop(fd, "")
        super().close(fd)
        self._meet(path, "close")

    def write(self, fd: int, pieces: Sequence[bytes | memoryview]) -> int:
        """See Files."""
        path = self._path(fd)
        self.calls.append(("write", path))
        for fault in self._faults:
            if fault.strikes(("write",), path):
                if fault.error is not None and fault.torn_bytes:
                    super().write(fd, [b"".join(pieces)[: fault.torn_bytes]])
                fault.strike(path)
        return super().write(fd, pieces)

    def write_at(self, fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        """See Files; it counts as ``write``."""
        path = self._path(fd)
        self.calls.append(("write", path))
        for fault in self._faults:
            if fault.strikes(("write",), path):
                if fault.error is not None and fault.torn_bytes:
                    super().write_at(fd, [b"".join(pieces)[: fault.torn_bytes]], offset)
                fault.strike(path)
        return super().write_at(fd, pieces, offset)

    def seek(self, fd: int, offset: int) -> None:
        """See Files."""
        self._meet(self._path(fd), "seek")
        super().seek(fd, offset)

    def truncate(self, fd: int, size: int) -> None:
        """See Files."""
        self._meet(self._path(fd), "truncate")
        super().truncate(fd, size)

    def allocate(self, fd: int, offset: int, size: int) -> None:
        """See Files; it counts as ``write``."""
        self._meet(self._path(fd), "allocate", "write")
        super().allocate(fd, offset, size)

    def pread_cached(self, fd: int, size: int, offset: int, buffer: bytearray) -> bytes | None:
        """See Files; what would be struck cannot be had without a wait."""
        for fault in self._faults:
            if fault.strikes(("pread_cached", "pread"), self._path(fd)):
                return None
        return super().pread_cached(fd, size, offset, buffer)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """See Files."""
        self._meet(self._path(fd), "pread")
        return super().pread(fd, size, offset)

    def read_into(self, fd: int, buffer: memoryview, offset: int) -> int:
        """See Files; it counts as ``pread``."""
        self._meet(self._path(fd), "pread")
        return super().read_into(fd, buffer, offset)

    def read_cached(self, path: str, buffer: bytearray) -> bytes | None:
        """See Files; what would be struck cannot be had without a wait."""
        for fault in self._faults:
            if fault.strikes(("read_cached", "open", "pread"), path):
                return None
        return super().read_cached(path, buffer)

    def open_now(self, path: str) -> int:
        """See Files, and :meth:`read_cached`, as which it counts."""
        for fault in self._faults:
            if fault.strikes(("read_cached", "open"), path):
                return -1
        fd = super().open_now(path)
        if fd >= 0:
            self._paths[fd] = path
        return fd

    def read_parts_now(self, fd: int, parts: Sequence[Part]) -> bool:
        """See Files, and :meth:`read_cached`, as which it counts."""
        for fault in self._faults:
            if fault.strikes(("read_cached", "read_parts_now", "pread"), self._path(fd)):
                return False
        return super().read_parts_now(fd, parts)

    def size(self, fd: int) -> int:
        """See Files."""
        self._meet(self._path(fd), "size")
        return super().size(fd)

    def identity(self, file: int | str) -> tuple[int, int]:
        """See Files."""
        self._meet(self._path(file) if isinstance(file, int) else file, "identity")
        return super().identity(file)

    def signature(self, file: int | str) -> tuple[int, int, int]:
        """See Files."""
        self._meet(self._path(file) if isinstance(file, int) else file, "signature")
        return super().signature(file)

    def path_size(self, path: str) -> int:
        """See Files."""
        self._meet(path, "path_size")
        return super().path_size(path)

    def sync(self, fd: int) -> None:
        """See Files."""
        self._meet(self._path(fd), "sync")
        if self._durable:
            super().sync(fd)

    def sync_file_system(self, fd: int) -> bool:
        """See Files; it counts as ``sync``."""
        self._meet(self._path(fd), "sync")
        return not self._durable or super().sync_file_system(fd)

    def sync_folder(self, path: str) -> None:
        """See Files."""
        self._meet(path, "sync_folder")
        if self._durable:
            super().sync_folder(path)

    def rename(self, source: str, target: str) -> None:
        """See Files."""
        self._meet(source, "rename")
        super().rename(source, target)
        for fd, path in self._paths.copy().items():
            if path == source:
                self._paths[fd] = target

    def unlink(self, path: str) -> None:
        """See Files."""
        self._meet(path, "unlink")
        super().unlink(path)

    def make_folder(self, path: str) -> None:
        """See Files."""
        self._meet(path, "make_folder")
        super().make_folder(path)

    def list(self, path: str) -> list[str]:
        """See Files."""
        self._meet(path, "list")
        return super().list(path)

    def names(self, path: str) -> Iterator[Sequence[str]]:
        """See Files; it counts as ``list``."""
        self._meet(path, "list")
        return super().names(path)

    def exists(self, path: str) -> bool:
        """See Files; like the system's own test, it takes an error for a no."""
        with suppress(OSError):
            self._meet(path, "exists")
            return super().exists(path)
        return False

    def is_folder(self, path: str) -> bool:
        """See Files; like the system's own test, it takes an error for a no."""
        with suppress(OSError):
            self._meet(path, "is_folder")
            return super().is_folder(path)
        return False

    def modified(self, path: str) -> float:
        """See Files."""
        self._meet(path, "modified")
        return super().modified(path)

    def touch(self, path: str, when_s: float | None = None) -> None:
        """See Files."""
        self._meet(path, "touch")
        super().touch(path, when_s)

    def free_bytes(self, path: str) -> int:
        """See Files."""
        self._meet(path, "free_bytes")
        return super().free_bytes(path)
