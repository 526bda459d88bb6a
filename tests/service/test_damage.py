"""Contents in and out, whatever their size, and through whatever damage the scheme allows for."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from dostore.core.model import Content
from dostore.core.names import ShardName
from dostore.core.scheme import Scheme
from dostore.core.stripes import StripeCoder
from dostore.errors import ContentLost, Unavailable
from dostore.service.batches import LEAST_BYTES
from dostore.service.shardset import HEDGE_AFTER_S
from tests.support.machine import SCHEME, Machine, MachineCase

BATCH = LEAST_BYTES

#: On both sides of what is a row, a block, a stripe, a file that is read whole, and a batch.
SIZES = [
    0,
    1,
    3,
    4,
    5,
    36,
    SCHEME.block_size - 1,
    SCHEME.block_size,
    SCHEME.block_size + 1,
    SCHEME.stripe_size - 1,
    SCHEME.stripe_size,
    SCHEME.stripe_size + 1,
    32 * SCHEME.stripe_size,
    BATCH - 1,
    BATCH,
    BATCH + 1,
    2 * BATCH + SCHEME.stripe_size + 1,
]


def content(size: int, seed: int = 0) -> bytes:
    """Random bytes, the same for the same seed."""
    return random.Random(seed * 7919 + size).randbytes(size)


def flip(path: Path, where: float = 0.5) -> None:
    """Change one bit."""
    with open(path, "r+b") as file:
        at = min(int(path.stat().st_size * where), path.stat().st_size - 1)
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def cut(path: Path) -> None:
    """Half of it."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """None of it."""
    os.truncate(path, 0)


def zero(path: Path) -> None:
    """Its length in zeros."""
    path.write_bytes(bytes(path.stat().st_size))


def other_content(path: Path) -> None:
    """Some text."""
    path.write_bytes(b"errMsg\n")


def grow(path: Path) -> None:
    """A byte more."""
    with open(path, "ab") as file:
        file.write(b"\0")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "flipped in the middle": flip,
    "flipped at the start": lambda path: flip(path, 0.0),
    "flipped at the end": lambda path: flip(path, 1.0),
    "cut": cut,
    "empty": empty,
    "zeroed": zero,
    "other content": other_content,
    "grown": grow,
}


class SizeTests(MachineCase):
    """What is put is got."""

    async def test_sizes(self) -> None:
        """Every size gives the same bytes back, before and after a restart, in k + m shards."""
        machine = await self.started()
        versions = [await machine.put(f"n{size}", content(size)) for size in SIZES]
        await machine.settle()
        for _ in range(2):
            for version in versions:
                self.assertEqual(await machine.get(version.name), content(version.size))
                self.assert_whole(machine, version)
            await machine.restart()

    async def test_schemes(self) -> None:
        """The same for other schemes, one without parity among them."""
        for scheme in (Scheme(1, 0, 4096), Scheme(2, 1, 4096), Scheme(8, 3, 4096), Scheme(1, 3)):
            machine = await self.started(scheme)
            for size in (0, 1, 7, scheme.stripe_size + 1, BATCH + 5):
                data = content(size)
                version = await machine.put("name", data)
                self.assert_whole(machine, version)
                for path in list(machine.shard_files(version.contents[0].hash).values())[
                    : scheme.m
                ]:
                    path.unlink()
                self.assertEqual(await machine.get("name"), data)
                await machine.settle()
                self.assert_whole(machine, version)

    async def test_lost_without_parity(self) -> None:
        """Without parity one shard is all there is."""
        machine = await self.started(Scheme(1, 0, 4096))
        version = await machine.put("name", b"x" * 10_000)
        next(iter(machine.shard_files().values())).unlink()
        with self.assertRaises(ContentLost) as caught:
            await machine.get("name")
        self.assertEqual((caught.exception.found, caught.exception.needed), (0, 1))
        self.assertEqual(version.number, 1)

    async def test_the_example(self) -> None:
        """The 36 bytes of the design give its four data shards, by name."""
        machine = await self.started()
        await machine.put("objects", b"this object will be seperated to 4+2")
        names = {index: path.name for index, path in machine.shard_files().items()}
        for index, shard_hash in enumerate(
            [
                "%2FQbxVU4EOPqz%2F2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
                "S8JnDgiwWnfNud06pGE+%2FEHgmBzNpFAEg6s%2FgR0J4Cw=",
                "syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
                "0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
            ]
        ):
            self.assertEqual(
                names[index],
                f"2MRHhgqkvILs04RzLIEpZBzpgos%2F9QlNKRXEh7cMngY=.{index}.{shard_hash}",
            )


class DamageTests(MachineCase):
    """Shards that are not what they were."""

    async def check(self, machine: Machine, size: int, harm: dict[int, str]) -> None:
        """Damage some shards of a content, read it, and find all of it right again."""
        data = content(size)
        version = await machine.put("name", data)
        files = machine.shard_files(version.contents[0].hash)
        for index, damage in harm.items():
            DAMAGES[damage](files[index])
        self.assertEqual(await machine.get("name"), data, (size, harm))
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_each_damage(self) -> None:
        """Each kind of damage to any two shards is read through and repaired."""
        machine = await self.started()
        kinds = list(DAMAGES)
        for number, kind in enumerate(kinds):
            for size in (1, 5000, SCHEME.stripe_size * 40 + 1):
                await self.check(
                    machine,
                    size + number,
                    {number % 6: kind, (number * 5 + 1) % 6: kinds[number - 1]},
                )

    def test_any_damage(self) -> None:
        """Whatever two shards suffer, at whatever size."""

        @settings(
            deadline=None,
            max_examples=25,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(
            st.sampled_from(SIZES[1:]) | st.integers(1, 3 * BATCH),
            st.dictionaries(st.integers(0, 5), st.sampled_from(list(DAMAGES)), max_size=2),
        )
        def check(size: int, harm: dict[int, str]) -> None:
            examples.append((size, harm))

        examples: list[tuple[int, dict[int, str]]] = []
        check()

        async def all_of_them() -> None:
            machine = await self.started()
            for size, harm in examples:
                await self.check(machine, size, harm)

        return Deferred.fromCoroutine(all_of_them())  # type: ignore[return-value]

    async def test_swapped(self) -> None:
        """Shard files under each other's names are known by their footers, and made again."""
        machine = await self.started()
        for size in (5000, 40 * SCHEME.stripe_size):
            data = content(size)
            version = await machine.put("name", data)
            files = machine.shard_files(version.contents[0].hash)
            one, other = files[0].read_bytes(), files[3].read_bytes()
            files[0].write_bytes(other)
            files[3].write_bytes(one)
            self.assertEqual(await machine.get("name"), data)
            await machine.settle()
            self.assert_whole(machine, version)

    async def test_another_contents(self) -> None:
        """The shard of another content in its place is not taken for it."""
        machine = await self.started()
        data = content(40 * SCHEME.stripe_size)
        version = await machine.put("name", data)
        another = await machine.put("another", content(40 * SCHEME.stripe_size, 1))
        files = machine.shard_files(version.contents[0].hash)
        for index, path in machine.shard_files(another.contents[0].hash).items():
            if index in (1, 2):
                shutil.copy(path, files[index])
        self.assertEqual(await machine.get("name"), data)
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_too_much(self) -> None:
        """One shard more than parity can make up: an error with the counts, before any byte."""
        machine = await self.started()
        for number, kind in enumerate(DAMAGES):
            for size in (10, 40 * SCHEME.stripe_size):
                version = await machine.put("name", content(size + number))
                files = machine.shard_files(version.contents[0].hash)
                for index in (0, 3, 5):
                    DAMAGES[kind](files[index])
                with self.assertRaises(ContentLost) as caught:
                    await machine.store.open(version)
                error = caught.exception
                self.assertEqual((error.found, error.needed), (3, 4), (kind, size))
                self.assertIn("3 of the content's 6 shards", error.detail)
                await machine.settle()
        self.assertGreater(machine.store.stats.lost_contents, 0)

    async def test_damage_in_the_middle_of_a_stream(self) -> None:
        """Damage behind what was read already is decoded around, and repaired after the end."""
        machine = await self.started()
        data = content(5 * BATCH + 100)
        version = await machine.put("name", data)
        files = machine.shard_files()
        reader = await machine.store.open(version)
        got = b"".join(bytes(piece) for piece in await reader.read())
        flip(files[0], 0.5)
        flip(files[1], 0.7)
        while batch := await reader.read():
            got += b"".join(bytes(piece) for piece in batch)
        await reader.close()
        self.assertEqual(got, data)
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_too_much_in_the_middle(self) -> None:
        """What cannot be decoded ends the stream; what came before was right."""
        machine = await self.started()
        data = content(10 * BATCH)
        version = await machine.put("name", data)
        files = machine.shard_files()
        reader = await machine.store.open(version)
        got = b""
        for index in (0, 1, 2):
            flip(files[index], 0.5)
        with self.assertRaises(ContentLost):
            while batch := await reader.read():
                got += b"".join(bytes(piece) for piece in batch)
        await reader.close()
        self.assertEqual(got, data[: len(got)])
        self.assertGreater(len(got), BATCH)

    async def test_read_errors_in_the_middle(self) -> None:
        """A drive that fails with EIO in the middle of a stream is decoded around."""
        machine = await self.started()
        data = content(5 * BATCH)
        version = await machine.put("name", data)
        files = machine.shard_files()
        reader = await machine.store.open(version)
        got = b"".join(bytes(piece) for piece in await reader.read())
        for index in (0, 2):
            machine.files.fail(str(files[index]), errno.EIO, operations={"pread"})
        while batch := await reader.read():
            got += b"".join(bytes(piece) for piece in batch)
        await reader.close()
        self.assertEqual(got, data)
        machine.files.lift_all()
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_a_shard_of_another_scheme(self) -> None:
        """A whole shard that is cut another way is not read, and is made anew."""
        machine = await self.started()
        data = content(40 * SCHEME.stripe_size)
        version = await machine.put("name", data)
        await machine.stop()
        machine.scheme = Scheme(4, 2, 65536)
        path = machine.shard_files()[2]
        name = ShardName.parse(path.name)
        assert name is not None
        path.unlink()
        await machine.start(background=False)
        odd = Content(name.content_hash, len(data), machine.scheme)
        node = machine.drives.drives[machine.number_of(path) - 1].node
        await node.put(odd, 2, StripeCoder(machine.scheme).encode(data)[2])
        self.assertEqual(await machine.get("name"), data)
        await machine.settle()
        self.assertEqual(await machine.get("name"), data)
        self.assert_whole(machine, version)


class SlowTests(MachineCase):
    """Drives that do not answer."""

    async def test_hung_drives(self) -> None:
        """With two drives that hang the bytes come after the time for a spare, not later."""
        machine = await self.started()
        for size in (5000, 3 * BATCH):
            data = content(size)
            version = await machine.put("name", data)
            files = machine.shard_files(version.contents[0].hash)
            going_on = [machine.stall(machine.number_of(files[index])) for index in (0, 1)]
            reading = Deferred.fromCoroutine(machine.get("name"))
            self.assertNoResult(reading)
            machine.clock.advance(HEDGE_AFTER_S + 0.01)
            self.assertEqual(self.successResultOf(reading), data)
            for go_on in going_on:
                go_on()

    async def test_hung_and_damaged(self) -> None:
        """What is needed but hangs is waited for until its drive is given up; then it is told."""
        machine = await self.started()
        data = content(3 * BATCH)
        version = await machine.put("name", data)
        files = machine.shard_files()
        files[0].unlink()
        files[1].unlink()
        go_on = machine.stall(machine.number_of(files[2]))
        began = machine.clock.seconds()
        with self.assertRaises(Unavailable):
            await machine.run(machine.get("name"))
        self.assertLess(machine.clock.seconds() - began, 10.0)
        go_on()
        await machine.pass_time(10.0)
        self.assertEqual(await machine.get("name"), data)
        await machine.settle()
        self.assert_whole(machine, version)

    async def test_away(self) -> None:
        """With more drives away than parity can make up the content is out of reach, not lost."""
        machine = await self.started()
        data = content(5000)
        await machine.put("name", data)
        for number in (1, 2, 3):
            machine.pull(number)
        await machine.pass_time(3.0)
        with self.assertRaises(Unavailable) as caught:
            await machine.get("name")
        self.assertIn("drive-1, drive-2, drive-3", caught.exception.detail)
        machine.put_back(2)
        await machine.pass_time(3.0)
        self.assertEqual(await machine.get("name"), data)

    async def test_one_shard_on_two_nodes(self) -> None:
        """A shard that is on two nodes is read from the other when one has it damaged."""
        machine = await self.started(drives=8)
        data = content(5 * BATCH)
        version = await machine.put("name", data)
        files = machine.shard_files()
        used = {machine.number_of(path) for path in files.values()}
        spare = next(number for number in range(1, 9) if number not in used)
        for index in (0, 1):
            files[index].unlink()
        copy = machine.folders[spare - 1] / "objects" / files[2].name
        shutil.copy(files[2], copy)
        await machine.restart(background=False)
        flip(files[2], 0.4)
        self.assertEqual(await machine.get("name"), data)
        self.assertEqual(version.size, len(data))
