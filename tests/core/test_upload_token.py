"""Tokens of uploads: what was sealed is read, and nothing else is."""

from __future__ import annotations

import base64

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dostore.core.names import MAX_NAME_BYTES, ContentHash
from dostore.core.scheme import MAX_SHARDS, Scheme
from dostore.core.upload_token import (
    MAC_BYTES,
    MAX_TOKEN_CHARACTERS,
    UploadToken,
    _mac,
    derive_key,
    node_id,
)
from dostore.errors import NotFound
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove, schemes, texts

KEY = derive_key(b"a secret of sixteen bytes and more")
NOW = 1_790_000_000.0
TOKEN = UploadToken(
    "a/name with spaces/ü",
    ContentHash(bytes(range(32))),
    100_000,
    Scheme(),
    bytes(range(16)),
    (*(node_id(f"10.29.1.{number}:12345") for number in range(1, 6)), None),
    1_789_999_000_000,
    1_790_000_001_000,
)

#: The text of TOKEN, so that servers of another version know what they get.
PINNED = (
    "AQGgxEEpwAGgxFBv6AABAgMEBQYHCAkKCwwNDg8AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwAAAAAAAYagBA"
    "IAAQAABocFTGSvrU9_aSRZkSJLU8TcnScmfWuPfYvV_FhciI4feGRJSK8h7PUAAAAAAAAAAGEvbmFtZSB3aXRoIHNwYWNl"
    "cy_DvNtNELWzQfxl6Wb6jPUKiZo"
)


class TokenTests(SyncTestCase):
    """Sealing and opening."""

    def assert_refused(self, text: str, key: bytes = KEY, now: float = NOW) -> None:
        """It leads nowhere, and the error says nothing of why."""
        error = self.assertRaises(NotFound, UploadToken.open, text, key, now)
        self.assertEqual(str(error), "There is no such upload (any more). Open it anew by a POST.")

    def test_round_trip(self) -> None:
        """What was sealed is read."""
        text = TOKEN.seal(KEY)
        self.assertEqual(UploadToken.open(text, KEY, NOW), TOKEN)
        self.assertRegex(text, r"\A[A-Za-z0-9_-]+\Z")

    @given(
        name=texts.filter(lambda text: len(text.encode()) <= 300),
        digest=content_hashes,
        size=st.integers(0, 2**63 - 1),
        scheme=schemes(max_shards=8),
        upload=st.binary(min_size=16, max_size=16),
        nodes=st.lists(
            st.none() | st.sampled_from(["drive-1", "host.example:65535"]).map(node_id), max_size=8
        ),
    )
    @prove
    def test_any(
        self,
        name: str,
        digest: ContentHash,
        size: int,
        scheme: Scheme,
        upload: bytes,
        nodes: list[bytes | None],
    ) -> None:
        """Whatever it says."""
        token = UploadToken(name, digest, size, scheme, upload, tuple(nodes), 1, 2**48 - 1)
        self.assertEqual(UploadToken.open(token.seal(KEY), KEY, NOW), token)

    def test_pinned(self) -> None:
        """The form does not change by itself: other servers have to read it."""
        self.assertEqual(TOKEN.seal(KEY), PINNED)

    def test_longest(self) -> None:
        """The longest name and the most nodes fit, whatever the nodes are called."""
        nodes = tuple(node_id("h" * 250 + f":{number}") for number in range(MAX_SHARDS))
        self.assertEqual(len(set(nodes)), MAX_SHARDS)
        token = evolve(TOKEN, name="x" * MAX_NAME_BYTES, nodes=nodes)
        text = token.seal(KEY)
        self.assertLess(len(text), MAX_TOKEN_CHARACTERS)
        self.assertEqual(UploadToken.open(text, KEY, NOW), token)

    def test_cut(self) -> None:
        """A token that was cut, at whichever end."""
        text = TOKEN.seal(KEY)
        for length in range(len(text)):
            self.assert_refused(text[:length])
            self.assert_refused(text[length + 1 :])

    def test_changed(self) -> None:
        """Any other character at any place."""
        text = TOKEN.seal(KEY)
        for place in range(len(text)):
            for other in ("A", "b", "_", "=", "%", "é", "\0"):
                if other != text[place]:
                    self.assert_refused(text[:place] + other + text[place + 1 :])
        for tail in ("A", "=", "==", " ", "\n"):
            self.assert_refused(text + tail)

    def test_other_key(self) -> None:
        """A token of another cluster."""
        self.assert_refused(TOKEN.seal(derive_key(b"another secret")))

    def test_expired(self) -> None:
        """Up to its last moment and not after it."""
        text = TOKEN.seal(KEY)
        self.assertEqual(UploadToken.open(text, KEY, NOW + 0.999), TOKEN)
        self.assert_refused(text, now=NOW + 1.0)

    def test_long(self) -> None:
        """A megabyte is not even decoded."""
        self.assert_refused("A" * 1_000_000)
        self.assert_refused(TOKEN.seal(KEY) + "A" * 1_000_000)

    def test_sealed_nonsense(self) -> None:
        """What bears a right mac and is no token: of another version, or damaged before."""
        body = base64.urlsafe_b64decode(TOKEN.seal(KEY) + "==")[:-MAC_BYTES]
        scheme = body[:69] + b"\0" + body[70:]
        for wrong in (
            b"",
            b"\2" + body[1:],
            body[:40],
            body[:75],
            body[:76],
            body[:100],
            body[:75] + b"\xff" + body[76:],
            body + b"\xff",
            scheme,
        ):
            sealed = base64.urlsafe_b64encode(wrong + _mac(KEY, wrong)).rstrip(b"=").decode()
            self.assert_refused(sealed)

    def test_shard_tokens(self) -> None:
        """Each shard has its own, which tells nothing of the upload's id."""
        tokens = {TOKEN.shard_token(index) for index in range(32)}
        self.assertEqual(len(tokens), 32)
        for token in tokens:
            self.assertRegex(token, r"\A[0-9a-f]{32}\Z")
        other = evolve(TOKEN, upload=bytes(16))
        self.assertNotIn(other.shard_token(0), tokens)

    def test_no_secret_in_its_text(self) -> None:
        """Logged, it shows no upload id."""
        self.assertNotIn("upload=", repr(TOKEN))

    def test_non_canonical(self) -> None:
        """Of several texts that decode to the same bytes, one is taken."""
        for size in range(3):
            text = evolve(TOKEN, name="x" * size).seal(KEY)
            if len(text) % 4:
                last = text[-1]
                alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                twin = alphabet[alphabet.index(last) ^ 1]
                self.assert_refused(text[:-1] + twin)
