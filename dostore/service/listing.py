"""Listings: pages of versions in the order of names, however many there are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from attrs import frozen

from dostore.core.model import Version
from dostore.core.names import successor
from dostore.errors import NotFound
from dostore.ports import IMetadataStore

#: Rows asked of the metadata store at a time; what a listing holds in memory.
PAGE_ROWS = 1000

#: Rows asked for where the last ones were all rolled up to one prefix: it may stand for millions
#: of names, of which those that are read are read in vain.
_FEW_ROWS = 8


@frozen(slots=True)
class CommonPrefix:
    """What stands for all names that begin with it, up to and with the delimiter."""

    prefix: str


def _after(name: str) -> str:
    """The least name greater than ``name``: names hold no NUL."""
    return name + "\0" if name else ""


async def list_objects(
    metadata: IMetadataStore,
    *,
    prefix: str = "",
    after: str = "",
    limit: int | None = None,
    delimiter: str = "",
) -> AsyncIterator[list[Version | CommonPrefix]]:
    """Current objects, ascending by name.

    :param after: only names, and common prefixes, greater than this: the last one of a page before.
    :param limit: at most this many entries; None for all.
    :param delimiter: names that hold it after the prefix are rolled up to one CommonPrefix each.
    """
    start: str | None = max(_after(after), prefix)
    told = _common(after, prefix, delimiter) if after.startswith(prefix) else None
    if told is not None:
        # The page before ended with a common prefix, or within one: all of it was told.
        start = successor(told)
    left = limit
    most = min(_FEW_ROWS, PAGE_ROWS) if delimiter else PAGE_ROWS
    while start is not None and left != 0:
        rows = most if left is None else min(most, left)
        versions = await metadata.current(prefix, start, rows)
        page: list[Version | CommonPrefix] = []
        common: str | None = None
        for version in versions:
            if common is not None and version.name.startswith(common):
                continue
            common = _common(version.name, prefix, delimiter)
            page.append(version if common is None else CommonPrefix(common))
        start = None
        if len(versions) == rows:
            # However many more names the last prefix stands for, they are stepped over, not read.
            start = _after(versions[-1].name) if common is None else successor(common)
        if delimiter:
            most = min(PAGE_ROWS, max(_FEW_ROWS, 4 * len(page)))
        if page:
            if left is not None:
                left -= len(page)
            yield page


def _common(name: str, prefix: str, delimiter: str) -> str | None:
    """What a name is rolled up to, or None when it stands for itself."""
    at = name.find(delimiter, len(prefix)) if delimiter else -1
    return None if at < 0 else name[: at + len(delimiter)]


async def list_versions(
    metadata: IMetadataStore, *, prefix: str = "", after: str = "", limit: int | None = None
) -> AsyncIterator[list[Version]]:
    """Every version of every object, ascending by name, then number.

    :param after: only names greater than this.
    """
    start, first, left = max(_after(after), prefix), 1, limit
    while left != 0:
        rows = PAGE_ROWS if left is None else min(PAGE_ROWS, left)
        page = list(await metadata.versions(prefix, start, first, rows))
        if page:
            if left is not None:
                left -= len(page)
            start, first = page[-1].name, page[-1].number + 1
            yield page
        if len(page) < rows:
            return


async def history(
    metadata: IMetadataStore, name: str, *, after: int = 0, limit: int | None = None
) -> AsyncIterator[list[Version]]:
    """The versions of one object, oldest first.

    :param after: only numbers greater than this.
    :raises NotFound: before the first page, when there is no such object.
    """
    if await metadata.latest(name) is None:
        raise NotFound("There is no such object.")
    first, left = after + 1, limit
    while left != 0:
        rows = PAGE_ROWS if left is None else min(PAGE_ROWS, left)
        page = list(await metadata.history(name, first, rows))
        if page:
            if left is not None:
                left -= len(page)
            first = page[-1].number + 1
            yield page
        if len(page) < rows:
            return
