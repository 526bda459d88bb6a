"""Contents that are lost though versions refer to them: counted, named, told once."""

from __future__ import annotations

from twisted.logger import Logger

from dostore.core.names import ContentHash
from dostore.errors import ContentLost, DostoreError
from dostore.loglines import Rationed
from dostore.ports import IMetadataStore
from dostore.service.room import remember
from dostore.service.stats import Stats

_log = Logger()

#: So many are named to who asks how the store is.
_NAMED = 3


class Losses:
    """Those that are known.

    :param told: tells what is not repaired.
    """

    def __init__(self, metadata: IMetadataStore, stats: Stats, told: Rationed) -> None:
        self._metadata = metadata
        self._stats = stats
        self._told = told
        self._lost: dict[ContentHash, None] = {}

    def __contains__(self, content_hash: ContentHash) -> bool:
        """Whether a content is known to be lost."""
        return content_hash in self._lost

    def __len__(self) -> int:
        """How many are."""
        return len(self._lost)

    async def add(self, content_hash: ContentHash, error: ContentLost) -> None:
        """A content was met of which too little is left. If no version refers to it, it is nobody's
        loss: a write failed, or its object was removed for good.
        """
        if content_hash in self._lost:
            return
        try:
            if not await self._metadata.referenced([content_hash]):
                return
        except DostoreError as failure:
            _log.info("What is lost is not known now: {error}", error=failure)
            return
        if content_hash not in self._lost:
            remember(self._lost, content_hash)
            self._stats.lost_contents += 1
            self._told.tell("{hash} is lost: {error}", hash=content_hash, error=error)

    def remove(self, content_hash: ContentHash) -> None:
        """It can be read: it was stored again, or what it lacked is back."""
        self._lost.pop(content_hash, None)

    async def forget_nobodys(self) -> None:
        """Forget those that no version refers to any more.

        :raises MetadataUnavailable: that is not known.
        """
        lost = list(self._lost)
        referenced = await self._metadata.referenced(lost) if lost else set()
        for content_hash in lost:
            if content_hash not in referenced:
                self.remove(content_hash)

    def sentence(self) -> str:
        """For an operator; empty: there are none."""
        if not self._lost:
            return ""
        some = list(self._lost)[-_NAMED:]
        named = ", ".join(map(str, some)) + (", …" if len(self._lost) > len(some) else "")
        count = len(self._lost)
        many = "1 content is" if count == 1 else f"{count} contents are"
        return f"{many} lost, too few shards are left: {named}. See the log."
