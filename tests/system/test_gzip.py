"""Gzip on the wire of a real process."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import zlib
from collections.abc import Iterator

from tests.support.http import Answer, parse_answer, request_bytes
from tests.support.processes import BlockingStoreTestCase, Store, wait_until

MIB = 1 << 20
EXTRA_BYTES = 64 * MIB
SLOW_CLIENTS = 4


def ask(store: Store, name: str, *, window: int | None = None) -> socket.socket:
    """A connection on which an object was asked for, with gzip.

    :param window: of what the client is ready to receive; None: as the system likes.
    """
    client = socket.socket()
    if window is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(60.0)
    client.connect((store.host, store.port))
    headers = {"Accept-Encoding": "gzip", "Connection": "close"}
    client.sendall(request_bytes("GET", f"/objects/{name}", headers))
    return client


def receive(client: socket.socket) -> tuple[Answer, int]:
    """The answer on a connection, and how many bytes it was."""
    pieces = []
    while piece := client.recv(MIB):
        pieces.append(piece)
    wire = b"".join(pieces)
    answer, rest = parse_answer(wire, "GET", True)
    assert rest == b""
    return answer, len(wire)


def half_noise(count: int) -> Iterator[bytes]:
    """``count`` MiB that shrink to a half."""
    chance = random.Random(9)
    for _ in range(count):
        yield b"".join(chance.randbytes(2048) + bytes(2048) for _ in range(MIB // 4096))


class GzipTests(BlockingStoreTestCase):
    """What reaches the client, and what it costs the server."""

    def setUp(self) -> None:
        """Start a store and have it warm."""
        super().setUp()
        self.store = self.start_store()
        self.assertEqual(self.store.request("PUT", "/objects/warm", os.urandom(MIB)).status, 200)

    def put(self, name: str, chunks: Iterator[bytes], size: int) -> None:
        """Store an object; from now on, what memory the store takes more is looked at."""
        answer = self.store.request(
            "PUT", f"/objects/{name}", chunks, {"Content-Length": str(size)}, timeout_s=300.0
        )
        self.assertEqual(answer.status, 200, answer.body)
        self.store.forget_peak()
        self.resident = self.store.resident_bytes()

    def assert_memory_flat(self) -> None:
        """Little was needed since :meth:`put`."""
        extra = self.store.peak_resident_bytes() - self.resident
        self.assertTrue(extra < EXTRA_BYTES, f"{extra / MIB:.0f} MiB more")

    def assert_same(self, answer: Answer, chunks: Iterator[bytes]) -> None:
        """An answer is whole, and its gzip is that of ``chunks``."""
        self.assertEqual((answer.status, answer.complete), (200, True))
        self.assertEqual(answer.headers["content-encoding"], "gzip")
        unzip = zlib.decompressobj(31)
        got = hashlib.sha256(unzip.decompress(answer.body))
        self.assertTrue(unzip.eof and not unzip.unused_data)
        expected = hashlib.sha256()
        for chunk in chunks:
            expected.update(chunk)
        self.assertEqual(got.digest(), expected.digest())

    def test_zeros(self) -> None:
        """100 MiB of zeros are less than 1 MB on the wire, and come out as they went in."""
        self.put("zeros", iter([bytes(MIB)] * 100), 100 * MIB)
        client = ask(self.store, "zeros")
        self.addCleanup(client.close)
        answer, wire_bytes = receive(client)
        self.assertLess(wire_bytes, 1_000_000)
        self.assert_same(answer, iter([bytes(MIB)] * 100))
        self.assert_memory_flat()

    def test_slow_clients(self) -> None:
        """Memory stays flat while clients do not read what is compressed for them."""
        self.put("half", half_noise(100), 100 * MIB)
        clients = [ask(self.store, "half", window=4096) for _ in range(SLOW_CLIENTS)]
        for client in clients:
            self.addCleanup(client.close)
            # It has begun; and now nobody reads on.
            self.assertEqual(client.recv(12), b"HTTP/1.1 200")
        spent = [-1.0]

        def is_idle() -> bool:
            spent.append(self.store.cpu_seconds())
            return len(spent) > 25 and spent[-1] - spent[-25] < 0.05

        wait_until("the store waits for its clients", is_idle, timeout_s=60.0)
        self.assert_memory_flat()
        for client in clients:
            client.close()
        client = ask(self.store, "half")
        self.addCleanup(client.close)
        answer, wire_bytes = receive(client)
        self.assertLess(wire_bytes, 60 * MIB)
        self.assert_same(answer, half_noise(100))
        self.assert_memory_flat()
