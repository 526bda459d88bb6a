"""AMQP 0-9-1 by hand, over a blocking socket: what others than dostore send and see.

It shares nothing with the client that dostore uses, so the two check each other. Field tables and
bodies go out as the bytes that a test wants, sound or not.
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from attrs import define, field, frozen

from dostore.core.broker_url import parse_broker_url

_METHOD, _HEADER, _BODY, _HEARTBEAT, _END = 1, 2, 3, 8, 206
_FRAME_BYTES = 131072


class Closed(Exception):
    """The broker closed the channel or the connection; the text says why."""


@frozen
class Got:
    """A message that came, with the raw bytes of its field table."""

    body: bytes
    headers: bytes
    reply_to: bytes
    correlation_id: bytes


def short(text: str | bytes) -> bytes:
    """A short string."""
    data = text.encode() if isinstance(text, str) else text
    return bytes([len(data)]) + data


def table(data: bytes = b"") -> bytes:
    """A field table of such entries."""
    return struct.pack(">I", len(data)) + data


@define
class _Reader:
    data: bytes
    at: int = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def raw(self, length: int) -> bytes:
        self.at += length
        return self.data[self.at - length : self.at]

    def short(self) -> bytes:
        return self.raw(self.number(">B"))


@define
class WireClient:
    """One connection with one channel."""

    socket: socket.socket
    _buffer: bytearray = field(factory=bytearray)
    _waiting: list[Got] = field(factory=list)

    @classmethod
    def connect(cls, url: str, timeout_s: float = 10.0) -> WireClient:
        """Log in."""
        at = parse_broker_url(url)
        made = cls(socket.create_connection((at.host, at.port), timeout_s))
        made.socket.sendall(b"AMQP\0\0\x09\x01")
        made.expect(10, 10)
        login = f"\0{at.user}\0{at.password}".encode()
        response = struct.pack(">I", len(login)) + login
        made.send(0, 10, 11, table() + short("PLAIN") + response + short("en_US"))
        made.expect(10, 30)
        made.send(0, 10, 31, struct.pack(">HIH", 10, _FRAME_BYTES, 0))
        made.send(0, 10, 40, short(at.vhost) + short("") + b"\0")
        made.expect(10, 41)
        made.open_channel()
        return made

    def open_channel(self) -> None:
        """Open the channel, again after the broker closed it."""
        self.send(1, 20, 10, short(""))
        self.expect(20, 11)

    def __enter__(self) -> WireClient:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Break the connection."""
        self.socket.close()

    # --- what an AMQP client does ---

    def declare_exchange(
        self, name: str, *, durable: bool = True, passive: bool = False, kind: str = "fanout"
    ) -> None:
        """Make an exchange, or (passive) see that it is there."""
        bits = bytes([passive | durable << 1])
        self.send(1, 40, 10, b"\0\0" + short(name) + short(kind) + bits + table())
        self.expect(40, 11)

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange; it need not be there."""
        self.send(1, 40, 20, b"\0\0" + short(name) + b"\0")
        self.expect(40, 21)

    def declare_queue(self, exchange: str = "", name: str = "") -> str:
        """Make a queue as the Go design does (not exclusive, deleted when unused); its name."""
        self.send(1, 50, 10, b"\0\0" + short(name) + b"\x08" + table())
        queue = self.expect(50, 11).short().decode()
        if exchange:
            self.send(
                1, 50, 20, b"\0\0" + short(queue) + short(exchange) + short("") + b"\0" + table()
            )
            self.expect(50, 21)
        return queue

    def queue_length(self, name: str) -> int:
        """How many messages wait in a queue.

        :raises Closed: there is no such queue, or it is somebody's own; the channel is gone.
        """
        self.send(1, 50, 10, b"\0\0" + short(name) + b"\x01" + table())
        answer = self.expect(50, 11)
        answer.short()
        return answer.number(">I")

    def delete_queue(self, name: str) -> None:
        """Delete a queue."""
        self.send(1, 50, 40, b"\0\0" + short(name) + b"\0")
        self.expect(50, 41)

    def consume(self, queue: str) -> None:
        """Have a queue's messages sent here, acknowledged by being sent."""
        self.send(1, 60, 20, b"\0\0" + short(queue) + short("") + b"\x02" + table())
        self.expect(60, 21)

    def publish(
        self,
        exchange: str,
        body: bytes,
        *,
        queue: str = "",
        headers: bytes | None = None,
        reply_to: bytes = b"",
        correlation_id: bytes = b"",
    ) -> None:
        """Send a message."""
        self.socket.sendall(
            self.message(
                exchange,
                body,
                queue=queue,
                headers=headers,
                reply_to=reply_to,
                correlation_id=correlation_id,
            )
        )

    def message(
        self,
        exchange: str,
        body: bytes,
        *,
        queue: str = "",
        headers: bytes | None = None,
        reply_to: bytes = b"",
        correlation_id: bytes = b"",
    ) -> bytes:
        """The bytes that send a message.

        :param headers: the entries of its field table.
        """
        flags, properties = 0, b""
        if headers is not None:
            flags, properties = flags | 1 << 13, table(headers)
        if correlation_id:
            flags, properties = flags | 1 << 10, properties + short(correlation_id)
        if reply_to:
            flags, properties = flags | 1 << 9, properties + short(reply_to)
        start = struct.pack(">HH", 60, 40) + b"\0\0" + short(exchange) + short(queue) + b"\0"
        header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
        step = _FRAME_BYTES - 8
        pieces = [body[at : at + step] for at in range(0, len(body), step)]
        return b"".join(
            [_frame(_METHOD, 1, start), _frame(_HEADER, 1, header)]
            + [_frame(_BODY, 1, piece) for piece in pieces]
        )

    def publish_large(self, exchange: str, size: int) -> None:
        """Send a message of many bytes that are nowhere together."""
        start = struct.pack(">HH", 60, 40) + b"\0\0" + short(exchange) + short("") + b"\0"
        self.socket.sendall(
            _frame(_METHOD, 1, start) + _frame(_HEADER, 1, struct.pack(">HHQH", 60, 0, size, 0))
        )
        step = 1 << 16
        full = _frame(_BODY, 1, b"[" * step)
        for _ in range(size // step):
            self.socket.sendall(full)
        if size % step:
            self.socket.sendall(_frame(_BODY, 1, b"[" * (size % step)))

    def get(self, timeout_s: float = 5.0) -> Got | None:
        """The next message, or None when there is none in time."""
        self.socket.settimeout(timeout_s)
        try:
            while not self._waiting:
                self._read()
        except TimeoutError:
            return None
        return self._waiting.pop(0)

    def sync(self) -> None:
        """Return when the broker has dealt with all that was sent."""
        self.queue_length(self.declare_queue())

    # --- frames ---

    def send(self, channel: int, klass: int, method: int, arguments: bytes) -> None:
        """Send a method."""
        self.socket.sendall(_frame(_METHOD, channel, struct.pack(">HH", klass, method) + arguments))

    def expect(self, klass: int, method: int) -> _Reader:
        """The arguments of the method that comes next, besides messages.

        :raises Closed: another comes.
        """
        self.socket.settimeout(30.0)
        while True:
            found = self._read()
            if found is None:
                continue
            if found[:2] == (klass, method):
                return found[2]
            raise Closed(self._why(*found))

    def _why(self, klass: int, method: int, arguments: _Reader) -> str:
        if (klass, method) in ((20, 40), (10, 50)):
            code, text = arguments.number(">H"), arguments.short().decode()
            if klass == 20:
                self.send(1, 20, 41, b"")
            return f"{code} {text}"
        return f"method {klass}.{method} came"

    def _read(self) -> tuple[int, int, _Reader] | None:
        """Read a frame: a method other than a delivery is returned, a message kept."""
        kind, payload = self._frame()
        if kind != _METHOD:
            return None
        reader = _Reader(payload)
        klass, method = reader.number(">H"), reader.number(">H")
        if (klass, method) != (60, 60):
            return klass, method, reader
        _, payload = self._frame()
        header = _Reader(payload)
        header.at = 4
        size, flags = header.number(">Q"), header.number(">H")
        for bit in (15, 14):
            if flags >> bit & 1:
                header.short()
        headers = header.raw(header.number(">I")) if flags >> 13 & 1 else b""
        for bit in (12, 11):
            if flags >> bit & 1:
                header.number(">B")
        correlation_id = header.short() if flags >> 10 & 1 else b""
        reply_to = header.short() if flags >> 9 & 1 else b""
        body = b""
        while len(body) < size:
            body += self._frame()[1]
        self._waiting.append(Got(body, headers, reply_to, correlation_id))
        return None

    def _frame(self) -> tuple[int, bytes]:
        head = self._bytes(7)
        kind, _, length = struct.unpack(">BHI", head)
        payload = self._bytes(length + 1)
        if payload[-1] != _END:
            raise AssertionError("a frame that does not end")
        return kind, payload[:-1]

    def _bytes(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self.socket.recv(1 << 16)
            if not data:
                raise Closed("the broker hung up")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([_END])
