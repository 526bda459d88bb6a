"""Resumable uploads over real drives: parts, breaks, losses, restarts and several servers."""

from __future__ import annotations

import os
import random
from pathlib import Path

from twisted.internet.defer import Deferred

from dostore.core.model import Version
from dostore.core.names import ContentHash
from dostore.errors import (
    Busy,
    DigestMismatch,
    DostoreError,
    IncompleteBody,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
)
from dostore.ports import CLAIM_S
from dostore.service.objects import ObjectStore
from dostore.service.upload_part import BATCH_BYTES, FLUSH_S
from dostore.service.uploads import Progress, Wanted
from tests.service.test_damage import content
from tests.service.test_writing import hash_of
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
