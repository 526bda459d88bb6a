"""A real Elasticsearch or OpenSearch of one's own on loopback: for tests and for a cluster to try.

:class:`SearchServer` blocks its caller; it needs no reactor and nothing of trial. The tests of one
run share the server that :func:`elasticsearch` gives.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from attrs import frozen

from tests.support.cases import needs
from tests.support.guardian import Guardian
from tests.support.ports import free_port
from tests.support.processes import ROOT
from tests.support.rabbitmq_server import guardian

_POLL_S = 0.05

_CACHE = ROOT / ".cache" / "elasticsearch"

#: The program that starts the server takes no HTTP port above this one.
_MAX_PORT = 9299
_MIN_PORT = 5000

_SETTINGS = """\
network.host: 127.0.0.1
transport.port: {transport_port}
discovery.type: single-node
# How full the machine's disk is does not matter here.
cluster.routing.allocation.disk.threshold_enabled: false
cluster.max_shards_per_node: 10000
"""


@frozen(slots=True)
class Product:
    """A program that speaks Elasticsearch's API.

    :ivar folder: where ``requirements/get-elasticsearch`` puts it.
    :ivar starter: the class that starts it.
    :ivar settings: the name of its settings file.
    """

    folder: str
    starter: str
    settings: str


ELASTICSEARCH = Product(
    "elasticsearch-7.10.2",
    "org.codelibs.elasticsearch.runner.ElasticsearchClusterRunner",
    "elasticsearch.yml",
)
OPENSEARCH = Product(
    "opensearch-2.19.1", "org.codelibs.opensearch.runner.OpenSearchRunner", "opensearch.yml"
)


class SearchServer:
    """One server: its folder, its ports and, while it runs, its process.

    :ivar folder: what it writes is in here, its data too; it is made when it is missing.
    :ivar port: where it speaks HTTP, on 127.0.0.1; the same after a restart.
    :ivar url: what ES_SERVER is to be.
    :param guardian: told of the process, so that it does not outlive this one.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        guardian: Guardian,
        product: Product = ELASTICSEARCH,
        port: int | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.port = port or free_port(_MIN_PORT, _MAX_PORT)
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = self.folder / "server.log"
        self._product = product
        self._transport_port = free_port(_MIN_PORT, _MAX_PORT)
        self._guardian = guardian
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 90.0) -> None:
        """Start it and return when it answers. What it prints is added to the log.

        :raises AssertionError: it is not installed, ended, or was not ready in time.
        """
        self.spawn()
        deadline = time.monotonic() + timeout_s
        while not self.ready():
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"{self._product.folder} did not start:\n{self._log_end()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self._product.folder} was not ready:\n{self._log_end()}")
            time.sleep(_POLL_S)

    def spawn(self) -> None:
        """Start it without waiting for it."""
        java = shutil.which("java")
        jars = _CACHE / self._product.folder / "lib"
        if java is None or not jars.is_dir():
            raise AssertionError(
                f"{self._product.folder} is not here: run requirements/get-elasticsearch "
                f"{self._product.folder.partition('-')[0]}, or set DOSTORE_TEST_ES."
            )
        config = self.folder / "node_1" / "config"
        config.mkdir(parents=True, exist_ok=True)
        (config / self._product.settings).write_text(
            _SETTINGS.format(transport_port=self._transport_port)
        )
        command = [
            java, "-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
            "-cp", f"{jars}/*", self._product.starter,
            "-basePath", str(self.folder), "-numOfNode", "1", "-clusterName", self.folder.name,
            # It numbers its nodes from 1, and adds the number.
            "-baseHttpPort", str(self.port - 1),
        ]  # fmt: skip
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guardian.watch(self._process.pid)

    @property
    def pid(self) -> int:
        """The process.

        :raises AssertionError: it was not started.
        """
        if self._process is None:
            raise AssertionError("the server was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether it answers, and every index of it can be written."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=1s")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _log_end(self) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return text[-4000:]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, SIGSTOP or SIGCONT for instance."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, at once; its port is free on return, its data stay. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._guardian.forget(process.pid)


@cache
def elasticsearch() -> str:
    """The URL of a server for all tests of this run, started at the first call.

    It is the one that DOSTORE_TEST_ES names, when that is set.

    :raises AssertionError: there is none.
    """
    needs("Elasticsearch")
    given = os.environ.get("DOSTORE_TEST_ES")
    if given:
        return given
    server = own_search_server()
    server.start()
    return server.url


def own_search_server(product: Product = ELASTICSEARCH) -> SearchServer:
    """A server for one test, not started, to be stopped at will; it ends with this process."""
    needs(product.folder)
    folder = tempfile.mkdtemp(prefix="dostore-search-")
    guardian().remove(folder)
    return SearchServer(folder, guardian(), product)
