"""Additions that wait, and what their checks make of them: no input or output."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from dostore.adapters.elastic_answers import NoAnswer, Refused
from dostore.adapters.elastic_documents import MAX_VERSION_BYTES, State, Stored
from dostore.core.model import Draft, Version
from dostore.errors import DostoreError, MetadataUnavailable, OutcomeUnknown
from dostore.ports import Check

#: Versions of one name that are made by one compare-and-set.
MAX_CHAIN = 100

_UNKNOWN = "The version may have been made all the same: look before you send it again."


@define(eq=False)
class Addition:
    """A version that somebody wants made.

    :ivar attempted: the numbers under which it may have been written.
    """

    draft: Draft
    check: Check | None
    token: str
    size: int
    waiter: Deferred[Version]
    attempted: set[int] = field(factory=set)

    def succeed(self, version: Version) -> None:
        """Tell who waits, if anybody still does, that it was made."""
        if not self.waiter.called:
            self.waiter.callback(version)

    def fail(self, error: BaseException) -> None:
        """Tell who waits, if anybody still does, that it was not."""
        if not self.waiter.called:
            self.waiter.errback(error)


@frozen(slots=True)
class Plan:
    """What the checks make of the waiting additions, on top of one state."""

    chain: tuple[tuple[Addition, Stored], ...]
    refusals: tuple[tuple[Addition, DostoreError], ...]


def take(queue: deque[Addition]) -> list[Addition]:
    """The next additions that may travel together; those that nobody waits for are dropped."""
    batch: list[Addition] = []
    size = 0
    while queue and len(batch) < MAX_CHAIN:
        if not queue[0].waiter.called:
            size += queue[0].size
            if batch and size > MAX_VERSION_BYTES:
                break
            batch.append(queue[0])
        queue.popleft()
    return batch


def make_plan(state: State | None, batch: Sequence[Addition]) -> Plan:
    """Number the additions one after the other, as far as their checks let them."""
    chain: list[tuple[Addition, Stored]] = []
    refusals: list[tuple[Addition, DostoreError]] = []
    version = state.newest.version if state is not None else None
    for addition in batch:
        try:
            if addition.check is not None:
                addition.check(version)
        except DostoreError as error:
            refusals.append((addition, error))
            continue
        version = addition.draft.numbered(1 if version is None else version.number + 1)
        chain.append((addition, Stored(version, addition.token)))
    return Plan(tuple(chain), tuple(refusals))


def note_attempt(plan: Plan, error: MetadataUnavailable) -> None:
    """Note under which numbers the versions of a plan were written, unless they surely were not."""
    if isinstance(error, NoAnswer | Refused) and not error.sent:
        return
    for addition, stored in plan.chain:
        addition.attempted.add(stored.version.number)


def deliver(plan: Plan, batch: list[Addition]) -> None:
    """Tell everybody of a plan that was carried out."""
    batch.clear()
    for addition, stored in plan.chain:
        addition.succeed(stored.version)
    for addition, error in plan.refusals:
        addition.fail(error)


def fail_all(additions: Iterable[Addition], error: DostoreError) -> None:
    """Tell everybody of an error; those whose version may exist all the same are told that."""
    for addition in additions:
        if addition.attempted and isinstance(error, MetadataUnavailable):
            addition.fail(OutcomeUnknown(f"{error.detail} {_UNKNOWN}"))
        else:
            addition.fail(error)
