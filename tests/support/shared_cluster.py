"""One cluster for the tests of faults: each finds it whole, breaks it, and sees it heal."""

from __future__ import annotations

import json
import mmap
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.support.cases import SyncTestCase
from tests.support.clusters import Cluster, DataServer
from tests.support.load import BOUND_S, Load
from tests.support.mounts import MountSpace
from tests.support.processes import Answer, wait_until
from tests.support.rabbitmq_server import guardian
from tests.support.shard_files import holders, is_full, require_whole

SHARDS = 6

#: The drives of the first data servers are mounts, so that they can be filled.
MOUNTED = 2
_MOUNTED_BYTES = 4 << 30

#: A busy cluster has all its shards again within this.
HEAL_S = 90.0


class MountedDataServer(DataServer):
    """A data server whose folder is a drive of its own, which can be full."""

    def __init__(self, folder: Path, space: MountSpace, **how: Any) -> None:
        super().__init__(folder, **how)
        self._space = space
        folder.mkdir(parents=True)
        space.mount_small(folder, _MOUNTED_BYTES)

    def command(self) -> list[str]:
        """See Store."""
        return self._space.command(super().command())

    @property
    def drive(self) -> Path:
        """See DataServer; as this process can see it."""
        return self._space.path(self.folder)

    def fill(self) -> None:
        """Leave no room on the drive, which may be written to meanwhile."""

        def fits() -> bool:
            used = shutil.disk_usage(self.drive).used
            try:
                self._space.resize(self.folder, used + mmap.PAGESIZE)
            except subprocess.CalledProcessError:
                # More was written than was left room for.
                return False
            return True

        wait_until("the drive is full", fits)

    def give_room(self) -> None:
        """Have room again."""
        self._space.resize(self.folder, _MOUNTED_BYTES)


class FaultCluster(Cluster):
    """Six data servers, two API servers, and services of its own, all of which may be stopped."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="dostore-cluster-")
        guardian().remove(folder)
        super().__init__(Path(folder), own_search=True)
        try:
            self.space: MountSpace | None = MountSpace()
        except SkipTest as reason:
            sys.stderr.write(f"no drive can be filled: {reason}\n")
            self.space = None

    def add_data_server(self, address: str | None = None, zone: str = "") -> DataServer:
        """See Cluster."""
        made = super().add_data_server(address, zone)
        if self.space is not None and len(self.data) <= MOUNTED:
            made = self.data[-1] = MountedDataServer(
                made.folder, self.space, environ=made.environ, address=made.address
            )
        return made

    def mend(self) -> None:
        """Have everything run, whatever the test before has left."""
        for server in self.servers:
            server.resume()
            if isinstance(server, MountedDataServer):
                server.give_room()
        if self._has_services and not self.broker.running:
            self.broker.start()
        if self.search is not None and self._has_services and not self.search.running:
            self.search.start()
        self.start()

    def drives(self) -> list[Path]:
        """The folder of each data server."""
        return [drive_of(server) for server in self.data]

    def stored(self) -> Mapping[str, int]:
        """The hashes of all contents that versions refer to, with their sizes."""
        answer = self.api[0].request("GET", "/versions/")
        if answer.status != 200:
            raise AssertionError(f"/versions/ answers {answer.status} {answer.body!r}")
        told = [json.loads(line) for line in answer.body.splitlines()]
        return {each["Hash"].replace("/", "%2F"): each["Size"] for each in told if each["Size"]}

    def wait_full(self, timeout_s: float = HEAL_S) -> None:
        """Wait until each content of a version has its k + m shards, each on a server of its own;
        then read them all.
        """
        stored = self.stored()
        self.wait_until("all shards are there", lambda: not self.lacking(stored), timeout_s)
        require_whole(self.drives(), stored)

    def lacking(self, stored: Mapping[str, int]) -> list[str]:
        """Which contents have not each shard once, on a server of its own; by names of files."""
        found = holders(self.drives())
        return [content for content in stored if not is_full(found.get(content, {}), SHARDS)]


def drive_of(server: DataServer) -> Path:
    """A data server's folder, as this process can see it."""
    return server.drive if isinstance(server, MountedDataServer) else server.folder


@cache
def shared_cluster() -> FaultCluster:
    """The cluster, started at the first call; it ends with this process."""
    cluster = FaultCluster()
    cluster.start()
    return cluster


class FaultCase(SyncTestCase):
    """A test that breaks the shared cluster, with clients that go on meanwhile."""

    def setUp(self) -> None:
        """Choose a seed and tell it, so that a failure can be had again."""
        super().setUp()
        seed = random.randrange(1 << 32)
        print(f"seed {seed}", end=" ", flush=True)  # noqa: T201
        self.seed = str(seed)
        self.chance = random.Random(seed)
        self.cluster = shared_cluster()
        self.addCleanup(self._keep_logs)
        self.cluster.mend()

    def _keep_logs(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        for server in self.cluster.servers:
            shutil.copy(server.log_path, folder / f"{server.plugin}.{server.port}.log")

    def load(self, clients: int = 4, pause_s: float = 0.2) -> Load:
        """Clients of both API servers.

        :param pause_s: the longest that one does nothing.
        """
        name = self.id().rpartition(".")[2]
        return Load(self.cluster.api, f"{name}.{self.seed}", clients, pause_s)

    def assert_all_right(self, load: Load) -> None:
        """Every version that was acknowledged can be read, and every shard of it is there."""
        print(f"{load.statuses()}, slowest {load.slowest()} s", end=" ")  # noqa: T201
        self.assertEqual(load.check(self.chance.choice(self.cluster.api)), [])
        self.cluster.wait_full()
        slow = {method: s for method, s in load.slowest().items() if s > BOUND_S}
        self.assertEqual(slow, {})

    def wait_count(self, load: Load, count: int, method: str = "PUT", *statuses: int) -> None:
        """Wait until so many more requests got an answer of some kind."""
        wanted = statuses or (200, 204)
        more = load.count(*wanted, method=method) + count
        self.cluster.wait_until(
            f"{count} more of {method} answered {wanted}: {load.statuses()} {load.details()}",
            lambda: load.count(*wanted, method=method) >= more,
        )

    def detail(self, answer: Answer) -> str:
        """The detail of an answer that is a problem."""
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        return str(json.loads(answer.body)["detail"])
