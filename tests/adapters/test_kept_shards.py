"""dostore.adapters.kept_shards: what is kept open is read as if it were opened each time."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from dostore.adapters.kept_files import KeptFiles
from dostore.adapters.kept_shards import KeptShards
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.shardfile import ShardFileBuilder
from dostore.core.window import Window
from tests.support.cases import SyncTestCase
from tests.support.faults import FaultyFiles
from tests.support.memory import keep_files_in_memory, opened
from tests.support.shards import Sample, sample

SCHEME = Scheme(4, 2, MIN_BLOCK_BYTES)


def file_of(what: Sample, index: int) -> bytes:
    """A shard's file."""
    builder = ShardFileBuilder(index, what.content.scheme)
    pieces = builder.add(what.shards[index])
    footer, _ = builder.finish(what.content)
    return b"".join([*pieces, footer])


class KeptShardsTests(SyncTestCase):
    """Shards of three blocks, of which two are kept, on a machine that has all in memory."""

    def setUp(self) -> None:
        """Three of them."""
        super().setUp()
        keep_files_in_memory(self)
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        size = 3 * SCHEME.stripe_size - 5
        self.samples = {name: sample(size, number, SCHEME) for number, name in enumerate("abc")}
        self.wholes = {name: file_of(what, 1) for name, what in self.samples.items()}
        for name, whole in self.wholes.items():
            (self.folder / name).write_bytes(whole)
        self.files = FaultyFiles()
        self.kept = KeptFiles(self.files, 2)
        self.shards = KeptShards(self.files, self.kept)
        self.addCleanup(lambda: any(map(os.close, self.kept.take_all())))

    def read(self, name: str, what: Sample | None = None, *, keep: bool = True) -> bool:
        """Whether a shard can be read as what it must be, of a kept file if it is."""
        what = what or self.samples[name]
        window = Window.of_shard(what.content, 1)
        assert window is not None
        buffer = memoryview(bytearray(window.size))
        places = window.places(buffer, 1)
        done = self.shards.read(1, window, places) if keep else None
        if done is None:
            done = self.shards.open(str(self.folder / name), 1, window, places, keep=keep)
        if done:
            self.assertEqual(bytes(buffer), what.plain(1))
        return done

    def test_once(self) -> None:
        """It is opened once, and read as often as is wished."""
        self.assertEqual(opened(lambda: self.assertTrue(self.read("a"))), 1)
        self.assertEqual(opened(lambda: self.assertTrue(self.read("a"))), 0)

    def test_the_oldest_goes(self) -> None:
        """Those that were read last are kept, and all others closed."""
        before = len(os.listdir("/proc/self/fd"))
        for name in "abac":
            self.read(name)
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (2, before + 2))
        self.assertEqual(opened(lambda: (self.read("a"), self.read("c"))), 0)
        self.assertEqual(opened(lambda: self.read("b")), 1)

    def test_whatever_happens_to_it(self) -> None:
        """A file that was removed, moved, replaced or written to is opened by its path again."""
        path = self.folder / "a"
        whole = self.wholes["a"]
        for change, found in (
            (path.unlink, False),
            (lambda: path.rename(self.folder / "x"), False),
            (lambda: (self.folder / "b").rename(path), False),
            (lambda: path.write_bytes(whole[:-1]), False),
            (lambda: path.write_bytes(whole + b"."), False),
            (lambda: os.utime(path), True),
        ):
            path.write_bytes(whole)
            self.assertTrue(self.read("a"))
            # The next change has another time than the last.
            os.utime(path, ns=(1, 1))
            self.assertTrue(self.read("a"))
            change()
            self.assertEqual(self.read("a"), found)

    def test_what_decays(self) -> None:
        """A block that is another without any change is noticed, for its check is remembered."""
        self.assertTrue(self.read("a"))
        self.kept._kept = {key: (fd, 7, told) for key, (fd, _, told) in self.kept._kept.items()}
        self.patch(self.files, "changed_ns", lambda fd: 7)
        self.assertTrue(self.read("a"))
        damaged = bytearray(self.wholes["a"])
        damaged[2 * MIN_BLOCK_BYTES + 3] ^= 1
        (self.folder / "a").write_bytes(damaged)
        self.assertEqual(opened(lambda: self.assertFalse(self.read("a"))), 0)

    def test_part_of_it(self) -> None:
        """Some blocks of a shard that is kept are compared with what was told of them."""
        self.assertTrue(self.read("a"))
        content = self.samples["a"].content
        for stripe in range(3):
            window = Window.around(content, stripe * SCHEME.stripe_size + MIN_BLOCK_BYTES,
                                   stripe * SCHEME.stripe_size + MIN_BLOCK_BYTES + 1)  # fmt: skip
            assert window is not None and window.shards == range(1, 2)
            buffer = memoryview(bytearray(window.size))
            self.assertTrue(self.shards.read(1, window, window.places(buffer, 1)))
            self.assertEqual(bytes(buffer), bytes(self.samples["a"].shards[1][stripe]))

    def test_long_one(self) -> None:
        """Of one with many blocks, what is told of them is read each time."""
        what = sample(40 * SCHEME.stripe_size, 9, SCHEME)
        (self.folder / "long").write_bytes(file_of(what, 1))
        for _ in range(2):
            self.assertTrue(self.read("long", what))
        ((_, _, told),) = self.kept._kept.values()
        self.assertIsNone(told)

    def test_not_there(self) -> None:
        """What cannot be opened or read without a wait is not kept."""
        before = len(os.listdir("/proc/self/fd"))
        self.assertFalse(self.read("none", self.samples["a"]))
        self.assertFalse(self.read("b", self.samples["a"]))
        with mock.patch.object(os, "preadv", side_effect=BlockingIOError):
            self.assertFalse(self.read("b"))
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (0, before))

    def test_none_is_kept(self) -> None:
        """Where none is to be kept, each is opened and closed, and so is one that shall not be."""
        before = len(os.listdir("/proc/self/fd"))
        self.assertTrue(self.read("a", keep=False))
        self.kept = KeptFiles(self.files, 0)
        self.shards = KeptShards(self.files, self.kept)
        self.assertTrue(self.read("a"))
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (0, before))

    def test_drop(self) -> None:
        """One that is dropped is closed; another need not be there."""
        before = len(os.listdir("/proc/self/fd"))
        self.read("a")
        for name in "ab":
            self.shards.drop(self.samples[name].content.hash, 1)
        self.assertEqual((len(self.kept), len(os.listdir("/proc/self/fd"))), (0, before))
