"""F4: a data server sends a shard that is not its own, with headers and checks that are right."""

from __future__ import annotations

import base64
import hashlib
import http.client
from urllib.parse import quote

from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ShardFileBuilder
from tests.support.shard_files import read_shard
from tests.support.shared_cluster import FaultCase, drive_of


class LyingTests(FaultCase):
    """No client gets a whole body that is wrong."""

    def test_a_wrong_shard(self) -> None:
        """A small object is right all the same; a large one is cut short rather than wrong, and
        both are right when what was wrong has been made again.
        """
        bodies = {name: self.chance.randbytes(n) for name, n in (("s", 4096), ("l", 5_000_000))}
        reader = self.chance.choice(self.cluster.api)
        for name, body in bodies.items():
            answer = reader.request("PUT", f"/objects/{self.seed}/{name}", body)
            self.assertEqual(answer.status, 200)
        self.cluster.wait_full()
        for body in bodies.values():
            self.forge(body)
        self.cluster.wait_ready()
        self.assertEqual(self.read(f"/objects/{self.seed}/s"), bodies["s"])
        self.assertNotIn(self.read(f"/objects/{self.seed}/l", once=True), (bodies["l"],))
        self.cluster.wait_until(
            "both are right again",
            lambda: all(self.read(f"/objects/{self.seed}/{n}") == bodies[n] for n in bodies),
        )
        self.cluster.wait_full()

    def read(self, path: str, once: bool = False) -> bytes | None:
        """The body; None when it is cut short.

        :param once: of the API server that is asked first.
        """
        server = self.cluster.api[0] if once else self.chance.choice(self.cluster.api)
        try:
            answer = server.request("GET", path)
        except (OSError, http.client.HTTPException):
            return None
        self.assertEqual(answer.status, 200)
        return answer.body

    def forge(self, body: bytes) -> None:
        """Have the data server that has the first shard of an object have another instead."""
        digest = hashlib.sha256(body).digest()
        begin = quote(base64.b64encode(digest).decode(), safe="+=") + ".0."
        server, path = next(
            (server, path)
            for server in self.cluster.data
            for path in (drive_of(server) / "objects").iterdir()
            if path.name.startswith(begin)
        )
        server.kill()
        shard = read_shard(path)
        content = Content(
            ContentHash(digest), shard.size, Scheme(shard.k, shard.m, shard.block_size)
        )
        builder = ShardFileBuilder(0, content.scheme)
        pieces = builder.add([self.chance.randbytes(len(block)) for block in shard.blocks])
        footer, name = builder.finish(content)
        path.unlink()
        path.with_name(str(name)).write_bytes(b"".join(map(bytes, pieces)) + footer)
        server.start()
