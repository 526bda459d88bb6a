"""The queries of the native API as values: ``?version=``, and what the listings take.

Everything here takes time linear in its input. What is malformed raises InvalidRequest, with a
sentence that says what would be right; parameters that are not known are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from attrs import frozen

from dostore.core.names import MAX_NAME_BYTES, ContentHash
from dostore.errors import InvalidRequest

#: The largest version number, and the largest limit: what a signed 64-bit column holds.
MAX_NUMBER = 2**63 - 1

_CANONICAL_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z")
_WILD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def parse_query(query: bytes) -> dict[str, str]:
    """The parameters after the ``?``, percent-decoded, ``+`` as a space.

    :raises InvalidRequest: a parameter is there twice, is not UTF-8, or has a ``%`` that escapes
        nothing.
    """
    parameters: dict[str, str] = {}
    for item in filter(None, query.split(b"&")):
        if _WILD_PERCENT.search(item):
            raise InvalidRequest("The query has a '%' that escapes nothing. Write it as %25.")
        try:
            name, value = (
                unquote_to_bytes(part.replace(b"+", b" ")).decode("utf-8")
                for part in item.partition(b"=")[::2]
            )
        except UnicodeDecodeError as error:
            raise InvalidRequest("The query is not UTF-8. Percent-escape its bytes.") from error
        if name in parameters:
            raise InvalidRequest("The query has a parameter twice. Give it once.")
        parameters[name] = value
    return parameters


def parse_version_number(query: bytes) -> int | None:
    """``?version=N``: a number from 1 to 2^63 - 1 without sign or leading zeros, or None.

    :raises InvalidRequest: it is anything else.
    """
    return _number(parse_query(query), "version", least=1) if query else None


def _number(parameters: Mapping[str, str], name: str, *, least: int) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    if not _CANONICAL_NUMBER.match(text) or not least <= int(text) <= MAX_NUMBER:
        raise InvalidRequest(
            f"?{name}= takes a whole number from {least} to {MAX_NUMBER}, without sign or leading"
            " zeros."
        )
    return int(text)


@frozen(slots=True)
class ListingQuery:
    """Which part of a listing is asked for. Empty strings and None ask for no restriction.

    :ivar after: list what comes after this name.
    :ivar limit: at most so many lines.
    """

    prefix: str = ""
    after: str = ""
    limit: int | None = None
    delimiter: str = ""

    @classmethod
    def parse(cls, query: bytes) -> ListingQuery:
        """Read a query.

        :raises InvalidRequest: a parameter is not what it must be.
        """
        parameters = parse_query(query)
        return cls(
            _name_part(parameters, "prefix"),
            _name_part(parameters, "after"),
            _number(parameters, "limit", least=1),
            _name_part(parameters, "delimiter"),
        )


@frozen(slots=True)
class HistoryQuery:
    """Which versions of one object are asked for.

    :ivar after: list the versions after this number.
    """

    after: int = 0
    limit: int | None = None

    @classmethod
    def parse(cls, query: bytes) -> HistoryQuery:
        """Read a query.

        :raises InvalidRequest: a parameter is not what it must be.
        """
        parameters = parse_query(query)
        return cls(
            _number(parameters, "after", least=0) or 0, _number(parameters, "limit", least=1)
        )


def _name_part(parameters: Mapping[str, str], name: str) -> str:
    text = parameters.get(name, "")
    if len(text.encode("utf-8")) > MAX_NAME_BYTES or _CONTROL.search(text):
        raise InvalidRequest(
            f"?{name}= takes at most {MAX_NAME_BYTES} bytes of UTF-8 without control characters."
        )
    return text


def parse_hash_path(escaped: bytes) -> ContentHash:
    """The hash at the end of a path; its ``/`` may be escaped or not.

    :raises InvalidRequest: it is not the base64 of a SHA-256.
    """
    try:
        return ContentHash.parse(unquote_to_bytes(escaped).decode("ascii"))
    except UnicodeDecodeError as error:
        raise InvalidRequest("A hash is the base64 of a SHA-256: 44 characters.") from error
