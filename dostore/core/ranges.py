"""Range, If-Range and Content-Range (RFC 9110, 13.1.5 and 14), and multipart/byteranges."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from dostore.core.httpfields import created_seconds, format_etag, parse_http_date
from dostore.core.model import Version
from dostore.errors import InvalidRequest, RangeNotSatisfiable

#: More ranges than this in one request are refused: they cost the server more than the client.
MAX_RANGES = 16

#: 16 ranges of 19 digits at each end, with blanks between them, are shorter.
_MAX_FIELD_BYTES = 1024

#: 2^63 has 19 digits, and no object is longer.
_RANGE = re.compile(rb"(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))")
_PART = re.compile(rb"bytes=([0-9]{1,19})-([0-9]{0,19})")


@frozen(slots=True)
class Span:
    """Consecutive bytes of a content of ``size`` bytes: ``start`` … ``stop - 1``."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.stop - self.start

    def content_range(self) -> bytes:
        """The value of Content-Range."""
        return b"bytes %d-%d/%d" % (self.start, self.stop - 1, self.size)


def parse_ranges(lines: Sequence[bytes], size: int) -> tuple[Span, ...]:
    """Read a Range field.

    :param lines: the field's lines.
    :param size: bytes of the content.
    :returns: the ranges that have bytes of the content, in the order asked for; none when there is
        no such field, or it is in another unit than bytes, which is to be ignored.
    :raises InvalidRequest: it is malformed, has too many ranges, or asks for bytes twice.
    :raises RangeNotSatisfiable: none of its ranges has bytes of the content.
    """
    if not lines:
        return ()
    value = b",".join(lines)
    unit, equals, items = value.partition(b"=")
    if unit.strip(b" \t").lower() != b"bytes":
        return ()
    if len(value) > _MAX_FIELD_BYTES or items.count(b",") >= 2 * MAX_RANGES:
        raise InvalidRequest(f"At most {MAX_RANGES} ranges can be asked for at once.")
    asked = [item for item in (part.strip(b" \t") for part in items.split(b",")) if item]
    if not equals or not asked:
        raise InvalidRequest("The Range names no bytes. Write bytes=0-99, bytes=100- or bytes=-50.")
    if len(asked) > MAX_RANGES:
        raise InvalidRequest(f"At most {MAX_RANGES} ranges can be asked for at once.")
    spans = [span for span in (_span(item, size) for item in asked) if span is not None]
    if not spans:
        raise RangeNotSatisfiable(
            f"The object has {size} bytes, and none of them is in the range.", size=size
        )
    if sum(span.length for span in spans) > size:
        raise InvalidRequest("The ranges overlap. Ask for each byte once.")
    return tuple(spans)


def parse_part(lines: Sequence[bytes]) -> tuple[int, int | None]:
    """Read the Range field of a part of an upload, which says where the part belongs.

    :param lines: the field's lines; without any, the part begins at the first byte.
    :returns: the first byte, and the number of bytes if a last one is named.
    :raises InvalidRequest: it is none, or one of several ranges.
    """
    if not lines:
        return 0, None
    match = _PART.fullmatch(b",".join(lines))
    if match is None:
        raise InvalidRequest("Range says where the part belongs: bytes=50000-, say.")
    first = int(match[1])
    if not match[2]:
        return first, None
    if int(match[2]) < first:
        raise InvalidRequest("The part's Range ends before it begins.")
    return first, int(match[2]) - first + 1


def _span(item: bytes, size: int) -> Span | None:
    match = _RANGE.fullmatch(item)
    if match is None:
        raise InvalidRequest("A range is malformed. Write bytes=0-99, bytes=100- or bytes=-50.")
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start = int(first)
        stop = min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            raise InvalidRequest("A range ends before it begins.")
    return Span(start, stop, size) if start < stop else None


def if_range_holds(lines: Sequence[bytes], version: Version) -> bool:
    """Whether a range may be served: no If-Range, or one that names this very version.

    A weak entity tag never does, nor a date other than the version's own.
    """
    if not lines or version.content is None:
        return True
    value = b",".join(lines).strip(b" \t")
    if value == format_etag(version.content.hash):
        return True
    date = None if value.startswith((b'"', b"W/")) else parse_http_date(value)
    return date is not None and date == created_seconds(version)


@frozen(slots=True)
class Multipart:
    """A body of type multipart/byteranges (RFC 9110, section 14.6).

    :ivar content_type: of the whole object, told with each part.
    :ivar boundary: must not occur in the content; a random one does not.
    """

    spans: tuple[Span, ...]
    content_type: bytes
    boundary: bytes

    def head(self, span: Span) -> bytes:
        """What stands before a part."""
        return b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n" % (
            self.boundary,
            self.content_type,
            span.content_range(),
        )

    def tail(self) -> bytes:
        """What stands after the last part."""
        return b"\r\n--%b--\r\n" % self.boundary

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return sum(len(self.head(span)) + span.length for span in self.spans) + len(self.tail())
