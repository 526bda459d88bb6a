"""The index of shards, against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.adapters.shard_index import ShardIndex
from dostore.core.names import ContentHash, ShardName
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

#: Few contents, some on the same page, so that operations meet.
hashes = st.sampled_from(
    [ContentHash(bytes([page, rest]) * 16) for page in (0, 7, 255) for rest in (1, 2)]
)
names = st.builds(ShardName, hashes, st.integers(0, 255), st.sampled_from([b"a" * 32, b"b" * 32]))

_PIECES = (str(ShardName(ContentHash(b"\xff" * 32), 1, b"c" * 32)), "A" * 43 + "=", "%2F", "%2f")

#: Names of files that are hardly a shard's, and some that are.
file_names = st.lists(
    st.sampled_from([*_PIECES, "A" * 42 + "B=", ".", "0", "00", "255", "256", "\n", "x", "\udcff"]),
    min_size=1,
    max_size=7,
).map("".join)


class IndexTests(SyncTestCase):
    """Whatever is added and removed, in whatever order."""

    @prove
    @given(st.lists(st.tuples(st.booleans(), names), max_size=40))
    def test_like_a_dictionary(self, steps: list[tuple[bool, ShardName]]) -> None:
        """It holds the name added last of each shard, and tells which one that replaced."""
        index = ShardIndex()
        model: dict[tuple[ContentHash, int], ShardName] = {}
        for adds, name in steps:
            key = (name.content_hash, name.index)
            if adds:
                before = model.get(key)
                self.assertEqual(index.add(name), None if before == name else before)
                model[key] = name
            else:
                index.remove(*key)
                model.pop(key, None)
            self.assertEqual(index.get(*key), model.get(key))
        contents = {content_hash for content_hash, _ in model}
        self.assertEqual(len(index), len(contents))
        for content_hash in contents:
            held = sorted(i for h, i in model if h == content_hash)
            self.assertEqual(sorted(index.indexes(content_hash)), held)
        pages = [index.page(number) for number in range(256)]
        for number, page in enumerate(pages):
            self.assertTrue(all(h.digest[0] == number for h in page))
        self.assertEqual(
            {(h, i) for page in pages for h, held in page.items() for i in held}, set(model)
        )

    @prove
    @given(st.lists(names, max_size=20), st.sets(hashes, max_size=3))
    def test_many_at_once(self, found: list[ShardName], packed: set[ContentHash]) -> None:
        """The first shard of each content is noted, unless it is known; the others are told."""
        index = ShardIndex()
        rest = index.load(
            [str(name) for name in found], {each.digest for each in packed}.__contains__
        )
        noted: dict[ContentHash, ShardName] = {}
        others = []
        for name in found:
            if name.content_hash in packed or name.content_hash in noted:
                others.append(name)
            else:
                noted[name.content_hash] = name
        self.assertEqual(rest, others)
        self.assertEqual(len(index), len(noted))
        for content_hash, name in noted.items():
            self.assertEqual(index.names(content_hash), (name,))

    @prove
    @given(st.lists(st.one_of(file_names, names.map(str)), max_size=20))
    def test_file_names(self, found: list[str]) -> None:
        """What is noted is what is a shard's name by itself; all else is passed over."""
        index = ShardIndex()
        for name in index.load(found):
            index.add(name)
        parsed = filter(None, map(ShardName.parse, found))
        expected = {(name.content_hash, name.index): name for name in parsed}
        told = [
            name for page in range(256) for each in index.page(page) for name in index.names(each)
        ]
        self.assertEqual({(name.content_hash, name.index): name for name in told}, expected)
