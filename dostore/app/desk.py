"""Where the front tells its readers what they ask, and hears what they have read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.adapters.drives import DriveSet
from dostore.adapters.meta_sqlite import SqliteMetadata
from dostore.adapters.write_table import WriteTable
from dostore.app.supervisor import Worker
from dostore.background import Background
from dostore.core.shard_places import ShardPlace, format_answer, parse_read
from dostore.core.worker_messages import ASK, FORGET, READ, parse_question
from dostore.errors import DostoreError
from dostore.fanout import Outcome, begin
from dostore.packets import MAX_BYTES
from dostore.service.objects import ObjectStore

_log = Logger(namespace="dostore")

#: How often is looked whether drives came or went.
_LOOK_S = 2.0


class Desk:
    """Answers readers, once it has a store.

    :ivar table: which names are being written; for all processes.
    :param workers: all readers.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.table = WriteTable()
        self.workers: Callable[[], Sequence[Worker]] = tuple
        self._clock = clock
        self._background = Background("dostore.desk")
        self._drives: DriveSet | None = None
        self._metadata: SqliteMetadata | None = None
        self._store: ObjectStore | None = None
        self._live: list[bool] = []

    def begin(self, drives: DriveSet, metadata: SqliteMetadata, store: ObjectStore) -> None:
        """The store is there."""
        self._drives, self._metadata, self._store = drives, metadata, store
        self._live = self._which_are_live()
        metadata.watch_writes(self._writing)
        self._background.periodic("readers", _LOOK_S, self._look, self._clock)

    async def stop(self) -> None:
        """The store goes."""
        await self._background.stop(self._clock, 0.0)

    def _writing(self, names: Sequence[str]) -> Callable[[], None]:
        return partial(self.table.end, self.table.begin(names))

    async def _look(self) -> None:
        """Have readers let go of a drive that is away, so that it can be unmounted."""
        live = self._which_are_live()
        if live != self._live:
            self._live = live
            for worker in self.workers():
                worker.send(FORGET)

    def _which_are_live(self) -> list[bool]:
        return [] if self._drives is None else [m.live for m in self._drives.members()]

    def receive(self, worker: Worker, data: bytes) -> None:
        """Take a message of a reader."""
        kind = data[:1]
        if kind == ASK:
            self._ask(worker, data)
        elif kind == READ:
            if self._store is not None:
                for content, verified in parse_read(data).items():
                    self._store.repairer.glance_soon(content, verified)
        else:
            raise ValueError("a message of no kind that there is")

    def _ask(self, worker: Worker, data: bytes) -> None:
        name, number, question = parse_question(data)
        tell = partial(self._tell, worker, worker.packets, question)
        begun = begin(self._answer(name, number, question))
        if isinstance(begun, Outcome):
            tell(begun.value if begun.ok else Failure(begun.error))
        else:
            _ = begun.addBoth(tell)

    def _tell(self, worker: Worker, life: object, question: int, answer: bytes | Failure) -> None:
        if isinstance(answer, Failure):
            _log.failure("A reader gets no answer", answer)
            answer = format_answer(question, None, ())
        # Another life of the worker has not asked.
        if worker.packets is life:
            worker.send(answer)

    async def _answer(self, name: str, number: int, question: int) -> bytes:
        nothing = format_answer(question, None, ())
        if self._metadata is None or self._drives is None:
            return nothing
        try:
            if number:
                version = await self._metadata.get(name, number)
            else:
                version = await self._metadata.latest(name)
        except DostoreError:
            # The request comes here, and is told.
            return nothing
        if version is None or version.content is None:
            return nothing
        places: list[ShardPlace] = self._drives.places(version.content) if version.size else []
        answer = format_answer(question, version, places)
        return answer if len(answer) <= MAX_BYTES else nothing
