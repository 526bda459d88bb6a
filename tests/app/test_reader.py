"""What a reader remembers, for how long, and what it leaves to the front."""

from __future__ import annotations

import os

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dostore.adapters.files import Files
from dostore.adapters.known_shards import KnownShards
from dostore.adapters.write_table import WriteTable
from dostore.app.reader import RememberedObjects
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shard_places import InFile, format_answer, parse_read
from dostore.core.worker_messages import FORGET, parse_question
from dostore.web.passing import PassOn
from tests.support.cases import SyncTestCase
from tests.support.stepped import SteppedWorkers

EMPTY = Content(ContentHash(b"e" * 32), 0, Scheme(4, 2))
SMALL = Content(ContentHash(b"s" * 32), 100, Scheme(4, 2))


class Front:
    """Notes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        """See worker.Front."""
        self.sent.append(data)


def version(number: int, content: Content | None = EMPTY, **meta: str) -> Version:
    """A version of ``a``."""
    return Version("a", number, content, "2026-01-02T03:04:05.678Z", "text/plain", meta)


class RememberedObjectsTests(SyncTestCase):
    """A reader without a process."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.front = Front()
        self.table = WriteTable()
        self.addCleanup(os.close, self.table.descriptor)
        self.clock = Clock()
        folder = self.mktemp()
        os.makedirs(os.path.join(folder, "objects"))
        self.objects = RememberedObjects(
            self.front,
            WriteTable(self.table.descriptor),
            KnownShards([folder], Files(), 16),
            SteppedWorkers(),
            self.clock,
        )

    def find(self, number: int | None = None) -> Deferred[Version]:
        """Ask for ``a``."""
        return Deferred.fromCoroutine(self.objects.find("a", number))

    def answer(self, told: Version | None) -> None:
        """Answer the last question."""
        _, _, question = parse_question(self.front.sent[-1])
        self.objects.receive(format_answer(question, told, ()))

    def test_asked_once(self) -> None:
        """What was told of a name is remembered as long as nothing is written to it."""
        found = self.find()
        self.assertNoResult(found)
        self.assertEqual(parse_question(self.front.sent[0])[:2], ("a", 0))
        self.answer(version(3))
        self.assertEqual(self.successResultOf(found), version(3))
        self.assertEqual(self.successResultOf(self.find()), version(3))
        self.assertEqual(len(self.front.sent), 1)

    def test_asked_again_after_a_write(self) -> None:
        """From the moment that a write begins, what was told of the name before counts no more."""
        found = self.find()
        self.answer(version(3))
        self.successResultOf(found)
        slots = self.table.begin(["a"])
        found = self.find()
        self.assertNoResult(found)
        self.answer(version(3))
        self.assertEqual(self.successResultOf(found).number, 3)
        # What is told while versions are made is not remembered at all.
        found = self.find()
        self.assertNoResult(found)
        self.table.end(slots)
        self.answer(version(4))
        self.successResultOf(found)
        found = self.find()
        self.answer(version(4))
        self.successResultOf(found)
        self.assertEqual(self.successResultOf(self.find()).number, 4)

    def test_a_write_while_it_is_asked(self) -> None:
        """An answer that a write may have overtaken serves the one who asked, and nobody else."""
        found = self.find()
        self.table.end(self.table.begin(["a"]))
        self.answer(version(3))
        self.assertEqual(self.successResultOf(found).number, 3)
        self.assertNoResult(self.find())

    def test_numbers_do_not_change(self) -> None:
        """A version that was asked for by its number is remembered whatever is written."""
        found = self.find(2)
        self.assertEqual(parse_question(self.front.sent[0])[:2], ("a", 2))
        self.answer(version(2))
        self.successResultOf(found)
        self.table.begin(["a"])
        self.assertEqual(self.successResultOf(self.find(2)).number, 2)

    def test_what_is_not_there(self) -> None:
        """It is for the front to say so, and so are tombstones."""
        for told in (None, version(4, None)):
            found = self.find()
            self.answer(told)
            self.failureResultOf(found, PassOn)
        self.assertNoResult(self.find())

    def test_large_keys(self) -> None:
        """Versions with much of their own are asked for each time."""
        found = self.find()
        self.answer(version(1, EMPTY, key="x" * 2000))
        self.successResultOf(found)
        self.assertNoResult(self.find())

    def test_a_client_that_went_away(self) -> None:
        """An answer that nobody waits for any more is no trouble."""
        found = self.find()
        found.cancel()
        self.failureResultOf(found)
        self.answer(version(3))

    def test_what_cannot_be_read(self) -> None:
        """It is for the front to read, and what was told of it is forgotten."""
        found = self.find()
        self.answer(version(1, SMALL))
        here = self.successResultOf(found)
        self.assertIsNone(self.objects.read_now(here))
        self.failureResultOf(Deferred.fromCoroutine(self.objects.fetch(here)), PassOn)
        self.failureResultOf(Deferred.fromCoroutine(self.objects.open(here)), PassOn)
        self.assertNoResult(self.find())
        self.assertIsNone(self.objects.read_now(version(9, SMALL)))
        self.assertEqual(self.objects.reads, 0)

    def test_nothing_to_read(self) -> None:
        """An empty content takes no shard."""
        found = self.find()
        self.answer(version(1))
        self.assertEqual(self.objects.read_now(self.successResultOf(found)), b"")
        self.assertEqual(self.objects.reads, 1)

    def test_what_was_read_is_told(self) -> None:
        """The front hears of it together, so that it can look at the other shards."""
        for number in range(100):
            self.objects._note(Content(ContentHash(b"%032d" % number), 100, Scheme(4, 2)), 0, 100)
        self.assertEqual(self.front.sent, [])
        self.clock.advance(0.1)
        (message,) = self.front.sent
        read = parse_read(message)
        self.assertEqual(len(read), 64)
        self.assertEqual(set(read.values()), {range(4)})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_messages(self) -> None:
        """Files are let go when that is said; what is no message is refused."""
        self.objects.receive(FORGET)
        with self.assertRaises(ValueError):
            self.objects.receive(b"?")

    def test_another_drive(self) -> None:
        """A place on a drive that the store does not have is no answer."""
        found = self.find()
        _, _, question = parse_question(self.front.sent[-1])
        places = [InFile(7, 0, b"h" * 32)]
        with self.assertRaises(ValueError):
            self.objects.receive(format_answer(question, version(1, SMALL), places))
        self.assertNoResult(found)
