"""Which server is asked next, after how long, and when there is no next time."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from dostore.client.attempts import (
    FIRST_PATIENCE_S,
    LONGEST_PAUSE_S,
    PATIENCE_S,
    Attempts,
    Servers,
)
from dostore.client.failures import Later, OutOfReach
from dostore.errors import NodeUnavailable, Unavailable
from dostore.http.exchange import NotConnected
from tests.support.client import URL, URLS, ClientTestCase


class AttemptsTests(ClientTestCase):
    """Attempts at something that fails."""

    def setUp(self) -> None:
        """See ClientTestCase."""
        super().setUp()
        self.told: list[tuple[str, float]] = []

    def begin(
        self, urls: str = URL, patience_s: float | None = None, *, answered: bool = True
    ) -> Attempts:
        """Attempts, of a command that has had an answer."""
        servers = self.servers(urls, patience_s)
        servers.answered = answered
        return Attempts(servers, lambda text, pause_s: self.told.append((text, pause_s)))

    def pause(self, attempts: Attempts, error: Unavailable | None = None) -> float:
        """How long is waited after a failure."""
        before = self.clock.seconds()
        task = self.start(attempts.failed(error or NodeUnavailable("It broke.")))
        while not task.called:
            self.clock.advance(0.125)
        self.finish(_awaited(task))
        return self.clock.seconds() - before

    def test_pauses_grow(self) -> None:
        """Twice as long each time, up to half a minute."""
        attempts = self.begin()
        found = [self.pause(attempts) for _ in range(9)]
        self.assertEqual(found, [0.25, 0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S])
        self.assertEqual(self.told[0], ("It broke.", 0.25))

    def test_pauses_differ(self) -> None:
        """Chance takes away up to half, so that many clients don't come back at once."""
        servers = self.servers()
        for chance, expected in ((0.0, 0.125), (0.5, 0.1875), (1.0, 0.25)):
            servers = Servers([servers.current], self.clock, [chance].pop)
            servers.answered = True
            attempts = Attempts(servers, lambda text, pause_s: self.told.append((text, pause_s)))
            self.pause(attempts)
            self.assertEqual(self.told[-1][1], expected)

    def test_progress_begins_anew(self) -> None:
        """After something got on, the pauses and the patience do so too."""
        attempts = self.begin(patience_s=10)
        for _ in range(20):
            self.assertEqual([self.pause(attempts) for _ in range(3)], [0.25, 0.5, 1])
            attempts.progressed()

    def test_patience_ends(self) -> None:
        """It is given up when the next pause would last too long."""
        attempts = self.begin()
        began = self.clock.seconds()
        with self.assertRaises(OutOfReach) as caught:
            while True:
                self.pause(attempts)
        spent = self.clock.seconds() - began
        self.assertTrue(PATIENCE_S - LONGEST_PAUSE_S <= spent <= PATIENCE_S, spent)
        self.assertIn("It broke. It was tried for 4 min", caught.exception.detail)

    def test_first_contact(self) -> None:
        """Where nothing has ever answered, it is told soon, and where that is set."""
        attempts = self.begin(answered=False)
        with self.assertRaises(OutOfReach) as caught:
            while True:
                self.pause(attempts)
        self.assertLess(self.clock.seconds(), FIRST_PATIENCE_S)
        self.assertIn("Is it running there? --url or DOSTORE_URL", caught.exception.detail)
        self.assertEqual(self.told, [])

    def test_wish_for_patience(self) -> None:
        """Who says how long to try means the first answer, too; none: each server once."""
        attempts = self.begin(patience_s=20, answered=False)
        self.assertEqual([self.pause(attempts) for _ in range(4)], [0.25, 0.5, 1, 2])
        attempts = self.begin(URLS, patience_s=0)
        self.assertEqual(self.pause(attempts), 0)
        error = self.assertRaises(OutOfReach, self.pause, attempts)
        self.assertEqual(error.detail, "It broke. 1 other server failed, too. Try again later.")

    def test_each_server_in_turn(self) -> None:
        """The next server is asked at once; a pause is made when all have failed."""
        attempts = self.begin(f"{URLS},http://three:3")
        asked = []
        pauses = []
        for _ in range(6):
            asked.append(attempts.link.address.host)
            pauses.append(self.pause(attempts))
        self.assertEqual(asked, ["one:1", "two:2", "three:3"] * 2)
        self.assertEqual(pauses, [0, 0, 0.25, 0, 0, 0.5])

    def test_all_learn(self) -> None:
        """A server that failed one thing is not asked for the next one either."""
        servers = self.servers(URLS)
        servers.answered = True
        first, second = Attempts(servers), Attempts(servers)
        self.pause(first)
        self.assertEqual(servers.current.address.host, "two:2")
        self.assertEqual(Attempts(servers).link.address.host, "two:2")
        # One that was at it at the same time does not turn them back.
        self.pause(second)
        self.assertEqual(second.link.address.host, "two:2")

    def test_what_the_server_wishes(self) -> None:
        """A pause that the server asks for is made, within reason."""
        attempts = self.begin()
        self.assertEqual(self.pause(attempts, Later("Busy.", 5.0)), 5)
        self.assertEqual(self.pause(attempts, Later("Busy.", 1e9)), 60)
        self.assertEqual(self.pause(attempts, Later("Busy.", None)), 1)

    def test_doubt(self) -> None:
        """An attempt that was not even connected had no effect; any other may have had it."""
        attempts = self.begin()
        self.pause(attempts, NotConnected("Refused."))
        self.assertFalse(attempts.doubtful)
        self.pause(attempts)
        self.assertTrue(attempts.doubtful)

    def test_waiting(self) -> None:
        """Waiting for another to get on is no failure, and told."""
        attempts = self.begin(patience_s=1)
        for _ in range(100):
            task = self.start(attempts.wait("Another is at it.", 2.0))
            self.clock.advance(2.0)
            self.successResultOf(task)
        self.assertEqual(self.told[-1], ("Another is at it.", 2.0))


async def _awaited(task: Deferred[None]) -> None:
    await task
