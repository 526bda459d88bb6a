"""IShardWriter over HTTP: a shard on its way to a data server. See ``docs/data-api.rst``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.http_link import QUICK_TIMEOUT_S
from dostore.core.datafields import ShardDigest
from dostore.core.model import Content
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ShardFileBuilder
from dostore.errors import DostoreError, NodeUnavailable
from dostore.http.exchange import ANSWER_TIMEOUT_S
from dostore.ports import IShardWriter

if TYPE_CHECKING:
    from dostore.adapters.node_http import HttpNode

_log = Logger()

Block = bytes | memoryview

#: What a commit gets beyond the time for an answer: a disk that syncs at least so many bytes in a
#: second.
_SYNC_BYTES_A_SECOND = 16 << 20

#: What a write gets beyond that: a network that takes at least so many bytes in a second.
_SENT_BYTES_A_SECOND = 256 * 1024

#: While there is nothing to send the data server is told so often that the shard is not abandoned.
#: It removes what nobody has touched for half an hour.
TOUCH_S = 300.0


@implementer(IShardWriter)
class HttpWriter:
    """A temporary shard on a data server.

    Each write is a request of its own, so none stays open while there is nothing to send. It is
    under way while the next one is prepared; its error comes out of the call after it.
    """

    def __init__(self, node: HttpNode, token: str, index: int, scheme: Scheme) -> None:
        self._node = node
        self._target = b"/temp/" + token.encode("ascii")
        self._builder = ShardFileBuilder(index, scheme)
        self._sent = 0
        self._sending: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._committed = False
        self._aborted = False

    async def write(self, blocks: Sequence[Block]) -> None:
        """See IShardWriter."""
        await self._settled()
        self._require_open()
        if blocks:
            self._builder.add(blocks)
            self._sending = Deferred.fromCoroutine(self._append(blocks))
            self._timer = self._node.link.clock.callLater(TOUCH_S, self._touch)

    async def _settled(self) -> None:
        """What is under way has ended.

        :raises NodeUnavailable: what was sent before is lost.
        """
        self._stop_timer()
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    def _require_open(self) -> None:
        if self._aborted:
            raise NodeUnavailable("The write was given up.")

    async def _append(self, blocks: Sequence[Block]) -> None:
        fields = [(b"Upload-Offset", b"%d" % self._sent)]
        size = sum(map(len, blocks))
        self._sent += size
        timeout_s = ANSWER_TIMEOUT_S + size / _SENT_BYTES_A_SECOND
        answer = await self._node.link.ask(
            b"PATCH", self._target, fields, blocks, timeout_s=timeout_s, again=False
        )
        if answer.status != 204:
            raise self._node.error(answer)
        if answer.headers.getRawHeaders(b"upload-offset") != [b"%d" % self._sent]:
            raise NodeUnavailable(
                f"{self._node.address} does not hold the {self._sent} bytes that were sent."
            )

    # While there is nothing to send

    def _touch(self) -> None:
        self._timer = self._node.link.clock.callLater(TOUCH_S, self._touch)
        if self._sending is not None:
            _ = self._sending.addCallback(lambda _: Deferred.fromCoroutine(self._spare()))

    async def _spare(self) -> None:
        """Have the shard spared for not being abandoned."""
        try:
            await self._node.link.ask(b"HEAD", self._target, timeout_s=QUICK_TIMEOUT_S)
        except DostoreError as error:
            _log.info("A shard that is being written was not touched: {error}", error=error)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # The end

    async def commit(self, content: Content) -> None:
        """See IShardWriter."""
        if self._committed:
            return
        await self._settled()
        self._require_open()
        _, name = self._builder.finish(content)
        fields = [
            (b"X-Content", str(content.hash).encode("ascii")),
            (b"Size", b"%d" % content.size),
            (b"Digest", ShardDigest(shard=name.shard_hash).format()),
        ]
        timeout_s = ANSWER_TIMEOUT_S + self._sent / _SYNC_BYTES_A_SECOND
        answer = await self._node.link.ask(
            b"PUT", self._target, fields, [], timeout_s=timeout_s, again=False
        )
        if answer.status != 200:
            raise self._node.error(answer)
        self._committed = True

    async def abort(self) -> None:
        """See IShardWriter. A server that cannot be told sweeps it by itself."""
        if self._committed or self._aborted:
            return
        self._aborted = True
        self._stop_timer()
        sending, self._sending = self._sending, None
        if sending is not None:
            # Its error was or will be told by another call; here it changes nothing.
            _ = sending.addErrback(lambda _: None)
            sending.cancel()
        try:
            await self._node.link.ask(b"DELETE", self._target, timeout_s=QUICK_TIMEOUT_S)
        except NodeUnavailable as error:
            _log.info("A shard that was given up is left for the sweep: {error}", error=error)
