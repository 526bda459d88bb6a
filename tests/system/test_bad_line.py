"""A large upload over a line that breaks again and again, by two API servers, one of which dies."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import random
import re
import time
from base64 import b64encode
from pathlib import Path

from tests.support.cases import slow
from tests.support.clusters import ApiServer, ClusterTestCase
from tests.support.proxies import CuttingProxy

MIB = 1 << 20
SIZE = 1024 * MIB
CUTS = 20

#: How a line breaks: with an end, after all that was sent; with a reset; with the server's death.
CLEAN, RESET, KILLED = "clean", "reset", "killed"

#: What may be on its way in the buffers of four sockets, and in the server, when a line is reset or
#: a server dies.
IN_FLIGHT_BYTES = 16 * MIB

#: An access log is written this much later, at the most, and twice that when two cores are busy.
LOG_DELAY_S = 2.0

#: A server that died holds its part of an upload for ten seconds.
PATIENCE_S = 60.0


@slow
class BadLineTests(ClusterTestCase):
    """One large object, part by part."""

    def setUp(self) -> None:
        """The object, as a file, and a cluster."""
        super().setUp()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        self.seed = random.randrange(1 << 32)
        self.random = random.Random(self.seed)
        self.path = folder / "object"
        self.addCleanup(self.path.unlink)
        hasher = hashlib.sha256()
        with open(self.path, "wb") as file:
            for _ in range(SIZE // MIB):
                piece = self.random.randbytes(MIB)
                hasher.update(piece)
                file.write(piece)
        self.digest = b64encode(hasher.digest()).decode()
        self.cluster = self.start_cluster(data_options=["--access-log=access.log"])

    def test_cut_twenty_times(self) -> None:
        """The content is right, and only what was in flight is sent twice.

        Of what is stored then, a byte costs no more than a few blocks.
        """
        first, second = self.cluster.api
        answer = first.request(
            "POST",
            "/objects/large",
            headers={"Digest": f"SHA-256={self.digest}", "Size": str(SIZE)},
        )
        self.assertEqual(answer.status, 201, answer.body)
        self.target = answer.headers["location"]

        lines = itertools.cycle([CLEAN, CLEAN, CLEAN, RESET])
        servers = itertools.cycle([first, second])
        held = sent = 0
        for number in range(CUTS):
            server = next(servers) if first.running else second
            line = next(lines)
            if number == CUTS // 2:
                self.assertIs(server, first)
                line = KILLED
            cut = self.random.randrange(4 * MIB, 2 * SIZE // CUTS - 4 * MIB)
            cut = min(cut, (SIZE - held) // 2)
            passed, status = self.send(server, held, cut, line)
            self.assertEqual(status, 0, f"the part was not cut; seed {self.seed}")
            sent += passed
            before, held = held, self.settled(second)
            # The header section was passed on too.
            most = 4096 if line == CLEAN else IN_FLIGHT_BYTES
            lost = before + passed - held
            self.assertLess(lost, most, f"cut {number}, {line}; seed {self.seed}")
        self.assertFalse(first.running)
        passed, status = self.send(second, held)
        sent += passed
        self.assertEqual(status, 200)
        self.assertLess(sent, SIZE + CUTS // 4 * IN_FLIGHT_BYTES + IN_FLIGHT_BYTES)
        self.assert_stored(second)
        self.assert_read_by_blocks(second)

    def held(self, server: ApiServer) -> int:
        """How much the server says is held."""
        answer = server.request("HEAD", self.target)
        self.assertEqual(answer.status, 200)
        return int(answer.headers["content-length"])

    def settled(self, server: ApiServer) -> int:
        """How much is held when the broken part has come to its end."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            # An empty part is taken when no other is under way.
            held = self.held(server)
            answer = server.request("PUT", self.target, b"", {"Range": f"bytes={held}-"})
            if answer.status == 200:
                return self.held(server)
            self.assertEqual(answer.status, 409, answer.body)
            self.assertLess(time.monotonic(), deadline, "the broken part never ends")
            time.sleep(0.2)

    def send(
        self, server: ApiServer, first: int, cut: int | None = None, line: str = CLEAN
    ) -> tuple[int, int]:
        """Send the rest from ``first`` on; what came through, and the status (0: it was cut)."""
        with (
            CuttingProxy(
                server.host,
                server.port,
                cut,
                reset=line == RESET,
                at_cut=server.kill if line == KILLED else None,
            ) as proxy,
            open(self.path, "rb") as file,
        ):
            file.seek(first)
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=300)
            try:
                connection.request(
                    "PUT",
                    self.target,
                    body=file,
                    headers={"Range": f"bytes={first}-", "Content-Length": str(SIZE - first)},
                )
                response = connection.getresponse()
                response.read()
                return proxy.up, response.status
            except (OSError, http.client.HTTPException):
                return proxy.up, 0
            finally:
                connection.close()

    def assert_stored(self, server: ApiServer) -> None:
        """The object has its right bytes."""
        connection = server.connect(300.0)
        try:
            connection.request("GET", "/objects/large")
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            hasher = hashlib.sha256()
            while piece := response.read(MIB):
                hasher.update(piece)
        finally:
            connection.close()
        self.assertEqual(b64encode(hasher.digest()).decode(), self.digest)
        answer = server.request("HEAD", self.target)
        self.assertEqual((answer.status, answer.headers["content-length"]), (200, str(SIZE)))

    def assert_read_by_blocks(self, server: ApiServer) -> None:
        """One byte of the object moves less than 1 MiB from data servers, also when it has to be
        decoded.
        """
        places = (0, 1, SIZE // 2 + 12345, SIZE - 1)
        time.sleep(LOG_DELAY_S)
        before = self.bytes_sent()
        for at in places:
            self.assert_byte(server, at)
        time.sleep(LOG_DELAY_S)
        after = self.bytes_sent()
        self.assertGreater(after, before)
        self.assertLess(after - before, MIB)
        for data_server in self.cluster.data:
            # Whoever has the first and the last byte.
            if any(path.name.split(".")[1] in ("0", "3") for path in data_server.shard_files()):
                data_server.kill()
        for at in places:
            self.assert_byte(server, at)
        time.sleep(LOG_DELAY_S)
        self.assertLess(self.bytes_sent() - after, len(places) * MIB)

    def assert_byte(self, server: ApiServer, at: int) -> None:
        """A range of one byte is right."""
        answer = server.request("GET", "/objects/large", headers={"Range": f"bytes={at}-{at}"})
        with open(self.path, "rb") as file:
            file.seek(at)
            self.assertEqual((answer.status, answer.body), (206, file.read(1)))

    def bytes_sent(self) -> int:
        """Bytes of bodies that the data servers have sent so far, by their access logs."""
        total = 0
        for data_server in self.cluster.data:
            log = (data_server.folder / "access.log").read_text()
            sizes = re.findall(r'" [0-9]{3} ([0-9]+) "', log)
            total += sum(map(int, sizes))
        return total
