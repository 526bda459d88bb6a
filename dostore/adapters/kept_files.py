"""The files that were read last, kept open: opening one takes longer than reading it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from dostore.adapters.files import Files
from dostore.core.window import Part


class KeptFiles:
    """Open files of one drive. Used in the reactor's thread only.

    Nothing is read from a file that was changed, renamed or removed since it was opened: that is
    then opened anew, by its path.

    :param limit: how many are kept.
    """

    def __init__(self, files: Files, limit: int) -> None:
        self._files = files
        self._limit = limit
        self._kept: dict[Hashable, tuple[int, int, bytes | None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> tuple[int, bytes | None] | None:
        """The descriptor of a file that is kept, and what was noted of it.

        :returns: None when it is not, or not any more: then :meth:`open`.
        """
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        fd, changed_ns, noted = kept
        if self._files.changed_ns(fd) != changed_ns:
            self._files.close(fd)
            return None
        # It is the newest now.
        self._kept[key] = kept
        return fd, noted

    def read(self, key: Hashable, parts: Sequence[Part]) -> bool | None:
        """Read parts of a file that is kept; see Files.read_parts_now.

        :returns: None when it is not, or not any more: then :meth:`open`.
        """
        found = self.find(key)
        return None if found is None else self._files.read_parts_now(found[0], parts)

    def note(self, key: Hashable, noted: bytes) -> None:
        """Remember something of a file as long as it is kept, if it is."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept[key] = (kept[0], kept[1], noted)

    def open(self, key: Hashable, path: str, parts: Sequence[Part], *, keep: bool = True) -> bool:
        """Open a file and read parts of it.

        :param keep: keep it when all was there; it is not kept already.
        """
        keep = keep and self._limit > 0
        fd = self._files.open_now(path)
        if fd < 0:
            return False
        changed_ns = self._files.changed_ns(fd) if keep else 0
        done = self._files.read_parts_now(fd, parts)
        if done and keep:
            self._kept[key] = (fd, changed_ns, None)
            if len(self._kept) > self._limit:
                self.drop(next(iter(self._kept)))
        else:
            self._files.close(fd)
        return done

    def drop(self, key: Hashable) -> None:
        """Close a file, if it is kept."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._files.close(kept[0])

    def take_all(self) -> list[int]:
        """Keep none any more; the descriptors, for the caller to close."""
        kept, self._kept = self._kept, {}
        return [fd for fd, _, _ in kept.values()]
