"""What is asked of a store, and of what it is compared with, in the same words."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

from attrs import asdict, frozen

from benchmarks import bodies
from benchmarks.bodies import MIB
from benchmarks.child import Child
from benchmarks.client import Done, Job

#: Sizes from here on are told in MB/s, smaller ones in requests a second.
LARGE_BYTES = MIB

#: What is read before a GET is measured, and after a PUT, is compared byte by byte up to this.
_VERIFIED_BYTES = 64 * MIB

_MANY = 1 << 62

_PATIENCE_S = 3600.0

_salts = itertools.count(1)


class Target(Protocol):
    """Whom the client talks to.

    :ivar made: the salt of what a workload has put there, by the workload's own key.
    """

    made: dict[object, int]
    written_bytes: int

    @property
    def port(self) -> int:
        """Where it listens."""


class Client:
    """The process that makes the load."""

    def __init__(self) -> None:
        self._child = Child("benchmarks.client")

    def run(self, job: Job) -> Done:
        """Have a job done.

        :raises ChildFailed: an answer was not as it should be.
        """
        return Done(**self._child.ask(asdict(job)))

    def close(self) -> None:
        """End it."""
        self._child.close()


@frozen(slots=True)
class Run:
    """What came of a run.

    :ivar salt: of what was sent or read.
    """

    done: Done
    salt: int


@frozen(slots=True)
class Workload:
    """One kind of request again and again.

    :ivar connections: clients, each of which sends one request after the other.
    :ivar names: how many contents there are to GET, in turn.
    :ivar count: so many requests; 0: as many as are answered in the time.
    :ivar lost: two of the six places are gone, and with them two data shards of each content.
    :ivar byte: only one byte of each content is read.
    :ivar text: contents can be compressed.
    """

    method: str
    size: int
    connections: int
    names: int = 0
    count: int = 0
    lost: bool = False
    byte: bool = False
    text: bool = False

    @property
    def unit(self) -> str:
        """Of its rate."""
        return "MB/s" if self.size >= LARGE_BYTES and not self.byte else "/s"

    def rate(self, done: Done) -> float:
        """Requests or megabytes of 10⁶ bytes of content a second."""
        return (done.count if self.unit == "/s" else done.bytes / 1e6) / done.seconds

    def _key(self) -> object:
        return self.size, self.text, self.names, self.lost

    def prepare(self, target: Target, client: Client) -> int:
        """Put there what is to be read, and read it; how many contents were compared with what was
        sent, byte by byte.
        """
        if self.method != "GET" or self._key() in target.made:
            return 0
        put = Workload("PUT", self.size, min(8, self.names), count=self.names, text=self.text)
        run = put.measure(target, client)
        target.made[self._key()] = run.salt
        return put.verify(target, client, run)

    def hashes(self, target: Target) -> list[bytes]:
        """Of the contents that are there to be read."""
        salt = target.made[self._key()]
        return [bodies.sha256(salt, each, self.size, text=self.text) for each in range(self.names)]

    def measure(
        self,
        target: Target,
        client: Client,
        seconds: float = _PATIENCE_S,
        numbers: Sequence[int] = (),
    ) -> Run:
        """One run.

        :param seconds: how long, unless there is a count.
        :param numbers: of the contents to GET; none: all of them.
        """
        salt = next(_salts) if self.method == "PUT" else target.made[self._key()]
        fields = "HTTP/1.1\r\nHost: benchmark\r\n"
        size, offset = self.size, 0
        if self.method == "PUT":
            fields += f"Content-Length: {size}\r\n"
        elif self.byte:
            size, offset = 1, self.size // 2 + 17
            fields += f"Range: bytes={offset}-{offset}\r\n"
        job = Job(
            port=target.port,
            method=self.method,
            head=f"{self.method} {_path(salt)} {fields}\r\n",
            connections=self.connections,
            names=self.names or _MANY,
            numbers=list(numbers),
            size=size,
            offset=offset,
            salt=salt,
            text=self.text,
            # A count is reached however long that takes.
            seconds=_PATIENCE_S if self.count else seconds,
            count=self.count or _MANY,
        )
        done = client.run(job)
        if self.method == "PUT":
            target.written_bytes += done.bytes
        return Run(done, salt)

    def verify(self, target: Target, client: Client, run: Run, numbers: Sequence[int] = ()) -> int:
        """Read back what a run has put there, or what has to be decoded; how many contents were
        compared, byte by byte.
        """
        if self.method != "PUT" and not self.lost:
            return 0
        most = max(1, min(64, _VERIFIED_BYTES // self.size))
        count = min(run.done.count, most)
        if self.method == "PUT":
            # The newest: a reference may have written over what is older.
            numbers = range(run.done.count - count, run.done.count)
        job = Job(
            port=target.port,
            method="GET",
            head=f"GET {_path(run.salt)} HTTP/1.1\r\nHost: benchmark\r\n\r\n",
            connections=4,
            names=self.names or _MANY,
            numbers=list(numbers),
            size=self.size,
            salt=run.salt,
            text=self.text,
            count=count,
            check=True,
        )
        return client.run(job).count


def _path(salt: int) -> str:
    return f"/objects/bench/{salt}/%016d"


@frozen(slots=True)
class Listing:
    """Pages of names, from places all over.

    :ivar prefix: of all names; a number of seven digits follows.
    :ivar names: how many there are.
    """

    prefix: str
    names: int
    limit: int = 1000
    unit: str = "ms"

    def rate(self, done: Done) -> float:
        """How long a page takes."""
        return done.p50_ms

    def prepare(self, target: Target, client: Client) -> int:
        """The names are there already."""
        return 0

    def measure(
        self,
        target: Target,
        client: Client,
        seconds: float = _PATIENCE_S,
        numbers: Sequence[int] = (),
    ) -> Run:
        """One run; the client counts the lines of each page."""
        path = f"/objects/?limit={self.limit}&after={self.prefix}%07d"
        job = Job(
            port=target.port,
            method="GET",
            head=f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n",
            names=max(1, self.names - self.limit - 1),
            step=7919,
            lines=self.limit,
            seconds=seconds,
        )
        return Run(client.run(job), 0)

    def verify(self, target: Target, client: Client, run: Run, numbers: Sequence[int] = ()) -> int:
        """That was done on the way."""
        return run.done.count


@frozen(slots=True)
class Starting:
    """From the start of a process to its first right answer.

    :ivar name: of an object that is asked for.
    """

    name: str
    unit: str = "s"

    def rate(self, done: Done) -> float:
        """How long it takes."""
        return done.seconds
