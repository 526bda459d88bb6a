"""What processes have counted, added up."""

from __future__ import annotations

import json
from collections import Counter

from dostore.web.api.counts import BUCKETS_S, Counts, HttpCounts
from tests.support.cases import SyncTestCase


def counted(times: int) -> Counts:
    """What a process may have counted."""
    http = HttpCounts(
        Counter({("GET", "objects", 2): 3 * times, ("PUT", "objects", 0): times}),
        bytes_in=5 * times,
        bytes_out=7 * times,
        refused=Counter({400: times}),
        connections=2 * times,
        idle=times,
        running=times,
    )
    for _ in range(times):
        http.took(("GET", "objects"), 0.002)
    return Counts(http, Counter(gets=3 * times))


class CountsTests(SyncTestCase):
    """Sums."""

    def test_sums(self) -> None:
        """Two processes have counted what one would have."""
        both = counted(2)
        both.add(counted(3))
        self.assertEqual(both.http.durations, counted(5).http.durations)
        self.assertEqual(both.http.requests, counted(5).http.requests)
        self.assertEqual(both.store, counted(5).store)
        self.assertEqual(
            (both.http.bytes_in, both.http.bytes_out, both.http.connections, both.http.running),
            (25, 35, 10, 5),
        )

    def test_one_that_has_counted_nothing(self) -> None:
        """It changes nothing."""
        sum_of_both = counted(2)
        sum_of_both.add(Counts())
        self.assertEqual(sum_of_both, counted(2))

    def test_between_processes(self) -> None:
        """It comes back from JSON as it was."""
        for times in (0, 2):
            told = json.loads(json.dumps(counted(times).as_json()))
            self.assertEqual(Counts.from_json(told), counted(times))

    def test_what_remains_of_the_dead(self) -> None:
        """What was so only then is gone."""
        past = counted(2).ended()
        self.assertEqual(past.http.requests, counted(2).http.requests)
        self.assertEqual((past.http.connections, past.http.idle, past.http.running), (0, 0, 0))

    def test_durations(self) -> None:
        """Each is counted in one bucket, whatever it is."""
        http = HttpCounts()
        for seconds in (0.0, BUCKETS_S[0], BUCKETS_S[-1], BUCKETS_S[-1] + 1):
            http.took(("GET", "objects"), seconds)
        buckets = http.durations["GET", "objects"]
        self.assertEqual((buckets[0], buckets[-2], buckets[-1], sum(buckets)), (2, 1, 1, 4))
