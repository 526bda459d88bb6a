"""Counters of what the store did, for whoever exports them."""

from __future__ import annotations

from attrs import define


@define
class Stats:
    """Totals since the process began.

    :ivar puts: versions made with a content.
    :ivar deletes: tombstones made.
    :ivar gets: contents opened for reading.
    :ivar deduplicated: puts whose content was stored already.
    :ivar degraded_writes: puts that were taken with fewer than k + m shards.
    :ivar degraded_reads: contents read with a shard missing, damaged or slow.
    :ivar damaged_shards: shards that were met missing or damaged.
    :ivar repaired_shards: shards made again, read back and found right.
    :ivar failed_repairs: repairs that ended with a shard still missing.
    :ivar lost_contents: contents with a version that were met with fewer than k shards left, each
        counted once.
    :ivar collected_contents: contents removed because no version referred to them.
    :ivar uploads_opened: resumable uploads begun.
    :ivar upload_parts: parts of them that were received, in full or not.
    :ivar uploads_completed: those that became a version.
    """

    puts: int = 0
    deletes: int = 0
    gets: int = 0
    deduplicated: int = 0
    degraded_writes: int = 0
    degraded_reads: int = 0
    damaged_shards: int = 0
    repaired_shards: int = 0
    failed_repairs: int = 0
    lost_contents: int = 0
    collected_contents: int = 0
    uploads_opened: int = 0
    upload_parts: int = 0
    uploads_completed: int = 0
