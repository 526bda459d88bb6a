"""A13: digests that are not the body's."""

from __future__ import annotations

import base64
import hashlib

from tests.support.processes import BlockingStoreTestCase

THEIRS = b"what somebody else has stored" * 100


def digest(data: bytes) -> dict[str, str]:
    """A Digest field."""
    return {"Digest": "SHA-256=" + base64.b64encode(hashlib.sha256(data).digest()).decode()}


class A13(BlockingStoreTestCase):
    """Wrong digests."""

    def test_wrong_digests(self) -> None:
        """400, no version, no shard, and what others have stored is not given away or changed."""
        store = self.start_store()
        self.assertEqual(
            store.request("PUT", "/objects/theirs", THEIRS, digest(THEIRS)).status, 200
        )
        before = store.shard_files()
        large = b"x" * 3_000_000
        for body in (b"", b"mine", THEIRS + b"x", THEIRS[:-1], large):
            for wrong in (digest(THEIRS), digest(b"something else")):
                answer = store.request("PUT", "/objects/mine", body, wrong)
                self.assertEqual(answer.status, 400)
                answer = store.request("PUT", "/objects/mine", iter([body]), wrong)
                self.assertEqual(answer.status, 400)
        self.assertEqual(store.request("GET", "/objects/mine").status, 404)
        self.assertEqual(store.request("GET", "/versions/mine").status, 404)
        self.assertEqual(store.shard_files(), before)
        self.assertEqual(store.temp_files(), [])
        self.assertEqual(store.request("GET", "/objects/theirs").body, THEIRS)
