"""dostore.core.window: blocks come to their places, of plain and sound shards only."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.shardfile import PAGE_BLOCKS, PAGE_BYTES, ShardFileBuilder
from dostore.core.window import Window
from tests.support.cases import SyncTestCase
from tests.support.properties import prove
from tests.support.shards import Sample, sample

#: One data shard, so that a file with pages has few megabytes.
NARROW = Scheme(1, 0, MIN_BLOCK_BYTES)

SCHEMES = (Scheme(4, 2, MIN_BLOCK_BYTES), NARROW, Scheme(3, 1, 4097))


def file_of(what: Sample, index: int, level: int | None = None) -> bytes:
    """A shard's file."""
    builder = ShardFileBuilder(index, what.content.scheme, level)
    pieces = builder.add(what.shards[index])
    footer, _ = builder.finish(what.content)
    return b"".join([*pieces, footer])


def scatter(window: Window, index: int, buffer: memoryview, file: bytes) -> bool:
    """Read a shard's file as a drive would; whether it came as it had to."""
    footer = memoryview(bytearray(window.told_bytes))
    places = window.places(buffer, index)
    for offset, buffers, size in window.parts(places, footer):
        at = offset
        for part in buffers:
            data = file[at : at + len(part)]
            part[: len(data)] = data
            at += len(data)
        if at - offset != size:
            return False
    return window.is_sound(index, places, footer)


class WindowTests(SyncTestCase):
    """Window."""

    @prove
    @given(
        st.sampled_from(SCHEMES),
        st.integers(1, 5 * 4 * MIN_BLOCK_BYTES),
        st.randoms(use_true_random=False),
    )
    def test_any_range(self, scheme: Scheme, size: int, random: Random) -> None:
        """The bytes of any range come from the data shards that have some of it, and no others."""
        what = sample(size, 1, scheme)
        start = random.randrange(size)
        stop = random.randrange(start, size) + 1
        window = Window.around(what.content, start, stop)
        assert window is not None
        self.assertEqual(window.shards, scheme.touched(size, start, stop))
        buffer = memoryview(bytearray(window.size))
        for index in window.shards:
            self.assertTrue(scatter(window, index, buffer, file_of(what, index)))
        self.assertEqual(
            bytes(buffer[window.before : window.before + stop - start]), what.data[start:stop]
        )

    @prove
    @given(st.sampled_from(SCHEMES), st.integers(1, 5 * 4 * MIN_BLOCK_BYTES))
    def test_whole_shards(self, scheme: Scheme, size: int) -> None:
        """Any shard can be had alone, and parity too."""
        what = sample(size, 2, scheme)
        for index in range(scheme.shards):
            window = Window.of_shard(what.content, index)
            assert window is not None
            buffer = memoryview(bytearray(window.size))
            self.assertTrue(scatter(window, index, buffer, file_of(what, index)))
            self.assertEqual(bytes(buffer), what.plain(index))

    def test_what_is_told_of_blocks(self) -> None:
        """Blocks are compared with what was told of them before, all or some in the middle."""
        scheme = SCHEMES[0]
        what = sample(3 * scheme.stripe_size - 7, 4, scheme)
        whole = Window.of_shard(what.content, 1)
        assert whole is not None
        buffer, told = memoryview(bytearray(whole.size)), memoryview(bytearray(whole.told_bytes))
        file = file_of(what, 1)
        buffer[:] = file[: whole.size]
        told[:-1] = file[whole.size :]
        entries = whole.entries(told)
        assert entries is not None
        self.assertTrue(whole.are_told(whole.places(buffer, 1), entries))
        at = scheme.stripe_size + scheme.block_size
        middle = Window.around(what.content, at, at + 1)
        assert middle is not None
        block = memoryview(bytearray(what.shards[1][1]))
        self.assertEqual(middle.offset, scheme.block_size)
        self.assertTrue(middle.are_told(middle.places(block, 1), entries))
        block[3] ^= 1
        self.assertFalse(middle.are_told(middle.places(block, 1), entries))

    def test_told_on_pages(self) -> None:
        """Of a shard with pages, not all is told in one place."""
        content = Content(ContentHash(bytes(32)), PAGE_BLOCKS * MIN_BLOCK_BYTES, NARROW)
        window = Window.around(content, 0, 1)
        assert window is not None
        self.assertIsNone(window.entries(memoryview(bytearray(window.told_bytes))))

    def test_any_other_byte(self) -> None:
        """Any byte of blocks or footer that is another, and one too few or too many, is noticed."""
        what = sample(2 * SCHEMES[0].stripe_size + 77)
        file = file_of(what, 1)
        window = Window.around(what.content, 0, what.content.size)
        assert window is not None
        buffer = memoryview(bytearray(window.size))
        self.assertTrue(scatter(window, 1, buffer, file))
        at = [*range(0, len(file), 97), *range(len(file) - window.told_bytes, len(file))]
        for position in at:
            other = bytearray(file)
            other[position] ^= 1
            self.assertFalse(scatter(window, 1, buffer, bytes(other)), position)
        for other_size in (file[:-1], file[1:], file + b"\0", b""):
            self.assertFalse(scatter(window, 1, buffer, other_size))

    def test_a_block_in_the_middle(self) -> None:
        """What is damaged elsewhere is no matter, but the footer has to be right."""
        what = sample(3 * SCHEMES[0].stripe_size)
        file = bytearray(file_of(what, 2))
        start = SCHEMES[0].stripe_size + 2 * MIN_BLOCK_BYTES + 5
        window = Window.around(what.content, start, start + 1)
        assert window is not None
        self.assertEqual((window.shards, window.size), (range(2, 3), MIN_BLOCK_BYTES))
        buffer = memoryview(bytearray(window.size))
        file[0] ^= 1
        file[2 * MIN_BLOCK_BYTES] ^= 1
        self.assertTrue(scatter(window, 2, buffer, bytes(file)))
        file[MIN_BLOCK_BYTES] ^= 1
        self.assertFalse(scatter(window, 2, buffer, bytes(file)))
        file[MIN_BLOCK_BYTES] ^= 1
        file[3 * MIN_BLOCK_BYTES] ^= 1
        self.assertFalse(scatter(window, 2, buffer, bytes(file)))

    def test_another_shard(self) -> None:
        """A whole file of another shard, content, or scheme is not taken for this one."""
        what, other = sample(99), sample(99, 1)
        window = Window.around(what.content, 0, 99)
        assert window is not None
        buffer = memoryview(bytearray(window.size))
        for file in (file_of(what, 2), file_of(other, 1)):
            self.assertFalse(scatter(window, 1, buffer, file))
        wider = Content(what.content.hash, 99, Scheme(4, 3, MIN_BLOCK_BYTES))
        window = Window.around(wider, 0, 99)
        assert window is not None
        self.assertFalse(scatter(window, 1, buffer, file_of(what, 1)))

    def test_compressed(self) -> None:
        """Blocks that do not lie where plain ones would are not taken for these."""
        scheme = SCHEMES[0]
        content = Content(ContentHash(bytes(32)), scheme.stripe_size, scheme)
        what = Sample(content, b"", [[bytes(MIN_BLOCK_BYTES)]] * scheme.shards)
        window = Window.around(content, 0, content.size)
        assert window is not None
        buffer = memoryview(bytearray(window.size))
        self.assertTrue(scatter(window, 0, buffer, file_of(what, 0)))
        self.assertFalse(scatter(window, 0, buffer, file_of(what, 0, level=1)))

    def test_between_pages(self) -> None:
        """With pages between its blocks a shard is read alike, but not across one of them."""
        block, page = MIN_BLOCK_BYTES, PAGE_BLOCKS * MIN_BLOCK_BYTES
        for size in (page, page + 1, 2 * page + 9, 2 * page + 5 * block):
            what = sample(size, 3, NARROW)
            file = file_of(what, 0)
            for start in (0, page - 1, page, 2 * page - 1, 2 * page, 2 * page + 8, size - 1):
                stop = min(start + block, size, start - start % page + page)
                if start >= size:
                    continue
                window = Window.around(what.content, start, stop)
                assert window is not None
                buffer = memoryview(bytearray(window.size))
                self.assertTrue(scatter(window, 0, buffer, file), (size, start))
                self.assertEqual(
                    buffer[window.before : window.before + stop - start], what.data[start:stop]
                )
                self.assertFalse(scatter(window, 0, buffer, file + b"\0"))
                self.assertFalse(scatter(window, 0, buffer, file[:-1]))
            if size > page:
                self.assertIsNone(Window.around(what.content, page - 1, page + 1))
                self.assertIsNone(Window.of_shard(what.content, 0))

    def test_damaged_pages(self) -> None:
        """Damage to the page that tells of a block, or to what tells of the page, is noticed."""
        page = PAGE_BLOCKS * MIN_BLOCK_BYTES
        what = sample(page + 1, 3, NARROW)
        file = file_of(what, 0)
        window = Window.around(what.content, 5, 6)
        assert window is not None
        buffer = memoryview(bytearray(window.size))
        footer = page + PAGE_BYTES + 1
        for at in (0, page, page + 7, page + PAGE_BYTES - 1, *range(footer, len(file))):
            other = bytearray(file)
            other[at] ^= 1
            self.assertFalse(scatter(window, 0, buffer, bytes(other)), at)
        other = bytearray(file)
        other[MIN_BLOCK_BYTES] ^= 1
        self.assertTrue(scatter(window, 0, buffer, bytes(other)))

    def test_nothing(self) -> None:
        """Without a block there is no window."""
        self.assertIsNone(Window.of_shard(Content(ContentHash(bytes(32)), 0, NARROW), 0))
