"""A machine with drives for a metadata store, over restarts, crashes and losses."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from twisted.internet import reactor
from twisted.internet.task import Clock

from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import LogPlace, MetadataLimits, SqliteMetadata
from dostore.threads import Mailbox, Workers

STORE_ID = str(uuid.UUID(int=0x5EED))

DRIVES = 6
COPIES = 3


class Machine:
    """The drives of a store, and the database, over restarts.

    :ivar away: the numbers of drives that are not live.
    """

    def __init__(self, root: str, files: Files, drives: int = DRIVES) -> None:
        self.root = root
        self.files = files
        self.database = os.path.join(root, "metadata.sqlite")
        self.numbers = range(1, drives + 1)
        self.away: set[int] = set()
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self._mailbox = Mailbox(reactor.callFromThread)  # type: ignore[attr-defined]
        self._workers: list[Workers] = []
        for number in self.numbers:
            os.makedirs(self.drive(number))

    def drive(self, number: int) -> str:
        """The folder of a drive."""
        return os.path.join(self.root, str(number))

    def meta(self, number: int) -> str:
        """The folder of a drive's metadata."""
        return os.path.join(self.root, str(number), "meta")

    def _places(self) -> Sequence[LogPlace]:
        places = []
        for number in self.numbers:
            workers = Workers(self._mailbox, f"drive-{number}", 1)
            self._workers.append(workers)
            places.append(
                LogPlace(
                    f"drive-{number}",
                    self.meta(number),
                    workers,
                    partial(self._is_live, number),
                )
            )
        return places

    def _is_live(self, number: int) -> bool:
        return number not in self.away

    async def open(
        self,
        limits: MetadataLimits | None = None,
        copies: int = COPIES,
        database: str | None = None,
        store_id: str = STORE_ID,
    ) -> SqliteMetadata:
        """The store as the next start finds it."""
        return await SqliteMetadata.open(
            path=database or self.database,
            store_id=store_id,
            places=self._places(),
            copies=copies,
            files=self.files,
            mailbox=self._mailbox,
            clock=self.clock,
            limits=limits or MetadataLimits(sync_timeout_s=5.0),
        )

    def stop(self) -> None:
        """Let the drives' threads end."""
        for workers in self._workers:
            workers.stop()

    def image(self, root: str, drives: Sequence[int] | None = None) -> Machine:
        """What a crash now leaves of ``drives`` (all when None), without the database."""
        crashed = Machine(root, Files(), len(self.numbers))
        for number in self.numbers if drives is None else drives:
            os.makedirs(crashed.meta(number))
            with suppress(FileNotFoundError):
                for name in os.listdir(self.meta(number)):
                    # What is removed at the same moment is gone.
                    with suppress(FileNotFoundError):
                        shutil.copy(
                            os.path.join(self.meta(number), name),
                            os.path.join(crashed.meta(number), name),
                        )
        return crashed

    def copy_database(self, other: Machine) -> None:
        """Give another machine this one's database, as a crash at this moment leaves it."""
        for suffix in ("", "-wal"):
            if os.path.exists(self.database + suffix):
                shutil.copy(self.database + suffix, other.database + suffix)

    def remove_database(self) -> None:
        """Lose the database."""
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(self.database + suffix)

    def empty_drive(self, number: int) -> None:
        """Put an empty drive in a drive's place."""
        shutil.rmtree(self.drive(number))
        os.makedirs(self.drive(number))

    def remove_drive(self, number: int) -> None:
        """Take a drive out."""
        shutil.rmtree(self.drive(number))

    def segments(self, number: int) -> list[str]:
        """The paths of a drive's segments, oldest first."""
        return self._files_named(number, "log.")

    def snapshots(self, number: int) -> list[str]:
        """The paths of a drive's snapshots, oldest first."""
        return self._files_named(number, "snapshot.")

    def _files_named(self, number: int, prefix: str) -> list[str]:
        if not os.path.isdir(self.meta(number)):
            return []
        names = [n for n in os.listdir(self.meta(number)) if n.startswith(prefix)]
        names = [n for n in names if not n.endswith(".new")]
        names.sort(key=lambda name: int(name.partition(".")[2]))
        return [os.path.join(self.meta(number), name) for name in names]
