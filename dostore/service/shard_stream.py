"""The shards of a content on their way to their nodes, while it is still arriving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from dostore.background import Background
from dostore.core.model import Content
from dostore.core.scheme import Scheme
from dostore.core.stripes import Block
from dostore.errors import DostoreError, NoSpace, QuorumNotMet
from dostore.fanout import Outcome, gather_quorum
from dostore.ports import PUT_GRACE_S, IShardNode, IShardWriter

#: How long the slower nodes get when enough others have done their part.
WRITE_GRACE_S = PUT_GRACE_S


def refusal(
    outcomes: Mapping[IShardNode, Outcome[Any] | None], done: int, quorum: int
) -> DostoreError:
    """The error for a write that too few nodes took."""
    failed = {
        node.address: "no answer" if outcome is None else str(outcome.error)
        for node, outcome in outcomes.items()
        if outcome is None or not outcome.ok
    }
    full = [
        node.address
        for node, outcome in outcomes.items()
        if outcome is not None and isinstance(outcome.error, NoSpace)
    ]
    text = f"{done} nodes took their shard; a write needs {quorum}."
    if full and done + len(full) >= quorum:
        return NoSpace(f"{text} {too_full(full)}")
    # Those that were known to be away were not tried.
    tried = f" Failed: {', '.join(sorted(failed))}." if failed else ""
    return QuorumNotMet(f"{text}{tried} Try again later.", outcomes=failed)


def too_full(addresses: Sequence[str]) -> str:
    """A sentence about nodes without room."""
    has = "has" if len(addresses) == 1 else "have"
    return f"{', '.join(sorted(addresses))} {has} no space left. Free some or add drives."


class ShardStream:
    """The shards of one content that are being written, less those whose node failed."""

    def __init__(
        self,
        nodes: Mapping[int, IShardNode],
        scheme: Scheme,
        quorum: int,
        clock: IReactorTime,
        background: Background,
    ) -> None:
        self.nodes = nodes
        self._scheme = scheme
        self._quorum = quorum
        self._clock = clock
        self._background = background
        self._writers: dict[int, IShardWriter] = {}
        self._failed: dict[int, Outcome[None]] = {}

    async def begin(self) -> None:
        """Open a temporary shard on every node."""
        outcomes = await gather_quorum(
            [node.begin(index, self._scheme) for index, node in self.nodes.items()],
            need=self._quorum,
            grace_s=WRITE_GRACE_S,
            clock=self._clock,
            release=lambda writer: writer.abort(),
        )
        for index, outcome in zip(self.nodes, outcomes, strict=True):
            if outcome is not None and outcome.ok:
                self._writers[index] = outcome.value
            else:
                error = None if outcome is None else outcome.error
                self._failed[index] = Outcome(None, error or QuorumNotMet("no answer"))
        self._require()

    async def write(self, shards: Sequence[Sequence[Block]]) -> None:
        """Append blocks to each shard. A node that fails or lags is left out from here on."""
        writers = dict(self._writers)
        outcomes = await gather_quorum(
            [writer.write(shards[index]) for index, writer in writers.items()],
            need=self._quorum,
            grace_s=WRITE_GRACE_S,
            clock=self._clock,
        )
        for index, outcome in zip(writers, outcomes, strict=True):
            if outcome is None or not outcome.ok:
                self._drop(index, outcome)
        self._require()

    async def commit(self, content: Content) -> list[Outcome[None] | None]:
        """Commit every shard that is left; the outcome of each node, in the nodes' order."""
        writers = dict(self._writers)
        outcomes = await gather_quorum(
            [writer.commit(content) for writer in writers.values()],
            need=self._quorum,
            grace_s=WRITE_GRACE_S,
            clock=self._clock,
        )
        by_index = dict(zip(writers, outcomes, strict=True))
        for index, outcome in by_index.items():
            if outcome is None or not outcome.ok:
                self._drop(index, outcome)
        return [by_index.get(index, self._failed.get(index)) for index in self.nodes]

    def abort(self) -> None:
        """Drop what is not committed. A node that hangs is not waited for."""
        for index in list(self._writers):
            self._drop(index, None)

    def _drop(self, index: int, outcome: Outcome[None] | None) -> None:
        writer = self._writers.pop(index)
        error = None if outcome is None else outcome.error
        self._failed[index] = Outcome(None, error or QuorumNotMet("no answer"))
        self._background.run("abort", writer.abort())

    def _require(self) -> None:
        if len(self._writers) < self._quorum:
            raise refusal(
                {
                    node: self._failed.get(index)
                    for index, node in self.nodes.items()
                    if index not in self._writers
                },
                len(self._writers),
                self._quorum,
            )
