"""Several requests for shards in one: read as they were written, or refused."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.batch import (
    GET,
    MAX_ANSWER_BYTES,
    MAX_BATCH_BYTES,
    MAX_BODY_BYTES,
    MAX_ENTRIES,
    MAX_SHARD_BYTES,
    NEW,
    PUT,
    Question,
    Reply,
    format_questions,
    format_replies,
    list_size,
    parse_questions,
    parse_replies,
)
from dostore.core.model import Content
from dostore.core.names import ContentHash
from dostore.core.scheme import MAX_SHARDS, Scheme
from dostore.errors import InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, digests, prove, schemes

HASH = ContentHash(hashlib.sha256(b"x").digest())
indexes = st.integers(0, MAX_SHARDS - 1)
HEAD_BYTES, QUESTION_BYTES, ANSWER_BYTES = 8, 80, 56


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Any entry that may be asked."""
    kind = draw(st.sampled_from([PUT, NEW, GET]))
    content_hash = draw(content_hashes)
    if kind == GET and draw(st.booleans()):
        return Question(kind, content_hash, draw(indexes))
    scheme = draw(schemes())
    size = draw(st.integers(0, min(4096, scheme.k * MAX_SHARD_BYTES)))
    index = draw(st.integers(0, scheme.shards - 1))
    shard_hash = b"" if kind == GET else draw(digests)
    return Question(kind, content_hash, index, Content(content_hash, size, scheme), shard_hash)


@st.composite
def answered(draw: st.DrawFn) -> tuple[Question, Reply]:
    """A question and any reply to it."""
    question = draw(questions())
    content = draw(st.none() | st.builds(Content, st.just(question.hash), sizes, schemes()))
    held = tuple(sorted(draw(st.sets(indexes, max_size=MAX_SHARDS))))
    status = draw(st.integers(200, 599))
    return question, Reply(status, question.hash, held, content, draw(st.binary(max_size=40)))


sizes = st.integers(0, 2**63 - 1)


class QuestionTests(SyncTestCase):
    """What is asked."""

    @prove
    @given(st.lists(questions(), min_size=1, max_size=5))
    def test_round_trip(self, asked: list[Question]) -> None:
        """What is written is read, when the bytes that belong to it follow."""
        listed = format_questions(asked)
        body = listed + bytes(sum(question.length for question in asked))
        self.assertEqual(list_size(body), len(listed))
        self.assertEqual(parse_questions(body), asked)
        self.assertLessEqual(len(body), MAX_BODY_BYTES)

    @prove
    @given(st.lists(questions(), min_size=1, max_size=3), st.integers(1, 100))
    def test_other_bytes(self, asked: list[Question], count: int) -> None:
        """A body that is longer or shorter than its entries is refused."""
        body = format_questions(asked) + bytes(sum(question.length for question in asked))
        self.assertRaises(InvalidRequest, parse_questions, body + bytes(count))
        self.assertRaises(InvalidRequest, parse_questions, body[:-count])

    @prove
    @given(st.binary(max_size=400))
    def test_garbage(self, body: bytes) -> None:
        """Anything else is refused by our own error."""
        self.assertRaises(InvalidRequest, parse_questions, body)
        for start in (b"DSBQ\x01\x00\x01\x00", b"DSBQ\x01\x00\x02\x00"):
            try:
                parse_questions(start + body)
            except InvalidRequest:
                continue
            self.assertEqual(len(body) % QUESTION_BYTES, 0)

    def test_refused(self) -> None:
        """Another magic or version, no entry or too many."""
        one = format_questions([Question(GET, HASH, 1)])
        parse_questions(one)
        for body in (
            b"DSBA" + one[4:],
            one[:4] + b"\x02" + one[5:],
            one[:6] + b"\x00\x00" + one[8:],
            one[:6] + b"\xff\xff" + one[8:],
            format_questions([]),
            format_questions([Question(GET, HASH, 0)] * (MAX_ENTRIES + 1)),
        ):
            self.assertRaises(InvalidRequest, parse_questions, body)

    def test_refused_entries(self) -> None:
        """Kinds, indexes and schemes that there are not, shards too large, fields without use."""
        content = Content(HASH, 10, Scheme())
        put = format_questions([Question(PUT, HASH, 5, content, HASH.digest)])
        parse_questions(put + bytes(3))
        kind, index, k, m, block = 8, 9, 10, 11, 14
        size, shard_hash = 16, 56
        for at, value in (
            (kind, 0),
            (kind, 4),
            (kind, GET),
            (index, 6),
            (k, 0),
            (k, 31),
            (m, 32),
            (block, 0),
            (size + 7, 0x80),
            (size + 5, 1),
        ):
            body = bytearray(put + bytes(3))
            body[at] = value
            self.assertRaises(InvalidRequest, parse_questions, bytes(body))
        for asked, at, value in (
            (Question(GET, HASH, 1), index, MAX_SHARDS),
            (Question(GET, HASH, 1), k, 4),
            (Question(GET, HASH, 1), m, 2),
            (Question(GET, HASH, 1), block, 1),
            (Question(GET, HASH, 1), size, 1),
            (Question(GET, HASH, 1), shard_hash, 1),
        ):
            body = bytearray(format_questions([asked]))
            body[at] = value
            self.assertRaises(InvalidRequest, parse_questions, bytes(body))

    def test_too_large(self) -> None:
        """A shard that is too large, and shards that are so together."""
        one = Content(HASH, 4 * MAX_SHARD_BYTES, Scheme())
        entry = Question(PUT, HASH, 1, one, HASH.digest)
        count = MAX_BATCH_BYTES // MAX_SHARD_BYTES
        parse_questions(format_questions([entry] * count) + bytes(MAX_BATCH_BYTES))
        body = format_questions([entry] * (count + 1)) + bytes(MAX_BATCH_BYTES + MAX_SHARD_BYTES)
        self.assertRaises(InvalidRequest, parse_questions, body)
        larger = Question(PUT, HASH, 1, Content(HASH, one.size + 1, Scheme()), HASH.digest)
        body = format_questions([larger]) + bytes(larger.length)
        self.assertRaises(InvalidRequest, parse_questions, body)


class ReplyTests(SyncTestCase):
    """What is answered."""

    @prove
    @given(st.lists(answered(), min_size=1, max_size=5))
    def test_round_trip(self, pairs: list[tuple[Question, Reply]]) -> None:
        """What is written is read."""
        asked, replies = [list(each) for each in zip(*pairs, strict=True)]
        body = b"".join(format_replies(replies))
        self.assertEqual(parse_replies(body, asked), replies)
        self.assertLessEqual(len(body), MAX_ANSWER_BYTES)

    @prove
    @given(st.binary(max_size=300), st.integers(1, 3))
    def test_garbage(self, body: bytes, count: int) -> None:
        """Anything else is refused by our own error."""
        asked = [Question(GET, HASH, 0)] * count
        for start in (b"", b"DSBA\x01\x00\x01\x00", b"DSBA\x01\x00\x02\x00"):
            self.assertRaises(InvalidRequest, parse_replies, start + body, asked)

    def test_refused(self) -> None:
        """Another number of replies, another content, other bytes, a scheme that cannot be."""
        asked = [Question(GET, HASH, 1), Question(GET, HASH, 0)]
        content = Content(HASH, 10, Scheme())
        replies = [Reply(200, HASH, (1,), content, b"abc"), Reply(404, HASH)]
        body = b"".join(format_replies(replies))
        self.assertEqual(parse_replies(body, asked), replies)
        other = Question(GET, ContentHash(hashlib.sha256(b"y").digest()), 0)
        for wrong, questions_asked in (
            (body, asked[:1]),
            (body, [*asked, other]),
            (body, [asked[0], other]),
            (body + b"x", asked),
            (body[:-1], asked),
            (body[:20], asked),
            (b"", asked),
        ):
            self.assertRaises(InvalidRequest, parse_replies, wrong, questions_asked)
        k, length = HEAD_BYTES + 2, HEAD_BYTES + 20
        for at, value in ((k, 33), (k, 31), (length, 4), (length + 3, 255)):
            changed = bytearray(body)
            changed[at] = value
            self.assertRaises(InvalidRequest, parse_replies, bytes(changed), asked)

    def test_sizes(self) -> None:
        """The records have the sizes that the documentation tells."""
        self.assertEqual(
            len(format_questions([Question(GET, HASH, 0)])), HEAD_BYTES + QUESTION_BYTES
        )
        self.assertEqual(len(format_replies([Reply(404, HASH)])[0]), HEAD_BYTES + ANSWER_BYTES)
