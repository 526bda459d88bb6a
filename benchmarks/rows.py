"""What is measured of the store, row by row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import frozen

from benchmarks.load import MIB, Figures, ask
from benchmarks.references import Scale
from tests.support.clusters import Cluster
from tests.support.processes import Store, wait_until

_CONNECTIONS = 16
_LISTED = 1000


class Bench:
    """Two stores in a folder, one of which does not sync its shards, and a cluster on this machine;
    each starts when it is needed.

    :ivar scale: how much is done at a time.
    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.scale = scale
        self._folder = folder
        self._salts = itertools.count(1)
        self._stores: dict[bool, Store] = {}
        self._cluster: Cluster | None = None
        self._large: dict[str, int] = {}
        self._small: dict[bool | None, int] = {}
        self._listed = False

    def store(self, synced: bool | None) -> Store:
        """One of the two, running; None: an API server of the cluster."""
        if synced is None:
            if self._cluster is None:
                self._cluster = Cluster(self._folder / "cluster", api=1)
                self._cluster.start()
            return self._cluster.api[0]
        if synced not in self._stores:
            options = [] if synced else ["--no-shard-sync"]
            store = Store(self._folder / ("synced" if synced else "unsynced"), options)
            store.start()
            self._stores[synced] = store
        return self._stores[synced]

    def close(self) -> None:
        """Stop what was started."""
        for store in self._stores.values():
            store.kill()
        if self._cluster is not None:
            self._cluster.kill()

    # --- the rows ---

    def put_large(self, synced: bool) -> Figures:
        """PUT a large object."""
        return self._put_large(synced, f"large-{synced}")

    def _put_large(self, synced: bool, name: str) -> Figures:
        salt = next(self._salts)
        port = self.store(synced).port
        figures = ask("put_stream", port=port, name=name, mib=self.scale.large_mib, salt=salt)
        self._large[name] = salt
        figures["rate"] = self.scale.large_mib * MIB / figures["seconds"] / 1e6
        return figures

    def get_large(self, degraded: bool) -> Figures:
        """GET a large object; ``degraded``: two of its data shards are removed before."""
        name = "read"
        store = self.store(True)
        if name not in self._large:
            self._put_large(True, name)
            self._get_large(name, verify=True)
        removed = []
        if degraded:
            # The other files may be those of objects that were only written.
            first = store.request("HEAD", f"/objects/{name}").headers["digest"]
            content = first.partition("=")[2].replace("/", "%2F")
            paths = [path for path in store.shard_files() if path.name.startswith(content)]
            removed = [path for path in paths if path.name.split(".")[1] in "01"]
            for path in removed:
                path.unlink()
        figures = self._get_large(name, verify=False)
        figures["rate"] = self.scale.large_mib * MIB / figures["seconds"] / 1e6
        # What repair does meanwhile would be in the next row's way.
        wait_until("the shards are back", lambda: _are_there(store, removed), 120.0)
        return figures

    def _get_large(self, name: str, *, verify: bool) -> Figures:
        return ask(
            "get_stream",
            port=self.store(True).port,
            name=name,
            mib=self.scale.large_mib,
            salt=self._large[name],
            verify=verify,
        )

    def put_small(self, synced: bool | None, connections: int) -> Figures:
        """PUT small objects, each under a name of its own."""
        scale = self.scale
        count = scale.small_count if synced is False else scale.synced_count
        if connections == 1:
            count //= 4
        return self._put_small(synced, connections, count, next(self._salts))

    def _put_small(self, synced: bool | None, connections: int, count: int, salt: int) -> Figures:
        return self._requests("PUT", synced, connections, count, salt, count)

    def get_small(self, synced: bool | None, connections: int) -> Figures:
        """GET small objects in turn."""
        names = self.scale.synced_count
        if synced not in self._small:
            salt = self._small[synced] = next(self._salts)
            self._put_small(synced, _CONNECTIONS, names, salt)
        count = self.scale.small_count if synced else self.scale.synced_count
        count //= 1 if connections > 1 else 4
        return self._requests("GET", synced, connections, count, self._small[synced], names)

    def _requests(
        self, method: str, synced: bool | None, connections: int, count: int, salt: int, names: int
    ) -> Figures:
        figures = ask(
            "small",
            port=self.store(synced).port,
            method=method,
            salt=salt,
            count=count,
            connections=connections,
            size=self.scale.small_bytes,
            names=names,
        )
        figures["rate"] = count / figures["seconds"]
        return figures

    def list_names(self) -> Figures:
        """List 1,000 of many names."""
        names, pages = self.scale.names, 50
        port = self.store(False).port
        if not self._listed:
            ask(
                "small",
                port=port,
                method="PUT",
                salt=0,
                count=names,
                connections=_CONNECTIONS,
                size=0,
                names=names,
            )
            self._listed = True
        figures = ask("listing", port=port, count=_LISTED, pages=pages, names=names)
        figures["rate"] = pages / figures["seconds"]
        return figures


def _are_there(store: Store, removed: list[Path]) -> bool:
    """Whether the same files are on some drives again, not each where it was."""
    return {path.name for path in removed} <= {path.name for path in store.shard_files()}


@frozen(slots=True)
class Row:
    """A line of the table.

    :ivar references: what it is compared with, by their keys.
    :ivar synced: which store it is about; see Bench.
    :ivar measure: one run; ``rate`` of its figures is in ``unit``.
    """

    title: str
    unit: str
    references: tuple[str, ...]
    synced: bool | None
    measure: Callable[[Bench], Figures]


def rows(scale: Scale) -> Mapping[str, Row]:
    """All rows, by what they are called on the command line."""
    large = f"{scale.large_mib} MiB"
    put = ("sha256", "encode", "loopback-put")
    get = ("loopback-get",)
    return {
        "put-large": Row(
            f"PUT {large}", "MB/s", (*put, "files-synced"), True, lambda b: b.put_large(True)
        ),
        "put-large-unsynced": Row(
            f"PUT {large}, no shard sync",
            "MB/s",
            (*put, "files"),
            False,
            lambda b: b.put_large(False),
        ),
        "get-large": Row(f"GET {large}", "MB/s", get, True, lambda b: b.get_large(False)),
        "get-large-degraded": Row(
            f"GET {large}, two shards lost",
            "MB/s",
            (*get, "encode"),
            True,
            lambda b: b.get_large(True),
        ),
        "put-small": Row(
            "PUT 4 KiB, 16 clients",
            "/s",
            ("small-files-synced", "loopback-small-put"),
            True,
            lambda b: b.put_small(True, _CONNECTIONS),
        ),
        "put-small-unsynced": Row(
            "PUT 4 KiB, 16 clients, no shard sync",
            "/s",
            ("small-files", "loopback-small-put"),
            False,
            lambda b: b.put_small(False, _CONNECTIONS),
        ),
        "get-small": Row(
            "GET 4 KiB, 16 clients",
            "/s",
            ("loopback-small-get",),
            True,
            lambda b: b.get_small(True, _CONNECTIONS),
        ),
        "put-lone": Row(
            "PUT 4 KiB, one client",
            "/s",
            ("small-files-synced",),
            True,
            lambda b: b.put_small(True, 1),
        ),
        "put-lone-unsynced": Row(
            "PUT 4 KiB, one client, no shard sync",
            "/s",
            ("small-files",),
            False,
            lambda b: b.put_small(False, 1),
        ),
        "get-lone": Row(
            "GET 4 KiB, one client",
            "/s",
            ("loopback-lone-get",),
            True,
            lambda b: b.get_small(True, 1),
        ),
        "cluster-put-lone": Row(
            "PUT 4 KiB to a cluster, one client",
            "/s",
            ("small-files-synced",),
            None,
            lambda b: b.put_small(None, 1),
        ),
        "cluster-get-lone": Row(
            "GET 4 KiB from a cluster, one client",
            "/s",
            ("loopback-lone-get",),
            None,
            lambda b: b.get_small(None, 1),
        ),
        "cluster-put": Row(
            "PUT 4 KiB to a cluster, 16 clients",
            "/s",
            ("small-files-synced",),
            None,
            lambda b: b.put_small(None, _CONNECTIONS),
        ),
        "cluster-get": Row(
            "GET 4 KiB from a cluster, 16 clients",
            "/s",
            ("loopback-small-get",),
            None,
            lambda b: b.get_small(None, _CONNECTIONS),
        ),
        "list": Row(
            f"list 1,000 of {scale.names:,} names",
            "/s",
            ("sqlite",),
            False,
            lambda b: b.list_names(),
        ),
    }
