"""Stores that compress, all the time or now and then."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from dostore.core.model import Version
from tests.service.test_damage import BATCH, DAMAGES, SIZES
from tests.service.test_uploads import UploadCase
from tests.support.cases import QUICK
from tests.support.machine import SCHEME, Machine, MachineCase
from tests.support.shard_files import read_shard
from tests.support.shards import mixed_bytes

LEVELS = (None, 0, 1, 2, 3)


@frozen
class Example:
    """A content, how it is written, read and damaged."""

    size: int
    written_by: int | None
    read_by: int | None
    harm: dict[int, str]
    spans: list[tuple[float, float]]


async def range_of(machine: Machine, version: Version, first: int, end: int) -> bytes:
    """Some bytes of an object."""
    reader = await machine.store.open(version, (first, end))
    pieces: list[bytes] = []
    try:
        while batch := await reader.read():
            pieces.extend(bytes(piece) for piece in batch)
    finally:
        await reader.close()
    return b"".join(pieces)


def stored_bytes(machine: Machine, version: Version) -> int:
    """What a content takes on the drives."""
    files = machine.shard_files(version.contents[0].hash)
    return sum(path.stat().st_size for path in files.values())


class RangeTests(MachineCase):
    """Ranges of compressed contents."""

    def test_as_slices(self) -> None:
        """At any size, of any damage to two shards, and whatever the option is when a content is
        written, read and repaired, ranges are slices; and all is right again afterwards.
        """
        spot = st.floats(0, 1)

        @settings(
            deadline=None,
            max_examples=10 if QUICK else 40,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(
            st.builds(
                Example,
                st.sampled_from(SIZES[1:]) | st.integers(1, 3 * BATCH),
                st.sampled_from(LEVELS),
                st.sampled_from(LEVELS),
                st.dictionaries(st.integers(0, 5), st.sampled_from(list(DAMAGES)), max_size=2),
                st.lists(st.tuples(spot, spot), min_size=1, max_size=5),
            )
        )
        def draw(example: Example) -> None:
            examples.append(example)

        examples: list[Example] = []
        draw()

        async def all_of_them() -> None:
            machine = await self.started()
            for number, example in enumerate(examples):
                await self.check(machine, number, example)

        return Deferred.fromCoroutine(all_of_them())  # type: ignore[return-value]

    async def check(self, machine: Machine, number: int, example: Example) -> None:
        """Write, damage, read and repair one content."""
        data = mixed_bytes(example.size, number)
        await self.use(machine, example.written_by)
        version = await machine.put("name", data)
        await self.use(machine, example.read_by)
        files = machine.shard_files(version.contents[0].hash)
        names = {path.name for path in files.values()}
        for index, damage in example.harm.items():
            DAMAGES[damage](files[index])
        for spots in example.spans:
            first, end = sorted(int(spot * len(data)) for spot in spots)
            first = min(first, len(data) - 1)
            end = max(end, first + 1)
            got = await range_of(machine, version, first, end)
            self.assertTrue(got == data[first:end], f"{example}, {first} to {end}")
        self.assertTrue(await machine.get("name") == data, str(example))
        await machine.settle()
        self.assert_whole(machine, version)
        files = machine.shard_files(version.contents[0].hash)
        # What was made again by another option has the name that it had.
        self.assertEqual({path.name for path in files.values()}, names)
        for path in files.values():
            read_shard(path)

    async def use(self, machine: Machine, level: int | None) -> None:
        """Have the store write by a level."""
        if machine.compression_level != level:
            machine.compression_level = level
            await machine.restart()


class MixedTests(UploadCase):
    """The option changes, the store stays."""

    async def test_both_kinds(self) -> None:
        """Contents from before and after the option changed are there, and shrink only after."""
        machine = await self.started()
        written: list[tuple[Version, bytes]] = []
        for number, level in enumerate((None, 1, None, 3)):
            machine.compression_level = level
            await machine.restart()
            for size in (200_000, 3_000_000):
                data = mixed_bytes(size, number)
                version = await machine.put(f"{number}-{size}", data)
                plain = SCHEME.shard_size(size) * 6
                stored = stored_bytes(machine, version)
                self.assertEqual(stored < plain * 0.9, level is not None, (size, stored, plain))
                written.append((version, data))
            for version, data in written:
                self.assertTrue(await machine.get(version.name) == data)
                self.assert_whole(machine, version)

    async def test_content_that_is_there(self) -> None:
        """A content that is stored already is not written again, whatever the option says now."""
        machine = await self.started()
        data = mixed_bytes(3_000_000)
        before = stored_bytes(machine, await machine.put("a", data))
        machine.compression_level = 1
        await machine.restart()
        version = await machine.put("b", data)
        self.assertEqual(stored_bytes(machine, version), before)
        self.assert_whole(machine, version)

    async def test_half_way_through_an_upload(self) -> None:
        """The parts of an upload are written by different options, and make one content."""
        for first, then in ((None, 1), (1, None), (0, 3)):
            machine = await self.started(background=False)
            machine.compression_level = first
            await machine.restart(background=False)
            data = mixed_bytes(3_000_000)
            token = await self.open(machine, data)
            await self.part(machine, token, 0, data[:1_700_001])
            machine.compression_level = then
            await machine.restart(background=False)
            held = await self.held(machine, token)
            self.assertEqual(held, 1_700_001)
            progress = await self.part(machine, token, held, data[held:])
            version: Any = progress.version
            self.assertTrue(await machine.get("a") == data)
            self.assert_whole(machine, version)
            names = sorted(p.name for p in machine.shard_files(version.content.hash).values())
            for path in machine.shard_files(version.content.hash).values():
                read_shard(path)
            other = await self.started(background=False)
            await other.put("a", data)
            others = other.shard_files(version.content.hash).values()
            self.assertEqual(names, sorted(path.name for path in others))
