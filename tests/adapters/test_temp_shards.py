"""Shards that are written over several requests, and several lives of the process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from dostore.adapters import temp_shards
from dostore.adapters.node_local import DriveState
from dostore.adapters.temp_shards import _REMEMBERED, _STEP_BYTES, ABANDONED_AFTER_S, TempShards
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ENTRY_BYTES, PAGE_BLOCKS, PAGE_BYTES, ShardFileBuilder
from dostore.errors import (
    BadShard,
    Conflict,
    DostoreError,
    IncompleteBody,
    InvalidRequest,
    NodeUnavailable,
    NoSpace,
    NotFound,
    TooLarge,
)
from dostore.ports import IByteSource, ITempShards, Tail, TempAbout
from tests.support.cases import AsyncTestCase
from tests.support.data_server import DataServer
from tests.support.faults import FaultyFiles
from tests.support.shards import SCHEME, Sample, sample
from tests.support.stepped import SteppedWorkers

BLOCK = SCHEME.block_size
NOW = 1_790_000_000.0
OWNER = "0" * 32


@implementer(IByteSource)
class Bytes:
    """A source of bytes that then ends, or fails.

    :ivar rest: more bytes, when they come.
    """

    def __init__(self, data: bytes, error: DostoreError | None = None) -> None:
        self._data = data
        self._error = error
        self.rest: Deferred[bytes] | None = None

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        if len(self._data) < size and self._error is not None:
            raise self._error
        return await self.read_some(size)

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        if not self._data and self.rest is not None:
            rest, self.rest = self.rest, None
            return await rest
        taken, self._data = self._data[:size], self._data[size:]
        if not taken and self._error is not None:
            raise self._error
        return taken


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
        self.clock = Clock()
        self.start()

    def start(self) -> None:
        """What a start of the process does."""
        self.server = DataServer(
            self.folder,
            files=self.files,
            workers=self.workers,
            clock=self.clock,
            now=lambda: self.now,
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
            return bytes(await reader.read(0, SCHEME.stripe_count(what.content.size)))
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
                token = await self.begin(what, 2, known=restarts)
                held = 0
                while held < len(plain):
                    held = await self.append(token, plain[held : held + step], held)
                    if restarts and step >= BLOCK:
                        self.start()
                        whole = held if held == len(plain) else held // BLOCK * BLOCK
                        held = (await self.temp.about(token)).held
                        self.assertEqual(held, whole)
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
            held = (await self.temp.about(token)).held
            self.assertEqual(held, cut // BLOCK * BLOCK)
            self.assertEqual(await self.append(token, plain[held:], held), len(plain))
            pieces, at = [], 0
            while piece := await self.temp.read(token, at, 1 << 30):
                pieces.append(piece)
                at += len(piece)
            self.assertEqual(b"".join(pieces), plain)
            await self.temp.commit(token, what.content, None)
            self.assertEqual(await self.shard(what, 1), plain)

    async def test_a_page_that_was_cut(self) -> None:
        """When a page is not all there, the block before it is written again, and the page."""
        blocks = PAGE_BLOCKS + 1
        what = sample(blocks * SCHEME.stripe_size)
        plain = what.plain(1)
        group = PAGE_BLOCKS * BLOCK
        token = await self.begin(what, 1)
        await self.append(token, plain[:group])
        os.truncate(self.folder / "temp" / token, group + PAGE_BYTES // 2)
        self.start()
        held = (await self.temp.about(token)).held
        self.assertEqual(held, group - BLOCK)
        self.assertEqual(await self.append(token, plain[held:], held), len(plain))
        await self.temp.commit(token, what.content, None)
        self.assertEqual(await self.shard(what, 1), plain)

    async def test_a_block_that_changed(self) -> None:
        """A block that is not what was appended is not read; the others are."""
        what = sample((PAGE_BLOCKS + 4) * SCHEME.stripe_size)
        plain = what.plain(1)
        for at in (0, 5 * BLOCK + 7, PAGE_BLOCKS * BLOCK + PAGE_BYTES + 3):
            token = await self.begin(what, 1)
            await self.append(token, plain)
            with open(self.folder / "temp" / token, "r+b") as file:
                file.seek(at)
                file.write(b"changed")
            block = (at - (PAGE_BYTES if at > PAGE_BLOCKS * BLOCK else 0)) // BLOCK
            for restart in (False, True):
                if restart:
                    self.start()
                with self.assertRaises(BadShard):
                    await self.temp.read(token, block * BLOCK + 1, 1)
                self.assertEqual(
                    await self.temp.read(token, (block + 1) * BLOCK, BLOCK),
                    plain[(block + 1) * BLOCK : (block + 2) * BLOCK],
                )
            await self.temp.drop(token)

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

    async def test_while_it_is_written(self) -> None:
        """Nobody is told of what is being appended: it may be in no file yet, so that it would not
        be held any more after the process was killed.
        """
        token = await self.begin(sample(10 * BLOCK))
        await self.append(token, bytes(3 * BLOCK))
        rest: Deferred[bytes] = Deferred()
        source = Bytes(bytes(_STEP_BYTES))
        source.rest = rest
        appending = Deferred.fromCoroutine(self.temp.append(token, source, 3 * BLOCK))
        self.assertEqual((await self.temp.about(token)).held, 3 * BLOCK)
        rest.callback(b"end")
        held = 3 * BLOCK + _STEP_BYTES + 3
        self.assertEqual(self.successResultOf(appending), held)
        self.assertEqual((await self.temp.about(token)).held, held)

    async def test_a_source_that_fails(self) -> None:
        """What came before is kept, and one can go on from there."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what)
        plain = what.plain(0)
        with self.assertRaises(IncompleteBody):
            await self.temp.append(token, Bytes(plain[:5000], IncompleteBody("gone")), 0)
        self.assertEqual((await self.temp.about(token)).held, 5000)
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
        self.patch(temp_shards, "_STEP_BYTES", 256 * 1024)
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
                lambda token=token: self.temp.claim(token, OWNER),
                lambda token=token: self.temp.release(token, OWNER),
                lambda token=token: self.temp.cut(token, 0),
                lambda token=token: self.temp.settle(token, None),
            ):
                with self.assertRaises(NotFound):
                    await call()
            if token:
                with self.assertRaises(InvalidRequest):
                    await self.temp.open(TempAbout(0, SCHEME), token)
        with self.assertRaises(NotFound):
            await self.temp.about("a" * 32)
        with self.assertRaises(NotFound):
            await self.append("a" * 32, b"")
        self.assertEqual((self.folder / "secret").read_bytes(), b"secret")

    async def test_memory(self) -> None:
        """Only so many are remembered, and all with a part of a block; others go on from files."""
        what = sample(10 * SCHEME.stripe_size)
        tokens = []
        for number in range(_REMEMBERED + 20):
            tokens.append(await self.begin(what))
            await self.append(tokens[-1], what.plain(0)[: BLOCK if number % 2 else number])
        await self.append(tokens[5], what.plain(0)[BLOCK:], BLOCK)
        await self.append(tokens[4], what.plain(0)[4:], 4)
        pending = [upload for upload in self.temp._uploads.values() if upload.pending]
        self.assertLessEqual(len(self.temp._uploads), max(_REMEMBERED, len(pending) + 1))
        for token in tokens[4:6]:
            await self.temp.commit(token, what.content, None)
            self.assertEqual(await self.shard(what, 0), what.plain(0))


class StartTests(TempCase):
    """What a start and the sweep leave."""

    async def test_a_restart(self) -> None:
        """What is known of stays; what is only half there goes."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what, 4, known=True)
        await self.append(token, what.plain(4)[: 2 * BLOCK + 3])
        temp = self.folder / "temp"
        (temp / ("b" * 32)).write_bytes(b"of a put that was cut")
        (temp / ("c" * 32 + ".json")).write_bytes(b"{}")
        (temp / "probe-1").write_bytes(b"")
        self.start()
        self.assertEqual(self.server.temp_files_removed, 2)
        left = [token, token + ".index", token + ".json", "c" * 32 + ".json"]
        self.assertEqual(self.server.names("temp"), sorted(left))
        with self.assertRaises(NotFound):
            await self.temp.about("c" * 32)
        state = await self.temp.about(token)
        self.assertEqual(state.about, TempAbout(4, SCHEME, what.content.hash, what.content.size))
        self.assertEqual((state.held, state.tail), (2 * BLOCK, None))

    async def test_after_a_crash_in_a_commit(self) -> None:
        """The shard is there; what told about it is swept."""
        what = sample(10 * SCHEME.stripe_size)
        token = await self.begin(what)
        await self.append(token, what.plain(0))
        self.files.fail(str(self.folder.absolute()), errno.EIO, operations={"unlink"})
        await self.temp.commit(token, what.content, None)
        self.assertEqual(self.server.names("temp"), [token + ".index", token + ".json"])
        self.files.lift_all()
        self.start()
        with self.assertRaises(NotFound):
            await self.temp.about(token)
        self.backdate(ABANDONED_AFTER_S + 1)
        self.assertEqual(await self.temp.sweep(), 1)
        self.assertEqual(self.server.names("temp"), [])
        self.assertEqual(await self.shard(what, 0), what.plain(0))

    async def test_committed_is_swept(self) -> None:
        """That a shard was committed is forgotten after as long as it was to be kept; the shard
        stays. Of one that was removed meanwhile nothing is known.
        """
        what = sample(10 * SCHEME.stripe_size)
        content = what.content
        for deleted in (False, True):
            about = TempAbout(0, content.scheme, content.hash, content.size, b"", 60)
            token = await self.temp.open(about)
            await self.append(token, what.plain(0))
            self.backdate(50)
            await self.temp.commit(token, content, None)
            self.assertEqual(self.server.names("temp"), [token + ".json"])
            self.now = os.stat(self.folder).st_mtime + 59
            self.assertEqual(await self.temp.sweep(), 0)
            self.assertTrue((await self.temp.about(token)).committed)
            if deleted:
                await self.server.node.discard(content.hash, 0)
                with self.assertRaises(NotFound):
                    await self.temp.about(token)
            self.backdate(61)
            self.assertEqual(await self.temp.sweep(), 1)
            self.assertEqual(self.server.names("temp"), [])
        self.assertEqual(self.server.names("objects"), [])

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
        self.assertEqual(await self.temp.sweep(), 1)
        self.assertEqual(self.server.names("temp"), [young, young + ".index", young + ".json"])
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
        sweeping = Deferred.fromCoroutine(self.temp.sweep())
        self.workers.recover()
        self.assertEqual(await sweeping, 0)
        self.successResultOf(appending)


class PowerCutTests(TempCase):
    """A start of the machine takes away what was not settled, whatever the files' sizes say."""

    boot = "one"

    def start(self) -> None:
        """See TempCase; with what tells this start of the machine from others."""
        super().start()
        self.temp = self.server.node.temps = TempShards(
            self.server.node, lambda: self.now, self.clock, self.boot
        )

    def reboot(self) -> None:
        """Another start of the machine."""
        self.boot += "+"
        self.start()

    async def state(self, token: str) -> tuple[int, Tail | None]:
        """How much is held, and the tail."""
        state = await self.temp.about(token)
        return state.held, state.tail

    async def test_settled(self) -> None:
        """What was settled stays, with its tail; what came after it goes."""
        what = sample(40 * SCHEME.stripe_size)
        plain = what.plain(2)
        token = await self.begin(what, 2, known=True)
        await self.append(token, plain[: 5 * BLOCK])
        tail = Tail(20 * BLOCK, b"short of a stripe")
        await self.temp.settle(token, tail)
        await self.append(token, plain[5 * BLOCK : 9 * BLOCK])
        self.start()
        self.assertEqual(await self.state(token), (9 * BLOCK, tail))
        self.reboot()
        self.assertEqual(await self.state(token), (5 * BLOCK, tail))
        await self.append(token, plain[5 * BLOCK : 7 * BLOCK])
        self.start()
        self.assertEqual(await self.state(token), (7 * BLOCK, tail))
        await self.temp.settle(token, None)
        await self.append(token, plain[7 * BLOCK :])
        self.reboot()
        self.assertEqual(await self.state(token), (7 * BLOCK, None))
        await self.append(token, plain[7 * BLOCK :], 7 * BLOCK)
        await self.temp.commit(token, what.content, None)
        self.assertEqual(await self.shard(what, 2), plain)

    async def test_never_settled(self) -> None:
        """Then nothing counts."""
        token = await self.begin(sample(40 * SCHEME.stripe_size))
        await self.append(token, bytes(3 * BLOCK))
        self.reboot()
        self.assertEqual(await self.state(token), (0, None))

    async def test_cut(self) -> None:
        """What was appended after a cut is not settled, even where something was before it."""
        token = await self.begin(sample(40 * SCHEME.stripe_size))
        await self.append(token, bytes(6 * BLOCK))
        await self.temp.settle(token, None)
        await self.temp.cut(token, 2 * BLOCK)
        await self.append(token, b"x" * (6 * BLOCK))
        self.reboot()
        self.assertEqual(await self.state(token), (2 * BLOCK, None))

    async def test_damaged_state(self) -> None:
        """When what was settled cannot be told, the tail is lost, and all of another boot."""
        for words in (b"", b"{}\n", b'{"boot":"one","blocks":3,"start":0,"check":"00"}\nx'):
            token = await self.begin(sample(40 * SCHEME.stripe_size))
            await self.append(token, bytes(3 * BLOCK))
            await self.temp.settle(token, Tail(0, b"x"))
            (self.folder / "temp" / (token + ".state")).write_bytes(words)
            self.start()
            self.assertEqual(await self.state(token), (3 * BLOCK, None))
            self.reboot()
            self.assertEqual(await self.state(token), (0, None))

    async def test_damaged_index(self) -> None:
        """An entry that cannot be, and what comes after it, does not count."""
        for at, damage in ((0, b"\0\0\0\0"), (3 * ENTRY_BYTES, b"\xff"), (0, b"\1\0\0\1")):
            token = await self.begin(sample(40 * SCHEME.stripe_size))
            await self.append(token, bytes(5 * BLOCK))
            with open(self.folder / "temp" / (token + ".index"), "r+b") as file:
                file.seek(at + (2 if len(damage) == 1 else 0))
                file.write(damage)
            self.start()
            self.assertEqual(await self.state(token), (at // ENTRY_BYTES * BLOCK, None))
            self.assertEqual(
                await self.append(token, bytes(BLOCK), None), at // ENTRY_BYTES * BLOCK + BLOCK
            )

    async def test_settle_syncs(self) -> None:
        """The shard, its index, what tells about it and the folder are synced before it returns."""
        token = await self.begin(sample(40 * SCHEME.stripe_size))
        await self.append(token, bytes(BLOCK))
        self.files.calls.clear()
        await self.temp.settle(token, Tail(0, b"x"))
        synced = {os.path.basename(path) for call, path in self.files.calls if call == "sync"}
        self.assertEqual(synced, {token, token + ".index", token + ".json", token + ".state.new"})
        self.assertIn(("sync_folder", str(self.folder.absolute() / "temp")), self.files.calls)

    async def test_settle_fails(self) -> None:
        """A drive that cannot sync says so, and what was settled before stays."""
        token = await self.begin(sample(40 * SCHEME.stripe_size))
        await self.append(token, bytes(BLOCK))
        await self.temp.settle(token, Tail(4 * BLOCK, b"x"))
        await self.append(token, bytes(BLOCK))
        for error, kind in ((errno.EIO, NodeUnavailable), (errno.ENOSPC, NoSpace)):
            fault = self.files.fail(str(self.folder.absolute()), error, operations={"sync"})
            with self.assertRaises(kind):
                await self.temp.settle(token, Tail(8 * BLOCK, b"y"))
            fault.lift()
            self.server.node.recover()
        self.reboot()
        self.assertEqual(await self.state(token), (BLOCK, Tail(4 * BLOCK, b"x")))

    async def test_loading_is_shared(self) -> None:
        """Two who ask for a shard that is not in memory take it up once."""
        what = sample(40 * SCHEME.stripe_size)
        token = await self.begin(what)
        await self.append(token, what.plain(0))
        self.start()
        self.workers.stalled = True
        first = Deferred.fromCoroutine(self.temp.about(token))
        second = Deferred.fromCoroutine(self.append(token, b"", None))
        third = Deferred.fromCoroutine(self.temp.about(token))
        first.cancel()
        self.assertEqual(self.workers.backlog(), 1)
        self.workers.stalled = False
        while self.workers.backlog():
            self.workers.step()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.successResultOf(second), len(what.plain(0)))
        self.assertEqual(self.successResultOf(third).held, len(what.plain(0)))


class KeepTests(TempCase):
    """How long each is kept."""

    async def test_each_its_own(self) -> None:
        """One that is to be kept longer, or shorter, than others is."""
        about = TempAbout(0, SCHEME, note=b"a note", keep_s=86_400)
        long = await self.temp.open(about)
        short = await self.temp.open(TempAbout(0, SCHEME, keep_s=5))
        other = await self.begin(sample(10))
        self.backdate(10.0)
        self.assertEqual(await self.temp.sweep(), 1)
        self.backdate(ABANDONED_AFTER_S + 1)
        self.assertEqual(await self.temp.sweep(), 1)
        for token in (short, other):
            with self.assertRaises(NotFound):
                await self.temp.about(token)
        self.assertEqual((await self.temp.about(long)).about, about)
        self.backdate(86_401.0)
        self.assertEqual(await self.temp.sweep(), 1)
        self.assertEqual(self.server.names("temp"), [])


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
        held = (await self.temp.about(token)).held
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

    async def test_no_room_for_the_end(self) -> None:
        """A shard that is to be kept is committed when there is room again."""
        what = sample(10 * SCHEME.stripe_size)
        content = what.content
        token = await self.temp.open(
            TempAbout(0, content.scheme, content.hash, content.size, b"", 60)
        )
        await self.append(token, what.plain(0))
        for torn in (0, 100):
            fault = self.files.fail(
                str(self.folder.absolute()),
                errno.ENOSPC,
                operations={"write"},
                torn_bytes=torn,
            )
            with self.assertRaises(NoSpace):
                await self.temp.commit(token, content, None)
            fault.lift()
            self.server.node.recover()
        self.assertEqual((await self.temp.about(token)).held, len(what.plain(0)))
        await self.temp.commit(token, content, None)
        self.assertEqual(await self.shard(what, 0), what.plain(0))

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
        await self.append(token, bytes(BLOCK))
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
