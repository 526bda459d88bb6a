"""Resumable uploads whose nodes fail meanwhile, for a while or for good."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from dostore.core.model import Content, Version
from dostore.core.stripes import StripeCoder
from dostore.core.upload_token import UploadToken, node_id
from dostore.errors import Busy, IncompleteBody, NoSpace, QuorumNotMet, Unavailable
from dostore.ports import CLAIM_S
from dostore.service.uploads import Progress
from tests.service.test_damage import content
from tests.service.test_uploads import GONE, STRIPE, Dripping, UploadCase
from tests.service.test_writing import hash_of
from tests.support.machine import SCHEME, Bytes, Machine


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

    async def test_lost_for_good(self) -> None:
        """Two nodes that are lost for good, and others later: shards are begun anew elsewhere,
        where every server finds them.
        """
        machine = await self.started(drives=9)
        data = content(40 * STRIPE + 5)
        token = await self.open(machine, data)
        at = 0
        for turn, lost in enumerate((0, 2, 1, 1)):
            for number in self.keepers(machine, token)[:lost]:
                machine.pull(number)
            away = machine.states().count("away") + lost
            await machine.until(lambda away=away: machine.states().count("away") == away)  # type: ignore[misc]
            store = machine.another_server() if turn % 2 else machine.store
            self.assertEqual(await self.held(machine, token, store), at)
            part = data[at : at + 9 * STRIPE + 1]
            self.assertEqual(
                await self.part(machine, token, at, part, store=store), Progress(at + len(part))
            )
            at += len(part)
            self.assertGreaterEqual(len(self.keepers(machine, token)), 5)
            if turn == 2:
                await machine.restart()
        progress = await self.part(machine, token, at, data[at:])
        self.assertIsNotNone(progress.version)
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        self.assertEqual(machine.folders_files("temp"), [])

    async def test_back_from_the_dead(self) -> None:
        """Nodes that come back with less than others have by then do no harm, and help as far as
        they can.
        """
        machine = await self.started(drives=8)
        data = content(40 * STRIPE + 5)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 5 * STRIPE])
        first = self.keepers(machine, token)
        at = 5 * STRIPE
        for pulled in (first[:2], first[2:4], first[4:6]):
            for number in pulled:
                machine.pull(number)
            await machine.until(lambda: machine.states().count("away") == 2)
            self.assertEqual(await self.held(machine, token), at)
            await self.part(machine, token, at, data[at : at + 9 * STRIPE])
            at += 9 * STRIPE
            for number in pulled:
                machine.put_back(number)
            await machine.until(lambda: machine.states().count("live") == 8)
            self.assertEqual(await self.held(machine, token, machine.another_server()), at)
            # This brings them in step: before, as few had all as there must be.
            await self.part(machine, token, at, b"")
        progress = await self.part(machine, token, at, data[at:])
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        assert progress.version is not None
        self.assert_whole(machine, progress.version)

    async def test_empty_drives_in_their_place(self) -> None:
        """Two drives are replaced by empty ones: their shards are made again on those."""
        machine = await self.started()
        data = content(20 * STRIPE + 5)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 9 * STRIPE + 3])
        for number in (2, 5):
            machine.pull(number)
        await machine.until(lambda: machine.states().count("away") == 2)
        for number in (2, 5):
            machine.folders[number - 1].mkdir()
        await machine.until(lambda: machine.states().count("live") == 6)
        self.assertEqual(await self.held(machine, token), 9 * STRIPE + 3)
        progress = await self.part(machine, token, 9 * STRIPE + 3, data[9 * STRIPE + 3 :])
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        assert progress.version is not None
        self.assert_whole(machine, progress.version)

    async def test_opened_with_a_node_away(self) -> None:
        """A node that was away at the opening takes the place of another that is lost later."""
        machine = await self.started()
        data = content(20 * STRIPE + 5)
        machine.pull(3)
        await machine.until(lambda: machine.states().count("away") == 1)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 9 * STRIPE + 3])
        machine.put_back(3)
        await machine.until(lambda: machine.states().count("live") == 6)
        machine.pull(6)
        await machine.until(lambda: machine.states().count("away") == 1)
        progress = await self.part(machine, token, 9 * STRIPE + 3, data[9 * STRIPE + 3 :])
        self.assertIsNotNone(progress.version)
        self.assertEqual(await machine.get("a"), data)

    async def test_other_bytes_before(self) -> None:
        """A node got bytes that no others kept, missed that they were sent again, otherwise, and
        came back: nothing of them is in the object.
        """
        for more in (1, 7, 12):
            await self.walk_with_other_bytes(more)

    async def walk_with_other_bytes(self, more: int) -> None:
        """The same, with so many blocks that are others."""
        machine = await self.started()
        data = content(30 * STRIPE + 5)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 3 * STRIPE])
        opened = self.opened(machine, token)
        drives = {node_id(drive.node.address): drive for drive in machine.drives.drives}
        drive = drives[opened.nodes[2] or b""]
        block = SCHEME.block_size
        wrong: Any = Bytes(b"?" * (more * block))
        await drive.node.temps.append(opened.shard_token(2), wrong, 3 * block, "0" * 32)
        machine.pull(drive.number)
        await machine.until(lambda: machine.states().count("away") == 1)
        await self.part(machine, token, 3 * STRIPE, data[3 * STRIPE : 10 * STRIPE])
        await machine.pass_time(CLAIM_S + 1)
        machine.put_back(drive.number)
        await machine.until(lambda: machine.states().count("live") == 6)
        self.assertEqual(await self.held(machine, token), 10 * STRIPE)
        progress = await self.part(machine, token, 10 * STRIPE, data[10 * STRIPE :])
        assert progress.version is not None
        await machine.settle()
        self.assert_whole(machine, progress.version)
        reader = await drive.node.open(opened.hash, 2)
        found = await reader.read(0, 31)
        await reader.close()
        self.assertEqual(found, b"".join(StripeCoder(SCHEME).encode(data)[2]))

    async def test_servers_that_died_one_after_the_other(self) -> None:
        """Each has brought its first bytes to some nodes only: what all had before is held."""
        machine = await self.started()
        data = content(30 * STRIPE + 5)
        token = await self.open(machine, data)
        opened = self.opened(machine, token)
        shards = StripeCoder(SCHEME).encode(data)
        nodes = {node_id(d.node.address): d.node for d in machine.drives.drives}
        held = 9
        for owner, writes in ("a" * 32, range(6)), ("b" * 32, range(3)), ("c" * 32, (1, 4)):
            for index in writes:
                temps, shard = nodes[opened.nodes[index] or b""].temps, opened.shard_token(index)
                at = (await temps.about(shard)).held
                blocks: Any = Bytes(b"".join(shards[index][at // SCHEME.block_size :][:held]))
                await temps.append(shard, blocks, at, owner)
            await machine.pass_time(CLAIM_S + 1)
            self.assertGreaterEqual(await self.held(machine, token), held * STRIPE)
        progress = await self.part(machine, token, 9 * STRIPE, data[9 * STRIPE :])
        assert progress.version is not None
        self.assertEqual(await machine.get("a"), data)
        await machine.settle()
        self.assert_whole(machine, progress.version)

    async def test_full_drives(self) -> None:
        """Drives that fill up in the middle of a part are named; what was safe is held, and one
        goes on when there is room.
        """
        machine = await self.started()
        data = content(60 * STRIPE)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[: 3 * STRIPE + 9])
        for folder in machine.folders[:2]:
            machine.files.fail(
                str(folder), errno.ENOSPC, operations={"write", "create"}, torn_bytes=5000
            )
        error = await self.refused(NoSpace, machine, token, 3 * STRIPE + 9, data[3 * STRIPE + 9 :])
        self.assertIn("drive-1, drive-2 have no space left", str(error))
        self.assertGreaterEqual(await self.held(machine, token), 3 * STRIPE + 9)
        machine.files.lift_all()
        await machine.until(lambda: machine.states().count("live") == 6)
        held = await self.held(machine, token)
        await self.part(machine, token, held, data[held:])
        self.assertEqual(await machine.get("a"), data)

    async def test_a_node_that_hangs(self) -> None:
        """It is left out of the part, and the claim on the others does not run out for it."""
        machine = await self.started()
        data = content(20 * STRIPE)
        token = await self.open(machine, data)
        source = Dripping()
        receiving = Deferred.fromCoroutine(
            machine.store.uploads.receive(token, 0, None, source)  # type: ignore[arg-type]
        )
        source.feed(data[: 3 * STRIPE])
        await machine.pass_time(1.0)
        go_on = machine.stall(4)
        other = machine.another_server()
        for _ in range(10):
            with self.assertRaises(Busy):
                await self.part(machine, token, 0, b"x" * 100, store=other)
            await machine.pass_time(CLAIM_S / 3, 0.5)
        source.feed(data[3 * STRIPE :])
        source.feed(b"")
        await machine.until(lambda: receiving.called)
        self.assertIsNotNone((await receiving).version)
        self.assertEqual(await machine.get("a"), data)
        go_on()

    def opened(self, machine: Machine, token: str) -> UploadToken:
        """What a token says."""
        return UploadToken.open(token, b"a key that outlives the process.", machine.now())

    def keepers(self, machine: Machine, token: str) -> list[int]:
        """Which drives have a shard of the upload now, by the shards' indexes."""
        opened = self.opened(machine, token)
        found = []
        for index in range(6):
            name = opened.shard_token(index)
            found += [
                number
                for number, folder in enumerate(machine.folders, 1)
                if (folder / "temp" / name).exists()
            ]
        return found

    async def test_at_random(self) -> None:
        """Whatever happens, in whatever order: what was acknowledged is held as long as no more
        than one drive is away, and the object is right in the end.
        """
        for seed in range(12):
            with self.subTest(seed=seed):
                await self.random_walk(random.Random(seed))

    async def test_at_random_with_spares(self) -> None:
        """The same when there are more drives, of which some go for good."""
        for seed in range(8):
            with self.subTest(seed=seed):
                await self.random_walk(random.Random(seed), drives=9)

    async def random_walk(self, chance: random.Random, drives: int = 6) -> None:
        """One upload through many troubles."""
        machine = await self.started(drives=drives, background=False)
        data = chance.randbytes(chance.randrange(1, 60 * STRIPE))
        token = await self.open(machine, data)
        acknowledged = at = 0
        # One may be lost whenever as many as a write needs were in step before.
        may_lose = True
        version: Version | None = None
        other = machine.another_server()
        for _ in range(400):
            trouble = chance.randrange(10)
            away = machine.states().count("away")
            if trouble == 0 and may_lose and drives - away > 5:
                live = [n for n, state in enumerate(machine.states(), 1) if state == "live"]
                machine.pull(chance.choice(live))
                may_lose = False
                await machine.until(lambda a=away: machine.states().count("away") == a + 1)  # type: ignore[misc]
            elif trouble == 1 and away:
                gone = [n for n, state in enumerate(machine.states(), 1) if state == "away"]
                machine.put_back(chance.choice(gone))
                await machine.until(lambda a=away: machine.states().count("away") == a - 1)  # type: ignore[misc]
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
            may_lose = True
            if progress.version is not None:
                version = progress.version
                break
        assert version is not None, "it never came to an end"
        self.assertEqual(await machine.get("a"), data)
        self.assertEqual(version.content, Content(hash_of(data), len(data), SCHEME))
        await machine.stop()
