"""What is printed, and where."""

from __future__ import annotations

import io
import os
from typing import Any

from dostore.client.bars import Bars
from dostore.client.failures import Exit, LocalTrouble, ReaderGone
from dostore.client.meters import Meter, Meters
from dostore.client.output import Output
from dostore.errors import NotFound
from tests.support.client import ClientTestCase


class _Broken(io.StringIO):
    """A stream that fails."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def flush(self) -> None:
        """See TextIO."""
        raise self._error


class _Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """See TextIO."""
        return True


class OutputTests(ClientTestCase):
    """Lines."""

    def output(self, **how: Any) -> Output:
        """An output to two streams."""
        return Output(self.out, self.err, self.workers, **how)

    def test_results(self) -> None:
        """For people, or as JSON in ASCII; or not at all."""
        fields = {"Name": "ü\x1b"}
        for how, expected in (
            ({}, "text\n"),
            ({"as_json": True}, '{"Name": "\\u00fc\\u001b"}\n'),
            ({"quiet": True}, ""),
            ({"quiet": True, "as_json": True}, '{"Name": "\\u00fc\\u001b"}\n'),
        ):
            self.out.seek(0)
            self.out.truncate()
            self.finish(self.output(**how).result(fields, "text"))
            self.assertEqual(self.out.getvalue(), expected)

    def test_failures(self) -> None:
        """On standard error for people, escaped; with JSON on standard output as well."""
        output = self.output(as_json=True)
        self.finish(output.failed(NotFound("No \x1b[31mred."), Name="a"))
        self.assertEqual(self.err.getvalue(), "dostore: No \\x1b[31mred.\n")
        self.assertEqual(
            self.out.getvalue(), '{"Name": "a", "Error": "No \\u001b[31mred.", "Exit": 3}\n'
        )
        self.assertEqual(output.failures, [Exit.NOT_FOUND])
        self.finish(output.failed(ReaderGone("Nobody reads.")))
        self.assertEqual(len(self.complaints()), 1)

    def test_notes(self) -> None:
        """Notes and remarks are for people only."""
        for how, notes, remarks in (
            ({}, ["dostore: note"], ["remark"]),
            ({"as_json": True}, [], []),
            ({"quiet": True}, [], []),
        ):
            for stream in (self.out, self.err):
                stream.seek(0)
                stream.truncate()
            output = self.output(**how)
            self.finish(output.note("note"))
            self.finish(output.remark("remark"))
            self.assertEqual((self.complaints(), self.lines()), (notes, remarks))

    def test_trouble(self) -> None:
        """What is tried again is told once, as long as it is the same."""
        output = self.output()
        for text, pause_s in (("A.", 0.0), ("A.", 0.3), ("A.", 2.0), ("B.", 2.0), ("A.", 2.0)):
            output.trouble(text, pause_s)
        self.assertEqual(
            self.complaints(),
            [
                "dostore: A. Trying again.",
                "dostore: B. Trying again in 2.0 s.",
                "dostore: A. Trying again in 2.0 s.",
            ],
        )
        self.output(quiet=True).trouble("C.", 2.0)
        self.assertEqual(len(self.complaints()), 3)

    def test_streams_that_fail(self) -> None:
        """A reader that has gone is told from a disk that is full; complaints cannot fail."""
        for error, kind in (
            (BrokenPipeError(32, "Broken pipe"), ReaderGone),
            (OSError(28, "No space left on device"), LocalTrouble),
        ):
            output = Output(_Broken(error), _Broken(error), self.workers)
            with self.assertRaises(kind):
                self.finish(output.result({}, "x"))
            self.finish(output.failed(NotFound("x")))
            self.assertEqual(output.failures, [Exit.NOT_FOUND])


class BarsTests(ClientTestCase):
    """Progress on a terminal."""

    def setUp(self) -> None:
        """A terminal of 100 columns, as rich finds out."""
        super().setUp()
        self.patch(os, "environ", {**os.environ, "COLUMNS": "100", "TERM": "xterm"})
        self.terminal = _Terminal()
        self.bars = Bars(self.terminal)
        self.addCleanup(self.bars.close)

    def shown(self) -> str:
        """What is shown from now on."""
        self.terminal.seek(0)
        self.terminal.truncate()
        self.bars.refresh()
        return self.terminal.getvalue()

    def test_one(self) -> None:
        """How far one transfer is, and what it does besides."""
        meter = self.bars.begin("photo\x1b.jpg", 2_000_000)
        meter.say("hashing")
        meter.at(1_000_000)
        shown = self.shown()
        self.assertIn(r"photo\x1b.jpg", shown)
        self.assertIn("hashing", shown)
        self.assertIn("1.0/2.0 MB", shown)
        meter.say("")
        self.assertIn("0.0/2.0 MB", self.shown())
        meter.at(1_500_000)
        self.assertIn("1.5/2.0 MB", self.shown())
        meter.say("waiting")
        self.assertIn("waiting", self.shown())
        self.assertIn("1.5/2.0 MB", self.shown())
        meter.end()
        self.assertNotIn("photo", self.shown())

    def test_all(self) -> None:
        """Of many files also how far all of them are; hashing does not count."""
        self.bars.expect(1, 1_000_000)
        self.assertNotIn("file", self.shown())
        self.bars.expect(2, 9_000_000)
        first, second = (self.bars.begin("x" * 100, size) for size in (1_000_000, 4_000_000))
        first.say("hashing")
        first.at(1_000_000)
        first.say("")
        second.at(2_000_000)
        shown = self.shown()
        self.assertIn("0 of 3 files", shown)
        self.assertIn("2.0/10.0 MB", shown)
        self.assertIn("…" + "x" * 31, shown)
        # What was there already, or failed, is done as well.
        first.end()
        shown = self.shown()
        self.assertIn("1 of 3 files", shown)
        self.assertIn("3.0/10.0 MB", shown)

    def test_size_not_known(self) -> None:
        """Of what comes from a pipe, how much has come."""
        meter = self.bars.begin("standard input", None)
        meter.at(5_000_000)
        self.assertIn("5.0/? MB", self.shown())
        meter.end()

    def test_size_found_out(self) -> None:
        """Of what is got by its name the size is known when it begins."""
        self.bars.expect(2, 0)
        meter = self.bars.begin("x", None)
        meter.whole(8_000_000)
        meter.whole(8_000_000)
        meter.at(5_000_000)
        shown = self.shown()
        self.assertIn("0 of 2 files", shown)
        self.assertEqual(shown.count("5.0/8.0 MB"), 2)

    def test_lines(self) -> None:
        """Lines are shown above the bars, as they are, and results only where they belong."""
        output = Output(_Terminal(), self.terminal, self.workers)
        output.meters = self.bars
        self.finish(output.note("[red]a[/red] :smile:"))
        self.assertIn("dostore: [red]a[/red] :smile:", self.terminal.getvalue())
        self.finish(output.result({}, "the result"))
        self.assertIn("the result", self.terminal.getvalue())
        into_a_file = Output(self.out, self.terminal, self.workers)
        into_a_file.meters = self.bars
        self.finish(into_a_file.result({}, "another"))
        self.assertNotIn("another", self.terminal.getvalue())
        self.assertEqual(self.lines(), ["another"])

    def test_none(self) -> None:
        """Where nothing is shown the same calls do nothing."""
        meters = Meters()
        meters.expect(1, 2)
        meter = meters.begin("x", 5)
        self.assertIs(type(meter), Meter)
        meter.at(3)
        meter.say("x")
        meter.whole(7)
        meter.end()
        meters.refresh()
        meters.close()
        self.assertRaises(AssertionError, meters.line, "x")
