"""A4: pipelined requests, some slow."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dostore.errors import NotFound
from tests.support.http import Gate, HttpTestCase, request_bytes
from tests.support.properties import prove

KINDS = ("live", "small", "large", "slow", "missing", "put", "refused", "head")


class A4(HttpTestCase):
    """Pipelining."""

    def setUp(self) -> None:
        """Some objects, one of which waits for a gate."""
        super().setUp()
        self.store.keep("small", b"small")
        self.store.keep("large", b"l" * 1_500_000)
        self.store.keep("slow", b"slow")
        self.slow: list[Gate] = []
        find = self.store.find

        async def find_slowly(name: str, number: int | None = None) -> object:
            """Wait before the slow object is found."""
            if name == "slow":
                self.slow.append(Gate())
                await self.slow[-1].deferred
            if name == "missing":
                raise NotFound("There is no such object.")
            return await find(name, number)

        self.patch(self.store, "find", find_slowly)

    def request(self, kind: str) -> bytes:
        """The bytes of a request."""
        if kind == "live":
            return request_bytes("GET", "/health/live")
        if kind == "put":
            return request_bytes("PUT", "/objects/new", body=b"new")
        if kind == "refused":
            return request_bytes("PUT", "/objects/new", {"Digest": "x"}, b"y" * 1000)
        if kind == "head":
            return request_bytes("HEAD", "/objects/small")
        return request_bytes("GET", f"/objects/{kind}")

    @settings(prove, max_examples=40)
    @given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8), st.integers(1, 400))
    def test_order(self, kinds: list[str], step: int) -> None:
        """However they are cut, and whichever is slow, answers come in the order of requests."""
        client = self.connect()
        data = b"".join(map(self.request, kinds))
        client.send(*(data[at : at + step] for at in range(0, len(data), step)))
        for _ in range(10):
            self.settle()
            self.assertLessEqual(len(self.factory.running), 1)
            if self.slow:
                self.slow.pop().open()
        answers = client.answers(*("HEAD" if kind == "head" else "GET" for kind in kinds))
        for kind, answer in zip(kinds, answers, strict=True):
            wanted = {"missing": 404, "refused": 400}.get(kind, 200)
            self.assertEqual(answer.status, wanted, kind)
            if kind in ("small", "slow"):
                self.assertEqual(answer.body, kind.encode())
            if kind == "large":
                self.assertEqual(len(answer.body), 1_500_000)
        client.close()

    def test_client_that_leaves(self) -> None:
        """What waits behind a slow request of a client that is gone is never begun."""
        client = self.connect()
        client.send(self.request("slow") + self.request("put") * 3)
        client.close()
        self.settle()
        self.assertNotIn("new", self.store.metadata.names)
