"""Connections that change process: what decides that, and how one is let go of without a trace."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol

from dostore.web.request import Request

if TYPE_CHECKING:
    from dostore.web.channel import Channel


#: The methods of requests that processes beside the front may answer.
READS = frozenset((b"GET", b"HEAD"))


class Passing(typing.Protocol):
    """Knows which requests are answered here, and passes the connections with others on.

    :ivar serves_all: what cannot be passed on is answered here all the same.
    """

    serves_all: bool

    def keeps(self, request: Request) -> bool:
        """Whether a request, whose header section has come, is answered here."""

    def answered(self, request: Request, at_once: bool) -> None:
        """A request's handler has returned, or waits for something: then it is not ``at_once``."""

    def take(self, channel: Channel, descriptor: int, data: bytes) -> bool:
        """Pass a connection on, with what came and is not answered; the descriptor stays the
        caller's.

        :returns: False when it cannot be passed on now.
        """

    def ended(self, channel: Channel) -> None:
        """A connection is gone, and was not passed on."""


class PassOn(Exception):
    """A request is to be answered by another process. No answer to it has begun."""


def pass_on(channel: Channel, request: Request, *, late: bool = False) -> None:
    """Let another process go on with a connection, as if it had accepted it: from this request on,
    of which no byte is answered and nothing of the body was taken.

    It goes when all answers before are sent, so that they keep their order.

    :param late: an answer was tried.
    """
    if not channel.is_open:
        return
    data = head_of(request) + channel.take_unread()
    request.passed()
    channel.deaf = True
    channel.factory.watch(channel, None)
    channel.leaving, channel.late = data, late
    if channel.is_sent():
        leave(channel)
    else:
        channel.wait_for_output()


def leave(channel: Channel) -> None:
    """Pass a connection on that has nothing to send any more."""
    passing = channel.factory.passing
    transport = channel.transport
    data, channel.leaving = channel.leaving, b""
    if passing is None or not passing.take(channel, transport.fileno(), data):
        if passing is not None and passing.serves_all:
            channel.stay(data)
        else:
            channel.deaf = False
            channel.refuse(503, "Unavailable", "The server cannot take this now. Try again soon.")
        return
    channel.passed = channel.deaf = True
    channel.forget_transport()
    channel.factory.disconnected(channel)
    detach(transport)


def detach(transport: object) -> None:
    """Close a TCP transport's descriptor, and not its connection, which other descriptors have."""
    server: Any = transport
    server.stopReading()
    server.stopWriting()
    server.connected, server.disconnected = 0, 1
    # Closing it as the transport does would shut the connection down.
    server.socket.close()
    # Where this is called from a read, the reactor finds it closed, and tells.
    server.protocol = Protocol()


def head_of(request: Request) -> bytes:
    """A header section that means the same as the one that has come, and is no longer."""
    target = request.path + (b"?" + request.query if request.query else b"")
    lines = [b"%b %b %b" % (request.method, target, request.version)]
    for name, values in request.fields.items():
        lines += [b"%b:%b" % (name, value) for value in values]
    return b"\r\n".join([*lines, b"", b""])
