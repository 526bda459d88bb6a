"""Fills a store on one machine with many names and shards, by the store's own parts.

``python -m benchmarks.fill ROOT NAMES CONTENTS [OPTION...]`` makes the objects ``many/0000000`` and
so on, of so many contents in turn. No HTTP: that would take several times as long.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from zope.interface import implementer

from benchmarks.bodies import part
from dostore.adapters.files import Files
from dostore.app.api_tap import Options
from dostore.app.config import read_config
from dostore.app.embedded import Embedded
from dostore.app.process import allow_open_files
from dostore.app.server import Threads
from dostore.core.model import Content, Draft
from dostore.fanout import gather
from dostore.ports import IByteSource
from dostore.service.objects import ObjectStore

PREFIX = "many/"
SALT = 0
SIZE = 4096

#: Objects that are written, and names that are added, at the same time.
_WRITERS = 128
_BATCH = 5000


@implementer(IByteSource)
class _Body:
    """A body that is there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, size: int) -> bytes:
        """See IByteSource."""
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def read_some(self, size: int) -> bytes:
        """See IByteSource."""
        return await self.read(size)


class _Filled(Embedded):
    """A store that is filled once it has started."""

    async def fill(self, names: int, contents: int) -> None:
        """Make the objects."""
        assert self._store is not None, "it was started"
        store = self._store
        found: list[Content | None] = [None] * contents
        numbers = iter(range(contents))
        outcomes = await gather([_write(store, numbers, found) for _ in range(_WRITERS)])
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        created = (await store.find(f"{PREFIX}{0:07}", None)).created
        rest = iter(range(contents, names))
        while batch := list(islice(rest, _BATCH)):
            added = await gather(
                [
                    store.metadata.add(Draft(f"{PREFIX}{n:07}", found[n % contents], created))
                    for n in batch
                ]
            )
            for each in added:
                if each.error is not None:
                    raise each.error


async def _write(store: ObjectStore, numbers: Any, found: list[Content | None]) -> None:
    for number in numbers:
        version = await store.put(
            f"{PREFIX}{number:07}",
            _Body(part(SALT, number, 0, SIZE)),
            digest=None,
            content_type="application/octet-stream",
            meta={},
        )
        found[number] = version.content


async def _main(reactor: Any, root: str, names: int, contents: int, more: Sequence[str]) -> None:
    options = Options()  # type: ignore[no-untyped-call]
    options.parseOptions([f"--storage-root={root}", *more])  # type: ignore[no-untyped-call]
    config = read_config(options, {}, "/", allow_open_files())
    threads = Threads(reactor)
    parts = _Filled(config, Files(), threads, reactor)
    await parts.start()
    try:
        await parts.fill(names, contents)
    finally:
        await parts.stop()
        threads.stop()


if __name__ == "__main__":
    _root, _names, _contents, *_more = sys.argv[1:]
    react(
        lambda reactor: Deferred.fromCoroutine(
            _main(reactor, _root, int(_names), int(_contents), _more)
        )
    )
