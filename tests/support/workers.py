"""Workers that need no thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from zope.interface import implementer

from dostore.threads import IWorkers

T = TypeVar("T")


@implementer(IWorkers)
class InlineWorkers:
    """Runs each job at once, in the caller's thread."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See IWorkers."""
        return function(*args)

    def submit(self, function: Callable[..., T], *args: object) -> Future[T]:
        """See IWorkers."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def backlog(self) -> int:
        """Nothing ever waits."""
        return 0
