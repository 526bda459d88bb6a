"""The metadata index: made when it is missing, looked at before it is relied upon."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dostore.adapters.elastic_answers import Answer, Refused, error_of
from dostore.adapters.elastic_documents import KEPT, SEARCHED
from dostore.adapters.elastic_link import ElasticLink
from dostore.errors import MetadataUnavailable

log = Logger()

#: Of the documents. An index of a newer one is refused.
FORMAT = 1

_OLDEST = {"elasticsearch": (7, 10), "opensearch": (1, 0)}


@frozen(slots=True)
class IndexInfo:
    """What is known of the index that was found or made.

    :ivar uuid: Elasticsearch's own for it; another index of the same name has another.
    :ivar created: when it was made, in seconds since the epoch.
    :ivar small_sizes: its field ``size`` has 32 bits.
    """

    uuid: str
    created: float
    small_sizes: bool


class ElasticIndex:
    """The index of one name.

    :param now: the time of day in seconds since the epoch.
    """

    def __init__(self, link: ElasticLink, name: str, now: Callable[[], float]) -> None:
        self.path = "/" + quote(name, safe="")
        self._link = link
        self._name = name
        self._now = now
        self._info: IndexInfo | None = None
        self._checked_at = -1
        self._waiting: list[Deferred[IndexInfo]] | None = None

    async def ready(self) -> IndexInfo:
        """Return when the index is known to be there and to be the right one.

        It is looked at once, and again after any request to Elasticsearch failed: what answers
        then may have lost it.

        :raises MetadataUnavailable: Elasticsearch cannot be reached, or the index is not usable.
        """
        if self._info is not None and self._checked_at == self._link.failures:
            return self._info
        waiter: Deferred[IndexInfo] = Deferred()
        if self._waiting is not None:
            self._waiting.append(waiter)
            return await waiter
        self._waiting = [waiter]
        looking = Deferred.fromCoroutine(self._look())
        _ = looking.addBoth(self._looked)
        return await waiter

    def _looked(self, outcome: IndexInfo | Failure) -> None:
        waiting, self._waiting = self._waiting or [], None
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(outcome)

    def suspect(self) -> None:
        """Have the next :meth:`ready` look again."""
        self._checked_at = -1

    async def _look(self) -> IndexInfo:
        failures = self._link.failures
        await self._check_server()
        info = await self._find()
        if info is None:
            if self._info is not None:
                raise self._replaced()
            await self._make()
            info = await self._find()
            if info is None:
                raise MetadataUnavailable("The metadata index is removed as soon as it is made.")
        self._info = info
        self._checked_at = failures
        return info

    def _replaced(self) -> Refused:
        # Going on with an empty one would number the versions of every name from 1 again.
        return Refused(
            f"The index '{self._name}' of Elasticsearch is gone, or is not the one that this "
            "server began with. Bring it back; or start this server again to go on with what is "
            "there."
        )

    async def _check_server(self) -> None:
        answer = await self._link.call("GET", "/")
        version = answer.body.get("version")
        told = version if isinstance(version, dict) else {}
        number, kind = str(told.get("number", "")), str(told.get("distribution", "elasticsearch"))
        try:
            major, minor = (int(part) for part in number.split(".")[:2])
        except ValueError:
            raise Refused("What ES_SERVER names is no Elasticsearch. Correct it.") from None
        if (major, minor) < _OLDEST.get(kind, (0, 0)):
            raise Refused(
                f"Elasticsearch {major}.{minor} is too old. Use 7.10 or later, or OpenSearch."
            )

    async def _find(self) -> IndexInfo | None:
        answer = await self._link.call("GET", self.path)
        if answer.status == 404:
            return None
        _expect_success(answer, f"tell of the index '{self._name}'")
        if len(answer.body) != 1:
            raise Refused(
                f"'{self._name}' stands for {len(answer.body)} indices of Elasticsearch. It must "
                "be one."
            )
        (told,) = answer.body.values()
        mappings, index = _part(told, "mappings"), _part(_part(told, "settings"), "index")
        try:
            uuid, made_ms = str(index["uuid"]), int(index["creation_date"])
        except (KeyError, TypeError, ValueError):
            raise Refused("Elasticsearch does not tell when the index was made.") from None
        if self._info is not None and self._info.uuid != uuid:
            raise self._replaced()
        self._check_settings(index, mappings)
        fields = _part(mappings, "properties")
        missing = self._check_fields(fields)
        ours = _part(_part(mappings, "_meta"), "dostore")
        if missing or "format" not in ours:
            await self._complete(missing, _part(mappings, "_meta"), ours)
        created = ours.get("created")
        return IndexInfo(
            uuid,
            # Elasticsearch's own time of an index that something else made.
            float(created) if isinstance(created, int | float) else made_ms / 1000,
            _part(fields, "size").get("type") == "integer",
        )

    def _check_settings(self, index: Mapping[str, Any], mappings: Mapping[str, Any]) -> None:
        if _part(index, "translog").get("durability", "request") != "request":
            raise Refused(
                f"The index '{self._name}' acknowledges what is not on disk yet. Set its "
                "index.translog.durability to request."
            )
        if str(_part(mappings, "_source").get("enabled", True)).lower() == "false":
            raise Refused(f"The index '{self._name}' does not keep _source. Make another.")
        told = _part(_part(mappings, "_meta"), "dostore").get("format", FORMAT)
        if not isinstance(told, int) or told > FORMAT:
            raise Refused(
                f"The index '{self._name}' has format {told}, of a newer dostore. Use that."
            )

    def _check_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that must be added.

        :raises Refused: one that is there cannot be used.
        """
        for name, types in SEARCHED.items():
            told = _part(fields, name)
            if not told:
                continue
            kind = "object" if "properties" in told else told.get("type")
            if kind not in types:
                raise self._wrong(f"the field '{name}' is {kind}, and must be {types[0]}")
            for option in ("index", "doc_values"):
                if str(told.get(option, True)).lower() == "false":
                    raise self._wrong(f"the field '{name}' has {option} turned off")
            for option in ("ignore_above", "normalizer"):
                if option in told:
                    raise self._wrong(f"the field '{name}' has {option}")
        for name, how in KEPT.items():
            told = _part(fields, name)
            if not told:
                continue
            kind = told.get("type", "object")
            off = str(told.get("enabled", True)).lower() == "false"
            if kind != how["type"] or (kind == "object" and not off):
                raise self._wrong(f"the field '{name}' is {kind}, and must be {json.dumps(how)}")
        return {name: how for name, how in _all_fields().items() if name not in fields}

    def _wrong(self, what: str) -> Refused:
        return Refused(
            f"The index '{self._name}' of Elasticsearch has a wrong mapping: {what}. Give the "
            "store another index, or copy this one to one that the store made."
        )

    async def _complete(
        self, missing: dict[str, Any], meta: Mapping[str, Any], ours: Mapping[str, Any]
    ) -> None:
        """Add what an index lacks that something else made."""
        log.info("Adding fields to the index {index}: {names}", index=self._name, names=[*missing])
        marks = {**meta, "dostore": {**ours, "format": FORMAT}}
        body = {"properties": missing, "_meta": marks}
        answer = await self._link.call("PUT", f"{self.path}/_mapping", json.dumps(body).encode())
        _expect_success(answer, f"add fields to the index '{self._name}'")

    async def _make(self) -> None:
        body = {
            "settings": {"index": {"auto_expand_replicas": "0-2"}},
            "mappings": {
                # A field that a newer release adds is kept, not guessed at.
                "dynamic": False,
                "_meta": {"dostore": {"format": FORMAT, "created": self._now()}},
                "properties": _all_fields(),
            },
        }
        answer = await self._link.call("PUT", self.path, json.dumps(body).encode())
        if error_of(answer)[0] == "resource_already_exists_exception":
            # Another server was quicker.
            return
        _expect_success(answer, f"make the index '{self._name}'")
        log.warn(
            "The index {index} was not there, and was made. Had it been there before, its names "
            "are lost: bring it back from a snapshot.",
            index=self._name,
        )


def _all_fields() -> dict[str, Any]:
    return {name: {"type": types[0]} for name, types in SEARCHED.items()} | {
        name: dict(how) for name, how in KEPT.items()
    }


def _part(told: object, key: str) -> Mapping[str, Any]:
    """An object within an object; empty when it is not there or is no object."""
    part = told.get(key) if isinstance(told, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _expect_success(answer: Answer, what: str) -> None:
    if answer.status >= 300:
        kind, reason = error_of(answer)
        raise Refused(f"Elasticsearch does not {what}. It says: {kind} {reason}")
