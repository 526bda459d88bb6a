"""A request as its handler sees it, and the answer to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.core.requesthead import RequestHead
from dostore.errors import DostoreError, IncompleteBody, RequestTimeout
from dostore.fanout import Outcome, begin
from dostore.streams import BodySource, ConsumerSink

if TYPE_CHECKING:
    from dostore.web.channel import Channel

#: Bodies of this size and more are read by larger reads, and written by larger writes.
LARGE_BYTES = 256 * 1024

_ABSOLUTE_FORM = re.compile(rb"https?://[^/?]*+", re.IGNORECASE)

_NO_BODY = frozenset({204, 304})
_MAY_BE_CANCELLED = frozenset({b"GET", b"HEAD"})

Header = tuple[bytes, bytes]

_log = Logger()


class Request:
    """One request, and the answer to it.

    :ivar method: as the client wrote it.
    :ivar path: the target up to the ``?``, still percent-escaped.
    :ivar query: what follows the ``?``.
    :ivar fields: the lines of each header field, by its name in lower case.
    :ivar body: what the client sends after the header section.
    :ivar body_length: its Content-Length; None: there is none.
    :ivar chunked: the body comes in chunks and ends by itself.
    :ivar status: of the answer; 0 before it has begun.
    :ivar bytes_sent: of the answer's body.
    :ivar started: when the header section was complete, by the connections' clock.
    :ivar answered: the answer is complete.
    :ivar expects_continue: the client waits for ``100 Continue`` before it sends the body.
    :ivar route: what metrics call the resource.
    """

    __slots__ = (
        "_announced",
        "_began",
        "_chunking",
        "_gone",
        "_sink",
        "_task",
        "answered",
        "body",
        "body_length",
        "bytes_sent",
        "channel",
        "chunked",
        "connections",
        "expects_continue",
        "fields",
        "method",
        "path",
        "query",
        "route",
        "started",
        "status",
        "version",
    )

    def __init__(self, channel: Channel, head: RequestHead) -> None:
        self.channel = channel
        self.connections = channel.factory
        self.started = self.connections.clock.seconds()
        self.method = head.method
        self.version = head.version
        target = head.target
        if not target.startswith(b"/") and (match := _ABSOLUTE_FORM.match(target)):
            target = target[match.end() :] or b"/"
        self.path, _, self.query = target.partition(b"?")
        self.route = ""
        self.fields = head.fields
        self.body = BodySource(channel)
        self.chunked = head.length is None
        self.body_length = head.length if b"content-length" in head.fields else None
        self.expects_continue = b"expect" in head.fields and head.version == b"HTTP/1.1"
        self.status = 0
        self.bytes_sent = 0
        self._announced: int | None = None
        self._chunking = False
        self.answered = False
        self._began = False
        self._gone = False
        self._sink: ConsumerSink | None = None
        self._task: Deferred[None] | None = None

    # What a handler uses

    def field(self, name: bytes) -> bytes | None:
        """The value of a header field, its lines joined by commas; None when it is absent."""
        lines = self.fields.get(name)
        return None if lines is None else b",".join(lines)

    @property
    def peer(self) -> IAddress:
        """Who is at the other end of the connection."""
        address: IAddress = self.channel.transport.getPeer()
        return address

    @property
    def begun(self) -> bool:
        """Whether the answer's status has been sent, so that no other can be."""
        return self.status != 0

    def respond(
        self,
        status: int,
        headers: Sequence[Header],
        body: bytes | memoryview = b"",
        *,
        length: int | None = None,
    ) -> None:
        """Answer, in one write. To HEAD, everything but the body is sent.

        When the client is gone, nothing happens.

        :param length: of the body of the GET, in an answer to HEAD for which it was not made.
        """
        if length is None:
            length = len(body)
        head = self._head(status, headers, length)
        if self.method == b"HEAD" or status in _NO_BODY:
            body = b""
        self.bytes_sent = len(body)
        self._announced = len(body)
        if not self._gone:
            self.channel.send((head, body))
        self.finish()

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> ConsumerSink:
        """Begin an answer whose body is written to the sink that is returned.

        :param length: of the body; None when it is not known. When :meth:`finish` is called before
            so many bytes were written, the connection is aborted.
        """
        head = self._head(status, headers, length)
        if length is None and self.version == b"HTTP/1.1":
            self._chunking = self.method != b"HEAD"
        self._announced = length
        sink = self._sink = ConsumerSink(self._write_body)
        if self._gone:
            sink.stopProducing()
        else:
            self.channel.begin_stream(sink, length is None or length >= LARGE_BYTES)
            self.channel.send((head,))
        return sink

    def finish(self) -> None:
        """The answer is complete."""
        if self._gone or self.answered:
            return
        if self._sink is not None:
            self._sink = None
            self.channel.end_stream()
        if self.method != b"HEAD" and self._announced not in (None, self.bytes_sent):
            self.abort()
            raise RuntimeError(
                f"{self.bytes_sent} bytes were sent of a body of {self._announced} bytes"
            )
        if self._chunking:
            self.channel.send((b"0\r\n\r\n",))
        self.answered = True
        self.connections.log(self)
        if self.body.ended:
            self.channel.request_done()
        else:
            self.body.drop()
            self.channel.drop_body()

    def abort(self) -> None:
        """Cut the connection, so that what was sent cannot be taken for all."""
        if not self._gone:
            self.channel.abort()

    # How the answer is written

    def _head(self, status: int, headers: Sequence[Header], length: int | None) -> bytes:
        if self.status:
            raise RuntimeError(f"the answer {self.status} has begun already")
        self.status = status
        lines = [b"%b: %b\r\n" % header for header in headers]
        if length is not None and status not in _NO_BODY:
            lines.append(b"Content-Length: %d\r\n" % length)
        elif length is None:
            if self.version == b"HTTP/1.1":
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self.channel.persistent = False
        if not self._stays_open():
            self.channel.persistent = False
            lines.append(b"Connection: close\r\n")
        block = b"".join(lines)
        if block.count(b"\n") != len(lines) or block.count(b"\r") != len(lines):
            self.status = 0
            raise ValueError("a header of the answer has a line break in it")
        return self.connections.common_head(status) + block + b"\r\n"

    def _stays_open(self) -> bool:
        """Whether there can be another request on this connection after the answer."""
        if not self.channel.persistent or self.connections.draining:
            return False
        if self.body.ended:
            return True
        # A client that was not told to go on may send its body or not: nobody can tell which.
        return not self.expects_continue and (
            self.body_length is None
            or self.body_length - self.body.received <= self.connections.limits.discard_bytes
        )

    def _write_body(self, pieces: Sequence[bytes | memoryview]) -> None:
        size = sum(map(len, pieces))
        if not size or self.method == b"HEAD":
            return
        self.bytes_sent += size
        if self._announced is not None and self.bytes_sent > self._announced:
            self.abort()
            raise RuntimeError(f"a body of {self._announced} bytes is longer than that")
        if self._chunking:
            self.channel.send((b"%x\r\n" % size, *pieces, b"\r\n"))
        else:
            self.channel.send(pieces)

    # What the channel calls

    def ask_for_body(self) -> None:
        """Tell a client to send its body, if it waits for that."""
        if self.expects_continue:
            self.expects_continue = False
            if not (self.begun or self.body.received):
                self.channel.send((b"HTTP/1.1 100 Continue\r\n\r\n",))

    def body_ended(self) -> None:
        """The whole request has come."""
        answered = self.answered
        self.body.finish()
        if answered:
            self.channel.request_done()
        else:
            self.start()

    def start(self) -> None:
        """Start the handler, unless it was."""
        if self._began or self._gone:
            return
        self._began = True
        self.connections.running.add(self)
        begun = begin(self.connections.handle(self))
        if self.connections.passing is not None:
            self.connections.passing.answered(self, isinstance(begun, Outcome))
        if isinstance(begun, Outcome):
            self._ended(None if begun.error is None else Failure(begun.error))
        else:
            self._task = begun
            _ = begun.addBoth(self._ended)

    def _ended(self, result: object) -> None:
        self.connections.handler_ended(self)
        if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
            _log.failure("A request's handler failed", result)
        if not self.answered:
            self.abort()

    def passed(self) -> None:
        """Another process answers it."""
        self.answered = self._gone = True

    def timed_out(self) -> None:
        """The client has sent nothing of the body for too long."""
        seconds = self.connections.limits.body_timeout_s
        self.body_failed(
            RequestTimeout(f"Nothing of the body came for {seconds:g} s. Send the request again.")
        )

    def body_failed(self, error: DostoreError) -> None:
        """The rest of the body is lost."""
        self.channel.persistent = False
        self.body.fail(error)

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone; nobody will get an answer."""
        self._gone = True
        if not self.answered:
            self.connections.log(self)
        self.body.fail(
            IncompleteBody(
                "The connection was closed before the whole body had come. Send it again."
            )
        )
        if self._sink is not None:
            self._sink.stopProducing()
        # A PUT or DELETE is not cancelled: it may be in the middle of its commit.
        if self._task is not None and not self.answered and self.method in _MAY_BE_CANCELLED:
            self._task.cancel()
