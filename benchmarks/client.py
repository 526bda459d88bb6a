"""The client of the benchmarks: one process, raw sockets, epoll, and as little work as can be.

It shares the machine with what it measures, so it costs little: bodies are prepared once, large
ones are sent from a file in memory without a copy, answers are looked at just enough to know
that they are right. It is the same for a store and for what the store is compared with.

``python -m benchmarks.client`` reads a JSON object a line, what to do, and answers with one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

from attrs import asdict, define, field, frozen

from benchmarks.bodies import LABEL, MIB, in_memory, material, part
from benchmarks.child import serve

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"Content-Length: "
_CHUNKED = b"Transfer-Encoding: chunked"
_LAST_CHUNK = b"\r\n0\r\n\r\n"

#: Bodies up to this are sent with their head in one call, longer ones from a file.
_INLINE_BYTES = 64 * 1024

_POLL_S = 60.0

#: How many durations of single requests are told.
_TOLD = 64


class LoadError(Exception):
    """The server did not answer as it should."""


@frozen(slots=True)
class Job:
    """What a client is to do.

    :ivar head: the head of a request, with ``%d`` for the number that makes it one of its own.
    :ivar names: requests are numbered 0 to ``names`` - 1, then from 0 again.
    :ivar numbers: the only numbers that are taken, in turn; none: all.
    :ivar step: numbers go up by so many from one request to the next.
    :ivar size: of a body, sent by PUT or wanted of GET.
    :ivar offset: of the wanted bytes in their content.
    :ivar salt: makes bodies differ from those of other jobs.
    :ivar text: bodies can be compressed.
    :ivar lines: what is wanted is not a content but so many lines.
    :ivar seconds: requests are begun for so long.
    :ivar count: and no more than so many of them.
    :ivar check: every byte of an answer is compared, which takes time; else its length and label.
    """

    port: int
    method: str
    head: str
    connections: int = 1
    names: int = 1 << 62
    numbers: list[int] = field(factory=list)
    step: int = 1
    size: int = 0
    offset: int = 0
    salt: int = 0
    text: bool = False
    lines: int = 0
    seconds: float = 3600.0
    count: int = 1 << 62
    check: bool = False


@define
class Done:
    """What was measured.

    :ivar count: answers, all of which were right.
    :ivar seconds: from the first request to the last answer.
    :ivar bytes: of all bodies, sent and received.
    :ivar cpu_seconds: what the client itself took of a processor.
    :ivar each: how long the first requests took, in seconds.
    """

    count: int = 0
    seconds: float = 0.0
    bytes: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_seconds: float = 0.0
    each: list[float] = field(factory=list)


class _Connection:
    """One client of several, with one request under way."""

    __slots__ = (
        "began",
        "body",
        "buffer",
        "chunked",
        "got",
        "left",
        "number",
        "out",
        "position",
        "socket",
    )

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.number = -1
        self.began = 0.0
        #: What is to be sent before anything else; where in the body sendfile goes on, and its end.
        self.out = b""
        self.position = self.left = 0
        #: The head of an answer that came in pieces; how many bytes of its body are missing.
        self.buffer = b""
        self.got = -1
        self.chunked = False
        #: The body, when all of it is compared or its lines are counted.
        self.body = bytearray()


class _Load:
    """The loop that does one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.put = job.method == "PUT"
        self.head = job.head.encode("ascii")
        self.keep = job.check or bool(job.lines)
        self.base = memoryview(material(job.text))
        self.file = in_memory(job.text)
        self.space = bytearray(MIB)
        self.view = memoryview(self.space)
        self.took: list[float] = []
        self.begun = 0
        self.deadline = 0.0
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}

    def run(self) -> Done:
        job = self.job
        wanted = min(job.connections, job.count)
        made = [_Connection(job.port) for _ in range(wanted)]
        self.connections = {each.socket.fileno(): each for each in made}
        for descriptor in self.connections:
            self.poll.register(descriptor, select.EPOLLIN)
        used = time.process_time()
        began = time.perf_counter()
        self.deadline = began + job.seconds
        for connection in made:
            self.begin(connection)
        busy = wanted
        while busy:
            events = self.poll.poll(_POLL_S)
            if not events:
                raise LoadError(f"no answer in {_POLL_S:g} s")
            for descriptor, event in events:
                connection = self.connections[descriptor]
                if event & select.EPOLLOUT:
                    self.send(connection)
                if event & ~select.EPOLLOUT and self.receive(connection):
                    now = time.perf_counter()
                    self.took.append(now - connection.began)
                    if now < self.deadline and self.begun < job.count:
                        self.begin(connection)
                    else:
                        busy -= 1
        seconds = time.perf_counter() - began
        return self.done(seconds, time.process_time() - used)

    def done(self, seconds: float, cpu_seconds: float) -> Done:
        each = self.took[:_TOLD]
        self.took.sort()
        count = len(self.took)
        return Done(
            count=count,
            seconds=seconds,
            bytes=count * self.job.size,
            p50_ms=self.took[count // 2] * 1e3,
            p99_ms=self.took[count * 99 // 100] * 1e3,
            cpu_seconds=cpu_seconds,
            each=each,
        )

    def close(self) -> None:
        for connection in self.connections.values():
            connection.socket.close()
        self.poll.close()
        os.close(self.file)

    # Requests

    def begin(self, connection: _Connection) -> None:
        job = self.job
        number = self.begun * job.step % job.names
        if job.numbers:
            number = job.numbers[self.begun % len(job.numbers)]
        connection.number = number
        self.begun += 1
        head = self.head % number
        connection.began = time.perf_counter()
        if not self.put:
            self.push(connection, [head])
            return
        inline = min(job.size, _INLINE_BYTES)
        label = LABEL.pack(job.salt, number)[: job.size]
        connection.position, connection.left = inline, job.size - inline
        self.push(connection, [head, label, self.base[LABEL.size : max(LABEL.size, inline)]])
        if connection.left and not connection.out:
            self.send(connection)

    def push(self, connection: _Connection, pieces: list[bytes | memoryview]) -> None:
        """Send what fits at once; the rest when there is room."""
        try:
            sent = connection.socket.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        if sent < sum(map(len, pieces)):
            connection.out = b"".join(pieces)[sent:]
            self.poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def send(self, connection: _Connection) -> None:
        """Go on sending."""
        descriptor = connection.socket.fileno()
        try:
            if connection.out:
                connection.out = connection.out[connection.socket.send(connection.out) :]
            while connection.left and not connection.out:
                at = connection.position % MIB
                count = min(connection.left, MIB - at)
                sent = os.sendfile(descriptor, self.file, at, count)
                connection.position += sent
                connection.left -= sent
        except BlockingIOError:
            self.poll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
            return
        if not connection.out:
            self.poll.modify(descriptor, select.EPOLLIN)

    # Answers

    def receive(self, connection: _Connection) -> bool:
        """Take what is there; whether the answer is whole."""
        view, start = self.view, 0
        try:
            count = connection.socket.recv_into(self.space)
        except BlockingIOError:
            return False
        if not count:
            raise LoadError("the server hung up")
        if connection.got < 0:
            if connection.buffer:
                head = connection.buffer + bytes(view[:count])
                view, count, connection.buffer = memoryview(head), len(head), b""
            start = self.read_head(connection, view.obj, count)  # type: ignore[arg-type]
            if start < 0:
                connection.buffer = bytes(view[:count])
                return False
            self.check_label(connection, view[start:count])
        if self.keep:
            connection.body += view[start:count]
        if connection.chunked:
            if not connection.body.endswith(_LAST_CHUNK):
                return False
            connection.body = _joined(bytes(connection.body))
        else:
            connection.got -= count - start
            if connection.got > 0:
                return False
            if connection.got < 0:
                raise LoadError("more came than was announced")
        if self.keep:
            self.compare(connection)
        connection.got = -1
        return True

    def read_head(self, connection: _Connection, received: bytes, count: int) -> int:
        """Note the length of an answer; where its body begins, -1 when its head is not whole."""
        end = received.find(_HEAD_END, 0, count)
        if end < 0:
            return -1
        if received[9:11] != b"20":
            raise LoadError(bytes(received[:count]).decode("latin-1"))
        at = received.find(_LENGTH, 0, end + 2)
        length = 0
        if at >= 0:
            at += len(_LENGTH)
            length = int(received[at : received.find(b"\r\n", at, end + 2)])
        if not (self.put or self.job.lines) and length != self.job.size:
            raise LoadError(f"{length} bytes came, and not {self.job.size}")
        connection.got = length
        connection.chunked = self.keep and received.find(_CHUNKED, 0, end) > 0
        return end + len(_HEAD_END)

    def check_label(self, connection: _Connection, body: memoryview) -> None:
        """Look whether it is the content that was asked for, by its label if that is there."""
        job = self.job
        if self.put or job.lines or job.offset or len(body) < LABEL.size:
            return
        if LABEL.unpack_from(body) != (job.salt, connection.number):
            raise LoadError(f"object {connection.number} is another one")

    def compare(self, connection: _Connection) -> None:
        """Look whether all of the body is as it should be."""
        job, body = self.job, connection.body
        if job.lines:
            lines = body.count(b"\n")
            if lines != job.lines:
                raise LoadError(f"{lines} lines came, and not {job.lines}")
        elif not self.put:
            at = job.offset
            for offset in range(0, job.size, MIB):
                size = min(MIB, job.size - offset)
                wanted = part(job.salt, connection.number, at + offset, size, text=job.text)
                if body[offset : offset + size] != wanted:
                    raise LoadError(f"object {connection.number} is not what was sent")
        body.clear()


def _joined(chunked: bytes) -> bytearray:
    """A body that came in chunks."""
    body = bytearray()
    at = 0
    while size := int(chunked[at : (end := chunked.index(b"\r\n", at))], 16):
        body += chunked[end + 2 : end + 2 + size]
        at = end + size + 4
    return body


def run(job: Job) -> Done:
    """Do a job.

    :raises LoadError: an answer was not as it should be.
    """
    load = _Load(job)
    with contextlib.closing(load):
        return load.run()


def _answers(requests: Iterator[Any]) -> Iterator[Any]:
    for request in requests:
        try:
            yield asdict(run(Job(**request)))
        except (LoadError, OSError) as error:
            yield {"error": f"{request['method']} {request['head'].split()[1]}: {error}"}


if __name__ == "__main__":
    serve(_answers)
