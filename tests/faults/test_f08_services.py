"""F8: RabbitMQ and Elasticsearch are away for half a minute, under load."""

from __future__ import annotations

import time

from tests.support.shared_cluster import FaultCase

AWAY_S = 30.0
SOME = 10


class ServiceTests(FaultCase):
    """What the services lose is made up for, and nothing else is lost or doubled."""

    def test_the_broker_is_away(self) -> None:
        """Without RabbitMQ reads and writes go on, also when a data server goes, and readiness
        tells; when it is back all is as before.
        """
        api = self.chance.choice(self.cluster.api)
        gone = self.chance.choice(self.cluster.data)
        with self.load(2, pause_s=1.0) as load:
            self.wait_count(load, SOME)
            began = time.monotonic()
            self.cluster.broker.kill()
            self.cluster.wait_until(
                "it is told", lambda: "RabbitMQ" in api.readiness()[1]["detail"]
            )
            self.assertEqual(api.readiness()[0], 200)
            self.wait_count(load, SOME)
            gone.kill()
            self.wait_count(load, SOME)
            self.wait_count(load, SOME, "GET")
            gone.start()
            time.sleep(max(0.0, began + AWAY_S - time.monotonic()))
            self.wait_count(load, SOME)
            self.assertEqual(load.count(503), 0, load.details())
            self.cluster.broker.start()
            self.cluster.wait_until("all is well", lambda: self.detail_of_ready() == "All is well.")
            self.wait_count(load, SOME)
        self.assert_all_right(load)

    def detail_of_ready(self) -> str:
        """What both API servers say; nothing when they differ."""
        told = {server.readiness()[1].get("detail", "") for server in self.cluster.api}
        return told.pop() if len(told) == 1 else ""

    def test_elasticsearch_is_away(self) -> None:
        """Without Elasticsearch everything that needs a name is 503 with Retry-After, in bounded
        time; when it is back no version is lost, none is there twice.
        """
        search = self.cluster.search
        assert search is not None
        with self.load(2, pause_s=1.0) as load:
            self.wait_count(load, SOME)
            began = time.monotonic()
            search.kill()
            self.wait_count(load, 1, "PUT", 503)
            self.wait_count(load, 1, "GET", 503)
            status, told = self.cluster.api[0].readiness()
            self.assertEqual((status, "metadata store" in told["detail"]), (503, True), told)
            time.sleep(max(0.0, began + AWAY_S - time.monotonic()))
            search.spawn()
            self.cluster.wait_ready()
            self.wait_count(load, SOME)
        self.assert_all_right(load)
