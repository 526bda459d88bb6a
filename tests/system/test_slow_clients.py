"""Clients that take their time: each of them is served to the end, and so is everybody else."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.processes import BlockingStoreTestCase, Store

MIB = 1 << 20
CLIENTS = 25
GET_BYTES = 24 * MIB
PUT_BYTES = 8 * MIB
#: How much a client takes or gives at a time while it is slow, and how often.
SIP_BYTES = 4096
SIPS = 25
PAUSE_S = 0.1
LIMIT_BYTES = 300 * MIB
HEAD_END = b"\r\n\r\n"


class SlowReader:
    """A GET that is read a little at a time, then to its end."""

    def __init__(self, store: Store) -> None:
        self._socket = connected(store)
        self._socket.sendall(b"GET /objects/large HTTP/1.1\r\nHost: x\r\n\r\n")
        self._received = bytearray()

    def sip(self) -> None:
        """Read a little."""
        self._received += self._socket.recv(SIP_BYTES)

    def finish(self) -> str:
        """Read the rest; the SHA-256 of the body."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        while HEAD_END not in self._received:
            self.sip()
        _, _, body = bytes(self._received).partition(HEAD_END)
        digest, left = hashlib.sha256(body), GET_BYTES - len(body)
        while left:
            data = self._socket.recv(MIB)
            if not data:
                raise AssertionError(f"the body ended {left} bytes too early")
            digest.update(data)
            left -= len(data)
        self._socket.close()
        return digest.hexdigest()


class SlowWriter:
    """A PUT that is sent a little at a time, then to its end."""

    def __init__(self, store: Store, number: int) -> None:
        self.name = f"slow-{number}"
        self._body = number.to_bytes(8, "big") + os.urandom(PUT_BYTES - 8)
        self._sent = 0
        self._socket = connected(store)
        head = f"PUT /objects/{self.name} HTTP/1.1\r\nHost: x\r\nContent-Length: {PUT_BYTES}"
        self._socket.sendall(head.encode("ascii") + HEAD_END)

    def sip(self) -> None:
        """Send a little."""
        self._socket.sendall(self._body[self._sent : self._sent + SIP_BYTES])
        self._sent += SIP_BYTES

    def finish(self) -> str:
        """Send the rest; the SHA-256 of what was sent.

        :raises AssertionError: the answer is not 200.
        """
        self._socket.sendall(memoryview(self._body)[self._sent :])
        answer = self._socket.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise AssertionError(answer)
        self._socket.close()
        return hashlib.sha256(self._body).hexdigest()


def connected(store: Store) -> socket.socket:
    """A connection with a small window, so that what is not read stays with the store."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60.0)
    client.connect(("127.0.0.1", store.port))
    return client


class SlowClientTests(BlockingStoreTestCase):
    """A real process, real sockets."""

    def test_slow_clients_are_served_to_the_end(self) -> None:
        """25 slow PUTs and 25 slow GETs at once: others are served meanwhile, memory stays below
        300 MB, and each of the 50 ends with every byte.
        """
        store = self.start_store()
        large = os.urandom(GET_BYTES)
        self.assertEqual(store.request("PUT", "/objects/large", large).status, 200)
        readers = [SlowReader(store) for _ in range(CLIENTS)]
        writers = [SlowWriter(store, number) for number in range(CLIENTS)]
        for number in range(SIPS):
            for reader in readers:
                reader.sip()
            for writer in writers:
                writer.sip()
            self.serve_another(store, number)
            time.sleep(PAUSE_S)
        with ThreadPoolExecutor(10) as pool:
            sent = list(pool.map(SlowWriter.finish, writers))
            read = list(pool.map(SlowReader.finish, readers))
        self.assertEqual(set(read), {hashlib.sha256(large).hexdigest()})
        for writer, digest in zip(writers, sent, strict=True):
            answer = store.request("GET", f"/objects/{writer.name}")
            self.assertEqual(hashlib.sha256(answer.body).hexdigest(), digest)
        self.assertEqual(store.temp_files(), [])
        peak = store.peak_resident_bytes()
        self.assertTrue(peak < LIMIT_BYTES, f"{peak / MIB:.0f} MiB")

    def serve_another(self, store: Store, number: int) -> None:
        """What a client does that is not slow."""
        body = os.urandom(4000)
        self.assertEqual(store.request("PUT", f"/objects/quick-{number}", body).status, 200)
        self.assertEqual(store.request("GET", f"/objects/quick-{number}").body, body)
        ready = store.request("GET", "/health/ready")
        self.assertEqual((ready.status, json.loads(ready.body)["ready"]), (200, True))
