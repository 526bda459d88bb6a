"""What a store is compared with: a server that does only what every such store must do.

A PUT is hashed by SHA-256, encoded 4 + 2 and written to six files, which are synced before the
answer, once for all that wait; a GET is read from four files, or decoded. There are no names on
disk, no checks of blocks, no time-outs, and hardly any HTTP: only what the benchmarks' own client
says is understood. Nothing that is asked of it can be had for less on the same machine, so the
distance to it is what a store may still gain.

``python -m benchmarks.bare JSON`` prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import json
import select
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from benchmarks.bare_files import Damaged, SixFiles, Stored
from benchmarks.bodies import MIB
from benchmarks.child import Child, say

_HEAD_END = b"\r\n\r\n"
_DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

#: A body beyond this is received by a thread of its own, and never held as a whole.
LARGE_BYTES = 4 * MIB

#: How many of the contents it has are looked at when it is asked to verify them.
_VERIFIED = 8

_PAGE = "SELECT name, number FROM current WHERE name > ? ORDER BY name LIMIT ?"


@frozen(slots=True)
class Settings:
    """What a bare server is to do.

    :ivar folder: for the six files; it is made.
    :ivar sync: a PUT is answered when it is on disk.
    :ivar room_mib: of each file. It is written over from the beginning when it is full.
    :ivar lost: a GET does without the first two shards, and decodes them.
    :ivar database: SQLite with the names that are listed.
    """

    folder: str
    sync: bool = True
    room_mib: int = 64
    lost: bool = False
    database: str = ""


class Bare(Child):
    """One, while it runs.

    :ivar pid: its process.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("benchmarks.bare", json.dumps(asdict(settings)))
        self.port = int(self.hear()["port"])
        self.pid = self.process.pid

    def verify(self) -> int:
        """Have it read back the last of what it has written, and rebuild that from its shards.

        :returns: how many contents were found to be what their SHA-256 says.
        :raises ChildFailed: one was not.
        """
        return int(self.ask({})["verified"])


class _Connection:
    """A client, with what has come of its request."""

    __slots__ = ("body", "have", "name", "out", "size", "socket", "waits")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.body = bytearray()
        self.size = self.have = 0
        self.name = b""
        self.out: list[memoryview] = []
        self.waits = False


class _Server:
    """The loop."""

    def __init__(self, settings: Settings) -> None:
        self.files = SixFiles(Path(settings.folder), settings.room_mib * MIB, sync=settings.sync)
        self.lost = settings.lost
        self.stored: dict[bytes, Stored] = {}
        self.poll = select.epoll()
        self.space = bytearray(256 * 1024)
        self.whole: list[_Connection] = []
        self.database: sqlite3.Connection | None = None
        if settings.database:
            self.database = sqlite3.connect(f"file:{settings.database}?mode=ro", uri=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.connections: dict[int, _Connection] = {}

    def run(self) -> None:
        told = sys.stdin.fileno()
        listener = self.listener.fileno()
        for descriptor in (told, listener):
            self.poll.register(descriptor, select.EPOLLIN)
        say({"port": self.listener.getsockname()[1]})
        while True:
            for descriptor, event in self.poll.poll():
                if descriptor == told:
                    if not sys.stdin.buffer.readline():
                        return
                    self.verify()
                elif descriptor == listener:
                    self.accept()
                elif event & select.EPOLLOUT:
                    self.write(self.connections[descriptor])
                else:
                    self.receive(self.connections[descriptor])
            if self.whole:
                self.keep()

    def verify(self) -> None:
        try:
            # Those that were stored last are the least likely to be written over.
            newest = list(self.stored.values())[-_VERIFIED:]
            say({"verified": sum(map(self.files.verify, newest))})
        except Damaged as error:
            say({"error": str(error)})

    def accept(self) -> None:
        connected, _ = self.listener.accept()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[connected.fileno()] = _Connection(connected)
        self.poll.register(connected.fileno(), select.EPOLLIN)

    def receive(self, connection: _Connection) -> None:
        if connection.have < connection.size:
            view = memoryview(connection.body)[connection.have : connection.size]
            connection.have += connection.socket.recv_into(view)
            if connection.have == connection.size:
                self.whole.append(connection)
            return
        count = connection.socket.recv_into(self.space)
        if not count:
            descriptor = connection.socket.fileno()
            self.poll.unregister(descriptor)
            del self.connections[descriptor]
            connection.socket.close()
            return
        # The client sends a head in one piece.
        end = self.space.find(_HEAD_END, 0, count)
        head = bytes(self.space[:end]).split(b"\r\n")
        method, target, _ = head[0].split()
        fields = dict(line.split(b": ") for line in head[1:])
        if method == b"PUT":
            body = memoryview(self.space)[end + len(_HEAD_END) : count]
            self.begin_put(connection, target, int(fields[b"Content-Length"]), body)
        else:
            self.get(connection, target, fields)

    # PUT

    def begin_put(self, connection: _Connection, name: bytes, size: int, body: memoryview) -> None:
        connection.name = name
        if size > LARGE_BYTES:
            self.apart(self.put_large, connection, size, bytes(body))
            return
        if len(connection.body) < size:
            connection.body = bytearray(size)
        connection.size, connection.have = size, len(body)
        connection.body[: len(body)] = body
        if len(body) == size:
            self.whole.append(connection)

    def keep(self) -> None:
        """Store all that is whole, by one sync, and answer."""
        whole, self.whole = self.whole, []
        bodies = [memoryview(each.body)[: each.size] for each in whole]
        for connection, stored in zip(whole, self.files.keep(bodies), strict=True):
            self.stored[connection.name] = stored
            connection.size = connection.have = 0
            connection.socket.send(_DONE)

    def put_large(self, connection: _Connection, size: int, body: bytes) -> None:
        self.stored[connection.name] = self.files.keep_stream(connection.socket, size, body)
        connection.socket.sendall(_DONE)

    def apart(self, function: Any, connection: _Connection, *arguments: Any) -> None:
        """Do something with a connection on a thread of its own."""
        descriptor = connection.socket.fileno()
        self.poll.modify(descriptor, 0)

        def run() -> None:
            function(connection, *arguments)
            self.poll.modify(descriptor, select.EPOLLIN)

        threading.Thread(target=run, daemon=True).start()

    # GET

    def get(self, connection: _Connection, target: bytes, fields: dict[bytes, bytes]) -> None:
        if b"?" in target:
            self.answer(connection, self.page(target))
            return
        stored = self.stored[target]
        if b"Range" in fields:
            first = int(fields[b"Range"].partition(b"=")[2].partition(b"-")[0])
            self.answer(connection, [self.files.read_byte(stored, first)], b"206 Partial Content")
        elif stored.size > LARGE_BYTES:
            self.apart(self.get_large, connection, stored)
        else:
            self.answer(connection, self.files.read(stored, lost=self.lost))

    def get_large(self, connection: _Connection, stored: Stored) -> None:
        connection.socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % stored.size)
        for pieces in self.files.read_stream(stored, lost=self.lost):
            for piece in pieces:
                connection.socket.sendall(piece)

    def answer(
        self, connection: _Connection, pieces: list[memoryview], status: bytes = b"200 OK"
    ) -> None:
        length = sum(map(len, pieces))
        head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, length)
        connection.out = [memoryview(head), *pieces]
        self.write(connection)

    def write(self, connection: _Connection) -> None:
        """Send what fits now; the rest when there is room."""
        try:
            sent = connection.socket.sendmsg(connection.out, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        connection.out = list(_rest(connection.out, sent))
        if bool(connection.out) != connection.waits:
            connection.waits = not connection.waits
            event = select.EPOLLOUT if connection.waits else select.EPOLLIN
            self.poll.modify(connection.socket.fileno(), event)

    def page(self, target: bytes) -> list[memoryview]:
        """Names after another, as lines of JSON."""
        assert self.database is not None, "names are listed by a server that was given some"
        query = dict(
            each.split("=") for each in target.decode("ascii").partition("?")[2].split("&")
        )
        found = self.database.execute(_PAGE, (query["after"], int(query["limit"])))
        lines = [json.dumps({"Name": name, "Version": number}) for name, number in found]
        return [memoryview(("\n".join(lines) + "\n").encode())]


def _rest(pieces: list[memoryview], sent: int) -> Iterator[memoryview]:
    """What is left of pieces when so many bytes of them were sent."""
    for piece in pieces:
        if sent < len(piece):
            yield piece[sent:]
        sent = max(0, sent - len(piece))


if __name__ == "__main__":
    _Server(Settings(**json.loads(sys.argv[1]))).run()
