"""A store on drives that a test can fail, hang, pull and put back, with a clock of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from dostore.adapters.drive_store import DriveStore
from dostore.adapters.drives import DriveSet
from dostore.adapters.files import Files
from dostore.adapters.meta_sqlite import LogPlace, MetadataLimits, SqliteMetadata
from dostore.core.model import Version
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.errors import DostoreError
from dostore.ports import IMetadataStore, IWorkers
from dostore.service.glances import GLANCE_DELAY_S
from dostore.service.objects import ObjectStore
from dostore.threads import Mailbox, Workers
from tests.support.cases import AsyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.stepped import SteppedWorkers
from tests.support.workers import InlineWorkers

T = TypeVar("T")

#: Small blocks make many stripes cheap.
SCHEME = Scheme(4, 2, MIN_BLOCK_BYTES)


class Bytes:
    """A source of given bytes.

    :param error: what is raised instead of the end.
    :param between: called before each read.
    """

    def __init__(
        self,
        data: bytes,
        error: DostoreError | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> None:
        self._data = memoryview(data)
        self._error = error
        self._between = between

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        self._between()
        if self._error is not None and len(self._data) < size:
            raise self._error
        piece, self._data = self._data[:size], self._data[size:]
        return bytes(piece)

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        self._between()
        piece, self._data = self._data[:size], self._data[size:]
        if self._error is not None and not piece:
            raise self._error
        return bytes(piece)


class Machine:
    """The folders of a store, and the store itself, over restarts.

    :ivar clock: the only clock that drives and service know; advanced by hand.
    :ivar files: the drives' system calls.
    :ivar workers: the threads of the drives, by name: ``drive-1`` works for it and
        ``watch-1`` looks at it.
    """

    def __init__(self, root: Path, scheme: Scheme = SCHEME, drives: int | None = None) -> None:
        self.root = root
        self.scheme = scheme
        self.folders = [root / str(number) for number in range(1, (drives or scheme.shards) + 1)]
        self.files = FaultyFiles(durable=False)
        self.clock = Clock()
        self.clock.advance(1e9)
        #: What is added to the time of day, and to nothing else.
        self.skew_s = 0.0
        self.workers: dict[str, SteppedWorkers] = {}
        self.quorum: int | None = None
        #: Below what size the next start keeps contents as copies.
        self.copies_below = 0
        self.kept_files = 60
        #: Below what size the next start packs contents.
        self.pack_below = 0
        #: By what the next start compresses shards.
        self.compression_level: int | None = None
        #: More than nothing: there are other API servers, whose leases nobody here knows.
        self.orphan_grace_s = 0.0
        self.wrap: Callable[[IMetadataStore], IMetadataStore] = lambda metadata: metadata
        self._mailbox = Mailbox(reactor.callFromThread)  # type: ignore[attr-defined]
        self._threads: list[Workers] = []
        self._metadata: SqliteMetadata | None = None

    def now(self) -> float:
        """The time of day."""
        return self.clock.seconds() + self.skew_s

    def _make_workers(self, name: str, size: int) -> IWorkers:
        return self.workers.setdefault(name, SteppedWorkers())

    async def start_drives(self) -> DriveSet:
        """Only the drives."""
        self.drives = DriveSet(
            [str(folder) for folder in self.folders],
            self.scheme,
            files=self.files,
            make_workers=self._make_workers,
            clock=self.clock,
            now=self.now,
            kept_files=self.kept_files,
            compression_level=self.compression_level,
            pack_below=self.pack_below,
        )
        await self.drives.start()
        return self.drives

    async def start(self, *, background: bool = True) -> ObjectStore:
        """All of it.

        :param background: whether sweep and healing begin.
        """
        await self.start_drives()
        self._metadata = await SqliteMetadata.open(
            path=str(self.root / "metadata.sqlite"),
            store_id=self.drives.store_id,
            places=[self._place(number) for number in range(1, self.scheme.m + 2)],
            copies=self.scheme.m + 1,
            files=FaultyFiles(durable=False),
            mailbox=self._mailbox,
            clock=self.clock,
            # Its threads are real, and this clock goes on without them.
            limits=MetadataLimits(answer_timeout_s=1e9, queue_timeout_s=1e9),
        )
        self.store = ObjectStore(
            self.drives,
            self.wrap(self._metadata),
            self.scheme,
            workers=InlineWorkers(),
            clock=self.clock,
            now=self.now,
            quorum=self.quorum,
            copies_below=self.copies_below,
            orphan_grace_s=self.orphan_grace_s,
            upload_key=self._upload_key,
        )
        if background:
            self.store.start()
        return self.store

    async def _upload_key(self) -> bytes:
        return b"a key that outlives the process."

    def another_server(self) -> ObjectStore:
        """Another API server over the same drives and metadata, without jobs of its own."""
        return ObjectStore(
            self.drives,
            self.store.metadata,
            self.scheme,
            workers=InlineWorkers(),
            clock=self.clock,
            now=self.now,
            quorum=self.quorum,
            copies_below=self.copies_below,
            orphan_grace_s=self.orphan_grace_s,
            upload_key=self._upload_key,
        )

    def _place(self, number: int) -> LogPlace:
        workers = Workers(self._mailbox, f"log-{number}", 1)
        self._threads.append(workers)
        folder = self.root / "logs" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        return LogPlace(f"log-{number}", str(folder / "meta"), workers, lambda: True)

    async def stop(self) -> None:
        """As a process ends; the folders stay."""
        self.files.lift_all()
        for workers in self.workers.values():
            workers.recover()
        if hasattr(self, "store"):
            await self.run(self.store.stop())
        if hasattr(self, "drives"):
            await self.run(self.drives.stop())
        metadata, self._metadata = self._metadata, None
        if metadata is not None:
            await metadata.close()
        threads, self._threads = self._threads, []
        for each in threads:
            each.stop(5.0)
        self.workers.clear()

    async def restart(self, *, background: bool = True) -> ObjectStore:
        """Stop and start."""
        await self.stop()
        return await self.start(background=background)

    # Time

    async def run(self, coro: Coroutine[Any, Any, T], step_s: float = 0.05) -> T:
        """What a coroutine returns, while time goes on."""
        task = Deferred.fromCoroutine(coro)
        await self.until(lambda: task.called, step_s)
        return await task

    async def until(self, holds: Callable[[], object], step_s: float = 0.05) -> None:
        """Let time go on until something holds.

        :raises AssertionError: it does not within a hundred thousand steps.
        """
        for _ in range(100_000):
            if holds():
                return
            self.clock.advance(step_s)
            await deferLater(reactor, 0)
        raise AssertionError("waited in vain")

    async def settle(self) -> None:
        """Let time go on until every glance, repair and removal has ended."""
        self.clock.advance(2 * GLANCE_DELAY_S)
        periodic = 1 if "sweep" in self.store.background._running.values() else 0
        await self.until(lambda: len(self.store.background) <= periodic)

    async def pass_time(self, seconds: float, step_s: float = 0.1) -> None:
        """Let some time go by."""
        end = self.clock.seconds() + seconds
        await self.until(lambda: self.clock.seconds() >= end, step_s)

    # Objects

    async def put(
        self,
        name: str,
        data: Any,
        *,
        digest: ContentHash | None = None,
        **more: Any,
    ) -> Version:
        """Store an object.

        :param data: bytes, or a source of them.
        """
        source: Any = Bytes(data) if isinstance(data, bytes) else data
        how: dict[str, Any] = {"content_type": "text/plain", "meta": {}} | more
        return await self.store.put(name, source, digest=digest, **how)

    async def get(self, name: str, number: int | None = None) -> bytes:
        """All bytes of an object.

        :raises AssertionError: there was something to be read at once, and it was not that.
        """
        version = await self.store.find(name, number)
        now = self.store.read_now(version)
        reader = await self.store.open(version)
        pieces: list[bytes] = []
        try:
            while batch := await reader.read():
                pieces.extend(bytes(piece) for piece in batch)
        finally:
            await reader.close()
        data = b"".join(pieces)
        assert now is None or now == data
        return data

    # Files

    def shard_files(self, content_hash: ContentHash | None = None) -> dict[int, Path]:
        """The shard files of one content, or of the only one, by index.

        :raises AssertionError: one is there twice.
        """
        found: dict[int, Path] = {}
        for path in self.folders_files("objects"):
            name = ShardName.parse(path.name)
            if name is None or content_hash not in (None, name.content_hash):
                continue
            if name.index in found:
                raise AssertionError(f"shard {name.index} is there twice")
            found[name.index] = path
        return found

    def folders_files(self, kind: str) -> list[Path]:
        """What is in all drives' ``objects``, ``temp`` or ``garbage``."""
        return sorted(path for folder in self.folders for path in (folder / kind).glob("*"))

    def number_of(self, path: Path) -> int:
        """Which drive a file is on, from 1."""
        return self.folders.index(path.parent.parent) + 1

    def away(self, number: int) -> Path:
        """Where a drive is that was pulled."""
        return self.root / f"pulled-{number}"

    def pull(self, number: int) -> None:
        """Take a drive out."""
        os.rename(self.folders[number - 1], self.away(number))

    def put_back(self, number: int) -> None:
        """Put it in again."""
        shutil.rmtree(self.folders[number - 1], ignore_errors=True)
        os.rename(self.away(number), self.folders[number - 1])

    def states(self) -> Sequence[str]:
        """How the drives are."""
        return [drive.node.state.value for drive in self.drives.drives]

    def stall(self, number: int) -> Callable[[], None]:
        """Have a drive hang; call what this returns to have it go on."""
        fault = self.files.hang(str(self.folders[number - 1]), operations={"read_cached"})
        stalled = [self.workers[f"drive-{number}"], self.workers[f"watch-{number}"]]
        for workers in stalled:
            workers.stalled = True

        def go_on() -> None:
            fault.lift()
            for workers in stalled:
                workers.recover()

        return go_on


class MachineCase(AsyncTestCase):
    """A test with a machine, stopped at the end."""

    def new_machine(self, scheme: Scheme = SCHEME, drives: int | None = None) -> Machine:
        """A machine that was not started."""
        root = Path(self.mktemp()).absolute()
        root.mkdir(parents=True)
        machine = Machine(root, scheme, drives)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._end(machine)))
        return machine

    async def _end(self, machine: Machine) -> None:
        await machine.stop()
        shutil.rmtree(machine.root)

    async def started(
        self, scheme: Scheme = SCHEME, drives: int | None = None, *, background: bool = True
    ) -> Machine:
        """A machine that runs."""
        machine = self.new_machine(scheme, drives)
        await machine.start(background=background)
        return machine

    def assert_nothing_kept(self, machine: Machine) -> None:
        """No shard and no unfinished file is on any drive."""
        self.assertEqual(machine.folders_files("objects"), [])
        self.assertEqual(machine.folders_files("temp"), [])

    def assert_whole(self, machine: Machine, version: Version) -> None:
        """All k + m shards are there, each on a drive of its own, and every byte of them is right.

        They are read by the shard file's own parser, not by the store.
        """
        assert version.content is not None
        self.assertEqual(machine.folders_files("temp"), [])
        files = machine.shard_files(version.content.hash)
        self.assertEqual(sorted(files), list(range(version.content.scheme.shards)))
        self.assertEqual(len({path.parent for path in files.values()}), len(files))
        for path in files.values():
            name = ShardName.parse(path.name)
            assert name is not None
            shard = DriveStore(str(path.parent.parent), Files()).open(name)
            self.assertEqual(shard.footer.info.content, version.content)
            shard.read(0, version.content.scheme.stripe_count(version.size))
            shard.close()
