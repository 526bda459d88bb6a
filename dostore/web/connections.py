"""All connections of a server: how many there may be, how long each may take, and how they end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from time import gmtime, strftime
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

import dostore
from dostore.core.httpfields import format_http_date
from dostore.core.requesthead import HeadLimits
from dostore.web.access_log import access_line
from dostore.web.channel import Channel
from dostore.web.deadlines import TICK_S, Deadlines
from dostore.web.passing import Passing
from dostore.web.problem import CONTENT_TYPE, RETRY_AFTER_S, problem
from dostore.web.request import Request

Handler = Callable[[Request], Coroutine[Any, Any, None]]

#: Connections that are one too many and are being told so; still more are closed without a word.
_MAX_TURNED_AWAY = 256

#: How often a client that does not read is looked at within the write timeout.
_STALL_CHECKS = 4

#: So many lines of the access log are written together, or what there is after a second.
_LOG_LINES = 200

#: What handlers get to clean up after their connections were cut by :meth:`Connections.drain`.
_CLEAN_UP_S = 5.0


@frozen(slots=True)
class HttpLimits:
    """How much and how long. Times are in seconds and may last up to one second longer.

    :ivar max_object_bytes: of a body that is stored.
    :ivar header_timeout_s: from a request's first byte to the end of its header section.
    :ivar idle_timeout_s: between requests.
    :ivar body_timeout_s: between two pieces of a body that is waited for.
    :ivar write_timeout_s: in which a client takes nothing of its answer.
    :ivar discard_timeout_s: for the rest of a body after its request was answered.
    :ivar discard_bytes: of such a rest.
    """

    max_object_bytes: int = 5 << 40
    max_connections: int = 10_000
    max_request_line_bytes: int = 16_384
    max_header_bytes: int = 32_768
    max_fields: int = 128
    header_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 300.0
    discard_timeout_s: float = 5.0
    discard_bytes: int = 64 << 20


class Connections(Factory):
    """Makes a channel for each connection and keeps an eye on it.

    :param handler: answers a request; it is called as soon as the header section is there.
    :param clock: tells the time and ticks.
    :param access_log: the path of a log in combined format, or None.
    :param finished: is told of each request that was answered, or whose client went away before.
    :ivar passing: takes the connections with requests that another process answers.
    :ivar elsewhere: how many connections of this server other processes have.
    :ivar draining: no new connection and no further request on one is taken.
    :ivar running: requests whose handlers have not ended.
    :ivar refused: by status, how often a connection was ended before there was a request.
    """

    noisy = False

    def __init__(
        self,
        handler: Handler,
        clock: IReactorTime,
        limits: HttpLimits | None = None,
        access_log: str | None = None,
        finished: Callable[[Request], None] | None = None,
    ) -> None:
        self.handle = handler
        self.clock = clock
        self.limits = limits or HttpLimits()
        self.head_limits = HeadLimits(
            self.limits.max_request_line_bytes,
            self.limits.max_header_bytes,
            self.limits.max_fields,
        )
        self.draining = False
        self.running: set[Request] = set()
        self.refused: Counter[int] = Counter()
        self.idle: Deadlines[Channel] = Deadlines(self.limits.idle_timeout_s)
        self.heads: Deadlines[Channel] = Deadlines(self.limits.header_timeout_s)
        self.bodies: Deadlines[Channel] = Deadlines(self.limits.body_timeout_s)
        self.stalled: Deadlines[Channel] = Deadlines(self.limits.write_timeout_s / _STALL_CHECKS)
        self.lingering: Deadlines[Channel] = Deadlines(self.limits.discard_timeout_s)
        self._stalls: dict[Channel, tuple[int, int]] = {}
        self._channels: set[Channel] = set()
        self._turned_away: set[Channel] = set()
        self._finished = finished
        self.passing: Passing | None = None
        self.elsewhere: Callable[[], int] = int
        # Absolute, for the process may change its folder before the log is opened.
        self._log_path = None if access_log is None else os.path.abspath(access_log)
        self._access_log: int | None = None
        self._lines: list[str] = []
        self._ticking: IDelayedCall | None = None
        self._ended: Deferred[None] | None = None
        self._heads_of: dict[int, bytes] = {}
        self._heads_second = -1
        self._log = Logger()

    # Connections come and go

    def buildProtocol(self, addr: IAddress | None) -> Channel | None:  # type: ignore[override]
        """A channel for a new connection; None closes it at once."""
        return None if self.draining else self.make_channel(self.is_full)

    @property
    def is_full(self) -> bool:
        """Whether one more connection is one too many."""
        return self.connection_count + self.elsewhere() >= self.limits.max_connections

    def make_channel(self, full: bool) -> Channel | None:
        """A channel for a connection; None: there is not even time to tell it that it is refused.

        :param full: another one must go for it, or else it is refused.
        """
        channel = Channel()
        channel.factory = self
        if full and not self._make_room():
            if len(self._turned_away) >= _MAX_TURNED_AWAY:
                return None
            channel.turned_away = True
            self._turned_away.add(channel)
        else:
            self._channels.add(channel)
        if self._ticking is None:
            self._ticking = self.clock.callLater(TICK_S, self._tick)
        return channel

    @property
    def has_idle(self) -> bool:
        """Whether a connection is without a request, so that it could make room."""
        return bool(len(self.idle) or len(self.heads) or len(self.lingering))

    def _make_room(self) -> bool:
        """Close the connection that has been without a request for longest, if there is one."""
        for queue in (self.idle, self.heads, self.lingering):
            channel = queue.oldest()
            if channel is not None and not channel.turned_away:
                queue.stop(channel)
                self._channels.discard(channel)
                channel.loseConnection()
                return True
        return False

    def watch(self, channel: Channel, queue: Deadlines[Channel] | None) -> None:
        """Have a channel's time run in ``queue``, which is ``idle``, ``heads`` or neither.

        A time that runs in it already runs on.
        """
        for other in (self.idle, self.heads):
            if other is not queue:
                other.stop(channel)
            elif channel not in other:
                other.start(channel)

    def disconnected(self, channel: Channel) -> None:
        """A connection is gone."""
        for queue in (self.idle, self.heads, self.bodies, self.stalled, self.lingering):
            queue.stop(channel)
        self._stalls.pop(channel, None)
        self._channels.discard(channel)
        self._turned_away.discard(channel)
        if self.passing is not None and not channel.passed:
            self.passing.ended(channel)
        self._check_ended()

    def handler_ended(self, request: Request) -> None:
        """A request's handler has returned or failed."""
        self.running.discard(request)
        self._check_ended()

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._channels)

    # Time

    def _tick(self) -> None:
        self._ticking = None
        for channel in self.idle.advance():
            channel.loseConnection()
        for channel in self.heads.advance():
            channel.refuse(
                408,
                "Request timeout",
                f"The header section took longer than {self.limits.header_timeout_s:g} s.",
            )
        for channel in self.bodies.advance():
            if channel.request is not None:
                channel.request.timed_out()
        for channel in self.stalled.advance():
            self._judge_stalled(channel)
        for channel in self.lingering.advance():
            channel.loseConnection()
        self._write_lines()
        if self._channels or self._turned_away:
            self._ticking = self.clock.callLater(TICK_S, self._tick)

    def watch_output(self, channel: Channel) -> None:
        """The client of a channel must take something, now and then."""
        self._stalls[channel] = channel.unsent_bytes(), 0
        self.stalled.start(channel)

    def _judge_stalled(self, channel: Channel) -> None:
        """Cut a client that has taken nothing for the whole write timeout."""
        unsent = channel.unsent_bytes()
        before, checks = self._stalls[channel]
        checks = checks + 1 if unsent >= before else 0
        if checks == _STALL_CHECKS:
            channel.abort()
        else:
            self._stalls[channel] = unsent, checks
            self.stalled.start(channel)

    def common_head(self, status: int) -> bytes:
        """The status line and the headers that are on every answer."""
        second = int(self.clock.seconds())
        if second != self._heads_second:
            self._heads_of.clear()
            self._heads_second = second
        head = self._heads_of.get(status)
        if head is None:
            head = self._heads_of[status] = (
                b"HTTP/1.1 %d %b\r\nServer: dostore/%b\r\nDate: %b\r\n"
                b"X-Content-Type-Options: nosniff\r\n"
            ) % (
                status,
                HTTPStatus(status).phrase.encode(),
                dostore.__version__.encode(),
                format_http_date(second),
            )
        return head

    def refusal(self, status: int, title: str, detail: str) -> tuple[bytes, bytes]:
        """The answer to what is no proper request, after which the connection ends; counted."""
        self.refused[status] += 1
        body = problem(status, title, detail)
        head = self.common_head(status) + b"%b: %b\r\n" % CONTENT_TYPE
        if status == 503:
            head += b"Retry-After: %d\r\n" % RETRY_AFTER_S
        return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body), body

    # The end

    async def drain(self, timeout_s: float) -> bool:
        """Take no more requests; return when those under way are answered and all is closed.

        What is not done after ``timeout_s`` seconds is cut, and its handlers get a moment to end.

        :returns: whether nothing had to be cut.
        """
        self.draining = True
        for channel in [*self.idle.all(), *self.heads.all()]:
            channel.loseConnection()
        if await self._wait_for_end(timeout_s):
            return True
        for channel in [*self._channels, *self._turned_away]:
            channel.abort()
        await self._wait_for_end(_CLEAN_UP_S)
        return False

    async def _wait_for_end(self, timeout_s: float) -> bool:
        if not self._is_ended():
            waiter = self._ended = Deferred()
            timer = self.clock.callLater(timeout_s, waiter.callback, None)
            try:
                await waiter
            finally:
                self._ended = None
                if timer.active():
                    timer.cancel()
        return self._is_ended()

    def _is_ended(self) -> bool:
        return not (self._channels or self._turned_away or self.running)

    def _check_ended(self) -> None:
        if not (self._channels or self._turned_away) and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        if self._ended is not None and not self._ended.called and self._is_ended():
            self._ended.callback(None)

    # The access log

    def startFactory(self) -> None:
        """Open the access log, if there is to be one."""
        if self._log_path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._access_log = os.open(self._log_path, flags, 0o666)

    def stopFactory(self) -> None:
        """Close the access log."""
        self._write_lines()
        if self._access_log is not None:
            os.close(self._access_log)
            self._access_log = None

    def log(self, request: Request) -> None:
        """A request is answered, or its client is gone."""
        if self._finished is not None:
            self._finished(request)
        if self._access_log is not None:
            moment = strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(self.clock.seconds()))
            self._lines.append(access_line(request, moment))
            if len(self._lines) >= _LOG_LINES:
                self._write_lines()

    def _write_lines(self) -> None:
        """Write what was logged, by whole lines: other processes may write to the same file."""
        if self._access_log is None or not self._lines:
            return
        data = "".join(self._lines).encode("ascii")
        self._lines.clear()
        try:
            while data:
                data = data[os.write(self._access_log, data) :]
        except OSError:
            self._log.failure("The access log cannot be written; it is closed")
            os.close(self._access_log)
            self._access_log = None
