"""What the machine does bare: the least that a store has to do, in the barest loops.

Each returns a rate in the unit of the rows that it stands beside: MB/s (of 10⁶ bytes of content) or
operations a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import frozen
from pyeclib.ec_iface import ECDriver

from benchmarks.bare_server import BareServer
from benchmarks.load import MIB, ask, piece

K, M = 4, 2
_STRIPE_BYTES = 256 * 1024
_SMALL_CONNECTIONS = 16


@frozen(slots=True)
class Scale:
    """How much is done at a time.

    :ivar large_mib: the size of a large object, in MiB.
    :ivar small_bytes: the size of a small one, in bytes.
    :ivar small_count: how many small requests.
    :ivar synced_count: how many of them where each waits for a disk.
    :ivar names: how many names there are to list.
    """

    large_mib: int
    small_count: int
    synced_count: int
    names: int
    small_bytes: int = 4096


@frozen(slots=True)
class Reference:
    """A bare loop.

    :ivar measure: its rate, given a folder to work in.
    """

    title: str
    unit: str
    measure: Callable[[Path, Scale], float]


def _sha256(folder: Path, scale: Scale) -> float:
    data = piece(0, 0, MIB)
    hasher = hashlib.sha256()
    began = time.perf_counter()
    for _ in range(scale.large_mib):
        hasher.update(data)
    return scale.large_mib * MIB / (time.perf_counter() - began) / 1e6


def _encode(folder: Path, scale: Scale) -> float:
    driver = ECDriver(k=K, m=M, ec_type="isa_l_rs_cauchy")
    stripe = piece(0, 0, _STRIPE_BYTES)
    count = scale.large_mib * MIB // _STRIPE_BYTES
    began = time.perf_counter()
    for _ in range(count):
        driver.encode(stripe)
    return count * _STRIPE_BYTES / (time.perf_counter() - began) / 1e6


def _write_files(folder: Path, scale: Scale, *, sync: bool) -> float:
    """The bytes of a large object's k + m shards to as many files, in turn; MB/s of the content."""
    data = piece(0, 0, MIB)
    folder.mkdir()
    began = time.perf_counter()
    files = [os.open(folder / str(i), os.O_WRONLY | os.O_CREAT) for i in range(K + M)]
    for _ in range(scale.large_mib // K):
        for file in files:
            os.write(file, data)
    for file in files:
        if sync:
            os.fdatasync(file)
        os.close(file)
    seconds = time.perf_counter() - began
    shutil.rmtree(folder)
    return scale.large_mib * MIB / seconds / 1e6


def _files(folder: Path, scale: Scale) -> float:
    return _write_files(folder, scale, sync=False)


def _files_synced(folder: Path, scale: Scale) -> float:
    return _write_files(folder, scale, sync=True)


def _loopback_put(folder: Path, scale: Scale) -> float:
    with BareServer() as server:
        figures = ask("put_stream", port=server.port, name="x", mib=scale.large_mib, salt=0)
    return scale.large_mib * MIB / figures["seconds"] / 1e6


def _loopback_get(folder: Path, scale: Scale) -> float:
    with BareServer(mib=scale.large_mib) as server:
        figures = ask(
            "get_stream", port=server.port, name="x", mib=scale.large_mib, salt=0, verify=False
        )
    return scale.large_mib * MIB / figures["seconds"] / 1e6


def _write_small(folder: Path, scale: Scale, *, sync: bool, count: int) -> float:
    """For each small object its k + m shards, one file after the other; objects a second."""
    shard = bytes(scale.small_bytes // K)
    folders = [folder / str(i) for i in range(K + M)]
    for each in folders:
        each.mkdir(parents=True)
    began = time.perf_counter()
    for number in range(count):
        for each in folders:
            file = os.open(each / f"{number}.new", os.O_WRONLY | os.O_CREAT)
            os.write(file, shard)
            if sync:
                os.fdatasync(file)
            os.close(file)
            os.rename(each / f"{number}.new", each / str(number))
    rate = count / (time.perf_counter() - began)
    shutil.rmtree(folder)
    return rate


def _small_files(folder: Path, scale: Scale) -> float:
    return _write_small(folder, scale, sync=False, count=scale.small_count // 4)


def _small_files_synced(folder: Path, scale: Scale) -> float:
    return _write_small(folder, scale, sync=True, count=max(1, scale.synced_count // 10))


def _loopback_small(folder: Path, scale: Scale, method: str, connections: int) -> float:
    count = scale.small_count
    with BareServer(size=scale.small_bytes) as server:
        figures = ask(
            "small",
            port=server.port,
            method=method,
            salt=0,
            count=count,
            connections=connections,
            size=scale.small_bytes,
            names=count,
        )
    return count / figures["seconds"]


def _loopback_small_put(folder: Path, scale: Scale) -> float:
    return _loopback_small(folder, scale, "PUT", _SMALL_CONNECTIONS)


def _loopback_small_get(folder: Path, scale: Scale) -> float:
    return _loopback_small(folder, scale, "GET", _SMALL_CONNECTIONS)


def _loopback_lone_get(folder: Path, scale: Scale) -> float:
    return _loopback_small(folder, scale, "GET", 1)


def _sqlite(folder: Path, scale: Scale) -> float:
    """Pages of 1,000 names from a table of names, as JSON lines; pages a second."""
    database = sqlite3.connect(":memory:")
    database.execute("create table names (name text primary key, size integer) without rowid")
    rows = ((f"small/0/{number:08}", number) for number in range(scale.names))
    database.executemany("insert into names values (?, ?)", rows)
    pages = 50
    began = time.perf_counter()
    for page in range(pages):
        after = f"small/0/{page * 7919 % max(1, scale.names - 1000):08}"
        query = "select name, size from names where name > ? order by name limit 1000"
        for name, size in database.execute(query, (after,)):
            json.dumps({"Name": name, "Size": size})
    rate = pages / (time.perf_counter() - began)
    database.close()
    return rate


REFERENCES: Mapping[str, Reference] = {
    "sha256": Reference("SHA-256", "MB/s", _sha256),
    "encode": Reference("encode 4 + 2, stripes of 256 KiB", "MB/s", _encode),
    "files": Reference("six files", "MB/s", _files),
    "files-synced": Reference("six files, synced", "MB/s", _files_synced),
    "loopback-put": Reference("loopback in", "MB/s", _loopback_put),
    "loopback-get": Reference("loopback out", "MB/s", _loopback_get),
    "small-files": Reference("six small files", "/s", _small_files),
    "small-files-synced": Reference("six small files, synced", "/s", _small_files_synced),
    "loopback-small-put": Reference("loopback, 16 clients in", "/s", _loopback_small_put),
    "loopback-small-get": Reference("loopback, 16 clients out", "/s", _loopback_small_get),
    "loopback-lone-get": Reference("loopback, one client out", "/s", _loopback_lone_get),
    "sqlite": Reference("SQLite in memory, as JSON", "/s", _sqlite),
}
