"""What every command works with."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from dostore.client.meters import Meters
from dostore.client.output import Output
from dostore.client.state import Kept
from dostore.client.store import Store
from dostore.ports import IWorkers


@frozen(slots=True)
class Context:
    """The surroundings of a command.

    :ivar workers: threads that read, write and hash files; as many as there are jobs, and more.
    :ivar stdin: a descriptor.
    :ivar stdout: a descriptor.
    """

    store: Store
    kept: Kept
    workers: IWorkers
    output: Output
    clock: IReactorTime
    stdin: int
    stdout: int

    @property
    def meters(self) -> Meters:
        """Who is told how far transfers are."""
        return self.output.meters
