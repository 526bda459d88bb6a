"""IShardNode over HTTP: a data server, trusted in nothing. See ``docs/data-api.rst``.

What it says of a shard must be what was asked for and add up by the scheme's arithmetic; the blocks
that it sends are verified here once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from dostore.adapters.http_link import QUICK_TIMEOUT_S, HttpLink
from dostore.adapters.node_batch import Lane
from dostore.adapters.node_http_reader import FRAMED, HttpReader, framed_size
from dostore.adapters.node_http_writer import HttpWriter
from dostore.adapters.remote_nodes import IRemoteNode, Take, Tell
from dostore.adapters.temp_http import HttpTemps
from dostore.core.batch import GET, MAX_SHARD_BYTES, NEW, PUT, Question, Reply
from dostore.core.datafields import (
    MAX_GLANCES,
    ShardDigest,
    block_lengths,
    format_glance,
    format_scheme,
    parse_indexes,
    parse_inventory,
    parse_positions,
    parse_scheme,
    parse_size,
    shard_path,
    unframe,
)
from dostore.core.model import Content, ShardInfo
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shardfile import hash_of_shard
from dostore.errors import (
    AlreadyHeld,
    BadShard,
    Conflict,
    DostoreError,
    InvalidRequest,
    NodeUnavailable,
    NoSpace,
    ShardMissing,
)
from dostore.http.exchange import ANSWER_TIMEOUT_S, Answer, Field, Fields
from dostore.ports import IShardReader, IShardWriter

Block = bytes | memoryview

#: A shard up to this comes whole with the answer that tells about it.
INLINE_BYTES = 256 * 1024

#: A shard larger than this is put by way of a temporary one.
MAX_PUT_BYTES = 8 << 20

#: A page of an inventory: half a million contents.
_MAX_INVENTORY_BYTES = 32 << 20

#: Characters of what a server says of an error.
_MAX_DETAIL = 300

#: Keep nothing where anything of the content is.
_NEW: tuple[Field, ...] = ((b"If-None-Match", b"*"),)


@implementer(IRemoteNode)
class HttpNode:
    """A data server as a node.

    :param soon: calls at the end of the reactor's turn, so that small shards that come together
        travel together.
    """

    def __init__(
        self,
        link: HttpLink,
        soon: Callable[[Callable[[], None]], object] = lambda call: call(),
    ) -> None:
        self.address = link.address
        self.link = link
        self.temps = HttpTemps(self)
        self._puts = Lane(link, self.error, soon)
        self._gets = Lane(link, self.error, soon)

    # Writing

    async def begin(self, index: int, scheme: Scheme) -> IShardWriter:
        """See IShardNode."""
        fields = [(b"X-Scheme", format_scheme(scheme))]
        # Nobody would know of a second one.
        answer = await self.link.ask(
            b"POST", b"/temp/-.%d" % index, fields, [], again=False, timeout_s=ANSWER_TIMEOUT_S
        )
        if answer.status != 201:
            raise self.error(answer)
        token = answer.body.decode("latin-1")
        if len(token) > 64 or not token.isalnum() or not token.isascii():
            raise self.nonsense("the name of a temporary shard")
        return HttpWriter(self, token, index, scheme)

    async def put(self, content: Content, index: int, blocks: Sequence[Block]) -> None:
        """See IShardNode."""
        size = _shard_size(content, blocks)
        if size <= MAX_SHARD_BYTES:
            question = Question(PUT, content.hash, index, content, hash_of_shard(blocks))
            reply = await self._puts.ask(question, blocks, size)
            if reply.status != 200:
                raise self._failure(reply)
            return
        if size > MAX_PUT_BYTES:
            await self._put_large(content, index, blocks)
        else:
            await self._put_alone(content, index, blocks)

    async def _put_alone(
        self, content: Content, index: int, blocks: Sequence[Block], more: Sequence[Field] = ()
    ) -> None:
        fields = [
            (b"Size", b"%d" % content.size),
            (b"X-Scheme", format_scheme(content.scheme)),
            (b"Digest", ShardDigest(shard=hash_of_shard(blocks)).format()),
            *more,
        ]
        target = b"/objects/" + shard_path(content.hash, index)
        answer = await self.link.ask(b"PUT", target, fields, blocks)
        if answer.status != 200:
            raise self.error(answer)

    def begin_put(
        self, content: Content, index: int, blocks: Sequence[Block], tell: Tell, only_new: bool
    ) -> Callable[[], None]:
        """See IRemoteNode."""
        size = _shard_size(content, blocks)
        if size > MAX_SHARD_BYTES:
            return self._begin_alone(content, index, blocks, tell, only_new)

        def told(outcome: Reply | Exception) -> None:
            if not isinstance(outcome, Reply):
                tell(outcome)
            elif outcome.status == 200:
                tell(None)
            else:
                tell(self._failure(outcome))

        kind = NEW if only_new else PUT
        question = Question(kind, content.hash, index, content, hash_of_shard(blocks))
        return self._puts.begin(question, blocks, size, told).leave

    def _begin_alone(
        self, content: Content, index: int, blocks: Sequence[Block], tell: Tell, only_new: bool
    ) -> Callable[[], None]:
        """See IRemoteNode, for a shard that does not travel with others."""

        size = content.scheme.shard_size(content.size)

        async def put() -> None:
            if size <= MAX_PUT_BYTES:
                await self._put_alone(content, index, blocks, _NEW if only_new else ())
            elif only_new and await self.holds(content.hash):
                raise AlreadyHeld(f"{self.address} has a shard of this content.")
            else:
                await self._put_large(content, index, blocks)

        def told(failure: Failure | None) -> None:
            if failure is None:
                tell(None)
            elif isinstance(failure.value, Exception):
                tell(failure.value)

        putting = Deferred.fromCoroutine(put())
        _ = putting.addBoth(told)
        return putting.cancel

    async def _put_large(self, content: Content, index: int, blocks: Sequence[Block]) -> None:
        writer = await self.begin(index, content.scheme)
        try:
            step = max(1, INLINE_BYTES // content.scheme.block_size)
            for at in range(0, len(blocks), step):
                await writer.write(blocks[at : at + step])
            await writer.commit(content)
        finally:
            await writer.abort()

    # Reading

    async def open(
        self, content_hash: ContentHash, index: int, size: int | None = None
    ) -> IShardReader:
        """See IShardNode."""
        if size is None or size <= MAX_SHARD_BYTES:
            return await self._open_small(content_hash, index, size or 0)
        fields = [FRAMED, (b"X-Inline", b"%d" % INLINE_BYTES)]
        target = b"/objects/" + shard_path(content_hash, index)
        # Blocks may be small, and then there are many checks.
        answer = await self.link.ask(b"GET", target, fields, limit=2 * INLINE_BYTES)
        if answer.status != 200:
            raise self.error(answer)
        info = self.shard_info(answer.headers, content_hash, index)
        held_back = answer.headers.getRawHeaders(b"x-held-back") == [b"1"]
        whole = None if held_back else answer.body
        if whole is not None and len(whole) != framed_size(info.content):
            raise BadShard(
                f"{self.address} sent {len(whole)} bytes of shard {index}, not"
                f" {framed_size(info.content)}."
            )
        return HttpReader(self, info, whole)

    async def _open_small(self, content_hash: ContentHash, index: int, size: int) -> IShardReader:
        """Open one that may be so small that it comes with the answer."""
        reply = await self._gets.ask(Question(GET, content_hash, index), (), size)
        if reply.status != 200:
            raise self._failure(reply)
        content = reply.content
        if content is None or tuple(reply.indexes) != (index,) or index >= content.scheme.shards:
            raise BadShard(f"{self.address} sent another shard than {index} of {content_hash}.")
        expected = framed_size(content)
        told_only = not reply.data and content.scheme.shard_size(content.size) > 0
        if not told_only and len(reply.data) != expected:
            raise BadShard(
                f"{self.address} sent {len(reply.data)} bytes of shard {index}, not {expected}."
            )
        return HttpReader(self, ShardInfo(content, index), None if told_only else reply.data)

    def begin_get(self, content: Content, index: int, take: Take) -> Callable[[], None]:
        """See IRemoteNode."""

        def told(outcome: Reply | Exception) -> None:
            blocks = None
            if isinstance(outcome, Reply) and (
                (outcome.status, outcome.content, tuple(outcome.indexes))
                == (200, content, (index,))
                and len(outcome.data) == framed_size(content)
            ):
                blocks = _blocks_of(content, outcome.data)
            take(blocks)

        size = content.scheme.shard_size(content.size)
        return self._gets.begin(Question(GET, content.hash, index, content), (), size, told).leave

    def _failure(self, reply: Reply) -> DostoreError:
        """What a reply to an entry of a batch means that is no success."""
        return self._refusal(reply.status, bytes(reply.data).decode("utf-8", "replace"))

    def shard_info(self, headers: Fields, content_hash: ContentHash, index: int) -> ShardInfo:
        """What an answer says of the shard that was asked for.

        :raises BadShard: it is another shard, or impossible.
        """
        told = {
            name: headers.getRawHeaders(name, [])
            for name in (b"x-content", b"x-shard", b"size", b"x-scheme")
        }
        try:
            if any(len(lines) != 1 for lines in told.values()):
                raise InvalidRequest("A field is missing, or there twice.")
            found = ContentHash.parse(told[b"x-content"][0].decode("latin-1"))
            size = parse_size(told[b"size"][0], "Size") or 0
            scheme = parse_scheme(told[b"x-scheme"][0])
            (told_index,) = parse_indexes(told[b"x-shard"][0].decode("latin-1"))
        except (InvalidRequest, ValueError) as error:
            raise BadShard(f"{self.address} sent no shard: {error}") from error
        if (found, told_index) != (content_hash, index) or index >= scheme.shards:
            raise BadShard(f"{self.address} sent another shard than {index} of {content_hash}.")
        return ShardInfo(Content(content_hash, size, scheme), index)

    async def holds(self, content_hash: ContentHash) -> Collection[int]:
        """See IShardNode."""
        answer = await self.link.ask(
            b"HEAD", _of(b"objects", content_hash), timeout_s=QUICK_TIMEOUT_S
        )
        if answer.status == 404:
            return ()
        if answer.status != 200:
            raise self.error(answer)
        try:
            (line,) = answer.headers.getRawHeaders(b"x-shard", [])
            return parse_indexes(line.decode("latin-1"))
        except (InvalidRequest, ValueError) as error:
            raise self.nonsense("the shards that it holds") from error

    # What else a node is asked

    async def renew(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        await self._do(b"POST", _of(b"renew", content_hash))

    async def modified(self, content_hash: ContentHash) -> float:
        """See IShardNode."""
        answer = await self.link.ask(b"GET", _of(b"modified", content_hash))
        if answer.status != 200:
            raise self.error(answer)
        try:
            seconds = float(answer.body)
        except ValueError as error:
            raise self.nonsense("a time") from error
        if not 0 <= seconds < 1e11:
            raise self.nonsense("a time")
        return seconds

    async def glance(self, wanted: Sequence[tuple[Content, int]]) -> Sequence[tuple[Content, int]]:
        """See IShardNode."""
        faulty: list[tuple[Content, int]] = []
        for at in range(0, len(wanted), MAX_GLANCES):
            part = wanted[at : at + MAX_GLANCES]
            answer = await self.link.ask(
                b"POST",
                b"/glance",
                (),
                [format_glance(part)],
                timeout_s=QUICK_TIMEOUT_S,
                limit=MAX_GLANCES * 8,
            )
            if answer.status != 200:
                raise self.error(answer)
            try:
                positions = parse_positions(answer.body, len(part))
            except InvalidRequest as error:
                raise self.nonsense("what is missing") from error
            faulty += [part[position] for position in positions]
        return faulty

    async def discard(self, content_hash: ContentHash, index: int) -> None:
        """See IShardNode."""
        await self._do(b"POST", b"/discard/" + shard_path(content_hash, index))

    async def delete(self, content_hash: ContentHash) -> None:
        """See IShardNode."""
        await self._do(b"DELETE", _of(b"objects", content_hash))

    async def _do(self, method: bytes, target: bytes) -> None:
        answer = await self.link.ask(method, target, (), [] if method == b"POST" else None)
        if answer.status != 204:
            raise self.error(answer)

    async def inventory(self, page: int) -> Mapping[ContentHash, Collection[int]]:
        """See IShardNode."""
        answer = await self.link.ask(b"GET", b"/inventory/%d" % page, limit=_MAX_INVENTORY_BYTES)
        if answer.status != 200:
            raise self.error(answer)
        try:
            return parse_inventory(answer.body, page)
        except InvalidRequest as error:
            raise self.nonsense("an inventory") from error

    # Errors

    def error(self, answer: Answer) -> DostoreError:
        """What an answer that is no success means."""
        return self._refusal(answer.status, _detail(answer))

    def _refusal(self, status: int, detail: str) -> DostoreError:
        detail = detail[:_MAX_DETAIL]
        said = f": {detail}" if detail and detail.isprintable() else "."
        text = f"{self.address} answered {status}{said}"
        kinds: dict[int, type[DostoreError]] = {
            404: ShardMissing,
            409: Conflict,
            410: BadShard,
            412: AlreadyHeld,
            507: NoSpace,
        }
        if status == 401:
            text = (
                f"{self.address} refuses the signature. All servers must have the same secret, and"
                " clocks that agree to half a minute."
            )
        return kinds.get(status, NodeUnavailable)(text)

    def nonsense(self, what: str) -> NodeUnavailable:
        """The server's answer is none that a data server gives."""
        return NodeUnavailable(f"{self.address} sent something else than {what}.")


def _blocks_of(content: Content, framed: Block) -> Sequence[Block] | None:
    """The blocks of a whole shard; None: they do not match their checks."""
    count = content.scheme.stripe_count(content.size)
    with suppress(BadShard):
        return unframe(framed, block_lengths(content, 0, count))
    return None


def _of(kind: bytes, content_hash: ContentHash) -> bytes:
    return b"/%b/%b" % (kind, content_hash.escaped.encode("ascii"))


def _detail(answer: Answer) -> str:
    """What the server says of its error."""
    try:
        detail = json.loads(answer.body)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return detail if isinstance(detail, str) else ""


def _shard_size(content: Content, blocks: Sequence[Block]) -> int:
    """Plain bytes of a shard of a content.

    :raises ValueError: the blocks are none. Sent with others, they would spoil the whole request.
    """
    size = content.scheme.shard_size(content.size)
    if (sum(map(len, blocks)), len(blocks)) != (size, content.scheme.stripe_count(content.size)):
        raise ValueError(f"{len(blocks)} blocks are no shard of {content.size} bytes")
    return size
