"""Files whose power can be cut, at any moment of what was asked of them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from dostore.adapters.files import Files


class VolatileFiles(Files):
    """Files that note what was asked, so that a power cut can be played back.

    :ivar journal: every call that changes something, with what it takes to do it again.
    """

    def __init__(self) -> None:
        self.journal: list[tuple[Any, ...]] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def _number(self, fd: int) -> int:
        """Each file has a number of its own, by which it goes whatever it is called."""
        stat = os.fstat(fd)
        return self._numbers.setdefault((stat.st_dev, stat.st_ino), len(self._numbers) + 1)

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        """Note the making of a file."""
        made = flags & os.O_CREAT and not os.path.lexists(path)
        fd = super().open(path, flags, mode)
        if made:
            # An inode number may be used again.
            stat = os.fstat(fd)
            self._numbers[stat.st_dev, stat.st_ino] = number = len(self.journal) + 1_000_000
            self.journal.append(("create", path, number))
        elif flags & os.O_TRUNC:
            raise AssertionError("a file that is cut short is not played back")
        return fd

    def write(self, fd: int, pieces: Any) -> int:
        """Note the bytes."""
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        count = super().write(fd, pieces)
        self.journal.append(("write", self._number(fd), offset, b"".join(pieces)))
        return count

    def write_at(self, fd: int, pieces: Any, offset: int) -> int:
        """Note the bytes."""
        count = super().write_at(fd, pieces, offset)
        self.journal.append(("write", self._number(fd), offset, b"".join(pieces)))
        return count

    def allocate(self, fd: int, offset: int, size: int) -> None:
        """What is only allocated holds nothing, so it may as well not be there."""

    def truncate(self, fd: int, size: int) -> None:
        """Only what was allocated is given back."""
        assert size >= super().size(fd), "what was written is not cut"

    def sync(self, fd: int) -> None:
        """Note that the bytes so far are safe."""
        super().sync(fd)
        self.journal.append(("sync", self._number(fd)))

    def sync_folder(self, path: str) -> None:
        """Note that the names in a folder are safe."""
        super().sync_folder(path)
        self.journal.append(("sync_folder", path))

    def sync_file_system(self, fd: int) -> bool:
        """Note that all is safe."""
        self.journal.append(("sync_all",))
        return super().sync_file_system(fd)

    def rename(self, source: str, target: str) -> None:
        """Note a name that changed."""
        super().rename(source, target)
        self.journal.append(("rename", source, target))

    def unlink(self, path: str) -> None:
        """Note a name that went."""
        super().unlink(path)
        self.journal.append(("unlink", path))

    def after_power_cut(self, moment: int, chance: random.Random | None = None) -> dict[str, bytes]:
        """What is left, by path, when the power is cut after the first ``moment`` calls.

        A sync of a folder makes the changes durable that concern it; one that moves a file to
        another folder is durable as a whole or not.

        :param chance: what was not synced survives or not, each write by itself and maybe in part,
            the changes of folders in their order; None: nothing of it does.
        """
        names: dict[str, int] = {}
        data: dict[int, bytes] = {}
        safe = _Safe()
        for call, *what in self.journal[:moment]:
            if call == "create":
                path, number = what
                names[path], data[number] = number, b""
                safe.changes.append(("", path, number))
            elif call == "write":
                number, offset, piece = what
                data[number] = _written(data[number], offset, piece)
                safe.writes.setdefault(number, []).append((offset, piece))
            elif call == "rename":
                source, target = what
                names[target] = names.pop(source)
                safe.changes.append((source, target, names[target]))
            elif call == "unlink":
                safe.changes.append((what[0], "", names.pop(what[0])))
            elif call == "sync":
                safe.keep(what[0], data[what[0]])
            elif call == "sync_folder":
                safe.settle(f"{what[0]}/")
            elif call == "sync_all":
                safe.settle("/")
                for number in data:
                    safe.keep(number, data[number])
        if chance is not None:
            safe.gamble(chance)
        return {path: safe.data.get(number, b"") for path, number in safe.names.items()}


class _Safe:
    """What a power cut cannot take, and what it may.

    :ivar changes: of names, not durable yet: the name that goes, that which comes, and its file.
    :ivar writes: not durable yet, by file.
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.data: dict[int, bytes] = {}
        self.changes: list[tuple[str, str, int]] = []
        self.writes: dict[int, list[tuple[int, bytes]]] = {}

    def keep(self, number: int, data: bytes) -> None:
        """A file's bytes are durable."""
        self.data[number] = data
        self.writes.pop(number, None)

    def settle(self, inside: str) -> None:
        """The changes that concern a folder are durable."""
        left = []
        for change in self.changes:
            if change[0].startswith(inside) or change[1].startswith(inside):
                self._change(*change)
            else:
                left.append(change)
        self.changes = left

    def _change(self, gone: str, new: str, number: int) -> None:
        self.names.pop(gone, None)
        if new:
            self.names[new] = number

    def gamble(self, chance: random.Random) -> None:
        """Some of what is not durable survives."""
        for change in self.changes[: chance.randint(0, len(self.changes))]:
            self._change(*change)
        for number, pieces in self.writes.items():
            for offset, piece in pieces:
                if chance.random() < 0.5:
                    cut = chance.choice([len(piece), chance.randint(0, len(piece))])
                    self.data[number] = _written(self.data.get(number, b""), offset, piece[:cut])


def _written(data: bytes, offset: int, piece: bytes) -> bytes:
    return data[:offset].ljust(offset, b"\0") + piece + data[offset + len(piece) :]


def lay_out(files: dict[str, bytes], old: Path, new: Path) -> None:
    """Put what a power cut left of one folder into another."""
    for path, data in files.items():
        target = new / Path(path).relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
