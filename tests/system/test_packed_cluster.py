"""Packed shards on the data servers of a real cluster: kills, and volumes that are gone."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from base64 import b64encode
from urllib.parse import quote

from tests.support.clusters import Cluster, ClusterTestCase, DataServer

BELOW = 65_536
SIZES = (0, 1, 36, 4096, 20_000, BELOW - 1, BELOW, 300_000)


class PackedClusterTests(ClusterTestCase):
    """Six data servers with ``--pack-below``."""

    def setUp(self) -> None:
        """Choose a seed and tell it, so that a failure can be had again."""
        super().setUp()
        seed = random.randrange(1 << 32)
        print(f"seed {seed}", end=" ", flush=True)  # noqa: T201
        self.chance = random.Random(seed)
        self.bodies: dict[str, bytes] = {}

    def write(self, cluster: Cluster, count: int) -> None:
        """Store so many objects of each size."""
        for _ in range(count):
            for size in SIZES:
                name = f"/objects/{len(self.bodies)}"
                body = self.chance.randbytes(size)
                self.assertEqual(cluster.api[0].request("PUT", name, body).status, 200)
                self.bodies[name] = body

    def assert_there(self, cluster: Cluster) -> None:
        """Every object is there, every byte of it."""
        for name, body in self.bodies.items():
            answer = cluster.api[0].request("GET", name)
            self.assertEqual((answer.status, answer.body == body), (200, True), name)

    def restart(self, cluster: Cluster) -> None:
        """Start what does not run; return when all can be read and written."""
        for server in cluster.servers:
            if not server.running:
                server.spawn()
        # To the API server they may never have been away, and so it may not be told by that.
        for server in cluster.servers:
            server.wait_ready()
        name = next(iter(self.bodies))
        cluster.wait_until(
            "all can be read",
            lambda: {cluster.api[0].request("GET", name).status for name in self.bodies} == {200},
        )
        cluster.wait_until(
            "it can be written",
            lambda: cluster.api[0].request("PUT", name, self.bodies[name]).status == 200,
        )

    def whole(self, cluster: Cluster) -> bool:
        """Whether each content has all of its shards."""
        for body in self.bodies.values():
            digest = b64encode(hashlib.sha256(body).digest()).decode("ascii")
            answer = cluster.api[0].request("GET", f"/locate/{quote(digest, safe='')}")
            if answer.status != 200 or len(json.loads(answer.body)) != 6:
                return False
        return True

    def test_kills_and_losses(self) -> None:
        """Small objects, whose shards are no files, survive kill -9 of all data servers, the loss
        of two servers' volumes, which are made again, and a stop in order.
        """
        cluster = self.start_cluster(api=1, data_options=[f"--pack-below={BELOW}"])
        self.write(cluster, 4)
        self.assert_there(cluster)
        for server in cluster.data:
            server.kill()
        self.restart(cluster)
        self.assert_there(cluster)
        self.write(cluster, 2)
        large = {body for body in self.bodies.values() if len(body) >= BELOW}
        for server in cluster.data:
            self.assertEqual(len(server.shard_files()), len(large))
        for server in self.chance.sample(cluster.data, 2):
            self.lose_volumes(server)
        self.restart(cluster)
        self.assert_there(cluster)
        cluster.wait_until("the shards are made again", lambda: self.whole(cluster))
        self.assertEqual(set(cluster.stop().values()), {0})
        self.restart(cluster)
        self.assert_there(cluster)

    @staticmethod
    def lose_volumes(server: DataServer) -> None:
        """Kill a data server, and remove what it has packed."""
        server.kill()
        shutil.rmtree(server.folder / "volumes")
