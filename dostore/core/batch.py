"""Several requests for shards of one data server in one, and their answers. See
``docs/data-api.rst``.

::

    list   = head, a record for each entry                 all numbers little-endian
    head   = magic "DSBQ" (asked) or "DSBA" (answered), version, 0 (1 byte each), count (2 bytes)
    body   = list, then the bytes that belong to the entries, one after the other

Either side parses what the other formats, and trusts none of it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from functools import lru_cache

from attrs import frozen

from dostore.core.model import Content
from dostore.core.names import HASH_BYTES, ContentHash
from dostore.core.scheme import MAX_SHARDS, Scheme
from dostore.errors import InvalidRequest

#: Entries of one batch.
MAX_ENTRIES = 64

#: A shard up to this may be put or got in a batch.
MAX_SHARD_BYTES = 256 * 1024

#: The bytes of all shards that are put by one batch, and of all that come with its answer.
MAX_BATCH_BYTES = 1 << 20

#: What an answer tells of an error.
MAX_TEXT_BYTES = 1024

#: What is asked: to keep a shard; to keep it if nothing of its content is there; for a shard.
PUT, NEW, GET = 1, 2, 3

_VERSION = 1
_ASKED, _ANSWERED = b"DSBQ", b"DSBA"

_HEAD = struct.Struct("<4sBxH")
#: kind, index, k, m, block size, content size, content hash, shard hash
_QUESTION = struct.Struct("<BBBBIQ32s32s")
#: status, k, m, block size, shards (a bit for each), content size, bytes that follow, content hash
_ANSWER = struct.Struct("<HBBIIQI32s")

_NO_HASH = bytes(HASH_BYTES)
_MAX_SIZE = 2**63 - 1

MAX_LIST_BYTES = _HEAD.size + MAX_ENTRIES * _QUESTION.size

#: The most that the body of a batch, or of its answer, can have.
MAX_BODY_BYTES = MAX_LIST_BYTES + MAX_BATCH_BYTES
MAX_ANSWER_BYTES = _HEAD.size + MAX_ENTRIES * (_ANSWER.size + MAX_TEXT_BYTES) + 2 * MAX_BATCH_BYTES


@frozen(slots=True)
class Question:
    """One entry of a batch.

    :ivar kind: PUT, NEW or GET.
    :ivar index: of the shard.
    :ivar content: what is put belongs to; what is got is expected to, None when that is not known.
    :ivar shard_hash: of what is put, as its file's name has it; empty for a GET.
    """

    kind: int
    hash: ContentHash
    index: int
    content: Content | None = None
    shard_hash: bytes = b""

    @property
    def length(self) -> int:
        """How many bytes belong to it."""
        if self.kind == GET or self.content is None:
            return 0
        return self.content.scheme.shard_size(self.content.size)


@frozen(slots=True)
class Reply:
    """The answer to one entry.

    :ivar status: as that of an answer to a request of its own.
    :ivar indexes: of shards that are there: which one is sent, or stands in the way.
    :ivar content: what a shard that is sent says that it belongs to.
    :ivar data: its blocks, each after its check; nothing when it is too large. Of an error, text.
    """

    status: int
    hash: ContentHash
    indexes: Collection[int] = ()
    content: Content | None = None
    data: bytes | memoryview = b""


@lru_cache(64)
def _scheme(k: int, m: int, block_size: int) -> Scheme:
    return Scheme(k, m, block_size)


@lru_cache(1024)
def _indexes(shards: int) -> tuple[int, ...]:
    return tuple(index for index in range(MAX_SHARDS) if shards >> index & 1)


def _numbers(content: Content | None) -> tuple[int, int, int, int]:
    """k, m, block size and size of a content; zeros for none."""
    if content is None:
        return 0, 0, 0, 0
    scheme = content.scheme
    return scheme.k, scheme.m, scheme.block_size, content.size


def format_questions(questions: Sequence[Question]) -> bytes:
    """The list of what is asked."""
    records = [_HEAD.pack(_ASKED, _VERSION, len(questions))]
    for question in questions:
        k, m, block_size, size = _numbers(question.content)
        records.append(
            _QUESTION.pack(
                question.kind,
                question.index,
                k,
                m,
                block_size,
                size,
                question.hash.digest,
                question.shard_hash or _NO_HASH,
            )
        )
    return b"".join(records)


def list_size(body: bytes) -> int:
    """How many bytes of a batch's body are its list.

    :raises InvalidRequest: it is no batch, or has too many entries.
    """
    if len(body) < _HEAD.size:
        raise InvalidRequest("A batch begins with 8 bytes.")
    magic, version, count = _HEAD.unpack_from(body)
    if (magic, version) != (_ASKED, _VERSION):
        raise InvalidRequest(f"A batch begins with DSBQ and its version, which is {_VERSION}.")
    if not 0 < count <= MAX_ENTRIES:
        raise InvalidRequest(f"A batch has 1 to {MAX_ENTRIES} entries.")
    size = _HEAD.size + int(count) * _QUESTION.size
    if len(body) < size:
        raise InvalidRequest("A batch has fewer entries than it says.")
    return size


def parse_questions(body: bytes) -> list[Question]:
    """Read what :func:`format_questions` made, at the beginning of a body.

    :raises InvalidRequest: it was not, or the rest of the body is not what belongs to the entries.
    """
    size = list_size(body)
    records = memoryview(body)[_HEAD.size : size]
    questions = [_question(*fields) for fields in _QUESTION.iter_unpack(records)]
    length = sum(question.length for question in questions)
    if length > MAX_BATCH_BYTES or len(body) != size + length:
        raise InvalidRequest("A batch has other bytes than belong to its entries.")
    return questions


def _question(
    kind: int,
    index: int,
    k: int,
    m: int,
    block_size: int,
    size: int,
    content_hash: bytes,
    shard_hash: bytes,
) -> Question:
    asked = ContentHash(content_hash)
    if kind in (PUT, NEW) or (k and kind == GET and shard_hash == _NO_HASH):
        try:
            scheme = _scheme(k, m, block_size)
        except ValueError as error:
            raise InvalidRequest("An entry of a batch has a scheme that cannot be.") from error
        if index >= scheme.shards or size > _MAX_SIZE or scheme.shard_size(size) > MAX_SHARD_BYTES:
            raise InvalidRequest(
                f"An entry of a batch has an index that its scheme has not, or more than"
                f" {MAX_SHARD_BYTES} bytes."
            )
        content = Content(asked, size, scheme)
        return Question(kind, asked, index, content, b"" if kind == GET else shard_hash)
    unused = k or m or block_size or size or shard_hash != _NO_HASH
    if unused or kind != GET or index >= MAX_SHARDS:
        raise InvalidRequest("An entry of a batch is of no kind that there is.")
    return Question(kind, asked, index)


def format_replies(replies: Sequence[Reply]) -> list[bytes | memoryview]:
    """The body that answers a batch, in pieces."""
    records = [_HEAD.pack(_ANSWERED, _VERSION, len(replies))]
    for reply in replies:
        k, m, block_size, size = _numbers(reply.content)
        shards = sum(1 << index for index in reply.indexes)
        records.append(
            _ANSWER.pack(
                reply.status, k, m, block_size, shards, size, len(reply.data), reply.hash.digest
            )
        )
    return [b"".join(records), *(reply.data for reply in replies if reply.data)]


def parse_replies(body: bytes, questions: Sequence[Question]) -> list[Reply]:
    """Read what :func:`format_replies` made in answer to ``questions``.

    What a reply says of a content is not compared with anything.

    :raises InvalidRequest: it was not, or answers something else.
    """
    at = _HEAD.size + len(questions) * _ANSWER.size
    head = body[: _HEAD.size]
    if head != _HEAD.pack(_ANSWERED, _VERSION, len(questions)) or len(body) < at:
        raise InvalidRequest("The answer to a batch has not one record for each entry.")
    view = memoryview(body)
    replies: list[Reply] = []
    for question, fields in zip(questions, _ANSWER.iter_unpack(view[_HEAD.size : at]), strict=True):
        status, k, m, block_size, shards, size, length, content_hash = fields
        data = view[at : at + length]
        if content_hash != question.hash.digest or len(data) != length:
            raise InvalidRequest("The answer to a batch answers another, or is not whole.")
        at += length
        content: Content | None = None
        if k:
            try:
                content = Content(question.hash, size, _scheme(k, m, block_size))
            except ValueError as error:
                raise InvalidRequest("A reply has a scheme that cannot be.") from error
        replies.append(Reply(status, question.hash, _indexes(shards), content, data))
    if at != len(body):
        raise InvalidRequest("The answer to a batch is longer than its entries.")
    return replies
