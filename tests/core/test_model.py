"""dostore.core.model: the values that pass between the layers."""

from __future__ import annotations

from attrs.exceptions import FrozenInstanceError

from dostore.core.model import DEFAULT_CONTENT_TYPE, Content, Draft, ShardInfo, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from tests.support.cases import SyncTestCase

CONTENT = Content(ContentHash(bytes(32)), 36, Scheme())


class ModelTests(SyncTestCase):
    """Draft, Version and what they hold."""

    def test_numbered(self) -> None:
        """A draft becomes a version that differs by its number only."""
        draft = Draft("a/b", CONTENT, "2026-11-23T07:00:00.000Z", "text/plain", {"owner": "me"})
        version = draft.numbered(7)
        self.assertEqual(
            version,
            Version("a/b", 7, CONTENT, "2026-11-23T07:00:00.000Z", "text/plain", {"owner": "me"}),
        )

    def test_defaults(self) -> None:
        """Without a type a version is bytes, without keys it has none of anybody's."""
        first, second = Draft("a", None, "t"), Draft("b", None, "t")
        self.assertEqual((first.content_type, first.meta), (DEFAULT_CONTENT_TYPE, {}))
        self.assertIsNot(first.meta, second.meta)

    def test_object(self) -> None:
        """A version with content has its size and reads it."""
        version = Version("a", 1, CONTENT, "t")
        self.assertFalse(version.deleted)
        self.assertEqual(version.size, 36)
        self.assertEqual(version.contents, (CONTENT,))

    def test_meta_characters(self) -> None:
        """Keys and values count, by their characters; a version without any has none."""
        version = Version("a", 1, None, "now", meta={"colour": "blü", "b": ""})
        self.assertEqual(version.meta_characters, 10)
        self.assertEqual(Version("a", 1, None, "now").meta_characters, 0)

    def test_tombstone(self) -> None:
        """A version without content is a tombstone of no bytes."""
        version = Version("a", 2, None, "t")
        self.assertTrue(version.deleted)
        self.assertEqual(version.size, 0)
        self.assertEqual(version.contents, ())

    def test_empty_object(self) -> None:
        """An object of no bytes is no tombstone."""
        empty = Content(ContentHash(bytes(32)), 0, Scheme())
        version = Version("a", 1, empty, "t")
        self.assertFalse(version.deleted)
        self.assertEqual((version.size, version.contents), (0, (empty,)))

    def test_frozen(self) -> None:
        """No value can be changed."""
        for value, attribute in [
            (CONTENT, "size"),
            (ShardInfo(CONTENT, 0), "index"),
            (Draft("a", None, "t"), "name"),
            (Version("a", 1, None, "t"), "number"),
        ]:
            self.assertRaises(FrozenInstanceError, setattr, value, attribute, 1)
