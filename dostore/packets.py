"""Messages between processes of one machine that belong together, each whole, some with an open
file or connection.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: The most bytes of one message.
MAX_BYTES = 160 * 1024

#: So many are read before others have their turn.
_A_TURN = 16

#: The kernel has no room for it, or has too many descriptors on their way.
_NOT_NOW = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)

_BUFFER_BYTES = 1 << 20
_DESCRIPTOR_BYTES = socket.CMSG_SPACE(4)

#: Takes a message, and its descriptor, which is the receiver's to close then.
Receive = Callable[[bytes, int | None], None]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends; neither is inherited unless it is told to be."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return ends


@implementer(IReadWriteDescriptor)
class Packets:
    """One end.

    :param end: of :func:`pair`; it is closed with this.
    :param receive: is given what comes.
    :param gone: is called once, when the other end is closed, and not when this one is.
    """

    def __init__(
        self, end: socket.socket, reactor: Any, receive: Receive, gone: Callable[[], None]
    ) -> None:
        self._end = end
        self._reactor = reactor
        self._receive = receive
        self._gone: Callable[[], None] | None = gone
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._closed = False
        self._buffer = bytearray(MAX_BYTES)
        reactor.addReader(self)

    def __len__(self) -> int:
        """How many messages wait for the other end to read."""
        return len(self._waiting)

    def send(self, data: bytes, descriptor: int | None = None) -> None:
        """Send a message, now or as soon as the other end has read what came before. Nothing
        happens when it is gone.

        :param data: 1 to MAX_BYTES bytes.
        :param descriptor: of a file or connection that the receiver gets too; the caller may close
            his own at once.
        :raises ValueError: there is nothing, or too much, to send.
        """
        if not 0 < len(data) <= MAX_BYTES:
            raise ValueError(f"a message has 1 to {MAX_BYTES} bytes, not {len(data)}")
        if self._closed or (not self._waiting and self._try(data, descriptor)):
            return
        if not self._waiting:
            self._reactor.addWriter(self)
        self._waiting.append((data, None if descriptor is None else os.dup(descriptor)))

    def _try(self, data: bytes, descriptor: int | None) -> bool:
        """Whether a message is on its way, or never needs to be."""
        try:
            if descriptor is None:
                self._end.send(data)
            else:
                socket.send_fds(self._end, [data], [descriptor])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # Else the other end is gone, as reading will tell.
            return error.errno not in _NOT_NOW
        return True

    def doWrite(self) -> None:
        """See IWriteDescriptor."""
        while self._waiting and self._try(*self._waiting[0]):
            _, descriptor = self._waiting.popleft()
            if descriptor is not None:
                os.close(descriptor)
        if not self._waiting:
            self._reactor.removeWriter(self)

    def doRead(self) -> None:
        """See IReadDescriptor."""
        for _ in range(_A_TURN):
            try:
                size, ancillary, _, _ = self._end.recvmsg_into(
                    [self._buffer], _DESCRIPTOR_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                size, ancillary = 0, []
            if not size:
                self._lost()
                return
            data = bytes(memoryview(self._buffer)[:size])
            descriptor: int | None = None
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptor = int.from_bytes(value[:4], sys.byteorder)
            self._receive(data, descriptor)
            if self._closed:
                return

    def _lost(self) -> None:
        gone = self._gone
        self.close()
        if gone is not None:
            gone()

    def close(self) -> None:
        """Send and receive nothing more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._gone = None
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        waiting, self._waiting = self._waiting, deque()
        for _, descriptor in waiting:
            if descriptor is not None:
                os.close(descriptor)
        self._end.close()

    # What a descriptor has to have

    def fileno(self) -> int:
        """See IFileDescriptor."""
        return self._end.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """See IFileDescriptor: the reactor met an error, or ends."""
        self._lost()

    def logPrefix(self) -> str:
        """See ILoggingContext."""
        return "packets"
