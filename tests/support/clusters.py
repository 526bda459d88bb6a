"""A real cluster in processes: RabbitMQ, Elasticsearch, data servers and API servers.

Everything here blocks its caller. What was started ends with this process, however that ends.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.cases import SyncTestCase
from tests.support.elasticsearch_server import SearchServer, elasticsearch, own_search_server
from tests.support.processes import Store, wait_until
from tests.support.rabbitmq_server import RabbitmqServer, guardian, own_rabbitmq

#: Of all servers of all clusters here. No log may hold any of them.
SECRET = "a-secret-of-this-test-cluster"
BROKER_PASSWORD = "the-password-of-the-broker"
SEARCH_PASSWORD = "the-password-of-elasticsearch"

#: Two cores may be shared with others: nothing of a sound cluster takes nearly as long.
PATIENCE_S = 90.0

_LOG_END = 3000


class Server(Store):
    """One process of a cluster, ended with this one even when this one is killed.

    It is ready when it takes requests, which is before the cluster is.
    """

    def spawn(self) -> None:
        """See Store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guardian().watch(self.process.pid)

    @property
    def running(self) -> bool:
        """Whether there is a process, stopped by SIGSTOP or not."""
        return self.process is not None and self.process.poll() is None

    def _ready(self) -> bool:
        try:
            return self.request("GET", "/health/live", timeout_s=2.0).status == 200
        except OSError:
            return False

    def wait_exit(self, timeout_s: float = 60.0) -> int:
        """See Store."""
        status = super().wait_exit(timeout_s)
        guardian().forget(self.pid)
        return status

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, also to one that is stopped, then wait; the exit status."""
        self.terminate()
        return self.end(timeout_s)

    def terminate(self) -> None:
        """SIGTERM, also to one that is stopped."""
        self.resume()
        self.signal(signal.SIGTERM)

    def end(self, timeout_s: float = 60.0) -> int:
        """Wait for the end of one that was told to end; the exit status.

        :raises AssertionError: it has not ended in time; it is killed.
        """
        try:
            return self.wait_exit(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not stop in {timeout_s:g} s:\n{self.log_end()}") from None

    def kill(self) -> None:
        """SIGKILL, at once; does nothing when it is not running."""
        super().kill()
        if self.process is not None:
            guardian().forget(self.process.pid)

    def pause(self) -> None:
        """SIGSTOP: its connections stay, and nobody answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; does nothing when it is not running."""
        if self.running:
            self.signal(signal.SIGCONT)

    def log_end(self) -> str:
        """The last lines of the log, with the server's name above."""
        return f"--- {self.plugin} {self.address}\n{self.log()[-_LOG_END:]}"


class ApiServer(Server):
    """One API server."""

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """What ``/health/ready`` says: the status and the JSON; (0, {}) when nobody answers."""
        try:
            answer = self.request("GET", "/health/ready", timeout_s=5.0)
        except OSError:
            return 0, {}
        return answer.status, json.loads(answer.body)

    def sees(self, live: int, writable: int | None = None) -> bool:
        """Whether it is ready and has as many live nodes, all writable unless told otherwise."""
        status, told = self.readiness()
        wanted = live if writable is None else writable
        nodes = told.get("nodes", {})
        return status == 200 and (nodes["live"], nodes["writable"]) == (live, wanted)


class DataServer(Server):
    """One data server; its folder is the drive."""

    plugin = "dostore-data"

    def shard_files(self) -> list[Path]:
        """Its committed shards, by name."""
        return sorted((self.folder / "objects").glob("*"))

    def temp_files(self) -> list[Path]:
        """What is there and was not committed."""
        return sorted((self.folder / "temp").glob("*"))

    def wipe(self) -> None:
        """Remove all that it has; it must not run."""
        shutil.rmtree(self.folder)


class Cluster:
    """A broker of its own, an index of its own, and servers.

    :ivar broker: its RabbitMQ.
    :ivar search: its Elasticsearch, when it has one of its own.
    :ivar data: the data servers.
    :ivar api: the API servers.
    :param folder: what the servers write, and their logs, are in here.
    :param data: how many data servers there are, or their addresses.
    :param api: how many API servers there are, or their addresses.
    :param zones: of the data servers, in turn.
    :param own_search: whether there is an Elasticsearch that can be stopped; it takes seconds more.
    :param environ: more environment variables for all servers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        data: int | Sequence[str] = 6,
        api: int | Sequence[str] = 2,
        zones: Sequence[str] = (),
        data_options: Iterable[str] = (),
        api_options: Iterable[str] = (),
        own_search: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.broker: RabbitmqServer = own_rabbitmq()
        self.search: SearchServer | None = own_search_server() if own_search else None
        self.index = f"dostore-cluster-{uuid.uuid4().hex}"
        self._environ = dict(environ or {})
        self._data_options = list(data_options)
        self._api_options = list(api_options)
        self._shared_search = ""
        self._has_services = False
        self._given = (_addresses(data), _addresses(api), list(zones))
        self._set_password()
        self.data: list[DataServer] = []
        self.api: list[ApiServer] = []

    def _set_password(self) -> None:
        # RabbitMQ makes its first user when it first starts.
        self.broker.folder.mkdir(parents=True, exist_ok=True)
        (self.broker.folder / "rabbitmq.conf").write_text(
            f"default_user = dostore\ndefault_pass = {BROKER_PASSWORD}\n"
        )
        self.broker.url = f"amqp://dostore:{BROKER_PASSWORD}@127.0.0.1:{self.broker.port}"

    @property
    def search_url(self) -> str:
        """Where Elasticsearch is; one for all tests of the run is started when there is none."""
        if self.search is not None:
            return self.search.url
        if not self._shared_search:
            self._shared_search = elasticsearch()
        return self._shared_search

    # --- making it ---

    def environ(self) -> dict[str, str]:
        """What each server is told by environment variables."""
        named, _, rest = self.search_url.partition("://")
        return {
            "RABBITMQ_SERVER": self.broker.url,
            "ES_SERVER": f"{named}://dostore:{SEARCH_PASSWORD}@{rest}",
            "DOSTORE_METADATA_INDEX": self.index,
            "DOSTORE_SECRET": SECRET,
        } | self._environ

    def make_servers(self) -> None:
        """Make the servers that were asked for, none of them started."""
        data, api, zones = self._given
        for number, address in enumerate(data):
            self.add_data_server(address, zones[number % len(zones)] if zones else "")
        for address in api:
            self.add_api_server(address)

    def add_data_server(self, address: str | None = None, zone: str = "") -> DataServer:
        """One more data server, not started."""
        environ = self.environ()
        del environ["ES_SERVER"], environ["DOSTORE_METADATA_INDEX"]
        options = [*self._data_options, *([f"--zone={zone}"] if zone else [])]
        folder = self.folder / "data" / str(len(self.data) + 1)
        made = DataServer(folder, options, environ=environ, address=address)
        self.data.append(made)
        return made

    def add_api_server(self, address: str | None = None) -> ApiServer:
        """One more API server, not started."""
        folder = self.folder / "api" / str(len(self.api) + 1)
        made = ApiServer(folder, self._api_options, environ=self.environ(), address=address)
        self.api.append(made)
        return made

    @property
    def servers(self) -> list[Server]:
        """All of both kinds."""
        return [*self.data, *self.api]

    # --- its life ---

    def start(self) -> None:
        """Start all that is not started; return when all of it is ready."""
        if not self._has_services:
            self.start_services()
        if not self.servers:
            self.make_servers()
        started = [server for server in self.servers if not server.running]
        for server in started:
            server.spawn()
        for server in started:
            # API servers may not have noticed that they were away.
            server.wait_ready(PATIENCE_S)
        self.wait_ready()

    def start_services(self) -> None:
        """Start RabbitMQ and Elasticsearch; return when both answer."""
        self._has_services = True
        if self.search is not None:
            self.search.spawn()
        self.broker.start(PATIENCE_S)
        if self.search is not None:
            wait_until("Elasticsearch answers", self.search.ready, PATIENCE_S)
        elif not self.search_url:
            raise AssertionError("there is no Elasticsearch")

    def wait_ready(
        self, live: int | None = None, writable: int | None = None, timeout_s: float = PATIENCE_S
    ) -> None:
        """Return when each running API server is ready and sees so many nodes.

        :param live: by default every data server that runs.
        :param writable: by default all the live ones.
        :raises AssertionError: they are not in time.
        """
        wanted = sum(server.running for server in self.data) if live is None else live
        running = [server for server in self.servers if server.running]
        api = [server for server in self.api if server.running]

        def seen() -> bool:
            for server in running:
                if not server.running:
                    raise AssertionError(f"it has ended:\n{server.log_end()}")
            return all(server.sees(wanted, writable) for server in api)

        self.wait_until(f"{len(api)} API servers see {wanted} live nodes", seen, timeout_s)

    def wait_until(
        self, what: str, holds: Callable[[], object], timeout_s: float = PATIENCE_S
    ) -> None:
        """Poll until ``holds()`` is true.

        :raises AssertionError: it is not in time; with what API servers say of themselves.
        """
        try:
            wait_until(what, holds, timeout_s)
        except AssertionError as error:
            told = "\n".join(f"{server.address}: {server.readiness()}" for server in self.api)
            raise AssertionError(f"{error}\n{told}") from None

    def stop(self) -> dict[str, int]:
        """SIGTERM to every server that runs, API servers first; exit statuses by address."""
        statuses: dict[str, int] = {}
        for kind in (self.api, self.data):
            running = [server for server in kind if server.running]
            for server in running:
                server.terminate()
            statuses |= {server.address: server.end() for server in running}
        return statuses

    def kill(self) -> None:
        """SIGKILL to everything; what is kept in a shared Elasticsearch is removed."""
        for server in self.servers:
            server.kill()
        self.broker.stop()
        if self.search is not None:
            self.search.kill()
        elif self._shared_search:
            self._remove_index()

    def _remove_index(self) -> None:
        request = urllib.request.Request(
            f"{self._shared_search}/{self.index}?ignore_unavailable=true", method="DELETE"
        )
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except OSError as error:
            # It goes with the server; a test's own error must not be hidden by this.
            sys.stderr.write(f"the index {self.index} is left: {error}\n")

    # --- looking at it ---

    def log_ends(self) -> str:
        """The ends of all logs."""
        parts = [server.log_end() for server in self.servers]
        parts.append(f"--- RabbitMQ\n{self.broker.log()[-_LOG_END:]}")
        return "\n".join(parts)

    def logs(self) -> dict[str, str]:
        """All that each server, by its address, has printed."""
        return {server.address: server.log() for server in self.servers}

    def shard_files(self) -> dict[str, list[str]]:
        """The names of the committed shard files, by data server."""
        return {
            server.address: [path.name for path in server.shard_files()] for server in self.data
        }


def _addresses(given: int | Sequence[str]) -> list[str | None]:
    return [None] * given if isinstance(given, int) else list(given)


class ClusterTestCase(SyncTestCase):
    """A test that starts clusters; the ends of their logs are shown when it fails."""

    def setUp(self) -> None:
        """Have the test, which trial finds by its name, watched."""
        super().setUp()
        self._clusters: list[Cluster] = []
        name = self.id().rpartition(".")[2]
        setattr(self, name, self._watched(getattr(self, name)))

    def _watched(self, test: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            passed = False
            try:
                test()
                passed = True
            finally:
                if not passed:
                    logs = "\n".join(cluster.log_ends() for cluster in self._clusters)
                    sys.stderr.write(f"{self.id()} did not pass.\n{logs}\n")

        return run

    def make_cluster(self, **how: Any) -> Cluster:
        """A cluster in a new folder, not started. At the end it is killed; its logs are kept.

        :param how: for :class:`Cluster`.
        """
        cluster = Cluster(Path(self.mktemp()), **how)
        self._clusters.append(cluster)
        self.addCleanup(self._remove_data, cluster)
        self.addCleanup(cluster.kill)
        return cluster

    def start_cluster(self, **how: Any) -> Cluster:
        """A cluster in a new folder that is ready.

        :param how: for :class:`Cluster`.
        """
        cluster = self.make_cluster(**how)
        cluster.start()
        return cluster

    def _remove_data(self, cluster: Cluster) -> None:
        for server in cluster.servers:
            shutil.rmtree(server.folder, ignore_errors=True)
