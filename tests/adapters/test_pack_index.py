"""The index of packed shards, against a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.adapters.pack_index import PLACE, PackIndex
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

#: Few contents, some on the same page, one that looks like the end of another's entry and the
#: beginning of the next, so that operations meet.
digests = st.sampled_from(
    [bytes([page, rest]) * 16 for page in (0, 7, 255) for rest in (1, 2)] + [bytes(32), b"\7" * 32]
)
places = st.sampled_from([PLACE.pack(0, 0, 0, 0), PLACE.pack(1, 2, 3, 4), b"\7\1" * 10])


class IndexTests(SyncTestCase):
    """Whatever is set and popped, in whatever order."""

    @prove
    @given(
        st.lists(
            st.tuples(st.booleans(), digests, st.sampled_from([0, 1, 7, 255]), places), max_size=60
        ),
        st.booleans(),
    )
    def test_like_a_dictionary(
        self, steps: list[tuple[bool, bytes, int, bytes]], fill: bool
    ) -> None:
        """It holds the place set last of each shard, and tells which one that replaced."""
        index = PackIndex()
        model: dict[tuple[bytes, int], bytes] = {}
        if fill:
            model = {(digest, number): place for _, digest, number, place in steps[:20]}
            index.fill(
                (digest + bytes([number]), place) for (digest, number), place in model.items()
            )
        for sets, digest, number, place in steps:
            key = (digest, number)
            if sets:
                self.assertEqual(index.set(digest, number, place), model.get(key))
                model[key] = place
            else:
                self.assertEqual(index.pop(digest, number), model.pop(key, None))
            self.assertEqual(index.get(digest, number), model.get(key))
        for _, digest, number, _ in steps:
            self.assertEqual(index.get(digest, number), model.get((digest, number)))
            held = sorted(i for d, i in model if d == digest)
            self.assertEqual(sorted(index.indexes(digest)), held)
        self.assertEqual(len(index), len({digest for digest, _ in model}))
        self.assertEqual({(key[:-1], key[-1]): place for key, place in index}, model)
        pages = [index.page(number) for number in range(256)]
        for number, page in enumerate(pages):
            self.assertTrue(all(digest[0] == number for digest in page))
        self.assertEqual(
            {(digest, i) for page in pages for digest, held in page.items() for i in held},
            set(model),
        )
