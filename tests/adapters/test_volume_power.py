"""Packed shards and power cuts: what was told to be there is there, whenever the power is cut."""

from __future__ import annotations

import math
import random
import shutil

from dostore.adapters.node_local import DriveNode
from dostore.adapters.volume_emptying import next_to_empty
from dostore.core.names import ContentHash
from tests.support.faults import FaultyFiles
from tests.support.shards import Sample, sample
from tests.support.volatile import VolatileFiles, lay_out
from tests.support.volumes import VolumeCase


class PowerTests(VolumeCase):
    """A drive that loses all that is not synced when its power is cut."""

    def setUp(self) -> None:
        """Nothing is there yet."""
        super().setUp()
        #: What was told to be there, from which call on, and until which it was not removed.
        self.there: dict[ContentHash, tuple[Sample, int, float]] = {}
        self.before: list[tuple[Sample, int, float]] = []

    def make_files(self) -> VolatileFiles:
        """See VolumeCase."""
        return VolatileFiles()

    def put(self, *samples: Sample) -> None:
        """Put shard 0 of each."""
        for what in samples:
            super().put(what)
            self.note(what)

    def note(self, what: Sample) -> None:
        """It was told to be there."""
        self.there.setdefault(what.content.hash, (what, len(self.files.journal), math.inf))

    def forget(self, *samples: Sample) -> None:
        """They are not to be there any more."""
        for what in samples:
            _, since, _ = self.there.pop(what.content.hash)
            self.before.append((what, since, len(self.files.journal)))

    def delete(self, *samples: Sample) -> None:
        """Remove them; they can be brought back."""
        self.forget(*samples)
        super().delete(*samples)

    def bring_back(self, *samples: Sample) -> None:
        """Give them back."""
        for what in samples:
            self.read(self.node, what)
            self.note(what)

    def check(self, moment: int, chance: random.Random | None) -> None:
        """Cut the power after so many calls, start again and look, also when volumes are emptied
        and after another start.
        """
        after = self.root / "after"
        shutil.rmtree(after, ignore_errors=True)
        after.mkdir()
        lay_out(self.files.after_power_cut(moment, chance), self.folder, after)
        for _ in range(2):
            node = self.start_at(after, FaultyFiles(durable=False))
            try:
                # What is there must not be only to be given back.
                self.do(node.purge(2.0**40))
                self.look(node, moment)
                self.empty_all(node)
                self.look(node, moment)
            finally:
                node.store.close()

    def look(self, node: DriveNode, moment: int) -> None:
        """All is there that was told to be."""
        for what, since, until in [*self.there.values(), *self.before]:
            if since <= moment <= until:
                self.assertEqual(self.read(node, what), what.plain(0), moment)

    def check_all(self) -> None:
        """Cut the power at every moment, with what was not synced all lost, and some of it."""
        lines = self.logged()
        seed = random.randrange(1 << 32)
        print(f"seed {seed}", end=" ", flush=True)  # noqa: T201
        chance = random.Random(seed)
        for moment in range(len(self.files.journal) + 1):
            self.check(moment, None)
            self.check(moment, chance)
        self.assertEqual([line for line in lines if "damaged" in line], [])

    def test_puts(self) -> None:
        """Shards that are put, written in parts and put again."""
        samples = [sample(size, seed) for seed, size in enumerate([10, 0, 500, 5000, 4096, 1, 30])]
        self.put(*samples)
        self.do(self._write(samples[3]))
        self.put(samples[0])
        for _ in range(12):
            # If this one is torn, those from before count.
            self.put(samples[4])
        self.check_all()

    async def _write(self, what: Sample) -> None:
        writer = await self.node.begin(0, what.content.scheme)
        for block in what.shards[0]:
            await writer.write([block])
        await writer.commit(what.content)

    def test_changes(self) -> None:
        """What was brought back stays, and so does what was renewed, or put again after that."""
        samples = [sample(300 + seed, seed) for seed in range(12)]
        self.put(*samples)
        self.delete(*samples[:6])
        self.bring_back(*samples[:3])
        self.put(samples[3])
        for what in samples:
            self.do(self.node.renew(what.content.hash))
        self.now += 90_000.0
        self.do(self.node.purge(self.now - 86_400))
        self.forget(samples[6])
        self.do(self.node.discard(samples[6].content.hash, 0))
        self.put(*[sample(400 + seed, seed) for seed in range(20, 24)])
        self.check_all()

    def test_emptying(self) -> None:
        """Emptying volumes loses nothing, whatever it has come to, nor do several starts."""
        samples = [sample(200 + 37 * seed, seed) for seed in range(30)]
        self.put(*samples)
        gone = samples[::3] + samples[1::3]
        self.delete(*gone[:15])
        self.now += 90_000.0
        self.do(self.node.purge(self.now - 86_400))
        self.delete(*gone[15:])
        self.bring_back(*gone[15:17])
        self.assertGreater(self.empty_all(self.node), 1)
        self.do(self.node.checkpoint())
        self.restart()
        self.bring_back(*gone[17:19])
        self.put(*[sample(700 + seed, seed) for seed in range(40, 50)])
        self.delete(*samples[2:20:3])
        self.bring_back(samples[2])
        self.empty_all(self.node)
        self.check_all()

    def test_carried(self) -> None:
        """What a volume tells of a shard in an older one is not lost when it is emptied."""
        removed, back, other = (sample(900 + seed, seed) for seed in range(3))
        self.put(removed, back, other)
        self.next_volume()
        self.delete(removed, back)
        self.next_volume()
        self.bring_back(back)
        for _ in range(40):
            self.do(self.node.renew(other.content.hash))
        self.next_volume()
        # There is little but changes in it.
        self.assertEqual(next_to_empty(self.node.store.volumes), 3)
        self.assertEqual(self.empty_all(self.node), 1)
        self.check_all()
        self.assertEqual(self.node.held(removed.content.hash), (0,))
