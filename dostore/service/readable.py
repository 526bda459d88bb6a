"""What it takes to answer a GET."""

from __future__ import annotations

from typing import Protocol

from dostore.core.model import Version
from dostore.core.stripes import Block
from dostore.ports import IWorkers
from dostore.service.reading import ContentReader


class Readable(Protocol):
    """Objects that can be read; :class:`dostore.service.objects.ObjectStore` tells of each."""

    workers: IWorkers

    async def find(self, name: str, number: int | None = None) -> Version:
        """See ObjectStore."""

    def read_now(self, version: Version, span: tuple[int, int] | None = None) -> Block | None:
        """See ObjectStore."""

    async def fetch(self, version: Version) -> Block | None:
        """See ObjectStore."""

    async def open(self, version: Version, span: tuple[int, int] | None = None) -> ContentReader:
        """See ObjectStore."""
