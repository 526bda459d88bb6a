"""Log lines that do not drown the others: what happens by the thousand, and what goes on and on."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

#: So many lines of one kind are told one by one in each period.
LINES = 20
PERIOD_S = 60.0


class Rationed:
    """Lines of one kind: the first ones of a minute are told, the rest of them counted.

    :param emit: a logger's method, which takes a format and its fields.
    :param rest: the format for those that were only counted; its field is ``count``.
    """

    def __init__(self, emit: Callable[..., None], rest: str, clock: IReactorTime) -> None:
        self._emit = emit
        self._rest = rest
        self._clock = clock
        self._since = float("-inf")
        self._told = 0
        self._untold = 0

    def tell(self, text: str, **fields: object) -> None:
        """Log a line, or count it."""
        now = self._clock.seconds()
        if now - self._since >= PERIOD_S:
            self._tell_untold()
            self._since, self._told = now, 0
        if self._told < LINES:
            self._told += 1
            self._emit(text, **fields)
        else:
            self._untold += 1

    def tell_rest(self) -> None:
        """Tell how many were only counted, if they were many: for the end of what makes them."""
        if self._untold >= LINES:
            self._tell_untold()

    def _tell_untold(self) -> None:
        untold, self._untold = self._untold, 0
        if untold:
            self._emit(self._rest, count=untold)


class Standing:
    """A trouble that lasts: told when it begins or changes, and when it is over.

    :param emit: see Rationed; takes the trouble.
    :param emit_over: the same, for its end.
    :param over: the line for its end.
    """

    def __init__(
        self, emit: Callable[..., None], emit_over: Callable[..., None], over: str
    ) -> None:
        self._emit = emit
        self._emit_over = emit_over
        self._over = over
        self._last = ""

    def tell(self, trouble: str) -> None:
        """It goes on, or has begun."""
        if trouble != self._last:
            self._last = trouble
            self._emit("{trouble}", trouble=trouble)

    def end(self) -> None:
        """There is none."""
        if self._last:
            self._last = ""
            self._emit_over(self._over)
