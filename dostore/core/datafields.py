"""What travels between API servers and data servers, as values. See ``docs/data-api.rst``.

Either side parses what the other formats, and trusts none of it: what is malformed raises
InvalidRequest, with a sentence that says what would be right.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from attrs import frozen

from dostore.core.model import Content
from dostore.core.names import HASH_BYTES, ContentHash
from dostore.core.scheme import MAX_SHARDS, Scheme
from dostore.core.shardfile import CHECK_BYTES, Block, check_of
from dostore.errors import BadShard, InvalidRequest

#: The largest content: what a signed 64-bit number holds.
MAX_SIZE = 2**63 - 1

#: Stands for a hash that is not known yet.
UNKNOWN = "-"

#: How many shards one glance may ask for.
MAX_GLANCES = 1024

_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")
_INDEX = re.compile(r"0|[1-9][0-9]?")
_SCHEME = re.compile(rb"([1-9][0-9]?)\+(0|[1-9][0-9]?)/([1-9][0-9]{3,6})")
_RANGE = re.compile(rb"bytes=([0-9]{0,19})-([0-9]{0,19})")
_CONTENT_RANGE = re.compile(rb"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LISTED = re.compile(r"[0-9]{1,2}(?:,[0-9]{1,2}){0,31}")


# Names and numbers


def shard_path(content_hash: ContentHash, index: int) -> bytes:
    """``<hash>.<i>`` as it stands in a path."""
    return f"{content_hash.escaped}.{index}".encode("ascii")


def parse_shard_path(escaped: bytes) -> tuple[ContentHash | None, int | None]:
    """Read ``<hash>`` or ``<hash>.<i>`` at the end of a path; ``-`` for the hash is None.

    :raises InvalidRequest: it is neither.
    """
    try:
        text = unquote_to_bytes(escaped).decode("ascii")
    except UnicodeDecodeError as error:
        raise _bad_name() from error
    name, dot, number = text.partition(".")
    if dot and not _INDEX.fullmatch(number):
        raise _bad_name()
    index = int(number) if dot else None
    if index is not None and index >= MAX_SHARDS:
        raise _bad_name()
    return (None if name == UNKNOWN else ContentHash.parse(name)), index


def _bad_name() -> InvalidRequest:
    return InvalidRequest(
        "A shard is called by the base64 of its content's SHA-256, a dot and its index from 0 to"
        f" {MAX_SHARDS - 1}."
    )


def parse_size(field: bytes | None, name: str) -> int | None:
    """A number of bytes in the field called ``name``; None when there is no such field.

    :raises InvalidRequest: it is no number, or too large.
    """
    if field is None:
        return None
    if not _NUMBER.fullmatch(field) or int(field) > MAX_SIZE:
        raise InvalidRequest(f"{name} is a number of bytes, in decimal, below 2^63.")
    return int(field)


def format_scheme(scheme: Scheme) -> bytes:
    """``k+m/block``."""
    return b"%d+%d/%d" % (scheme.k, scheme.m, scheme.block_size)


def parse_scheme(field: bytes | None) -> Scheme:
    """Read the X-Scheme field; the default scheme when there is none.

    :raises InvalidRequest: it is malformed, or no scheme can be so.
    """
    if field is None:
        return Scheme()
    match = _SCHEME.fullmatch(field)
    try:
        if match is None:
            raise ValueError("it has another form")
        k, m, block_size = map(int, match.groups())
        return Scheme(k, m, block_size)
    except ValueError as error:
        raise InvalidRequest(
            "X-Scheme is the number of data shards, of parity shards, and of bytes of a block:"
            " 4+2/65536."
        ) from error


def format_indexes(indexes: Iterable[int]) -> str:
    """``0,3``."""
    return ",".join(str(index) for index in sorted(indexes))


def parse_indexes(text: str) -> tuple[int, ...]:
    """Read what :func:`format_indexes` made.

    :raises InvalidRequest: it was not.
    """
    if not _LISTED.fullmatch(text):
        raise InvalidRequest("The shards' indexes are numbers with commas between them.")
    return tuple(sorted({int(part) for part in text.split(",")}))


# Digests


#: In the order of the fields of ShardDigest.
_DIGEST_BYTES = {
    b"sha-256": HASH_BYTES,
    b"dostore-shard": HASH_BYTES,
    b"dostore-check": CHECK_BYTES,
}


@frozen(slots=True)
class ShardDigest:
    """What a shard's Digest field promises. All may be absent.

    :ivar body: the SHA-256 of the plain bytes.
    :ivar shard: the shard hash, as it stands in the file's name.
    :ivar check: the XXH3-128 of the plain bytes.
    """

    body: bytes | None = None
    shard: bytes | None = None
    check: bytes | None = None

    def format(self) -> bytes:
        """The Digest field."""
        named = (
            (b"SHA-256", self.body),
            (b"dostore-shard", self.shard),
            (b"dostore-check", self.check),
        )
        return b",".join(b"%b=%b" % (n, base64.b64encode(d)) for n, d in named if d is not None)

    @classmethod
    def parse(cls, field: bytes | None) -> ShardDigest:
        """Read a Digest field; algorithms that are not known are passed over.

        :raises InvalidRequest: a digest is malformed, or there twice.
        """
        found: dict[bytes, bytes] = {}
        for item in (field or b"").split(b","):
            algorithm, _, value = item.strip(b" \t").partition(b"=")
            algorithm = algorithm.lower()
            if algorithm not in _DIGEST_BYTES:
                continue
            try:
                digest = base64.b64decode(value, validate=True)
            except binascii.Error as error:
                raise _bad_digest() from error
            if len(digest) != _DIGEST_BYTES[algorithm] or algorithm in found:
                raise _bad_digest()
            found[algorithm] = digest
        return cls(*map(found.get, _DIGEST_BYTES))


def _bad_digest() -> InvalidRequest:
    return InvalidRequest(
        "A digest is the base64 of 32 bytes, a check that of 16, and each kind is there once."
    )


# Ranges


def parse_range(field: bytes | None, size: int) -> tuple[int, int] | None:
    """The first byte and the number of bytes that a Range field asks for of ``size`` bytes.

    :returns: None when all of it is wanted: no range, a malformed one, or several.
    :raises ValueError: no byte of it is there.
    """
    match = _RANGE.fullmatch(field or b"")
    if match is None or match[1] == match[2] == b"":
        return None
    if match[1] == b"":
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first = int(match[1])
        last = min(int(match[2]) if match[2] else size - 1, size - 1)
        if match[2] and int(match[2]) < first:
            return None
    if first >= size:
        raise ValueError(f"there are {size} bytes")
    return first, last - first + 1


def parse_content_range(field: bytes | None) -> tuple[int, int, int] | None:
    """First byte, last byte and size that a Content-Range tells of; None when there is none."""
    match = _CONTENT_RANGE.fullmatch(field or b"")
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


# Blocks with their checks


def block_lengths(content: Content, first: int, count: int) -> list[int]:
    """Plain bytes of each of ``count`` blocks of a shard from block ``first`` on."""
    return content.scheme.block_lengths(content.size, first, count)


def frame(data: Block, lengths: Sequence[int]) -> list[Block]:
    """Blocks, each after its check: what is sent to who wants to verify them itself."""
    view = memoryview(data)
    pieces: list[Block] = []
    at = 0
    for length in lengths:
        block = view[at : at + length]
        pieces += (check_of(block), block)
        at += length
    return pieces


def unframe(data: Block, lengths: Sequence[int]) -> list[memoryview]:
    """The blocks of what :func:`frame` made.

    :raises BadShard: one does not match its check.
    """
    view = memoryview(data)
    blocks = []
    at = 0
    for number, length in enumerate(lengths):
        check, block = view[at : at + CHECK_BYTES], view[at + CHECK_BYTES :][:length]
        if check_of(block) != check:
            raise BadShard(f"Block {number} of those that came does not match its check.")
        blocks.append(block)
        at += CHECK_BYTES + length
    return blocks


# Lists, one line for each item


def format_glance(wanted: Sequence[tuple[Content, int]]) -> bytes:
    """The shards that are asked for: ``<hash>.<i> <size> <scheme>`` a line."""
    return b"".join(
        b"%b %d %b\n"
        % (shard_path(content.hash, index), content.size, format_scheme(content.scheme))
        for content, index in wanted
    )


def parse_glance(body: bytes) -> list[tuple[Content, int]]:
    """Read what :func:`format_glance` made.

    :raises InvalidRequest: it was not, or asks for more than MAX_GLANCES shards.
    """
    lines = body.split(b"\n")
    if len(lines) > MAX_GLANCES + 1 or lines.pop() != b"":
        raise InvalidRequest(f"A glance is at most {MAX_GLANCES} lines, each with its line end.")
    wanted = []
    for line in lines:
        parts = line.split(b" ")
        if len(parts) != 3:
            raise InvalidRequest("A line of a glance is <hash>.<i> <size> <scheme>.")
        content_hash, index = parse_shard_path(parts[0])
        if content_hash is None or index is None:
            raise _bad_name()
        size = parse_size(parts[1], "The size") or 0
        wanted.append((Content(content_hash, size, parse_scheme(parts[2])), index))
    return wanted


def format_positions(positions: Iterable[int]) -> bytes:
    """Which items of a list are meant: a number a line."""
    return b"".join(b"%d\n" % position for position in positions)


def parse_positions(body: bytes, count: int) -> list[int]:
    """Read what :func:`format_positions` made, of a list of ``count`` items.

    :raises InvalidRequest: it was not.
    """
    lines = body.split(b"\n")
    if lines.pop() != b"" or not all(_NUMBER.fullmatch(line) for line in lines):
        raise InvalidRequest("An answer to a glance is a number a line.")
    positions = [int(line) for line in lines]
    if any(position >= count for position in positions):
        raise InvalidRequest("An answer to a glance tells of what was not asked for.")
    return positions


def format_inventory(held: Iterable[tuple[ContentHash, Collection[int]]]) -> bytes:
    """What a node holds: ``<hash> <i>,<i>`` a line."""
    return "".join(
        f"{content_hash} {format_indexes(indexes)}\n" for content_hash, indexes in held
    ).encode("ascii")


def parse_inventory(body: bytes, page: int) -> Mapping[ContentHash, Collection[int]]:
    """Read what :func:`format_inventory` made of the contents whose hash begins with ``page``.

    :raises InvalidRequest: it was not.
    """
    held: dict[ContentHash, Collection[int]] = {}
    try:
        lines = body.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest("An inventory is ASCII.") from error
    if lines.pop() != "":
        raise InvalidRequest("An inventory ends with a line end.")
    for line in lines:
        name, _, indexes = line.partition(" ")
        content_hash = ContentHash.parse(name)
        if content_hash.digest[0] != page:
            raise InvalidRequest("A content is on another page than that of its first byte.")
        held[content_hash] = parse_indexes(indexes)
    return held
