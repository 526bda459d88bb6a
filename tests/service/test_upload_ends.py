"""The end of a resumable upload: whatever fails, who tries again ends well."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from dostore.core.model import Version
from dostore.errors import (
    Busy,
    DostoreError,
    MetadataUnavailable,
    NoSpace,
    NotFound,
    PreconditionFailed,
    QuorumNotMet,
)
from dostore.ports import CLAIM_S
from dostore.service.uploads import Progress, Wanted
from tests.service.test_damage import content
from tests.service.test_uploads import STRIPE, UploadCase
from tests.service.test_writing import Hooked
from tests.support.machine import Machine


class EndCase(UploadCase):
    """A machine whose metadata can be made to fail, and where no content is complete at once."""

    async def machine(self) -> Machine:
        """It runs."""
        machine = self.new_machine()
        machine.wrap = self.hook
        await machine.start()
        machine.store.uploads._instant = False
        return machine

    def hook(self, metadata: Any) -> Any:
        """See Machine.wrap."""
        self.metadata = Hooked(metadata)
        return self.metadata

    def fail_adds(self, error: DostoreError, times: int = 1000) -> Callable[[], None]:
        """Have the next versions not be made; call what this returns to end that."""
        left = times

        def before() -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                raise error

        def end() -> None:
            nonlocal left
            left = 0

        self.metadata.before = before
        return end

    async def assert_done(self, machine: Machine, data: bytes, progress: Progress) -> None:
        """The upload has become the object's only version, and is whole."""
        version = progress.version
        assert version is not None
        self.assertEqual((progress.held, version.number), (len(data), 1))
        self.assertEqual(await machine.get("a"), data)
        self.assertIsNone(await machine.run(machine.store.metadata.get("a", 2)))
        await machine.settle()
        self.assert_whole(machine, version)


class EndTests(EndCase):
    """Ends that fail, and are tried again without a byte of the content."""

    async def test_metadata_away(self) -> None:
        """Before the end nothing is lost by it; at the end it is waited for; and when that takes
        too long, the client tries again when it is back, through whichever server.
        """
        machine = await self.machine()
        data = content(5 * STRIPE + 3)
        token = await self.open(machine, data)
        self.fail_adds(MetadataUnavailable("away"), 3)
        progress = await self.part(machine, token, 0, data)
        self.assertEqual(self.metadata.adds, 4)
        await self.assert_done(machine, data, progress)

        more = content(6 * STRIPE)
        token = await self.open(machine, more, "b", wanted=Wanted("a/b", {"colour": "blue"}))
        end = self.fail_adds(MetadataUnavailable("away"))
        for _ in range(2):
            await self.refused(MetadataUnavailable, machine, token, 0, more)
            self.assertEqual(await self.held(machine, token), len(more))
        end()
        other = machine.another_server()
        progress = await self.part(machine, token, len(more), b"", store=other)
        version = progress.version
        assert version is not None
        self.assertEqual((version.content_type, version.meta), ("a/b", {"colour": "blue"}))
        self.assertEqual(await machine.get("b"), more)

    async def test_swept_meanwhile(self) -> None:
        """A content that waits for its version may be collected, for nobody refers to it; it is
        given back.
        """
        machine = await self.machine()
        data = content(5 * STRIPE)
        token = await self.open(machine, data)
        end = self.fail_adds(MetadataUnavailable("away"))
        await self.refused(MetadataUnavailable, machine, token, 0, data)
        end()
        await machine.run(machine.store._sweep.run())
        self.assertEqual(machine.folders_files("objects"), [])
        self.assertEqual(await self.held(machine, token), len(data))
        progress = await self.part(machine, token, len(data), b"")
        await self.assert_done(machine, data, progress)

    async def test_the_server_died_before_the_version(self) -> None:
        """Between the last shard and the version: another server makes it, after a restart too."""
        for restart in (False, True):
            machine = await self.machine()
            data = content(3 * STRIPE + 100)
            token = await self.open(machine, data)
            waiter: Deferred[None] = Deferred()

            def wait(waiter: Deferred[None] = waiter) -> Deferred[None]:
                return waiter

            self.metadata.before = wait
            dying = Deferred.fromCoroutine(self.part(machine, token, 0, data))
            await machine.until(lambda: self.metadata.adds == 1)
            other = machine.another_server()
            with self.assertRaises(Busy):
                await self.part(machine, token, len(data), b"", store=other)
            self.metadata.before = lambda: None
            if restart:
                # Its jobs end with it.
                _ = dying.addErrback(lambda _: None)
                waiter.errback(MetadataUnavailable("the process ends"))
                await machine.restart()
                machine.store.uploads._instant = False
                other = machine.store
            else:
                # As if its process had gone: nobody renews or releases any more.
                background: Any = machine.store.uploads._background
                background.run = lambda _, coro: coro.close()
                _ = dying.addErrback(lambda _: None)
                waiter.errback(PreconditionFailed("the process ends"))
                await machine.pass_time(CLAIM_S + 1)
            self.assertEqual(await self.held(machine, token, other), len(data))
            progress = await self.part(machine, token, len(data), b"", store=other)
            assert progress.version is not None
            self.assertEqual(await machine.get("a"), data)

    async def test_the_answer_was_lost_and_what_it_was_about_replaced(self) -> None:
        """Who asks again gets the version that was made, and what came after it stays."""
        machine = await self.machine()
        data = content(STRIPE)
        token = await self.open(machine, data)
        first = await self.part(machine, token, 0, data)
        for number in range(5):
            await machine.run(machine.put("a", b"later %d" % number))
        for _ in range(2):
            self.assertEqual(await self.part(machine, token, 0, data), first)
            progress = await machine.run(machine.store.uploads.progress(token))
            self.assertEqual(progress, first)
        self.assertEqual(await machine.get("a"), b"later 4")

    async def test_records_of_the_end_are_left(self) -> None:
        """When a server dies just after the version, what tells of the end is left on the nodes:
        it makes no second version.
        """
        machine = await self.machine()
        data = content(STRIPE + 5)
        token = await self.open(machine, data)
        uploads: Any = machine.store.uploads
        run = uploads._background.run
        uploads._background.run = lambda _, coro: coro.close()
        first = await self.part(machine, token, 0, data)
        uploads._background.run = run
        self.assertEqual(len(machine.folders_files("temp")), 6)
        await machine.pass_time(CLAIM_S + 1)
        self.assertEqual(await machine.run(uploads.progress(token)), first)
        self.assertEqual(await self.part(machine, token, len(data), b""), first)
        await self.assert_done(machine, data, first)

    async def test_condition(self) -> None:
        """One that fails at the last moment: the upload waits for the time when it holds."""
        machine = await self.machine()
        data = content(3 * STRIPE)
        wanted = Wanted("text/plain", {}, {"if-none-match": ["*"]})
        token = await self.open(machine, data, wanted=wanted)

        async def quicker() -> None:
            self.metadata.before = lambda: None
            await machine.put("a", b"somebody was quicker")

        self.metadata.before = quicker
        await self.refused(PreconditionFailed, machine, token, 0, data)
        await machine.settle()
        self.assertEqual(await machine.get("a"), b"somebody was quicker")
        self.assertEqual(await self.held(machine, token), len(data))
        await self.refused(PreconditionFailed, machine, token, len(data), b"")
        await machine.run(machine.store.delete("a"))
        progress = await self.part(machine, token, len(data), b"")
        assert progress.version is not None
        self.assertEqual((progress.version.number, await machine.get("a")), (3, data))

    async def test_no_room_for_the_footers(self) -> None:
        """Drives that fill up in the very commit: when there is room, only the end is repeated,
        whether or not some shards were committed.
        """
        for numbers in ((1, 2), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6)):
            for size in (3 * STRIPE, 3 * STRIPE + 5):
                machine = await self.machine()
                data = content(size)
                token = await self.open(machine, data)
                self.at_the_end(machine, lambda m=machine, n=numbers: self.fill(m, n))  # type: ignore[misc]
                await self.refused(NoSpace, machine, token, 0, data)
                await self.room_again(machine)
                self.assertEqual(await self.held(machine, token), size)
                progress = await self.part(machine, token, size, b"")
                await self.assert_done(machine, data, progress)

    async def test_drives_fail_at_the_end(self) -> None:
        """Two drives lose their shards in the commit: what is missing is made when they are back,
        and then the end can be repeated.
        """
        machine = await self.machine()
        data = content(3 * STRIPE + 5)
        token = await self.open(machine, data)

        def fail() -> None:
            for folder in machine.folders[:2]:
                machine.files.fail(str(folder), errno.EIO, operations={"rename"}, times=1)

        self.at_the_end(machine, fail)
        await self.refused(QuorumNotMet, machine, token, 0, data)
        await self.room_again(machine)
        self.assertEqual(await self.held(machine, token), len(data))
        progress = await self.part(machine, token, len(data), b"")
        await self.assert_done(machine, data, progress)

    async def test_given_up_at_the_end(self) -> None:
        """An upload that waits for its version can be given up."""
        machine = await self.machine()
        data = content(3 * STRIPE)
        token = await self.open(machine, data)
        end = self.fail_adds(MetadataUnavailable("away"))
        await self.refused(MetadataUnavailable, machine, token, 0, data)
        end()
        await machine.run(machine.store.uploads.drop(token))
        with self.assertRaises(NotFound):
            await self.held(machine, token)
        await machine.run(machine.store._sweep.run())
        self.assert_nothing_kept(machine)

    async def test_stored_by_another(self) -> None:
        """A content that was stored meanwhile needs no shards of this upload; what is left of them
        goes with the version.
        """
        machine = await self.machine()
        data = content(3 * STRIPE + 5)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 2 * STRIPE])
        version = await machine.run(machine.put("other", data))
        end = self.fail_adds(MetadataUnavailable("away"))
        await self.refused(MetadataUnavailable, machine, token, 2 * STRIPE, data[2 * STRIPE :])
        end()
        self.assertEqual(await self.held(machine, token), len(data))
        progress = await self.part(machine, token, len(data), b"")
        self.assertIsInstance(progress.version, Version)
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        self.assert_whole(machine, version)

    def at_the_end(self, machine: Machine, do: Callable[[], None]) -> None:
        """Have something happen when all is there and was found right, once."""
        uploads: Any = machine.store.uploads
        end = uploads._end

        async def then(*arguments: Any) -> Version:
            uploads._end = end
            do()
            version: Version = await end(*arguments)
            return version

        uploads._end = then

    def fill(self, machine: Machine, numbers: tuple[int, ...]) -> None:
        """Leave drives without room."""
        for number in numbers:
            machine.files.fail(
                str(machine.folders[number - 1]), errno.ENOSPC, operations={"write", "create"}
            )

    async def room_again(self, machine: Machine) -> None:
        """Nothing fails any more."""
        machine.files.lift_all()
        await machine.until(lambda: machine.states().count("live") == 6)
