"""Clients of a cluster that write, delete and read without a pause, and compare all they are told.

Each has names of its own, so it knows what a name may hold at any moment; what went wrong is kept
as sentences, not raised, for the clients go on while servers are being killed under them.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from urllib.parse import quote

from attrs import define, field

from tests.support.processes import Answer, Store

#: No request may take longer, whatever has failed: the sum of the time-outs on the way of a write
#: to nodes and to metadata that do not answer, with room for a machine that is busy.
BOUND_S = 45.0

#: What a client finds when a server that it talks to is killed.
BROKEN = 0

_SIZES = (0, 36, 4000, 20_000, 300_000, 3_000_000)
_WEIGHTS = (1, 4, 8, 4, 3, 1)

#: What a name holds: the SHA-256 of an object in base64; None: nothing, or a tombstone.
State = str | None


@define
class _Name:
    """What is known of a name.

    :ivar possible: what it may hold now; more than one when a write got no clear answer.
    :ivar promised: what versions hold that were acknowledged.
    :ivar sent: the hash of everything that was sent.
    """

    possible: set[State] = field(factory=lambda: {None})
    promised: dict[int, State] = field(factory=dict)
    sent: set[str] = field(factory=set)


class Client(threading.Thread):
    """One client.

    :ivar wrong: what must not be, in sentences.
    :ivar statuses: how often each method got each status.
    :ivar slowest: the longest that each method took, in seconds.
    :param servers: it goes from one to another, and to another when one breaks off.
    """

    def __init__(self, servers: Sequence[Store], seed: str, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.wrong: list[str] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.details: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.names = {f"{seed}/{number}": _Name() for number in range(4)}
        self.ended = threading.Event()
        self._servers = servers
        self._seed = seed
        self._chance = random.Random(seed)
        self._pause_s = pause_s

    def run(self) -> None:
        """Go on until told to end."""
        try:
            while not self.ended.wait(self._pause_s * self._chance.random()):
                name = self._chance.choice(list(self.names))
                if self._chance.random() < 0.1:
                    self._remove(name)
                else:
                    self._put(name)
                self._get(name)
        except Exception as error:  # noqa: BLE001 - it must not pass for a quiet client
            self.wrong.append(f"a client ended: {error!r}")

    def _put(self, name: str) -> None:
        known = self.names[name]
        body = self._chance.randbytes(*self._chance.choices(_SIZES, _WEIGHTS))
        # No two bodies are alike, so that a version that is made twice is seen.
        body += f"{self._seed} {len(known.sent)}".encode()
        digest = _hash(body)
        known.sent.add(digest)
        answer = self._request("PUT", f"/objects/{quote(name)}", body)
        self._wrote(name, answer, digest)

    def _remove(self, name: str) -> None:
        answer = self._request("DELETE", f"/objects/{quote(name)}")
        if answer.status == 404:
            # The object that was there may have been one whose fate was not known.
            self._expect(name, None, "DELETE found nothing, but")
        else:
            self._wrote(name, answer, None)

    def _wrote(self, name: str, answer: Answer, state: State) -> None:
        known = self.names[name]
        if answer.status in (200, 204):
            version = int(answer.headers["x-object-version"])
            if version in known.promised:
                self.wrong.append(f"{name} version {version} was made twice")
            known.promised[version] = state
            known.possible = {state}
        else:
            known.possible.add(state)

    def _get(self, name: str) -> None:
        answer = self._request("GET", f"/objects/{quote(name)}")
        if answer.status == 200:
            self._expect(name, _hash(answer.body), "GET gave other bytes:")
        elif answer.status == 404:
            self._expect(name, None, f"GET gave 404 {answer.body!r}, but")

    def _expect(self, name: str, found: State, what: str) -> None:
        possible = self.names[name].possible
        if found not in possible:
            self.wrong.append(f"{what} {name} should hold {possible}, not {found}")

    def _request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """An answer; of status BROKEN when there is none."""
        server = self._chance.choice(self._servers)
        began = time.monotonic()
        try:
            answer = server.request(method, path, body, timeout_s=BOUND_S)
        except TimeoutError:
            self.wrong.append(f"{method} {path} hung for {BOUND_S:g} s")
            answer = Answer(BROKEN, {}, b"")
        except (OSError, http.client.HTTPException):
            answer = Answer(BROKEN, {}, b"")
        took = time.monotonic() - began
        self.slowest[method] = max(took, self.slowest.get(method, 0.0))
        self.statuses[method, answer.status] += 1
        if answer.status in (503, 507):
            self.details[f"{method}: {json.loads(answer.body)['detail']}"] += 1
        if answer.status == 503 and "retry-after" not in answer.headers:
            self.wrong.append(f"{method} {path}: 503 without Retry-After")
        if answer.status not in (BROKEN, 200, 204, 404, 503, 507):
            self.wrong.append(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
        return answer


class Load(AbstractContextManager["Load"]):
    """Several clients that run within the context, and what they found.

    :param servers: API servers.
    :param seed: decides what the clients do, but not what comes first.
    """

    def __init__(
        self, servers: Sequence[Store], seed: str, clients: int = 4, pause_s: float = 0.2
    ) -> None:
        self.clients = [Client(servers, f"{seed}.{n}", pause_s) for n in range(clients)]

    def __enter__(self) -> Load:
        for client in self.clients:
            client.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self.clients:
            client.ended.set()
        for client in self.clients:
            client.join(3 * BOUND_S)
            if client.is_alive():
                client.wrong.append("a client still waits for an answer")

    def count(self, *statuses: int, method: str = "PUT") -> int:
        """How many requests got one of these statuses so far."""
        return sum(
            client.statuses[method, status] for client in self.clients for status in statuses
        )

    def slowest(self) -> dict[str, float]:
        """The longest that each method took so far, in seconds."""
        took: dict[str, float] = {}
        for client in self.clients:
            for method, seconds in list(client.slowest.items()):
                took[method] = max(seconds, took.get(method, 0.0))
        return {method: round(seconds, 2) for method, seconds in sorted(took.items())}

    def statuses(self) -> dict[str, int]:
        """How often each method got each status."""
        counted: Counter[tuple[str, int]] = Counter()
        for client in self.clients:
            counted.update(client.statuses)
        return {f"{method} {status}": n for (method, status), n in sorted(counted.items())}

    def details(self) -> list[str]:
        """What the answers said that were refusals, each once."""
        return sorted({detail for client in self.clients for detail in list(client.details)})

    def wrong(self) -> list[str]:
        """What must not be, of all clients."""
        return [sentence for client in self.clients for sentence in client.wrong]

    def check(self, server: Store) -> list[str]:
        """Read back every version that was acknowledged; what is wrong, in sentences."""
        jobs: list[Callable[[], list[str]]] = [
            lambda name=name, known=known: _check(server, name, known)  # type: ignore[misc]
            for client in self.clients
            for name, known in client.names.items()
        ]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda job: job(), jobs))
        return [*self.wrong(), *(sentence for wrong in found for sentence in wrong)]


def _check(server: Store, name: str, known: _Name) -> list[str]:
    """What is wrong with the versions of a name."""
    listing = server.request("GET", f"/versions/{quote(name)}")
    if listing.status != 200:
        return [f"{name}: its versions cannot be listed"] if known.promised else []
    wrong: list[str] = []
    stored: dict[int, State] = {}
    for line in listing.body.splitlines():
        told = json.loads(line)
        stored[told["Version"]] = told["Hash"] or None
    if list(stored) != list(range(1, len(stored) + 1)):
        wrong.append(f"{name} has the versions {list(stored)}")
    hashes = [state for state in stored.values() if state is not None]
    wrong += [f"{name} has {h} {n} times" for h, n in Counter(hashes).items() if n > 1]
    wrong += [f"{name} has {h}, which was never sent" for h in set(hashes) - known.sent]
    if stored[len(stored)] not in known.possible:
        wrong.append(f"{name} holds {stored[len(stored)]}, not {known.possible}")
    connection = server.connect(BOUND_S)
    try:
        for version, state in known.promised.items():
            connection.request("GET", f"/objects/{quote(name)}?version={version}")
            response = connection.getresponse()
            try:
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                wrong.append(f"{name} version {version}, {state}, was cut: {error!r}")
                connection.close()
                continue
            found = _hash(body) if response.status == 200 else None
            if found != state or response.status not in (200, 404):
                wrong.append(
                    f"{name} version {version}: {response.status} {body[:300]!r}, not {state}"
                )
    finally:
        connection.close()
    return wrong


def _hash(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode("ascii")
