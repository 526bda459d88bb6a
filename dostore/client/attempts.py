"""Which server is asked, how long is waited between attempts, and when they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from dostore.client.failures import Later, OutOfReach
from dostore.client.link import Link
from dostore.client.text import count_text, seconds_text
from dostore.errors import Unavailable
from dostore.http.exchange import NotConnected

#: How long something is tried without getting on.
PATIENCE_S = 300.0

#: The same before any server has answered: then the address is wrong, or nothing runs there.
FIRST_PATIENCE_S = 2.0

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0

#: What a server may have one wait for, in one go.
_LONGEST_WISH_S = 60.0


class Servers:
    """The servers of one store, any of which will do.

    :param links: one or more, in the order in which they are tried.
    :param chance: a random number from 0 to 1, so that many clients do not come back at once.
    :param patience_s: how long something is tried without getting on; None: PATIENCE_S, and
        FIRST_PATIENCE_S as long as no server has answered.
    :ivar answered: whether one of them has.
    """

    def __init__(
        self,
        links: Sequence[Link],
        clock: IReactorTime,
        chance: Callable[[], float],
        patience_s: float | None = None,
    ) -> None:
        self.clock = clock
        self.chance = chance
        self.answered = False
        self._links = list(links)
        self._patience_s = patience_s

    def __len__(self) -> int:
        return len(self._links)

    @property
    def current(self) -> Link:
        """The one to ask now."""
        return self._links[0]

    @property
    def patience_s(self) -> float:
        """How long to try."""
        if self._patience_s is not None:
            return self._patience_s
        return PATIENCE_S if self.answered else FIRST_PATIENCE_S

    def leave(self, link: Link) -> None:
        """Ask another from now on, unless that is so already."""
        if link is self._links[0]:
            self._links.append(self._links.pop(0))


class Attempts:
    """The attempts at one thing.

    :param tell: told of each failure that something follows upon: a sentence, and in how many
        seconds.
    :ivar link: the server to try it with.
    :ivar doubtful: an attempt failed that may have had its effect all the same.
    """

    def __init__(
        self, servers: Servers, tell: Callable[[str, float], None] = lambda text, pause_s: None
    ) -> None:
        self._servers = servers
        self._tell = tell
        self._since = servers.clock.seconds()
        self._failures = 0
        self.link = servers.current
        self.doubtful = False

    def answered(self) -> None:
        """The server has answered, if only that it will not."""
        self._servers.answered = True

    def progressed(self) -> None:
        """It goes on: whatever fails now is new."""
        self.answered()
        self._failures = 0
        self._since = self._servers.clock.seconds()

    async def failed(self, error: Unavailable) -> None:
        """Return when it is time for the next attempt, with ``link``, which may be another now.

        :raises OutOfReach: it has been tried for long enough.
        """
        servers = self._servers
        if isinstance(error, Later):
            self.answered()
        self.doubtful = self.doubtful or not isinstance(error, NotConnected)
        pause_s = self._pause_s(error)
        self._failures += 1
        tried_s = servers.clock.seconds() - self._since
        if tried_s + pause_s > servers.patience_s and self._failures >= len(servers):
            raise OutOfReach(self._summary(error, tried_s)) from error
        if servers.patience_s > FIRST_PATIENCE_S:
            self._tell(error.detail, pause_s)
        servers.leave(self.link)
        self.link = servers.current
        if pause_s:
            await deferLater(servers.clock, pause_s)
            # While this one waited another may have found out more.
            self.link = servers.current

    async def wait(self, why: str, pause_s: float) -> None:
        """Return after a pause, which is no failure: another gets on with it."""
        self.progressed()
        self._tell(why, pause_s)
        await deferLater(self._servers.clock, pause_s)

    def _pause_s(self, error: Unavailable) -> float:
        """No pause until each server had its turn; then ever longer ones."""
        rounds, turn = divmod(self._failures + 1, len(self._servers))
        wish_s = (error.after_s or 0.0) if isinstance(error, Later) else 0.0
        if turn:
            return 0.0
        # Many rounds would be too large a number.
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(rounds - 1, 16))
        return max(pause_s * (0.5 + self._servers.chance() / 2), min(wish_s, _LONGEST_WISH_S))

    def _summary(self, error: Unavailable, tried_s: float) -> str:
        others = len(self._servers) - 1
        also = f" {count_text(others, 'other server')} failed, too." if others else ""
        if not self._servers.answered:
            return f"{error.detail}{also} Is it running there? --url or DOSTORE_URL says where."
        long = f" It was tried for {seconds_text(tried_s)}." if tried_s >= 1 else ""
        return f"{error.detail}{also}{long} Try again later."
