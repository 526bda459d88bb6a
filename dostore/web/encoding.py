"""Answers with ``Content-Encoding: gzip``: whether it is worth it, and the gzip itself.

Level 1 of igzip takes 2 ms for a MiB of text. Its level 3 takes twice that and saves hardly more,
and zlib takes five times as long. More than a little of it is done by workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from isal import isal_zlib
from zope.interface import implementer

from dostore.ports import IByteSink, IWorkers
from dostore.web.request import Header

#: Below this, the headers are most of what is sent.
MIN_BYTES = 1024

CONTENT_ENCODING: Header = (b"Content-Encoding", b"gzip")
VARY: Header = (b"Vary", b"Accept-Encoding")

_LEVEL = 1
#: Has isal_zlib write gzip rather than zlib's own format.
_GZIP_WBITS = 31

#: To compress so much takes about as long as to go to a worker and back.
_INLINE_BYTES = 32 * 1024

#: A sample is so many slices of so many bytes.
_SLICES = 3
_SLICE_BYTES = 8 * 1024

#: What is sent must be less than this part of the content.
_WORTH_IT = 0.9

Pieces = Sequence[bytes | memoryview]

_compress = partial(isal_zlib.compress, level=_LEVEL, wbits=_GZIP_WBITS)


def is_worth_it(size: int, compressed: int) -> bool:
    """Whether ``compressed`` bytes in place of ``size`` save enough."""
    return compressed < size * _WORTH_IT


def looks_worth_it(pieces: Pieces) -> bool:
    """Judge by a sample: the beginning, the middle and the end of some bytes."""
    data = b"".join(pieces)
    sample = data
    if len(data) > _SLICES * _SLICE_BYTES:
        step = (len(data) - _SLICE_BYTES) // (_SLICES - 1)
        starts = range(0, _SLICES * step, step)
        sample = b"".join(data[start : start + _SLICE_BYTES] for start in starts)
    return is_worth_it(len(sample), len(_compress(sample)))


async def compress(body: bytes | memoryview, workers: IWorkers) -> bytes:
    """The gzip of a small body."""
    if len(body) <= _INLINE_BYTES:
        return _compress(body)
    compressed: bytes = await workers.run(_compress, body)
    return compressed


@implementer(IByteSink)
class GzipSink:
    """Writes the gzip of what it is given to another sink; its end is written by :meth:`finish`.

    :param workers: threads that compress.
    :ivar taken: bytes that it was given.
    """

    def __init__(self, sink: IByteSink, workers: IWorkers) -> None:
        self.taken = 0
        self._sink = sink
        self._workers = workers
        self._gzip = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WBITS)

    async def write(self, pieces: Pieces) -> None:
        """See IByteSink."""
        size = sum(map(len, pieces))
        self.taken += size
        if size <= _INLINE_BYTES:
            compressed = self._feed(pieces)
        else:
            compressed = await self._workers.run(self._feed, pieces)
        await self._sink.write(compressed)

    def _feed(self, pieces: Pieces) -> list[bytes]:
        return [self._gzip.compress(piece) for piece in pieces]

    async def finish(self) -> None:
        """All was written: without this, nobody can take what was sent for the whole."""
        await self._sink.write([self._gzip.flush()])
