"""What was abandoned in a drive's ``temp/``."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress

from dostore.adapters.drive_store import ABOUT
from dostore.adapters.files import Files


def sweep(
    files: Files,
    folder: str,
    keep_s: Callable[[str], int | None],
    now: float,
    default_s: float,
    spared: Collection[str],
) -> list[str]:
    """Remove what nobody has touched for as long as it is to be kept.

    :param keep_s: how long a shard is to be kept, by its token; None: that is not known.
    :param now: seconds since the epoch.
    :param default_s: how long that of which nothing else is known is kept.
    :param spared: tokens to leave alone.
    :returns: the tokens of the shards that were removed.
    """
    found: dict[str, list[str]] = {}
    for name in files.list(folder):
        found.setdefault(name.partition(".")[0], []).append(name)
    swept = []
    for token, names in found.items():
        if token in spared:
            continue
        # Each file by itself may be old: what tells about a shard is written once.
        newest = max((_modified(files, folder, name) for name in names), default=0.0)
        told = keep_s(token) if token + ABOUT in names else None
        if newest < now - (default_s if told is None else told):
            for name in names:
                with suppress(FileNotFoundError):
                    files.unlink(os.path.join(folder, name))
            swept.append(token)
    return swept


def _modified(files: Files, folder: str, name: str) -> float:
    try:
        return files.modified(os.path.join(folder, name))
    except FileNotFoundError:
        return 0.0
