"""ITempShards over HTTP: those of a data server. See ``docs/data-api.rst``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from zope.interface import implementer

from dostore.adapters.http_link import QUICK_TIMEOUT_S
from dostore.core.datafields import (
    ShardDigest,
    format_scheme,
    parse_content_range,
    parse_size,
    shard_path,
)
from dostore.core.model import Content
from dostore.core.scheme import MAX_BLOCK_BYTES, MAX_SHARDS
from dostore.core.shardfile import check_of
from dostore.core.temp_state import MAX_NOTE_BYTES, Tail, TempAbout, TempState, parse_temp_state
from dostore.errors import DostoreError, InvalidRequest, TooLarge
from dostore.http.exchange import ANSWER_TIMEOUT_S, Answer, Field
from dostore.ports import IByteSource, ITempShards

if TYPE_CHECKING:
    from dostore.adapters.node_http import HttpNode

#: Bytes that are appended by one request.
STEP_BYTES = 1 << 20

#: Bytes that are asked for at a time.
READ_BYTES = 1 << 20

#: What was appended may have to be brought to the disk before the answer comes.
SYNC_TIMEOUT_S = 60.0

_MAX_STATE_BYTES = MAX_SHARDS * MAX_BLOCK_BYTES + 2 * MAX_NOTE_BYTES + 4096


@implementer(ITempShards)
class HttpTemps:
    """The temporary shards of a data server."""

    def __init__(self, node: HttpNode) -> None:
        self._node = node
        self._link = node.link

    async def open(self, about: TempAbout, token: str | None = None) -> str:
        """See ITempShards."""
        fields = [
            (b"X-Scheme", format_scheme(about.scheme)),
            (b"Digest", _digest(about.note)),
        ]
        for name, value in ((b"Size", about.size), (b"X-Keep", about.keep_s)):
            if value is not None:
                fields.append((name, b"%d" % value))
        if token is not None:
            fields.append((b"X-Token", token.encode("ascii")))
        path = b"-.%d" % about.index if about.hash is None else shard_path(about.hash, about.index)
        # Without a token of its own nobody would know of a second one.
        answer = await self._link.ask(b"POST", b"/temp/" + path, fields, [about.note], again=False)
        self._expect(answer, 201)
        got = answer.body.decode("latin-1")
        if len(got) != 32 or not got.isalnum() or not got.isascii() or token not in (None, got):
            raise self._node.nonsense("the token of a temporary shard")
        return got

    async def about(self, token: str) -> TempState:
        """See ITempShards."""
        return await self._state(b"GET", b"/state/", token, ())

    async def claim(self, token: str, owner: str) -> TempState:
        """See ITempShards."""
        return await self._state(b"POST", b"/claim/", token, _owned(owner))

    async def _state(
        self, method: bytes, path: bytes, token: str, fields: tuple[Field, ...]
    ) -> TempState:
        answer = await self._link.ask(
            method,
            path + token.encode("ascii", "replace"),
            fields,
            [] if method == b"POST" else None,
            limit=_MAX_STATE_BYTES,
        )
        self._expect(answer, 200)
        try:
            return parse_temp_state(answer.body)
        except InvalidRequest as error:
            raise self._node.nonsense("the state of a temporary shard") from error

    async def release(self, token: str, owner: str) -> None:
        """See ITempShards."""
        await self._do(b"/release/", token, _owned(owner), timeout_s=QUICK_TIMEOUT_S)

    async def append(
        self, token: str, source: IByteSource, offset: int | None, owner: str = ""
    ) -> int:
        """See ITempShards."""
        held: int | None = None
        ended = False
        error: DostoreError | None = None
        while not ended:
            pieces: list[bytes] = []
            missing = STEP_BYTES
            while missing and not ended:
                try:
                    piece = await source.read_some(missing)
                except DostoreError as failure:
                    # What came before it is appended first.
                    ended, error = True, failure
                    break
                ended = not piece
                pieces.append(piece)
                missing -= len(piece)
            if held is None or missing < STEP_BYTES:
                held = offset = await self._patch(token, pieces, offset, owner)
        if error is not None:
            raise error
        return held or 0

    async def _patch(self, token: str, pieces: list[bytes], offset: int | None, owner: str) -> int:
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        # It is part of what is signed.
        fields = [*_owned(owner), (b"Digest", ShardDigest(check=check_of(body)).format())]
        if offset is not None:
            fields.append((b"Upload-Offset", b"%d" % offset))
        answer = await self._link.ask(
            b"PATCH", b"/temp/" + token.encode("ascii", "replace"), fields, [body], again=False
        )
        self._expect(answer, 204)
        try:
            (line,) = answer.headers.getRawHeaders(b"upload-offset", [])
            return parse_size(line, "Upload-Offset") or 0
        except (InvalidRequest, ValueError) as error:
            raise self._node.nonsense("how many bytes it holds") from error

    async def cut(self, token: str, held: int, owner: str = "") -> None:
        """See ITempShards."""
        fields = [*_owned(owner), (b"Upload-Offset", b"%d" % held)]
        await self._do(b"/cut/", token, tuple(fields))

    async def settle(self, token: str, tail: Tail | None, owner: str = "") -> None:
        """See ITempShards."""
        data = b"" if tail is None else tail.data
        fields = [*_owned(owner), (b"Digest", _digest(data))]
        if tail is not None:
            fields.append((b"X-Tail-Start", b"%d" % tail.start))
        await self._do(b"/settle/", token, tuple(fields), data, timeout_s=SYNC_TIMEOUT_S)

    async def _do(
        self,
        path: bytes,
        token: str,
        fields: tuple[Field, ...],
        body: bytes = b"",
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        target = path + token.encode("ascii", "replace")
        answer = await self._link.ask(
            b"POST", target, fields, [body] if body else [], timeout_s=timeout_s
        )
        self._expect(answer, 204)

    async def read(self, token: str, offset: int, size: int) -> bytes:
        """See ITempShards."""
        size = min(size, READ_BYTES)
        if size <= 0:
            return b""
        fields = [(b"Range", b"bytes=%d-%d" % (offset, offset + size - 1))]
        answer = await self._link.ask(
            b"GET", b"/temp/" + token.encode("ascii", "replace"), fields, limit=READ_BYTES
        )
        if answer.status == 416:
            return b""
        self._expect(answer, 206)
        told = parse_content_range((answer.headers.getRawHeaders(b"content-range") or [b""])[0])
        if told is None or told[0] != offset or len(answer.body) != told[1] - told[0] + 1:
            raise self._node.nonsense("the bytes that were asked for")
        return answer.body

    async def commit(
        self, token: str, content: Content, shard_hash: bytes | None, owner: str = ""
    ) -> None:
        """See ITempShards."""
        fields = [
            *_owned(owner),
            (b"X-Content", str(content.hash).encode("ascii")),
            (b"Size", b"%d" % content.size),
        ]
        if shard_hash is not None:
            fields.append((b"Digest", ShardDigest(shard=shard_hash).format()))
        answer = await self._link.ask(
            b"PUT",
            b"/temp/" + token.encode("ascii", "replace"),
            fields,
            [],
            timeout_s=SYNC_TIMEOUT_S,
            again=False,
        )
        self._expect(answer, 200)

    async def drop(self, token: str) -> None:
        """See ITempShards."""
        answer = await self._link.ask(b"DELETE", b"/temp/" + token.encode("ascii", "replace"))
        self._expect(answer, 204)

    def _expect(self, answer: Answer, status: int) -> None:
        if answer.status == status:
            return
        error = self._node.error(answer)
        kinds: dict[int, type[DostoreError]] = {400: InvalidRequest, 413: TooLarge}
        raise kinds.get(answer.status, type(error))(str(error))


def _owned(owner: str) -> tuple[Field, ...]:
    return ((b"X-Owner", owner.encode("ascii")),) if owner else ()


def _digest(data: bytes) -> bytes:
    return ShardDigest(body=hashlib.sha256(data).digest()).format()
