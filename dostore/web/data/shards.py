"""``/objects/``: shards by their content's hash and their index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dostore.core.datafields import (
    ShardDigest,
    block_lengths,
    format_indexes,
    format_scheme,
    frame,
    parse_range,
    parse_scheme,
    parse_shard_path,
    parse_size,
)
from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash
from dostore.core.shardfile import CHECK_BYTES, hash_of_shard
from dostore.errors import (
    BadShard,
    IncompleteBody,
    InvalidRequest,
    LengthRequired,
    ShardMissing,
    TooLarge,
)
from dostore.fanout import gather
from dostore.ports import IShardNode, IShardReader, IWorkers
from dostore.web.data.claims import Claims, ShardConflict, ShardsHere
from dostore.web.problem import CONTENT_TYPE, problem
from dostore.web.request import Header, Request
from dostore.web.resource import Resource

#: The largest shard that is taken in one request; a larger one is written by way of /temp/.
MAX_PUT_BYTES = 8 << 20

#: Bytes of a shard that are read, verified and sent at a time.
STEP_BYTES = 256 * 1024

#: The same of one of which more than LARGE_BYTES are sent: each step is a hop to a thread and back.
LARGE_STEP_BYTES = 1 << 20
LARGE_BYTES = 4 << 20

#: Up to this, a SHA-256 costs less than the hop to a thread.
INLINE_BYTES = 64 * 1024

_BYTES = (b"Content-Type", b"application/octet-stream")


class Shards:
    """The shards of one node.

    :param workers: threads for hashing.
    """

    def __init__(self, node: IShardNode, claims: Claims, workers: IWorkers) -> None:
        self._node = node
        self._claims = claims
        self._workers = workers
        self.resource = Resource(
            "objects",
            {b"GET": self.get, b"HEAD": self.get, b"PUT": self.put, b"DELETE": self.delete},
        )

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET`` and ``HEAD /objects/<hash>[.<i>]``."""
        content_hash, index = _require_hash(rest)
        held = await self._node.holds(content_hash)
        if not held:
            raise ShardMissing("There is no shard of this content here.")
        if index is None:
            if request.method == b"HEAD":
                headers = [(b"X-Shard", format_indexes(held).encode())]
                request.respond(200, headers)
                return
            index = min(held)
        elif index not in held:
            raise ShardMissing("This shard is not here, but another one of its content is.")
        try:
            reader = await self._node.open(content_hash, index)
        except BadShard:
            _answer_damaged(request)
            return
        try:
            await self._send(request, reader)
        finally:
            await reader.close()

    async def _send(self, request: Request, reader: IShardReader) -> None:
        info = reader.info
        size = info.content.scheme.shard_size(info.content.size)
        headers = _describe(info)
        span = None
        inline = parse_size(request.field(b"x-inline"), "X-Inline")
        if inline is not None and size > inline and request.method == b"GET":
            # Who asks so wants to know what it is first, and then parts of it.
            request.respond(200, [*headers, (b"X-Held-Back", b"1")])
            return
        if request.method == b"GET":
            try:
                span = parse_range(request.field(b"range"), size)
            except ValueError:
                headers.append((b"Content-Range", b"bytes */%d" % size))
                request.respond(416, [CONTENT_TYPE, *headers], _out_of_range(size))
                return
        first, length = span or (0, size)
        status = 200
        if span is not None:
            status = 206
            headers.append(
                (b"Content-Range", b"bytes %d-%d/%d" % (first, first + length - 1, size))
            )
        framed = request.field(b"x-framed") == b"1"
        if framed:
            headers.append((b"X-Framed", b"1"))
        await _Transfer(request, reader, first, length, framed).run(status, headers)

    async def put(self, request: Request, rest: bytes) -> None:
        """``PUT /objects/<hash>.<i>``: a whole small shard."""
        content_hash, index = _require_hash(rest)
        if index is None:
            raise InvalidRequest("Put a dot and the shard's index after the hash.")
        digest = ShardDigest.parse(request.field(b"digest"))
        size = parse_size(request.field(b"size"), "Size")
        scheme = parse_scheme(request.field(b"x-scheme"))
        only_new = request.field(b"if-none-match") == b"*"
        if size is None:
            raise InvalidRequest("Send the size of the whole content in the field Size.")
        if index >= scheme.shards:
            raise InvalidRequest(f"There are only {scheme.shards} shards by this scheme.")
        content = Content(content_hash, size, scheme)
        if request.body_length is None and scheme.shard_size(size):
            raise LengthRequired("Send Content-Length.")
        length = request.body_length or 0
        if length > MAX_PUT_BYTES:
            raise TooLarge(f"At most {MAX_PUT_BYTES} bytes go in one request. Use /temp/.")
        if length != scheme.shard_size(size):
            raise InvalidRequest(
                f"A shard of a content of {size} bytes has {scheme.shard_size(size)} bytes, not"
                f" {length}."
            )
        try:
            async with self._claims.claim(content_hash, index, only_new=only_new):
                body = await request.body.read(length) if length else b""
                if len(body) < length:
                    raise IncompleteBody("The body is shorter than its length.")
                view, step = memoryview(body), scheme.block_size
                blocks = [view[at : at + step] for at in range(0, length, step)]
                if length <= INLINE_BYTES:
                    check_digest(digest, content, index, blocks)
                else:
                    await self._workers.run(check_digest, digest, content, index, blocks)
                await self._node.put(content, index, blocks)
        except ShardConflict as error:
            answer_conflict(request, error)
            return
        except ShardsHere as error:
            headers = [CONTENT_TYPE, (b"X-Shard", format_indexes(error.indexes).encode())]
            request.respond(412, headers, problem(412, error.title, error.detail))
            return
        request.respond(200, [(b"X-Shard", b"%d" % index)])

    async def delete(self, request: Request, rest: bytes) -> None:
        """``DELETE /objects/<hash>``."""
        content_hash, index = _require_hash(rest)
        if index is not None:
            raise InvalidRequest(
                "All shards of a content are deleted together. Name the hash only."
            )
        await self._node.delete(content_hash)
        request.respond(204, [])


def _require_hash(rest: bytes) -> tuple[ContentHash, int | None]:
    content_hash, index = parse_shard_path(rest)
    if content_hash is None:
        raise InvalidRequest("Name the content by its hash.")
    return content_hash, index


def _describe(info: ShardInfo) -> list[Header]:
    return [
        _BYTES,
        (b"X-Shard", b"%d" % info.index),
        (b"X-Content", str(info.content.hash).encode()),
        (b"Size", b"%d" % info.content.size),
        (b"X-Scheme", format_scheme(info.content.scheme)),
    ]


def check_digest(
    digest: ShardDigest, content: Content, index: int, blocks: Sequence[memoryview]
) -> None:
    """Compare a shard with what was promised of it. Blocks, when there is much."""
    if digest.body is not None:
        hasher = hashlib.sha256()
        for block in blocks:
            hasher.update(block)
        if hasher.digest() != digest.body:
            raise InvalidRequest("The body's SHA-256 is not that of the Digest field.")
    if digest.shard is not None and hash_of_shard(blocks) != digest.shard:
        raise InvalidRequest("The shard's hash is not that of the Digest field.")


def _out_of_range(size: int) -> bytes:
    return problem(416, "Range not satisfiable", f"The shard has {size} bytes.")


def _answer_damaged(request: Request) -> None:
    """Not 404: a shard that goes bad is told from one that was never here."""
    detail = "The shard was damaged; it was put out of the way. Make it again from others."
    request.respond(410, [CONTENT_TYPE], problem(410, "Bad shard", detail))


def answer_conflict(request: Request, error: ShardConflict) -> None:
    """Say which shard is here instead."""
    headers = [CONTENT_TYPE, (b"X-Shard", b"%d" % error.index)]
    request.respond(error.status, headers, problem(error.status, error.title, error.detail))


class _Transfer:
    """Bytes of a shard on their way to a client, every block verified before it is sent."""

    def __init__(
        self, request: Request, reader: IShardReader, first: int, length: int, framed: bool
    ) -> None:
        content = reader.info.content
        block_size = content.scheme.block_size
        self._request = request
        self._reader = reader
        self._content = content
        self._framed = framed
        self._block = first // block_size
        self._blocks = -(-(first + length) // block_size) - self._block if length else 0
        self._skip = first - self._block * block_size
        self._left = length
        if framed:
            blocks = block_lengths(content, self._block, self._blocks)
            if self._skip or sum(blocks) != length:
                raise InvalidRequest("With X-Framed, a range begins and ends where blocks do.")
        self._total = length + (self._blocks * CHECK_BYTES if framed else 0)
        step = LARGE_STEP_BYTES if length > LARGE_BYTES else STEP_BYTES
        self._step = max(1, step // block_size)

    async def run(self, status: int, headers: Sequence[Header]) -> None:
        """Send all of it."""
        request = self._request
        if request.method == b"HEAD":
            request.begin(status, headers, self._total)
            request.finish()
            return
        try:
            pieces = await self._next()
        except BadShard:
            _answer_damaged(request)
            return
        if not self._blocks:
            request.respond(status, headers, b"".join(pieces))
            return
        sink = request.begin(status, headers, self._total)
        while pieces:
            # One step is read while the one before is on its way.
            sent, following = await gather([sink.write(pieces), self._next()])
            if sent.error is not None:
                raise sent.error
            pieces = following.value or []
        request.finish()

    async def _next(self) -> list[bytes | memoryview]:
        """The next bytes to send; none at the end."""
        count = min(self._step, self._blocks)
        if not count:
            return []
        data = await self._reader.read(self._block, count)
        if self._framed:
            pieces = frame(data, block_lengths(self._content, self._block, count))
        else:
            pieces = [memoryview(data)[self._skip :][: self._left]]
            self._skip = 0
            self._left -= len(pieces[0])
        self._block += count
        self._blocks -= count
        return pieces
