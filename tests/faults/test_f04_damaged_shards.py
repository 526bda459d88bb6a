"""F4: shards flipped, cut, swapped, zeroed, of another content, empty; up to m and m + 1."""

from __future__ import annotations

from itertools import combinations

from dostore.core.scheme import Scheme
from dostore.errors import ContentLost
from dostore.service.batches import LEAST_BYTES
from tests.service.test_damage import DAMAGES, content, flip
from tests.support.machine import SCHEME, MachineCase


class EveryLossTests(MachineCase):
    """All pairs and some triples of shards, in schemes of several widths."""

    async def test_every_pair(self) -> None:
        """Whichever two of six are damaged, the bytes are right and all six are back."""
        machine = await self.started()
        kinds = list(DAMAGES.values())
        for size in (100, 40 * SCHEME.stripe_size + 1):
            version = await machine.put("name", content(size))
            for number, pair in enumerate(combinations(range(6), 2)):
                files = machine.shard_files(version.contents[0].hash)
                for index in pair:
                    kinds[(number + index) % len(kinds)](files[index])
                self.assertEqual(await machine.get("name"), content(size), (size, pair))
                await machine.settle()
                self.assert_whole(machine, version)

    async def test_every_triple(self) -> None:
        """Whichever three are gone: an error with the counts, and never a wrong byte."""
        machine = await self.started()
        kinds = list(DAMAGES.values())
        for number, triple in enumerate(combinations(range(6), 3)):
            version = await machine.put("name", content(3000, number))
            files = machine.shard_files(version.contents[0].hash)
            for index in triple:
                kinds[(number + index) % len(kinds)](files[index])
            with self.assertRaises(ContentLost) as caught:
                await machine.store.open(version)
            self.assertEqual((caught.exception.found, caught.exception.needed), (3, 4))
            await machine.settle()

    async def test_a_bit_anywhere(self) -> None:
        """A bit flipped anywhere in two files, data or footer, is found and made good."""
        machine = await self.started(Scheme(8, 3, 4096))
        data = content(LEAST_BYTES + 77)
        version = await machine.put("name", data)
        for step in range(12):
            files = machine.shard_files()
            for offset in range(3):
                flip(files[(step + 4 * offset) % 11], step / 12 + offset / 40)
            self.assertEqual(await machine.get("name"), data, step)
            await machine.settle()
            self.assert_whole(machine, version)
