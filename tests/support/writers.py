"""Clients that write to a real store until it goes away, and remember what it promised."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from tests.support.processes import Store

#: Name and version number, and the SHA-256 of the body.
Versions = dict[tuple[str, int], str]


class Writer(threading.Thread):
    """One client with a connection of its own.

    :ivar sent: the SHA-256 of every body that was sent, in order, acknowledged or not.
    :ivar acknowledged: what the store has answered 200 to.
    :ivar refused: how often it has answered anything else.
    :param names: one is chosen for each PUT; none: every PUT has a name of its own.
    :param sizes: of the bodies, one is chosen for each PUT.
    """

    def __init__(
        self, store: Store, seed: str, *, names: Sequence[str] = (), sizes: Sequence[int]
    ) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.seed = seed
        self.chance = random.Random(seed)
        self.names = names
        self.sizes = sizes
        self.sent: list[str] = []
        self.acknowledged: Versions = {}
        self.refused = 0

    def run(self) -> None:
        """Write until the store is gone."""
        connection = self.store.connect(20.0)
        try:
            while True:
                self._put(connection)
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def _put(self, connection: http.client.HTTPConnection) -> None:
        name = f"{self.seed}/{len(self.sent)}"
        if self.names:
            name = self.chance.choice(self.names)
        body = self.chance.randbytes(self.chance.choice(self.sizes))
        digest = hashlib.sha256(body).hexdigest()
        self.sent.append(digest)
        connection.request("PUT", f"/objects/{quote(name)}", body)
        response = connection.getresponse()
        response.read()
        if response.status == 200:
            self.acknowledged[name, int(response.headers["X-Object-Version"])] = digest
        else:
            self.refused += 1


class Writers:
    """Several of them."""

    def __init__(
        self,
        store: Store,
        seed: int,
        count: int,
        *,
        names: Sequence[str] = (),
        sizes: Sequence[int],
    ) -> None:
        self._all = [
            Writer(store, f"{seed}.{number}", names=names, sizes=sizes) for number in range(count)
        ]
        for writer in self._all:
            writer.start()

    def count(self) -> int:
        """How many versions were acknowledged so far."""
        return sum(len(writer.acknowledged) for writer in self._all)

    def refused(self) -> int:
        """How many writes got another answer than 200 so far."""
        return sum(writer.refused for writer in self._all)

    def join(self) -> tuple[Versions, set[str]]:
        """Wait for their end; what was acknowledged, and the hashes of all that was sent.

        :raises AssertionError: one did not notice that the store was gone.
        """
        acknowledged: Versions = {}
        sent: set[str] = set()
        for writer in self._all:
            writer.join(30.0)
            if writer.is_alive():
                raise AssertionError("a client still waits for an answer")
            acknowledged |= writer.acknowledged
            sent |= set(writer.sent)
        return acknowledged, sent


def stored_versions(store: Store) -> Versions:
    """Every version in the store, by what its bytes hash to when they are read.

    :raises AssertionError: the numbers of a name have a gap, or a version cannot be read.
    """
    listing = store.request("GET", "/versions/")
    told = [json.loads(line) for line in listing.body.splitlines()]
    numbers: dict[str, list[int]] = {}
    for each in told:
        numbers.setdefault(each["Name"], []).append(each["Version"])
    for name, found in numbers.items():
        if found != list(range(1, len(found) + 1)):
            raise AssertionError(f"{name} has versions {found}")
    return read_versions(store, ((each["Name"], each["Version"]) for each in told))


def read_versions(store: Store, versions: Iterable[tuple[str, int]]) -> Versions:
    """What the bytes of versions hash to.

    :raises AssertionError: one cannot be read.
    """
    found: Versions = {}
    connection = store.connect()
    try:
        for name, number in versions:
            connection.request("GET", f"/objects/{quote(name)}?version={number}")
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise AssertionError(f"{name} version {number}: {response.status} {body!r}")
            found[name, number] = hashlib.sha256(body).hexdigest()
    finally:
        connection.close()
    return found


def lacking(promised: Mapping[tuple[str, int], str], found: Versions) -> list[tuple[str, int]]:
    """The promised versions that are not there, or are not what they were."""
    return [key for key, digest in promised.items() if found.get(key) != digest]
