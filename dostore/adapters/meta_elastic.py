"""Metadata on Elasticsearch or OpenSearch: the store of a cluster.

Whatever depends on the newest version reads it by id, which sees every acknowledged write;
listings search, after a refresh. See docs/metadata-elasticsearch.rst.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from dostore.adapters.elastic_access import ElasticAccess
from dostore.adapters.elastic_address import Address
from dostore.adapters.elastic_answers import AnswerTooLarge, Refused
from dostore.adapters.elastic_documents import (
    CURRENT,
    HISTORY,
    MAX_NUMBER,
    State,
    Stored,
    check_name,
    parse_document,
)
from dostore.adapters.elastic_index import ElasticIndex
from dostore.adapters.elastic_link import ElasticLink, open_link
from dostore.adapters.elastic_writer import ElasticWriter
from dostore.core.model import Draft, Version
from dostore.core.names import ContentHash
from dostore.ports import Check, IMetadataStore

DEFAULT_INDEX = "metadata"

#: Documents of one search.
MAX_HITS = 1000

#: Hashes of one search for references.
_MAX_HASHES = 512


def open_metadata(
    reactor: Any,
    addresses: Sequence[Address],
    now: Callable[[], float],
    index: str = DEFAULT_INDEX,
) -> ElasticMetadata:
    """A store on the servers at these addresses. Nothing is sent before the first call.

    :param now: the time of day in seconds since the epoch.
    """
    return ElasticMetadata(open_link(reactor, addresses), reactor, now, index)


@implementer(IMetadataStore)
class ElasticMetadata:
    """Versions of objects in one index, which is made when it is missing.

    :param now: the time of day in seconds since the epoch.
    """

    def __init__(
        self,
        link: ElasticLink,
        clock: IReactorTime,
        now: Callable[[], float],
        index: str = DEFAULT_INDEX,
    ) -> None:
        self._link = link
        self._access = ElasticAccess(link, ElasticIndex(link, index, now))
        self._writer = ElasticWriter(self._access, clock, lambda: uuid.uuid4().hex)

    async def close(self) -> None:
        """Give up what is under way and close the connections. Idempotent."""
        self._writer.stop()
        self._access.stop()
        await self._link.close()

    # IMetadataStore

    async def add(self, draft: Draft, check: Check | None = None) -> Version:
        """See IMetadataStore.

        :raises InvalidName: the name has no UTF-8 form.
        :raises TooLarge: the version has more than a mebibyte of metadata.
        :raises OutcomeUnknown: Elasticsearch did not say whether it was made.
        """
        return await self._writer.add(draft, check)

    async def latest(self, name: str) -> Version | None:
        """See IMetadataStore."""
        state = await self._writer.state(name)
        return state.newest.version if state is not None else None

    async def get(self, name: str, number: int) -> Version | None:
        """See IMetadataStore."""
        check_name(name)
        if not 1 <= number <= MAX_NUMBER:
            return None
        state, history = await self._writer.read(name, [number])
        if state is None or number > state.newest.version.number:
            return None
        # In this order: a history document counts only below the newest version.
        for stored in (state.newest, *state.earlier, *history):
            if stored.version.number == number:
                return stored.version
        return None

    async def history(self, name: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        state = await self._writer.state(name)
        first = max(first, 1)
        if state is None or limit < 1 or first > state.newest.version.number:
            return []
        last = min(state.newest.version.number, first + limit - 1)
        return await self._read_versions(state, range(first, last + 1))

    async def current(self, prefix: str, start: str, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        check_name(prefix)
        check_name(start)
        search = _Search(
            self._access,
            [{"term": {"kind": CURRENT}}, {"term": {"deleted": False}}, *_begins_with(prefix)],
            (max(prefix, start), -1),
        )
        if limit > 0:
            await self._access.refresh()
        found: list[Version] = []
        while len(found) < limit and (hits := await search.next(limit - len(found))):
            found += [stored.version for _, stored, _ in hits]
        return found

    async def versions(self, prefix: str, start: str, first: int, limit: int) -> Sequence[Version]:
        """See IMetadataStore."""
        check_name(prefix)
        check_name(start)
        if start < prefix:
            start, first = prefix, 1
        first = min(max(first, 1), MAX_NUMBER + 1)
        search = _Search(
            self._access,
            [{"terms": {"kind": [CURRENT, HISTORY]}}, *_begins_with(prefix)],
            (start, first - 1),
        )
        if limit > 0:
            await self._access.refresh()
        found: list[Version] = []
        carried: dict[str, tuple[Stored, ...]] = {}
        while len(found) < limit and (hits := await search.next(limit - len(found))):
            for _, stored, earlier in hits:
                version = stored.version
                last = found[-1] if found else None
                # What is just being superseded can be there as both kinds.
                if last is None or (last.name, last.number) != (version.name, version.number):
                    found.append(version)
                if earlier:
                    carried[version.name] = earlier
        return (await self._fill_gaps(found, carried, start, first))[:limit]

    async def _fill_gaps(
        self,
        found: Sequence[Version],
        carried: Mapping[str, tuple[Stored, ...]],
        start: str,
        first: int,
    ) -> list[Version]:
        """Put in what only current documents carry: it is missing where numbers skip."""
        whole: list[Version] = []
        name, expected = start, first
        for version in found:
            if version.name != name:
                name, expected = version.name, 1
            if version.number > expected:
                missing = range(expected, version.number)
                known = {s.version.number: s.version for s in carried.get(name, ())}
                if not all(number in known for number in missing):
                    state = await self._writer.state(name)
                    if state is not None:
                        known = {v.number: v for v in await self._read_versions(state, missing)}
                whole += [known[number] for number in missing if number in known]
            whole.append(version)
            expected = version.number + 1
        return whole

    async def _read_versions(self, state: State, numbers: range) -> list[Version]:
        """Versions by number, from the current document and from history documents."""
        known = {s.version.number: s.version for s in (*state.earlier, state.newest)}
        missing = [number for number in numbers if number not in known]
        name = state.newest.version.name
        for stored in await self._writer.history(name, missing) if missing else ():
            known[stored.version.number] = stored.version
        return [known[number] for number in numbers if number in known]

    async def referenced(self, hashes: Collection[ContentHash]) -> set[ContentHash]:
        """See IMetadataStore."""
        if not hashes:
            return set()
        await self._access.refresh()
        asked = [str(content_hash) for content_hash in hashes]
        found: set[str] = set()
        for at in range(0, len(asked), _MAX_HASHES):
            found |= await self._referenced(asked[at : at + _MAX_HASHES])
        return {content_hash for content_hash in hashes if str(content_hash) in found}

    async def _referenced(self, hashes: list[str]) -> set[str]:
        fields = ("hash", "earlier_hash")
        body = {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"should": [{"terms": {name: hashes}} for name in fields]}},
            "aggs": {
                name: {
                    "terms": {
                        "field": name,
                        "include": hashes,
                        "size": len(hashes),
                        # Else each change of the index would have it number all hashes anew.
                        "execution_hint": "map",
                    }
                }
                for name in fields
            },
        }
        answer = await self._access.search(body)
        try:
            return {
                str(bucket["key"])
                for name in fields
                for bucket in answer["aggregations"][name]["buckets"]
            }
        except (KeyError, TypeError) as error:
            raise Refused("Elasticsearch's answer is none that can be understood.") from error

    async def created(self) -> float:
        """See IMetadataStore."""
        return (await self._access.ready()).created

    async def identity(self) -> str:
        """What tells this index from every other, of other clusters too."""
        return (await self._access.ready()).uuid

    async def ping(self) -> None:
        """See IMetadataStore."""
        await self._access.health()


def _begins_with(prefix: str) -> Iterable[dict[str, Any]]:
    return [{"prefix": {"name": {"value": prefix}}}] if prefix else []


class _Search:
    """Documents by name and version, page after page, each from where the last one ended.

    :param after: the name and number that the first document comes after.
    """

    def __init__(
        self, access: ElasticAccess, filters: Sequence[Mapping[str, Any]], after: tuple[str, int]
    ) -> None:
        self._access = access
        self._filters = filters
        self._after = after
        self._most = MAX_HITS
        self._ended = False

    async def next(self, count: int) -> list[tuple[str, Stored, tuple[Stored, ...]]]:
        """At most ``count`` documents, parsed; none when there are no more."""
        while not self._ended:
            size = min(count, self._most)
            try:
                hits = _hits_of(await self._access.search(self._body(size)))
            except AnswerTooLarge:
                if size == 1:
                    raise
                self._most = size // 2
                continue
            self._ended = len(hits) < size
            parsed = [parse_document(hit) for hit in hits]
            if parsed:
                last = parsed[-1][1].version
                self._after = (last.name, last.number)
            return parsed
        return []

    def _body(self, size: int) -> dict[str, Any]:
        return {
            "size": size,
            "sort": ["name", "version"],
            "search_after": list(self._after),
            "track_total_hits": False,
            "query": {"bool": {"filter": list(self._filters)}},
        }


def _hits_of(answer: Mapping[str, Any]) -> list[Any]:
    try:
        return [hit["_source"] for hit in answer["hits"]["hits"]]
    except (KeyError, TypeError) as error:
        raise Refused("Elasticsearch's answer is none that can be understood.") from error
