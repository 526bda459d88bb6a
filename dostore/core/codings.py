"""Content codings of answers (RFC 9110, sections 8.4 and 12.5.3): gzip, or none."""

from __future__ import annotations

import re

from attrs import frozen

from dostore.core.httpfields import Fields

#: A longer Accept-Encoding counts as malformed: all codings there are, with weights, are shorter.
_MAX_FIELD_BYTES = 1024

_ITEM = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)"
    rb"(?:[ \t]*+;[ \t]*+[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)
_NO_TRANSFORM = re.compile(rb"(?:\A|,)[ \t]*+no-transform[ \t]*+(?=,|\Z)", re.IGNORECASE)

#: What is compressed already, by the first part of its media type and by the whole of it.
_COMPRESSED_KINDS = frozenset(("audio", "image", "video"))
_COMPRESSED = frozenset(
    f"application/{name}"
    for name in (
        "gzip",
        "java-archive",
        "vnd.android.package-archive",
        "vnd.debian.binary-package",
        "vnd.rar",
        "x-7z-compressed",
        "x-bzip",
        "x-bzip2",
        "x-compress",
        "x-gzip",
        "x-lzma",
        "x-rar-compressed",
        "x-rpm",
        "x-xz",
        "x-zip-compressed",
        "zip",
        "zlib",
        "zstd",
    )
) | {"font/woff", "font/woff2"}
_COMPRESSED_FAMILIES = (
    "application/vnd.oasis.opendocument.",
    "application/vnd.openxmlformats-officedocument.",
)
#: Text that one would not expect among images.
_TEXT_SUFFIXES = ("+xml", "+json")


@frozen(slots=True)
class Codings:
    """How the client takes an answer.

    :ivar gzip: it takes gzip, and does not like the bytes as they are better.
    :ivar identity: it takes the bytes as they are. They are sent too where it takes nothing at all.
    """

    gzip: bool = False
    identity: bool = True

    @classmethod
    def of(cls, fields: Fields) -> Codings:
        """What the fields of a request say. Without Accept-Encoding, or with a malformed one, and
        where Cache-Control has no-transform, the bytes as they are.
        """
        lines = fields.get(b"accept-encoding")
        if lines is None or _NO_TRANSFORM.search(b",".join(fields.get(b"cache-control", ()))):
            return AS_THEY_ARE
        weights = _weights(b",".join(lines))
        if weights is None:
            return AS_THEY_ARE
        others = weights.get(b"*")
        gzip = weights.get(b"gzip", others) or 0
        identity = weights.get(b"identity", others)
        # Not mentioned at all, the bytes as they are will do, but anything mentioned is better.
        return cls(gzip > 0 and gzip >= (identity or 0), identity != 0)


AS_THEY_ARE = Codings()


def _weights(value: bytes) -> dict[bytes, int] | None:
    """The weight of each coding in thousandths, the least of those it has; None: malformed."""
    if len(value) > _MAX_FIELD_BYTES:
        return None
    weights: dict[bytes, int] = {}
    for item in value.split(b","):
        stripped = item.strip(b" \t")
        if not stripped:
            continue
        match = _ITEM.fullmatch(stripped)
        if match is None:
            return None
        coding = match[1].lower()
        if coding == b"x-gzip":
            coding = b"gzip"
        weight = 1000 if match[2] is None else int(match[2].replace(b".", b"").ljust(4, b"0"))
        weights[coding] = min(weight, weights.get(coding, weight))
    return weights


def may_shrink(content_type: str) -> bool:
    """Whether it is worth a try to compress what has this media type."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.endswith(_TEXT_SUFFIXES):
        return True
    return not (
        media_type.partition("/")[0] in _COMPRESSED_KINDS
        or media_type in _COMPRESSED
        or media_type.endswith("+zip")
        or media_type.startswith(_COMPRESSED_FAMILIES)
    )
