"""A whole cluster, on the addresses of the design that dostore follows; its commands, by curl."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.cases import slow
from tests.support.clusters import (
    BROKER_PASSWORD,
    SEARCH_PASSWORD,
    SECRET,
    Cluster,
    ClusterTestCase,
)
from tests.support.networks import Network
from tests.support.processes import Answer

MIB = 1 << 20

HASH = "2MRHhgqkvILs04RzLIEpZBzpgos%2F9QlNKRXEh7cMngY="
DATA_SHARDS = [
    f"{HASH}.0.%2FQbxVU4EOPqz%2F2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
    f"{HASH}.1.S8JnDgiwWnfNud06pGE+%2FEHgmBzNpFAEg6s%2FgR0J4Cw=",
    f"{HASH}.2.syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
    f"{HASH}.3.0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
]


@slow
class DesignTests(ClusterTestCase):
    """Six data servers 10.29.1.1-6 and two API servers 10.29.2.1-2, all on port 12345.

    Where there may be no network of one's own they are 127.29.1.1 and so on.
    """

    if shutil.which("curl") is None:
        skip = "curl is not installed"

    def setUp(self) -> None:
        """The network, and all servers in it."""
        super().setUp()
        data = [f"29.1.{number}" for number in range(1, 7)]
        api = [f"29.2.{number}" for number in (1, 2)]
        self.first_byte = "10"
        try:
            network = Network([f"10.{rest}/16" for rest in data + api])
        except OSError:
            self.first_byte = "127"
        else:
            self.addCleanup(network.leave)
        self.cluster: Cluster = self.make_cluster(
            data=[f"{self.first_byte}.{rest}:12345" for rest in data],
            api=[f"{self.first_byte}.{rest}:12345" for rest in api],
            data_options=["--access-log=access.log"],
            api_options=["--access-log=access.log"],
            own_search=True,
        )

    def type(self, command: str) -> tuple[int, str]:
        """Run a command among the data servers' folders; the status that curl got, and the body."""
        if self.first_byte != "10":
            command = command.replace("10.29.", f"{self.first_byte}.29.")
        command = command.replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.cluster.folder / "data",
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stderr}")
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def test_one_by_one(self) -> None:
        """What one would try on a new cluster, in order, to its end by SIGTERM."""
        self.cluster.start()
        self.put_and_get()
        self.digests_and_locate()
        self.versions_and_tombstone()
        self.lost_shards()
        self.many_small()
        self.one_large()
        self.end()

    def put_and_get(self) -> None:
        """What one API server took, the other gives at once."""
        status, body = self.type(
            'curl -v http://10.29.2.2:12345/objects/test2 -XPUT -d "this is object test2"'
        )
        self.assertEqual((status, body), (200, ""))
        for address in ("10.29.2.1", "10.29.2.2"):
            self.assertEqual(
                self.type(f"curl -v {address}:12345/objects/test2"), (200, "this is object test2")
            )

    def digests_and_locate(self) -> None:
        """A digest that is not the body's is refused, the right one taken; who has what is told."""
        put = (
            'curl -v {}10.29.2.2:12345/objects/test -XPUT -d "This is object content version-1"'
            ' -H "Digest: SHA-256={}"'
        )
        status, body = self.type(put.format("", "9AimTha2kCISf8bVfi1jPXo2BzY="))
        self.assertEqual(status, 400)
        self.assertIn("detail", json.loads(body))
        self.assertEqual(self.type("curl -v 10.29.2.1:12345/objects/test")[0], 404)
        right = "DrkE6D0mP4aGOU37mPqUrpauEk5LRso0LBt6jnwISv0="
        self.assertEqual(self.type(put.format("http://", right))[0], 200)

        for address in ("10.29.2.2", "10.29.2.1"):
            status, body = self.type(f"curl -v {address}:12345/locate/{right}")
            self.assertEqual(status, 200)
            places: dict[str, str] = json.loads(body)
            self.assertEqual(sorted(places), list("012345"))
            self.assertEqual(
                sorted(places.values()), [server.address for server in self.cluster.data]
            )
        self.assertEqual(self.type(f"curl -v 10.29.2.2:12345/objects/{right}")[0], 404)

    def versions_and_tombstone(self) -> None:
        """Versions are numbered, told and given; a deleted object is gone, its versions stay."""
        content = (200, "This is object content version-1")
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test"), content)
        self.assertEqual(self.type("curl -v 10.29.2.1:12345/objects/test\\?version=1"), content)
        told = self.versions()
        self.assertEqual(told, [("test", 1, 32, "DrkE6D0mP4aGOU37mPqUrpauEk5LRso0LBt6jnwISv0=")])
        before = self.shards()
        self.assertEqual(
            self.type(
                'curl -v 10.29.2.1:12345/objects/other -XPUT -d "This is object content version-1"'
            )[0],
            200,
        )
        self.assertEqual(self.shards(), before)
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test -XDELETE")[0], 204)
        for address in ("10.29.2.1", "10.29.2.2"):
            self.assertEqual(self.type(f"curl -v {address}:12345/objects/test")[0], 404)
            self.assertEqual(
                self.type(f"curl -v {address}:12345/objects/test\\?version=1"), content
            )
        self.assertEqual(self.versions()[1:], [("test", 2, 0, "")])

    def versions(self) -> list[tuple[str, int, int, str]]:
        """What is told of the versions of ``test``."""
        status, body = self.type("curl -v 10.29.2.2:12345/versions/test")
        self.assertEqual(status, 200)
        return [
            (told["Name"], told["Version"], told["Size"], told["Hash"])
            for told in map(json.loads, body.splitlines())
        ]

    def shards(self) -> list[tuple[str, int]]:
        """The shard files, and which files they are: one that is written again is another."""
        return [
            (str(path), path.stat().st_ino)
            for server in self.cluster.data
            for path in server.shard_files()
        ]

    def lost_shards(self) -> None:
        """The quarters are in the named files, one a server; two lost come back, three cannot."""
        status, _ = self.type(
            "curl -v 10.29.2.2:12345/objects/test5 -XPUT"
            ' -d "this object will be seperated to 4+2"'
            ' -H "Digest: SHA-256=2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="'
        )
        self.assertEqual(status, 200)
        ours = [path for path, _ in self.shards() if HASH in path]
        self.assertEqual(len({os.path.dirname(path) for path in ours}), 6)
        self.assertEqual(sorted(map(os.path.basename, ours))[:4], DATA_SHARDS)
        self.assertEqual([server.temp_files() for server in self.cluster.data], [[]] * 6)
        content = (200, "this object will be seperated to 4+2")
        get = "curl 10.29.2.1:12345/objects/test5"
        self.assertEqual(self.type(get), content)

        removed, overwritten = (
            next(Path(path) for path in ours if f"{HASH}.{index}." in path) for index in (4, 0)
        )
        before = removed.read_bytes(), overwritten.read_bytes()
        self.type(f"rm {shlex.quote(str(removed))}")
        self.type(f"echo errMsg > {shlex.quote(str(overwritten))}")
        self.assertEqual(self.type(get), content)
        self.cluster.wait_until(
            "both files are back",
            lambda: (
                removed.exists()
                and overwritten.exists()
                and (removed.read_bytes(), overwritten.read_bytes()) == before
            ),
        )
        self.type("rm [1-3]/objects/*")
        get = "curl -v 10.29.2.1:12345/objects/test5"
        # In its first 10 s an API server may not know all nodes, and does not say that it does.
        self.cluster.wait_until("all nodes are known", lambda: self.type(get)[0] != 503)
        status, body = self.type(get)
        self.assertEqual(status, 404, body)
        self.assertRegex(json.loads(body)["detail"], r"\b3\b.*\b4\b")

    def many_small(self) -> None:
        """A hundred objects through both API servers at the same time, listed by both."""
        bodies = {f"many/{number:03}": os.urandom(1000 + number) for number in range(100)}

        both = self.cluster.api

        def put(name: str) -> Answer:
            return both[int(name[-1]) % 2].request("PUT", f"/objects/{name}", bodies[name])

        def get(name: str) -> Answer:
            return both[int(name[-1]) % 2 - 1].request("GET", f"/objects/{name}")

        with ThreadPoolExecutor(8) as threads:
            put_answers = list(threads.map(put, bodies))
            self.assertEqual({answer.status for answer in put_answers}, {200})
            got = [answer.body for answer in threads.map(get, bodies)]
        self.assertTrue(got == list(bodies.values()))
        for path in ("objects", "versions"):
            for server in self.cluster.api:
                answer = server.request("GET", f"/{path}/?prefix=many/")
                self.assertEqual(answer.status, 200, answer.body)
                self.assertEqual(
                    [json.loads(line)["Name"] for line in answer.body.splitlines()], list(bodies)
                )

    def one_large(self) -> None:
        """64 MiB in through one API server and out through the other."""
        body = os.urandom(64 * MIB)
        one, other = self.cluster.api
        self.assertEqual(one.request("PUT", "/objects/large", body).status, 200)
        answer = other.request("GET", "/objects/large")
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.body == body)
        self.assertEqual(
            answer.headers["digest"], f"SHA-256={b64encode(hashlib.sha256(body).digest()).decode()}"
        )

    def end(self) -> None:
        """All end with status 0 when told to, and none has told a secret to a log."""
        told = [Path(f"/proc/{server.pid}/cmdline").read_text() for server in self.cluster.servers]
        statuses = self.cluster.stop()
        self.assertEqual(statuses, {server.address: 0 for server in self.cluster.servers})
        told += self.cluster.logs().values()
        told += [path.read_text() for path in self.cluster.folder.rglob("access.log")]
        self.assertEqual(len(told), 3 * 8)
        for text in told:
            self.assertTrue(text)
            for hidden in (SECRET, BROKER_PASSWORD, SEARCH_PASSWORD):
                self.assertNotIn(hidden, text)


@slow
class StartingTests(ClusterTestCase):
    """Servers may be started in any order, and stopped whatever is away."""

    def test_any_order(self) -> None:
        """API servers wait for the rest, and say what is missing; all stop without the rest."""
        cluster = self.make_cluster(own_search=True)
        search = cluster.search
        assert search is not None
        cluster.make_servers()
        for server in cluster.api:
            server.start()
        for server in cluster.api:
            status, told = server.readiness()
            self.assertEqual((status, told["ready"]), (503, False))
            self.assertTrue(told["detail"])
            answer = server.request("PUT", "/objects/early", b"too early")
            self.assertEqual(answer.status, 503)
            self.assertIn("retry-after", answer.headers)
        for data_server in cluster.data:
            data_server.start()
        cluster.start_services()
        cluster.wait_ready(live=6)
        one, other = cluster.api
        self.assertEqual(one.request("PUT", "/objects/early", b"now").status, 200)
        self.assertEqual(other.request("GET", "/objects/early").body, b"now")
        self.assertEqual(other.request("GET", "/objects/early").headers["x-object-version"], "1")

        cluster.broker.kill()
        search.kill()
        statuses = cluster.stop()
        self.assertEqual(statuses, {server.address: 0 for server in cluster.servers})
