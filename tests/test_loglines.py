"""Log lines that do not drown the others."""

from __future__ import annotations

from twisted.internet.task import Clock

from dostore.loglines import LINES, PERIOD_S, Rationed, Standing
from tests.support.cases import SyncTestCase


class LinesCase(SyncTestCase):
    """Keeps what is emitted."""

    def setUp(self) -> None:
        """Nothing yet."""
        super().setUp()
        self.lines: list[str] = []

    def emit(self, text: str, **fields: object) -> None:
        """As a logger's method."""
        self.lines.append(text.format(**fields))


class RationedTests(LinesCase):
    """What happens by the thousand."""

    def setUp(self) -> None:
        """A clock that stands."""
        super().setUp()
        self.clock = Clock()
        self.rationed = Rationed(self.emit, "{count} more", self.clock)

    def test_few_are_all_told(self) -> None:
        """Up to so many in a minute each has its line, again in the next one."""
        for _ in range(3):
            for number in range(LINES):
                self.rationed.tell("line {number}", number=number)
            self.rationed.tell_rest()
            self.clock.advance(PERIOD_S)
        self.assertEqual(self.lines, [f"line {number}" for number in range(LINES)] * 3)

    def test_many_are_counted(self) -> None:
        """What is beyond that is told as a number: at the end, or when the next minute begins."""
        for end in (False, True):
            for _ in range(1000):
                self.rationed.tell("line")
            if end:
                self.rationed.tell_rest()
                self.rationed.tell_rest()
            self.clock.advance(PERIOD_S)
        rest = [f"{1000 - LINES} more"]
        self.assertEqual(self.lines, (["line"] * LINES + rest) * 2)

    def test_few_more_wait(self) -> None:
        """A few at a time, each with an end of its own, are told together after the minute."""
        for _ in range(LINES + 5):
            self.rationed.tell("line")
            self.rationed.tell_rest()
        self.assertEqual(self.lines, ["line"] * LINES)
        self.clock.advance(PERIOD_S)
        self.rationed.tell("line")
        self.assertEqual(self.lines[LINES:], ["5 more", "line"])


class StandingTests(LinesCase):
    """What goes on and on."""

    def test_told_when_it_changes(self) -> None:
        """A trouble is told when it begins, when it becomes another, and when it is over."""
        standing = Standing(self.emit, self.emit, "over")
        standing.end()
        for trouble in ("full", "full", "gone", "gone", "", "", "full"):
            if trouble:
                standing.tell(trouble)
            else:
                standing.end()
        self.assertEqual(self.lines, ["full", "gone", "over", "full"])

    def test_braces(self) -> None:
        """A trouble whose words look like a format is told as it stands."""
        Standing(self.emit, self.emit, "over").tell("/mnt/{1...6} is full")
        self.assertEqual(self.lines, ["/mnt/{1...6} is full"])
