"""Shards that are written over several requests, and several lives of the process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.internet.defer import Deferred
from zope.interface import implementer

from dostore.adapters.node_local import DriveState
from dostore.adapters.temp_files import file_offset, plain_size
from dostore.adapters.temp_shards import _REMEMBERED, ABANDONED_AFTER_S
from dostore.core.scheme import Scheme
from dostore.core.shardfile import PAGE_BLOCKS, PAGE_BYTES, ShardFileBuilder
from dostore.errors import (
    Conflict,
    DostoreError,
    IncompleteBody,
    InvalidRequest,
    NodeUnavailable,
    NoSpace,
    NotFound,
    TooLarge,
)
from dostore.ports import IByteSource, ITempShards, TempAbout
from tests.support.cases import AsyncTestCase, SyncTestCase
from tests.support.data_server import DataServer
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample, sample
from tests.support.stepped import SteppedWorkers

BLOCK = SCHEME.block_size
NOW = 1_790_000_000.0


@implementer(IByteSource)
class Bytes:
    """A source of bytes that then ends, or fails."""

    def __init__(self, data: bytes, error: DostoreError | None = None) -> None:
        self._data = data
        self._error = error

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        taken, self._data = self._data[:size], self._data[size:]
        if not taken and self._error is not None:
            raise self._error
        return taken


class ArithmeticTests(SyncTestCase):
    """Where plain bytes are in a file with pages."""

    def test_against_the_builder(self) -> None:
        """The arithmetic says what the builder of shard files does."""
        builder = ShardFileBuilder(0, SCHEME)
        for blocks in range(2 * PAGE_BLOCKS + 3):
            self.assertEqual(plain_size(builder.size, BLOCK), blocks * BLOCK)
            self.assertEqual(file_offset(blocks * BLOCK, BLOCK), builder.size)
            builder.add([bytes(BLOCK)])

    def test_half_a_page(self) -> None:
        """What there is of a page that was cut holds no plain bytes."""
        group = PAGE_BLOCKS * BLOCK
        for extra in (0, 1, PAGE_BYTES - 1, PAGE_BYTES):
            self.assertEqual(plain_size(group + extra, BLOCK), group)
        self.assertEqual(plain_size(group + PAGE_BYTES + 1, BLOCK), group + 1)


class TempCase(AsyncTestCase):
    """Temporary shards of a drive."""

    def setUp(self) -> None:
        """Make the drive."""
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.files = FaultyFiles()
        self.addCleanup(self.files.lift_all)
        self.now = NOW
        self.workers = SteppedWorkers()
        self.start()

    def start(self) -> None:
        """What a start of the process does."""
        self.server = DataServer(
            self.folder, files=self.files, workers=self.workers, now=lambda: self.now
        )
        self.temp = self.server.temp

    async def begin(self, what: Sample, index: int = 0, *, known: bool = False) -> str:
        """A temporary shard of a sample."""
        content = what.content
        return await self.temp.open(
            TempAbout(index, content.scheme, content.hash, content.size)
            if known
            else TempAbout(index, content.scheme)
        )

    async def append(self, token: str, data: bytes, offset: int | None = None) -> int:
        """Append bytes."""
        return await self.temp.append(token, Bytes(data), offset)

    async def shard(self, what: Sample, index: int) -> bytes:
        """A committed shard."""
        reader = await self.server.node.open(what.content.hash, index)
        try:
            return await reader.read(0, SCHEME.stripe_count(what.content.size))
        finally:
            await reader.close()

    def backdate(self, seconds: float) -> None:
        """Have all that is in temp/ be as old as that."""
        for name in self.server.names("temp"):
            os.utime(self.folder / "temp" / name, (self.now - seconds, self.now - seconds))


class WritingTests(TempCase):
    """Appending, committing and dropping."""

    def test_interface(self) -> None:
        """It provides the port."""
        self.assert_provides(ITempShards, self.temp)

    async def test_any_pieces(self) -> None:
        """Pieces of any length make the same shard as its blocks, with or without restarts."""
        what = sample(37 * SCHEME.stripe_size + 5)
        plain = what.plain(2)
        for step in (1000, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK, len(plain)):
            for restarts in (False, True):
                token = await self.begin(what, 2)
                held = 0
                while held < len(plain):
                    held = await self.append(token, plain[held : held + step], held)
                    if restarts and step > 1000:
                        self.start()
                        self.assertEqual((await self.temp.about(token))[1], held)
                await self.temp.commit(token, what.content, None)
                self.assertEqual(await self.shard(what, 2), plain)
                self.assertEqual(self.server.names("temp"), [])
                await self.server.node.delete(what.content.hash)

    async def test_many_pages(self) -> None:
        """A shard of several pages is taken up again where it was left, on each side of a page."""
        blocks = PAGE_BLOCKS + 40
        what = sample(blocks * SCHEME.stripe_size)
        plain = what.plain(1)
        group = PAGE_BLOCKS * BLOCK
        for cut in (group - 1, group, group + 1):
            token = await self.begin(what, 1)
            await self.append(token, plain[:cut])
            self.start()
            self.assertEqual(await self.append(token, plain[cut:], cut), len(plain))
            pieces, at = [], 0
            while piece := await self.temp.read(token, at, 1 << 30):
                pieces.append(piece)
                at += len(piece)
            self.assertEqual(b"".join(pieces), plain)
            await self.temp.commit(token, what.content, None)
            self.assertEqual(await self.shard(what, 1), plain)

    async def test_a_page_that_was_cut(self) -> None:
        """A process that ended in the middle of writing a page: the page is written again."""
        blocks = PAGE_BLOCKS + 1
        what = sample(blocks * SCHEME.stripe_size)
        plain = what.plain(1)
        group = PAGE_BLOCKS * BLOCK
        token = await self.begin(what, 1)
        await self.append(token, plain[:group])
        os.truncate(self.folder / "temp" / token, group + PAGE_BYTES // 2)
        self.start()
        self.assertEqual(await self.append(token, plain[group:], group), len(plain))
        await self.temp.commit(token, what.content, None)
        self.assertEqual(await self.shard(what, 1), plain)

    async def test_a_block_that_changed(self) -> None:
        """Blocks that are not what their page says are no beginning of anything."""
        what = sample((PAGE_BLOCKS + 1) * SCHEME.stripe_size)
        token = await self.begin(what, 1)
        await self.append(token, what.plain(1))
        with open(self.folder / "temp" / token, "r+b") as file:
            file.write(b"changed")
        self.start()
        with self.assertRaises(NotFound):
            await self.append(token, b"more")
        self.assertEqual(self.server.names("temp"), [])

    async def test_offset(self) -> None:
        """An offset that is not what is held is refused, and changes nothing."""
        token = await self.begin(sample(10 * BLOCK))
        self.assertEqual(await self.append(token, b"abc", 0), 3)
        for offset in (0, 2, 4):
            with self.assertRaises(Conflict):
                await self.append(token, b"def", offset)
        self.assertEqual(await self.append(token, b"def", 3), 6)
        self.assertEqual(await self.temp.read(token, 1, 3), b"bcd")
        self.assertEqual(await self.temp.read(token, 6, 3), b"")

    async def test_a_source_that_fails(self) -> None:
        """What came before is kept, and one can go on from there."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what)
        plain = what.plain(0)
        with self.assertRaises(IncompleteBody):
            await self.temp.append(token, Bytes(plain[:5000], IncompleteBody("gone")), 0)
        self.assertEqual((await self.temp.about(token))[1], 5000)
        await self.append(token, plain[5000:], 5000)
        await self.temp.commit(token, what.content, None)
        self.assertEqual(await self.shard(what, 0), plain)

    async def test_too_much(self) -> None:
        """A shard whose size is known takes no byte more."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what, known=True)
        await self.append(token, what.plain(0))
        with self.assertRaises(TooLarge):
            await self.append(token, b"x")
        await self.temp.commit(token, what.content, None)

    async def test_no_shard_of_it(self) -> None:
        """A commit of too few or other bytes is refused, and nothing is kept."""
        what = sample(10 * SCHEME.stripe_size)
        other = sample(11 * SCHEME.stripe_size, 1)
        cases = (
            (False, what.plain(0)[:-1], what.content, None),
            (False, what.plain(0), other.content, None),
            (True, what.plain(0), other.content, None),
            (False, what.plain(0), sample(10, scheme=Scheme()).content, None),
            (False, what.plain(0), what.content, bytes(32)),
        )
        for known, data, content, digest in cases:
            token = await self.begin(what, known=known)
            await self.append(token, data)
            with self.assertRaises(InvalidRequest):
                await self.temp.commit(token, content, digest)
            self.assertEqual((self.server.names("temp"), self.server.names("objects")), ([], []))
            with self.assertRaises(NotFound):
                await self.temp.about(token)

    async def test_the_right_hash(self) -> None:
        """The hash that a commit is told is that of the file's name."""
        what = sample(10 * SCHEME.stripe_size)
        builder = ShardFileBuilder(3, SCHEME)
        builder.add(what.shards[3])
        token = await self.begin(what, 3)
        await self.append(token, what.plain(3))
        name = builder.finish(what.content)[1]
        await self.temp.commit(token, what.content, name.shard_hash)
        self.assertEqual(self.server.names("objects"), [str(name)])

    async def test_drop(self) -> None:
        """What is dropped is gone, however often; an append that is under way fails."""
        what = sample(100 * SCHEME.stripe_size)
        token = await self.begin(what)
        await self.append(token, b"abc")
        await self.temp.drop(token)
        await self.temp.drop(token)
        self.assertEqual(self.server.names("temp"), [])
        token = await self.begin(what)
        self.workers.stalled = True
        appending = Deferred.fromCoroutine(self.append(token, what.plain(0)))
        self.workers.stalled = False
        await self.temp.drop(token)
        while self.workers.backlog():
            self.workers.step()
        self.failureResultOf(appending, NotFound)
        self.assertEqual(self.server.names("temp"), [])
        self.assertIs(self.server.node.state, DriveState.LIVE)

    async def test_not_while_it_is_committed(self) -> None:
        """A drop that comes in the middle of a commit is refused, and the drive stays as it is."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what)
        await self.append(token, what.plain(0))
        self.workers.stalled = True
        committing = Deferred.fromCoroutine(self.temp.commit(token, what.content, None))
        with self.assertRaises(Conflict):
            await self.temp.drop(token)
        with self.assertRaises(Conflict):
            await self.append(token, b"x")
        self.workers.stalled = False
        while self.workers.backlog():
            self.workers.step()
        self.successResultOf(committing)
        self.assertEqual(await self.shard(what, 0), what.plain(0))

    async def test_strange_tokens(self) -> None:
        """No token leads out of temp/ or to a file that is none."""
        (self.folder / "secret").write_bytes(b"secret")
        (self.folder / "secret.json").write_bytes(b"{}")
        for token in ("", ".", "..", "../secret", "a" * 31, "A" * 32, "a" * 32 + "/", "é" * 32):
            for call in (
                lambda token=token: self.temp.about(token),
                lambda token=token: self.append(token, b""),
                lambda token=token: self.temp.read(token, 0, 1),
                lambda token=token: self.temp.commit(token, sample(1).content, None),
                lambda token=token: self.temp.drop(token),
            ):
                with self.assertRaises(NotFound):
                    await call()
        with self.assertRaises(NotFound):
            await self.temp.about("a" * 32)
        with self.assertRaises(NotFound):
            await self.append("a" * 32, b"")
        self.assertEqual((self.folder / "secret").read_bytes(), b"secret")

    async def test_memory(self) -> None:
        """Only so many are remembered; those that are not go on from their files."""
        what = sample(10 * SCHEME.stripe_size)
        tokens = []
        for number in range(_REMEMBERED + 20):
            tokens.append(await self.begin(what))
            await self.append(tokens[-1], what.plain(0)[:number])
        self.assertLessEqual(len(self.temp._uploads), _REMEMBERED)
        await self.append(tokens[5], what.plain(0)[5:], 5)
        await self.temp.commit(tokens[5], what.content, None)
        self.assertEqual(await self.shard(what, 0), what.plain(0))


class StartTests(TempCase):
    """What a start and the sweep leave."""

    async def test_a_restart(self) -> None:
        """What is known of stays; what is only half there goes."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what, 4, known=True)
        await self.append(token, b"abc")
        temp = self.folder / "temp"
        (temp / ("b" * 32)).write_bytes(b"of a put that was cut")
        (temp / ("c" * 32 + ".json")).write_bytes(b"{}")
        (temp / "probe-1").write_bytes(b"")
        self.start()
        self.assertEqual(self.server.temp_files_removed, 3)
        self.assertEqual(self.server.names("temp"), [token, token + ".json"])
        about, held = await self.temp.about(token)
        self.assertEqual(about, TempAbout(4, SCHEME, what.content.hash, what.content.size))
        self.assertEqual(held, 3)

    async def test_after_a_crash_in_a_commit(self) -> None:
        """The shard is there; what told about it goes with the next start."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what)
        await self.append(token, what.plain(0))
        self.files.fail(str(self.folder.absolute()), errno.EIO, operations={"unlink"})
        await self.temp.commit(token, what.content, None)
        self.assertEqual(self.server.names("temp"), [token + ".json"])
        self.files.lift_all()
        self.start()
        self.assertEqual(self.server.names("temp"), [])
        self.assertEqual(await self.shard(what, 0), what.plain(0))

    async def test_damaged_words(self) -> None:
        """What tells about a shard and cannot be read: the shard is given up."""
        for words in (b"", b"{", b"[]", b'{"index": 1}', b'{"index":1,"scheme":[9],"hash":1}'):
            token = await self.begin(sample(10))
            (self.folder / "temp" / (token + ".json")).write_bytes(words)
            self.start()
            with self.assertRaises(NotFound):
                await self.temp.about(token)
            self.assertEqual(self.server.names("temp"), [])

    async def test_sweep(self) -> None:
        """What nobody has touched for half an hour is removed, and nothing else."""
        what = sample(10 * SCHEME.stripe_size)
        old, young = await self.begin(what), await self.begin(what)
        self.backdate(ABANDONED_AFTER_S + 1)
        os.utime(self.folder / "temp" / young, (self.now, self.now))
        self.assertEqual(await self.temp.sweep(), 2)
        self.assertEqual(self.server.names("temp"), [young, young + ".json"])
        with self.assertRaises(NotFound):
            await self.append(old, b"x")
        self.assertEqual(await self.append(young, b"x"), 1)

    async def test_asking_counts_as_touching(self) -> None:
        """Who asks how much is held means to go on."""
        token = await self.begin(sample(10))
        self.backdate(ABANDONED_AFTER_S + 1)
        # The file's time is the system's, so the sweep's must be too.
        self.now = os.stat(self.folder).st_mtime
        await self.temp.about(token)
        self.assertEqual(await self.temp.sweep(), 0)

    async def test_what_is_in_use_is_spared(self) -> None:
        """However long a write takes, it is not swept away."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what)
        self.backdate(ABANDONED_AFTER_S + 1)
        self.workers.stalled = True
        appending = Deferred.fromCoroutine(self.append(token, what.plain(0)))
        self.workers.stalled = False
        self.assertEqual(await self.temp.sweep(), 0)
        while self.workers.backlog():
            self.workers.step()
        self.successResultOf(appending)


class FaultTests(TempCase):
    """A drive that fails."""

    async def test_full(self) -> None:
        """Of a write that found no room, what fits is kept, and one goes on when there is room."""
        what = sample(64 * SCHEME.stripe_size)
        plain = what.plain(0)
        token = await self.begin(what)
        await self.append(token, plain[: BLOCK + 7])
        fault = self.files.fail(
            str(self.folder.absolute()),
            errno.ENOSPC,
            operations={"write"},
            torn_bytes=3 * BLOCK + 5,
        )
        with self.assertRaises(NoSpace):
            await self.append(token, plain[BLOCK + 7 :])
        fault.lift()
        self.assertIs(self.server.node.state, DriveState.READ_ONLY)
        with self.assertRaises(NodeUnavailable):
            await self.append(token, b"x")
        self.server.node.recover()
        held = (await self.temp.about(token))[1]
        self.assertEqual(await self.temp.read(token, 0, held), plain[:held])
        self.assertEqual(await self.append(token, plain[held:], held), len(plain))
        await self.temp.commit(token, what.content, None)
        self.assertEqual(await self.shard(what, 0), plain)

    async def test_commit_fails(self) -> None:
        """A commit that the drive refuses leaves nothing that counts as there."""
        what = sample(10 * SCHEME.stripe_size)
        for operation in ("sync", "rename", "sync_folder"):
            token = await self.begin(what)
            await self.append(token, what.plain(0))
            fault = self.files.fail(
                str(self.folder.absolute()), errno.EIO, operations={operation}, times=1
            )
            with self.assertRaises(NodeUnavailable):
                await self.temp.commit(token, what.content, None)
            fault.lift()
            self.server.node.recover()
            self.assertEqual((self.server.names("temp"), self.server.names("objects")), ([], []))

    async def test_begin_fails(self) -> None:
        """A drive that takes no file takes no shard."""
        for error, kind in ((errno.ENOSPC, NoSpace), (errno.EIO, NodeUnavailable)):
            self.files.fail(str(self.folder.absolute()), error, operations={"create"}, times=1)
            with self.assertRaises(kind):
                await self.begin(sample(1))
            self.server.node.recover()

    async def test_reads_fail(self) -> None:
        """What cannot be read is an error of the node."""
        token = await self.begin(sample(10 * BLOCK))
        await self.append(token, b"abc")
        self.files.fail(str(self.folder.absolute()), errno.EIO, operations={"pread"}, times=1)
        with self.assertRaises(NodeUnavailable):
            await self.temp.read(token, 0, 3)
        self.server.node.recover()
        self.start()
        self.files.fail(str(self.folder.absolute()), errno.EIO, operations={"pread"}, times=2)
        with self.assertRaises(NodeUnavailable):
            await self.append(token, b"x")
        self.server.node.recover()
        with self.assertRaises(NodeUnavailable):
            await self.temp.about(token)

    async def test_away(self) -> None:
        """Of a drive that is away nothing is asked."""
        token = await self.begin(sample(10))
        self.server.node.degrade(DriveState.AWAY, "gone")
        for call in (
            lambda: self.begin(sample(10)),
            lambda: self.temp.about(token),
            lambda: self.append(token, b"x"),
            lambda: self.temp.commit(token, sample(10).content, None),
            lambda: self.temp.drop(token),
            lambda: self.temp.sweep(),
        ):
            with self.assertRaises(NodeUnavailable):
                await call()
