"""dostore.core.names: what is taken as a name, and the forms of names."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote

from hypothesis import assume, example, given
from hypothesis import strategies as st

from dostore.core.names import (
    MAX_NAME_BYTES,
    ContentHash,
    ShardName,
    check_object_name,
    escape_base64,
    parse_object_name,
    successor,
)
from dostore.errors import InvalidName, InvalidRequest
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, digests, prove, texts

#: The content hash, the shards' hashes and the text of the design's example.
EXAMPLE = b"this object will be seperated to 4+2"
EXAMPLE_HASH = "2MRHhgqkvILs04RzLIEpZBzpgos%2F9QlNKRXEh7cMngY="
EXAMPLE_SHARDS = (
    "%2FQbxVU4EOPqz%2F2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
    "S8JnDgiwWnfNud06pGE+%2FEHgmBzNpFAEg6s%2FgR0J4Cw=",
    "syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
    "0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
)


def is_control(character: str) -> bool:
    """Whether names may not hold it."""
    return character < " " or character == "\x7f"


class ObjectNameTests(SyncTestCase):
    """parse_object_name and check_object_name."""

    def assert_refused(self, escaped: bytes, word: str) -> None:
        """It is refused by a sentence that holds ``word``."""
        error = self.assertRaises(InvalidName, parse_object_name, escaped)
        self.assertIn(word, error.detail)

    @prove
    @given(texts, st.booleans())
    def test_round_trip(self, name: str, everything: bool) -> None:
        """Any text without control characters comes back, whatever part of it was escaped."""
        assume(name and not any(map(is_control, name)))
        raw = name.encode()
        assume(len(raw) <= MAX_NAME_BYTES)
        escaped = "".join(f"%{byte:02x}" for byte in raw) if everything else quote(raw)
        self.assertEqual(parse_object_name(escaped.encode()), name)

    @prove
    @given(st.binary(max_size=40))
    def test_garbage(self, escaped: bytes) -> None:
        """Any bytes give a name that is permitted, or InvalidName."""
        try:
            name = parse_object_name(escaped)
        except InvalidName:
            return
        check_object_name(name)
        self.assertEqual(parse_object_name(quote(name.encode()).encode()), name)

    def test_opaque(self) -> None:
        """Dots, slashes and what looks like an escape of an escape mean nothing and are kept."""
        for escaped, name in [
            (b"a/../b", "a/../b"),
            (b"%2e%2e%2fetc/passwd", "../etc/passwd"),
            (b"..%5c..%5c", "..\\..\\"),
            (b"a//b/", "a//b/"),
            (b"/", "/"),
            (b".", "."),
            (b"100%25", "100%"),
            (b"%252e", "%2e"),
            (b"a+b", "a+b"),
            (b"%F4%8F%BF%BF", "\U0010ffff"),
            ("plain ä".encode(), "plain ä"),
        ]:
            self.assertEqual(parse_object_name(escaped), name)

    def test_length(self) -> None:
        """1,024 bytes of UTF-8 are taken, escaped or not; 1,025 are not, nor is nothing."""
        self.assertEqual(parse_object_name(b"a" * 1024), "a" * 1024)
        self.assertEqual(parse_object_name(b"%c3%a4" * 512), "ä" * 512)
        self.assert_refused(b"a" * 1025, "1025 bytes")
        self.assert_refused(b"%c3%a4" * 512 + b"a", "1024")
        self.assert_refused(b"a" * 4000, "1024")
        self.assert_refused(b"%c3%a4" * 600, "1024")
        self.assert_refused(b"", "empty")

    def test_control_characters(self) -> None:
        """No control character of ASCII is taken, raw or escaped."""
        for code in [*range(32), 127]:
            self.assert_refused(b"a%%%02X" % code, "control")
            self.assert_refused(b"a" + bytes([code]), "control")

    def test_not_utf8(self) -> None:
        """Bytes that are no UTF-8 by RFC 3629 are refused: overlong, surrogate, too large, cut."""
        for escaped in [b"%ff", b"%c0%af", b"%ed%a0%80", b"%f4%90%80%80", b"%e2%82", b"\xff"]:
            self.assert_refused(escaped, "UTF-8")

    def test_lone_percent(self) -> None:
        """A percent sign that escapes nothing is refused, not guessed at."""
        for escaped in [b"100%", b"%2", b"%zz", b"%%25", b"a%2 b"]:
            self.assert_refused(escaped, "%25")

    def test_surrogates(self) -> None:
        """A text that has no UTF-8 form is no name."""
        error = self.assertRaises(InvalidName, check_object_name, "a\ud800")
        self.assertIn("UTF-8", error.detail)


class SuccessorTests(SyncTestCase):
    """successor."""

    @prove
    @given(texts, texts)
    @example("a\ud7ff", "\U0010ffff")
    @example("\U0010ffff", "")
    @example("a\U0010ffff", "\U0010ffff")
    def test_bounds(self, prefix: str, rest: str) -> None:
        """What begins with the prefix is below its successor, by code points and by UTF-8 bytes."""
        after = successor(prefix)
        if after is None:
            self.assertEqual(prefix.strip("\U0010ffff"), "")
            return
        self.assertLess(prefix + rest, after)
        self.assertLess((prefix + rest).encode(), after.encode())

    @prove
    @given(texts, texts)
    def test_least(self, prefix: str, other: str) -> None:
        """What sorts after the prefix and does not begin with it is not below its successor."""
        after = successor(prefix)
        if other > prefix and not other.startswith(prefix):
            assert after is not None
            self.assertGreaterEqual(other, after)

    def test_examples(self) -> None:
        """The last character is counted up; surrogates are stepped over; the last ones cut."""
        self.assertEqual(successor("photos/"), "photos0")
        self.assertEqual(successor("a\ud7ff"), "a\ue000")
        self.assertEqual(successor("a\U0010ffff\U0010ffff"), "b")
        self.assertIsNone(successor(""))
        self.assertIsNone(successor("\U0010ffff"))


class ContentHashTests(SyncTestCase):
    """ContentHash."""

    @prove
    @given(digests)
    def test_round_trip(self, digest: bytes) -> None:
        """The text form is standard base64 and is read back."""
        content_hash = ContentHash(digest)
        self.assertEqual(str(content_hash), base64.b64encode(digest).decode())
        self.assertEqual(len(str(content_hash)), 44)
        self.assertEqual(ContentHash.parse(str(content_hash)), content_hash)

    @prove
    @given(st.one_of(st.text(), st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode())))
    def test_garbage(self, text: str) -> None:
        """Any text is the one spelling of a hash, or InvalidRequest."""
        try:
            content_hash = ContentHash.parse(text)
        except InvalidRequest:
            return
        self.assertEqual(str(content_hash), text)

    def test_other_spellings(self) -> None:
        """Only the canonical base64 is taken: no spare bits, other alphabet, spaces or padding."""
        text = str(ContentHash(bytes([0xFB] * 32)))
        for wrong in [
            text[:-2] + chr(ord(text[-2]) + 1) + "=",
            text.replace("+", "-"),
            text + "\n",
            " " + text,
            text[:-1],
            text + "=",
            text[:20] + "\n" + text[20:],
            "ä" * 44,
            "",
        ]:
            self.assertRaises(InvalidRequest, ContentHash.parse, wrong)

    def test_wrong_size(self) -> None:
        """A hash of another size than 32 bytes is a bug."""
        for size in (0, 31, 33):
            self.assertRaises(ValueError, ContentHash, bytes(size))

    def test_escaped(self) -> None:
        """Only the slash is escaped, as in the design's example."""
        content_hash = ContentHash(hashlib.sha256(EXAMPLE).digest())
        self.assertEqual(content_hash.escaped, EXAMPLE_HASH)
        self.assertEqual(escape_base64(bytes([0xFF, 0xEF, 0xBE])), "%2F+++")

    def test_order(self) -> None:
        """Hashes are ordered by their bytes and can be keys."""
        low, high = ContentHash(bytes(32)), ContentHash(bytes([255] * 32))
        self.assertLess(low, high)
        self.assertEqual({low: 1}[ContentHash(bytes(32))], 1)


class ShardNameTests(SyncTestCase):
    """ShardName."""

    @prove
    @given(content_hashes, st.integers(0, 255), digests)
    def test_round_trip(self, content_hash: ContentHash, index: int, shard_hash: bytes) -> None:
        """A file name is read back, fits a file system and holds no slash."""
        name = ShardName(content_hash, index, shard_hash)
        self.assertEqual(ShardName.parse(str(name)), name)
        self.assertNotIn("/", str(name))
        self.assertLessEqual(len(str(name)), 255)

    def test_example(self) -> None:
        """The design's example has the design's names."""
        content_hash = ContentHash(hashlib.sha256(EXAMPLE).digest())
        for index, expected in enumerate(EXAMPLE_SHARDS):
            piece = EXAMPLE[index * 9 : index * 9 + 9]
            name = ShardName(content_hash, index, hashlib.sha256(piece).digest())
            self.assertEqual(str(name), f"{EXAMPLE_HASH}.{index}.{expected}")

    @prove
    @given(st.text(alphabet="AZaz09+/=%2F._-ä\x00", max_size=120))
    def test_garbage(self, file_name: str) -> None:
        """Any text is a name that is written the same, or None."""
        name = ShardName.parse(file_name)
        if name is not None:
            self.assertEqual(str(name), file_name)

    def test_other_names(self) -> None:
        """What is nearly a shard's name is none."""
        good = f"{EXAMPLE_HASH}.0.{EXAMPLE_SHARDS[0]}"
        self.assertIsNotNone(ShardName.parse(good))
        head, index, tail = good.split(".")
        for wrong in [
            "",
            ".",
            "..",
            f"{head}.{tail}",
            f"{good}.new",
            f"{head}..{tail}",
            f"{head}.x.{tail}",
            f"{head}.-1.{tail}",
            f"{head}.+1.{tail}",
            f"{head}.00.{tail}",
            f"{head}.256.{tail}",
            f"{head}.{'9' * 5000}.{tail}",
            f"{head}.\N{SUPERSCRIPT TWO}.{tail}",
            f"{head}.\N{ARABIC-INDIC DIGIT ONE}.{tail}",
            f"{head}.{index}.",
            f"{head}.{index}.AAAA",
            f"AAAA.{index}.{tail}",
            f"{head}.{index}.{tail[:-1]}",
            f"{head}.{index}.{tail[:-1]}\n",
            f"{head.replace('%2F', '/')}.{index}.{tail}",
            f"{head.replace('%2F', '%2f')}.{index}.{tail}",
            f"{head}.{index}.{'!' * 44}",
        ]:
            self.assertIsNone(ShardName.parse(wrong), wrong)
