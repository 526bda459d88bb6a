"""IShardReader over HTTP: a shard of a data server, opened. See ``docs/data-api.rst``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import DeferredLock
from zope.interface import implementer

from dostore.core.datafields import block_lengths, parse_content_range, shard_path, unframe
from dostore.core.model import Content, ShardInfo
from dostore.core.shardfile import CHECK_BYTES
from dostore.errors import BadShard, NodeUnavailable, ShardMissing
from dostore.http.body import AnswerBody, Broken
from dostore.http.exchange import Answer, Field, Fields
from dostore.ports import IShardReader

if TYPE_CHECKING:
    from dostore.adapters.node_http import HttpNode

Block = bytes | memoryview

FRAMED: Field = (b"X-Framed", b"1")


def framed_size(content: Content) -> int:
    """Bytes of a shard of a content with its blocks' checks between them."""
    scheme = content.scheme
    return scheme.shard_size(content.size) + CHECK_BYTES * scheme.stripe_count(content.size)


@implementer(IShardReader)
class HttpReader:
    """A shard of a data server.

    The first read asks for just what it wants. One that goes on where that one ended is taken for
    the second of many: from there on the shard comes as one stream, and each read waits for its
    part of it.

    :param whole: all of the shard, with checks, when it came with the answer.
    """

    def __init__(self, node: HttpNode, info: ShardInfo, whole: Block | None) -> None:
        self.info = info
        self._node = node
        self._whole = whole
        self._lock = DeferredLock()
        self._body: AnswerBody | None = None
        self._next = self._end = -1
        self._blocks = info.content.scheme.stripe_count(info.content.size)
        self._closed = False

    async def read(self, first: int, count: int) -> bytes:
        """See IShardReader."""
        if self._closed:
            raise NodeUnavailable("The shard was closed.")
        if first + count > self._blocks:
            raise BadShard(f"The shard has no block {first + count - 1}.")
        if not count:
            return b""
        lengths = block_lengths(self.info.content, first, count)
        size = sum(lengths) + CHECK_BYTES * count
        if self._whole is not None:
            scheme = self.info.content.scheme
            at = first * (scheme.block_size + CHECK_BYTES)
            return b"".join(unframe(memoryview(self._whole)[at : at + size], lengths))
        await self._lock.acquire()
        try:
            data = await self._take(first, count, size)
            self._next = first + count
        finally:
            self._lock.release()
        return b"".join(unframe(data, lengths))

    async def _take(self, first: int, count: int, size: int) -> bytes:
        """The bytes of some blocks, with their checks."""
        body = self._body
        if body is not None and first == self._next and first + count <= self._end:
            try:
                return await body.read(size)
            except Broken:
                # The server may have been restarted, or have cut a stream that nobody read.
                self._node.link.trouble()
            except NodeUnavailable:
                self._node.link.trouble()
                raise
        self._abandon()
        until = self._blocks if first == self._next else first + count
        body = self._body = await self._fetch(first, until)
        self._end = until
        try:
            return await body.read(size)
        except NodeUnavailable:
            self._node.link.trouble()
            self._abandon()
            raise

    async def _fetch(self, first: int, until: int) -> AnswerBody:
        """The stream of the blocks from ``first`` up to ``until``."""
        content, index = self.info.content, self.info.index
        scheme = content.scheme
        start = first * scheme.block_size
        end = min(until * scheme.block_size, scheme.shard_size(content.size))
        fields = [FRAMED, (b"Range", b"bytes=%d-%d" % (start, end - 1))]
        target = b"/objects/" + shard_path(content.hash, index)
        answer = await self._node.link.stream(b"GET", target, fields)
        try:
            if answer.status != 206:
                await self._refuse(answer.status, answer.headers, answer.body)
            info = self._node.shard_info(answer.headers, content.hash, index)
            told = parse_content_range((answer.headers.getRawHeaders(b"content-range") or [b""])[0])
            length = end - start + CHECK_BYTES * (until - first)
            if (info, told, answer.length) != (
                self.info,
                (start, end - 1, scheme.shard_size(content.size)),
                length,
            ):
                raise BadShard(f"{self._node.address} sent another part of shard {index}.")
        except BaseException:
            answer.body.abandon()
            raise
        return answer.body

    async def _refuse(self, status: int, headers: Fields, body: AnswerBody) -> None:
        """Raise for an answer that is no part of the shard."""
        error = self._node.error(Answer(status, headers, b""))
        if isinstance(error, ShardMissing):
            # It was there when it was opened: its node has put it away since.
            error = BadShard(f"{self._node.address} has no shard {self.info.index} any more.")
        raise error

    def _abandon(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.abandon()

    async def close(self) -> None:
        """See IShardReader."""
        self._closed = True
        self._whole = None
        self._abandon()
