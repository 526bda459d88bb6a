"""``/temp/`` and what belongs to it: shards that are written over several requests."""

from __future__ import annotations

import hashlib
import re

from zope.interface import implementer

from dostore.core.datafields import (
    ShardDigest,
    format_scheme,
    parse_range,
    parse_scheme,
    parse_shard_path,
    parse_size,
)
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MAX_BLOCK_BYTES, MAX_SHARDS
from dostore.core.shardfile import check_of
from dostore.core.temp_state import (
    MAX_NOTE_BYTES,
    Tail,
    TempAbout,
    TempState,
    format_temp_state,
)
from dostore.errors import (
    BadShard,
    InvalidRequest,
    LengthRequired,
    RangeNotSatisfiable,
    ShardMissing,
    TooLarge,
)
from dostore.ports import IByteSource, IShardNode, ITempShards
from dostore.web.data.claims import Claims, ShardConflict
from dostore.web.data.shards import STEP_BYTES, answer_conflict
from dostore.web.problem import CONTENT_TYPE, problem
from dostore.web.request import Header, Request
from dostore.web.resource import Resource

#: A tail is shorter than a stripe of the largest scheme.
_MAX_TAIL_BYTES = MAX_SHARDS * MAX_BLOCK_BYTES

#: Of a body that is checked before a byte of it is appended.
MAX_CHECKED_BYTES = 8 << 20

_OWNER = re.compile("[0-9a-f]{32}")


class Temp:
    """The temporary shards of one node."""

    def __init__(self, node: IShardNode, temp: ITempShards, claims: Claims) -> None:
        self._node = node
        self._temp = temp
        self._claims = claims
        self.claiming = Resource("claim", {b"POST": self.claim})
        self.releasing = Resource("release", {b"POST": self.release})
        self.cutting = Resource("cut", {b"POST": self.cut})
        self.settling = Resource("settle", {b"POST": self.settle})
        self.states = Resource("state", {b"GET": self.state})
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
        wanted = request.field(b"x-token")
        keep_s = parse_size(request.field(b"x-keep"), "X-Keep")
        note = await _whole_body(request, MAX_NOTE_BYTES)
        about = TempAbout(index, scheme, content_hash, size, note, keep_s)
        token = await self._temp.open(about, None if wanted is None else _token(wanted))
        location = (b"Location", b"/temp/" + token.encode())
        request.respond(201, [(b"Content-Type", b"text/plain"), location], token.encode())

    async def append(self, request: Request, rest: bytes) -> None:
        """``PATCH /temp/<uuid>``."""
        offset = parse_size(request.field(b"upload-offset"), "Upload-Offset")
        if request.body_length is None and not request.chunked:
            raise LengthRequired("Send Content-Length, or the body in chunks.")
        source: IByteSource = request.body
        if ShardDigest.parse(request.field(b"digest")).check is not None:
            # Not a byte of it counts before all of it was found right.
            source = _Whole(await _whole_body(request, MAX_CHECKED_BYTES))
        held = await self._temp.append(_token(rest), source, offset, _owner(request))
        request.respond(204, [_offset(held)])

    async def get(self, request: Request, rest: bytes) -> None:
        """``GET`` and ``HEAD /temp/<uuid>``: what is held, or a range of it."""
        token = _token(rest)
        state = await self._temp.about(token)
        held, about = state.held, state.about
        headers = [
            (b"Content-Type", b"application/octet-stream"),
            _offset(held),
            (b"X-Shard", b"%d" % about.index),
            (b"X-Scheme", format_scheme(about.scheme)),
        ]
        try:
            asked = parse_range(request.field(b"range"), held)
        except ValueError as error:
            raise RangeNotSatisfiable(f"{held} bytes are held.", size=held) from error
        at, left = asked or (0, held)
        if asked is not None:
            headers.append((b"Content-Range", b"bytes %d-%d/%d" % (at, at + left - 1, held)))
        # What is damaged is known before the answer begins, unless there is more than one step.
        first = b""
        if left and request.method == b"GET":
            try:
                first = await self._temp.read(token, at, min(STEP_BYTES, left))
            except BadShard as error:
                request.respond(410, [CONTENT_TYPE], problem(410, error.title, error.detail))
                return
        sink = request.begin(200 if asked is None else 206, headers, left)
        piece = first
        while left and request.method == b"GET":
            piece = piece or await self._temp.read(token, at, min(STEP_BYTES, left))
            if not piece:
                raise ShardMissing("The temporary shard went away while it was read.")
            await sink.write([piece])
            at += len(piece)
            left -= len(piece)
            piece = b""
        request.finish()

    async def state(self, request: Request, rest: bytes) -> None:
        """``GET /state/<uuid>``: all that is known of it."""
        self._respond_state(request, await self._temp.about(_token(rest)))

    async def claim(self, request: Request, rest: bytes) -> None:
        """``POST /claim/<uuid>``."""
        self._respond_state(request, await self._temp.claim(_token(rest), _owner(request)))

    @staticmethod
    def _respond_state(request: Request, state: TempState) -> None:
        headers = [(b"Content-Type", b"application/octet-stream"), _offset(state.held)]
        request.respond(200, headers, format_temp_state(state))

    async def release(self, request: Request, rest: bytes) -> None:
        """``POST /release/<uuid>``."""
        await self._temp.release(_token(rest), _owner(request))
        request.respond(204, [])

    async def cut(self, request: Request, rest: bytes) -> None:
        """``POST /cut/<uuid>``."""
        held = parse_size(request.field(b"upload-offset"), "Upload-Offset")
        if held is None:
            raise InvalidRequest("Say in Upload-Offset how many bytes are to stay.")
        await self._temp.cut(_token(rest), held, _owner(request))
        request.respond(204, [_offset(held)])

    async def settle(self, request: Request, rest: bytes) -> None:
        """``POST /settle/<uuid>``: the body is the tail."""
        start = parse_size(request.field(b"x-tail-start"), "X-Tail-Start")
        data = await _whole_body(request, _MAX_TAIL_BYTES)
        if start is None and data:
            raise InvalidRequest("Say in X-Tail-Start where in the content the body belongs.")
        tail = None if start is None else Tail(start, data)
        await self._temp.settle(_token(rest), tail, _owner(request))
        request.respond(204, [])

    async def commit(self, request: Request, rest: bytes) -> None:
        """``PUT /temp/<uuid>``."""
        token = _token(rest)
        about = (await self._temp.about(token)).about
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
                if about.keep_s is None and await self._is_here(content, about.index):
                    await self._temp.drop(token)
                else:
                    await self._temp.commit(token, content, digest.shard, _owner(request))
        except ShardConflict as error:
            if about.keep_s is None:
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


@implementer(IByteSource)
class _Whole:
    """A body that is here."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        taken, self._body = self._body[:size], self._body[size:]
        return bytes(taken)

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        return await self.read(size)


def _token(rest: bytes) -> str:
    return rest.decode("latin-1")


def _owner(request: Request) -> str:
    owner = (request.field(b"x-owner") or b"").decode("latin-1")
    if owner and not _OWNER.fullmatch(owner):
        raise InvalidRequest("X-Owner is 32 hexadecimal digits.")
    return owner


async def _whole_body(request: Request, limit: int) -> bytes:
    """All of a body, which must be what its Digest says, if there is one."""
    if (request.body_length or 0) > limit:
        raise TooLarge(f"The body has at most {limit} bytes here.")
    request.body.limit = limit
    # A byte more than is taken shows that there are more.
    body = await request.body.read(limit + 1)
    digest = ShardDigest.parse(request.field(b"digest"))
    if digest.body is not None and hashlib.sha256(body).digest() != digest.body:
        raise InvalidRequest("The body's SHA-256 is not that of the Digest field.")
    if digest.check is not None and check_of(body) != digest.check:
        raise InvalidRequest("The body's check is not that of the Digest field.")
    return body


def _offset(held: int) -> Header:
    return (b"Upload-Offset", b"%d" % held)
