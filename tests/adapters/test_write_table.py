"""Counters in memory that processes share."""

from __future__ import annotations

import os

from dostore.adapters.write_table import WriteTable, slot_of
from tests.support.cases import SyncTestCase


class WriteTableTests(SyncTestCase):
    """Who writes, and who only reads."""

    def setUp(self) -> None:
        """A table, and another view of it."""
        super().setUp()
        self.table = WriteTable()
        self.addCleanup(os.close, self.table.descriptor)
        self.view = WriteTable(self.table.descriptor)

    def test_odd_while_writing(self) -> None:
        """A reader sees that a name is being written, and afterwards that it was."""
        slot = slot_of("a")
        self.assertEqual(self.view.count(slot), 0)
        slots = self.table.begin(["a", "b", "a"])
        self.assertEqual((self.view.count(slot), self.view.count(slot_of("b"))), (1, 1))
        self.assertEqual(self.view.count(slot_of("c")), 0)
        self.table.end(slots)
        self.assertEqual(self.view.count(slot), 2)

    def test_who_reads_cannot_write(self) -> None:
        """Another process cannot change the table by mistake."""
        with self.assertRaises(TypeError):
            self.view.begin(["a"])

    def test_the_same_in_every_process(self) -> None:
        """The counter of a name depends on nothing but the name."""
        self.assertEqual(slot_of("a/ä"), 13136)
