"""The index of shards, against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.adapters.shard_index import ShardIndex, names_in
from dostore.core.names import ContentHash, ShardName
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

#: Few contents, some on the same page, so that operations meet.
hashes = st.sampled_from(
    [ContentHash(bytes([page, rest]) * 16) for page in (0, 7, 255) for rest in (1, 2)]
)
names = st.builds(ShardName, hashes, st.integers(0, 255), st.sampled_from([b"a" * 32, b"b" * 32]))


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

    def test_file_names(self) -> None:
        """What is no shard's name is passed over."""
        name = ShardName(ContentHash(b"c" * 32), 3, b"s" * 32)
        self.assertEqual(
            list(names_in(["", ".", "lost+found", str(name) + ".bad", str(name), "a.b.c"])), [name]
        )
