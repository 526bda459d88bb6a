"""What a connection sends, and how much of it the client has not taken."""

from __future__ import annotations

import fcntl
import sys
import termios
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server

from dostore.streams import ConsumerSink

LARGE_SEND_BYTES = 256 * 1024

#: How many pieces one system call takes (Linux's IOV_MAX).
_MAX_PIECES = 1024

Block = bytes | memoryview


class Outgoing(Protocol):
    """A connection that is written to at once, without waiting for the reactor to ask."""

    #: ITCPTransport, IPushProducer and IConsumer at once.
    transport: Any

    #: See IPushProducer.
    pauseProducing: Callable[[], None]

    _closing = False
    _registered = True
    #: The transport holds as much as it likes to.
    _full = False
    #: Whoever writes an answer piece by piece.
    _sink: ConsumerSink | None = None

    def __init__(self) -> None:
        #: What it wrote and the socket has not taken.
        self._rest: list[Block] = []

    #: To write to directly; None: the transport is more than a TCP connection.
    _socket: socket | None = None
    #: It can take nothing more.
    _broken = False

    def connectionMade(self) -> None:
        """A client has connected."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        if type(self.transport) is Server:
            self._socket = self.transport.getHandle()

    def send(self, pieces: Sequence[Block]) -> None:
        """Write, and at once what the socket takes: to have the reactor find out that it takes some
        costs more than most answers. What it does not take the transport keeps, as ever.
        """
        if self._rest:
            self._rest += pieces
            return
        sent = self._send_now(pieces)
        if sent == sum(map(len, pieces)):
            return
        if (
            self._sink is not None
            and self._socket is not None
            and not (self._broken or self._closing)
        ):
            # Whoever writes waits, so it is not much. It stays in the pieces that it came in.
            self._rest = _after(pieces, sent)
            self._await_room()
            self.pauseProducing()
        else:
            rest = b"".join(pieces)
            self.transport.write(rest[sent:] if sent else rest)

    def _send_now(self, pieces: Sequence[Block]) -> int:
        """How many bytes the socket takes at once."""
        transport = self.transport
        if (
            self._socket is None
            or self._broken
            or self._closing
            or transport.dataBuffer
            or transport._tempDataLen
            or not transport.connected
        ):
            return 0
        try:
            return self._socket.sendmsg(pieces[:_MAX_PIECES])
        except BlockingIOError:
            return 0
        except OSError:
            # The transport will see that, too.
            self._broken = True
            return 0

    def _await_room(self) -> None:
        """Have :meth:`resumeProducing` called when the socket takes more."""
        self.transport.producerPaused = True
        self.transport.startWriting()

    def _send_rest(self) -> bool:
        """Send of what waits as much as the socket takes; whether all is sent."""
        while self._rest:
            sent = self._send_now(self._rest)
            if not sent:
                if self._broken or self._closing:
                    self._hand_over_rest()
                else:
                    self._await_room()
                return False
            self._rest = _after(self._rest, sent)
        return True

    def _hand_over_rest(self) -> None:
        """Let the transport send what waits, before it closes."""
        rest, self._rest = self._rest, []
        if rest:
            self.transport.write(b"".join(rest))

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
        return held + sum(map(len, self._rest))

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


def _after(pieces: Sequence[Block], sent: int) -> list[Block]:
    """What is left of pieces when so many of their bytes are sent."""
    for number, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[number + 1 :]]
        sent -= len(piece)
    return []
