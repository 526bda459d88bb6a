"""dostore.core.window: blocks come to their places, of plain and sound shards only."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MIN_BLOCK_BYTES, Scheme
from dostore.core.shardfile import PAGE_BLOCKS, ShardFileBuilder
from dostore.core.window import Window
from tests.support.cases import SyncTestCase
from tests.support.properties import prove
from tests.support.shards import Sample, sample

SCHEMES = (Scheme(4, 2, MIN_BLOCK_BYTES), Scheme(1, 0, MIN_BLOCK_BYTES), Scheme(3, 1, 4097))


def file_of(what: Sample, index: int, level: int | None = None) -> bytes:
    """A shard's file."""
    builder = ShardFileBuilder(index, what.content.scheme, level)
    pieces = builder.add(what.shards[index])
    footer, _ = builder.finish(what.content)
    return b"".join([*pieces, footer])


def scatter(window: Window, index: int, buffer: memoryview, file: bytes) -> bool:
    """Read a shard's file as a drive would; whether it came as it had to."""
    footer = memoryview(bytearray(window.footer_bytes + 1))
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

    def test_any_other_byte(self) -> None:
        """Any byte of blocks or footer that is another, and one too few or too many, is noticed."""
        what = sample(2 * SCHEMES[0].stripe_size + 77)
        file = file_of(what, 1)
        window = Window.around(what.content, 0, what.content.size)
        assert window is not None
        buffer = memoryview(bytearray(window.size))
        self.assertTrue(scatter(window, 1, buffer, file))
        at = [*range(0, len(file), 97), *range(len(file) - window.footer_bytes, len(file))]
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

    def test_what_has_no_window(self) -> None:
        """Shards with pages between their blocks have none, nor have those without a block."""
        scheme = SCHEMES[1]
        content_hash = ContentHash(bytes(32))
        largest = Content(content_hash, (PAGE_BLOCKS - 1) * MIN_BLOCK_BYTES, scheme)
        larger = Content(content_hash, largest.size + 1, scheme)
        self.assertIsNotNone(Window.around(largest, 0, 1))
        self.assertIsNotNone(Window.of_shard(largest, 0))
        self.assertIsNone(Window.around(larger, 0, 1))
        self.assertIsNone(Window.of_shard(larger, 0))
        self.assertIsNone(Window.of_shard(Content(content_hash, 0, scheme), 0))
