"""Small contents as whole copies, beside those that are cut in shards."""

from __future__ import annotations

import os
from itertools import combinations
from typing import Any

from dostore.core.model import Content, Version
from dostore.core.scheme import Scheme
from dostore.errors import ContentLost, QuorumNotMet
from dostore.service import healing
from dostore.service.glances import GLANCE_DELAY_S
from tests.service.test_damage import DAMAGES, content
from tests.service.test_uploads import UploadCase
from tests.support.machine import SCHEME, Bytes, Machine
from tests.support.shard_files import read_shard, require_whole

COPIES = Scheme(1, 2, SCHEME.block_size)
BELOW = 8192


def what_of(version: Version) -> Content:
    """The content of a version."""
    (found,) = version.contents
    return found


class CopiesCase(UploadCase):
    """A store on six drives or more that keeps contents below 8 KiB as copies."""

    async def with_copies(self, drives: int | None = None) -> Machine:
        """It runs."""
        machine = self.new_machine(drives=drives)
        machine.copies_below = BELOW
        await machine.start()
        return machine

    async def use(self, machine: Machine, below: int) -> None:
        """Start it again with another bound."""
        machine.copies_below = below
        await machine.restart()

    def assert_right(self, machine: Machine) -> None:
        """Every content is whole, by a parser that is not the store's."""
        require_whole(machine.folders)


class SizeTests(CopiesCase):
    """What is a copy, and what is not."""

    async def test_sizes(self) -> None:
        """Below the bound three drives have all bytes each; from there on six have shards; all come
        back after a restart and without the option.
        """
        machine = await self.with_copies()
        written = []
        for size in (0, 1, 100, SCHEME.block_size, BELOW - 1, BELOW, 50_000, 2_000_000):
            data = content(size)
            version = await machine.put(f"{size}", data)
            scheme = COPIES if size < BELOW else SCHEME
            self.assertEqual(what_of(version).scheme, scheme)
            files = machine.shard_files(what_of(version).hash)
            self.assertEqual(sorted(files), list(range(scheme.shards)))
            if size < BELOW:
                for path in files.values():
                    self.assertEqual(b"".join(read_shard(path).blocks), data)
            written.append((version, data))
        await machine.settle()
        for below in (BELOW, 0, 100):
            await self.use(machine, below)
            for version, data in written:
                self.assertTrue(await machine.get(version.name) == data)
                self.assert_whole(machine, version)
        self.assert_right(machine)

    async def test_ranges(self) -> None:
        """Any range of a copy of several blocks is a slice."""
        machine = await self.with_copies()
        data = content(BELOW - 5)
        version = await machine.put("a", data)
        for first, end in ((0, 1), (4095, 4097), (5000, BELOW - 5), (BELOW - 6, BELOW - 5)):
            reader = await machine.store.open(version, (first, end))
            pieces = [bytes(piece) for batch in [await reader.read()] for piece in batch]
            await reader.close()
            self.assertEqual(b"".join(pieces), data[first:end])
            now = machine.store.read_now(version, (first, end))
            self.assertIn(now if now is None else bytes(now), (None, data[first:end]))

    async def test_places(self) -> None:
        """The drives take turns: copies are spread over all of them."""
        machine = await self.with_copies()
        for number in range(60):
            await machine.put(f"{number}", content(100, number))
        counts = [len(list((folder / "objects").iterdir())) for folder in machine.folders]
        self.assertEqual(sum(counts), 180)
        self.assertGreater(min(counts), 10)


class LossTests(CopiesCase):
    """The losses that shards survive, copies survive too."""

    async def test_any_two_drives(self) -> None:
        """Whichever two drives are gone, everything is read."""
        machine = await self.with_copies()
        objects = {f"{n}": content(n * 997 % BELOW, n) for n in range(1, 25)}
        objects["large"] = content(100_000)
        for name, data in objects.items():
            await machine.put(name, data)
        for one, other in combinations(range(1, 7), 2):
            # Without repair, which would make up for it.
            await machine.restart(background=False)
            for number in (one, other):
                machine.pull(number)
                machine.folders[number - 1].touch()
            await machine.until(lambda: machine.states().count("away") == 2)
            for name, data in objects.items():
                self.assertTrue(await machine.run(machine.get(name)) == data, (one, other, name))
            for number in (one, other):
                machine.folders[number - 1].unlink()
                machine.put_back(number)
            await machine.until(lambda: machine.states().count("away") == 0)

    async def test_damage(self) -> None:
        """Two of three copies damaged in any way are read around, and made again."""
        machine = await self.with_copies()
        kinds = list(DAMAGES)
        for number, kind in enumerate(kinds):
            data = content(5000 + number)
            version = await machine.put("name", data)
            files = machine.shard_files(what_of(version).hash)
            harmed = [number % 3, (number + 1) % 3]
            DAMAGES[kind](files[harmed[0]])
            DAMAGES[kinds[number - 1]](files[harmed[1]])
            self.assertEqual(await machine.get("name"), data)
            await machine.settle()
            self.assert_whole(machine, version)
        self.assert_right(machine)

    async def test_all_lost(self) -> None:
        """Without any copy the answer says how many there would have to be."""
        machine = await self.with_copies()
        version = await machine.put("a", content(50))
        for path in machine.shard_files(what_of(version).hash).values():
            path.unlink()
        with self.assertRaises(ContentLost) as caught:
            await machine.get("a")
        self.assertEqual((caught.exception.found, caught.exception.needed), (0, 1))


class HealTests(CopiesCase):
    """Copies are made again without that somebody reads them."""

    async def test_empty_drive(self) -> None:
        """A new drive in the place of one gets the copies that the old one had, and no others."""
        machine = await self.with_copies()
        versions = [await machine.put(f"{n}", content(100 + n, n)) for n in range(30)]
        versions.append(await machine.put("large", content(100_000)))
        await machine.settle()
        machine.pull(2)
        machine.folders[1].mkdir()
        await machine.until(lambda: (machine.folders[1] / "objects").is_dir())
        await machine.until(lambda: machine.states().count("live") == 6)
        await machine.settle()
        for version in versions:
            self.assert_whole(machine, version)
        self.assert_right(machine)

    async def test_a_drive_that_stays_away(self) -> None:
        """With a spare drive, what was on one that is gone is made again on others, before it is
        back and though nobody knows what it has.
        """
        machine = await self.with_copies(drives=8)
        versions = [await machine.put(f"{n}", content(100 + n, n)) for n in range(30)]
        await machine.settle()
        machine.pull(3)
        machine.folders[2].touch()
        await machine.until(lambda: machine.states().count("away") == 1)
        await machine.restart()
        await machine.settle()
        for version in versions:
            files = machine.shard_files(what_of(version).hash)
            self.assertEqual(len(files), 3, version.name)
        machine.folders[2].unlink()
        (machine.away(3)).rename(machine.folders[2])

    async def test_whole_ones_are_left_alone(self) -> None:
        """Healing has no content repaired that has all of its copies."""
        machine = await self.with_copies()
        for number in range(20):
            await machine.put(f"{number}", content(100, number))
        await machine.settle()
        noticed: list[object] = []
        self.patch(machine.store.repairer._healing, "_notice", noticed.append)
        machine.store.repairer.heal()
        await machine.settle()
        self.assertEqual(noticed, [])
        lost = machine.shard_files(what_of(await machine.store.find("7")).hash)[1]
        lost.unlink()
        await machine.restart()
        await machine.settle()
        self.assertTrue(lost.exists())

    async def test_lost_ones_among_them(self) -> None:
        """What is left of contents that were cut, and looks just like whole copies, is told of as
        lost, however many copies are looked at before.
        """
        self.patch(healing, "_SUSPECTS", 7)
        machine = await self.with_copies()
        versions = [await machine.put(f"{n}", content(100, n)) for n in range(30)]
        cut = [await machine.put(f"cut {n}", content(BELOW, n)) for n in range(3)]
        for version in cut:
            for index in (3, 4, 5):
                machine.shard_files(what_of(version).hash)[index].unlink()
        await machine.restart(background=False)
        for _ in range(6):
            machine.store.repairer.heal()
            await machine.settle()
        losses = machine.store.repairer.losses
        self.assertEqual(
            {what_of(v).hash for v in cut if what_of(v).hash in losses},
            {what_of(v).hash for v in cut},
        )
        self.assertEqual((len(losses), machine.store.stats.lost_contents), (3, 3))
        for version in versions:
            self.assertEqual(len(machine.shard_files(what_of(version).hash)), 3)

    async def test_lost_and_kept_as_copies(self) -> None:
        """A content that is lost and stored again, as copies, is lost no more."""
        machine = await self.started()
        version = await machine.put("a", content(100))
        for index in (3, 4, 5):
            machine.shard_files()[index].unlink()
        await self.use(machine, BELOW)
        await machine.settle()
        losses = machine.store.repairer.losses
        self.assertIn(what_of(version).hash, losses)
        other = machine.another_server()
        body: Any = Bytes(content(100))
        await machine.run(other.put("b", body, digest=None, content_type="", meta={}))
        machine.store.repairer.heal()
        await machine.settle()
        self.assertEqual(len(losses), 0)
        self.assertEqual(await machine.get("a"), content(100))

    async def test_what_failed_writes_left(self) -> None:
        """A copy that no version refers to is removed, and not made more of."""
        machine = await self.with_copies()
        version = await machine.put("a", content(100))
        files = machine.shard_files(what_of(version).hash)
        kept = {path: path.read_bytes() for path in files.values()}
        await machine.stop()
        (machine.root / "metadata.sqlite").unlink()
        for path in (machine.root / "logs").rglob("*"):
            if path.is_file():
                path.unlink()
        machine.clock.advance(10.0)
        await machine.start(background=False)
        one = next(iter(kept))
        for path in kept:
            if path != one:
                path.unlink()
        machine.store.repairer.heal()
        await machine.settle()
        self.assertEqual(machine.folders_files("objects"), [one])


class QuorumTests(CopiesCase):
    """How many drives a write of copies needs."""

    async def test_two_are_enough(self) -> None:
        """With four of six drives away, what is small is taken and what is large is not."""
        machine = await self.with_copies()
        for number in (1, 2, 3, 4):
            machine.pull(number)
            machine.folders[number - 1].touch()
        await machine.until(lambda: machine.states().count("away") == 4)
        data = content(1000)
        version = await machine.run(machine.put("a", data))
        self.assertEqual(len(machine.shard_files(what_of(version).hash)), 2)
        self.assertEqual(await machine.run(machine.get("a")), data)
        for size in (BELOW, 3_000_000):
            with self.assertRaises(QuorumNotMet):
                await machine.run(machine.put("b", content(size)))
        for number in (1, 2, 3, 4):
            machine.folders[number - 1].unlink()
            machine.put_back(number)
        await machine.until(lambda: machine.states().count("live") == 6)
        await machine.settle()
        self.assert_whole(machine, version)
        self.assertEqual(len(machine.folders_files("objects")), 3)

    async def test_one_is_not(self) -> None:
        """One drive takes nothing."""
        machine = await self.with_copies()
        for number in range(1, 6):
            machine.pull(number)
            machine.folders[number - 1].touch()
        await machine.until(lambda: machine.states().count("away") == 5)
        with self.assertRaises(QuorumNotMet):
            await machine.run(machine.put("a", content(10)))
        self.assertEqual(machine.folders_files("objects"), [])

    async def test_raised(self) -> None:
        """A write quorum of all shards is one of all copies."""
        machine = self.new_machine()
        machine.copies_below, machine.quorum = BELOW, 6
        await machine.start()
        for number in (1, 2, 3):
            machine.pull(number)
            machine.folders[number - 1].touch()
        await machine.until(lambda: machine.states().count("away") == 3)
        version = await machine.run(machine.put("a", content(10)))
        self.assertEqual(len(machine.shard_files(what_of(version).hash)), 3)
        machine.pull(4)
        machine.folders[3].touch()
        await machine.until(lambda: machine.states().count("away") == 4)
        with self.assertRaises(QuorumNotMet):
            await machine.run(machine.put("b", content(11)))


class MixedTests(CopiesCase):
    """The option is switched on and off."""

    async def test_content_that_is_there(self) -> None:
        """A content is used as it is stored, whatever the option says now."""
        machine = await self.with_copies()
        data, other = content(3000), content(3001)
        copied = await machine.put("a", data)
        await self.use(machine, 0)
        cut = await machine.put("b", other)
        again = await machine.put("c", data)
        self.assertEqual(what_of(again), what_of(copied))
        self.assertEqual(what_of(cut).scheme, SCHEME)
        await self.use(machine, BELOW)
        self.assertEqual(what_of(await machine.put("d", other)), what_of(cut))
        await machine.settle()
        for name, expected in (("a", data), ("b", other), ("c", data), ("d", other)):
            self.assertEqual(await machine.get(name), expected)
        self.assertEqual(len(machine.folders_files("objects")), 9)
        self.assert_right(machine)

    async def test_partly_there(self) -> None:
        """Of what is left of a content too few shards are there for a write: it is made whole as it
        was, and earlier versions are whole again too.
        """
        for below, then, left in ((0, BELOW, 3), (BELOW, 0, 1), (0, BELOW, 1), (0, BELOW, 4)):
            machine = self.new_machine()
            machine.copies_below = below
            await machine.start(background=False)
            data = content(3000, left)
            first = await machine.put("a", data)
            for path in list(machine.shard_files(what_of(first).hash).values())[left:]:
                path.unlink()
            machine.copies_below = then
            await machine.restart(background=False)
            second = await machine.put("b", data)
            self.assertEqual(what_of(second), what_of(first))
            await machine.settle()
            self.assertEqual(await machine.get("a"), data)
            self.assertEqual(await machine.get("b"), data)
            self.assert_whole(machine, second)
            self.assert_right(machine)

    async def test_lost_and_stored_again(self) -> None:
        """A content that was lost and is stored again by another scheme gives its older versions
        their bytes back.
        """
        for below, then in ((0, BELOW), (BELOW, 0)):
            machine = self.new_machine()
            machine.copies_below = below
            await machine.start()
            data = content(6000, below)
            first = await machine.put("a", data)
            for path in machine.shard_files(what_of(first).hash).values():
                path.unlink()
            with self.assertRaises(ContentLost):
                await machine.get("a")
            await machine.settle()
            await self.use(machine, then)
            second = await machine.put("a", data)
            self.assertNotEqual(what_of(second), what_of(first))
            self.assertEqual(await machine.get("a", 1), data)
            self.assertEqual(await machine.get("a", 2), data)
            reader = await machine.store.open(first, (10, 20))
            self.assertEqual(b"".join(map(bytes, await reader.read())), data[10:20])
            await reader.close()
            await machine.settle()
            self.assert_whole(machine, second)

    async def test_drives_with_the_rest_come_back(self) -> None:
        """Shards of a content are away, it is stored again as copies, and then they are back: all
        versions are read, and the drives end with whole contents.
        """
        machine = self.new_machine()
        await machine.start()
        data = content(4000)
        first = await machine.put("a", data)
        for number in (1, 2, 3):
            machine.pull(number)
            machine.folders[number - 1].touch()
        machine.copies_below = BELOW
        await machine.restart()
        await machine.until(lambda: machine.states().count("away") == 3)
        try:
            await machine.run(machine.put("a", data))
        except QuorumNotMet:
            # No drive may take a copy beside a shard of the same content.
            await machine.run(machine.put("a", content(4001)))
        for number in (1, 2, 3):
            machine.folders[number - 1].unlink()
            machine.put_back(number)
        await machine.until(lambda: machine.states().count("live") == 6)
        await machine.settle()
        self.assertEqual(await machine.run(machine.get("a", 1)), data)
        self.assertIn(await machine.run(machine.get("a", 2)), (data, content(4001)))
        self.assertEqual(what_of(first).scheme, SCHEME)


class StrayTests(CopiesCase):
    """Shards of one content by two schemes, as two API servers with different options leave."""

    async def mixed(self, copies: int, shards: int, drives: int = 6) -> tuple[Machine, Version]:
        """A store with the first ``copies`` copies of a content and its last ``shards`` shards."""
        machine = self.new_machine(drives=drives)
        await machine.start(background=False)
        data = content(3000)
        cut = await machine.put("a", data)
        by_shards = machine.shard_files(what_of(cut).hash)
        kept = {path: path.read_bytes() for index, path in by_shards.items() if index >= 6 - shards}
        for path in by_shards.values():
            path.unlink()
        machine.copies_below = BELOW
        await machine.restart(background=False)
        copied = await machine.put("b", data)
        by_copies = machine.shard_files(what_of(copied).hash)
        for index, path in by_copies.items():
            if index >= copies:
                path.unlink()
        for path, file in kept.items():
            path.write_bytes(file)
        await machine.restart(background=False)
        return machine, copied

    async def test_both_can_be_read(self) -> None:
        """Whatever there is of both, versions of either are read as long as one of them can be, and
        repair makes one whole of what is most.
        """
        for copies, shards in ((3, 3), (2, 4), (2, 3), (1, 5), (1, 3), (3, 0), (0, 4)):
            machine, version = await self.mixed(copies, shards)
            for name in ("a", "b"):
                self.assertEqual(await machine.get(name), content(3000), (copies, shards))
            await machine.store.repairer.repair(what_of(version).hash)
            found = [read_shard(path) for path in machine.folders_files("objects")]
            by_scheme = [sum(1 for each in found if each.k == k) for k in (1, 4)]
            self.assertTrue(3 in by_scheme[:1] or 6 in by_scheme[1:], (copies, shards, by_scheme))
            self.assertLessEqual(len(found), 6)
            for name in ("a", "b"):
                self.assertEqual(await machine.get(name), content(3000))

    async def test_old_strays_go(self) -> None:
        """What is left by the other scheme is removed when it is old, and not before."""
        machine, version = await self.mixed(3, 3)
        repair = machine.store.repairer.repair
        for path in machine.folders_files("objects"):
            os.utime(path, (machine.now(), machine.now()))
        machine.clock.advance(3500)
        await repair(what_of(version).hash)
        self.assertEqual(len(machine.folders_files("objects")), 6)
        machine.clock.advance(200)
        await repair(what_of(version).hash)
        self.assertEqual(len(machine.folders_files("objects")), 3)
        self.assert_whole(machine, version)
        for name in ("a", "b"):
            self.assertEqual(await machine.get(name), content(3000))

    async def test_one_that_was_renewed(self) -> None:
        """Nothing is removed of a content that somebody has written or renewed lately."""
        machine, version = await self.mixed(3, 3)
        for path in machine.folders_files("objects"):
            os.utime(path, (machine.now(), machine.now()))
        machine.clock.advance(4000)
        await machine.put("c", content(3000))
        await machine.store.repairer.repair(what_of(version).hash)
        self.assertEqual(len(machine.folders_files("objects")), 6)

    async def test_no_second_shard(self) -> None:
        """A copy is made on a drive that has nothing of the content, not beside a stray."""
        machine, version = await self.mixed(2, 3, drives=7)
        await machine.store.repairer.repair(what_of(version).hash)
        holders = [path.parent for path in machine.folders_files("objects")]
        self.assertEqual(len(set(holders)), len(holders))
        self.assertEqual(await machine.get("b"), content(3000))


class UploadTests(CopiesCase):
    """Resumable uploads of what is small."""

    async def test_upload(self) -> None:
        """It is kept as copies from its first part on, over restarts and changes of the option."""
        for then in (BELOW, 0):
            machine = await self.with_copies()
            data = content(7000, then)
            token = await self.open(machine, data)
            await self.part(machine, token, 0, data[:5000])
            self.assertEqual(await self.held(machine, token), 5000)
            await self.use(machine, then)
            progress = await self.part(machine, token, 4000, data[4000:])
            version: Any = progress.version
            self.assertEqual(what_of(version).scheme, COPIES)
            self.assertEqual(await machine.get("a"), data)
            await machine.settle()
            self.assert_whole(machine, version)
            self.assert_right(machine)

    async def test_begun_as_shards(self) -> None:
        """An upload that was opened before the option was on ends as it began."""
        machine = await self.started()
        data = content(7000)
        token = await self.open(machine, data)
        await self.part(machine, token, 0, data[:5000])
        await self.use(machine, BELOW)
        progress = await self.part(machine, token, 5000, data[5000:])
        version: Any = progress.version
        self.assertEqual(what_of(version).scheme, SCHEME)
        self.assertEqual(await machine.get("a"), data)

    async def test_stored_as_copies_meanwhile(self) -> None:
        """An upload of shards finds its content stored as copies: these are used. When too few are
        there, they are made whole first, and no shard takes their place.
        """
        for harm in (0, 2):
            machine = await self.started()
            data = content(7000, harm)
            machine.store.uploads._instant = False
            token = await self.open(machine, data)
            await self.part(machine, token, 0, data[:5000])
            await self.use(machine, BELOW)
            version = await machine.put("b", data)
            for path in list(machine.shard_files(what_of(version).hash).values())[:harm]:
                path.unlink()
            progress = await self.part(machine, token, 5000, data[5000:])
            ended: Any = progress.version
            self.assertEqual(what_of(ended), what_of(version))
            self.assertEqual(await machine.get("a"), data)
            await machine.settle()
            self.assert_whole(machine, version)
            self.assert_right(machine)


class GlanceTests(CopiesCase):
    """What a read does not look at."""

    async def test_glance(self) -> None:
        """After a read the copies that were not read are looked at, and one that is gone is made
        again.
        """
        machine = await self.with_copies()
        version = await machine.put("a", content(500))
        await machine.settle()
        lost = machine.shard_files(what_of(version).hash)[2]
        lost.unlink()
        self.assertEqual(await machine.get("a"), content(500))
        machine.clock.advance(2 * GLANCE_DELAY_S)
        await machine.settle()
        self.assertTrue(lost.exists())
