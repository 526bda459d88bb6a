"""A real RabbitMQ of one's own on loopback, beside any other: for tests and for a cluster to try.

:class:`RabbitmqServer` blocks its caller; it needs no reactor and nothing of trial. The tests of
one run share the broker that :func:`rabbitmq` gives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from tests.support.cases import needs
from tests.support.guardian import Guardian
from tests.support.ports import free_port

#: The script that Debian's wrapper calls in the end; the wrapper would change to another user.
_PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")

_POLL_S = 0.05

_MISSING = "RabbitMQ is not installed: run requirements/get-rabbitmq, or set DOSTORE_TEST_AMQP."


class RabbitmqServer:
    """One broker: its folder, its ports and, while it runs, its process and that of its epmd.

    :ivar folder: what it writes is in here; it is made when it is missing.
    :ivar port: where it speaks AMQP, on 127.0.0.1; the same after a restart.
    :ivar url: what RABBITMQ_SERVER is to be.
    :param guardian: told of the processes, so that none of them outlives this one.
    """

    def __init__(
        self, folder: str | os.PathLike[str], guardian: Guardian, port: int | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        self.port = port or free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}"
        self.log_path = self.folder / "rabbitmq.log"
        self._guardian = guardian
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._started = 0
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def environ(self) -> dict[str, str]:
        """What its own commands, ``rabbitmqctl`` for instance, need to find it."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            # The cookie of the Erlang node is kept there.
            "HOME": str(self.folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"dostore-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +S 2:2"
            ),
            # Has the script become the Erlang machine, so that signals reach it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it and return when it takes connections. What it prints is added to the log.

        :raises AssertionError: RabbitMQ is not installed, ended, or was not ready in time.
        """
        self.spawn()
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"RabbitMQ did not start:\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"RabbitMQ was not ready in time:\n{self.log()[-4000:]}")
            time.sleep(_POLL_S)

    def spawn(self) -> None:
        """Start it without waiting for it."""
        program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
        epmd = shutil.which("epmd")
        if program is None or epmd is None:
            raise AssertionError(_MISSING)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("rabbitmq.conf", "rabbitmq-env.conf"):
            (self.folder / name).touch()
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "advanced.config").write_text("[].\n")
        if self._epmd is None:
            # One of its own: the usual one would outlive the broker, and be everybody's.
            self._epmd = self._run([epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        self._started = len(self.log())
        self._process = self._run([program])

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guardian.watch(process.pid)
        return process

    @property
    def pid(self) -> int:
        """The broker's process.

        :raises AssertionError: it was not started.
        """
        if self._process is None:
            raise AssertionError("the broker was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def _ready(self) -> bool:
        # It says so when the listener is open and all is loaded; a bare connection comes too early.
        return "Server startup complete" in self.log()[self._started :]

    def log(self) -> str:
        """All that it has printed, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, SIGSTOP or SIGCONT for instance, to the broker."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, at once; its port is free on return. Does nothing when it is not running."""
        process, self._process = self._process, None
        self._end(process)

    def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._guardian.forget(process.pid)

    def stop(self) -> None:
        """Stop it and its epmd. Its folder is left.

        What this broker keeps is not worth an orderly end, which takes seconds.
        """
        self.kill()
        epmd, self._epmd = self._epmd, None
        self._end(epmd)


@cache
def guardian() -> Guardian:
    """The guardian of this process."""
    return Guardian()


@cache
def rabbitmq() -> str:
    """The URL of a broker for all tests of this run, started at the first call.

    It is the one that DOSTORE_TEST_AMQP names, when that is set.

    :raises AssertionError: there is none.
    """
    needs("RabbitMQ")
    given = os.environ.get("DOSTORE_TEST_AMQP")
    if given:
        return given
    server = own_rabbitmq()
    server.start()
    return server.url


def own_rabbitmq() -> RabbitmqServer:
    """A broker for one test, not started, to be stopped at will; it ends with this process."""
    needs("RabbitMQ")
    folder = tempfile.mkdtemp(prefix="dostore-rabbitmq-")
    guardian().remove(folder)
    return RabbitmqServer(folder, guardian())
