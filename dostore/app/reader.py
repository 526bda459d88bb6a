"""A worker on one machine: it answers GETs of what is in the system's memory, and nothing else.

Whatever it cannot answer at once it leaves to the front, which owns the drives and the names.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from dostore.adapters.files import Files
from dostore.adapters.known_shards import KnownShard, KnownShards
from dostore.adapters.write_table import WriteTable, slot_of
from dostore.app.config import Config
from dostore.app.native import limits_of
from dostore.app.server import Threads
from dostore.app.worker import Front
from dostore.core.model import Content, Version
from dostore.core.shard_places import format_read, parse_answer
from dostore.core.stripes import Block
from dostore.core.worker_messages import FORGET, TOLD, format_question
from dostore.ports import IWorkers
from dostore.service.reading import ContentReader
from dostore.web.api.counts import Counts
from dostore.web.api.site import ReadingApi
from dostore.web.connections import Connections
from dostore.web.passing import READS, PassOn
from dostore.web.request import Request

#: How many versions are remembered.
_KNOWN = 10_000

#: Versions whose own keys are longer than this, in characters, are not.
_META_CHARACTERS = 1024

#: What was read is told to the front together, this long after the first of it, and of more
#: contents than this only some: see service/repair, which does the same with its own reads.
_TELL_S = 0.1
_TOLD = 64

#: Fields of a request that says more than what is to be read.
_MORE = frozenset((b"content-length", b"transfer-encoding", b"expect"))


@frozen(slots=True)
class _Known:
    """What the front told of a name.

    :ivar number: that was asked for; None: the newest.
    :ivar count: how far the counter in ``slot`` was before that was asked for.
    """

    version: Version
    shards: Mapping[int, KnownShard]
    number: int | None
    slot: int
    count: int


class RememberedObjects:
    """See service.readable: objects as the front tells of them.

    :ivar reads: how many contents were read.
    """

    def __init__(
        self,
        front: Front,
        table: WriteTable,
        shards: KnownShards,
        workers: IWorkers,
        clock: IReactorTime,
    ) -> None:
        self.workers = workers
        self.reads = 0
        self._front = front
        self._table = table
        self._shards = shards
        self._clock = clock
        self._known: OrderedDict[tuple[str, int | None], _Known] = OrderedDict()
        self._questions: dict[int, Deferred[tuple[Version, Mapping[int, KnownShard]] | None]] = {}
        self._asked = 0
        self._last: _Known | None = None
        self._read: dict[Content, range] = {}
        self._telling: IDelayedCall | None = None

    # Readable

    async def find(self, name: str, number: int | None = None) -> Version:
        """See Readable; what is not there, too, is for the front to say."""
        known = self._known.get((name, number))
        if known is None or not self._holds(known):
            known = await self._ask(name, number)
        else:
            self._known.move_to_end((name, number))
        self._last = known
        return known.version

    def read_now(self, version: Version, span: tuple[int, int] | None = None) -> Block | None:
        """See Readable."""
        start, stop = (0, version.size) if span is None else span
        if start >= stop:
            self.reads += 1
            return b""
        known = self._of(version)
        if known is None:
            return None
        (content,) = version.contents
        data = self._shards.read_now(content, known.shards, start, stop)
        if data is None:
            self._forget(known)
            return None
        self.reads += 1
        self._note(content, start, stop)
        return data

    async def fetch(self, version: Version) -> Block | None:
        """See Readable: what has to be waited for is for the front to read."""
        raise PassOn

    async def open(self, version: Version, span: tuple[int, int] | None = None) -> ContentReader:
        """See Readable: what has to be waited for is for the front to read."""
        raise PassOn

    # What is known

    def _holds(self, known: _Known) -> bool:
        # A version once made never changes; only which is the newest does.
        return known.number is not None or self._table.count(known.slot) == known.count

    def _of(self, version: Version) -> _Known | None:
        known = self._last
        if known is not None and known.version is version:
            return known
        for number in (None, version.number):
            known = self._known.get((version.name, number))
            if known is not None and known.version is version:
                return known
        return None

    def _forget(self, known: _Known) -> None:
        self._known.pop((known.version.name, known.number), None)

    async def _ask(self, name: str, number: int | None) -> _Known:
        slot = slot_of(name)
        count = self._table.count(slot)
        self._asked += 1
        question = self._asked
        waiter = self._questions[question] = Deferred()
        self._front.send(format_question(name, number or 0, question))
        try:
            answer = await waiter
        finally:
            self._questions.pop(question, None)
        if answer is None:
            raise PassOn
        version, shards = answer
        known = _Known(version, shards, number, slot, count)
        # An odd counter says that a version of the name was just being made.
        holds = number is not None or count % 2 == 0
        if holds and version.meta_characters <= _META_CHARACTERS:
            self._known[name, number] = known
            self._known.move_to_end((name, number))
            if len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return known

    def receive(self, data: bytes) -> None:
        """Take an answer, or let go of all files."""
        if data[:1] == FORGET:
            self._shards.let_go()
            return
        if data[:1] != TOLD:
            raise ValueError("a message of no kind that there is")
        question, version, places = parse_answer(data)
        waiter = self._questions.pop(question, None)
        if waiter is None or waiter.called:
            return
        if version is None or version.content is None:
            waiter.callback(None)
        else:
            waiter.callback((version, self._shards.resolve(version.content, places)))

    # What was read

    def _note(self, content: Content, start: int, stop: int) -> None:
        if len(self._read) < _TOLD:
            self._read[content] = content.scheme.touched(content.size, start, stop)
            if self._telling is None:
                self._telling = self._clock.callLater(_TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        read, self._read = self._read, {}
        self._front.send(format_read(read))


class Reader:
    """The parts of such a worker; see worker.Parts.

    :param descriptor: of the front's WriteTable.
    """

    def __init__(
        self, config: Config, descriptor: int, threads: Threads, front: Front, reactor: Any
    ) -> None:
        self._config = config
        self._threads = threads
        self._reactor = reactor
        shards = KnownShards(config.drives, Files(), config.kept_files)
        self._objects = RememberedObjects(
            front, WriteTable(descriptor), shards, threads.make("compute", 1), reactor
        )
        self._api = ReadingApi(
            self._objects, reactor, limits_of(config), access_log=config.access_log
        )

    async def start(self) -> Connections:
        """See worker.Parts."""
        return self._api.connections

    async def stop(self) -> None:
        """See worker.Parts."""

    def counts(self) -> Counts:
        """See worker.Parts."""
        return Counts(self._api.counts(), Counter(gets=self._objects.reads))

    def keeps(self, request: Request) -> bool:
        """See worker.Parts."""
        return (
            request.method in READS
            and request.path.startswith(b"/objects/")
            and len(request.path) > len(b"/objects/")
            and _MORE.isdisjoint(request.fields)
        )

    def receive(self, data: bytes) -> None:
        """See worker.Parts."""
        self._objects.receive(data)
