"""Several small shards in one request to a data server, over loopback."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dostore.adapters.http_link import HttpLink
from dostore.core.batch import (
    GET,
    MAX_ANSWER_BYTES,
    MAX_BATCH_BYTES,
    MAX_BODY_BYTES,
    MAX_SHARD_BYTES,
    NEW,
    PUT,
    Question,
    Reply,
    format_questions,
    parse_replies,
)
from dostore.core.datafields import ShardDigest, block_lengths, unframe
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ShardFileBuilder
from dostore.http.exchange import Answer
from tests.support.data_server import DataServerCase, the_reactor
from tests.support.faults import FaultyFiles
from tests.support.shards import Sample, sample
from tests.support.stepped import SteppedWorkers


def shard_hash(what: Sample, index: int) -> bytes:
    """The hash that a shard's file is named by."""
    builder = ShardFileBuilder(index, what.content.scheme)
    builder.add(what.shards[index])
    return builder.finish(what.content)[1].shard_hash


def putting(what: Sample, index: int, kind: int = PUT) -> tuple[Question, bytes]:
    """An entry that puts a shard, and its bytes."""
    question = Question(kind, what.content.hash, index, what.content, shard_hash(what, index))
    return question, what.plain(index)


def getting(what: Sample, index: int) -> tuple[Question, bytes]:
    """An entry that asks for a shard."""
    return Question(GET, what.content.hash, index), b""


class BatchTests(DataServerCase):
    """A data server, and batches to it."""

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.files = FaultyFiles()
        self.addCleanup(self.files.lift_all)
        self.workers = SteppedWorkers()
        self.server = self.serve(files=self.files, workers=self.workers)
        self.link: HttpLink = self.client(self.server.address).link

    async def send(self, body: bytes, digest: bytes | None) -> Answer:
        """A batch as it is."""
        fields = [] if digest is None else [(b"Digest", ShardDigest(body=digest).format())]
        return await self.link.ask(
            b"POST", b"/batch", fields, [body], limit=MAX_ANSWER_BYTES, again=False
        )

    async def ask(self, entries: Sequence[tuple[Question, bytes]]) -> list[Reply]:
        """The replies to entries."""
        questions = [question for question, _ in entries]
        listed = format_questions(questions)
        body = b"".join([listed, *(data for _, data in entries)])
        answer = await self.send(body, hashlib.sha256(listed).digest())
        self.assertEqual(answer.status, 200, answer.body)
        return parse_replies(answer.body, questions)

    def plain(self, reply: Reply) -> bytes:
        """The bytes of a shard that was got, verified."""
        content = reply.content
        assert content is not None
        blocks = content.scheme.stripe_count(content.size)
        return b"".join(unframe(reply.data, block_lengths(content, 0, blocks)))

    async def test_expected(self) -> None:
        """Who says what a content should be gets its shards all the same when they are otherwise,
        or damaged, or not there: the answer tells.
        """
        samples = [sample(size, size) for size in (0, 36, 4096, 100_000)]
        await self.ask([putting(what, 1) for what in samples])
        asked = [(Question(GET, what.content.hash, 1, what.content), b"") for what in samples]
        for _ in range(2):
            for what, reply in zip(samples, await self.ask(asked), strict=True):
                self.assertEqual((reply.status, reply.content), (200, what.content))
                self.assertEqual(self.plain(reply), what.plain(1))
        what = samples[2]
        wrong = evolve(what.content, size=what.content.size - 1)
        (reply,) = await self.ask([(Question(GET, what.content.hash, 1, wrong), b"")])
        self.assertEqual((reply.status, reply.content), (200, what.content))
        (reply,) = await self.ask([(Question(GET, what.content.hash, 0, what.content), b"")])
        self.assertEqual(reply.status, 404)
        for path in (self.server.folder / "objects").iterdir():
            path.write_bytes(bytes(path.stat().st_size))
        for reply in await self.ask(asked):
            self.assertEqual(reply.status, 410)

    async def test_put_and_get(self) -> None:
        """Shards of many contents are kept by one request, and come back by another, each whole."""
        samples = [sample(size, seed) for seed, size in enumerate((0, 1, 36, 4096, 100_000))]
        replies = await self.ask([putting(what, seed % 6) for seed, what in enumerate(samples)])
        for seed, reply in enumerate(replies):
            self.assertEqual((reply.status, reply.indexes), (200, (seed % 6,)))
        self.assertEqual(len(self.server.names("objects")), len(samples))
        replies = await self.ask([getting(what, seed % 6) for seed, what in enumerate(samples)])
        for seed, (what, reply) in enumerate(zip(samples, replies, strict=True)):
            self.assertEqual((reply.status, reply.indexes), (200, (seed % 6,)))
            self.assertEqual(reply.content, what.content)
            self.assertEqual(self.plain(reply), what.plain(seed % 6))

    async def test_each_by_itself(self) -> None:
        """What is wrong with one entry is told of it, and changes nothing for the others."""
        here, damaged, good = sample(100, 1), sample(200, 2), sample(300, 3)
        await self.ask([putting(here, 1), putting(damaged, 1)])
        (name,) = [
            n for n in self.server.names("objects") if n.startswith(damaged.content.hash.escaped)
        ]
        path = self.server.folder / "objects" / name
        path.write_bytes(path.read_bytes()[:-1])
        wrong, _ = putting(good, 3)
        replies = await self.ask(
            [
                (wrong, bytes(len(good.plain(3)))),
                putting(here, 2),
                getting(here, 2),
                getting(damaged, 1),
                getting(here, 1),
                putting(good, 4),
            ]
        )
        self.assertEqual([reply.status for reply in replies], [400, 409, 404, 410, 200, 200])
        self.assertEqual(replies[1].indexes, (1,))
        for reply in replies[:4]:
            self.assertTrue(bytes(reply.data).decode().isprintable())
        self.assertEqual(self.plain(replies[4]), here.plain(1))
        self.assertEqual(list(await self.server.node.holds(good.content.hash)), [4])
        self.flushLoggedErrors()

    async def test_a_full_drive(self) -> None:
        """A shard that a full drive did not take is told as such; nothing of any is left."""
        self.files.fail(str(self.server.folder), errno.ENOSPC, operations={"write"})
        replies = await self.ask([putting(sample(100, seed), 1) for seed in range(3)])
        self.assertEqual([reply.status for reply in replies], [507, 503, 503])
        self.assertEqual(self.server.names("objects"), [])

    async def test_new(self) -> None:
        """What is put as new is kept if nothing of its content is here; else what is here is told,
        be it the same shard, another one, or one that can be given back.
        """
        what, other = sample(100, 1), sample(100, 2)
        self.assertEqual([r.status for r in await self.ask([putting(what, 1, NEW)])], [200])
        for index in (1, 2):
            replies = await self.ask([putting(what, index, NEW), putting(other, index, NEW)])
            self.assertEqual((replies[0].status, replies[0].indexes), (412, (1,)))
            self.assertEqual(replies[1].status, 200 if index == 1 else 412)
        await self.server.node.delete(what.content.hash)
        (reply,) = await self.ask([putting(what, 2, NEW)])
        self.assertEqual((reply.status, reply.indexes), (412, (1,)))
        self.assertEqual(len(self.server.names("objects")), 1)

    async def test_new_to_two_at_once(self) -> None:
        """Of two who put the same as new at the same time, one is told that it was not."""
        what = sample(100, 1)
        self.workers.stalled = True
        first: Deferred[list[Reply]] = Deferred.fromCoroutine(self.ask([putting(what, 1, NEW)]))
        while not self.workers.backlog():
            await deferLater(the_reactor, 0.001)
        (second,) = await self.ask([putting(what, 1, NEW)])
        self.assertEqual((second.status, second.indexes), (412, (1,)))
        self.workers.recover()
        self.assertEqual([reply.status for reply in await first], [200])
        replies = await self.ask([putting(sample(100, 2), 1, NEW)] * 2)
        self.assertEqual([reply.status for reply in replies], [200, 412])

    async def test_too_much_to_answer(self) -> None:
        """Shards that are large, or are too many for one answer, are only told of."""
        scheme = Scheme(1, 1)
        count = MAX_BATCH_BYTES // MAX_SHARD_BYTES
        samples = [sample(MAX_SHARD_BYTES, seed, scheme) for seed in range(count + 2)]
        large = sample(MAX_SHARD_BYTES + 1, 99, scheme)
        for what in (large, *samples):
            await self.server.node.put(what.content, 1, what.shards[1])
        replies = await self.ask([getting(what, 1) for what in (large, *samples)])
        self.assertEqual({reply.status for reply in replies}, {200})
        self.assertEqual(replies[0].content, large.content)
        self.assertEqual(
            [bool(reply.data) for reply in replies], [False] + [True] * count + [False] * 2
        )
        self.assertEqual(self.plain(replies[1]), samples[0].plain(1))

    async def test_refused(self) -> None:
        """A batch that is not what was promised of it, or none, is refused as a whole."""
        what = sample(100, 1)
        question, data = putting(what, 1)
        listed = format_questions([question])
        digest = hashlib.sha256(listed).digest()
        for body, promised, status in (
            (listed + data, None, 400),
            (listed + data, hashlib.sha256(listed + data).digest(), 400),
            (listed + data + b"x", digest, 400),
            (listed + data[:-1], digest, 400),
            (listed[:-1], digest, 400),
            (b"", digest, 400),
            (b"<html>", digest, 400),
            (bytes(MAX_BODY_BYTES + 1), digest, 413),
        ):
            answer = await self.send(body, promised)
            self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(self.server.names("objects"), [])
        for method in (b"GET", b"PUT"):
            self.assertEqual((await self.link.ask(method, b"/batch", (), None)).status, 405)

    async def test_a_bug(self) -> None:
        """An entry that fails as nothing should is told of and logged; the others are answered."""
        here = sample(100, 1)
        await self.ask([putting(here, 1)])
        opening = self.server.node.open

        async def fail(content_hash: object, index: int) -> object:
            if index == 5:
                raise ZeroDivisionError
            return await opening(here.content.hash, index)

        self.patch(self.server.node, "open", fail)
        replies = await self.ask([getting(here, 5), getting(here, 1)])
        self.assertEqual([reply.status for reply in replies], [500, 200])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
