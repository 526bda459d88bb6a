"""The clients of the benchmarks, in a process of their own: raw sockets, so that they cost little.

``python -m benchmarks.load JSON`` does what the JSON asks for and prints its figures as JSON. No
two bodies are alike, for the store keeps the same content only once.
"""

from __future__ import annotations

import http.client
import json
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

MIB = 1 << 20

#: What a client measured: seconds, and what belongs to it.
Figures = dict[str, float]

_HEAD_END = b"\r\n\r\n"
_LABEL = struct.Struct(">QQ")
_RANDOM = random.Random(7).randbytes(MIB)


class LoadError(Exception):
    """The server did not answer as it should."""


def ask(what: str, **arguments: Any) -> Figures:
    """Run one of the functions below in a process of its own.

    :raises LoadError: it failed; with what it said.
    """
    request = json.dumps({"what": what, **arguments})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", request], capture_output=True, text=True
    )
    if done.returncode:
        raise LoadError(f"{what}: {done.stderr.strip()[-2000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def piece(salt: int, number: int, size: int) -> bytes:
    """``size`` bytes (at most 1 MiB) that no other salt and number give."""
    return (_LABEL.pack(salt, number) + _RANDOM[_LABEL.size :])[:size]


def put_stream(port: int, name: str, mib: int, salt: int) -> Figures:
    """PUT one object of ``mib`` MiB."""
    body = bytearray(_RANDOM)
    with socket.create_connection(("127.0.0.1", port)) as client:
        began = time.perf_counter()
        client.sendall(_head("PUT", name, mib * MIB))
        for number in range(mib):
            _LABEL.pack_into(body, 0, salt, number)
            client.sendall(body)
        _, left = _answer(client)
        if left:
            raise LoadError("a body came with the answer to a PUT")
        return {"seconds": time.perf_counter() - began}


def get_stream(port: int, name: str, mib: int, salt: int, verify: bool) -> Figures:
    """GET an object of ``mib`` MiB that :func:`put_stream` sent.

    :param verify: compare every byte; else they are only counted.
    """
    buffer = bytearray(MIB)
    with socket.create_connection(("127.0.0.1", port)) as client:
        began = time.perf_counter()
        client.sendall(_head("GET", name))
        length, have = _answer(client)
        if length != mib * MIB:
            raise LoadError(f"{length} bytes are announced, and not {mib} MiB")
        if verify:
            _compare(client, have, mib, salt)
            return {"seconds": time.perf_counter() - began}
        left = length - len(have)
        while left:
            count = client.recv_into(buffer)
            if not count:
                raise LoadError(f"the body ended {left} bytes too early")
            left -= count
        return {"seconds": time.perf_counter() - began}


def _compare(client: socket.socket, have: bytes, mib: int, salt: int) -> None:
    """Read the rest of a body, and compare all of it with what was sent."""
    pending = bytearray(have)
    for number in range(mib):
        while len(pending) < MIB:
            data = client.recv(MIB)
            if not data:
                raise LoadError("the body ended too early")
            pending += data
        if pending[:MIB] != piece(salt, number, MIB):
            raise LoadError(f"MiB {number} is not what was sent")
        del pending[:MIB]
    if pending:
        raise LoadError("more came than was sent")


class _Connection:
    """One client of several, with one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = -1
        self.began = 0.0
        self._received = bytearray()

    def send(self, number: int, request: bytes) -> None:
        """Begin a request."""
        self.number, self.began = number, time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Take what is there; the body of the answer when it is whole."""
        data = self.socket.recv(65536)
        if not data:
            raise LoadError("the server hung up")
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return None
        length = _length(bytes(self._received[:end]))
        start = end + len(_HEAD_END)
        if len(self._received) < start + length:
            return None
        body = bytes(self._received[start : start + length])
        self._received.clear()
        return body


def small(
    port: int, method: str, salt: int, count: int, connections: int, size: int, names: int
) -> Figures:
    """``count`` requests by ``connections`` clients, each sending one after the other.

    :param names: PUT 0 to ``names`` - 1 in turn, or GET them when they were PUT; the body of a GET
        is compared with what was PUT.
    """
    clients = [_Connection(port) for _ in range(connections)]
    latencies: list[float] = []
    following = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        began = time.perf_counter()
        for client in clients[:count]:
            client.send(following, _request(method, salt, following % names, size))
            following += 1
        while len(latencies) < count:
            for key, _ in selector.select():
                client = key.data
                body = client.receive()
                if body is None:
                    continue
                latencies.append(time.perf_counter() - client.began)
                if method == "GET" and body != piece(salt, client.number % names, size):
                    raise LoadError(f"object {client.number % names} is not what was sent")
                if following < count:
                    client.send(following, _request(method, salt, following % names, size))
                    following += 1
        seconds = time.perf_counter() - began
    for client in clients:
        client.socket.close()
    latencies.sort()
    return {
        "seconds": seconds,
        "p50_ms": latencies[count // 2] * 1e3,
        "p99_ms": latencies[count * 99 // 100] * 1e3,
    }


def _request(method: str, salt: int, number: int, size: int) -> bytes:
    name = f"small/{salt}/{number:08}"
    if method == "GET":
        return _head("GET", name)
    return _head("PUT", name, size) + piece(salt, number, size)


def listing(port: int, count: int, pages: int, names: int) -> Figures:
    """``pages`` listings of ``count`` names each, on one connection, from places all over.

    :param names: how many there are.
    """
    client = http.client.HTTPConnection("127.0.0.1", port)
    latencies = []
    for page in range(pages):
        after = f"small/0/{page * 7919 % (names - count):08}"
        began = time.perf_counter()
        client.request("GET", f"/objects/?limit={count}&after={after}")
        response = client.getresponse()
        lines = response.read().count(b"\n")
        latencies.append(time.perf_counter() - began)
        if (response.status, lines) != (200, count):
            raise LoadError(f"a listing answered {response.status} and {lines} lines")
    client.close()
    latencies.sort()
    return {
        "seconds": sum(latencies),
        "p50_ms": latencies[pages // 2] * 1e3,
        "p99_ms": latencies[pages * 99 // 100] * 1e3,
    }


def _head(method: str, name: str, length: int | None = None) -> bytes:
    fields = f"{method} /objects/{name} HTTP/1.1\r\nHost: bench\r\n"
    if length is not None:
        fields += f"Content-Length: {length}\r\n"
    return fields.encode("ascii") + b"\r\n"


def _answer(client: socket.socket) -> tuple[int, bytes]:
    """The length of the body that an answer announces, and what is there of it."""
    received = bytearray()
    while _HEAD_END not in received:
        data = client.recv(65536)
        if not data:
            raise LoadError("the server hung up")
        received += data
    head, _, body = bytes(received).partition(_HEAD_END)
    return _length(head), body


def _length(head: bytes) -> int:
    """The Content-Length of an answer that must be a success."""
    if head[9:12] != b"200":
        raise LoadError(head.decode("latin-1"))
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


_FUNCTIONS: Mapping[str, Callable[..., Figures]] = {
    function.__name__: function for function in (put_stream, get_stream, small, listing)
}


def main(argument: str) -> None:
    """Do what the JSON says, and print the figures."""
    request = json.loads(argument)
    function = _FUNCTIONS[request.pop("what")]
    try:
        print(json.dumps(function(**request)))
    except LoadError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
