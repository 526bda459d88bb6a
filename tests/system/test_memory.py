"""Memory does not grow with the object, nor with clients that are slow."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator

from tests.support.processes import BlockingStoreTestCase, Store

MIB = 1 << 20
LARGE_MIB = 4096
SLOW_CLIENTS = 50
LIMIT_BYTES = 300 * MIB


class MemoryTests(BlockingStoreTestCase):
    """A real process, by what /proc says of it."""

    def test_large_object_and_slow_clients(self) -> None:
        """4 GiB in and out, while 50 clients take and give a little at a time: below 300 MiB."""
        store = self.start_store()
        self.assertEqual(store.request("PUT", "/objects/slow", os.urandom(32 * MIB)).status, 200)
        slow = SlowClients(store, SLOW_CLIENTS)
        try:
            digest = hashlib.sha256()
            answer = store.request(
                "PUT",
                "/objects/large",
                generated(LARGE_MIB, digest),
                {"Content-Length": str(LARGE_MIB * MIB)},
                timeout_s=300.0,
            )
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual(self.hash_of(store, "/objects/large"), digest.digest())
            self.assertEqual((slow.is_alive(), slow.ended), (True, 0))
        finally:
            slow.stop()
        self.assertTrue(slow.taken > SLOW_CLIENTS and slow.given > SLOW_CLIENTS)
        peak = store.peak_resident_bytes()
        print(f"at most {peak / MIB:.0f} MiB resident", end=" ")  # noqa: T201
        self.assertTrue(peak < LIMIT_BYTES, f"{peak / MIB:.0f} MiB")

    def hash_of(self, store: Store, path: str) -> bytes:
        """SHA-256 of a body as it arrives."""
        connection = store.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            digest = hashlib.sha256()
            while chunk := response.read(MIB):
                digest.update(chunk)
            return digest.digest()
        finally:
            connection.close()


def generated(count: int, digest: hashlib._Hash) -> Iterator[bytes]:
    """``count`` MiB, no two alike, hashed as they go."""
    block = os.urandom(MIB - 8)
    for number in range(count):
        chunk = number.to_bytes(8, "big") + block
        digest.update(chunk)
        yield chunk


class SlowClients(threading.Thread):
    """Half of them read and half of them write, each a few KiB a second, all by one thread.

    :ivar taken: bytes that were read.
    :ivar given: bytes that were written.
    :ivar ended: how many the store has let go of.
    """

    def __init__(self, store: Store, count: int) -> None:
        super().__init__(daemon=True)
        self.taken = self.given = self.ended = 0
        self._stopping = threading.Event()
        self._readers: list[socket.socket] = []
        self._writers: list[socket.socket] = []
        for number in range(count):
            client = socket.socket()
            # A small window, so that what is not read stays with the store.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10.0)
            client.connect(("127.0.0.1", store.port))
            if number % 2:
                client.sendall(b"GET /objects/slow HTTP/1.1\r\nHost: x\r\n\r\n")
                self._readers.append(client)
            else:
                client.sendall(
                    b"PUT /objects/slow-%d HTTP/1.1\r\nHost: x\r\n" % number
                    + b"Content-Length: 1000000000\r\n\r\n"
                )
                self._writers.append(client)
        self.start()

    def run(self) -> None:
        """A little of each, again and again."""
        while not self._stopping.wait(0.2):
            for client in self._readers:
                data = client.recv(2048)
                self.taken += len(data)
                self.ended += not data
            for client in self._writers:
                client.sendall(bytes(2048))
                self.given += 2048

    def stop(self) -> None:
        """Hang up, all of them."""
        self._stopping.set()
        self.join(30.0)
        for client in self._readers + self._writers:
            client.close()
