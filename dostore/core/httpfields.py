"""HTTP fields as values: parse, format and judge them, without a socket.

Field values come as the bytes that the client sent, one item for each line of the field. Everything
here takes time linear in its input. What is malformed raises InvalidRequest, with a sentence that
says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from attrs import frozen

from dostore.core.model import DEFAULT_CONTENT_TYPE, Version
from dostore.core.names import ContentHash
from dostore.errors import InvalidRequest, PreconditionFailed

#: The lines of each field of a request, by the field's name in lower case.
Fields = Mapping[bytes, Sequence[bytes]]

META_PREFIX = b"x-object-meta-"
MAX_META_KEYS = 64
#: Names without the prefix, and values, all together.
MAX_META_BYTES = 8192
MAX_CONTENT_TYPE_BYTES = 255

_CONDITIONAL = frozenset(
    (b"if-match", b"if-unmodified-since", b"if-none-match", b"if-modified-since")
)
_NO_LINES: Sequence[bytes] = ()

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_TIME = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH = rb"(?P<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
# RFC 9110 section 5.6.7: the form to send, and two that only old clients send.
_DATE_FORMS = (
    re.compile(
        rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>\d\d) " + _MONTH + rb" (?P<year>\d{4}) "
        + _TIME + rb" GMT"
    ),
    re.compile(
        rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>\d\d)-" + _MONTH
        + rb"-(?P<year>\d\d) " + _TIME + rb" GMT"
    ),
    re.compile(
        rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) " + _MONTH + rb" (?P<day>[ \d]\d) " + _TIME
        + rb" (?P<year>\d{4})"
    ),
)  # fmt: skip
_LONGEST_DATE = len("Wednesday, 06-Nov-94 08:49:37 GMT")

# The quantifiers are possessive: no input makes them go back.
_ENTITY_TAG = re.compile(rb'[ \t,]*+(W/)?"([\x21\x23-\x7e\x80-\xff]*+)"[ \t]*+(?=,|\Z)')
_BLANK = re.compile(rb"[ \t,]*+\Z")
_PRINTABLE = re.compile(rb"[\x20-\x7e]*+\Z")


# Digest and entity tags


def parse_digest(lines: Sequence[bytes]) -> ContentHash | None:
    """The SHA-256 of a Digest field (RFC 3230): ``SHA-256=<base64>``, maybe among other algorithms.

    :returns: None when there is no such field.
    :raises InvalidRequest: it has no SHA-256, two that differ, or a malformed one.
    """
    if not lines:
        return None
    found: ContentHash | None = None
    for item in b",".join(lines).split(b","):
        algorithm, equals, value = item.strip(b" \t").partition(b"=")
        if algorithm.lower() != b"sha-256" or not equals:
            continue
        digest = _digest_value(value)
        if found is not None and found != digest:
            raise InvalidRequest("The Digest field has two different SHA-256. Send one.")
        found = digest
    if found is None:
        raise InvalidRequest("The Digest field has no SHA-256. Write 'SHA-256=' and its base64.")
    return found


def _digest_value(value: bytes) -> ContentHash:
    try:
        return ContentHash.parse(value.decode("ascii"))
    except (UnicodeDecodeError, InvalidRequest) as error:
        raise InvalidRequest(
            "The Digest field is malformed. Write 'SHA-256=' and the base64 of the body's SHA-256,"
            " 44 characters."
        ) from error


def format_digest(content_hash: ContentHash) -> bytes:
    """The Digest field of an answer."""
    return b"SHA-256=" + str(content_hash).encode("ascii")


def format_etag(content_hash: ContentHash) -> bytes:
    """A version's entity tag: its hash, so equal bytes have equal tags."""
    return b'"' + str(content_hash).encode("ascii") + b'"'


def format_gzip_etag(content_hash: ContentHash) -> bytes:
    """The entity tag of a version's gzip form: it is another sequence of bytes."""
    return b'"' + str(content_hash).encode("ascii") + b'-gzip"'


@frozen(slots=True)
class EntityTags:
    """What an If-Match or If-None-Match field lists.

    :ivar anything: it was ``*``.
    :ivar strong: tags, with their quotes.
    :ivar weak: the tags that were marked ``W/``, without the mark.
    """

    anything: bool = False
    strong: frozenset[bytes] = frozenset()
    weak: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, lines: Sequence[bytes], name: str) -> EntityTags | None:
        """Read the field called ``name``; None when there is none.

        :raises InvalidRequest: it is neither ``*`` nor a list of quoted tags.
        """
        if not lines:
            return None
        text = b",".join(lines).strip(b" \t")
        if text == b"*":
            return cls(anything=True)
        tags: tuple[set[bytes], set[bytes]] = (set(), set())
        position = 0
        while match := _ENTITY_TAG.match(text, position):
            tags[bool(match[1])].add(b'"' + match[2] + b'"')
            position = match.end()
        if not _BLANK.match(text, position) or not (tags[0] or tags[1]):
            raise InvalidRequest(
                f'The {name} field is malformed. Write * or entity tags in quotes: "…", "…".'
            )
        return cls(strong=frozenset(tags[0]), weak=frozenset(tags[1]))

    def match_strongly(self, etag: bytes) -> bool:
        """Whether ``etag`` is listed, and not as a weak tag."""
        return self.anything or etag in self.strong

    def match_weakly(self, etag: bytes) -> bool:
        """Whether ``etag`` is listed."""
        return self.anything or etag in self.strong or etag in self.weak


# Dates


def parse_http_date(value: bytes) -> int | None:
    """Seconds since the epoch; None when it is no HTTP-date, which means: ignore the field."""
    if len(value) > _LONGEST_DATE:
        return None
    for form in _DATE_FORMS:
        if match := form.fullmatch(value):
            break
    else:
        return None
    parts = match.groupdict()
    year = int(parts["year"])
    if len(parts["year"]) == 2:
        year += 2000 if year < 70 else 1900
    try:
        moment = datetime(
            year,
            _MONTHS.index(parts["month"].decode("ascii")) + 1,
            int(parts["day"]),
            int(parts["hour"]),
            int(parts["minute"]),
            int(parts["second"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(moment.timestamp())


@lru_cache(1024)
def format_http_date(seconds: int) -> bytes:
    """``seconds`` since the epoch as ``Sun, 06 Nov 1994 08:49:37 GMT``, whatever the locale."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04}"
        f" {moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"
    ).encode("ascii")


def created_seconds(version: Version) -> int:
    """When a version was made, in whole seconds since the epoch, cut off."""
    return int(datetime.fromisoformat(version.created).timestamp() // 1)


# Conditions


@frozen(slots=True)
class Conditions:
    """The preconditions of a request, evaluated in the order of RFC 9110 section 13.2.2.

    Dates are seconds since the epoch; None stands for a field that is absent or not valid.
    """

    if_match: EntityTags | None = None
    if_unmodified_since: int | None = None
    if_none_match: EntityTags | None = None
    if_modified_since: int | None = None

    @classmethod
    def parse(cls, fields: Fields) -> Conditions | None:
        """The conditions among a request's fields, or None.

        :raises InvalidRequest: If-Match or If-None-Match is malformed.
        """
        if _CONDITIONAL.isdisjoint(fields):
            return None
        return cls(
            EntityTags.parse(fields.get(b"if-match", _NO_LINES), "If-Match"),
            _date_field(fields.get(b"if-unmodified-since", _NO_LINES)),
            EntityTags.parse(fields.get(b"if-none-match", _NO_LINES), "If-None-Match"),
            _date_field(fields.get(b"if-modified-since", _NO_LINES)),
        )

    def not_modified(self, version: Version, *, gzip: bool = False) -> bytes | None:
        """Whether a GET or HEAD of ``version``, which is no tombstone, is answered by 304.

        :param gzip: whether the client may be sent the gzip form. If not, having that is no help: a
            cache asks for all of its clients, with the tags of all that it has.
        :returns: the entity tag of what the client has; None: the answer is not 304.
        :raises PreconditionFailed: it is answered by 412.
        """
        etags, modified = _state(version)
        self._require_match(etags, modified)
        if self.if_none_match is not None:
            for etag in etags if gzip else etags[:1]:
                if self.if_none_match.match_weakly(etag):
                    return etag
            return None
        if self.if_modified_since is not None and modified <= self.if_modified_since:
            return etags[0]
        return None

    def check(self, current: Version | None) -> None:
        """Permit a PUT or DELETE on top of ``current``; None: there is none yet.

        :raises PreconditionFailed: it is not permitted.
        """
        etags, modified = _state(current)
        self._require_match(etags, modified)
        if self.if_none_match is not None and any(map(self.if_none_match.match_weakly, etags)):
            raise PreconditionFailed(
                "If-None-Match does not hold: the object exists with such an entity tag. Nothing"
                " was changed."
            )

    def _require_match(self, etags: Sequence[bytes], modified: int) -> None:
        if self.if_match is not None:
            if not any(map(self.if_match.match_strongly, etags)):
                raise PreconditionFailed(
                    "If-Match does not hold: the object's entity tag is another, or there is no"
                    " object. Fetch it again and decide anew."
                )
        elif self.if_unmodified_since is not None and (
            not etags or modified > self.if_unmodified_since
        ):
            raise PreconditionFailed(
                "If-Unmodified-Since does not hold: the object was changed after that, or there is"
                " none. Fetch it again and decide anew."
            )


def _date_field(lines: Sequence[bytes]) -> int | None:
    return parse_http_date(lines[0].strip(b" \t")) if len(lines) == 1 else None


def _state(version: Version | None) -> tuple[Sequence[bytes], int]:
    """The entity tags of a version, as it is and with gzip (none when there is nothing to GET), and
    its time.
    """
    if version is None or version.content is None:
        return (), 0
    content_hash = version.content.hash
    return (format_etag(content_hash), format_gzip_etag(content_hash)), created_seconds(version)


def write_check(fields: Fields) -> Callable[[Version | None], None] | None:
    """What a PUT's or DELETE's preconditions ask of the version before it; None: nothing.

    :raises InvalidRequest: If-Match or If-None-Match is malformed.
    """
    conditions = Conditions.parse(fields)
    return None if conditions is None else conditions.check


# What is kept with a version


def parse_content_type(lines: Sequence[bytes]) -> str:
    """The Content-Type to keep; the default when there is none.

    :raises InvalidRequest: more than one, longer than 255 bytes, or not printable ASCII.
    """
    if not lines or lines == [b""]:
        return DEFAULT_CONTENT_TYPE
    if len(lines) > 1:
        raise InvalidRequest("There are two Content-Type fields. Send one.")
    value = lines[0]
    if len(value) > MAX_CONTENT_TYPE_BYTES or not _PRINTABLE.match(value):
        raise InvalidRequest(
            f"Content-Type must be printable ASCII of at most {MAX_CONTENT_TYPE_BYTES} bytes."
        )
    return value.decode("ascii")


def parse_meta(fields: Fields) -> dict[str, str]:
    """The ``X-Object-Meta-*`` fields, by their names in lower case without that prefix.

    :raises InvalidRequest: a name twice or empty, a value that is not printable ASCII, or too many.
    """
    meta: dict[str, str] = {}
    total = 0
    for name, lines in fields.items():
        if not name.startswith(META_PREFIX):
            continue
        key = name[len(META_PREFIX) :]
        if not key:
            raise InvalidRequest("There is an X-Object-Meta- field without a key. Name it.")
        shown = key.decode("ascii")
        if len(lines) != 1:
            raise InvalidRequest(f"X-Object-Meta-{shown} is there twice. Send it once.")
        if not _PRINTABLE.match(lines[0]):
            raise InvalidRequest(
                f"The value of X-Object-Meta-{shown} is not printable ASCII. Encode it, for"
                " instance as base64."
            )
        total += len(key) + len(lines[0])
        meta[shown] = lines[0].decode("ascii")
    if len(meta) > MAX_META_KEYS or total > MAX_META_BYTES:
        raise InvalidRequest(
            f"The X-Object-Meta- fields are {len(meta)} with {total} bytes; at most"
            f" {MAX_META_KEYS} with {MAX_META_BYTES} bytes are kept."
        )
    return meta
