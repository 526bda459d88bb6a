"""IShardWriter over HTTP: a shard on its way to a data server. See ``docs/data-api.rst``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zope.interface import implementer

from dostore.adapters.http_link import QUICK_TIMEOUT_S
from dostore.core.datafields import ShardDigest
from dostore.core.model import Content
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ShardFileBuilder
from dostore.errors import NodeUnavailable
from dostore.http.exchange import ANSWER_TIMEOUT_S, Answered, Upload
from dostore.ports import IShardWriter

if TYPE_CHECKING:
    from dostore.adapters.node_http import HttpNode

Block = bytes | memoryview

#: What a commit gets beyond the time for an answer: a disk that syncs at least so many bytes in a
#: second.
_SYNC_BYTES_A_SECOND = 16 << 20


@implementer(IShardWriter)
class HttpWriter:
    """A temporary shard on a data server, written by one streamed request."""

    def __init__(self, node: HttpNode, token: str, index: int, scheme: Scheme) -> None:
        self._node = node
        self._target = b"/temp/" + token.encode("ascii")
        self._builder = ShardFileBuilder(index, scheme)
        self._sent = 0
        self._upload: Upload | None = None
        self._committed = False
        self._aborted = False

    async def write(self, blocks: Sequence[Block]) -> None:
        """See IShardWriter."""
        self._require_open()
        if not blocks:
            return
        if self._upload is None:
            fields = [(b"Upload-Offset", b"0")]
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

    def _require_open(self) -> None:
        if self._aborted:
            raise NodeUnavailable("The write was given up.")

    async def commit(self, content: Content) -> None:
        """See IShardWriter."""
        if self._committed:
            return
        self._require_open()
        _, name = self._builder.finish(content)
        timeout_s = ANSWER_TIMEOUT_S + self._sent / _SYNC_BYTES_A_SECOND
        if self._upload is not None:
            answer = await self._upload.finish(timeout_s)
            if answer.status != 204:
                raise self._node.error(answer)
            if answer.headers.getRawHeaders(b"upload-offset") != [b"%d" % self._sent]:
                raise NodeUnavailable(
                    f"{self._node.address} does not hold the {self._sent} bytes that were sent."
                )
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
        if self._upload is not None:
            self._upload.abandon()
        await self._node.link.ask(b"DELETE", self._target, timeout_s=QUICK_TIMEOUT_S)
