"""How property tests are run, and what they draw."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from dostore.core.names import ContentHash
from dostore.core.scheme import MAX_BLOCK_BYTES, MAX_SHARDS, MIN_BLOCK_BYTES, Scheme
from tests.support.cases import QUICK

#: Decorates every property test. No deadline: a machine that is busy is no failure.
prove = settings(deadline=None, print_blob=True, max_examples=20 if QUICK else 100)

#: The same for properties whose single example is slow.
prove_slowly = settings(prove, max_examples=5 if QUICK else 25)

digests = st.binary(min_size=32, max_size=32)
content_hashes = digests.map(ContentHash)

#: Text that has a UTF-8 form.
texts = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def schemes(draw: st.DrawFn, max_shards: int = MAX_SHARDS) -> Scheme:
    """Any scheme that is permitted, small blocks preferred."""
    k = draw(st.integers(1, max_shards))
    m = draw(st.integers(0, max_shards - k))
    block = draw(st.sampled_from([MIN_BLOCK_BYTES, 4099, 65536, MAX_BLOCK_BYTES]))
    return Scheme(k, m, block)
