"""Messages between processes, over a real pair of sockets and a reactor that the test turns."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from dostore.packets import MAX_BYTES, Packets, pair
from tests.support.cases import SyncTestCase


class Selecting:
    """Who wants to read and to write."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        """See IReactorFDSet."""
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        """See IReactorFDSet."""
        self.readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        """See IReactorFDSet."""
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        """See IReactorFDSet."""
        self.writers.discard(writer)


class PacketsTests(SyncTestCase):
    """Two ends in one process."""

    def setUp(self) -> None:
        """Join them."""
        super().setUp()
        self.reactor = Selecting()
        one, other = pair()
        self.received: list[tuple[bytes, int | None]] = []
        self.gone: list[str] = []
        self.one = Packets(one, self.reactor, self._receive, lambda: self.gone.append("one"))
        self.other = Packets(other, self.reactor, self._receive, lambda: self.gone.append("other"))
        self.addCleanup(self.one.close)
        self.addCleanup(self.other.close)

    def _receive(self, data: bytes, descriptor: int | None) -> None:
        self.received.append((data, descriptor))

    def test_messages(self) -> None:
        """Each arrives whole, in order, the largest too."""
        messages = [b"a", b"b" * MAX_BYTES, b"c"]
        for message in messages:
            self.one.send(message)
        self.other.doRead()
        self.assertEqual(self.received, [(message, None) for message in messages])

    def test_a_descriptor(self) -> None:
        """A file goes with its message, and the receiver's descriptor is not inherited."""
        ours, theirs = os.pipe()
        self.one.send(b"pipe", theirs)
        os.close(theirs)
        self.other.doRead()
        ((data, descriptor),) = self.received
        assert descriptor is not None
        self.assertEqual(data, b"pipe")
        self.assertFalse(os.get_inheritable(descriptor))
        os.write(descriptor, b"x")
        os.close(descriptor)
        self.assertEqual(os.read(ours, 2), b"x")
        os.close(ours)

    def test_an_end_that_does_not_read(self) -> None:
        """What the kernel does not take waits here, in order, files too, until it does."""
        ours, theirs = os.pipe()
        sent = 0
        while not len(self.one):
            self.one.send(b"%d " % sent + b"x" * 50_000)
            sent += 1
        self.one.send(b"last", theirs)
        os.close(theirs)
        self.assertEqual(len(self.one), 2)
        self.assertEqual(self.reactor.writers, {self.one})
        while self.reactor.writers:
            self.other.doRead()
            self.one.doWrite()
        for _ in range(sent):
            self.other.doRead()
        self.assertEqual(len(self.received), sent + 1)
        numbers = [int(data.split()[0]) for data, _ in self.received[:-1]]
        self.assertEqual(numbers, list(range(sent)))
        self.assertEqual(self.received[-1][0], b"last")
        os.close(self.received[-1][1] or 0)
        os.close(ours)

    def test_many_take_turns(self) -> None:
        """One turn of the reactor reads only some, so that others have theirs."""
        for number in range(40):
            self.one.send(b"%d" % number)
        self.other.doRead()
        self.assertTrue(0 < len(self.received) < 40)

    def test_an_end_that_is_gone(self) -> None:
        """Who is left is told once, and can still send, into nothing."""
        self.one.close()
        self.other.send(b"x")
        self.other.doRead()
        self.assertEqual(self.gone, ["other"])
        self.other.connectionLost(Failure(ConnectionLost()))
        self.other.send(b"x")
        self.assertEqual(self.gone, ["other"])
        self.assertEqual(self.reactor.readers, set())

    def test_what_waits_when_it_ends(self) -> None:
        """Descriptors that were never sent are closed."""
        ours, theirs = os.pipe()
        while not len(self.one):
            self.one.send(b"x" * 50_000)
        self.one.send(b"last", theirs)
        os.close(theirs)
        self.one.close()
        self.assertEqual(os.read(ours, 1), b"")
        os.close(ours)

    def test_sizes(self) -> None:
        """Nothing, and too much, cannot be sent."""
        for data in (b"", b"x" * (MAX_BYTES + 1)):
            with self.assertRaises(ValueError):
                self.one.send(data)
