"""A whole cluster on this machine, in the foreground, to try: ``make cluster``.

RabbitMQ, Elasticsearch, six data servers and two API servers, each a process with a log of its own
beside its folder. They stop together: at Ctrl-C or SIGTERM, or when one of them ends by itself.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from tests.support.clusters import ApiServer, DataServer, Server
from tests.support.elasticsearch_server import SearchServer
from tests.support.processes import wait_until
from tests.support.rabbitmq_server import RabbitmqServer, guardian

DATA_SERVERS = 6
API_SERVERS = 2

#: Above the port of the first API server.
_BROKER_PORT = 10
_DATA_PORTS = 11

_POLL_S = 0.2
_PATIENCE_S = 120.0


class Told(Exception):
    """Somebody wants it to stop."""


class TryOut:
    """The cluster.

    :param folder: all that it keeps is in here, over restarts.
    :param port: of the first API server; the others follow.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.broker = RabbitmqServer(self.folder / "rabbitmq", guardian(), port=port + _BROKER_PORT)
        self.search = SearchServer(self.folder / "elasticsearch", guardian())
        told = {
            "RABBITMQ_SERVER": self.broker.url,
            "DOSTORE_SECRET_FILE": str(self._make_secret()),
        }
        self.data: list[Server] = [
            DataServer(
                self.folder / f"data-{number + 1}",
                environ=told,
                address=f"127.0.0.1:{port + _DATA_PORTS + number}",
            )
            for number in range(DATA_SERVERS)
        ]
        self.api = [
            ApiServer(
                self.folder / f"api-{number + 1}",
                environ=told | {"ES_SERVER": self.search.url},
                address=f"127.0.0.1:{port + number}",
            )
            for number in range(API_SERVERS)
        ]

    def _make_secret(self) -> Path:
        path = self.folder / "secret"
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        return path

    def start(self) -> None:
        """Start all of it; a line for each that is ready.

        :raises AssertionError: one cannot start, and why.
        """
        self.search.spawn()
        self.broker.start(_PATIENCE_S)
        self._say("RabbitMQ", self.broker.url, self.broker.log_path)
        self._wait("Elasticsearch answers", self.search.ready)
        self._say("Elasticsearch", self.search.url, self.search.log_path)
        servers = [*self.data, *self.api]
        for server in servers:
            server.spawn()
        for server in self.data:
            server.wait_ready(_PATIENCE_S)
            self._say("data server", server.url, server.log_path)
        for api in self.api:
            # It starts without the others, and is ready with all of them.
            self._wait(f"{api.url} sees all data servers", partial(api.sees, DATA_SERVERS))
            self._say("API server", api.url, api.log_path)

    def _wait(self, what: str, holds: Callable[[], object]) -> None:
        def checked() -> object:
            self.check()
            return holds()

        wait_until(what, checked, _PATIENCE_S)

    def _say(self, kind: str, url: str, log: Path) -> None:
        print(f"{kind:<13}  {url:<36}  ready; log: {os.path.relpath(log)}")

    def check(self) -> None:
        """Look whether all that was started runs.

        :raises AssertionError: one has ended, and the end of its log.
        """
        for service, log in (
            (self.broker, self.broker.log_path),
            (self.search, self.search.log_path),
        ):
            if not service.running:
                raise AssertionError(f"{log.parent.name} has ended; see {os.path.relpath(log)}")
        for server in (*self.data, *self.api):
            if server.process is not None and not server.running:
                raise AssertionError(f"A server has ended.\n{server.log_end()}")

    def stop(self) -> None:
        """Stop what runs: API servers, data servers, and what they need."""
        for kind in (self.api, self.data):
            running = [server for server in kind if server.running]
            for server in running:
                server.terminate()
            for server in running:
                server.end()
        self.search.kill()
        self.broker.stop()


def main() -> int:
    """Run a cluster until it is told to stop, or one of its processes ends; the exit status."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("cluster-data"))
    parser.add_argument("--port", type=int, default=12345, help="of the first API server")
    given = parser.parse_args()

    def tell(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise Told

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, tell)
    cluster = TryOut(given.folder, given.port)
    status = 0
    try:
        cluster.start()
        one, other = (api.url for api in cluster.api)
        print("\nTry it, in another terminal; Ctrl-C here stops it:\n")
        print(f"    curl -T README.rst {one}/objects/readme && curl {other}/objects/readme\n")
        while True:
            cluster.check()
            time.sleep(_POLL_S)
    except Told:
        print("stopping")
    except AssertionError as error:
        print(f"stopping: {error}", file=sys.stderr)
        status = 1
    finally:
        cluster.stop()
    return status


if __name__ == "__main__":
    sys.exit(main())
