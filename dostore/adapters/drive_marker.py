"""The file by which a drive's folder tells what it is, and what a look at a folder finds."""

from __future__ import annotations

import errno
import json
import os
from enum import Enum

from attrs import frozen

from dostore.adapters.files import Files
from dostore.core.scheme import Scheme
from dostore.errors import ConfigError, Corrupt

FILE_NAME = "dostore.json"
LOCK_NAME = "lock"
FORMAT = 1

#: What a data server's folder says that it is; a drive of a store on one machine says nothing.
_NODE = "node"

#: Folders that an operator may have made beforehand; as long as they are empty.
_FOLDERS = {"objects", "temp", "garbage", "log", "volumes"}

#: What a new file system brings along, and what a crash while a drive was made leaves; a folder
#: with nothing else is an empty drive.
_NOTHING = {"lost+found", LOCK_NAME, FILE_NAME + ".new"}

_LIMIT_BYTES = 64 * 1024


class BadMarker(Corrupt):
    """A marker file that is damaged: the drive is lost as one that fails is, until it is mended."""

    title = "Bad marker"


@frozen(slots=True)
class Marker:
    """Which drive of which store a folder is, or which data server's.

    :ivar store: the id of the store, or of the data server: a UUID.
    :ivar number: the drive's number in the store, from 1.
    :ivar k: like ``m``, 0 for a data server: it keeps shards of every scheme.
    """

    store: str
    number: int
    k: int
    m: int

    @classmethod
    def made(cls, store: str, number: int, scheme: Scheme | None) -> Marker:
        """The marker of a new folder; without a scheme, of a data server's."""
        return cls(store, number, scheme.k if scheme else 0, scheme.m if scheme else 0)

    @property
    def is_node(self) -> bool:
        """Whether the folder is a data server's."""
        return self.k == 0

    def to_bytes(self) -> bytes:
        """The file's content."""
        fields: dict[str, object] = {
            "format": FORMAT,
            "store": self.store,
            "drive": self.number,
            "data_shards": self.k,
            "parity_shards": self.m,
        }
        if self.is_node:
            fields = {"format": FORMAT, "kind": _NODE, "store": self.store}
        return json.dumps(fields, indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, folder: str) -> Marker:
        """Read the file's content.

        :raises BadMarker: it is damaged.
        :raises ConfigError: it was written by a newer program.
        """
        try:
            fields = json.loads(data)
            version = int(fields["format"])
            if version > FORMAT:
                raise ConfigError(
                    f"{folder} was made by a newer dostore (format {version}; this one knows "
                    f"{FORMAT}). Upgrade dostore."
                )
            if fields.get("kind") == _NODE:
                return cls.made(str(fields["store"]), 1, None)
            return cls(
                str(fields["store"]),
                int(fields["drive"]),
                int(fields["data_shards"]),
                int(fields["parity_shards"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise BadMarker(
                f"{os.path.join(folder, FILE_NAME)} is damaged. Restore it from another drive's, "
                "with its own drive number, or empty the folder to have the drive rebuilt."
            ) from error

    def require(self, store: str | None, scheme: Scheme | None, folder: str) -> None:
        """Refuse a drive that is not one of this store, cut like this.

        :param scheme: None: it must be a data server's.
        :raises ConfigError: it is not.
        """
        if scheme is None or self.is_node:
            self._require_kind(scheme is None, folder)
        elif (self.k, self.m) != (scheme.k, scheme.m):
            raise ConfigError(
                f"{folder} was made with {self.k} + {self.m} shards, not {scheme.k} + {scheme.m}. "
                f"Start with --data-shards {self.k} --parity-shards {self.m}, or on other folders."
            )
        if store is not None and self.store != store:
            raise ConfigError(
                f"{folder} belongs to another store ({self.store}, not {store}). Name the folders "
                "of one store."
            )

    def _require_kind(self, node: bool, folder: str) -> None:
        if node and not self.is_node:
            raise ConfigError(
                f"{folder} is a drive of a store on one machine, not a data server's. Give the "
                "data server a folder of its own."
            )
        if not node:
            raise ConfigError(
                f"{folder} is a data server's, not a drive of a store on one machine. Name other "
                "folders."
            )


class Found(Enum):
    """What a look at a drive's folder found, when it found no marker."""

    EMPTY = "is empty"
    GONE = "is gone"
    STRANGE = "holds other files"
    #: What a drive has, shards among it, but for the marker: somebody removed more than was meant.
    UNMARKED = "has lost its marker"
    #: Not by itself: only who has made its folders knows that some are not there any more.
    INCOMPLETE = "lacks folders"


def look(folder: str, files: Files) -> Marker | Found:
    """Find out what a folder is. Blocks.

    :raises BadMarker: its marker is damaged.
    :raises ConfigError: its marker was written by a newer program.
    :raises OSError: the drive fails.
    """
    try:
        data = files.read_all(os.path.join(folder, FILE_NAME), _LIMIT_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    else:
        return Marker.from_bytes(data, folder)
    if not files.is_folder(folder):
        return Found.GONE
    names = set(files.list(folder)) - _NOTHING
    if names - _FOLDERS:
        return Found.STRANGE
    paths = [os.path.join(folder, name) for name in names]
    if not all(files.is_folder(path) for path in paths):
        return Found.STRANGE
    return Found.UNMARKED if any(files.list(path) for path in paths) else Found.EMPTY


def require_ours(
    what: Marker | Found, store: str | None, scheme: Scheme | None, folder: str
) -> Marker | None:
    """The marker of a drive of this store; None for a folder that may become one.

    :raises ConfigError: it is another store's, cut differently, or somebody's own files.
    """
    if isinstance(what, Marker):
        what.require(store, scheme, folder)
        return what
    if what is Found.STRANGE:
        raise ConfigError(
            f"{folder} {what.value}. Give dostore empty folders, or those that it made."
        )
    return None


def write(folder: str, marker: Marker, files: Files) -> None:
    """Make a folder a drive of the store. Blocks."""
    files.write_durably(os.path.join(folder, FILE_NAME), marker.to_bytes())


def lock(folder: str, files: Files) -> int:
    """Take the drive for this process. Blocks.

    :returns: the descriptor that holds the lock until it is closed.
    :raises ConfigError: another process has it.
    """
    try:
        return files.lock(os.path.join(folder, LOCK_NAME))
    except BlockingIOError as error:
        raise ConfigError(
            f"{folder} is in use by another dostore process. Stop it first."
        ) from error
