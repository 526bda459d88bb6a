"""A5: clients that send a little and then nothing, thousands of them."""

from __future__ import annotations

import socket
import time

from dostore.web.connections import HttpLimits
from tests.support.http import HttpTestCase, request_bytes
from tests.support.processes import BlockingStoreTestCase, Store, wait_until

MIB = 1 << 20

CLIENTS = 2000


class A5(HttpTestCase):
    """Silent clients, in memory."""

    limits = HttpLimits(max_connections=10_000)

    def test_ten_thousand_idle_connections(self) -> None:
        """The next client finds room, and its answer takes no longer."""
        clients = [self.connect() for _ in range(10_000)]
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            new = self.connect()
            new.send(request_bytes("GET", "/health/live"))
            times.append(time.perf_counter() - begin)
            self.assertEqual(new.answer().status, 200)
            new.close()
            self.settle()
        self.assertLess(sorted(times)[10], 0.1)
        self.assertLessEqual(self.factory.connection_count, 10_000)
        begin = time.perf_counter()
        self.tick(1)
        self.assertLess(time.perf_counter() - begin, 0.1)
        self.tick(61)
        self.assertTrue(all(client.lost for client in clients))

    def test_every_place_to_stop(self) -> None:
        """Wherever in a request a client stops, it is gone in the end, and so is its request."""
        whole = request_bytes("PUT", "/objects/a", body=b"hello")
        clients = []
        for end in range(len(whole)):
            client = self.connect()
            client.send(whole[:end])
            clients.append(client)
        self.tick(80)
        self.assertTrue(all(client.lost for client in clients))
        statuses = [client.answer().status for client in clients if client.received]
        self.assertEqual(statuses, [408] * (len(whole) - 1))
        self.assertEqual(self.store.metadata.names, {})

    def test_half_closed(self) -> None:
        """Wherever a client ends its side, the connection ends too; whole requests are answered."""
        whole = request_bytes("PUT", "/objects/a", body=b"hello")
        for end in range(len(whole) + 1):
            client = self.connect()
            client.send(whole[:end])
            client.half_close()
            self.settle()
            self.assertTrue(client.lost, end)
            if end == len(whole):
                self.assertEqual(client.answer().status, 200)
            elif end >= len(whole) - 5:
                self.assertEqual(client.answer().status, 400)
            else:
                self.assertEqual(client.received, b"")
        self.assertEqual(len(self.store.metadata.names["a"]), 1)

    def test_half_closed_and_not_reading(self) -> None:
        """A client that ends its side and takes nothing is cut."""
        self.store.keep("a", b"x" * MIB)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        client.half_close()
        self.tick(310)
        self.settle()
        self.assertTrue(client.lost)


class A5Sockets(BlockingStoreTestCase):
    """Silent clients of a real store."""

    def connect(self, store: Store, data: bytes) -> socket.socket:
        """A client that has sent ``data``."""
        client = socket.create_connection(("127.0.0.1", store.port), 20.0)
        self.addCleanup(client.close)
        if data:
            client.sendall(data)
        return client

    def test_two_thousand(self) -> None:
        """Half of them idle, half with half a request: memory stays flat and health quick."""
        store = self.start_store(f"--max-connections={CLIENTS}")
        store.request("GET", "/health/live")
        before = store.resident_bytes()
        files = store.open_files()
        for number in range(CLIENTS):
            self.connect(store, b"GET /objects/a HTTP/1.1\r\nHost: a\r\n" if number % 2 else b"")
        wait_until("all are accepted", lambda: store.open_files() >= files + CLIENTS - 10)
        times = []
        for _ in range(20):
            begin = time.monotonic()
            self.assertEqual(store.request("GET", "/health/live").status, 200)
            times.append(time.monotonic() - begin)
        self.assertLess(sorted(times)[10], 0.1)
        self.assertLess(store.resident_bytes() - before, 64 * MIB)
