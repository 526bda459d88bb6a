"""Additions of versions: by compare-and-set, and what is done when that fails or when nobody knows.

The current document of a name changes by compare-and-set only. With it, ahead of it in the same
request, go the history documents of what it supersedes; until these are known to be there the
current document carries the versions itself, so that no moment of a crash loses one.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.adapters.elastic_access import (
    DocumentKey,
    ElasticAccess,
    Found,
    WriteGroup,
    Written,
)
from dostore.adapters.elastic_additions import (
    Addition,
    deliver,
    fail_all,
    make_plan,
    note_attempt,
    take,
)
from dostore.adapters.elastic_answers import NoAnswer, Refused, check_block
from dostore.adapters.elastic_documents import (
    HISTORY,
    MAX_VERSION_BYTES,
    State,
    Stored,
    as_json,
    check_size,
    current_document,
    current_id,
    history_document,
    history_id,
    key_of,
    parse_document,
    parse_state,
)
from dostore.core.model import Draft, Version
from dostore.errors import Corrupt, DostoreError, MetadataUnavailable, OutcomeUnknown
from dostore.ports import Check

log = Logger()

#: How long an addition is tried; the last try may take the link's time longer.
ADD_TIMEOUT_S = 10.0

#: Versions that a current document carries besides those of its last addition.
MAX_CARRIED = 100

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_CONFLICT_PAUSE_S = 0.002
_LONGEST_CONFLICT_PAUSE_S = 0.25

#: A hot name rests between two rounds for as long as a round took, but no longer than this, so that
#: writers at other servers get their turn.
_LONGEST_REST_S = 0.1

_REMEMBERED_NAMES = 10_000
_REMEMBERED_BYTES = 4096


class ElasticWriter:
    """Makes versions.

    :param make_token: a text that was never made before, anywhere.
    :param chance: from 0 to below 1, as ``random.random``.
    """

    def __init__(
        self,
        access: ElasticAccess,
        clock: IReactorTime,
        make_token: Callable[[], str],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._access = access
        self._clock = clock
        self._make_token = make_token
        self._chance = chance
        self._queues: dict[str, deque[Addition]] = {}
        self._known: OrderedDict[str, State] = OrderedDict()
        self._running: set[Deferred[None]] = set()

    async def add(self, draft: Draft, check: Check | None) -> Version:
        """See IMetadataStore.

        :raises InvalidName, TooLarge, InvalidRequest: the version cannot be kept.
        :raises OutcomeUnknown: it may have been made.
        """
        key_of(draft.name)
        token = self._make_token()
        size = check_size(Stored(draft.numbered(1), token))
        waiter: Deferred[Version] = Deferred()
        addition = Addition(draft, check, token, size, waiter)
        queue = self._queues.get(draft.name)
        if queue is not None:
            queue.append(addition)
        else:
            queue = self._queues[draft.name] = deque([addition])
            task = Deferred.fromCoroutine(self._serve(draft.name, queue))
            self._running.add(task)
            _ = task.addErrback(_log_interruption).addBoth(lambda _: self._running.discard(task))
        return await waiter

    async def state(self, name: str) -> State | None:
        """The current document of a name, as it is now."""
        state, _ = await self.read(name, ())
        return state

    async def read(self, name: str, numbers: Iterable[int]) -> tuple[State | None, list[Stored]]:
        """The current document of a name, and after it those history documents that are there."""
        key = key_of(name)
        ids = [current_id(key), *(history_id(key, number) for number in numbers)]
        current, *found = await self._access.read([DocumentKey(id_, key) for id_ in ids])
        history = [_parse_history(name, document) for document in found if document is not None]
        if current is None:
            self._known.pop(name, None)
            return None, history
        state = parse_state(name, current.source, current.seq_no, current.primary_term)
        self._remember(name, state)
        return state, history

    def stop(self) -> None:
        """Cancel what is under way; those who wait are told that the outcome is not known."""
        for task in list(self._running):
            task.cancel()

    def _remember(self, name: str, state: State) -> None:
        """Spare the next addition to this name a read: most names have few writers."""
        self._known.pop(name, None)
        carried = (state.newest, *state.earlier)
        if sum(_weight(stored) for stored in carried) <= _REMEMBERED_BYTES:
            self._known[name] = state
            if len(self._known) > _REMEMBERED_NAMES:
                self._known.popitem(last=False)

    # One name

    async def _serve(self, name: str, queue: deque[Addition]) -> None:
        """Make what waits in the queue of a name, round after round, until it is empty."""
        batch: list[Addition] = []
        try:
            while batch := take(queue):
                began = self._clock.seconds()
                try:
                    await self._commit(name, batch)
                except MetadataUnavailable as error:
                    # What waits behind would only wait as long, and in vain as well. Who is told
                    # may add the next at once: the queue is empty by then, and that stays in it.
                    told = [*batch, *queue]
                    queue.clear()
                    fail_all(told, error)
                except DostoreError as error:
                    fail_all(batch, error)
                if queue:
                    took = self._clock.seconds() - began
                    await deferLater(self._clock, min(took, _LONGEST_REST_S))
        finally:
            del self._queues[name]
            for addition in batch:
                addition.fail(OutcomeUnknown(_INTERRUPTED))
            fail_all(queue, MetadataUnavailable("The server is stopping. Try again later."))

    async def _commit(self, name: str, batch: list[Addition]) -> None:
        """Make the additions of a batch, or refuse them; whoever has its outcome leaves the batch.

        :raises MetadataUnavailable: time is over, or there is no use in trying again.
        """
        deadline = self._clock.seconds() + ADD_TIMEOUT_S
        pause, conflicts = _FIRST_PAUSE_S, 0
        # What is remembered, or that nothing is, is a guess; compare-and-set proves it or not.
        state, proven, look = self._known.get(name), False, False
        while batch:
            try:
                if look:
                    state, proven = await self._look(name, batch, deadline), True
                await self._try(state, proven, batch)
            except Refused:
                raise
            except MetadataUnavailable:
                if self._clock.seconds() + pause >= deadline:
                    raise
                await deferLater(self._clock, pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                if look and batch:
                    conflicts += 1
                    await self._yield_to_others(conflicts, deadline)
            look = True

    async def _try(self, state: State | None, proven: bool, batch: list[Addition]) -> None:
        """Try once to make a batch on top of a state; it is empty afterwards if that is the state.

        :param proven: the state was read, not guessed, so that its refusals count.
        """
        plan = make_plan(state, batch)
        if plan.chain:
            try:
                made = await self._write(state, [stored for _, stored in plan.chain])
            except MetadataUnavailable as error:
                note_attempt(plan, error)
                raise
            if made is None:
                return
            self._remember(made.newest.version.name, made)
        elif not proven:
            return
        deliver(plan, batch)

    async def _yield_to_others(self, conflicts: int, deadline: float) -> None:
        """A random pause, longer after each conflict, so that two servers get out of step."""
        if self._clock.seconds() >= deadline:
            raise MetadataUnavailable("Too many others write this object. Try again later.")
        longest = min(_CONFLICT_PAUSE_S * conflicts, _LONGEST_CONFLICT_PAUSE_S)
        await deferLater(self._clock, longest * self._chance())

    async def _look(self, name: str, batch: list[Addition], deadline: float) -> State | None:
        """Read the state, and find those in the batch that were made although nobody said so.

        What is found was read, and may not be durable yet. So the current document is written once
        more as it is: when that is acknowledged, so is everything before it.
        """
        while (state := await self.state(name)) is not None:
            made = await self._find_made(state, batch)
            if not made:
                break
            confirmed = await self._write_current(state, state.newest, state.earlier, ())
            if confirmed is not None:
                self._remember(name, confirmed)
                for addition, version in made:
                    batch.remove(addition)
                    addition.succeed(version)
                return confirmed
            await self._yield_to_others(1, deadline)
        return state

    async def _find_made(
        self, state: State, batch: Sequence[Addition]
    ) -> list[tuple[Addition, Version]]:
        name, newest = state.newest.version.name, state.newest.version.number
        known = {s.version.number: s for s in (*state.earlier, state.newest)}
        attempted = {number for addition in batch for number in addition.attempted}
        missing = sorted(n for n in attempted if n < newest and n not in known)
        for stored in await self.history(name, missing) if missing else ():
            known[stored.version.number] = stored
        return [
            (addition, known[number].version)
            for addition in batch
            for number in addition.attempted
            if number in known and known[number].token == addition.token
        ]

    async def history(self, name: str, numbers: Sequence[int]) -> list[Stored]:
        """Those history documents of a name that are there."""
        key = key_of(name)
        found = await self._access.read([DocumentKey(history_id(key, n), key) for n in numbers])
        return [_parse_history(name, document) for document in found if document is not None]

    # Documents

    async def _write(self, state: State | None, chain: Sequence[Stored]) -> State | None:
        """Put a chain of versions on top of a state.

        :returns: the new state; None when another writer was there first, and nothing was done.
        """
        superseded: tuple[Stored, ...] = ()
        if state is not None:
            superseded = (*state.unsettled, state.newest)
            heavy = sum(_weight(stored) for stored in superseded) > MAX_VERSION_BYTES
            if heavy or len(superseded) > MAX_CARRIED:
                await self._settle(superseded)
                superseded = ()
        earlier = (*superseded, *chain[:-1])
        return await self._write_current(state, chain[-1], earlier, superseded)

    async def _settle(self, superseded: Sequence[Stored]) -> None:
        """Write history documents, and know that they are there."""
        small_sizes = (await self._access.ready()).small_sizes
        lines = [line for stored in superseded for line in _history_lines(stored, small_sizes)]
        for written in await self._access.write(_group(lines)):
            _expect_done(written)

    async def _write_current(
        self,
        base: State | None,
        newest: Stored,
        earlier: Sequence[Stored],
        history: Sequence[Stored],
    ) -> State | None:
        """Write history documents, and after them the current one if it still is ``base``.

        :param earlier: what the current document carries; ``history`` is part of it.
        :returns: the new state; None when ``base`` was not the state any more.
        """
        small_sizes = (await self._access.ready()).small_sizes
        lines = [line for stored in history for line in _history_lines(stored, small_sizes)]
        key = key_of(newest.version.name)
        where: dict[str, Any] = {"_id": current_id(key), "routing": key}
        if base is None:
            lines.append(as_json({"create": where}))
        else:
            where |= {"if_seq_no": base.seq_no, "if_primary_term": base.primary_term}
            lines.append(as_json({"index": where}))
        lines.append(as_json(current_document(newest, earlier, small_sizes)))
        *settled, current = await self._access.write(_group(lines))
        if current.status == 409:
            return None
        _expect_done(current)
        if all(_done(written) for written in settled):
            earlier = [stored for stored in earlier if stored not in history]
        return State(newest, tuple(earlier), not earlier, current.seq_no, current.primary_term)


_INTERRUPTED = "The server is stopping. The version may have been made all the same."


def _log_interruption(failure: Failure) -> None:
    if not failure.check(CancelledError):
        log.failure("Adding versions failed", failure)


def _parse_history(name: str, document: Found) -> Stored:
    kind, stored, _ = parse_document(document.source)
    if kind != HISTORY or stored.version.name != name:
        raise Corrupt("A document of the metadata index has the id of another. Remove it.")
    return stored


def _weight(stored: Stored) -> int:
    """Bytes of a version's JSON, about."""
    version = stored.version
    return 400 + len(version.name) + len(version.content_type) + version.meta_characters


def _history_lines(stored: Stored, small_sizes: bool) -> list[bytes]:
    key = key_of(stored.version.name)
    where = {"_id": history_id(key, stored.version.number), "routing": key}
    return [as_json({"index": where}), as_json(history_document(stored, small_sizes))]


def _group(lines: Sequence[bytes]) -> WriteGroup:
    return WriteGroup(b"".join(line + b"\n" for line in lines), len(lines) // 2)


def _done(written: Written) -> bool:
    return 200 <= written.status < 300


def _expect_done(written: Written) -> None:
    """Raise why an action was not done.

    :raises NoAnswer: it may be at another time.
    :raises Refused: it never will.
    """
    if _done(written):
        return
    check_block(written.reason)
    if written.status in (404, 429) or written.status >= 500:
        raise NoAnswer(
            f"The metadata store cannot write now ({written.status}). Try again later.",
            # Others than these two may be told of what was begun.
            sent=written.status not in (404, 429),
        )
    raise Refused(f"Elasticsearch does not take a version. It says: {written.reason}")
