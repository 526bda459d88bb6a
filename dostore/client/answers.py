"""What API servers answer, checked: they may be of another version, or no dostore at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from attrs import frozen

from dostore.client.failures import BadAnswer, Later, Refused
from dostore.core.httpfields import META_PREFIX, parse_digest
from dostore.core.names import ContentHash, check_object_name
from dostore.errors import (
    Busy,
    ContentLost,
    Corrupt,
    DigestMismatch,
    DostoreError,
    InvalidRequest,
    NoSpace,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    TooLarge,
)
from dostore.http.exchange import Answer, Fields

_LONGEST_DETAIL = 1000
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})\Z")

_REFUSALS: dict[int, type[DostoreError]] = {
    404: NotFound,
    412: PreconditionFailed,
    413: TooLarge,
    507: NoSpace,
}
_LATER = frozenset((408, 429, 502, 503, 504))


def error_of(answer: Answer) -> DostoreError:
    """What an answer that is no success says."""
    title, detail = _problem(answer.body)
    status = answer.status
    if not detail:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        detail = f"The server answered {status} {phrase}".rstrip() + "."
    if status in _LATER:
        after = one_field(answer.headers, b"retry-after") or ""
        return Later(detail, float(after) if _NUMBER.match(after) else None)
    if status == 409:
        return Busy(detail)
    if status == 400 and title == DigestMismatch.title:
        return DigestMismatch(detail)
    if status == 416:
        return RangeNotSatisfiable(detail, size=whole(answer.headers, b"upload-offset", default=0))
    if title == ContentLost.title:
        # It is 404, too, but no version is missing.
        return Corrupt(detail)
    return _REFUSALS.get(status, Refused)(detail)


def _problem(body: bytes) -> tuple[str, str]:
    """Title and detail of a problem document (RFC 9457), as far as it is one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(document, dict):
        return "", ""
    title, detail = document.get("title"), document.get("detail")
    return (
        title if isinstance(title, str) else "",
        detail[:_LONGEST_DETAIL] if isinstance(detail, str) else "",
    )


def one_field(headers: Fields, name: bytes) -> str | None:
    """The value of a field that is there once; None: it is not there.

    :raises BadAnswer: it is there twice.
    """
    lines = headers.getRawHeaders(name)
    if len(lines) > 1:
        raise BadAnswer(f"The answer has two {name.decode('ascii')} fields.")
    return lines[0].decode("latin-1") if lines else None


def whole(headers: Fields, name: bytes, default: int | None = None) -> int:
    """The value of a field that is a number of at most 19 digits.

    :raises BadAnswer: it is none, or not there and there is no default.
    """
    value = one_field(headers, name)
    if value is None and default is not None:
        return default
    if value is None or not _NUMBER.match(value):
        raise BadAnswer(
            f"The answer has no {name.decode('ascii')} that is a number: is that a dostore server?"
        )
    return int(value)


def hash_field(headers: Fields) -> ContentHash:
    """The hash of the content that an answer is about.

    :raises BadAnswer: it has none.
    """
    try:
        found = parse_digest(headers.getRawHeaders(b"digest"))
    except InvalidRequest as error:
        raise BadAnswer("The answer's Digest is malformed.") from error
    if found is None:
        raise BadAnswer("The answer has no Digest: is that a dostore server?")
    return found


def content_range(headers: Fields) -> tuple[int, int]:
    """Where a part begins, and how many bytes the whole has.

    :raises BadAnswer: it does not say, or does not go to the end.
    """
    match = _CONTENT_RANGE.match(one_field(headers, b"content-range") or "")
    if match is None:
        raise BadAnswer("The answer does not say which range it is.")
    first, last, size = map(int, match.groups())
    if last != size - 1:
        raise BadAnswer("The answer is not the range that was asked for.")
    return first, size


@frozen(slots=True)
class Stored:
    """A version as an answer to a write tells it."""

    version: int
    hash: ContentHash

    @classmethod
    def of(cls, headers: Fields) -> Stored:
        """Read an answer.

        :raises BadAnswer: it does not say which version it is.
        """
        return cls(whole(headers, b"x-object-version"), hash_field(headers))


@frozen(slots=True)
class About:
    """A version that can be read.

    :ivar modified: as the server writes it.
    """

    name: str
    version: int
    size: int
    hash: ContentHash
    content_type: str = ""
    modified: str = ""
    meta: Mapping[str, str] = {}

    @classmethod
    def of(cls, name: str, headers: Fields, size: int) -> About:
        """Read the answer to a GET or HEAD.

        :param size: of the whole object.
        :raises BadAnswer: it does not say what is needed.
        """
        prefix = META_PREFIX.decode("ascii")
        meta = {
            key.decode("latin-1").removeprefix(prefix): lines[0].decode("latin-1")
            for key, lines in headers.items()
            if key.startswith(META_PREFIX)
        }
        stored = Stored.of(headers)
        return cls(
            name,
            stored.version,
            size,
            stored.hash,
            one_field(headers, b"content-type") or "",
            one_field(headers, b"last-modified") or "",
            dict(sorted(meta.items())),
        )

    @property
    def etag(self) -> bytes:
        """For If-Range."""
        return f'"{self.hash}"'.encode("ascii")


@frozen(slots=True)
class Entry:
    """A line of a listing that is about a version.

    :ivar hash: None: it is a tombstone.
    :ivar fields: the line as it came.
    """

    name: str
    version: int
    size: int
    hash: ContentHash | None
    created: str
    fields: Mapping[str, Any]


@frozen(slots=True)
class Prefix:
    """A line of a listing that stands for all names that begin alike."""

    name: str

    @property
    def fields(self) -> Mapping[str, Any]:
        """The line as it came."""
        return {"Prefix": self.name}


def parse_line(line: bytes) -> Entry | Prefix:
    """Read a line of a listing.

    :raises BadAnswer: it is none, or its name cannot be an object's.
    """
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise ValueError("no JSON object")
        if "Prefix" in fields:
            return Prefix(_name(fields["Prefix"]))
        tag = _text(fields["Hash"])
        entry = Entry(
            _name(fields["Name"]),
            _number(fields["Version"]),
            _number(fields["Size"]),
            ContentHash.parse(tag) if tag else None,
            _text(fields.get("Created", "")),
            fields,
        )
    except (ValueError, TypeError, KeyError, RecursionError, InvalidRequest) as error:
        raise BadAnswer(
            "The listing has a line that is none: is that a dostore server of this version?"
        ) from error
    return entry


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _name(value: object) -> str:
    name = _text(value)
    check_object_name(name)
    return name


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("no number")
    return value


def parse_holders(body: bytes) -> dict[str, str]:
    """Read the answer of ``/locate/``: the node of each shard, by its index.

    :raises BadAnswer: it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(
        _NUMBER.match(index) and isinstance(address, str) for index, address in found.items()
    ):
        raise BadAnswer("The answer does not say who holds which shard.")
    return dict(sorted(found.items(), key=lambda item: int(item[0])))
