"""Back-pressure, early answers and many connections over real sockets of loopback."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar
from unittest import SkipTest

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.tcp import Server
from twisted.internet.threads import deferToThread

from dostore.web.api.site import build_factory
from dostore.web.request import Request
from tests.support.cases import AsyncTestCase
from tests.support.http import Gate, request_bytes
from tests.support.memory_store import MemoryStore

reactor: Any = _reactor
T = TypeVar("T")

MIB = 1 << 20

#: Two ends of each of two thousand connections, and what a test run has open anyway.
FILES = 4500

#: More than the kernel's buffers of both ends and ours together.
MUCH = 96 * MIB
#: What those may hold.
HELD = 48 * MIB


class TcpTests(AsyncTestCase):
    """A server on a port, and a client in a thread."""

    async def start(self) -> None:
        """Listen."""
        self.store = MemoryStore()
        self.factory = build_factory(self.store, clock=reactor)  # type: ignore[arg-type]
        # A client whose connection does not fit in the backlog tries again after a whole second.
        self.port = reactor.listenTCP(0, self.factory, backlog=2048, interface="127.0.0.1")
        self.addCleanup(self.stop)

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        await self.port.stopListening()
        await self.factory.drain(2.0)
        self.assertEqual(self.factory.connection_count, 0)

    def client(self) -> socket.socket:
        """A socket that is connected."""
        made = socket.create_connection(("127.0.0.1", self.port.getHost().port), 20.0)
        self.addCleanup(made.close)
        return made

    async def run_client(self, function: Callable[[socket.socket], T]) -> T:
        """What a blocking function in a thread makes of a connection."""
        client = await deferToThread(self.client)
        try:
            return await deferToThread(function, client)
        finally:
            client.close()

    async def test_a_body_that_nobody_reads_waits_in_the_client(self) -> None:
        """A PUT is slowed down by its store, and loses nothing."""
        await self.start()
        gate = Gate()
        self.store.gates["put"] = gate.deferred
        piece = bytes(range(256)) * (MIB // 256)

        def send_until_stuck(client: socket.socket) -> int:
            client.sendall(request_bytes("PUT", "/objects/a", {"Content-Length": str(MUCH)}))
            client.settimeout(0.5)
            sent = 0
            try:
                while sent < MUCH:
                    sent += client.send(piece[sent % MIB :])
            except TimeoutError:
                pass
            client.settimeout(20.0)
            return sent

        def send_rest(client: socket.socket, sent: int) -> bytes:
            while sent < MUCH:
                sent += client.send(piece[sent % MIB :])
            return client.recv(4096)

        client = await deferToThread(self.client)
        sent = await deferToThread(send_until_stuck, client)
        self.assertLess(sent, HELD)
        gate.open()
        answer = await deferToThread(send_rest, client, sent)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)
        wanted = hashlib.sha256(piece * (MUCH // MIB)).digest()
        self.assertEqual([each.digest for each in self.store.contents], [wanted])
        client.close()

    async def test_an_answer_that_nobody_reads_waits_in_the_store(self) -> None:
        """A GET is read from the store as its client takes it."""
        await self.start()
        body = bytes(range(256)) * (MUCH // 256)
        self.store.keep("a", body)

        def ask(client: socket.socket) -> None:
            client.sendall(request_bytes("GET", "/objects/a"))

        def read_all(client: socket.socket) -> bytes:
            head, _, first = client.recv(4096).partition(b"\r\n\r\n")
            self.assertIn(b"Content-Length: %d" % MUCH, head)
            received = bytearray(first)
            while len(received) < MUCH:
                received += client.recv(MIB)
            return bytes(received)

        client = await deferToThread(self.client)
        await deferToThread(ask, client)
        left = -1
        while not self.store.readers or self.store.readers[0].left != left:
            left = self.store.readers[0].left if self.store.readers else -1
            await pause(0.2)
        self.assertGreater(left, MUCH - HELD)
        (channel,) = self.factory._channels
        unsent = channel.unsent_bytes()
        self.assertGreater(unsent, len(channel.transport.dataBuffer))
        self.assertEqual(await deferToThread(read_all, client), body)
        client.close()

    async def test_an_answer_is_sent_at_once(self) -> None:
        """What the socket takes does not wait for the reactor; what it does not comes after."""
        await self.start()
        self.store.keep("small", b"x" * 5000)
        self.store.keep("large", bytes(range(256)) * (12 * MIB // 256))
        self.store.at_hand_bytes = 16 * MIB
        waited: list[int] = []
        start_writing = Server.startWriting

        def count(transport: Server) -> None:
            waited.append(len(transport.dataBuffer) + transport._tempDataLen)
            start_writing(transport)

        self.patch(Server, "startWriting", count)

        def read(client: socket.socket, name: str, size: int) -> bytes:
            client.sendall(request_bytes("GET", f"/objects/{name}"))
            head, _, body = client.recv(65536).partition(b"\r\n\r\n")
            self.assertIn(b"Content-Length: %d" % size, head)
            received = bytearray(body)
            while len(received) < size:
                received += client.recv(MIB)
            return bytes(received)

        client = await deferToThread(self.client)
        for _ in range(3):
            body = await deferToThread(read, client, "small", 5000)
            self.assertEqual(body, b"x" * 5000)
        self.assertEqual(waited, [])
        for _ in range(3):
            body = await deferToThread(read, client, "large", 12 * MIB)
            self.assertEqual(body, bytes(range(256)) * (12 * MIB // 256))
        client.close()

    async def test_what_the_socket_does_not_take_comes_after(self) -> None:
        """Pieces of any size that a client takes slowly come in their order, and all before the
        connection is closed.
        """
        await self.start()
        pieces = [bytes([number % 251]) * (number * 37 % 9000) for number in range(5000)]
        length = sum(map(len, pieces))

        async def answer(request: Request) -> None:
            sink = request.begin(200, [(b"Connection", b"close")], length)
            for first in range(0, len(pieces), 1250):
                await sink.write([memoryview(piece) for piece in pieces[first : first + 1250]])
            request.channel.persistent = False
            request.finish()

        self.factory.handle = answer

        def read(client: socket.socket) -> bytes:
            client.sendall(request_bytes("GET", "/"))
            received = bytearray()
            while data := client.recv(300_000):
                received += data
            return bytes(received).partition(b"\r\n\r\n")[2]

        self.assertTrue(await self.run_client(read) == b"".join(pieces))

    async def test_nothing_is_sent_after_an_abort(self) -> None:
        """What a handler writes to a connection that it has cut does not reach the client."""
        await self.start()

        async def cut(request: Request) -> None:
            sink = request.begin(200, [], 10)
            await sink.write([b"right"])
            request.abort()
            await sink.write([b"wrong"])

        self.factory.handle = cut

        def read(client: socket.socket) -> bytes:
            client.sendall(request_bytes("GET", "/objects/a"))
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(4096):
                    received += data
            return received

        self.assertNotIn(b"wrong", await self.run_client(read))

    async def test_a_refusal_can_be_read_although_the_body_is_still_sent(self) -> None:
        """The answer is not lost to a reset, whether the connection stays open or not."""
        await self.start()

        def put(size: int) -> Callable[[socket.socket], bytes]:
            def run(client: socket.socket) -> bytes:
                headers = {"Digest": "wrong", "Content-Length": str(size)}
                client.sendall(request_bytes("PUT", "/objects/a", headers))
                for _ in range(min(size, 32 * MIB) // MIB):
                    client.sendall(b"x" * MIB)
                return client.recv(4096)

            return run

        for size in (8 * MIB, 1 << 40):
            answer = await self.run_client(put(size))
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer)

    async def test_a_half_closed_request_is_answered(self) -> None:
        """A client that has shut its sending side gets what it asked for."""
        await self.start()
        self.store.keep("a", b"x" * (3 * MIB))

        def run(client: socket.socket) -> int:
            client.sendall(request_bytes("GET", "/objects/a"))
            client.shutdown(socket.SHUT_WR)
            received = 0
            while data := client.recv(MIB):
                received += len(data)
            return received

        self.assertGreater(await self.run_client(run), 3 * MIB)

    async def test_two_thousand_idle_connections(self) -> None:
        """They cost little, and health is told in no time."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < FILES:
            if hard < FILES:
                raise SkipTest(f"this process may have {hard} files open; the test takes {FILES}")
            resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        await self.start()

        def open_all() -> list[socket.socket]:
            return [self.client() for _ in range(2000)]

        def ask_health(client: socket.socket) -> float:
            begin = time.monotonic()
            client.sendall(request_bytes("GET", "/health/live"))
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 200"))
            return time.monotonic() - begin

        clients = await deferToThread(open_all)
        times = [await self.run_client(ask_health) for _ in range(5)]
        self.assertGreaterEqual(self.factory.connection_count, 2000)
        self.assertLess(min(times), 0.1)
        for client in clients:
            client.close()


def pause(seconds: float) -> Deferred[None]:
    """Let the reactor turn."""
    waiter: Deferred[None] = Deferred()
    reactor.callLater(seconds, waiter.callback, None)
    return waiter
