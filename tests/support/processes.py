"""A real store in a process of its own, for tests, the tour and the benchmarks.

:class:`Store` blocks its caller. A test that needs its reactor meanwhile calls it through
:func:`twisted.internet.threads.deferToThread`; :class:`StoreTestCase` does that for start and stop.
"""

from __future__ import annotations

import atexit
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.threads import deferToThread

from tests.support.cases import AsyncTestCase, SyncTestCase
from tests.support.ports import free_port

ROOT = Path(__file__).parent.parent.parent

#: What may be set where the tests run and would change a store.
_OURS = ("LISTEN_ADDRESS", "STORAGE_ROOT", "RABBITMQ_SERVER", "ES_SERVER", "DOSTORE_", "PYTHONPATH")

_POLL_S = 0.02

_running: weakref.WeakSet[Store] = weakref.WeakSet()


def wait_until(what: str, holds: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Poll until ``holds()`` is true.

    :raises AssertionError: it is not within ``timeout_s``; the message says ``what`` it was.
    """
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain until {what}")
        time.sleep(_POLL_S)


@frozen(slots=True)
class Answer:
    """A whole HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Store:
    """One store: its folder, its address, its log and, while it runs, its process.

    :ivar folder: STORAGE_ROOT; it is made when it is missing and never removed here.
    :ivar host: where it listens.
    :ivar port: where it listens; the same after a restart.
    :ivar environ: all environment variables of its process.
    :ivar twistd_options: options of ``twistd`` itself, for the next start.
    :param options: for ``twistd dostore-api``, besides those for the port and the folder.
    :param environ: environment variables for it.
    :param twistd: the program; by default this environment's, with this checkout's dostore.
    :param address: host and port; by default a free port of 127.0.0.1.
    """

    #: What twistd is to run.
    plugin = "dostore-api"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        options: Iterable[str] = (),
        *,
        environ: Mapping[str, str] | None = None,
        twistd: str | None = None,
        address: str | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        host, _, port = (address or f"127.0.0.1:{free_port()}").rpartition(":")
        self.host, self.port = host, int(port)
        self.options = list(options)
        self.twistd_options: list[str] = []
        self.log_path = self.folder.with_name(self.folder.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None
        inherited = {key: val for key, val in os.environ.items() if not key.startswith(_OURS)}
        self.environ = inherited | dict(environ or {})
        if twistd is None:
            self._twistd = str(Path(sys.executable).parent / "twistd")
            self.environ["PYTHONPATH"] = str(ROOT)
        else:
            self._twistd = twistd

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """``http://host:port``, without a slash at its end."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """The running process.

        :raises AssertionError: it was not started.
        """
        if self.process is None:
            raise AssertionError("the store was not started")
        return self.process.pid

    # --- life ---

    def command(self) -> list[str]:
        """What :meth:`spawn` runs."""
        return [
            self._twistd,
            "-n",
            "--pidfile=",
            *self.twistd_options,
            self.plugin,
            f"--listen={self.address}",
            f"--storage-root={self.folder}",
            *self.options,
        ]

    def spawn(self) -> None:
        """Start the process without waiting for it. What it prints is added to the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder.parent,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        _running.add(self)

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the process and return when it is ready.

        :raises AssertionError: it ended, or was not ready in time; with the end of its log.
        """
        self.spawn()
        self.wait_ready(timeout_s)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when ``/health/ready`` answers 200."""
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"the store did not start:\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the store was not ready in time:\n{self.log()[-4000:]}")
            time.sleep(_POLL_S)

    def _ready(self) -> bool:
        try:
            return self.request("GET", "/health/ready", timeout_s=2.0).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_exit(self, timeout_s: float = 60.0) -> int:
        """The exit status, when it has ended by itself; negative: the signal that ended it."""
        if self.process is None:
            raise AssertionError("the store was not started")
        status = self.process.wait(timeout_s)
        _running.discard(self)
        return status

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, then wait; the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait_exit(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the store did not stop in {timeout_s:g} s:\n{self.log()[-4000:]}"
            ) from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, at once; does nothing when it is not running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        _running.discard(self)

    def restart(self) -> None:
        """SIGKILL when it runs, and start again on the same port."""
        self.kill()
        self.start()

    # --- looking at it ---

    def log(self) -> str:
        """All that it has printed, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def resident_bytes(self) -> int:
        """Memory in use now (VmRSS)."""
        return self._status_kib("VmRSS") * 1024

    def peak_resident_bytes(self) -> int:
        """The most memory that was in use since the start or :meth:`forget_peak` (VmHWM)."""
        return self._status_kib("VmHWM") * 1024

    def forget_peak(self) -> None:
        """Begin the peak anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        """Processor time used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """How many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _status_kib(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        raise AssertionError(f"no {key} of process {self.pid}")

    def shard_files(self) -> list[Path]:
        """The committed shard files of the drives in the folder, by drive and name."""
        return sorted(self.folder.glob("*/objects/*"))

    def temp_files(self) -> list[Path]:
        """What is on the drives and was not committed."""
        return sorted(self.folder.glob("*/temp/*"))

    # --- talking to it ---

    def connect(self, timeout_s: float = 60.0) -> http.client.HTTPConnection:
        """A connection of one's own, for requests in parts or several after each other."""
        return http.client.HTTPConnection(
            self.host, self.port, timeout=timeout_s, blocksize=1 << 18
        )

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> Answer:
        """One request on a connection of its own, and the whole answer.

        :param path: percent-escaped, with its query.
        :param body: bytes, a file, or an iterable of bytes (sent chunked unless there is a length).
        """
        connection = self.connect(timeout_s)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()


class BlockingStoreTestCase(SyncTestCase):
    """A test that starts stores and needs no reactor of its own."""

    def make_store(self, *options: str, **how: Any) -> Store:
        """A store in a new folder, not started; it is killed at the end, its log is kept."""
        return _make_store(self, options, how)

    def start_store(self, *options: str, **how: Any) -> Store:
        """A store in a new folder that is ready."""
        store = self.make_store(*options, **how)
        store.start()
        return store


class StoreTestCase(AsyncTestCase):
    """A test that starts stores and talks to them through the reactor."""

    def make_store(self, *options: str, **how: Any) -> Store:
        """A store in a new folder, not started; it is killed at the end, its log is kept."""
        return _make_store(self, options, how)

    async def start_store(self, *options: str, **how: Any) -> Store:
        """A store in a new folder that is ready."""
        store = self.make_store(*options, **how)
        await deferToThread(store.start)
        return store

    async def stop_store(self, store: Store) -> int:
        """SIGTERM; the exit status."""
        return int(await deferToThread(store.stop))


def _make_store(test: Any, options: Iterable[str], how: dict[str, Any]) -> Store:
    folder = Path(test.mktemp()).absolute()
    store = Store(folder / "store", options, **how)
    folder.mkdir(parents=True)
    test.addCleanup(shutil.rmtree, store.folder, ignore_errors=True)
    test.addCleanup(store.kill)
    return store


@atexit.register
def _kill_all() -> None:
    for store in list(_running):
        store.kill()
