"""Several processes on one port: none of it can be told from one, but by the speed."""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import threading
from pathlib import Path

from tests.support.processes import Answer, BlockingStoreTestCase, Store, wait_until

MIB = 1 << 20


class WorkersTestCase(BlockingStoreTestCase):
    """A store on one machine with two processes or more."""

    def start_workers(self, *options: str, workers: int = 2) -> Store:
        """A store all of whose processes serve."""
        store = self.start_store(f"--workers={workers}", *options)
        self.wait_for_workers(store, workers)
        return store

    def wait_for_workers(self, store: Store, workers: int = 2) -> None:
        """Return when so many processes serve."""
        wait_until("all processes serve", lambda: metric(store, "dostore_workers") == workers, 60.0)

    def connect(self, store: Store) -> http.client.HTTPConnection:
        """A connection that is there already; the first of a store is at its reader."""
        connection = store.connect()
        connection.connect()
        self.addCleanup(connection.close)
        return connection


def metric(store: Store, name: str) -> float:
    """A number without labels of ``/metrics``; the sum over all labels of one with some."""
    text = store.request("GET", "/metrics").body.decode()
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> Answer:
    """A request on a connection that is kept."""
    connection.request(method, path, body=body)
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def workers_of(store: Store) -> list[int]:
    """The store's other processes."""
    return [int(text) for text in children(store.pid)]


def children(pid: int) -> list[str]:
    """A process's children."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class ReadingTests(WorkersTestCase):
    """What is answered, whichever process has the connection."""

    def test_all_that_is_asked(self) -> None:
        """Every request is answered as by one process, each on the same few connections."""
        store = self.start_workers()
        body = os.urandom(100_000)
        for connection in [self.connect(store) for _ in range(4)]:
            self.assertEqual(ask(connection, "PUT", "/objects/a", body).status, 200)
            for _ in range(40):
                self.assertEqual(ask(connection, "GET", "/objects/a").body, body)
            self.assertEqual(
                ask(connection, "HEAD", "/objects/a").headers["content-length"], "100000"
            )
            self.assertEqual(ask(connection, "GET", "/objects/a?version=1").body, body)
            connection.request("GET", "/objects/a", headers={"Range": "bytes=5-70000"})
            self.assertEqual(connection.getresponse().read(), body[5:70001])
            etag = ask(connection, "GET", "/objects/a").headers["etag"]
            connection.request("GET", "/objects/a", headers={"If-None-Match": etag})
            response = connection.getresponse()
            self.assertEqual((response.status, response.read()), (304, b""))
            self.assertEqual(ask(connection, "GET", "/objects/none").status, 404)
            self.assertEqual(ask(connection, "GET", "/objects/a?version=x").status, 400)
            self.assertIn(b'"a"', ask(connection, "GET", "/objects/").body)
            self.assertEqual(ask(connection, "GET", "/health/ready").status, 200)
            self.assertEqual(ask(connection, "POST", "/metrics").status, 405)

    def test_large_objects(self) -> None:
        """Objects of several MiB go through the front, in and out, and small ones after them."""
        store = self.start_workers()
        large, small = os.urandom(9 * MIB), os.urandom(1000)
        connection = self.connect(store)
        for _ in range(3):
            self.assertEqual(ask(connection, "PUT", "/objects/large", large).status, 200)
            self.assertEqual(ask(connection, "GET", "/objects/large").body, large)
            self.assertEqual(ask(connection, "PUT", "/objects/small", small).status, 200)
            for _ in range(30):
                self.assertEqual(ask(connection, "GET", "/objects/small").body, small)

    def test_a_chunked_body(self) -> None:
        """A body without a length goes with its connection, however its chunks arrive."""
        store = self.start_workers()
        pieces = [os.urandom(size) for size in (1, 70_000, 3, 300_000)]
        connection = self.connect(store)
        connection.request("PUT", "/objects/chunked", body=iter(pieces), encode_chunked=True)
        self.assertEqual(connection.getresponse().read(), b"")
        self.assertEqual(store.request("GET", "/objects/chunked").body, b"".join(pieces))

    def test_packed_shards(self) -> None:
        """Packed shards are read by every process."""
        store = self.start_workers("--pack-below=65536")
        body = os.urandom(5000)
        self.assertEqual(store.request("PUT", "/objects/a", body).status, 200)
        connection = self.connect(store)
        gets = metric(store, "dostore_gets_total")
        for _ in range(20):
            self.assertEqual(ask(connection, "GET", "/objects/a").body, body)
        (worker,) = workers_of(store)
        self.assertEqual(metric(store, "dostore_gets_total") - gets, 20)
        # It has not left the reader.
        os.kill(worker, signal.SIGKILL)
        with self.assertRaises((OSError, http.client.HTTPException)):
            ask(connection, "GET", "/objects/a")

    def test_read_your_writes(self) -> None:
        """What was acknowledged is seen by the next GET, through whichever process."""
        store = self.start_workers()
        connections = [self.connect(store) for _ in range(6)]
        chance = random.Random(7)
        now: dict[str, bytes | None] = {}
        for turn in range(400):
            name = f"/objects/{chance.randrange(3)}"
            writer = chance.choice(connections)
            if chance.random() < 0.25 and now.get(name) is not None:
                self.assertEqual(ask(writer, "DELETE", name).status, 204)
                now[name] = None
            else:
                now[name] = b"%d " % turn + os.urandom(3000)
                self.assertEqual(ask(writer, "PUT", name, now[name]).status, 200)
            for _ in range(4):
                for asked, body in now.items():
                    answer = ask(chance.choice(connections), "GET", asked)
                    self.assertEqual(
                        (answer.status, answer.body if body else None),
                        (404 if body is None else 200, body),
                    )

    def test_reads_while_others_write(self) -> None:
        """Numbers of versions that are seen one after the other never go back."""
        store = self.start_workers()
        self.assertEqual(store.request("PUT", "/objects/a", b"0").status, 200)
        ending = threading.Event()
        wrong: list[str] = []
        reads = 0

        def read() -> None:
            nonlocal reads
            own = [store.connect() for _ in range(2)]
            seen = 0
            while not ending.is_set():
                for connection in own:
                    answer = ask(connection, "GET", "/objects/a")
                    number = int(answer.headers["x-object-version"])
                    if number < seen or answer.body != str(number - 1).encode():
                        wrong.append(f"{number} with {answer.body!r} after {seen}")
                    seen = number
                    reads += 1
            for connection in own:
                connection.close()

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        writer = self.connect(store)
        for number in range(1, 300):
            ask(writer, "PUT", "/objects/a", str(number).encode())
        ending.set()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertGreater(reads, 100)

    def test_lost_and_damaged_shards(self) -> None:
        """What a reader finds missing or damaged, or its front for it, is answered and repaired."""
        store = self.start_workers()
        body = os.urandom(50_000)
        self.assertEqual(store.request("PUT", "/objects/a", body).status, 200)
        wait_until("the shards are in files", lambda: len(store.shard_files()) == 6)
        connection = self.connect(store)
        for index in range(6):
            for _ in range(3):
                self.assertEqual(ask(connection, "GET", "/objects/a").body, body)
            (path,) = (p for p in store.shard_files() if f".{index}." in p.name)
            whole = path.read_bytes()
            if index % 2:
                path.unlink()
            else:
                with path.open("r+b") as file:
                    file.seek(100)
                    file.write(b"damage")
            self.assertEqual(ask(connection, "GET", "/objects/a").body, body)

            def repaired(path: Path = path, whole: bytes = whole) -> bool:
                return path.exists() and path.read_bytes() == whole

            wait_until(f"shard {index} is repaired", repaired)


class ProcessTests(WorkersTestCase):
    """How processes come and go."""

    def test_a_reader_that_dies(self) -> None:
        """Its connections end, the store goes on, and soon there is another."""
        store = self.start_workers()
        body = os.urandom(5000)
        self.assertEqual(store.request("PUT", "/objects/a", body).status, 200)
        connections = [self.connect(store) for _ in range(4)]
        for connection in connections:
            self.assertEqual(ask(connection, "GET", "/objects/a").body, body)
        (worker,) = workers_of(store)
        os.kill(worker, signal.SIGKILL)
        lost = 0
        for connection in connections:
            try:
                self.assertEqual(ask(connection, "GET", "/objects/a").body, body)
            except (OSError, http.client.HTTPException):
                lost += 1
        # One that was closed a moment before may still have counted.
        self.assertIn(lost, (1, 2, 3))
        self.assertEqual(store.request("GET", "/objects/a").body, body)
        self.wait_for_workers(store)
        self.assertNotEqual(workers_of(store), [worker])
        self.assertIn("Worker 1 ended by SIGKILL; it is started again", store.log())
        self.assertEqual(ask(self.connect(store), "GET", "/objects/a").body, body)
        self.assertEqual(store.stop(), 0)

    def test_a_front_that_dies(self) -> None:
        """No process is left behind, and the next start is as ever."""
        store = self.start_workers(workers=3)
        body = os.urandom(5000)
        self.assertEqual(store.request("PUT", "/objects/a", body).status, 200)
        workers = workers_of(store)
        self.assertEqual(len(workers), 2)
        store.kill()
        wait_until("all are gone", lambda: not any(map(is_running, workers)))
        store.start()
        self.wait_for_workers(store, 3)
        self.assertEqual(store.request("GET", "/objects/a").body, body)

    def test_stopping(self) -> None:
        """What is under way ends, wherever it is; then all processes do, with status 0."""
        store = self.start_workers()
        body = os.urandom(32 * MIB)
        self.assertEqual(store.request("PUT", "/objects/large", body).status, 200)
        reading, writing = self.connect(store), self.connect(store)
        reading.request("GET", "/objects/large")
        response = reading.getresponse()
        start = response.read(MIB)
        writing.putrequest("PUT", "/objects/slow")
        writing.putheader("Content-Length", str(len(body)))
        writing.endheaders()
        writing.send(body[: 6 * MIB])
        wait_until("shards are being written", store.temp_files)
        idle = self.connect(store)
        self.assertEqual(ask(idle, "GET", "/objects/none").status, 404)
        workers = workers_of(store)
        # As a terminal does, or systemd.
        for pid in (*workers, store.pid):
            os.kill(pid, signal.SIGTERM)
        wait_until("the idle connection is closed", lambda: idle.sock.recv(1) == b"")
        self.assertEqual(start + response.read(), body)
        writing.send(body[6 * MIB :])
        self.assertEqual(writing.getresponse().status, 200)
        self.assertEqual(store.wait_exit(), 0)
        self.assertFalse(any(map(is_running, workers)))
        store.start()
        self.assertEqual(store.request("GET", "/objects/slow").body, body)

    def test_counts_add_up(self) -> None:
        """``/metrics`` and the access log tell of all processes, of a dead one too."""
        store = self.start_workers("--access-log=access.log")
        self.assertEqual(store.request("PUT", "/objects/a", b"x" * 5000).status, 200)
        connections = [self.connect(store) for _ in range(4)]
        before = metric(store, "dostore_gets_total")
        for connection in connections:
            for _ in range(25):
                self.assertEqual(ask(connection, "GET", "/objects/a").status, 200)
        self.assertEqual(metric(store, "dostore_gets_total") - before, 100)
        log = store.folder.parent / "access.log"

        def lines() -> list[str]:
            return [line for line in log.read_text().splitlines() if "GET /objects/a " in line]

        wait_until("all requests are logged", lambda: len(lines()) >= 100)
        self.assertTrue(all(re.fullmatch(r'127\.0\.0\.1 .* "-" "-"', line) for line in lines()))
        # Besides these, the one that asks.
        wait_until("that is told", lambda: metric(store, "dostore_http_connections") == 5)
        (worker,) = workers_of(store)
        os.kill(worker, signal.SIGKILL)
        wait_until("that is known", lambda: "Worker 1 ended by SIGKILL" in store.log())
        self.assertEqual(metric(store, "dostore_workers"), 1)
        self.assertEqual(metric(store, "dostore_gets_total") - before, 100)
        self.assertEqual(metric(store, "dostore_workers_expected"), 2)
        self.wait_for_workers(store)

    def test_the_limit_of_connections(self) -> None:
        """It holds for all processes together: who has been idle for longest makes room."""
        store = self.start_workers("--max-connections=4")
        self.assertEqual(store.request("PUT", "/objects/a", b"x" * 100).status, 200)
        connections = []
        for _ in range(7):
            connections.append(self.connect(store))
            self.assertEqual(ask(connections[-1], "GET", "/objects/a").status, 200)
        served = 0
        for connection in connections:
            try:
                served += ask(connection, "GET", "/objects/a").status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
        self.assertEqual(served, 4)
