"""The claim of one part on its upload, from its beginning to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from dostore.service.upload_held import RENEW_S, HeldUpload


class _Renewal:
    """Renews a claim again and again."""

    def __init__(self, shards: HeldUpload, clock: IReactorTime) -> None:
        self._shards = shards
        self._clock = clock
        self._pause: Deferred[None] | None = None
        self._ended = False
        self._waiter: Deferred[None] = Deferred()
        self._running = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        try:
            while not self._ended:
                self._pause = deferLater(self._clock, RENEW_S)
                try:
                    await self._pause
                finally:
                    self._pause = None
                await self._shards.renew()
        except CancelledError:
            return
        finally:
            self._waiter.callback(None)

    async def end(self) -> None:
        """Renew no more. One that is under way is waited for: it must not come after the release
        and last.
        """
        self._ended = True
        if self._pause is not None:
            self._pause.cancel()
        await self._waiter

    def cancel(self) -> None:
        """Nothing more happens, and nothing is waited for."""
        self._running.cancel()


@asynccontextmanager
async def kept_claim(shards: HeldUpload, clock: IReactorTime) -> AsyncIterator[None]:
    """Keep a claim as long as the block takes, and give it back."""
    renewal = _Renewal(shards, clock)
    try:
        yield
    except Exception:
        await renewal.end()
        await shards.release()
        raise
    except BaseException:
        renewal.cancel()
        shards.let_go()
        raise
    await renewal.end()
    await shards.release()
