"""An API server of a cluster that is several processes."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import signal
from base64 import b64encode

from tests.support.cases import slow
from tests.support.clusters import ClusterTestCase
from tests.support.processes import wait_until
from tests.system.test_workers import ask, is_running, metric, workers_of


@slow
class ClusterWorkersTests(ClusterTestCase):
    """Six data servers, and one API server of three processes."""

    def setUp(self) -> None:
        """Start all."""
        super().setUp()
        self.cluster = self.make_cluster(api=1, api_options=["--workers=3"])
        self.cluster.start()
        (self.api,) = self.cluster.api
        self.wait_for_workers()

    def wait_for_workers(self) -> None:
        """Return when all processes serve."""
        wait_until("all serve", lambda: metric(self.api, "dostore_workers") == 3, 60.0)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is there already."""
        connection = self.api.connect()
        connection.connect()
        self.addCleanup(connection.close)
        return connection

    def test_all_processes_serve(self) -> None:
        """Each writes and reads, sees what others wrote, and what dies is replaced."""
        connections = [self.connect() for _ in range(6)]
        chance = random.Random(3)
        now: dict[str, bytes | None] = {}
        for turn in range(40):
            name = f"/objects/{chance.randrange(3)}"
            writer = chance.choice(connections)
            if turn % 4 == 3 and now.get(name) is not None:
                self.assertEqual(ask(writer, "DELETE", name).status, 204)
                now[name] = None
            else:
                now[name] = os.urandom(5000)
                self.assertEqual(ask(writer, "PUT", name, now[name]).status, 200)
            for asked, body in now.items():
                answer = ask(chance.choice(connections), "GET", asked)
                self.assertEqual(
                    (answer.status, answer.body if body else None),
                    (404 if body is None else 200, body),
                )
        puts = metric(self.api, "dostore_puts_total")
        self.assertEqual(puts + metric(self.api, "dostore_deletes_total"), 40)
        self._upload(connections)
        worker, other = workers_of(self.api)
        os.kill(worker, signal.SIGKILL)
        lost = 0
        for connection in connections:
            try:
                self.assertEqual(ask(connection, "GET", "/health/live").status, 200)
            except (OSError, http.client.HTTPException):
                lost += 1
        # One that was closed a moment before may still have counted.
        self.assertIn(lost, (1, 2, 3))
        self.wait_for_workers()
        workers = workers_of(self.api)
        self.assertIn(other, workers)
        self.assertEqual(self.api.stop(), 0)
        self.assertFalse(any(map(is_running, workers)))

    def _upload(self, connections: list[http.client.HTTPConnection]) -> None:
        """Each part by another connection."""
        body = os.urandom(3 << 20)
        digest = b64encode(hashlib.sha256(body).digest()).decode()
        connections[0].request(
            "POST", "/objects/up", headers={"Digest": f"SHA-256={digest}", "Size": str(len(body))}
        )
        response = connections[0].getresponse()
        response.read()
        self.assertEqual(response.status, 201)
        where = response.headers["Location"]
        for number in range(3):
            first = number << 20
            connection = connections[number]
            connection.request(
                "PUT", where, body[first : first + (1 << 20)], {"Range": f"bytes={first}-"}
            )
            response = connection.getresponse()
            response.read()
            self.assertEqual(response.status, 200)
        self.assertEqual(ask(connections[3], "GET", "/objects/up").body, body)
