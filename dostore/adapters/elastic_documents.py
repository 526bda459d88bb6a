"""What the documents of the metadata index look like: ids, fields, and how they are read.

A name has one *current* document, which holds its newest version, and one *history* document each
superseded one. docs/metadata-elasticsearch.rst is normative.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from attrs import frozen

from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import Corrupt, InvalidName, InvalidRequest, TooLarge

#: Versions are kept in a field of 32 bits.
MAX_NUMBER = (1 << 31) - 1

MAX_INTEGER = (1 << 31) - 1

#: Of one version, as JSON.
MAX_VERSION_BYTES = 1 << 20

#: The longest term that a keyword field takes.
MAX_NAME_BYTES = 32766

CURRENT = "current"
HISTORY = "history"

#: Types of the fields that are searched or sorted by.
SEARCHED = {
    "name": ("keyword",),
    "hash": ("keyword",),
    "version": ("integer", "long"),
    "size": ("long", "integer"),
    "large_size": ("long",),
    "kind": ("keyword",),
    "deleted": ("boolean",),
    "earlier_hash": ("keyword",),
}

#: Fields that are only kept.
KEPT: Mapping[str, Mapping[str, Any]] = {
    "created": {"type": "keyword", "index": False, "doc_values": False},
    "content_type": {"type": "keyword", "index": False, "doc_values": False},
    "token": {"type": "keyword", "index": False, "doc_values": False},
    "meta": {"type": "object", "enabled": False},
    "layout": {"type": "object", "enabled": False},
    "earlier": {"type": "object", "enabled": False},
}


@frozen(slots=True)
class Stored:
    """A version as it is kept.

    :ivar token: made anew for each addition; by it a writer knows its own version again.
    """

    version: Version
    token: str


@frozen(slots=True)
class State:
    """A name's current document.

    :ivar newest: what it is about.
    :ivar earlier: versions right before it that it carries too, ascending.
    :ivar settled: the history documents of ``earlier`` are known to be there.
    :ivar seq_no: with ``primary_term`` the document's state, for compare-and-set.
    """

    newest: Stored
    earlier: tuple[Stored, ...]
    settled: bool
    seq_no: int
    primary_term: int

    @property
    def unsettled(self) -> tuple[Stored, ...]:
        """What this document may be the only one to hold, besides the newest."""
        return () if self.settled else self.earlier


def check_name(name: str) -> bytes:
    """The UTF-8 form of a name.

    :raises InvalidName: it has none, or one that is too long.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidName("The object name holds half a character. Send it as UTF-8.") from error
    if len(encoded) > MAX_NAME_BYTES:
        raise InvalidName(f"The object name has more than {MAX_NAME_BYTES} bytes. Shorten it.")
    return encoded


def key_of(name: str) -> str:
    """What ids of a name's documents are made from, and how they are routed: 43 characters.

    A hash, since an id has at most 512 bytes; in base64url, which has no ``.``.
    """
    digest = hashlib.sha256(check_name(name)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def current_id(key: str) -> str:
    """The id of the current document."""
    return f"c.{key}"


def history_id(key: str, number: int) -> str:
    """The id of the history document of a version."""
    return f"h.{key}.{number}"


def _fields(stored: Stored) -> dict[str, Any]:
    version = stored.version
    fields: dict[str, Any] = {
        "version": version.number,
        "size": version.size,
        "hash": str(version.content.hash) if version.content else "",
        "deleted": version.deleted,
        "created": version.created,
        "content_type": version.content_type,
        # Keys are the client's, and some releases read meaning into dots.
        "meta": [{"key": key, "value": value} for key, value in version.meta.items()],
        "token": stored.token,
    }
    if version.content is not None:
        scheme = version.content.scheme
        fields["layout"] = {"k": scheme.k, "m": scheme.m, "block": scheme.block_size}
    return fields


def _document(stored: Stored, kind: str, small_sizes: bool) -> dict[str, Any]:
    document = {"name": stored.version.name, "kind": kind, **_fields(stored)}
    if small_sizes and document["size"] > MAX_INTEGER:
        document["large_size"] = document.pop("size")
    return document


def history_document(stored: Stored, small_sizes: bool = False) -> dict[str, Any]:
    """The history document of a version.

    :param small_sizes: the index keeps ``size`` in 32 bits; a larger one goes to ``large_size``.
    """
    return _document(stored, HISTORY, small_sizes)


def current_document(
    newest: Stored, earlier: Iterable[Stored], small_sizes: bool = False
) -> dict[str, Any]:
    """The current document of a name."""
    document = _document(newest, CURRENT, small_sizes)
    carried = [_fields(stored) for stored in earlier]
    if carried:
        document["earlier"] = carried
        document["earlier_hash"] = sorted({fields["hash"] for fields in carried} - {""})
    return document


def as_json(document: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def check_size(stored: Stored) -> int:
    """Bytes of a version's document.

    :raises TooLarge: more than a mebibyte.
    :raises InvalidRequest: some text in it has no UTF-8 form.
    """
    try:
        size = len(as_json(history_document(stored)))
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "The object's metadata holds half a character. Send it as UTF-8."
        ) from error
    if size > MAX_VERSION_BYTES:
        raise TooLarge("The object's metadata is too large. Send less of it.")
    return size


def parse_document(source: object) -> tuple[str, Stored, tuple[Stored, ...]]:
    """Read a document: its kind, its version, and the earlier ones that it carries.

    :raises Corrupt: it is none that :func:`current_document` or :func:`history_document` makes.
    """
    try:
        if not isinstance(source, dict):
            raise TypeError("a document is an object")
        name, kind = _text(source, "name"), _text(source, "kind")
        newest = _parse_fields(name, source)
        earlier = tuple(_parse_fields(name, fields) for fields in source.get("earlier", ()))
    except (KeyError, TypeError, ValueError, AttributeError, InvalidRequest) as error:
        raise Corrupt(
            "A document of the metadata index is none that this store makes. Look at the index's "
            f"documents for one without or with a wrong {error}."
        ) from error
    return kind, newest, tuple(sorted(earlier, key=lambda stored: stored.version.number))


def parse_state(name: str, source: object, seq_no: int, primary_term: int) -> State:
    """Read the current document of a name.

    :raises Corrupt: it is none, or another name's.
    """
    kind, newest, earlier = parse_document(source)
    if kind != CURRENT or newest.version.name != name:
        raise Corrupt("A document of the metadata index has the id of another. Remove it.")
    return State(newest, earlier, not earlier, seq_no, primary_term)


def _parse_fields(name: str, fields: Mapping[str, Any]) -> Stored:
    content: Content | None = None
    number = _whole(fields, "version")
    if _text(fields, "hash"):
        layout = fields["layout"]
        scheme = _scheme(_whole(layout, "k"), _whole(layout, "m"), _whole(layout, "block"))
        size = _whole(fields, "large_size" if "large_size" in fields else "size")
        content = Content(ContentHash.parse(fields["hash"]), size, scheme)
    meta = {_text(entry, "key"): _text(entry, "value") for entry in fields["meta"]}
    version = Version(
        name, number, content, _text(fields, "created"), _text(fields, "content_type"), meta
    )
    return Stored(version, _text(fields, "token"))


@lru_cache(maxsize=64)
def _scheme(k: int, m: int, block_size: int) -> Scheme:
    # Most versions share one, and checking it takes longer than all else.
    return Scheme(k, m, block_size)


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise TypeError(key)
    return value


def _whole(fields: Mapping[str, Any], key: str) -> int:
    value = fields[key]
    if type(value) is not int or value < 0:
        raise ValueError(key)
    return value
