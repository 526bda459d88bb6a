"""What rows are to reach, and what other stores reach.

The other stores were measured on two such cores with the load from the same machine, on another
day: MinIO with six drives, 4 + 2, everything synced, in a cluster as six processes; SeaweedFS with
one copy, not synced.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen


@frozen(slots=True)
class Beside:
    """What stands beside a row's own figures; empty where there is nothing to tell."""

    aim: str = ""
    minio: str = ""
    seaweedfs: str = ""


NOTHING = Beside()

BESIDE: Mapping[str, Beside] = {
    "put-4k-16": Beside("1,800/s", "540/s", "5,300/s"),
    "put-4k-16-packed": Beside("3,000/s", "540/s", "5,300/s"),
    "put-4k-64-packed": Beside("4,000/s"),
    "put-64k-16": Beside("", "290/s"),
    "put-64k-16-packed": Beside("2,000/s", "290/s"),
    "put-64k-64-packed": Beside("2,000/s"),
    "put-1m-8": Beside("300 MB/s", "150 MB/s", "230 MB/s"),
    "put-large-1": Beside("600 MB/s", "530 MB/s", "118 MB/s"),
    "put-large-8x": Beside("600 MB/s"),
    "get-4k-16": Beside("9,000/s", "5,000/s", "12,400/s"),
    "get-4k-16-workers": Beside("13,000/s", "5,000/s", "12,400/s"),
    "get-64k-16": Beside("", "3,500/s"),
    "get-1m-8": Beside("1,000 MB/s", "700 MB/s", "730 MB/s"),
    "get-large-1": Beside("1,200 MB/s", "520 MB/s", "910 MB/s"),
    "get-large-1-lost": Beside("700 MB/s"),
    "list": Beside("30 ms"),
    "start": Beside("5 s"),
    "start-packed": Beside("5 s"),
    "cluster-put-4k-1": Beside("p50 15 ms"),
    "cluster-put-4k-16": Beside("400/s", "180/s"),
    "cluster-put-1m-8": Beside("150 MB/s", "100 MB/s"),
    "cluster-put-large-1": Beside("400 MB/s", "390 MB/s"),
    "cluster-get-4k-1": Beside("p50 5 ms"),
    "cluster-get-4k-16": Beside("1,500/s", "900/s"),
    "cluster-get-1m-8": Beside("400 MB/s", "307 MB/s"),
    "cluster-get-large-1": Beside("550 MB/s", "440 MB/s"),
}
