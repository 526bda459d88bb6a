"""The values that pass between the layers. All are frozen."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme

DEFAULT_CONTENT_TYPE = "application/octet-stream"


@frozen(slots=True)
class Content:
    """Bytes known by their SHA-256, with the scheme by which they are stored."""

    hash: ContentHash
    size: int
    scheme: Scheme


@frozen(slots=True)
class ShardInfo:
    """What a shard's footer says of it."""

    content: Content
    index: int


@frozen(slots=True)
class Draft:
    """A version before it has a number.

    :ivar content: None makes a tombstone.
    :ivar created: ISO 8601 in UTC, with milliseconds and ``Z``. Told, never used for order.
    :ivar meta: the client's own keys, in lower case, without the ``x-object-meta-``.
    """

    name: str
    content: Content | None
    created: str
    content_type: str = DEFAULT_CONTENT_TYPE
    meta: Mapping[str, str] = field(factory=dict)

    def numbered(self, number: int) -> Version:
        """This draft as version ``number``."""
        return Version(self.name, number, self.content, self.created, self.content_type, self.meta)


@frozen(slots=True)
class Version:
    """One version of an object; ``content`` is None in a tombstone."""

    name: str
    number: int
    content: Content | None
    created: str
    content_type: str = DEFAULT_CONTENT_TYPE
    meta: Mapping[str, str] = field(factory=dict)

    @property
    def deleted(self) -> bool:
        """Whether this is a tombstone."""
        return self.content is None

    @property
    def size(self) -> int:
        """Bytes; 0 for a tombstone."""
        return self.content.size if self.content else 0

    @property
    def meta_characters(self) -> int:
        """Characters of its own keys and their values."""
        return sum(len(key) + len(value) for key, value in self.meta.items())

    @property
    def contents(self) -> tuple[Content, ...]:
        """What a reader of this version reads, in order.

        Today one content or none; an object made of parts will have several.
        """
        return (self.content,) if self.content else ()
