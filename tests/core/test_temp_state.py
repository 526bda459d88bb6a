"""The state of a temporary shard, as it is sent."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.temp_state import (
    Tail,
    TempAbout,
    TempState,
    format_temp_state,
    parse_temp_state,
)
from dostore.errors import InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove, schemes

STATE = TempState(
    TempAbout(3, Scheme(), ContentHash(bytes(32)), 100, b"note", 60), 25, Tail(0, b"the tail\n")
)


class StateTests(SyncTestCase):
    """Formatting and parsing."""

    @given(
        scheme=schemes(),
        index=st.integers(0, 31),
        content_hash=st.none() | content_hashes,
        size=st.none() | st.integers(0, 2**63 - 1),
        note=st.binary(max_size=100),
        keep_s=st.none() | st.integers(0, 10**9),
        held=st.integers(0, 2**63 - 1),
        tail=st.none() | st.builds(Tail, st.integers(0, 2**62), st.binary(max_size=100)),
        committed=st.booleans(),
        owner=st.sampled_from(["", "0123456789abcdef" * 2]),
        agreed=st.integers(0, 2**63 - 1),
    )
    @prove
    def test_round_trip(
        self,
        scheme: Scheme,
        index: int,
        content_hash: ContentHash | None,
        size: int | None,
        note: bytes,
        keep_s: int | None,
        held: int,
        tail: Tail | None,
        committed: bool,
        owner: str,
        agreed: int,
    ) -> None:
        """What was formatted is read."""
        about = TempAbout(index, scheme, content_hash, size, note, keep_s)
        state = TempState(about, held, tail, committed, owner, agreed)
        self.assertEqual(parse_temp_state(format_temp_state(state)), state)

    def test_wrong(self) -> None:
        """Every field that is missing or impossible, and every byte that is changed in the tail."""
        data = format_temp_state(STATE)
        line, _, tail = data.partition(b"\n")
        fields = json.loads(line)
        nullable = ("hash", "size", "keep", "start")
        for name in fields:
            for value in (-1, "x", 1 << 63, 1.5, True, *((None,) if name not in nullable else ())):
                if (name, value) == ("committed", True):
                    continue
                changed = json.dumps({**fields, name: value}).encode() + b"\n" + tail
                self.assertRaises(InvalidRequest, parse_temp_state, changed)
            less = {key: value for key, value in fields.items() if key != name}
            self.assertRaises(InvalidRequest, parse_temp_state, json.dumps(less).encode() + b"\n")
        for wrong in (b"", b"{}", b"[]\n", b"\xff", data[:-1], data + b"x"):
            self.assertRaises(InvalidRequest, parse_temp_state, wrong)

    @given(st.binary(max_size=300))
    @prove
    def test_garbage(self, data: bytes) -> None:
        """Anything else is refused by the same error."""
        line = base64.b64encode(data)
        for each in (data, line + b"\n", b'{"check": "' + line + b'"}\n'):
            self.assertRaises(InvalidRequest, parse_temp_state, each)
