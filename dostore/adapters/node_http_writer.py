"""IShardWriter over HTTP: a shard on its way to a data server. See ``docs/data-api.rst``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.http_link import QUICK_TIMEOUT_S
from dostore.core.datafields import ShardDigest
from dostore.core.model import Content
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ShardFileBuilder
from dostore.errors import DostoreError, NodeUnavailable
from dostore.http.exchange import ANSWER_TIMEOUT_S, Answered, Upload
from dostore.ports import IShardWriter

if TYPE_CHECKING:
    from dostore.adapters.node_http import HttpNode

_log = Logger()

Block = bytes | memoryview

#: What a commit gets beyond the time for an answer: a disk that syncs at least so many bytes in a
#: second.
_SYNC_BYTES_A_SECOND = 16 << 20

#: A client that has sent nothing to pass on for so long ends the request, well before the data
#: server takes the silence for a broken one.
PAUSE_AFTER_S = 15.0

#: From then on the data server is told so often that the shard is not abandoned. It removes what
#: nobody has touched for half an hour.
TOUCH_S = 300.0


@implementer(IShardWriter)
class HttpWriter:
    """A temporary shard on a data server, written by a streamed request, or by several when the
    client takes long: none stays open while there is nothing to send.
    """

    def __init__(self, node: HttpNode, token: str, index: int, scheme: Scheme) -> None:
        self._node = node
        self._target = b"/temp/" + token.encode("ascii")
        self._builder = ShardFileBuilder(index, scheme)
        self._sent = 0
        self._upload: Upload | None = None
        self._timer: IDelayedCall | None = None
        self._resting: Deferred[None] | None = None
        self._error: DostoreError | None = None
        self._committed = False
        self._aborted = False

    async def write(self, blocks: Sequence[Block]) -> None:
        """See IShardWriter."""
        self._require_open()
        if not blocks:
            return
        await self._wake()
        if self._upload is None:
            fields = [(b"Upload-Offset", b"%d" % self._sent)]
            self._upload = self._node.link.upload(b"PATCH", self._target, fields)
        self._builder.add(blocks)
        self._sent += sum(map(len, blocks))
        try:
            await self._upload.write(blocks)
        except Answered as early:
            raise self._node.error(early.answer) from None
        except NodeUnavailable:
            self._node.link.trouble()
            raise
        self._rest_in(PAUSE_AFTER_S)

    # While there is nothing to send

    def _rest_in(self, seconds: float) -> None:
        if not self._aborted:
            self._timer = self._node.link.clock.callLater(seconds, self._rest)

    def _rest(self) -> None:
        self._timer = None
        self._resting = Deferred.fromCoroutine(self._keep_alive())

    async def _keep_alive(self) -> None:
        """End the request under way, or have the shard spared for not being abandoned."""
        try:
            if self._upload is not None:
                await self._end_upload(ANSWER_TIMEOUT_S)
            else:
                await self._node.link.ask(b"HEAD", self._target, timeout_s=QUICK_TIMEOUT_S)
        except DostoreError as error:
            if self._upload is not None:
                self._error = error
                return
            _log.info("A shard that is being written was not touched: {error}", error=error)
        self._rest_in(TOUCH_S)

    async def _wake(self) -> None:
        """There is something to send again.

        :raises NodeUnavailable: what was sent before is lost.
        """
        resting, self._resting = self._resting, None
        if resting is not None:
            await resting
        self._stop_timer()
        self._require_open()
        if self._error is not None:
            raise self._error

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    async def _end_upload(self, timeout_s: float) -> None:
        assert self._upload is not None, "there is one"
        answer = await self._upload.finish(timeout_s)
        if answer.status != 204:
            raise self._node.error(answer)
        if answer.headers.getRawHeaders(b"upload-offset") != [b"%d" % self._sent]:
            raise NodeUnavailable(
                f"{self._node.address} does not hold the {self._sent} bytes that were sent."
            )
        self._upload = None

    # The end

    def _require_open(self) -> None:
        if self._aborted:
            raise NodeUnavailable("The write was given up.")

    async def commit(self, content: Content) -> None:
        """See IShardWriter."""
        if self._committed:
            return
        self._require_open()
        await self._wake()
        _, name = self._builder.finish(content)
        timeout_s = ANSWER_TIMEOUT_S + self._sent / _SYNC_BYTES_A_SECOND
        if self._upload is not None:
            await self._end_upload(timeout_s)
        fields = [
            (b"X-Content", str(content.hash).encode("ascii")),
            (b"Size", b"%d" % content.size),
            (b"Digest", ShardDigest(shard=name.shard_hash).format()),
        ]
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
        resting, self._resting = self._resting, None
        if resting is not None:
            _ = resting.addErrback(lambda failure: failure.trap(CancelledError) and None)
            resting.cancel()
        if self._upload is not None:
            self._upload.abandon()
        await self._node.link.ask(b"DELETE", self._target, timeout_s=QUICK_TIMEOUT_S)
