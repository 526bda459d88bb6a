"""What else an API server asks a data server about its contents."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from dostore.core.datafields import (
    MAX_GLANCES,
    format_inventory,
    format_positions,
    parse_glance,
    parse_shard_path,
)
from dostore.core.names import ContentHash
from dostore.core.queries import parse_hash_path
from dostore.errors import InvalidRequest, NotFound, TooLarge
from dostore.ports import IShardNode
from dostore.web.request import Request
from dostore.web.resource import Resource

#: Of a glance's body: as many lines as are taken, each as long as can be.
_MAX_GLANCE_BYTES = MAX_GLANCES * 128

#: Lines of an inventory that are made and sent at a time.
_LINES = 1000

_TEXT = (b"Content-Type", b"text/plain; charset=us-ascii")


class Contents:
    """Questions about contents, and what is done to one as a whole."""

    def __init__(self, node: IShardNode) -> None:
        self._node = node
        self.renew = Resource("renew", {b"POST": self._renew})
        self.modified = Resource("modified", {b"GET": self._modified})
        self.discard = Resource("discard", {b"POST": self._discard})
        self.glance = Resource("glance", {b"POST": self._glance})
        self.inventory = Resource("inventory", {b"GET": self._inventory})

    async def _renew(self, request: Request, rest: bytes) -> None:
        """``POST /renew/<hash>``."""
        await self._node.renew(parse_hash_path(rest))
        request.respond(204, [])

    async def _modified(self, request: Request, rest: bytes) -> None:
        """``GET /modified/<hash>``."""
        seconds = await self._node.modified(parse_hash_path(rest))
        request.respond(200, [_TEXT], b"%.6f" % seconds)

    async def _discard(self, request: Request, rest: bytes) -> None:
        """``POST /discard/<hash>.<i>``."""
        content_hash, index = parse_shard_path(rest)
        if content_hash is None or index is None:
            raise InvalidRequest("Name one shard: the hash, a dot and the index.")
        await self._node.discard(content_hash, index)
        request.respond(204, [])

    async def _glance(self, request: Request, rest: bytes) -> None:
        """``POST /glance``."""
        if (request.body_length or 0) > _MAX_GLANCE_BYTES:
            raise TooLarge(f"A glance has at most {_MAX_GLANCE_BYTES} bytes. Ask in parts.")
        request.body.limit = _MAX_GLANCE_BYTES
        wanted = parse_glance(await request.body.read(_MAX_GLANCE_BYTES))
        faulty = set(await self._node.glance(wanted))
        positions = (number for number, pair in enumerate(wanted) if pair in faulty)
        request.respond(200, [_TEXT], format_positions(positions))

    async def _inventory(self, request: Request, rest: bytes) -> None:
        """``GET /inventory/<page>``."""
        if not rest.isdigit() or len(rest) > 3 or int(rest) > 255:
            raise NotFound("Pages go from 0 to 255: the first byte of the hashes on them.")
        held = iter((await self._node.inventory(int(rest))).items())
        sink = request.begin(200, [_TEXT], None)
        while lines := _some(held):
            await sink.write([lines])
        request.finish()


def _some(held: Iterator[tuple[ContentHash, Collection[int]]]) -> bytes:
    return format_inventory(islice(held, _LINES))
