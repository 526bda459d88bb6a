"""Resumable uploads over real drives: parts, breaks, losses, restarts and several servers."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

from twisted.internet.defer import Deferred

from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.errors import (
    Busy,
    DigestMismatch,
    DostoreError,
    IncompleteBody,
    InvalidRequest,
    MetadataUnavailable,
    NotFound,
    PreconditionFailed,
    QuorumNotMet,
    RangeNotSatisfiable,
    Unavailable,
)
from dostore.ports import CLAIM_S
from dostore.service.objects import ObjectStore
from dostore.service.uploads import BATCH_BYTES, FLUSH_S, Progress, Wanted
from tests.service.test_damage import content
from tests.service.test_writing import Hooked, hash_of
from tests.support.machine import SCHEME, Bytes, Machine, MachineCase

STRIPE = SCHEME.stripe_size
GONE = IncompleteBody("The client went away.")
PLAIN = Wanted("text/plain")


class Dripping:
    """A source of which bytes come when a test says so."""

    def __init__(self) -> None:
        self._data = b""
        self._ended = False
        self._waiter: Deferred[None] | None = None

    def feed(self, data: bytes) -> None:
        """More has come; none: that was all."""
        self._data += data
        self._ended = not data
        if self._waiter is not None and not self._waiter.called:
            self._waiter.callback(None)

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        if not self._data and not self._ended:
            self._waiter = Deferred()
            await self._waiter
        taken, self._data = self._data[:size], self._data[size:]
        return taken


class UploadCase(MachineCase):
    """A machine, and what a client does with it."""

    async def open(
        self,
        machine: Machine,
        data: bytes,
        name: str = "a",
        wanted: Wanted = PLAIN,
        digest: ContentHash | None = None,
    ) -> str:
        """The token of a new upload."""
        opened = await machine.run(
            machine.store.uploads.open(name, digest or hash_of(data), len(data), wanted)
        )
        assert isinstance(opened, str), opened
        return opened

    async def part(
        self,
        machine: Machine,
        token: str,
        first: int,
        data: bytes,
        error: DostoreError | None = None,
        store: ObjectStore | None = None,
        length: int | None = None,
    ) -> Progress:
        """Send a part."""
        uploads = (store or machine.store).uploads
        return await machine.run(
            uploads.receive(token, first, length, Bytes(data, error))  # type: ignore[arg-type]
        )

    async def held(self, machine: Machine, token: str, store: ObjectStore | None = None) -> int:
        """How much is held."""
        progress = await machine.run((store or machine.store).uploads.progress(token))
        return progress.held

    async def refused(
        self, kind: type[DostoreError], machine: Machine, token: str, first: int, data: bytes
    ) -> DostoreError:
        """The error that a part meets."""
        with self.assertRaises(kind) as caught:
            await self.part(machine, token, first, data)
        error: DostoreError = caught.exception
        return error


class PartTests(UploadCase):
    """Parts that come one after the other."""

    async def test_the_walk(self) -> None:
        """100,000 bytes: half of them, what is held, an overlap, a gap, and the object."""
        machine = await self.started()
        data = content(100_000)
        token = await self.open(machine, data)
        self.assertEqual(await self.held(machine, token), 0)
        self.assertEqual(await self.part(machine, token, 0, data[:50_000]), Progress(50_000))
        self.assertEqual(await self.held(machine, token), 50_000)
        gap = await self.refused(RangeNotSatisfiable, machine, token, 60_000, data[60_000:])
        assert isinstance(gap, RangeNotSatisfiable)
        self.assertEqual(gap.size, 50_000)
        progress = await self.part(machine, token, 32_000, data[32_000:])
        assert progress.version is not None
        self.assertEqual((progress.held, progress.version.number), (100_000, 1))
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        self.assert_whole(machine, progress.version)

    async def test_sizes(self) -> None:
        """At every size near a border, in parts of every length, with and without restarts."""
        machine = await self.started(background=False)
        sizes = (0, 1, STRIPE - 1, STRIPE, STRIPE + 1, 3 * STRIPE, BATCH_BYTES + STRIPE + 7)
        for number, size in enumerate(sizes):
            data = content(size) if size < 100 else random.Random(size).randbytes(size)
            for step in (1, STRIPE - 1, STRIPE, 2 * STRIPE + 5, size):
                if step == 0 or (size // step > 40):
                    continue
                name = f"{number}-{step}"
                token = await self.open_anew(machine, data, name)
                at = 0
                while at < size:
                    progress = await self.part(machine, token, at, data[at : at + step])
                    at = progress.held
                    if step > 1:
                        await machine.restart(background=False)
                if not size:
                    progress = await self.part(machine, token, 0, b"")
                self.assertEqual(await machine.get(name), data)

    async def open_anew(self, machine: Machine, data: bytes, name: str) -> str:
        """An upload of a content that may be stored already."""
        machine.store.uploads._instant = False
        return await self.open(machine, data, name)

    async def test_what_is_kept_with_it(self) -> None:
        """Content-Type and metadata of the POST are those of the version."""
        machine = await self.started()
        data = content(5000)
        wanted = Wanted("image/png", {"colour": "blue"})
        token = await self.open(machine, data, wanted=wanted)
        version = (await self.part(machine, token, 0, data)).version
        assert version is not None
        self.assertEqual((version.content_type, version.meta), ("image/png", {"colour": "blue"}))

    async def test_wrong_hash(self) -> None:
        """The upload is given up, and nothing is kept."""
        machine = await self.started()
        data = content(3 * STRIPE + 5)
        token = await self.open(machine, data, digest=hash_of(b"another"))
        await self.part(machine, token, 0, data[:STRIPE])
        await self.refused(DigestMismatch, machine, token, STRIPE, data[STRIPE:])
        with self.assertRaises(NotFound):
            await self.held(machine, token)
        await machine.settle()
        self.assert_nothing_kept(machine)

    async def test_wrong_hash_of_what_was_sent_to_another(self) -> None:
        """A server that did not see all of the bytes reads them back, and knows as well."""
        machine = await self.started()
        data = content(9 * STRIPE + 5)
        other = machine.another_server()
        token = await self.open(machine, data, digest=hash_of(b"another"))
        await self.part(machine, token, 0, data[: 5 * STRIPE], store=other)
        await self.refused(DigestMismatch, machine, token, 5 * STRIPE, data[5 * STRIPE :])

    async def test_too_much(self) -> None:
        """More bytes than were announced are refused, before they are read when that is known."""
        machine = await self.started()
        data = content(2 * STRIPE)
        token = await self.open(machine, data)
        with self.assertRaises(InvalidRequest):
            await self.part(machine, token, 1, b"", length=len(data))
        await self.refused(InvalidRequest, machine, token, 0, data + b"x")
        progress = await self.part(machine, token, 0, data)
        self.assertIsNotNone(progress.version)

    async def test_instant(self) -> None:
        """A content that is stored needs no upload, unless that is turned off."""
        machine = await self.started()
        data = content(5000)
        await machine.run(machine.put("before", data))
        opened = await machine.run(machine.store.uploads.open("a", hash_of(data), 5000, PLAIN))
        assert isinstance(opened, Version)
        self.assertEqual(await machine.get("a"), data)
        # Who does not even know its size does not have it.
        self.assertIsInstance(
            await machine.run(machine.store.uploads.open("b", hash_of(data), 4999, PLAIN)), str
        )
        machine.store.uploads._instant = False
        token = await self.open(machine, data, "c")
        with self.assertRaises(NotFound):
            await machine.run(machine.store.find("c"))
        await self.part(machine, token, 0, data)
        self.assertEqual(await machine.get("c"), data)

    async def test_stored_meanwhile(self) -> None:
        """A content that somebody else stored in the meantime is stored once."""
        machine = await self.started()
        data = content(5 * STRIPE)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[:STRIPE])
        version = await machine.run(machine.put("other", data))
        await self.part(machine, token, STRIPE, data[STRIPE:])
        await machine.settle()
        self.assertEqual(await machine.get("a"), data)
        self.assert_whole(machine, version)

    async def test_given_up(self) -> None:
        """Nothing is left of it."""
        machine = await self.started()
        data = content(5 * STRIPE)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[:STRIPE])
        await machine.run(machine.store.uploads.drop(token))
        for call in (machine.store.uploads.progress, machine.store.uploads.drop):
            with self.assertRaises(NotFound):
                await machine.run(call(token))
        await self.refused(NotFound, machine, token, STRIPE, data[STRIPE:])
        self.assert_nothing_kept(machine)

    async def test_conditions(self) -> None:
        """They hold when it is opened and when it is complete."""
        machine = await self.started()
        data = content(5000)
        wanted = Wanted("text/plain", {}, {"if-none-match": ["*"]})
        token = await self.open(machine, data, wanted=wanted)
        await machine.run(machine.put("a", b"somebody was quicker"))
        await self.refused(PreconditionFailed, machine, token, 0, data)
        self.assertEqual(await machine.get("a"), b"somebody was quicker")
        with self.assertRaises(PreconditionFailed):
            await self.open(machine, data, wanted=wanted)

    async def test_the_last_answer_was_lost(self) -> None:
        """Who asks again after the completion learns of it, and no other version is made."""
        machine = await self.started()
        data = content(5000)
        token = await self.open(machine, data)
        first = await self.part(machine, token, 0, data)
        self.assertEqual(await self.held(machine, token), 5000)
        again = await self.part(machine, token, 5000, b"")
        self.assertEqual(again, first)
        # But not of one that was made before, of the same content.
        await machine.pass_time(200.0, 5.0)
        machine.store.uploads._instant = False
        later = await self.open(machine, data)
        await machine.run(machine.store.uploads.drop(later))
        with self.assertRaises(NotFound):
            await self.held(machine, later)


class BrokenTests(UploadCase):
    """Lines that break, and servers that die."""

    async def test_every_byte_counts(self) -> None:
        """However many bytes came before the line broke, they are held."""
        machine = await self.started()
        data = content(12 * STRIPE + 99)
        token = await self.open(machine, data)
        at = 0
        for length in (1, 5, STRIPE - 6, STRIPE, STRIPE + 1, 3 * STRIPE + 500, 2 * STRIPE):
            with self.assertRaises(IncompleteBody):
                await self.part(machine, token, at, data[at : at + length], GONE)
            at += length
            self.assertEqual(await self.held(machine, token), at)
            await machine.restart()
            self.assertEqual(await self.held(machine, token), at)
        # All is there when the line breaks: it is complete, whether or not anybody hears of it.
        progress = await self.part(machine, token, at, data[at:], GONE)
        self.assertIsNotNone(progress.version)
        self.assertEqual(await machine.get("a"), data)

    async def test_a_slow_line(self) -> None:
        """What came is safe after some seconds, although the part goes on."""
        machine = await self.started()
        data = content(3 * STRIPE)
        token = await self.open(machine, data)
        source = Dripping()
        receiving = Deferred.fromCoroutine(
            machine.store.uploads.receive(token, 0, None, source)  # type: ignore[arg-type]
        )
        source.feed(data[: STRIPE + 10])
        other = machine.another_server()
        await machine.pass_time(FLUSH_S + 1)
        self.assertEqual(await self.held(machine, token, other), STRIPE + 10)
        source.feed(data[STRIPE + 10 :])
        source.feed(b"")
        await machine.until(lambda: receiving.called)
        self.assertEqual((await receiving).held, len(data))
        self.assertEqual(await machine.get("a"), data)

    async def test_two_at_once(self) -> None:
        """One part is received, the other is told to wait; through another server too."""
        machine = await self.started()
        data = content(4 * STRIPE)
        token = await self.open(machine, data)
        other = machine.another_server()
        source = Dripping()
        receiving = Deferred.fromCoroutine(
            machine.store.uploads.receive(token, 0, None, source)  # type: ignore[arg-type]
        )
        await machine.pass_time(1.0)
        # Longer than a claim lasts by itself.
        for _ in range(5):
            for store in (machine.store, other):
                with self.assertRaises(Busy):
                    await self.part(machine, token, 0, b"x" * 100, store=store)
            await machine.pass_time(CLAIM_S / 3, 0.5)
        source.feed(data)
        source.feed(b"")
        await machine.until(lambda: receiving.called)
        self.assertEqual(await machine.get("a"), data)

    async def test_a_server_that_died(self) -> None:
        """Its claim runs out, and another server goes on from what was safe."""
        machine = await self.started()
        data = content(4 * STRIPE)
        token = await self.open(machine, data)
        other = machine.another_server()
        source = Dripping()
        dying = Deferred.fromCoroutine(
            other.uploads.receive(token, 0, None, source)  # type: ignore[arg-type]
        )
        source.feed(data[: 2 * STRIPE])
        await machine.pass_time(FLUSH_S + 1)
        # As if its process had gone: nobody renews or releases any more.
        other.uploads._background.run = lambda _, coro: coro.close()  # type: ignore
        dying.cancel()
        self.failureResultOf(dying)
        await machine.pass_time(CLAIM_S + 1)
        self.assertEqual(await self.held(machine, token), 2 * STRIPE)
        await self.part(machine, token, 2 * STRIPE, data[2 * STRIPE :])
        self.assertEqual(await machine.get("a"), data)

    async def test_swept(self) -> None:
        """What nobody goes on with is gone after its time, and not before."""
        machine = await self.started()
        machine.store.uploads._ttl_s = 3600
        data = content(4 * STRIPE)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[:STRIPE])
        # The files' times are the system's.
        for path in machine.folders_files("temp"):
            self.touch(path, machine.now() - 3500)
        await machine.pass_time(60.0, 5.0)
        self.assertTrue(machine.folders_files("temp"))
        for path in machine.folders_files("temp"):
            self.touch(path, machine.now() - 3700)
        await machine.pass_time(60.0, 5.0)
        with self.assertRaises(NotFound):
            await self.held(machine, token)
        self.assert_nothing_kept(machine)

    @staticmethod
    def touch(path: Path, when: float) -> None:
        """Set a file's time."""
        os.utime(path, (when, when))


class LossTests(UploadCase):
    """Nodes that fail meanwhile."""

    def break_drives(self, machine: Machine, numbers: Sequence[int]) -> None:
        """Have drives fail every write."""
        for number in numbers:
            machine.files.fail(
                str(machine.folders[number - 1]), errno.EIO, operations={"write", "create", "sync"}
            )

    async def test_two_drives_are_pulled(self) -> None:
        """What is held is still held with two drives away, and can be gone on with when enough are
        back; the object is whole in the end.
        """
        machine = await self.started()
        data = content(20 * STRIPE + 77)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 7 * STRIPE + 5])
        for pulled in ((1, 2), (5, 6)):
            for number in pulled:
                machine.pull(number)
            await machine.until(lambda: machine.states().count("away") == 2)
            self.assertEqual(await self.held(machine, token), 7 * STRIPE + 5)
            await self.refused(QuorumNotMet, machine, token, 7 * STRIPE + 5, data[7 * STRIPE + 5 :])
            for number in pulled:
                machine.put_back(number)
            await machine.until(lambda: machine.states().count("live") == 6)
        progress = await self.part(machine, token, 7 * STRIPE + 5, data[7 * STRIPE + 5 :])
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        assert progress.version is not None
        self.assert_whole(machine, progress.version)

    async def test_a_drive_that_was_away_catches_up(self) -> None:
        """A shard that lags is rebuilt from others, so that another drive may be away next."""
        machine = await self.started()
        data = content(40 * STRIPE)
        token = await self.open(machine, data)
        for turn, number in enumerate((1, 4, 6, 2)):
            machine.pull(number)
            await machine.until(lambda: machine.states().count("away") == 1)
            at = turn * 9 * STRIPE
            await self.part(machine, token, at, data[at : at + 9 * STRIPE])
            machine.put_back(number)
            await machine.until(lambda: machine.states().count("live") == 6)
        progress = await self.part(machine, token, 36 * STRIPE, data[36 * STRIPE :])
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        assert progress.version is not None
        self.assert_whole(machine, progress.version)

    async def test_too_many_fail(self) -> None:
        """With two drives that fail in the middle it is an error, and what was safe is held."""
        machine = await self.started()
        data = content(20 * STRIPE)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 3 * STRIPE])
        self.break_drives(machine, (2, 3))
        with self.assertRaises(Unavailable):
            await self.part(machine, token, 3 * STRIPE, data[3 * STRIPE :])
        machine.files.lift_all()
        await machine.until(lambda: machine.states().count("live") == 6)
        self.assertGreaterEqual(await self.held(machine, token), 3 * STRIPE)
        held = await self.held(machine, token)
        await self.part(machine, token, held, data[held:])
        self.assertEqual(await machine.get("a"), data)

    async def test_damage(self) -> None:
        """A shard that decayed meanwhile is seen when its bytes are read back."""
        machine = await self.started()
        data = content(20 * STRIPE + 5)
        other = machine.another_server()
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 15 * STRIPE], store=other)
        for path in machine.folders_files("temp"):
            if path.parent.parent == machine.folders[0] and "." not in path.name:
                with open(path, "r+b") as file:
                    file.seek(5000)
                    file.write(b"decayed")
        await self.part(machine, token, 15 * STRIPE, data[15 * STRIPE :])
        self.assertEqual(await machine.get("a"), data)

    async def test_metadata_away(self) -> None:
        """Before the end nothing is lost by it; at the end it is waited for."""
        machine = self.new_machine()
        hooked: list[Hooked] = []

        def wrap(metadata: object) -> Hooked:
            hooked.append(Hooked(metadata))  # type: ignore[arg-type]
            return hooked[-1]

        machine.wrap = wrap  # type: ignore[assignment]
        await machine.start()
        data = content(5 * STRIPE)
        token = await self.open(machine, data)
        failures = 3

        def fail() -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise MetadataUnavailable("away")

        hooked[-1].before = fail
        progress = await self.part(machine, token, 0, data)
        self.assertEqual(hooked[-1].adds, 4)
        self.assertIsNotNone(progress.version)
        # Away for longer: the content is kept, and another upload of it complete at once.
        more = content(6 * STRIPE)
        token = await self.open(machine, more, "b")
        failures = 1000
        await self.refused(MetadataUnavailable, machine, token, 0, more)
        failures = 0
        opened = await machine.run(machine.store.uploads.open("b", hash_of(more), len(more), PLAIN))
        self.assertIsInstance(opened, Version)
        self.assertEqual(await machine.get("b"), more)

    async def test_at_random(self) -> None:
        """Whatever happens, in whatever order: what was acknowledged is held as long as no more
        than one drive is away, and the object is right in the end.
        """
        for seed in range(12):
            with self.subTest(seed=seed):
                await self.random_walk(random.Random(seed))

    async def random_walk(self, chance: random.Random) -> None:
        """One upload through many troubles."""
        machine = await self.started(background=False)
        data = chance.randbytes(chance.randrange(1, 60 * STRIPE))
        token = await self.open(machine, data)
        acknowledged = at = 0
        version: Version | None = None
        other = machine.another_server()
        for _ in range(400):
            trouble = chance.randrange(10)
            if trouble == 0 and machine.states().count("away") == 0:
                number = chance.randrange(6) + 1
                machine.pull(number)
                await machine.until(lambda: machine.states().count("away") == 1)
            elif trouble == 1 and machine.states().count("away"):
                number = machine.states().index("away") + 1
                machine.put_back(number)
                await machine.until(lambda: machine.states().count("live") == 6)
            elif trouble == 2 and not machine.states().count("away"):
                await machine.restart(background=False)
                other = machine.another_server()
            store = chance.choice([machine.store, other])
            at = await self.held(machine, token, store)
            self.assertGreaterEqual(at, acknowledged)
            first = max(0, at - chance.choice([0, 0, 1, 3000, STRIPE]))
            length = chance.choice([1, 100, 5000, STRIPE, 4 * STRIPE, 15 * STRIPE + 3])
            error = GONE if chance.random() < 0.3 else None
            try:
                progress = await self.part(
                    machine, token, first, data[first : at + length], error, store
                )
            except IncompleteBody:
                acknowledged = max(acknowledged, at)
                continue
            acknowledged = max(acknowledged, progress.held)
            if progress.version is not None:
                version = progress.version
                break
        assert version is not None, "it never came to an end"
        self.assertEqual(await machine.get("a"), data)
        self.assertEqual(version.content, Content(hash_of(data), len(data), SCHEME))
        await machine.stop()
