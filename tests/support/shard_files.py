"""Another reader of shard files, made from ``docs/shard-format.rst`` and no code of dostore.

It is what says, in tests, that redundancy is back: a store would not notice what it misreads.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import xxhash
from attrs import frozen
from pyeclib.ec_iface import ECDriver

_TRAILER = struct.Struct("<8sHHBBBBIIIQ32s16s")
_ENTRY = struct.Struct("<I16s")
_REFERENCE = struct.Struct("<Q16s")
_PAGE_BLOCKS = 1024
_HEADER_BYTES = 80
_ALIGNMENT = 32


@frozen(slots=True)
class ShardFile:
    """What a shard file holds, every check in it compared.

    :ivar content: the SHA-256 that it claims to be a shard of.
    :ivar size: the content's, in bytes.
    """

    content: bytes
    size: int
    index: int
    k: int
    m: int
    block_size: int
    blocks: tuple[bytes, ...]


def read_shard(path: Path) -> ShardFile:
    """Read a shard file.

    :raises AssertionError: it is not as the format says, or not what its name says.
    """
    data = path.read_bytes()
    fields = _TRAILER.unpack(data[-_TRAILER.size :])
    magic, major, _, k, m, index, compression, block_size = fields[:8]
    entry_count, reference_count, size, content, check = fields[8:]
    _require(path, (magic, major) == (b"DOSTSHRD", 1) and compression < 2, "its trailer")
    start = (
        len(data) - _TRAILER.size - entry_count * _ENTRY.size - reference_count * _REFERENCE.size
    )
    _require(path, start >= 0, "the length of its footer")
    _require(path, _check(data[start:-16]) == check, "the check of its footer")
    blocks: list[bytes] = []
    checks: list[bytes] = []

    def take(offset: int, entries: bytes) -> int:
        for length, wanted in _ENTRY.iter_unpack(entries):
            block = data[offset : offset + length]
            stripe = min(k * block_size, size - len(blocks) * k * block_size)
            if length < -(-stripe // k):
                _require(path, compression == 1, f"the length of block {len(blocks)}")
                block = zlib.decompress(block, wbits=-15)
            _require(path, len(block) == -(-stripe // k), f"the size of block {len(blocks)}")
            _require(path, _check(block) == wanted, f"block {len(blocks)}")
            blocks.append(block)
            checks.append(wanted)
            offset += length
        return offset

    offset = 0
    references = data[start + entry_count * _ENTRY.size : -_TRAILER.size]
    for at, wanted in _REFERENCE.iter_unpack(references):
        page = data[at : at + _PAGE_BLOCKS * _ENTRY.size]
        _require(path, _check(page) == wanted, f"the page at {at}")
        _require(path, take(offset, page) == at, f"the blocks before {at}")
        offset = at + len(page)
    tail = data[start : start + entry_count * _ENTRY.size]
    _require(path, take(offset, tail) == start, "the length of its blocks")
    plain = blocks[0] if len(blocks) == 1 else b"".join(checks)
    name = f"{_text(content)}.{index}.{_text(hashlib.sha256(plain).digest())}"
    _require(path, path.name == name, f"its name, which should be {name}")
    return ShardFile(content, size, index, k, m, block_size, tuple(blocks))


def holders(drives: Iterable[Path]) -> dict[str, dict[int, list[Path]]]:
    """By content and shard index, on which drives there is a file; read from names only."""
    found: dict[str, dict[int, list[Path]]] = {}
    for drive in drives:
        for path in (drive / "objects").iterdir():
            content, index, _ = path.name.split(".")
            found.setdefault(content, {}).setdefault(int(index), []).append(drive)
    return found


def is_full(places: Mapping[int, list[Path]], shards: int) -> bool:
    """Whether a content has each of its shards once, and each on a drive of its own."""
    drives = [drive for found in places.values() for drive in found]
    return sorted(places) == list(range(shards)) and len(drives) == len(set(drives)) == shards


def require_whole(drives: Iterable[Path], only: Collection[str] | None = None) -> int:
    """Read every shard of every content; how many contents there are.

    :param only: leave out contents whose hash, as it is in file names, is not among these.
    :raises AssertionError: one has not its k + m shards on as many drives, or they do not give it.
    """
    contents: dict[bytes, dict[int, ShardFile]] = {}
    seen: set[tuple[bytes, Path]] = set()
    for drive in drives:
        for path in (drive / "objects").iterdir():
            if only is not None and path.name.partition(".")[0] not in only:
                continue
            shard = read_shard(path)
            _require(path, (shard.content, drive) not in seen, "another of the content beside it")
            seen.add((shard.content, drive))
            contents.setdefault(shard.content, {})[shard.index] = shard
    for content, shards in contents.items():
        _require_content(content, shards)
    return len(contents)


def whole_contents(drives: Iterable[Path]) -> set[str]:
    """The contents, as they are called in file names, of which all shards by some scheme are there,
    on as many drives.

    :raises AssertionError: a shard file is not as it should be, or they do not make the content.
    """
    found: dict[tuple[bytes, int, int], dict[int, tuple[ShardFile, Path]]] = {}
    for drive in drives:
        for path in (drive / "objects").iterdir():
            shard = read_shard(path)
            found.setdefault((shard.content, shard.k, shard.m), {})[shard.index] = (shard, drive)
    whole = set()
    for (content, k, m), shards in found.items():
        if len({drive for _, drive in shards.values()}) == k + m:
            _require_content(content, {index: shard for index, (shard, _) in shards.items()})
            whole.add(_text(content))
    return whole


def _require_content(content: bytes, shards: Mapping[int, ShardFile]) -> None:
    name = _text(content)
    first = next(iter(shards.values()))
    k, m, size = first.k, first.m, first.size
    if sorted(shards) != list(range(k + m)):
        raise AssertionError(f"{name} has the shards {sorted(shards)} only")
    hasher = hashlib.sha256()
    driver = None if k == 1 else ECDriver(k=k, m=m, ec_type="isa_l_rs_cauchy")
    left = size
    for rows in zip(*(shards[index].blocks for index in range(k + m)), strict=True):
        stripe = b"".join(rows[:k])[:left]
        hasher.update(stripe)
        left -= len(stripe)
        if driver is None:
            if set(rows) != {stripe}:
                raise AssertionError(f"{name}: the shards are no copies")
            continue
        length = len(rows[0])
        padded = -(-length // _ALIGNMENT) * _ALIGNMENT
        fragments = driver.encode(b"".join(row.ljust(padded, b"\0") for row in rows[:k]))
        parity = [fragment[_HEADER_BYTES : _HEADER_BYTES + length] for fragment in fragments[k:]]
        if parity != list(rows[k:]):
            raise AssertionError(f"{name}: the parity is not that of the data")
    if left or hasher.digest() != content:
        raise AssertionError(f"{name}: the data shards do not make the content")


def _check(data: bytes) -> bytes:
    return xxhash.xxh3_128(data, seed=0).digest()


def _text(digest: bytes) -> str:
    return b64encode(digest).decode("ascii").replace("/", "%2F")


def _require(path: Path, holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"{path}: wrong is {what}")
