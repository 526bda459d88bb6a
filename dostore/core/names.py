"""The names of things: objects, contents and shards, and their text, path and file-name forms."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from attrs import frozen

from dostore.errors import InvalidName, InvalidRequest

#: The native API's limit on an object name, in bytes of UTF-8. The store itself has none.
MAX_NAME_BYTES = 1024

#: An object name that is longer than this cannot be meant well, whatever the escapes in it.
_MAX_ESCAPED_BYTES = 3 * MAX_NAME_BYTES

_CONTROL = re.compile("[\x00-\x1f\x7f]")
_STRAY_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")

HASH_BYTES = 32


def parse_object_name(escaped: bytes) -> str:
    """Decode the part of a request path that names an object.

    The name is opaque: ``..``, ``//`` and a trailing ``/`` mean nothing and are kept.

    :param escaped: the raw bytes of the path, percent-escaped.
    :raises InvalidName: when it is empty, longer than 1,024 bytes, not UTF-8 (RFC 3629), holds a
        control character or a percent sign that escapes nothing.
    """
    if len(escaped) > _MAX_ESCAPED_BYTES:
        raise InvalidName(f"The object name is longer than {MAX_NAME_BYTES} bytes. Shorten it.")
    raw = escaped
    if b"%" in escaped:
        if _STRAY_PERCENT.search(escaped):
            raise InvalidName("The object name has a '%' that escapes nothing. Write it as %25.")
        raw = unquote_to_bytes(escaped)
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidName(
            "The object name is not UTF-8. Percent-escape its UTF-8 bytes."
        ) from error
    check_object_name(name)
    return name


def check_object_name(name: str) -> None:
    """Refuse what the native API does not take as an object name.

    :raises InvalidName: see :func:`parse_object_name`.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidName("The object name holds half a character. Send it as UTF-8.") from error
    if size == 0:
        raise InvalidName("The object name is empty. Put it after /objects/.")
    if size > MAX_NAME_BYTES:
        raise InvalidName(f"The object name has {size} bytes; at most {MAX_NAME_BYTES} are taken.")
    if _CONTROL.search(name):
        raise InvalidName("The object name holds a control character. Remove it.")


def successor(prefix: str) -> str | None:
    """The least string greater than every string that begins with ``prefix``, by code points.

    The order of code points is that of UTF-8 bytes, so stores that compare either agree. Surrogates
    are stepped over, for they have no UTF-8 form.

    :returns: None when there is none (an empty prefix, or only U+10FFFF).
    """
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return None
    last = ord(head[-1]) + 1
    if 0xD800 <= last <= 0xDFFF:
        last = 0xE000
    return head[:-1] + chr(last)


@frozen(slots=True, order=True, hash=False)
class ContentHash:
    """The SHA-256 of a content: 32 bytes, written as standard base64 (44 characters)."""

    digest: bytes

    def __hash__(self) -> int:
        # Bytes know their hash once it was asked for.
        return hash(self.digest)

    def __attrs_post_init__(self) -> None:
        if len(self.digest) != HASH_BYTES:
            raise ValueError(f"a content hash has {HASH_BYTES} bytes, not {len(self.digest)}")

    @classmethod
    def parse(cls, text: str) -> ContentHash:
        """Read the base64 form.

        :raises InvalidRequest: when it is anything but the canonical base64 of 32 bytes.
        """
        try:
            digest = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest("A hash is the base64 of a SHA-256: 44 characters.") from error
        # Base64 of 32 bytes leaves two spare bits; only one spelling of them is the hash's name.
        if len(digest) != HASH_BYTES or base64.b64encode(digest).decode() != text:
            raise InvalidRequest("A hash is the base64 of a SHA-256: 44 characters.")
        return cls(digest)

    def __str__(self) -> str:
        return base64.b64encode(self.digest).decode()

    @property
    def escaped(self) -> str:
        """The form in file names and paths: ``/`` is the only base64 character escaped there."""
        return escape_base64(self.digest)


def escape_base64(digest: bytes) -> str:
    """Base64 with ``/`` percent-escaped, as Go's ``url.PathEscape`` writes it."""
    return base64.b64encode(digest).decode().replace("/", "%2F")


@frozen(slots=True, order=True)
class ShardName:
    """What a shard file is called: ``<hash>.<index>.<shard hash>``, both hashes escaped."""

    content_hash: ContentHash
    index: int
    shard_hash: bytes

    def __str__(self) -> str:
        return f"{self.content_hash.escaped}.{self.index}.{escape_base64(self.shard_hash)}"

    @classmethod
    def parse(cls, file_name: str) -> ShardName | None:
        """Read a file name; None when it is not one that :meth:`__str__` writes."""
        parts = file_name.split(".")
        # An index that is longer than any may be a number too large to be read.
        if len(parts) != 3 or not re.fullmatch("[0-9]{1,3}", parts[1]):
            return None
        try:
            content, shard = (
                base64.b64decode(part.replace("%2F", "/"), validate=True)
                for part in (parts[0], parts[2])
            )
        except (binascii.Error, ValueError):
            return None
        if len(content) != HASH_BYTES or len(shard) != HASH_BYTES:
            return None
        name = cls(ContentHash(content), int(parts[1]), shard)
        return name if str(name) == file_name and name.index < 256 else None
