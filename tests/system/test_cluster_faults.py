"""What happens to a cluster under load when its processes are killed, stopped or lose their way."""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.clusters import ApiServer
from tests.support.shared_cluster import FaultCase, drive_of

MIB = 1 << 20

#: As long as two API servers together need for some writes, however busy the machine.
SOME = 10


class KilledServerTests(FaultCase):
    """Processes that end without a word, or say nothing for a while."""

    def test_any_two_data_servers_are_killed(self) -> None:
        """Any two data servers are killed at the same time: reads go on and so do degraded writes,
        as far as they can; when both are back, every shard is there again.
        """
        first, second = self.chance.sample(self.cluster.data, 2)
        with self.load() as load:
            self.wait_count(load, SOME)
            first.kill()
            self.wait_count(load, SOME)
            second.kill()
            # k + 1 servers take a write, and there are only k: 503, and nothing of it is kept.
            self.wait_count(load, 2, "PUT", 503)
            self.wait_count(load, SOME, "GET")
            first.start()
            self.wait_count(load, SOME)
            second.start()
            self.cluster.wait_ready()
            self.wait_count(load, SOME)
        self.assertTrue(any("a write needs 5" in text for text in load.details()), load.details())
        self.assert_all_right(load)

    def test_an_api_server_is_killed_in_mid_upload(self) -> None:
        """An API server is killed in the middle of a large upload: the other one serves, there is
        no version of the upload, and what it left is swept when it is old enough.
        """
        killed, other = self.chance.sample(self.cluster.api, 2)
        name = f"/objects/cut-{self.seed}"
        with self.load() as load:
            self.wait_count(load, SOME)
            upload = Upload(killed, name, 24 * MIB)
            upload.start()
            upload.midway.wait(60.0)
            self.cluster.wait_until("temporary shards are there", lambda: len(self.temp()) >= 10)
            killed.kill()
            upload.join(60.0)
            self.wait_count(load, SOME)
            self.assertEqual(other.request("GET", name).status, 404)
            killed.start()
            self.wait_count(load, SOME)
        self.assertIsNone(upload.status)
        self.assertEqual(other.request("GET", name).status, 404)
        self.assert_all_right(load)
        left = self.temp()
        self.assertNotEqual(left, [])
        for server in self.cluster.data:
            server.kill()
        hour_ago = time.time() - 3600.0
        for path in left:
            os.utime(path, (hour_ago, hour_ago))
        for server in self.cluster.data:
            server.spawn()
        # To the API servers they may never have been away.
        for server in self.cluster.data:
            server.wait_ready()
        self.cluster.wait_ready()
        # They sweep as soon as they have begun to serve, but not before that.
        self.cluster.wait_until("what was left is swept", lambda: not self.temp())
        # Nor may their new heartbeats have come yet when the last ones from before are ten seconds
        # old: then they count as away for a moment, and reads are put off with 503.
        self.cluster.wait_until("all can be read", lambda: not load.check(other))

    def temp(self) -> list[Path]:
        """What is in the temp folders of all data servers."""
        found = (drive_of(server) / "temp" for server in self.cluster.data)
        return [path for folder in found for path in folder.iterdir()]

    def test_a_data_server_is_stopped_and_continued(self) -> None:
        """A data server hangs, its connections open: reads and writes go on, and what they missed
        is made when it goes on.
        """
        stopped = self.chance.choice(self.cluster.data)
        with self.load() as load:
            self.wait_count(load, SOME)
            stopped.pause()
            self.cluster.wait_ready(live=5)
            self.wait_count(load, SOME)
            self.wait_count(load, SOME, "GET")
            stopped.resume()
            self.cluster.wait_ready()
            self.wait_count(load, SOME)
        self.assertEqual(load.count(503), 0, load.details())
        self.assert_all_right(load)

    def test_sixteen_writers_of_one_name(self) -> None:
        """Sixteen clients of two API servers make 1,000 versions of one name: each number from 1
        to 1,000 is there once, with the content that its writer was told it has.
        """
        name = f"race-{self.seed}"
        writers = [
            Racer(self.cluster.api[number % 2], name, number, 1000 // 16 + (number < 1000 % 16))
            for number in range(16)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(240.0)
        self.assertEqual([text for writer in writers for text in writer.failures], [])
        told = {number: body for writer in writers for number, body in writer.made}
        self.assertEqual(sorted(told), list(range(1, 1001)))
        self.assertEqual(sum(len(writer.made) for writer in writers), 1000)
        connection = self.chance.choice(self.cluster.api).connect()
        self.addCleanup(connection.close)
        for number, body in told.items():
            connection.request("GET", f"/objects/{name}?version={number}")
            response = connection.getresponse()
            self.assertEqual((response.status, response.read()), (200, body), number)
        connection.request("GET", f"/objects/{name}")
        response = connection.getresponse()
        self.assertEqual(
            (response.read(), response.headers["X-Object-Version"]), (told[1000], "1000")
        )


class Upload(threading.Thread):
    """A client that sends a large object slowly.

    :ivar midway: half of it is sent.
    :ivar status: of the answer; None: there was none.
    """

    def __init__(self, server: ApiServer, path: str, size: int) -> None:
        super().__init__(daemon=True)
        self.midway = threading.Event()
        self.status: int | None = None
        self._server = server
        self._path = path
        self._size = size

    def run(self) -> None:
        """Send it."""
        try:
            answer = self._server.request("PUT", self._path, self._body())
        except (OSError, http.client.HTTPException):
            return
        self.status = answer.status

    def _body(self) -> Iterator[bytes]:
        for at in range(0, self._size, MIB):
            if at >= self._size // 2:
                self.midway.set()
                time.sleep(1.0)
            yield os.urandom(MIB)


class Racer(threading.Thread):
    """A writer of a name that others write too.

    :ivar made: version numbers, each with what it holds.
    """

    def __init__(self, server: ApiServer, name: str, number: int, count: int) -> None:
        super().__init__(daemon=True)
        self.made: list[tuple[int, bytes]] = []
        self.failures: list[str] = []
        self._server = server
        self._path = f"/objects/{name}"
        self._number = number
        self._count = count

    def run(self) -> None:
        """Write one version after the other."""
        connection = self._server.connect()
        try:
            for turn in range(self._count):
                body = hashlib.sha256(f"{self._path} {self._number} {turn}".encode()).digest()
                connection.request("PUT", self._path, body)
                response = connection.getresponse()
                text = response.read()
                if response.status == 200:
                    self.made.append((int(response.headers["X-Object-Version"]), body))
                else:
                    self.failures.append(f"{response.status} {text!r}")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        finally:
            connection.close()
