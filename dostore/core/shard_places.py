"""Where the shards of contents are on the drives of this machine, and which of them were read: as
one process tells another.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from attrs import frozen

from dostore.core.logrecord import decode_versions, encode_version, join_versions
from dostore.core.model import Content, Version
from dostore.core.names import HASH_BYTES, ContentHash
from dostore.core.scheme import Scheme
from dostore.core.worker_messages import READ, TOLD

_ANSWER = struct.Struct("<cQII")
_FILE = struct.Struct(f"<BHB{HASH_BYTES}s")
_RECORD = struct.Struct("<BHBQQQI")
_IN_FILE, _IN_VOLUME = 1, 2

#: Hash, size, k, m and block size of a content, and of which shards it was read.
_CONTENT = struct.Struct(f"<{HASH_BYTES}sQBBIBB")


@frozen(slots=True)
class InFile:
    """A shard in a file of its own.

    :ivar drive: the position of the drive among those of the store.
    """

    drive: int
    index: int
    shard_hash: bytes


@frozen(slots=True)
class InVolume:
    """A packed shard.

    :ivar seed: of the volume.
    :ivar length: bytes of the record's body.
    """

    drive: int
    index: int
    volume: int
    seed: int
    offset: int
    length: int


ShardPlace = InFile | InVolume


def format_answer(question: int, version: Version | None, places: Sequence[ShardPlace]) -> bytes:
    """The answer to a question; no version: nothing that another process could read."""
    told = b"" if version is None else join_versions([encode_version(version)])
    pieces = [_ANSWER.pack(TOLD, question, len(told), len(places)), told]
    for place in places:
        if isinstance(place, InFile):
            pieces.append(_FILE.pack(_IN_FILE, place.drive, place.index, place.shard_hash))
        else:
            pieces.append(
                _RECORD.pack(
                    _IN_VOLUME,
                    place.drive,
                    place.index,
                    place.volume,
                    place.seed,
                    place.offset,
                    place.length,
                )
            )
    return b"".join(pieces)


def parse_answer(message: bytes) -> tuple[int, Version | None, list[ShardPlace]]:
    """What :func:`format_answer` was given.

    :raises ValueError: it is no such message.
    """
    try:
        _, question, size, count = _ANSWER.unpack_from(message)
        at = _ANSWER.size + size
        told = message[_ANSWER.size : at]
        places: list[ShardPlace] = []
        for _ in range(count):
            form = _FILE if message[at] == _IN_FILE else _RECORD
            _, drive, index, *rest = form.unpack_from(message, at)
            places.append(
                InFile(drive, index, *rest) if form is _FILE else InVolume(drive, index, *rest)
            )
            at += form.size
    except (struct.error, IndexError) as error:
        raise ValueError("an answer is cut short") from error
    versions = decode_versions(told) if told else []
    if versions is None or len(versions) > 1 or at != len(message):
        raise ValueError("an answer is none")
    return question, versions[0] if versions else None, places


def format_read(read: Mapping[Content, range]) -> bytes:
    """What was read: contents, and the shards that were found right."""
    return READ + b"".join(
        _CONTENT.pack(
            content.hash.digest,
            content.size,
            content.scheme.k,
            content.scheme.m,
            content.scheme.block_size,
            shards.start,
            shards.stop,
        )
        for content, shards in read.items()
    )


def parse_read(message: bytes) -> dict[Content, range]:
    """What :func:`format_read` was given.

    :raises ValueError: it is no such message.
    """
    if (len(message) - 1) % _CONTENT.size:
        raise ValueError("what was read is cut short")
    return {
        Content(ContentHash(digest), size, Scheme(k, m, block_size)): range(start, stop)
        for digest, size, k, m, block_size, start, stop in _CONTENT.iter_unpack(message[1:])
    }
