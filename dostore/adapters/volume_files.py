"""The files of volumes, open for reading, and their hints."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from contextlib import suppress

from dostore.adapters.files import Files
from dostore.core.volumelog import Hints, encode_chunk, parse_hints

#: So many volumes of a drive are kept open for reading.
KEPT_OPEN = 64

HINT_SUFFIX = ".hint"

#: A hint that is longer is not one.
_MAX_HINT_BYTES = 256 << 20


class VolumeFile:
    """A volume that is open for reading until nobody uses it any more.

    :ivar seed: of its checks.
    """

    __slots__ = ("_files", "fd", "seed")

    def __init__(self, files: Files, path: str, seed: int) -> None:
        self._files = files
        self.seed = seed
        self.fd = files.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        """Close it."""
        fd = getattr(self, "fd", None)
        if fd is not None:
            self._files.close(fd)


class VolumeFiles:
    """Those of one drive. Any thread may call.

    :ivar seeds: of the volumes that there are.
    """

    def __init__(self, folder: str, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._open: dict[int, VolumeFile] = {}
        self._lock = threading.Lock()
        self.seeds: dict[int, int] = {}

    def opened(self, number: int) -> VolumeFile | None:
        """A volume that is open already."""
        return self._open.get(number)

    def open(self, number: int) -> VolumeFile:
        """A volume. Blocks.

        :raises FileNotFoundError: it is gone.
        """
        found = self._open.get(number)
        if found is None:
            seed = self.seeds.get(number)
            if seed is None:
                raise FileNotFoundError(errno.ENOENT, f"volume {number} is gone")
            path = os.path.join(self._folder, str(number))
            found = VolumeFile(self._files, path, seed)
            with self._lock:
                found = self._open.setdefault(number, found)
                if len(self._open) > KEPT_OPEN:
                    del self._open[next(iter(self._open))]
        return found

    def forget(self, number: int) -> None:
        """A volume is gone."""
        with self._lock:
            self._open.pop(number, None)
            self.seeds.pop(number, None)

    def close(self) -> None:
        """Keep none open."""
        with self._lock:
            self._open.clear()


class HintFiles:
    """The hints of one drive's volumes. One thread at a time may call."""

    def __init__(self, folder: str, files: Files) -> None:
        self._folder = folder
        self._files = files

    def path(self, number: int) -> str:
        """The file of a volume's hint."""
        return os.path.join(self._folder, f"{number}{HINT_SUFFIX}")

    def read(self, number: int, seed: int | None) -> Hints:
        """What a hint tells, if there is one; see parse_hints."""
        try:
            path = self.path(number)
            data = self._files.read_all(path, min(self._files.path_size(path), _MAX_HINT_BYTES))
        except OSError:
            # A hint that cannot be read tells nothing; the volume tells all.
            data = b""
        return parse_hints(data, seed)

    def add(
        self, number: int, at: int, seed: int, begin: int, end: int, entries: Sequence[bytes]
    ) -> int:
        """Add a chunk at an offset of the file; where the next one belongs."""
        chunk = encode_chunk(seed, begin, end, entries)
        fd = self._files.open(self.path(number), os.O_RDWR | os.O_CREAT)
        try:
            self._files.write_at(fd, [chunk], at)
        finally:
            self._files.close(fd)
        return at + len(chunk)

    def remove(self, number: int) -> None:
        """Remove a hint; it need not be there."""
        with suppress(FileNotFoundError):
            self._files.unlink(self.path(number))
