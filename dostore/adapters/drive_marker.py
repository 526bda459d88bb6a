"""The file by which a drive's folder tells what it is, and what a look at a folder finds."""

from __future__ import annotations

import errno
import json
import os
from enum import Enum

from attrs import frozen

from dostore.adapters.files import Files
from dostore.core.scheme import Scheme
from dostore.errors import ConfigError

FILE_NAME = "dostore.json"
LOCK_NAME = "lock"
FORMAT = 1

#: What a new file system brings along, and what a crash while a drive was made leaves; a folder
#: with nothing else is an empty drive.
_NOTHING = {"lost+found", LOCK_NAME, FILE_NAME + ".new"}

_LIMIT_BYTES = 64 * 1024


@frozen(slots=True)
class Marker:
    """Which drive of which store a folder is.

    :ivar store: the store's id, a UUID.
    :ivar number: the drive's number in it, from 1.
    """

    store: str
    number: int
    k: int
    m: int

    def to_bytes(self) -> bytes:
        """The file's content."""
        fields = {
            "format": FORMAT,
            "store": self.store,
            "drive": self.number,
            "data_shards": self.k,
            "parity_shards": self.m,
        }
        return json.dumps(fields, indent=2).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, folder: str) -> Marker:
        """Read the file's content.

        :raises ConfigError: it is damaged, or written by a newer program.
        """
        try:
            fields = json.loads(data)
            version = int(fields["format"])
            if version > FORMAT:
                raise ConfigError(
                    f"{folder} was made by a newer dostore (format {version}; this one knows "
                    f"{FORMAT}). Upgrade dostore."
                )
            return cls(
                str(fields["store"]),
                int(fields["drive"]),
                int(fields["data_shards"]),
                int(fields["parity_shards"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"{os.path.join(folder, FILE_NAME)} is damaged. Restore it from another drive's, "
                "with its own drive number, or empty the folder to have the drive rebuilt."
            ) from error

    def require(self, store: str | None, scheme: Scheme, folder: str) -> None:
        """Refuse a drive that is not one of this store, cut like this.

        :raises ConfigError: it is not.
        """
        if (self.k, self.m) != (scheme.k, scheme.m):
            raise ConfigError(
                f"{folder} was made with {self.k} + {self.m} shards, not {scheme.k} + {scheme.m}. "
                f"Start with --data-shards {self.k} --parity-shards {self.m}, or on other folders."
            )
        if store is not None and self.store != store:
            raise ConfigError(
                f"{folder} belongs to another store ({self.store}, not {store}). Name the folders "
                "of one store."
            )


class Found(Enum):
    """What a look at a drive's folder found, when it found no marker."""

    EMPTY = "empty"
    GONE = "gone"
    STRANGE = "holds other files"


def look(folder: str, files: Files) -> Marker | Found:
    """Find out what a folder is. Blocks.

    :raises ConfigError: its marker cannot be read as one.
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
    return Found.STRANGE if names else Found.EMPTY


def require_ours(
    what: Marker | Found, store: str | None, scheme: Scheme, folder: str
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
