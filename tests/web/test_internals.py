"""What dostore.web.channel uses of Twisted without a promise that it stays.

When one of these fails after an upgrade, read twisted/web/http.py again before anything else.
"""

from __future__ import annotations

import inspect
import socket
from pathlib import Path
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.tcp import Connection, Server
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineReceiver
from twisted.web import http

import dostore
from dostore.web.channel import Channel
from tests.support.cases import SyncTestCase
from tests.support.http import HttpTestCase


class Recording:
    """A request that notes what the channel calls."""

    def __init__(self, channel: Any, calls: list[Any]) -> None:
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))


class RecordingChannel(http.HTTPChannel):
    """Twisted's own channel, with the calls that ours overrides noted."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.requestFactory: Any = lambda channel, queued=None: Recording(channel, self.calls)

    def headerReceived(self, line: bytes) -> bool:
        """Note it."""
        self.calls.append(("headerReceived", line))
        return True

    def allHeadersReceived(self) -> None:
        """Note it, and what is there to look at."""
        names = ("_command", "_path", "_version", "_receivedHeaderCount", "_transferDecoder")
        self.calls.append(("allHeadersReceived", *(getattr(self, name) for name in names)))
        if self._path == b"/body":
            self.length = 5
            self._transferDecoder = http._IdentityTransferDecoder(
                5, self.requests[0].handleContentChunk, self._finishRequestBody
            )


class LayoutTests(SyncTestCase):
    """Where Twisted's HTTP server is used."""

    def test_one_module_knows_the_inside(self) -> None:
        """All others use what Twisted documents: a factory, and the mark of a request class."""
        found = {}
        for path in sorted((Path(dostore.__file__).parent / "web").rglob("*.py")):
            lines = [line.strip() for line in path.read_text().splitlines()]
            if used := [line for line in lines if line.startswith("from twisted.web")]:
                found[path.name] = used
            if path.name != "channel.py":
                self.assertNotIn(" http._", path.read_text())
        self.assertEqual(
            found,
            {
                "channel.py": ["from twisted.web import http"],
                "connections.py": ["from twisted.web import http"],
                "request.py": ["from twisted.web.iweb import INonQueuedRequestFactory"],
            },
        )


class ChannelTests(SyncTestCase):
    """twisted.web.http.HTTPChannel."""

    def make(self) -> RecordingChannel:
        """A channel that is connected."""
        channel = RecordingChannel()
        channel.makeConnection(StringTransport())
        self.addCleanup(channel.setTimeout, None)
        return channel

    def test_calls_for_a_request_without_a_body(self) -> None:
        """A header at a time, then the whole section, then the request."""
        channel = self.make()
        channel.dataReceived(b"GET /x HTTP/1.1\r\nA: b\r\nC:d\r\n\r\n")
        self.assertEqual(
            channel.calls,
            [
                ("headerReceived", b"A: b"),
                ("headerReceived", b"C:d"),
                ("allHeadersReceived", b"GET", b"/x", b"HTTP/1.1", 0, None),
                ("requestReceived", b"GET", b"/x", b"HTTP/1.1"),
            ],
        )
        self.assertTrue(channel._handlingRequest)
        self.assertEqual(channel.length, 0)

    def test_calls_for_a_request_with_a_body(self) -> None:
        """The body's pieces as they come; what follows is kept for later."""
        channel = self.make()
        channel.dataReceived(b"PUT /body HTTP/1.1\r\n\r\n12")
        self.assertFalse(channel._handlingRequest)
        channel.dataReceived(b"345GET")
        self.assertEqual(
            channel.calls[1:],
            [
                ("handleContentChunk", b"12"),
                ("handleContentChunk", b"345"),
                ("requestReceived", b"PUT", b"/body", b"HTTP/1.1"),
            ],
        )
        self.assertEqual(channel._dataBuffer, [b"GET"])

    def test_size_of_the_header_section(self) -> None:
        """It is counted without line ends, and refused by the method that ours replaces."""
        channel = self.make()
        refused: list[int] = []
        self.patch(
            channel,
            "_respondToBadRequestAndDisconnect",
            lambda: refused.append(channel._receivedHeaderSize),
        )
        channel.totalHeadersSize = 30
        channel.dataReceived(b"GET /x HTTP/1.1\r\n" + b"A: b\r\n" * 4)
        self.assertEqual(refused, [31])

    def test_attributes(self) -> None:
        """State that ours reads or resets is there under its name."""
        channel = self.make()
        for name in (
            "requests", "persistent", "length", "transport", "maxHeaders", "totalHeadersSize",
            "MAX_LENGTH", "timeOut", "line_mode", "_buffer", "_busyReceiving", "_dataBuffer",
            "_handlingRequest", "_networkProducer", "_requestProducer", "_transferDecoder",
            "_waitingForTransport", "_receivedHeaderCount", "_receivedHeaderSize",
        ):  # fmt: skip
            self.assertTrue(hasattr(channel, name), name)

    def test_what_is_replaced_exists(self) -> None:
        """Each method that ours overrides is called by that name in Twisted, or is our own."""
        ours = {
            name
            for name, value in vars(Channel).items()
            if inspect.isfunction(value) and (hasattr(http.HTTPChannel, name))
        }
        self.assertEqual(
            ours,
            {
                "connectionMade", "connectionLost", "loseConnection", "dataReceived",
                "lineReceived", "lineLengthExceeded", "headerReceived", "allHeadersReceived",
                "rawDataReceived", "requestDone", "pauseProducing", "resumeProducing",
                "_respondToBadRequestAndDisconnect",
            },
        )  # fmt: skip

    def test_line_mode(self) -> None:
        """Data that is given back while lines are being received is not received twice."""
        source = inspect.getsource(LineReceiver.dataReceived)
        self.assertIn("if self._busyReceiving:\n            self._buffer += data", source)


class TransportTests(HttpTestCase):
    """Twisted's TCP transports."""

    def test_reads_and_writes_have_sizes(self) -> None:
        """Both can be changed on one connection."""
        self.assertIn("self.socket.recv(self.bufferSize)", inspect.getsource(Connection.doRead))
        self.assertIn("[: self.SEND_LIMIT]", inspect.getsource(Connection.writeSomeData))
        self.assertEqual((FileDescriptor.bufferSize, FileDescriptor.SEND_LIMIT), (65536, 131072))

    def test_what_is_sent_past_them(self) -> None:
        """A connection that has nothing left to send can be written to by its socket."""
        source = inspect.getsource(FileDescriptor.doWrite)
        self.assertIn('self.dataBuffer = b""\n            self.offset = 0', source)
        source = inspect.getsource(FileDescriptor.write)
        self.assertIn("self._tempDataLen += len(data)", source)
        self.assertIn("return self.socket", inspect.getsource(Connection.getHandle))
        self.assertIs(Server.doWrite, FileDescriptor.doWrite)
        self.assertIn("FileDescriptor.write(self, bytes)", inspect.getsource(Server.write))

    def test_what_is_unsent_can_be_counted(self) -> None:
        """A slow reader is judged by whether that shrinks."""

        class Reactor:
            """Takes writers."""

            def addWriter(self, writer: object) -> None:
                """Take it."""

        descriptor = FileDescriptor(Reactor())  # type: ignore[arg-type]
        descriptor.connected = 1
        channel = self.connect().channel
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        descriptor.getHandle = lambda: one  # type: ignore[attr-defined]
        self.patch(channel, "transport", descriptor)
        descriptor.write(b"abc")
        descriptor.write(b"de")
        self.assertEqual(channel.unsent_bytes(), 5)
        self.patch(descriptor, "writeSomeData", lambda data: 2)
        descriptor.doWrite()
        self.assertEqual(channel.unsent_bytes(), 3)
