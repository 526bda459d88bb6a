"""A10: a data server is reached by somebody who does not know the cluster's secret."""

from __future__ import annotations

import secrets
from typing import Any

from dostore.adapters.http_link import HttpLink
from dostore.core.datafields import ShardDigest
from dostore.core.shardfile import ShardFileBuilder
from dostore.core.signing import MAX_REMEMBERED, NONCE_BYTES, WINDOW_S, Signable, Signer
from dostore.errors import NodeUnavailable
from dostore.http.exchange import Answer
from tests.support.data_server import DataServer, DataServerCase
from tests.support.shards import SCHEME, sample

SECRET = b"correct horse battery staple"
OTHER = b"incorrect horse battery staple"
WHAT = sample(1000)
NAME = WHAT.content.hash.escaped
NOW = 1_790_000_000.0

#: Everything that can be asked, but for what tells only that the process runs.
REQUESTS = (
    ("GET", f"/objects/{NAME}"),
    ("HEAD", f"/objects/{NAME}"),
    ("GET", f"/objects/{NAME}.1"),
    ("PUT", f"/objects/{NAME}.1"),
    ("DELETE", f"/objects/{NAME}"),
    ("POST", f"/temp/{NAME}.1"),
    ("PATCH", "/temp/" + "a" * 32),
    ("GET", "/temp/" + "a" * 32),
    ("HEAD", "/temp/" + "a" * 32),
    ("PUT", "/temp/" + "a" * 32),
    ("DELETE", "/temp/" + "a" * 32),
    ("POST", f"/renew/{NAME}"),
    ("GET", f"/modified/{NAME}"),
    ("POST", f"/discard/{NAME}.1"),
    ("POST", "/glance"),
    ("GET", "/inventory/0"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/nothing/there"),
    ("OPTIONS", "/objects/"),
)


class UnsignedRequestTests(DataServerCase):
    """A data server with a secret, which keeps one shard."""

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.now = NOW
        self.server = self.serve(secret=SECRET, now=lambda: self.now)
        self.link: HttpLink = self.client(self.server.address).link

    async def keep(self) -> None:
        """Have the shard."""
        await self.server.node.put(WHAT.content, 1, WHAT.shards[1])

    async def ask(
        self,
        method: str,
        path: str,
        authorization: bytes | None = None,
        body: bytes | None = None,
        *more: tuple[bytes, bytes],
        server: DataServer | None = None,
    ) -> Answer:
        """An answer to a request whose Authorization is just that."""
        fields = list(more)
        if authorization is not None:
            fields.append((b"Authorization", authorization))
        if body is None and method in ("PUT", "POST", "PATCH"):
            body = b""
        link = self.link if server is None else self.client(server.address).link
        pieces = None if body is None else [body]
        return await link.ask(method.encode(), path.encode(), fields, pieces, limit=1 << 20)

    def sign(self, method: str, path: str, **how: Any) -> bytes:
        """A signature of a request to the server."""
        host = how.get("host", self.server.address)
        what = Signable(method.encode(), host.encode(), path.encode(), how.get("digest", b""))
        nonce = secrets.token_bytes(NONCE_BYTES)
        return Signer(how.get("secret", SECRET)).sign(what, how.get("now", self.now), nonce)

    def assert_untouched(self) -> None:
        """What is on the drive is what was there."""
        self.assertEqual(len(self.server.names("objects")), 1)
        self.assertEqual(self.server.names("temp") + self.server.names("garbage"), [])

    async def test_everything_is_refused(self) -> None:
        """Without a signature, or with one by another secret, every request gets the same 401."""
        await self.keep()
        answers = set()
        for method, path in REQUESTS:
            for authorization in (
                None,
                b"",
                b"Basic Zm9vOmJhcg==",
                b"DOSTORE-HMAC-SHA256 time=0, nonce=, mac=",
                self.sign(method, path, secret=OTHER),
            ):
                answer = await self.ask(method, path, authorization)
                self.assertEqual(answer.status, 401, (method, path))
                if method != "HEAD":
                    answers.add(answer.body)
        self.assertEqual(len(answers), 1)
        self.assertNotIn(SECRET, answers.pop())
        self.assert_untouched()

    async def test_who_knows_the_secret(self) -> None:
        """Signed requests are answered, and what tells that the process runs needs no signature."""
        await self.keep()
        for method, path in REQUESTS:
            answer = await self.ask(method, path, self.sign(method, path))
            self.assertNotEqual(answer.status, 401, (method, path))
        self.assertEqual((await self.ask("GET", "/health/live")).status, 200)

    async def test_moved(self) -> None:
        """A signature of one request is none of another: method, path, query, server, digest."""
        await self.keep()
        get = f"/objects/{NAME}.1"
        for signed, sent in (
            (self.sign("GET", get), ("DELETE", get)),
            (self.sign("GET", get), ("GET", f"/objects/{NAME}.2")),
            (self.sign("GET", get), ("GET", f"{get}?x=1")),
            (self.sign("GET", f"{get}?x=1"), ("GET", get)),
            (self.sign("GET", get, host="127.0.0.1:1"), ("GET", get)),
            (self.sign("GET", get, digest=b"SHA-256=x"), ("GET", get)),
            (self.sign("HEAD", f"/objects/{NAME}"), ("DELETE", f"/objects/{NAME}")),
        ):
            self.assertEqual((await self.ask(*sent, signed)).status, 401, sent)
        self.assert_untouched()

    async def test_moved_to_another_server(self) -> None:
        """What was signed for one data server is refused by the next, sent to it as it was."""
        await self.keep()
        other = self.serve(secret=SECRET, now=lambda: self.now)
        path = f"/objects/{NAME}.1"
        signed = self.sign("DELETE", path)
        answer = await self.ask("DELETE", path, signed, server=other)
        self.assertEqual(answer.status, 401)

    async def test_replayed(self) -> None:
        """Whoever listens and sends the same again is refused, as long as it could be taken."""
        await self.keep()
        path = f"/objects/{NAME}.1"
        signed = self.sign("GET", path)
        self.assertEqual((await self.ask("GET", path, signed)).status, 200)
        for seconds in (0, 1, WINDOW_S - 1, WINDOW_S, WINDOW_S + 1, 3600):
            self.now = NOW + seconds
            self.assertEqual((await self.ask("GET", path, signed)).status, 401)

    async def test_stale(self) -> None:
        """Signatures from before and from far ahead are refused."""
        await self.keep()
        path = f"/objects/{NAME}.1"
        for late in (-WINDOW_S - 1, WINDOW_S + 1, 3600, -3600):
            signed = self.sign("GET", path, now=NOW + late)
            self.assertEqual((await self.ask("GET", path, signed)).status, 401)
        signed = self.sign("GET", path, now=NOW + WINDOW_S - 1)
        self.assertEqual((await self.ask("GET", path, signed)).status, 200)

    async def test_another_body(self) -> None:
        """A signed digest speaks for the body: another one is refused, and not kept."""
        builder = ShardFileBuilder(2, SCHEME)
        builder.add(WHAT.shards[2])
        digest = ShardDigest(shard=builder.finish(WHAT.content)[1].shard_hash).format()
        path = f"/objects/{NAME}.2"
        fields = ((b"Digest", digest), (b"Size", b"1000"), (b"X-Scheme", b"4+2/4096"))
        signed = self.sign("PUT", path, digest=digest)
        answer = await self.ask("PUT", path, signed, bytes(250), *fields)
        self.assertEqual(answer.status, 400)
        self.assertEqual(self.server.names("objects"), [])
        signed = self.sign("PUT", path, digest=digest)
        answer = await self.ask("PUT", path, signed, WHAT.plain(2), *fields)
        self.assertEqual(answer.status, 200)

    async def test_a_large_body_without_a_signature(self) -> None:
        """It is refused by its head; nothing of it reaches the drive or stays in memory."""
        answer = await self.ask("PATCH", "/temp/" + "a" * 32, None, bytes(4 << 20))
        self.assertEqual(answer.status, 401)
        self.assertEqual(self.server.names("temp"), [])

    async def test_others_are_served(self) -> None:
        """A thousand refusals take nothing from who knows the secret."""
        await self.keep()
        for number in range(1000):
            authorization = None if number % 2 else self.sign("GET", "/metrics", secret=OTHER)
            self.assertEqual((await self.ask("GET", "/metrics", authorization)).status, 401)
        node = self.client(self.server.address, secret=SECRET, now=lambda: self.now)
        self.assertEqual(list(await node.holds(WHAT.content.hash)), [1])
        self.assertGreater(MAX_REMEMBERED, 1000)

    async def test_a_client_without_the_secret(self) -> None:
        """An API server with another secret, or another time, is told what to look at."""
        await self.keep()
        for client in (
            self.client(self.server.address),
            self.client(self.server.address, secret=OTHER, now=lambda: self.now),
            self.client(self.server.address, secret=SECRET, now=lambda: self.now + 100),
        ):
            with self.assertRaises(NodeUnavailable) as caught:
                await client.open(WHAT.content.hash, 1)
            self.assertIn("the same secret", caught.exception.detail)
            self.assertIn("clocks", caught.exception.detail)
        self.assert_untouched()
