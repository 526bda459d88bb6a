"""How things are written for people."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.client.text import count_text, seconds_text, shown, size_text
from tests.support.cases import SyncTestCase


class ShownTests(SyncTestCase):
    """Names on a terminal."""

    def test_as_it_is(self) -> None:
        """What a terminal shows as it is stays as it is."""
        for text in ("a/b c.txt", "Ünïcödé", "日本\u3000語", "a\u00a0b", "back\\slash", "🎉"):
            self.assertEqual(shown(text), text)

    def test_escaped(self) -> None:
        """What would command a terminal is written out."""
        for text, expected in (
            ("\x1b[31mred", r"\x1b[31mred"),
            ("a\nb\rc\td", r"a\nb\rc\td"),
            ("\x9b31m", r"\x9b31m"),
            ("gpj.\u202eexe", r"gpj.\u202eexe"),
            ("a\u2028b\u200fc\x7f", r"a\u2028b\u200fc\x7f"),
            ("\udcff\ud800", r"\xff\ud800"),
        ):
            self.assertEqual(shown(text), expected)

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Whatever comes out can be shown, in one line."""
        for char in shown(text):
            self.assertTrue(char.isprintable() or char in "\u3000\u00a0" or char.isspace(), char)
            self.assertNotIn(char, "\n\r\t\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029")


class NumberTests(SyncTestCase):
    """Sizes and times."""

    def test_sizes(self) -> None:
        """Three digits and a unit."""
        for size, expected in (
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (500_000_000, "500 MB"),
            (5 << 40, "5.5 TB"),
            (2**63, "9.2 EB"),
            (10**22, "10000 EB"),
        ):
            self.assertEqual(size_text(size), expected)

    def test_seconds(self) -> None:
        """As one would say it."""
        for seconds, expected in (
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (200, "3 min 20 s"),
            (7500, "2 h 5 min"),
        ):
            self.assertEqual(seconds_text(seconds), expected)

    def test_counts(self) -> None:
        """One has another form than several."""
        self.assertEqual(
            [count_text(n, "file") for n in (0, 1, 2)], ["0 files", "1 file", "2 files"]
        )
