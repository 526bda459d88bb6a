"""Writes that fail, wait, meet each other, or find that what they write is there."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import tracemalloc
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import (
    DigestMismatch,
    DostoreError,
    IncompleteBody,
    MetadataUnavailable,
    NotFound,
    PreconditionFailed,
    QuorumNotMet,
)
from dostore.fanout import gather
from dostore.ports import IMetadataStore
from dostore.service.batches import LEAST_BYTES
from dostore.service.shard_stream import WRITE_GRACE_S, refusal
from tests.service.test_damage import content
from tests.support.machine import SCHEME, Bytes, Machine, MachineCase

SMALL, LARGE = 5000, 3 * LEAST_BYTES + 17


def hash_of(data: bytes) -> ContentHash:
    """The name of a content."""
    return ContentHash(hashlib.sha256(data).digest())


def _run(function: Callable[[], Coroutine[Any, Any, None]]) -> Deferred[None]:
    return Deferred.fromCoroutine(function())


def _same(wait: Deferred[None]) -> Deferred[None]:
    return wait


class Hooked:
    """A metadata store whose ``add`` does something first.

    :ivar before: called before each add; may raise, or give what to wait for.
    :ivar adds: how many were asked for.
    :ivar unaware: so many questions for references are answered as if there were none yet.
    """

    def __init__(self, metadata: IMetadataStore) -> None:
        self._metadata = metadata
        self.before: Callable[[], Any] = lambda: None
        self.adds = 0
        self.unaware = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metadata, name)

    async def add(self, draft: Any, check: Any = None) -> Any:
        """See IMetadataStore."""
        self.adds += 1
        wait = self.before()
        if wait is not None:
            await wait
        return await self._metadata.add(draft, check)

    async def referenced(self, hashes: Any) -> Any:
        """See IMetadataStore."""
        if self.unaware:
            self.unaware -= 1
            return set()
        return await self._metadata.referenced(hashes)


class WritingCase(MachineCase):
    """A machine whose metadata can be made to fail."""

    async def machine(self, scheme: Scheme = SCHEME, drives: int | None = None) -> Machine:
        """It runs."""
        machine = self.new_machine(scheme, drives)
        machine.wrap = self._hook
        await machine.start()
        await machine.settle()
        return machine

    def _hook(self, metadata: IMetadataStore) -> Any:
        self.metadata = Hooked(metadata)
        return self.metadata

    async def assert_gone(self, machine: Machine) -> None:
        """Nothing is left of what failed, and the next write is as if it had not been."""
        await machine.settle()
        self.assert_nothing_kept(machine)
        with self.assertRaises(NotFound):
            await machine.store.find("name")
        for size in (SMALL, LARGE):
            version = await machine.put(f"next{size}", content(size, 99))
            self.assertEqual(version.number, 1)
            self.assertEqual(await machine.get(version.name), content(size, 99))


class RefusedTests(WritingCase):
    """Bodies that are not what they should be."""

    async def test_digest_mismatch(self) -> None:
        """A body that is not its digest's leaves nothing."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            with self.assertRaises(DigestMismatch):
                await machine.put("name", content(size), digest=hash_of(b"another"))
        await self.assert_gone(machine)

    async def test_digest(self) -> None:
        """A body that is its digest's is stored where everybody would look for it."""
        machine = await self.machine()
        for size in (0, SMALL, LARGE):
            data = content(size)
            version = await machine.put("name", data, digest=hash_of(data))
            self.assert_whole(machine, version)

    async def test_body_cut_short(self) -> None:
        """A client that goes away in the middle leaves nothing, wherever that is."""
        machine = await self.machine()
        for size in (0, SMALL, LEAST_BYTES, LARGE):
            with self.assertRaises(IncompleteBody):
                await machine.put("name", Bytes(content(size), IncompleteBody("It ended.")))
        await self.assert_gone(machine)

    async def test_cancelled(self) -> None:
        """A write that is cancelled while its body arrives leaves nothing."""
        machine = await self.machine()
        never: Deferred[bytes] = Deferred()

        class Stuck(Bytes):
            async def read(self, size: int) -> bytes:
                piece = await super().read(size)
                return piece or await never

        writing = Deferred.fromCoroutine(machine.put("name", Stuck(content(2 * LEAST_BYTES))))
        self.assertEqual(len(machine.folders_files("temp")), 6)
        writing.cancel()
        self.failureResultOf(writing, CancelledError)
        await self.assert_gone(machine)

    async def test_precondition(self) -> None:
        """A condition that does not hold any more leaves nothing."""
        machine = await self.machine()

        def refuse(_: object) -> None:
            raise PreconditionFailed("It does not hold.")

        for size in (SMALL, LARGE):
            with self.assertRaises(PreconditionFailed):
                await machine.put("name", content(size), check=refuse)
        await self.assert_gone(machine)


class OtherServerTests(WritingCase):
    """Another API server, which knows nothing of the leases here, has the same content in hand."""

    async def test_removed_before_the_version(self) -> None:
        """A content that was found, and then removed as nobody's, is back when it has a version."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            stored = await machine.put(f"first{size}", content(size))
            assert stored.content is not None
            content_hash = stored.content.hash

            async def remove(content_hash: ContentHash = content_hash) -> None:
                for member in machine.drives.members():
                    await member.node.delete(content_hash)
                self.assertEqual(machine.shard_files(content_hash), {})

            self.metadata.before = partial(_run, remove)
            version = await machine.put(f"second{size}", content(size))
            self.metadata.before = lambda: None
            self.assert_whole(machine, version)

    async def test_version_made_before_the_removal(self) -> None:
        """A content is brought back when a version was made of it while it was removed."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            version = await machine.put(f"theirs{size}", content(size))

            def fail() -> None:
                self.metadata.before = lambda: None
                raise MetadataUnavailable("Not now.")

            self.metadata.before, self.metadata.unaware = fail, 1
            with self.assertRaises(MetadataUnavailable):
                await machine.put(f"ours{size}", content(size))
            await machine.settle()
            self.assertEqual(self.metadata.unaware, 0)
            self.assert_whole(machine, version)


class MetadataFailsTests(WritingCase):
    """The shards are committed, and then there is no version."""

    def fail_once(self) -> None:
        """The next add fails."""

        def fail() -> None:
            self.metadata.before = lambda: None
            raise MetadataUnavailable("Not now.")

        self.metadata.before = fail

    async def test_nothing_is_kept(self) -> None:
        """The shards are removed again."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            self.fail_once()
            with self.assertRaises(MetadataUnavailable):
                await machine.put("name", content(size))
        await self.assert_gone(machine)

    async def test_another_version_refers_to_it(self) -> None:
        """They stay when they are another version's as well."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            version = await machine.put(f"kept{size}", content(size))
            self.fail_once()
            with self.assertRaises(MetadataUnavailable):
                await machine.put("name", content(size))
            await machine.settle()
            self.assert_whole(machine, version)

    async def test_another_write_is_under_way(self) -> None:
        """They stay when a write of the same bytes is about to refer to them, however they meet."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            data = content(size)
            first: Deferred[None] = Deferred()
            self.metadata.before = partial(_same, first)
            failing = Deferred.fromCoroutine(machine.put("failing", data))
            await machine.until(lambda: self.metadata.adds == 1)
            second: Deferred[None] = Deferred()
            self.metadata.before = partial(_same, second)
            kept = Deferred.fromCoroutine(machine.put("kept", data))
            await machine.until(lambda: self.metadata.adds == 2)
            first.errback(MetadataUnavailable("Not now."))
            with self.assertRaises(MetadataUnavailable):
                await failing
            second.callback(None)
            version = await kept
            await machine.settle()
            self.assertEqual(await machine.get("kept"), data)
            self.assert_whole(machine, version)

    async def test_many_race(self) -> None:
        """Of many writes of few contents, half of which fail, all that succeeded can be read."""
        machine = await self.machine()
        calls = 0

        def every_second() -> None:
            nonlocal calls
            calls += 1
            if calls % 2:
                raise MetadataUnavailable("Not now.")

        self.metadata.before = every_second
        outcomes = await gather(
            [machine.put(f"name{number}", content(SMALL, number % 5)) for number in range(60)]
        )
        await machine.settle()
        kept = [number for number, outcome in enumerate(outcomes) if outcome.ok]
        self.assertEqual(len(kept), 30)
        for number in kept:
            self.assertEqual(await machine.get(f"name{number}"), content(SMALL, number % 5))

    def asked(self, number: int) -> bool:
        """Whether so many adds were asked for."""
        return self.metadata.adds >= number

    def made(self, machine: Machine, number: int) -> bool:
        """Whether so many versions were made."""
        return machine.store.stats.puts >= number

    async def test_client_gone_while_the_version_is_made(self) -> None:
        """A version that is made although nobody waits for it any more has its content."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            wait: Deferred[None] = Deferred()
            self.metadata.before = partial(_same, wait)
            writing = Deferred.fromCoroutine(machine.put(f"n{size}", content(size)))
            await machine.until(partial(self.asked, 1 + (size == LARGE)))
            writing.cancel()
            self.failureResultOf(writing, CancelledError)
            wait.callback(None)
            await machine.until(partial(self.made, machine, 1 + (size == LARGE)))
            await machine.settle()
            self.assertEqual(await machine.get(f"n{size}"), content(size))


class StoredTests(WritingCase):
    """Contents that are there already."""

    async def test_written_once(self) -> None:
        """A name more costs one metadata write, renews the shards and writes none."""
        for size in (0, SMALL, LARGE):
            machine = await self.machine()
            data = content(size)
            await machine.put("one", data)
            for path in machine.folders_files("objects"):
                os.utime(path, (1.0, 1.0))
            before, adds = machine.shard_files(), self.metadata.adds
            machine.files.calls.clear()
            version = await machine.put("two", data)
            await machine.put("three", data, digest=hash_of(data))
            calls = {call for call, path in machine.files.calls}
            self.assertEqual(self.metadata.adds, adds + 2)
            self.assertEqual(machine.shard_files(), before)
            self.assertEqual(calls & {"sync", "sync_folder", "rename"}, set())
            self.assertTrue(all(path.stat().st_mtime > 1.0 for path in before.values()))
            self.assert_whole(machine, version)
            self.assertEqual(machine.store.stats.deduplicated, 2)

    async def test_one_missing(self) -> None:
        """What lacks a shard, or has a damaged one, is whole after it was stored again."""
        machine = await self.machine()
        for size in (SMALL, LARGE):
            for digest in (None, hash_of(content(size))):
                version = await machine.put("one", content(size))
                files = machine.shard_files(version.contents[0].hash)
                files[1].unlink()
                await machine.put("two", content(size), digest=digest)
                await machine.settle()
                self.assert_whole(machine, version)

    async def test_one_missing_for_one_writer_of_two(self) -> None:
        """What lacks a shard is made whole for the writer who gets a version, although another of
        the same content gets none meanwhile."""
        machine = await self.machine()
        writer = machine.store._writer
        fault = machine.files.fail(str(machine.folders[2]), errno.EIO, operations={"create"})
        source: Callable[[], Any] = partial(Bytes, content(SMALL))
        one = await machine.run(writer.write(source(), None))
        two = await machine.run(writer.write(source(), None))
        self.assertEqual(len(machine.shard_files()), 5)
        fault.lift()
        # The drive is back, and whoever looked for what is missing on it has passed.
        await machine.pass_time(10.0)
        writer.discard(one, False)
        writer.keep(two)
        await machine.settle()
        self.assertEqual(len(machine.shard_files()), 6)

    async def test_too_few_left(self) -> None:
        """What is lost is stored anew, and the old version can be read again."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            version = await machine.put("one", content(size))
            files = machine.shard_files()
            for index in (0, 1, 2):
                files[index].unlink()
            await machine.put("two", content(size))
            await machine.settle()
            self.assert_whole(machine, version)
            self.assertEqual(await machine.get("one"), content(size))

    async def test_a_drive_is_away(self) -> None:
        """A content is stored once also while a drive is away."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            version = await machine.put("one", content(size))
            machine.pull(2)
            await machine.pass_time(3.0)
            count = len(machine.folders_files("objects"))
            await machine.put("two", content(size))
            self.assertEqual(len(machine.folders_files("objects")), count)
            machine.put_back(2)
            await machine.pass_time(3.0)
            await machine.settle()
            self.assert_whole(machine, version)

    async def test_deleted_and_stored_again(self) -> None:
        """What was removed is taken back from garbage rather than written."""
        machine = await self.machine()

        def fail() -> None:
            raise MetadataUnavailable("Not now.")

        self.metadata.before = fail
        with self.assertRaises(MetadataUnavailable):
            await machine.put("one", content(SMALL))
        await machine.settle()
        self.assert_nothing_kept(machine)
        self.metadata.before = lambda: None
        version = await machine.put("one", content(SMALL))
        self.assertEqual(machine.store.stats.deduplicated, 1)
        self.assert_whole(machine, version)

    async def test_at_the_same_time(self) -> None:
        """Many writers of the same bytes at the same time store them once."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            outcomes = await gather(
                [machine.put(f"n{number}", content(size)) for number in range(8)]
            )
            await machine.settle()
            self.assertEqual([outcome.error for outcome in outcomes], [None] * 8)
            self.assert_whole(machine, outcomes[0].value)


class DriveFailsTests(WritingCase):
    """Drives that fail while a content is written."""

    async def assert_degraded(self, machine: Machine, data: bytes, failing: int = 1) -> None:
        """The write succeeds with shards missing, which are made when the drives are well."""
        version = await machine.put("name", data)
        self.assertEqual(machine.store.stats.degraded_writes, 1)
        self.assertEqual(len(machine.shard_files(version.contents[0].hash)), 6 - failing)
        self.assertEqual(await machine.get("name"), data)
        machine.files.lift_all()
        await machine.pass_time(3.0)
        await machine.settle()
        self.assert_whole(machine, version)
        self.assertEqual(machine.states(), ["live"] * 6)

    async def test_full_in_the_middle(self) -> None:
        """A drive that is full in the middle of a stream is done without, and cleaned."""
        for after in (0, 1, 2):
            machine = await self.machine()
            machine.files.fail(
                str(machine.folders[2]),
                errno.ENOSPC,
                operations={"write"},
                after=after,
                torn_bytes=10,
            )
            await self.assert_degraded(machine, content(LARGE))

    async def test_small_on_a_full_drive(self) -> None:
        """The same for what is written in one step."""
        for operation in ("create", "write", "sync", "sync_folder"):
            machine = await self.machine()
            machine.files.fail(str(machine.folders[2]), errno.ENOSPC, operations={operation})
            await self.assert_degraded(machine, content(SMALL))

    async def test_two_full(self) -> None:
        """Two full drives are one too many: a clear error, nothing left, the next write is fine."""
        for size, operation in ((LARGE, "write"), (SMALL, "write"), (LARGE, "sync_folder")):
            machine = await self.machine()
            for number in (3, 5):
                machine.files.fail(
                    str(machine.folders[number - 1]), errno.ENOSPC, operations={operation}
                )
            with self.assertRaises(DostoreError) as caught:
                await machine.put("name", content(size))
            self.assertIn("drive-3, drive-5", caught.exception.detail)
            self.assertIn("no space left", caught.exception.detail)
            machine.files.lift_all()
            await machine.pass_time(3.0)
            await self.assert_gone(machine)

    async def test_too_many_open_files(self) -> None:
        """EMFILE fails the write clearly and no drive is blamed."""
        machine = await self.machine()
        machine.files.fail(str(machine.root), errno.EMFILE, operations={"create"})
        for size in (SMALL, LARGE):
            with self.assertRaises(QuorumNotMet):
                await machine.put("name", content(size))
        self.assertEqual(machine.states(), ["live"] * 6)
        machine.files.lift_all()
        await self.assert_gone(machine)

    async def test_hung(self) -> None:
        """A drive that hangs is waited for only so long; its shard is made when it goes on."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            go_on = machine.stall(4)
            writing = Deferred.fromCoroutine(machine.put("name", content(size)))
            machine.clock.pump([0.1] * round(10 * WRITE_GRACE_S + 1))
            version = await writing
            self.assertEqual(await machine.get("name"), content(size))
            await machine.pass_time(10.0)
            go_on()
            await machine.pass_time(10.0)
            await machine.settle()
            self.assert_whole(machine, version)

    async def test_two_hung(self) -> None:
        """Two that hang are one too many; nothing is left when they go on."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            going_on = [machine.stall(number) for number in (1, 4)]
            writing = Deferred.fromCoroutine(machine.put("name", content(size)))
            machine.clock.pump([0.1] * 100)
            self.failureResultOf(writing, DostoreError)
            for go_on in going_on:
                go_on()
            await machine.pass_time(10.0)
            await machine.run(machine.store._sweep.run())
            await self.assert_gone(machine)


class QuorumTests(WritingCase):
    """How many drives a write takes."""

    async def pulled(self, machine: Machine, *numbers: int) -> None:
        """Take drives out."""
        for number in numbers:
            machine.pull(number)
        await machine.pass_time(3.0)

    async def test_one_away(self) -> None:
        """With k + 1 drives a write is taken; its last shard is made when the drive is back."""
        for size in (SMALL, LARGE):
            machine = await self.machine()
            await self.pulled(machine, 6)
            version = await machine.put("name", content(size))
            self.assertEqual(len(machine.shard_files()), 5)
            machine.put_back(6)
            await machine.pass_time(3.0)
            await machine.settle()
            self.assert_whole(machine, version)

    async def test_one_away_and_a_restart(self) -> None:
        """Also when the drive, or an empty one in its place, comes back with a restart."""
        for empty in (False, True):
            machine = await self.machine()
            await self.pulled(machine, 6)
            versions = [await machine.put(f"n{size}", content(size)) for size in (SMALL, LARGE)]
            await machine.stop()
            if empty:
                machine.folders[5].mkdir()
            else:
                machine.put_back(6)
            await machine.start()
            await machine.settle()
            for version in versions:
                self.assert_whole(machine, version)

    async def test_two_away(self) -> None:
        """With k drives it is refused before the body is read, with the numbers."""
        machine = await self.machine()
        await self.pulled(machine, 5, 6)

        def read() -> None:
            raise AssertionError("the body was read")

        for size in (SMALL, LARGE):
            with self.assertRaises(QuorumNotMet) as caught:
                await machine.put("name", Bytes(content(size), between=read))
            self.assertIn("4 of 6 nodes", caught.exception.detail)
            self.assertIn("needs 5", caught.exception.detail)
            self.assertEqual(sorted(caught.exception.outcomes), ["drive-5", "drive-6"])

    def test_nobody_failed(self) -> None:
        """Where those that are missing were not even tried, none is named."""
        error = refusal({}, 4, 5)
        self.assertEqual(
            error.detail, "4 nodes took their shard; a write needs 5. Try again later."
        )

    async def test_raised_quorum(self) -> None:
        """A quorum of all takes all."""
        machine = self.new_machine()
        machine.quorum = 6
        await machine.start()
        await self.pulled(machine, 6)
        with self.assertRaises(QuorumNotMet):
            await machine.put("name", content(SMALL))

    async def test_other_schemes(self) -> None:
        """The quorum of other schemes."""
        for scheme, away, taken in [
            (Scheme(1, 0, 4096), 0, True),
            (Scheme(2, 1, 4096), 0, True),
            (Scheme(2, 1, 4096), 1, False),
            (Scheme(8, 3, 4096), 2, True),
            (Scheme(8, 3, 4096), 3, False),
        ]:
            machine = await self.machine(scheme)
            await self.pulled(machine, *range(1, away + 1))
            if taken:
                await machine.put("name", content(SMALL))
                self.assertEqual(await machine.get("name"), content(SMALL))
            else:
                with self.assertRaises(QuorumNotMet):
                    await machine.put("name", content(SMALL))


class SpareTests(WritingCase):
    """More drives than shards."""

    async def test_spread(self) -> None:
        """No drive has two shards of a content, and every drive has some."""
        machine = await self.machine(drives=8)
        versions = [await machine.put(f"n{n}", content(100, n)) for n in range(40)]
        for version in versions:
            self.assert_whole(machine, version)
        for folder in machine.folders:
            self.assertGreater(len(os.listdir(folder / "objects")), 10)

    async def test_spare_is_used(self) -> None:
        """With a drive away a write is whole on the others; what it had is made there too."""
        for size in (SMALL, LARGE):
            machine = await self.machine(drives=8)
            before = await machine.put("before", content(size, 1))
            lost = machine.number_of(machine.shard_files()[0])
            machine.pull(lost)
            await machine.pass_time(3.0)
            after = await machine.put("after", content(size, 2))
            self.assert_whole(machine, after)
            self.assertEqual(await machine.get("before"), content(size, 1))
            await machine.settle()
            self.assert_whole(machine, before)


class MemoryTests(WritingCase):
    """A stream holds a few batches, however long it is."""

    async def test_put_and_get(self) -> None:
        """64 MiB in and out with no more than a few MiB of it alive at any time."""
        machine = await self.machine(Scheme(4, 2))
        total, piece_bytes = 64 << 20, 1 << 20
        alive: list[int] = []

        class Source:
            left = total

            async def read(self, size: int) -> bytes:
                size = min(size, self.left)
                self.left -= size
                alive.append(tracemalloc.get_traced_memory()[0])
                return self.left.to_bytes(8, "big") * (size // 8)

            read_some = read

        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        base = tracemalloc.get_traced_memory()[0]
        version = await machine.put("name", Source())
        reader = await machine.store.open(version)
        hasher = hashlib.sha256()
        while batch := await reader.read():
            for piece in batch:
                hasher.update(piece)
            alive.append(tracemalloc.get_traced_memory()[0])
        await reader.close()
        self.assertEqual(hasher.digest(), version.contents[0].hash.digest)
        self.assertEqual(version.size, total)
        self.assertLess(max(alive) - base, 16 * piece_bytes)
