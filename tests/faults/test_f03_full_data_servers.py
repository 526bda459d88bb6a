"""F3: the disks of data servers are full."""

from __future__ import annotations

import json
from unittest import SkipTest

from tests.support.shared_cluster import FaultCase, MountedDataServer

MIB = 1 << 20
SOME = 10


class FullTests(FaultCase):
    """Real drives without room."""

    def test_one_and_two_are_full(self) -> None:
        """With one full data server writes go on degraded, and it is told; with two they are
        refused by a sentence that counts, and reads go on; with room again all is made up for.
        """
        first, second = self.mounted()
        with self.load() as load:
            self.wait_count(load, SOME)
            first.fill()
            self.cluster.wait_ready(live=6, writable=5)
            self.wait_count(load, SOME)
            second.fill()
            self.cluster.wait_until(
                "two are known to be full",
                lambda: all(
                    api.readiness()[1]["nodes"]["writable"] == 4 for api in self.cluster.api
                ),
            )
            refused = load.count(503, 507)
            self.cluster.wait_until(
                "writes are refused", lambda: load.count(503, 507) >= refused + SOME
            )
            self.wait_count(load, SOME, "GET")
            answer = self.cluster.api[0].request("PUT", f"/objects/{self.seed}", b"no room")
            self.assertIn(answer.status, (503, 507))
            self.assertIn("4 of 6 nodes take writes", json.loads(answer.body)["detail"])
            first.give_room()
            second.give_room()
            self.cluster.wait_ready()
            self.wait_count(load, SOME)
        self.assert_all_right(load)

    def mounted(self) -> list[MountedDataServer]:
        """The data servers whose drives can be filled."""
        found = [server for server in self.cluster.data if isinstance(server, MountedDataServer)]
        if not found:
            raise SkipTest("no mounts here")
        return found
