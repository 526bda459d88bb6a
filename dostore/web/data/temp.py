"""``/temp/``: shards that are written over several requests."""

from __future__ import annotations

from dostore.core.datafields import (
    ShardDigest,
    format_scheme,
    parse_scheme,
    parse_shard_path,
    parse_size,
)
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.errors import BadShard, InvalidRequest, LengthRequired, ShardMissing
from dostore.ports import IShardNode, ITempShards, TempAbout
from dostore.web.data.claims import Claims, ShardConflict
from dostore.web.data.shards import STEP_BYTES, answer_conflict
from dostore.web.request import Header, Request
from dostore.web.resource import Resource


class Temp:
    """The temporary shards of one node."""

    def __init__(self, node: IShardNode, temp: ITempShards, claims: Claims) -> None:
        self._node = node
        self._temp = temp
        self._claims = claims
        self.resource = Resource(
            "temp",
            {
                b"POST": self.open,
                b"PATCH": self.append,
                b"GET": self.get,
                b"HEAD": self.get,
                b"PUT": self.commit,
                b"DELETE": self.drop,
            },
        )

    async def open(self, request: Request, rest: bytes) -> None:
        """``POST /temp/<hash>.<i>``."""
        content_hash, index = parse_shard_path(rest)
        size = parse_size(request.field(b"size"), "Size")
        scheme = parse_scheme(request.field(b"x-scheme"))
        if index is None or index >= scheme.shards:
            raise InvalidRequest(
                f"Put a dot and the shard's index, from 0 to {scheme.shards - 1}, after the hash."
            )
        if content_hash is not None:
            try:
                await self._claims.require_free(content_hash, index)
            except ShardConflict as error:
                answer_conflict(request, error)
                return
        token = await self._temp.open(TempAbout(index, scheme, content_hash, size))
        location = (b"Location", b"/temp/" + token.encode())
        request.respond(201, [(b"Content-Type", b"text/plain"), location], token.encode())

    async def append(self, request: Request, rest: bytes) -> None:
        """``PATCH /temp/<uuid>``."""
        offset = parse_size(request.field(b"upload-offset"), "Upload-Offset")
        if request.body_length is None and not request.chunked:
            raise LengthRequired("Send Content-Length, or the body in chunks.")
        held = await self._temp.append(_token(rest), request.body, offset)
        request.respond(204, [_offset(held)])

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET`` and ``HEAD /temp/<uuid>``: what is held."""
        token = _token(rest)
        about, held = await self._temp.about(token)
        headers = [
            (b"Content-Type", b"application/octet-stream"),
            _offset(held),
            (b"X-Shard", b"%d" % about.index),
            (b"X-Scheme", format_scheme(about.scheme)),
        ]
        sink = request.begin(200, headers, held)
        sent = 0
        while sent < held and request.method == b"GET":
            piece = await self._temp.read(token, sent, min(STEP_BYTES, held - sent))
            if not piece:
                raise ShardMissing("The temporary shard went away while it was read.")
            await sink.write([piece])
            sent += len(piece)
        request.finish()

    async def commit(self, request: Request, rest: bytes) -> None:
        """``PUT /temp/<uuid>``."""
        token = _token(rest)
        about, _ = await self._temp.about(token)
        size = parse_size(request.field(b"size"), "Size")
        named = request.field(b"x-content")
        content_hash = about.hash if named is None else ContentHash.parse(named.decode("latin-1"))
        size = about.size if size is None else size
        if content_hash is None or size is None:
            raise InvalidRequest(
                "Send the content's hash in X-Content and its size in Size: the shard was begun"
                " without them."
            )
        content = Content(content_hash, size, about.scheme)
        digest = ShardDigest.parse(request.field(b"digest"))
        try:
            async with self._claims.claim(content_hash, about.index):
                if await self._is_here(content, about.index):
                    await self._temp.drop(token)
                else:
                    await self._temp.commit(token, content, digest.shard)
        except ShardConflict as error:
            await self._temp.drop(token)
            answer_conflict(request, error)
            return
        request.respond(200, [(b"X-Shard", b"%d" % about.index)])

    async def _is_here(self, content: Content, index: int) -> bool:
        try:
            reader = await self._node.open(content.hash, index)
        except (ShardMissing, BadShard):
            return False
        await reader.close()
        return reader.info.content == content

    async def drop(self, request: Request, rest: bytes) -> None:
        """``DELETE /temp/<uuid>``."""
        await self._temp.drop(_token(rest))
        request.respond(204, [])


def _token(rest: bytes) -> str:
    return rest.decode("latin-1")


def _offset(held: int) -> Header:
    return (b"Upload-Offset", b"%d" % held)
