"""A cluster whose servers have different options: copies by one API server, gzip on some drives."""

from __future__ import annotations

import json
import os
import random
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from urllib.parse import quote

from tests.support.cases import slow
from tests.support.clusters import ApiServer, ClusterTestCase
from tests.support.shard_files import whole_contents

BELOW = 8192

SIZES = (0, 1, 100, BELOW - 1, BELOW, 70_000, 700_000, 3_000_000)


def text(size: int, seed: int) -> bytes:
    """Bytes that shrink, others for each seed."""
    line = b"%d: all that is here\n" % seed
    return (os.urandom(4) + line * (size // len(line) + 1))[:size]


@slow
class MixedClusterTests(ClusterTestCase):
    """Seven data servers and two API servers."""

    def setUp(self) -> None:
        """The first API server keeps small objects as copies, the first data servers compress."""
        super().setUp()
        self.cluster = self.make_cluster(data=7)
        self.cluster.start_services()
        self.cluster.make_servers()
        self.cluster.api[0].options += ["--copies-below=8K"]
        for server in self.cluster.data[:4]:
            server.options += ["--compression=gzip"]
        self.cluster.start()
        self.objects: dict[str, bytes] = {}

    def put(self, api: ApiServer, name: str, data: bytes) -> None:
        """Store an object."""
        answer = api.request("PUT", f"/objects/{name}", data)
        self.assertEqual(answer.status, 200, (name, answer.body))
        self.objects[name] = data

    def assert_all_there(self) -> None:
        """Both API servers give every object."""
        for api in self.cluster.api:
            for name, data in self.objects.items():
                answer = api.request("GET", f"/objects/{name}")
                self.assertEqual(answer.status, 200, (name, answer.body[:300]))
                self.assertTrue(answer.body == data, name)

    def places(self, data: bytes) -> dict[str, str]:
        """Who has which shard of a content."""
        text_hash = quote(b64encode(sha256(data).digest()).decode(), safe="")
        answer = self.cluster.api[1].request("GET", f"/locate/{text_hash}")
        self.assertEqual(answer.status, 200)
        told: dict[str, str] = json.loads(answer.body)
        return told

    def is_whole(self) -> bool:
        """Whether every content has all its shards by one of the schemes, each on another server.

        Of one that both API servers wrote at the same time, a shard may be left by the other.
        """
        try:
            found = whole_contents([server.folder for server in self.cluster.data])
        except FileNotFoundError:
            # Another has just taken its place.
            return False
        hashes = {b64encode(sha256(data).digest()).decode() for data in self.objects.values()}
        return found == {each.replace("/", "%2F") for each in hashes}

    def test_side_by_side(self) -> None:
        """Objects of every kind are written by both at once, survive two servers, are made whole
        again, and are read after the options have changed places.
        """
        first, second = self.cluster.api
        for number, api in enumerate(self.cluster.api):
            for size in SIZES:
                self.put(api, f"text-{number}-{size}", text(size, number))
                self.put(api, f"noise-{number}-{size}", os.urandom(size))
        self.assertEqual(len(self.places(self.objects[f"noise-0-{BELOW - 1}"])), 3)
        self.assertEqual(len(self.places(self.objects[f"noise-1-{BELOW - 1}"])), 6)
        self.assertEqual(len(self.places(self.objects[f"noise-0-{BELOW}"])), 6)
        # The same contents at the same time, by one as copies and by the other as shards.
        chance = random.Random(5)
        with ThreadPoolExecutor(8) as pool:
            for number in range(40):
                data = chance.randbytes(chance.randint(1, BELOW - 1))
                names = [(first, f"one-{number}"), (second, f"other-{number}")]
                _ = [pool.submit(self.put, api, name, data) for api, name in names]
        self.assertEqual(len([name for name in self.objects if name.startswith("one-")]), 40)
        self.assertEqual(len([name for name in self.objects if name.startswith("other-")]), 40)
        self.assert_all_there()
        self.cluster.wait_until("all is whole", self.is_whole)

        gone = self.cluster.data[1], self.cluster.data[5]
        for server in gone:
            server.kill()
        self.assert_all_there()
        # In its first 10 s an API server may not know all nodes, and does not say that it does.
        for size in SIZES:
            path, data = f"/objects/later-{size}", text(size, 99)

            def is_answered(path: str = path, data: bytes = data) -> bool:
                return first.request("PUT", path, data).status != 503

            self.cluster.wait_until("who is away is known", is_answered)
            self.put(first, f"later-{size}", data)
        self.assert_all_there()
        gone[0].wipe()
        for server in gone:
            server.start()
        self.cluster.wait_ready()
        self.cluster.wait_until("all is whole again", self.is_whole)

        self.cluster.stop()
        first.options, second.options = second.options, first.options
        for server in self.cluster.data:
            compresses = "--compression=gzip" in server.options
            server.options = [] if compresses else ["--compression=gzip"]
        self.cluster.start()
        self.assert_all_there()
        for number, name in enumerate(list(self.objects)[::3]):
            self.put(self.cluster.api[number % 2], f"again-{number}", self.objects[name])
        self.assert_all_there()
        self.cluster.wait_until("all is whole to the end", self.is_whole)
