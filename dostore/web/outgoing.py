"""What a connection sends, and how much of it the client has not taken."""

from __future__ import annotations

import fcntl
import sys
import termios
from collections.abc import Sequence
from socket import socket
from typing import Any

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server

from dostore.streams import ConsumerSink

LARGE_SEND_BYTES = 256 * 1024


class Outgoing(Protocol):
    """A connection that is written to at once, without waiting for the reactor to ask."""

    #: ITCPTransport, IPushProducer and IConsumer at once.
    transport: Any

    _closing = False
    _registered = True
    #: The transport holds as much as it likes to.
    _full = False
    #: Whoever writes an answer piece by piece.
    _sink: ConsumerSink | None = None
    #: To write to directly; None: the transport is more than a TCP connection.
    _socket: socket | None = None

    def connectionMade(self) -> None:
        """A client has connected."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        if type(self.transport) is Server:
            self._socket = self.transport.getHandle()

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write, and at once what the socket takes: to have the reactor find out that it takes some
        costs more than most answers. What it does not take the transport keeps, as ever.
        """
        transport = self.transport
        sent = 0
        if (
            self._socket is not None
            and not (self._closing or transport.dataBuffer or transport._tempDataLen)
            and transport.connected
        ):
            try:
                sent = self._socket.sendmsg(pieces)
            except OSError:
                # It takes nothing now, or never will again: the transport will see.
                sent = 0
        if sent < sum(map(len, pieces)):
            rest = b"".join(pieces)
            transport.write(rest[sent:] if sent else rest)

    def begin_stream(self, sink: ConsumerSink, large: bool) -> None:
        """An answer is going to be written piece by piece."""
        self._sink = sink
        if self._full:
            sink.pauseProducing()
        if large:
            self.transport.SEND_LIMIT = LARGE_SEND_BYTES

    def end_stream(self) -> None:
        """All pieces are written."""
        self._sink = None

    @property
    def is_open(self) -> bool:
        """Whether it is neither closed nor to be."""
        return not self._closing

    def forget_transport(self) -> None:
        """The connection goes on elsewhere: whatever is still called here does nothing."""
        self._closing = True
        self._unregister()

    def _unregister(self) -> None:
        """Have the transport not wait for us when it is to close after its last byte."""
        if self._registered:
            self._registered = False
            self.transport.unregisterProducer()

    @property
    def _held_bytes(self) -> int:
        transport = self.transport
        held: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        return held

    def is_sent(self) -> bool:
        """Whether the kernel has all that was written."""
        return not self._held_bytes

    def unsent_bytes(self) -> int:
        """How much of what was written the client has not taken, here and in the kernel."""
        held = self._held_bytes
        try:
            # The kernel holds megabytes for a slow client and takes no more from us meanwhile.
            queued = fcntl.ioctl(self.transport.getHandle().fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return held
        return held + int.from_bytes(queued, sys.byteorder)
