"""Leases on contents: nothing is removed that a write is about to refer to."""

from __future__ import annotations

from collections import Counter

from twisted.internet.defer import Deferred

from dostore.core.names import ContentHash


class Leases:
    """Who is between finding or writing a content and making a version of it.

    Holding is shared and never waits for another holder; a removal has a content for itself.
    """

    def __init__(self) -> None:
        self._held: Counter[ContentHash] = Counter()
        self._removing: dict[ContentHash, list[Deferred[None]]] = {}

    async def hold(self, content_hash: ContentHash) -> None:
        """Keep a content from being removed; returns when no removal is under way."""
        while content_hash in self._removing:
            waiter: Deferred[None] = Deferred()
            self._removing[content_hash].append(waiter)
            await waiter
        self._held[content_hash] += 1

    def held(self, content_hash: ContentHash) -> bool:
        """Whether somebody is writing this content, or about to refer to it."""
        return self._held[content_hash] > 0

    def release(self, content_hash: ContentHash) -> None:
        """Give a hold back."""
        self._held[content_hash] -= 1
        if self._held[content_hash] <= 0:
            del self._held[content_hash]

    def begin_removal(self, content_hash: ContentHash) -> bool:
        """Shut new holders out; False (and nothing is done) while somebody holds or removes it."""
        if self._held[content_hash] or content_hash in self._removing:
            return False
        self._removing[content_hash] = []
        return True

    def end_removal(self, content_hash: ContentHash) -> None:
        """Let the holders in that wait."""
        for waiter in self._removing.pop(content_hash):
            if not waiter.called:
                waiter.callback(None)
