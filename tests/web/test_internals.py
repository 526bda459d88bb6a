"""What dostore.web.outgoing uses of Twisted without a promise that it stays."""

from __future__ import annotations

import inspect
import socket
from pathlib import Path

from twisted.internet.abstract import FileDescriptor
from twisted.internet.tcp import Connection, Server

import dostore
from tests.support.cases import SyncTestCase
from tests.support.http import HttpTestCase


class LayoutTests(SyncTestCase):
    """What HTTP is made of."""

    def test_the_server_is_our_own(self) -> None:
        """Requests are read as a whole and answered while they come: twisted.web does neither."""
        for path in sorted((Path(dostore.__file__).parent / "web").rglob("*.py")):
            self.assertNotIn("twisted.web", path.read_text(), path.name)


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
