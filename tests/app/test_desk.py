"""What readers are told, and what the front makes of what they tell."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters.write_table import slot_of
from dostore.app.desk import Desk
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shard_places import InFile, ShardPlace, format_read, parse_answer
from dostore.core.worker_messages import FORGET, format_question
from dostore.errors import MetadataUnavailable
from tests.support.cases import SyncTestCase

CONTENT = Content(ContentHash(b"c" * 32), 100, Scheme(4, 2))
PLACES: list[ShardPlace] = [InFile(3, 0, b"h" * 32)]


def version(number: int, content: Content | None = CONTENT, **meta: str) -> Version:
    """A version of ``a``."""
    return Version("a", number, content, "2026-01-02T03:04:05.678Z", "text/plain", meta)


class Reader:
    """Notes what it is sent.

    :ivar packets: its life.
    """

    def __init__(self) -> None:
        self.packets: object = object()
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        """See supervisor.Worker."""
        self.sent.append(data)


class Parts:
    """Drives, metadata and store, as far as a desk uses them."""

    def __init__(self) -> None:
        self.live = [True, True]
        self.found: Version | None = version(4)
        self.error: Exception | None = None
        self.gate: Deferred[None] | None = None
        self.glanced: list[tuple[Content, range]] = []
        self.begin: Any = None
        self.repairer = self

    def members(self) -> list[Any]:
        """See DriveSet."""
        return [type("Member", (), {"live": live}) for live in self.live]

    def places(self, content: Content) -> list[ShardPlace]:
        """See DriveSet."""
        return PLACES

    async def latest(self, name: str) -> Version | None:
        """See SqliteMetadata."""
        return await self.get(name, 0)

    async def get(self, name: str, number: int) -> Version | None:
        """See SqliteMetadata."""
        if self.gate is not None:
            await self.gate
        if self.error is not None:
            raise self.error
        return self.found

    def watch_writes(self, begin: Any) -> None:
        """See SqliteMetadata."""
        self.begin = begin

    def glance_soon(self, content: Content, verified: range) -> None:
        """See Repairer."""
        self.glanced.append((content, verified))


class DeskTests(SyncTestCase):
    """A desk with one reader."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.clock = Clock()
        self.desk = Desk(self.clock)
        self.addCleanup(os.close, self.desk.table.descriptor)
        parts: Any = Parts
        self.parts = parts()
        reader: Any = Reader
        self.reader = reader()
        self.desk.workers = lambda: [self.reader]
        self.desk.begin(self.parts, self.parts, self.parts)
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.desk.stop())))

    def ask(self, number: int = 0) -> None:
        """Have the reader ask for ``a``."""
        self.desk.receive(self.reader, format_question("a", number, 7))

    def test_where_it_is(self) -> None:
        """A version and the places of its shards, of the newest and of a number."""
        for number in (0, 4):
            self.ask(number)
            self.assertEqual(parse_answer(self.reader.sent.pop()), (7, version(4), PLACES))

    def test_nothing_to_read(self) -> None:
        """Of what is not there, deleted, too large to be told or out of reach there is nothing."""
        for found in (None, version(4, None), version(4, key="x" * 200_000)):
            self.parts.found = found
            self.ask()
            self.assertEqual(parse_answer(self.reader.sent.pop()), (7, None, []))
        self.parts.error = MetadataUnavailable("The drive hangs.")
        self.ask()
        self.assertEqual(parse_answer(self.reader.sent.pop()), (7, None, []))

    def test_before_the_store_is_there(self) -> None:
        """It is answered too."""
        desk = Desk(self.clock)
        desk.receive(self.reader, format_question("a", 0, 7))
        desk.receive(self.reader, format_read({CONTENT: range(4)}))
        os.close(desk.table.descriptor)
        self.assertEqual(parse_answer(self.reader.sent.pop()), (7, None, []))

    def test_an_empty_content(self) -> None:
        """It has no shards to look for."""
        empty = Content(ContentHash(b"e" * 32), 0, Scheme(4, 2))
        self.parts.found = version(4, empty)
        self.ask()
        self.assertEqual(parse_answer(self.reader.sent.pop()), (7, version(4, empty), []))

    def test_an_answer_that_takes_its_time(self) -> None:
        """It comes when it is there; but not to another process that came in the asker's place."""
        for again in (False, True):
            self.parts.gate = Deferred()
            self.ask()
            self.assertEqual(self.reader.sent, [])
            if again:
                self.reader.packets = object()
            self.parts.gate.callback(None)
            self.assertEqual(len(self.reader.sent), 0 if again else 1)
            self.reader.sent.clear()

    def test_a_failure(self) -> None:
        """One that nobody foresaw is logged, and there is nothing to read."""
        self.parts.error = RuntimeError("a mistake")
        for at_once in (True, False):
            self.parts.gate = None if at_once else Deferred()
            self.ask()
            if not at_once:
                self.parts.gate.callback(None)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
            self.assertEqual(parse_answer(self.reader.sent.pop()), (7, None, []))

    def test_writes(self) -> None:
        """The counter of a name is odd while it is written."""
        slot = slot_of("a")
        end = self.parts.begin(["a"])
        self.assertEqual(self.desk.table.count(slot), 1)
        end()
        self.assertEqual(self.desk.table.count(slot), 2)

    def test_what_was_read(self) -> None:
        """It is glanced at, as what the front has read."""
        self.desk.receive(self.reader, format_read({CONTENT: range(1, 3)}))
        self.assertEqual(self.parts.glanced, [(CONTENT, range(1, 3))])

    def test_drives_that_go(self) -> None:
        """Readers let go of all files, so that the drive can be taken out."""
        self.clock.advance(2.0)
        self.assertEqual(self.reader.sent, [])
        self.parts.live = [True, False]
        self.clock.advance(2.0)
        self.clock.advance(2.0)
        self.assertEqual(self.reader.sent, [FORGET])

    def test_no_such_message(self) -> None:
        """What is no message is refused."""
        with self.assertRaises(ValueError):
            self.desk.receive(self.reader, b"?")
