"""The stores that are measured: on one machine, and as a cluster of processes on this one.

Each is started with an empty folder, and again with one when it has written much: what was
measured before must not be in the way of what comes after it.
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from attrs import frozen

from benchmarks.processes import family
from tests.support.clusters import ApiServer, DataServer, Server
from tests.support.elasticsearch_server import SearchServer
from tests.support.processes import ROOT, Store, wait_until
from tests.support.rabbitmq_server import RabbitmqServer, guardian

#: Drives, or data servers.
PLACES = 6

_PATIENCE_S = 120.0


@frozen(slots=True)
class Variant:
    """How a store is set up.

    :ivar title: what the table calls it; empty: as it is by default.
    :ivar options: for the process that they belong to, by its own help.
    :ivar beside: the store that it is compared with; None: the bare server.
    """

    name: str
    title: str
    options: tuple[str, ...] = ()
    beside: Variant | None = None


JOURNAL = Variant("", "")
UNSYNCED = Variant("nosync", "shards not synced", ("--no-shard-sync",))
PACKED = Variant("packed", "packed", ("--pack-below=65537",))
COPIES = Variant("copies", "small ones as copies", ("--copies-below=16384",))
WORKERS = Variant("workers", "2 workers", ("--workers=2",))
GZIP = Variant("gzip", "shards compressed", ("--compression=gzip",))
NOISE = Variant(
    "noise",
    "compression in vain, beside a store without it",
    GZIP.options,
    JOURNAL,
)


@cache
def known_options(plugin: str) -> str:
    """The help of a program."""
    twistd = str(Path(sys.executable).parent / "twistd")
    done = subprocess.run(
        [twistd, plugin, "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def takes(plugin: str, option: str) -> bool:
    """Whether a program has an option."""
    return f"{option.partition('=')[0]}=" in known_options(plugin) or (
        f"{option} " in known_options(plugin)
    )


class Served:
    """A store that can be started and stopped, and robbed of two of its places.

    :ivar made: the salt of what a workload has put there, by the workload's own key.
    :ivar written_bytes: what clients have put there since it was empty.
    :ivar running: whether it takes requests.
    :param folder: all that it keeps is in here; it is removed by a start with nothing in it.
    """

    def __init__(self, folder: Path, variant: Variant) -> None:
        self.folder = folder
        self.variant = variant
        self.made: dict[object, int] = {}
        self.written_bytes = 0
        self.running = False

    @property
    def front(self) -> Store:
        """The process that takes requests."""
        raise NotImplementedError

    @property
    def servers(self) -> Sequence[Store]:
        """Its own processes that were started, in the order in which they are to be stopped."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        """Where it takes requests."""
        return self.front.port

    def start(self) -> None:
        """Start with nothing in it; return when it is ready."""
        self.close()
        self.made.clear()
        self.written_bytes = 0
        self.resume()

    def resume(self, profiles: Path | None = None) -> None:
        """Start with what is there; return when it is ready.

        :param profiles: a folder that takes a cProfile of each server's reactor when it stops.
        """
        self.spawn(profiles)
        wait_until("the store is ready", self.ready, _PATIENCE_S)
        self.running = True

    def spawn(self, profiles: Path | None = None) -> None:
        """Begin to start with what is there."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it takes requests, and has all of its places."""
        raise NotImplementedError

    def stop(self) -> None:
        """Have it end in an orderly way; what it keeps stays."""
        self.running = False
        for server in self.servers:
            server.stop()

    def close(self) -> None:
        """End it, and remove what it keeps. Idempotent."""
        self.running = False
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def lose(self, which: Sequence[str]) -> None:
        """Have two of its places be gone until the next start, by what ``/locate/`` calls them."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Its own processes that run."""
        running = (
            each.pid for each in self.servers if each.process and each.process.poll() is None
        )
        return [pid for each in running for pid in family(each)]

    def service_pids(self) -> list[int]:
        """The processes that it needs besides."""
        return []

    def locate(self, digest: bytes) -> Mapping[str, str]:
        """Which place has which shard of a content."""
        text = quote(base64.b64encode(digest).decode("ascii"), safe="")
        found: Mapping[str, str] = json.loads(self.front.request("GET", f"/locate/{text}").body)
        return found


def _profiled(server: Store, profiles: Path | None) -> None:
    """Have the next start write a profile at its end, or none."""
    server.twistd_options = []
    if profiles is not None:
        path = profiles / f"{server.plugin}-{server.port}.profile"
        server.twistd_options = [f"--profile={path}", "--profiler=cprofile", "--savestats"]


class _Alone(Server):
    """A store on one machine; it does not outlive this process."""

    def _ready(self) -> bool:
        return Store._ready(self)


class Embedded(Served):
    """One process and its drives."""

    def __init__(self, folder: Path, variant: Variant = JOURNAL) -> None:
        super().__init__(folder, variant)
        self._store = _Alone(folder / "store", variant.options)

    @property
    def front(self) -> Store:
        """See Served."""
        return self._store

    @property
    def servers(self) -> Sequence[Store]:
        """See Served."""
        return [self._store]

    def spawn(self, profiles: Path | None = None) -> None:
        """See Served."""
        _profiled(self._store, profiles)
        self._store.spawn()

    def ready(self) -> bool:
        """See Served."""
        return _sees(self._store, 0)

    def lose(self, which: Sequence[str]) -> None:
        """See Served."""
        for name in which:
            folder = self._store.folder / name.removeprefix("drive-")
            folder.rename(folder.with_name(f"lost-{name}"))
            # Else an empty one would be made in its place, and filled.
            folder.touch()
        wait_until("two drives are missed", lambda: _sees(self._store, len(which)))


def _sees(server: Store, lost: int) -> bool:
    """Whether all places are seen but so many."""
    try:
        told = json.loads(server.request("GET", "/health/ready", timeout_s=5.0).body)
    except (OSError, http.client.HTTPException):
        if server.process is None or server.process.poll() is not None:
            raise AssertionError(f"a server has ended:\n{server.log()[-4000:]}") from None
        return False
    nodes = told.get("nodes", {"live": 0, "expected": 0})
    return bool(nodes["live"] == PLACES - lost)


class Services:
    """What clusters need, started when the first of them is."""

    def __init__(self, folder: Path) -> None:
        self.broker = RabbitmqServer(folder / "rabbitmq", guardian())
        self.search = SearchServer(folder / "elasticsearch", guardian())
        self._running = False

    def start(self) -> None:
        """Start them, if they do not run."""
        if self._running:
            return
        self._running = True
        self.search.spawn()
        self.broker.start(_PATIENCE_S)
        wait_until("Elasticsearch answers", self.search.ready, _PATIENCE_S)

    def pids(self) -> list[int]:
        """Of both."""
        return [*family(self.broker.pid), *family(self.search.pid)]

    def close(self) -> None:
        """Stop them. Idempotent."""
        if self._running:
            self._running = False
            self.search.kill()
            self.broker.stop()


class Clustered(Served):
    """Six data servers and an API server, with RabbitMQ and Elasticsearch.

    :ivar services: these two; they run on when this ends.
    :param index: the index of Elasticsearch that it keeps its names in; None: a new one for each
        start with nothing in it.
    """

    def __init__(
        self, folder: Path, services: Services, variant: Variant = JOURNAL, index: str | None = None
    ) -> None:
        super().__init__(folder, variant)
        self.services = services
        self._index = index
        self._api: ApiServer | None = None
        self._data: list[DataServer] = []

    @property
    def front(self) -> Store:
        """See Served."""
        assert self._api is not None, "it was started"
        return self._api

    @property
    def servers(self) -> Sequence[Store]:
        """See Served."""
        return [] if self._api is None else [self._api, *self._data]

    def start(self) -> None:
        """See Served."""
        self.close()
        self._make_servers(self._index or f"benchmark-{uuid.uuid4().hex}")
        super().start()

    def _make_servers(self, index: str) -> None:
        self.services.start()
        told = {"RABBITMQ_SERVER": self.services.broker.url, "DOSTORE_SECRET": "of-benchmarks-only"}
        ours = self.variant.options
        for_data = [option for option in ours if takes("dostore-data", option)]
        for_api = [option for option in ours if option not in for_data]
        self._data = [
            DataServer(self.folder / f"data-{number + 1}", for_data, environ=told)
            for number in range(PLACES)
        ]
        told |= {"ES_SERVER": self.services.search.url, "DOSTORE_METADATA_INDEX": index}
        self._api = ApiServer(self.folder / "api", for_api, environ=told)

    def spawn(self, profiles: Path | None = None) -> None:
        """See Served."""
        self.services.start()
        if self._api is None:
            assert self._index is not None, "what there is to begin with has an index"
            self._make_servers(self._index)
        for server in self.servers:
            _profiled(server, profiles)
            server.spawn()

    def ready(self) -> bool:
        """See Served."""
        return _sees(self.front, 0)

    def lose(self, which: Sequence[str]) -> None:
        """See Served."""
        for server in self._data:
            if server.address in which:
                server.kill()
        wait_until("two are missed", lambda: _sees(self.front, len(which)), _PATIENCE_S)

    def service_pids(self) -> list[int]:
        """See Served."""
        return self.services.pids()
