"""Shards as records of volumes, and back."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dostore.core.model import Content
from dostore.core.packed import (
    PlainShards,
    entry_of_blocks,
    entry_of_file,
    is_packed_block,
    is_plain,
    record_of,
    shard_of,
)
from dostore.core.scheme import Scheme
from dostore.core.shardfile import Footer, ShardFileBuilder, check_of
from dostore.core.shardlog import Kind
from dostore.core.stripes import Block
from dostore.core.volumelog import HEAD_BYTES, VOLUME, Entry, VolumeRecord, hint_of, parse_head
from dostore.errors import BadShard, NewerFormat
from tests.support.cases import SyncTestCase
from tests.support.properties import prove
from tests.support.shards import SCHEME, sample, sample_of

SEED, OFFSET = 77, 4000

#: Two blocks a shard, one, and none.
SIZES = (SCHEME.stripe_size + 1, SCHEME.stripe_size, 4000, 1, 0)


def file_of(content: Content, index: int, blocks: list[Block], level: int | None = None) -> bytes:
    """A shard's file."""
    builder = ShardFileBuilder(index, content.scheme, level)
    pieces = builder.add(blocks)
    return b"".join([*pieces, builder.finish(content)[0]])


def written(entry: Entry) -> bytes:
    """The bytes of the record that an entry makes."""
    return entry.head(SEED, OFFSET, 0, 1000) + entry.body


def read(entry: Entry) -> tuple[Footer, bytes]:
    """The shard of the record that an entry makes."""
    return shard_of(*record_of(SEED, OFFSET, written(entry)))


class PackedTests(SyncTestCase):
    """What is packed is what comes out."""

    def plain(self, footer: Footer, whole: bytes) -> bytes:
        """All plain bytes of a shard."""
        count = footer.last.count
        offset, length = footer.last.span(0, count)
        return bytes(footer.last.plain(0, count, whole[offset : offset + length]))

    def test_there_and_back(self) -> None:
        """Any shard, from its blocks or its file, compressed or not."""
        data = st.binary(max_size=300).map(lambda piece: piece * 60)

        @given(data, st.integers(0, 5), st.sampled_from([None, 0, 1]))
        def check(content: bytes, index: int, level: int | None) -> None:
            what = sample_of(content)
            blocks = what.shards[index]
            entry = entry_of_blocks(what.content, index, blocks, level)
            self.assertEqual(entry_of_file(file_of(what.content, index, blocks, level)), entry)
            footer, whole = read(entry)
            self.assertEqual((footer.info.content, footer.info.index), (what.content, index))
            self.assertEqual(self.plain(footer, whole), what.plain(index))

        prove(check)

    def test_room(self) -> None:
        """A content of 4 KiB takes 1.64 times its size, and less when it shrinks."""
        what = sample(4096, scheme=Scheme())
        packed = [entry_of_blocks(what.content, i, what.shards[i]) for i in range(6)]
        self.assertEqual({entry.kind for entry in packed}, {Kind.PACKED})
        self.assertLess(sum(len(written(entry)) for entry in packed) / 4096, 1.641)
        what = sample_of(bytes(4096), Scheme())
        entry = entry_of_blocks(what.content, 0, what.shards[0], 1)
        self.assertLess(len(entry.body), 16 + 100)
        self.assertEqual(self.plain(*read(entry)), bytes(1024))

    def test_same_footer(self) -> None:
        """The footer that follows from a head is that of the file."""
        for size in SIZES:
            what = sample(size)
            for level in (None, 1):
                whole = file_of(what.content, 2, what.shards[2], level)
                footer, _ = read(entry_of_file(whole))
                entry = evolve(
                    entry_of_blocks(what.content, 2, what.shards[2]),
                    kind=Kind.WRITTEN,
                    body=whole,
                    check=check_of(whole),
                )
                as_file, _ = read(entry)
                self.assertEqual(footer.info, as_file.info)
                self.assertEqual(footer.size, as_file.size)
                self.assertEqual(
                    [list(footer.last.offsets), list(footer.last.checks)],
                    [list(as_file.last.offsets), list(as_file.last.checks)],
                )

    def test_blocks_that_are_no_shard(self) -> None:
        """What cannot be a shard of the content is refused."""
        one, two = sample(4000), sample(SCHEME.stripe_size + 1)
        for what, blocks in (
            (one, []),
            (one, [one.shards[0][0][1:]]),
            (two, two.shards[0][:1]),
            (one, two.shards[0]),
        ):
            with self.assertRaises(ValueError):
                entry_of_blocks(what.content, 0, blocks)

    def test_damage(self) -> None:
        """A record with any byte changed is damaged."""
        for size in SIZES:
            what = sample(size)
            data = written(entry_of_blocks(what.content, 1, what.shards[1]))
            for at in [*range(0, HEAD_BYTES, 5), *range(HEAD_BYTES, len(data), 97)]:
                hurt = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                with self.assertRaises(BadShard):
                    record_of(SEED, OFFSET, hurt)
            with self.assertRaises(BadShard):
                record_of(SEED, OFFSET, data + b"x")

    def test_plain_block(self) -> None:
        """A record of a plain block is known by its head; nothing else is taken for it."""
        one, two, deflated = sample(4000), sample(4000, 1), sample_of(bytes(4000))
        for level in (None, 1):
            entry = entry_of_blocks(one.content, 1, one.shards[1], level)
            data = written(evolve(entry, time_ms=5, carried=True))
            head, block = data[:HEAD_BYTES], data[HEAD_BYTES:]

            def is_it(
                head: bytes,
                content: Content = one.content,
                index: int = 1,
                block: Block = block,
                at: int = OFFSET,
            ) -> bool:
                return is_packed_block(SEED, at, head, content, index, block)

            self.assertTrue(is_it(head))
            for at in range(HEAD_BYTES):
                self.assertFalse(is_it(head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :]))
            self.assertFalse(is_it(head[:-1]))
            self.assertFalse(is_it(head, content=two.content))
            self.assertFalse(is_it(head, index=2))
            self.assertFalse(is_it(head, block=block[1:] + b"x"))
            self.assertFalse(is_it(head, at=OFFSET + 8))
        entry = entry_of_blocks(deflated.content, 1, deflated.shards[1], 1)
        head = written(entry)[:HEAD_BYTES]
        self.assertFalse(
            is_packed_block(SEED, OFFSET, head, deflated.content, 1, deflated.shards[1][0])
        )

    def test_made_in_one_go(self) -> None:
        """Plain shards that are made together are the records that each would be by itself, with
        the same hints."""
        samples = [sample(size, size) for size in (SCHEME.stripe_size, 4000, 4001, 1)]
        shards = [
            (each.content, index, each.shards[index][0]) for each in samples for index in (0, 3, 5)
        ]
        made = PlainShards(shards, 1000)
        pieces, end = made.encode(SEED, OFFSET, 3000)
        data, expected, at = b"".join(pieces), b"", OFFSET
        for (content, index, block), offset, hint in zip(
            shards, made.offsets, made.hints, strict=True
        ):
            self.assertEqual(offset, at)
            entry = entry_of_blocks(content, index, [block])
            expected += (entry.head(SEED, at, 3000, 1000) + bytes(block)).ljust(
                VOLUME.record_size(len(block)), b"\0"
            )
            record = parse_head(SEED, at, data[at - OFFSET :][:HEAD_BYTES])
            assert record is not None
            self.assertEqual(hint_of(record), hint)
            at = OFFSET + len(expected)
        self.assertEqual((data, end), (expected, at))

    def test_what_is_plain(self) -> None:
        """One block, of a content of one stripe, and as long as it must be."""
        what, large = sample(4000), sample(SCHEME.stripe_size + 1)
        self.assertTrue(is_plain(what.content, what.shards[0]))
        self.assertFalse(is_plain(what.content, [what.shards[0][0][:-1]]))
        self.assertFalse(is_plain(what.content, []))
        self.assertFalse(is_plain(large.content, large.shards[0]))
        self.assertFalse(is_plain(large.content, large.shards[0][:1]))
        self.assertFalse(is_plain(sample(0).content, [b""]))

    def test_not_a_shard(self) -> None:
        """A change is no shard."""
        with self.assertRaises(BadShard):
            record_of(SEED, OFFSET, written(Entry(Kind.REMOVED, bytes(32), 0)))
        with self.assertRaises(BadShard):
            record_of(SEED, OFFSET, b"")

    def record(self, **changed: Any) -> tuple[VolumeRecord, bytes]:
        """One with right checks all over, and something in it that cannot be."""
        what = sample(4000)
        entry = entry_of_blocks(what.content, 1, what.shards[1])
        return record_of(SEED, OFFSET, written(evolve(entry, **changed)))

    def test_what_cannot_be(self) -> None:
        """Right checks do not make a shard."""
        shard_of(*self.record())
        impossible: tuple[dict[str, Any], ...] = (
            {"k": 0},
            {"block_size": 1},
            {"index": 6},
            {"size": 5000},
            {"size": 4 * 65536},
        )
        for changed in impossible:
            with self.assertRaises(BadShard):
                shard_of(*self.record(**changed))

    def test_newer(self) -> None:
        """What a newer program wrote is left alone."""
        for changed in ({"major": 2}, {"compression": 2}):
            with self.assertRaises(NewerFormat):
                shard_of(*self.record(**changed))

    def test_another_shards_file(self) -> None:
        """A file in the record of another shard is damage."""
        what = sample(SCHEME.stripe_size + 1)
        entry = entry_of_blocks(what.content, 1, what.shards[1])
        self.assertEqual(entry.kind, Kind.WRITTEN)
        others: tuple[dict[str, Any], ...] = ({"index": 2}, {"digest": bytes(32)})
        for changed in others:
            with self.assertRaises(BadShard):
                read(evolve(entry, **changed))
