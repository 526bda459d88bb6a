"""The operations on the metadata index: many writes as one ``_bulk``, many reads as one ``_mget``,
searches, and refreshes that are shared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from dostore.adapters.combining import Combiner
from dostore.adapters.elastic_answers import Answer, AnswerTooLarge, NoAnswer, Refused, error_of
from dostore.adapters.elastic_index import ElasticIndex, IndexInfo
from dostore.adapters.elastic_link import NDJSON, ElasticLink
from dostore.errors import MetadataUnavailable

#: Actions and bytes of one ``_bulk``, well within what servers and proxies take.
MAX_BULK_ACTIONS = 1000
MAX_BULK_BYTES = 4 << 20

#: Documents of one ``_mget``.
MAX_READ_DOCUMENTS = 1000

#: How long Elasticsearch itself waits for a shard, before it says that there is none: less than
#: the link waits for Elasticsearch.
_SHARD_TIMEOUT = "5s"

#: The parts of answers that are looked at.
_WRITTEN = "items.*.status,items.*._seq_no,items.*._primary_term,items.*.error,error"
_FOUND = "docs.found,docs._source,docs._seq_no,docs._primary_term,docs.error,error"
_INDEX_GONE = "index_not_found_exception"

_MAX_QUOTE = 300


@frozen(slots=True)
class WriteGroup:
    """Actions on documents of one name, which are taken in this order.

    :ivar lines: the body of a ``_bulk``.
    :ivar actions: how many there are.
    """

    lines: bytes
    actions: int


@frozen(slots=True)
class Written:
    """The outcome of one action.

    :ivar status: an HTTP status: 2xx done, 409 another writer was first, 429 and 5xx not now.
    :ivar reason: why it was not done, in Elasticsearch's words.
    """

    status: int
    reason: str
    seq_no: int
    primary_term: int


@frozen(slots=True)
class DocumentKey:
    """Where a document is."""

    id: str
    routing: str


@frozen(slots=True)
class Found:
    """A document, as it is now."""

    source: Any
    seq_no: int
    primary_term: int


class ElasticAccess:
    """What can be done with the documents of one index.

    Every method raises MetadataUnavailable when it cannot be done.
    """

    def __init__(self, link: ElasticLink, index: ElasticIndex) -> None:
        self._link = link
        self._index = index
        self._bulk: Combiner[WriteGroup, list[Written]] = Combiner(
            self._send_bulk,
            max_count=MAX_BULK_ACTIONS,
            max_weight=MAX_BULK_BYTES,
            weigh=lambda group: len(group.lines),
            count=lambda group: group.actions,
        )
        self._gets: Combiner[Sequence[DocumentKey], list[Found | None]] = Combiner(
            self._send_gets, max_count=MAX_READ_DOCUMENTS, count=len
        )
        self._refreshes: Combiner[None, None] = Combiner(self._send_refresh, max_count=1 << 30)

    async def ready(self) -> IndexInfo:
        """See ElasticIndex."""
        return await self._index.ready()

    def stop(self) -> None:
        """Cancel all that is under way."""
        for combiner in (self._bulk, self._gets, self._refreshes):
            combiner.stop()

    async def write(self, group: WriteGroup) -> list[Written]:
        """Do the actions of a group; the outcome of each.

        Sent once. When this raises anything but a Refused, or a NoAnswer that was not sent, they
        may have been done, or may be yet.
        """
        written = await self._bulk.ask(group)
        if any(action.status == 404 or action.seq_no == 0 for action in written):
            # The first write of an index. Was it just made, by this very write, in the place of
            # one that somebody removed?
            self._index.suspect()
            await self._index.ready()
        return written

    async def read(self, keys: Sequence[DocumentKey]) -> list[Found | None]:
        """Documents as they are now, every acknowledged write included."""
        return await self._gets.ask(keys)

    async def refresh(self) -> None:
        """Have searches see all that was acknowledged before this was called."""
        await self._refreshes.ask(None)

    async def _send_bulk(self, groups: list[WriteGroup]) -> list[list[Written]]:
        try:
            await self._index.ready()
        except NoAnswer as error:
            # It was asked something, but not to write.
            raise NoAnswer(error.detail, sent=False) from error
        answer = await self._link.call(
            "POST",
            f"{self._index.path}/_bulk?timeout={_SHARD_TIMEOUT}&filter_path={_WRITTEN}",
            b"".join(group.lines for group in groups),
            content_type=NDJSON,
            once=True,
        )
        self._expect_success(answer, "write")
        items = answer.body.get("items")
        if not isinstance(items, list) or len(items) != sum(group.actions for group in groups):
            raise _unintelligible()
        written = iter([_parse_written(item) for item in items])
        return [[next(written) for _ in range(group.actions)] for group in groups]

    async def _send_gets(self, asked: list[Sequence[DocumentKey]]) -> list[list[Found | None]]:
        found = iter(await self._get([key for keys in asked for key in keys]))
        return [[next(found) for _ in keys] for keys in asked]

    async def _get(self, keys: list[DocumentKey]) -> list[Found | None]:
        await self._index.ready()
        body = {"docs": [{"_id": key.id, "routing": key.routing} for key in keys]}
        try:
            answer = await self._link.call(
                "POST",
                f"{self._index.path}/_mget?filter_path={_FOUND}",
                json.dumps(body).encode(),
                lacks=_lacks_documents,
            )
        except AnswerTooLarge:
            if len(keys) == 1:
                raise
            half = len(keys) // 2
            return await self._get(keys[:half]) + await self._get(keys[half:])
        self._expect_success(answer, "read")
        told = answer.body.get("docs")
        if not isinstance(told, list) or len(told) != len(keys):
            raise _unintelligible()
        return [self._parse_found(document) for document in told]

    def _parse_found(self, document: object) -> Found | None:
        if not isinstance(document, dict):
            raise _unintelligible()
        if "error" in document:
            raise self._gone()
        if not document.get("found"):
            return None
        try:
            return Found(document["_source"], document["_seq_no"], document["_primary_term"])
        except KeyError as error:
            raise _unintelligible() from error

    async def _send_refresh(self, asked: list[None]) -> list[None]:
        await self._index.ready()
        answer = await self._link.call("POST", f"{self._index.path}/_refresh", lacks=_lacks_shards)
        self._expect_success(answer, "refresh")
        return asked

    async def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Search in what was refreshed.

        :raises AnswerTooLarge: ask for fewer documents.
        """
        await self._index.ready()
        answer = await self._link.call(
            "POST",
            f"{self._index.path}/_search?allow_partial_search_results=false",
            json.dumps(body).encode(),
            lacks=_lacks_shards,
        )
        self._expect_success(answer, "search")
        return answer.body

    async def health(self) -> None:
        """Return when the index can be read and written.

        :raises MetadataUnavailable: it cannot.
        """
        await self._index.ready()
        answer = await self._link.call(
            "GET", f"/_cluster/health{self._index.path}?wait_for_status=yellow&timeout=2s"
        )
        if answer.body.get("status") not in ("green", "yellow"):
            raise MetadataUnavailable(
                "A part of the metadata index is not available: Elasticsearch's health is "
                f"{str(answer.body.get('status'))[:20]}. See to its nodes."
            )
        answer = await self._link.call("GET", f"{self._index.path}/_settings/index.blocks.*")
        for told in answer.body.values():
            blocks = json.dumps(told)
            if '"true"' in blocks:
                raise Refused(
                    "The metadata index is blocked. Free space on Elasticsearch's disks, or lift "
                    f"the block: {blocks[:_MAX_QUOTE]}"
                )

    def _gone(self) -> NoAnswer:
        self._index.suspect()
        return NoAnswer("The metadata index is gone. Look at Elasticsearch.", sent=False)

    def _expect_success(self, answer: Answer, what: str) -> None:
        if answer.status < 300:
            return
        kind, reason = error_of(answer)
        if kind == _INDEX_GONE:
            raise self._gone()
        raise Refused(f"Elasticsearch does not {what}. It says: {kind} {reason}")


def _lacks_documents(answer: Answer) -> str:
    """What keeps a document from being read, and may pass: its shard moves, or is not there yet."""
    told = answer.body.get("docs")
    for document in told if isinstance(told, list) else ():
        if isinstance(document, dict) and "error" in document:
            kind, _ = error_of(Answer(answer.status, document))
            return "" if kind == _INDEX_GONE else kind or "an error"
    return ""


def _lacks_shards(answer: Answer) -> str:
    """Whether some part of the index did not answer."""
    shards = answer.body.get("_shards")
    if answer.status >= 300:
        return ""
    whole = isinstance(shards, dict) and shards.get("failed") == 0
    return "" if whole and not answer.body.get("timed_out") else "a part of the index is away"


def _unintelligible() -> Refused:
    return Refused(
        "Elasticsearch's answer is none that can be understood. Check its version.", sent=True
    )


def _parse_written(item: object) -> Written:
    if not isinstance(item, dict) or len(item) != 1:
        raise _unintelligible()
    (told,) = item.values()
    if not isinstance(told, dict):
        raise _unintelligible()
    status, kind_reason = told.get("status"), error_of(Answer(0, told))
    seq_no, primary_term = told.get("_seq_no", -1), told.get("_primary_term", -1)
    if not (type(status) is int and type(seq_no) is int and type(primary_term) is int):
        raise _unintelligible()
    return Written(status, " ".join(kind_reason).strip(), seq_no, primary_term)
