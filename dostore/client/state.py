"""What is kept between two runs of the command: transfers that have begun and not ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from dostore.client.sources import Identity
from dostore.client.store import is_upload
from dostore.core.names import ContentHash
from dostore.errors import InvalidRequest

FORMAT = 1

#: No server keeps an upload for longer.
_KEPT_S = 31 * 24 * 3600

_MAX_BYTES = 65536

#: So many old files are looked for at a start.
_MAX_SWEPT = 10_000


def state_folder(environ: Mapping[str, str]) -> Path | None:
    """Where state is kept (XDG Base Directory Specification); None: there is no such place."""
    given = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "dostore"
    home = environ.get("HOME", "")
    return Path(home) / ".local" / "state" / "dostore" if os.path.isabs(home) else None


@frozen(slots=True)
class Sending:
    """An upload under way.

    :ivar path: of the file, absolute.
    :ivar upload: the path of the upload on the servers, which is a secret of a kind.
    :ivar wanted: what else the version was to be, in a form that can be compared.
    """

    name: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    hash: str
    upload: str
    wanted: str

    @property
    def identity(self) -> Identity:
        """What the file was."""
        return Identity(self.size, self.mtime_ns, self.inode)

    @property
    def content_hash(self) -> ContentHash:
        """Of the file as it was."""
        return ContentHash.parse(self.hash)


@frozen(slots=True)
class Fetching:
    """A download under way.

    :ivar path: where the file will be, absolute.
    """

    name: str
    path: str
    version: int
    size: int
    hash: str

    @property
    def content_hash(self) -> ContentHash:
        """Of the content."""
        return ContentHash.parse(self.hash)


class Kept:
    """A folder with a small file for each transfer. Its methods block.

    What cannot be kept is told once, by :attr:`trouble`; the transfer goes on without.

    :param folder: None: nothing is kept.
    :param now: the time of day in seconds since the epoch.
    :ivar trouble: why nothing can be kept; empty: it can.
    """

    def __init__(self, folder: Path | None, now: Callable[[], float]) -> None:
        self._folder = folder
        self._now = now
        self.trouble = "" if folder else "neither XDG_STATE_HOME nor HOME is a folder"

    # Uploads

    def sending(self, name: str, path: str) -> Sending | None:
        """The upload of a file to an object, if one is under way."""
        fields = self._load(self._file("put", name, path))
        try:
            found = Sending(**fields)
            valid = (found.name, found.path) == (name, path) and is_upload(found.upload)
            _check(found.content_hash, found.size, found.mtime_ns, found.inode)
        except (TypeError, AttributeError, InvalidRequest):
            return None
        return found if valid else None

    def keep_sending(self, sending: Sending) -> None:
        """Note an upload."""
        self._save(self._file("put", sending.name, sending.path), asdict(sending))

    def drop_sending(self, name: str, path: str) -> None:
        """It has ended."""
        self._drop(self._file("put", name, path))

    # Downloads

    def fetching(self, path: str) -> Fetching | None:
        """What is being written to a place, if anything."""
        fields = self._load(self._file("get", path))
        try:
            found = Fetching(**fields)
            _check(found.content_hash, found.size, found.version)
        except (TypeError, AttributeError, InvalidRequest):
            return None
        return found if found.path == path and isinstance(found.name, str) else None

    def keep_fetching(self, fetching: Fetching) -> None:
        """Note a download."""
        self._save(self._file("get", fetching.path), asdict(fetching))

    def drop_fetching(self, path: str) -> None:
        """It has ended."""
        self._drop(self._file("get", path))

    # Files

    def _file(self, *key: str) -> Path | None:
        if self._folder is None:
            return None
        text = "\0".join(key).encode("utf-8", "surrogateescape")
        return self._folder / f"{key[0]}-{hashlib.sha256(text).hexdigest()[:32]}.json"

    def _load(self, file: Path | None) -> dict[str, Any]:
        if file is None:
            return {}
        try:
            with open(file, "rb") as stream:
                fields = json.loads(stream.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            # Not there, or not of this program: the transfer begins anew.
            return {}
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            return {}
        return fields

    def _save(self, file: Path | None, fields: Mapping[str, Any]) -> None:
        if file is None:
            return
        new = file.with_suffix(f".{os.getpid()}.new")
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="ascii") as stream:
                json.dump({"format": FORMAT, **fields}, stream)
            os.replace(new, file)
        except OSError as error:
            self.trouble = f"{file.parent} cannot be written: {error.strerror}"

    def _drop(self, file: Path | None) -> None:
        if file is not None:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                self.trouble = f"{file.parent} cannot be written: {error.strerror}"

    def sweep(self) -> None:
        """Remove what is too old to be of use."""
        if self._folder is None or not self._folder.is_dir():
            return
        oldest = self._now() - _KEPT_S
        try:
            with os.scandir(self._folder) as entries:
                for _, entry in zip(range(_MAX_SWEPT), entries, strict=False):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)
        except OSError as error:
            self.trouble = f"{self._folder} cannot be tidied: {error.strerror}"


def _check(content_hash: ContentHash, *numbers: object) -> None:
    """Raise TypeError unless the numbers are numbers."""
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("no number")
