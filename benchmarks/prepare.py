"""Stores with many names and shards: made once, and kept for the next time.

That of a cluster has the same shards, as links to the same files, and its names are put into
Elasticsearch as the documents that the store itself would make of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks import bodies, fill
from benchmarks.rows import Scale
from benchmarks.stores import JOURNAL, PLACES, Clustered, Embedded, Served, Services, Variant
from dostore.adapters.elastic_documents import (
    Stored,
    as_json,
    current_document,
    current_id,
    key_of,
)
from dostore.core.model import Content, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme

INDEX = "many"

_CREATED = "2026-01-01T00:00:00.000Z"
_DOCUMENTS = 5000


def store(shape: str, variant: Variant, kept: Path, scale: Scale) -> Served:
    """A store with as many names and shards as the scale says, not started."""
    if shape == "embedded":
        return Embedded(_embedded(variant, kept, scale), variant)
    folder = _cluster(kept, scale)
    return _clustered(folder)


def database(kept: Path, scale: Scale) -> Path:
    """The SQLite database of such a store on one machine."""
    return _embedded(JOURNAL, kept, scale) / "store" / "metadata.sqlite"


def shard_folders(kept: Path, scale: Scale) -> list[Path]:
    """Where such a store on one machine keeps its shards."""
    return sorted((_embedded(JOURNAL, kept, scale) / "store").glob("*/objects"))


def _contents(scale: Scale) -> int:
    return scale.shards // Scheme().shards


def _made(folder: Path) -> bool:
    return (folder / "complete").exists()


def _embedded(variant: Variant, kept: Path, scale: Scale) -> Path:
    name = "-".join(["embedded", variant.name or "default", str(scale.names), str(scale.shards)])
    folder = kept / name
    if not _made(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names, contents = str(scale.names), str(_contents(scale))
        command = [sys.executable, "-m", "benchmarks.fill", str(folder / "store"), names, contents]
        subprocess.run([*command, *variant.options], check=True)
        (folder / "complete").touch()
    return folder


def _clustered(folder: Path) -> Clustered:
    # A broker keeps nothing that is worth to be found again.
    shutil.rmtree(folder / "services" / "rabbitmq", ignore_errors=True)
    return Clustered(folder / "store", Services(folder / "services"), JOURNAL, INDEX)


def _cluster(kept: Path, scale: Scale) -> Path:
    folder = kept / f"cluster-{scale.names}-{scale.shards}"
    if _made(folder):
        return folder
    source = _embedded(JOURNAL, kept, scale) / "store"
    shutil.rmtree(folder, ignore_errors=True)
    served = _clustered(folder)
    try:
        # It makes its index and its folders.
        served.start()
        served.stop()
        for number in range(1, PLACES + 1):
            target = served.folder / f"data-{number}" / "objects"
            for entry in os.scandir(source / str(number) / "objects"):
                os.link(entry.path, target / entry.name)
        _load(served.services.search.url, scale)
        served.resume()
        served.stop()
    finally:
        served.services.close()
    (folder / "complete").touch()
    return folder


def _load(url: str, scale: Scale) -> None:
    """Put the names into Elasticsearch."""
    lines = _documents(scale)
    while batch := b"".join(islice(lines, _DOCUMENTS)):
        request = urllib.request.Request(
            f"{url}/{INDEX}/_bulk", batch, {"Content-Type": "application/x-ndjson"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            if json.load(answer)["errors"]:
                raise AssertionError("Elasticsearch does not take the names")


def _documents(scale: Scale) -> Iterator[bytes]:
    contents = _contents(scale)
    scheme = Scheme()
    hashes = [ContentHash(bodies.sha256(fill.SALT, n, fill.SIZE)) for n in range(contents)]
    for number in range(scale.names):
        name = f"{fill.PREFIX}{number:07}"
        key = key_of(name)
        content = Content(hashes[number % contents], fill.SIZE, scheme)
        stored = Stored(Version(name, 1, content, _CREATED), uuid.uuid4().hex)
        action = {"create": {"_id": current_id(key), "routing": key}}
        yield as_json(action) + b"\n" + as_json(current_document(stored, ())) + b"\n"
