"""The header section of a request (RFC 9112), read without a socket.

Bytes in, values out. It is read when all of it is there, by one pass over it; until then only what
can no longer become one is refused, and nothing is waited for beyond the limits. No more is taken
than the grammar allows: no bare LF or CR, no folded field, no space before a colon, no length that
could be understood in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import define, frozen

from dostore.errors import (
    DostoreError,
    ExpectationFailed,
    HeadTooLarge,
    InvalidRequest,
    TargetTooLong,
    TooLarge,
    UnknownCoding,
)

Fields = dict[bytes, list[bytes]]

_LINE_END = b"\r\n"
_END = b"\r\n\r\n"

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(%b++) ([\x21-\x7f]++) (HTTP/1\.[01])(?=\r\n|\Z)" % _TCHAR)
_FIELDS = re.compile(rb"(?:\r\n%b{1,256}+:[\t\x20-\x7e\x80-\xff]*+)*+\Z" % _TCHAR)
_BARE_LINE_END = re.compile(rb"(?<!\r)\n")

#: Digits of a Content-Length.
_MAX_LENGTH_DIGITS = 19


@frozen(slots=True)
class HeadLimits:
    """How much there may be of a header section.

    :ivar line_bytes: of the request line, and of each field's line, without their ends.
    :ivar section_bytes: of all lines, without their ends.
    :ivar fields: how many lines of fields.
    """

    line_bytes: int = 16_384
    section_bytes: int = 32_768
    fields: int = 128


@define(slots=True)
class RequestHead:
    """What a header section says.

    :ivar method: as the client wrote it.
    :ivar target: as the client wrote it.
    :ivar version: ``HTTP/1.1`` or ``HTTP/1.0``.
    :ivar fields: the lines of each field, by its name in lower case.
    :ivar length: of the body; 0 also when there is none; None: it comes in chunks.
    :ivar persistent: whether another request may follow on the connection.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    length: int | None
    persistent: bool


def read_head(data: bytes, looked_at: int, limits: HeadLimits) -> tuple[RequestHead, int] | None:
    """The header section that ``data`` begins with, and where what follows it begins.

    :param looked_at: as many of the bytes were passed before, and were no whole header section.
    :returns: None: the rest of it has not come.
    :raises DostoreError: it is none, or has too much of something.
    """
    # RFC 9112 section 2.2: one empty line before a request is ignored.
    start = 2 if data.startswith(_LINE_END) else 0
    end = data.find(_END, max(start, looked_at - 3))
    if end < 0:
        _check_beginning(data[start:], max(0, looked_at - start), limits)
        return None
    return _parse(data[start:end], limits), end + len(_END)


def _check_beginning(data: bytes, looked_at: int, limits: HeadLimits) -> None:
    """Refuse what cannot become a header section, whatever follows."""
    first = data.find(_LINE_END)
    # A CR may be half of a line end.
    line_bytes = len(data) - data.endswith(b"\r") if first < 0 else first
    if line_bytes > limits.line_bytes:
        raise _target_too_long()
    if _BARE_LINE_END.search(data, max(0, looked_at - 1)):
        raise _malformed()
    if first < 0:
        return
    if first + 1 >= looked_at and not _REQUEST_LINE.fullmatch(data, 0, first):
        raise _fault(data[:first])
    ends = data.count(_LINE_END)
    last_bytes = len(data) - data.rfind(_LINE_END) - len(_LINE_END)
    if (
        ends - 1 > limits.fields
        or len(data) - len(_LINE_END) * ends > limits.section_bytes
        or last_bytes - data.endswith(b"\r") > limits.line_bytes
    ):
        raise _too_large(limits)


def _parse(section: bytes, limits: HeadLimits) -> RequestHead:
    """A header section that is whole, without the empty line at its end."""
    lines = section.split(_LINE_END)
    if len(section) > limits.line_bytes:
        _check_line_lengths(lines, limits)
    first = _REQUEST_LINE.match(section)
    if first is None:
        raise _fault(lines[0])
    if (
        len(lines) - 1 > limits.fields
        or len(section) - len(_LINE_END) * (len(lines) - 1) > limits.section_bytes
    ):
        raise _too_large(limits)
    if not _FIELDS.match(section, first.end()):
        raise _fault(*lines)
    fields: Fields = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in fields:
            fields[name].append(value.strip(b" \t"))
        else:
            fields[name] = [value.strip(b" \t")]
    method, target, version = first.groups()
    current = version == b"HTTP/1.1"
    _check_fields(fields, current)
    persistent = current and not (b"connection" in fields and _closes(fields[b"connection"]))
    return RequestHead(method, target, version, fields, _body_length(fields, current), persistent)


def _check_line_lengths(lines: Sequence[bytes], limits: HeadLimits) -> None:
    if len(lines[0]) > limits.line_bytes:
        raise _target_too_long()
    if max(map(len, lines)) > limits.line_bytes:
        raise _too_large(limits)


def _check_fields(fields: Fields, current: bool) -> None:
    hosts = fields.get(b"host")
    if (current or hosts is not None) and (hosts is None or len(hosts) != 1):
        raise InvalidRequest("There is not exactly one Host field.")
    if b"expect" in fields and fields[b"expect"][0].lower() != b"100-continue":
        raise ExpectationFailed("Only 'Expect: 100-continue' can be met.")


def _body_length(fields: Fields, current: bool) -> int | None:
    lengths = fields.get(b"content-length")
    codings = fields.get(b"transfer-encoding")
    if codings is not None:
        if codings[0].lower() != b"chunked":
            raise UnknownCoding("Of the transfer codings, only chunked is known.")
        if lengths is not None or len(codings) > 1:
            raise InvalidRequest("Send Content-Length or Transfer-Encoding, and once.")
        if not current:
            raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding.")
        return None
    if lengths is None:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise InvalidRequest("The body's length is given twice, or is no decimal number.")
    if len(lengths[0]) > _MAX_LENGTH_DIGITS:
        raise TooLarge("No body can be as long as Content-Length says.")
    return int(lengths[0])


def _closes(lines: Sequence[bytes]) -> bool:
    """Whether a Connection field has ``close``."""
    return any(
        item.strip(b" \t").lower() == b"close" for line in lines for item in line.split(b",")
    )


def _fault(first: bytes, *fields: bytes) -> DostoreError:
    """What is wrong with lines that are not as they must be."""
    words = first.split(b" ")
    if len(words) == 3 and not words[1].isascii():
        return InvalidRequest("The target is not ASCII. Percent-escape it.")
    if any(line.startswith((b" ", b"\t")) for line in fields):
        return InvalidRequest("A header field is folded. Write it in one line.")
    return _malformed()


def _malformed() -> DostoreError:
    return InvalidRequest("The request line or a header field is malformed.")


def _target_too_long() -> DostoreError:
    return TargetTooLong("The request line is too long. Shorten the target.")


def _too_large(limits: HeadLimits) -> DostoreError:
    return HeadTooLarge(
        f"Request line and header fields take at most {limits.section_bytes} bytes and"
        f" {limits.fields} lines. Send less."
    )
