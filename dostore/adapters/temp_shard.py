"""A shard's file while it is being written."""

from __future__ import annotations

import os
import threading

from attrs import define, field

from dostore.adapters.large_files import LargeWrites
from dostore.core.names import ShardName
from dostore.core.shardfile import ShardFileBuilder


@define(eq=False)
class TempShard:
    """A shard file in ``temp/`` that is being written.

    The lock keeps a thread from closing the file while another, whose writer gave up on a drive
    that hangs, is still in the middle of a write to it.

    :ivar large: how its bytes are written; None: by whoever has it, at once.
    :ivar packed: it will be packed.
    """

    path: str
    builder: ShardFileBuilder
    large: LargeWrites | None = None
    fd: int | None = None
    name: ShardName | None = None
    done: bool = False
    packed: bool = False
    signature: tuple[int, int, int] | None = None
    lock: threading.Lock = field(factory=threading.Lock)

    @property
    def token(self) -> str:
        """The file's name."""
        return os.path.basename(self.path)
