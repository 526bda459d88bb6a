"""A version as a row of the database, and back: what is in it, and the check over it."""

from __future__ import annotations

import json
import sqlite3
from functools import lru_cache
from sys import intern
from typing import Any

from xxhash import xxh3_64_intdigest

from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme


class DamagedRow(sqlite3.DatabaseError):
    """A row that does not match its check."""


def row_of(version: Version) -> tuple[Any, ...]:
    """The columns of a version, the check last."""
    content = version.content
    stored: tuple[Any, ...] = (None, None, None, None, None)
    if content is not None:
        scheme = content.scheme
        stored = (content.hash.digest, content.size, scheme.k, scheme.m, scheme.block_size)
    meta = json.dumps(dict(version.meta), ensure_ascii=False) if version.meta else None
    row = (version.name, version.number, *stored, version.created, version.content_type, meta)
    return (*row, _check(row))


def _check(row: tuple[Any, ...]) -> int:
    """The check of a row's other columns, as a signed 64-bit integer."""
    name, number, digest, size, k, m, block_size, created, content_type, meta = row
    text = (
        f"{number} {size} {k} {m} {block_size} {len(name)} {name}{created}\0{content_type}\0{meta}"
    )
    return xxh3_64_intdigest(text.encode() + (digest or b"")) - (1 << 63)


def require_check(row: tuple[Any, ...]) -> None:
    """Compare a row with its check.

    :raises DamagedRow: it does not match.
    """
    try:
        if _check(row[:-1]) != row[-1]:
            raise DamagedRow("a version does not match its check")
    except (TypeError, ValueError, AttributeError) as error:
        # A column has another type than was written.
        raise DamagedRow("a version has a column of another type") from error


def version_of(row: tuple[Any, ...]) -> Version:
    """The version of a row.

    :raises DamagedRow: the row does not match its check.
    """
    require_check(row)
    name, number, digest, size, k, m, block_size, created, content_type, meta = row[:-1]
    content = None
    if digest is not None:
        content = Content(ContentHash(digest), size, _scheme(k, m, block_size))
    keys = {} if meta is None else json.loads(meta)
    # There are few types, and many versions are kept in memory.
    return Version(name, number, content, created, intern(content_type), keys)


@lru_cache(maxsize=64)
def _scheme(k: int, m: int, block_size: int) -> Scheme:
    return Scheme(k, m, block_size)
