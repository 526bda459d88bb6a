"""``/batch``: several small shards in one request, each with an answer of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.core.batch import (
    GET,
    MAX_BATCH_BYTES,
    MAX_BODY_BYTES,
    MAX_SHARD_BYTES,
    MAX_TEXT_BYTES,
    NEW,
    Question,
    Reply,
    format_replies,
    list_size,
    parse_questions,
)
from dostore.core.datafields import ShardDigest, block_lengths, frame
from dostore.core.model import Content
from dostore.errors import (
    BadShard,
    DostoreError,
    IncompleteBody,
    InvalidRequest,
    LengthRequired,
    TooLarge,
)
from dostore.fanout import Outcome, gather
from dostore.ports import IShardNode
from dostore.web.data.claims import Claims, ShardConflict, ShardsHere
from dostore.web.data.shards import check_digest
from dostore.web.request import Request
from dostore.web.resource import Resource

WholeNow = Callable[[Content, int], bytes | memoryview | None]

_log = Logger()

_BYTES = (b"Content-Type", b"application/octet-stream")

#: To put an answer of up to this together costs less than to send it in pieces.
_JOINED_BYTES = 64 * 1024

_FAILED = b"The server failed. Its log says why."


class Batch:
    """Batches to one node.

    :param whole_now: the bytes of a whole shard, verified, of that content and no other; None when
        they cannot be had without a wait.
    """

    def __init__(self, node: IShardNode, claims: Claims, whole_now: WholeNow) -> None:
        self._node = node
        self._claims = claims
        self._whole_now = whole_now
        self.resource = Resource("batch", {b"POST": self.post})

    async def post(self, request: Request, rest: bytes) -> None:
        """``POST /batch``."""
        body = await _body_of(request)
        questions = parse_questions(body)
        at = list_size(body)
        view = memoryview(body)
        room = _Room()
        tasks = []
        for question in questions:
            if question.kind == GET:
                tasks.append(self._get(question, room))
            else:
                tasks.append(self._put(question, view[at : at + question.length]))
                at += question.length
        outcomes = await gather(tasks)
        replies = [_reply(*pair) for pair in zip(questions, outcomes, strict=True)]
        pieces = format_replies(replies)
        size = sum(map(len, pieces))
        if size <= _JOINED_BYTES:
            request.respond(200, [_BYTES], b"".join(pieces))
        else:
            await request.begin(200, [_BYTES], size).write(pieces)
            request.finish()

    async def _put(self, question: Question, data: memoryview) -> Reply:
        content, index = question.content, question.index
        assert content is not None, "what is put belongs to a content"
        only_new = question.kind == NEW
        async with self._claims.claim(question.hash, index, only_new=only_new):
            step = content.scheme.block_size
            blocks = [data[at : at + step] for at in range(0, len(data), step)]
            # This costs less than the hop to a thread.
            check_digest(ShardDigest(shard=question.shard_hash), content, index, blocks)
            await self._node.put(content, index, blocks)
        return Reply(200, question.hash, (index,))

    async def _get(self, question: Question, room: _Room) -> Reply:
        content = question.content
        if content is not None and room.has(content):
            plain = self._whole_now(content, question.index)
            if plain is not None:
                room.take(content)
                return Reply(
                    200, question.hash, (question.index,), content, _framed(content, plain)
                )
        reader = await self._node.open(question.hash, question.index)
        try:
            content, data = reader.info.content, b""
            if room.take(content):
                plain = await reader.read(0, content.scheme.stripe_count(content.size))
                data = _framed(content, plain)
        finally:
            await reader.close()
        return Reply(200, question.hash, (question.index,), content, data)


class _Room:
    """What an answer has room for."""

    def __init__(self) -> None:
        self._left = MAX_BATCH_BYTES

    def has(self, content: Content) -> bool:
        """Whether there is room for a shard."""
        return content.scheme.shard_size(content.size) <= min(self._left, MAX_SHARD_BYTES)

    def take(self, content: Content) -> bool:
        """Whether there is room for a shard, which has it then."""
        if not self.has(content):
            return False
        self._left -= content.scheme.shard_size(content.size)
        return True


def _framed(content: Content, plain: bytes | memoryview) -> bytes:
    """The blocks of a whole shard, each after its check."""
    lengths = block_lengths(content, 0, content.scheme.stripe_count(content.size))
    return b"".join(frame(plain, lengths))


async def _body_of(request: Request) -> bytes:
    """The body of a batch, whose list is what was promised of it."""
    if request.body_length is None:
        raise LengthRequired("Send Content-Length.")
    if request.body_length > MAX_BODY_BYTES:
        raise TooLarge(f"A batch has at most {MAX_BODY_BYTES} bytes.")
    digest = ShardDigest.parse(request.field(b"digest")).body
    if digest is None:
        raise InvalidRequest("Send the SHA-256 of the batch's list in the field Digest.")
    body = await request.body.read(request.body_length)
    if len(body) < request.body_length:
        raise IncompleteBody("The body is shorter than its length.")
    if hashlib.sha256(memoryview(body)[: list_size(body)]).digest() != digest:
        raise InvalidRequest("The SHA-256 of the batch's list is not that of the Digest field.")
    return body


def _reply(question: Question, outcome: Outcome[Reply]) -> Reply:
    """What became of one entry; what went wrong with it is no other's affair."""
    error = outcome.error
    if error is None:
        return outcome.value
    if isinstance(error, ShardConflict):
        return Reply(error.status, question.hash, (error.index,), None, _text(error))
    if isinstance(error, ShardsHere):
        return Reply(412, question.hash, error.indexes, None, _text(error))
    if isinstance(error, BadShard):
        # Not 404: a shard that goes bad is told from one that was never here.
        return Reply(410, question.hash, (), None, _text(error))
    if isinstance(error, DostoreError):
        return Reply(error.status, question.hash, (), None, _text(error))
    _log.failure("An entry of a batch failed", Failure(error))
    return Reply(500, question.hash, (), None, _FAILED)


def _text(error: DostoreError) -> bytes:
    return error.detail.encode("utf-8", "replace")[:MAX_TEXT_BYTES]
