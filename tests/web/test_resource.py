"""What becomes of errors, and the small resources: locate, health and metrics."""

from __future__ import annotations

import json
from urllib.parse import quote

from dostore.service.objects import Readiness
from tests.support.http import HttpTestCase, request_bytes

BODY = b"this object will be seperated to 4+2"
HASH = "2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="


class BugTests(HttpTestCase):
    """Errors that are not ours."""

    def test_foreign_exception(self) -> None:
        """The client gets a number, the log gets that number and the reason."""
        self.store.failures["find"] = ValueError("secret /srv/path")
        answer = self.ask("GET", "/objects/a")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(answer.status, 500)
        self.assertNotIn(b"secret", answer.body)
        self.assertNotIn(b"ValueError", answer.body)
        document = json.loads(answer.body)
        self.assertRegex(document["detail"], "[0-9a-f]{16}")
        # The connection is as good as before.
        self.store.failures.clear()
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a") + request_bytes("GET", "/health/live"))
        self.assertEqual([a.status for a in client.answers()], [404, 200])

    def test_break_in_a_header(self) -> None:
        """A header value with a line break in it is a bug that injects nothing."""
        self.store.keep("a", BODY, "text/html\r\nSet-Cookie: a=b")
        answer = self.ask("GET", "/objects/a")
        self.flushLoggedErrors(ValueError)
        self.assertEqual(answer.status, 500)
        self.assertNotIn("set-cookie", answer.headers)


class LocateTests(HttpTestCase):
    """``/locate/<hash>``."""

    def test_locate(self) -> None:
        """An address for each shard, however the hash is escaped."""
        self.store.keep("a", BODY)
        for escaped in (HASH, quote(HASH, safe=""), HASH.replace("/", "%2f")):
            answer = self.ask("GET", f"/locate/{escaped}")
            self.assertEqual(
                json.loads(answer.body), {str(index): f"/drives/{index + 1}" for index in range(6)}
            )
            self.assertEqual(answer.headers["content-type"], "application/json")

    def test_none(self) -> None:
        """404 when nobody has it, 400 when it is no hash."""
        self.assertEqual(self.ask("GET", f"/locate/{HASH}").status, 404)
        for text in ("", "abc", HASH[:-1], HASH + "=", "%00", "a/b"):
            self.assertEqual(self.ask("GET", f"/locate/{text}").status, 400)


class HealthTests(HttpTestCase):
    """``/health/``."""

    def test_live(self) -> None:
        """The process runs."""
        answer = self.ask("GET", "/health/live")
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"live": True}))

    def test_ready(self) -> None:
        """It can serve, fully or with less redundancy; or it cannot."""
        self.assertEqual(json.loads(self.ask("GET", "/health/ready").body)["ready"], True)
        self.store.state = Readiness(True, 5, 5, 6, "Degraded: 1 of 6 nodes is away.")
        answer = self.ask("GET", "/health/ready")
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            json.loads(answer.body),
            {
                "ready": True,
                "nodes": {"live": 5, "writable": 5, "expected": 6},
                "lost": 0,
                "detail": "Degraded: 1 of 6 nodes is away.",
            },
        )
        self.store.state = Readiness(False, 3, 3, 6, "3 of 6 nodes.")
        answer = self.ask("GET", "/health/ready")
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "5"))
        document = json.loads(answer.body)
        self.assertEqual((document["detail"], document["nodes"]["live"]), ("3 of 6 nodes.", 3))


class MetricsTests(HttpTestCase):
    """``/metrics``."""

    def metrics(self) -> dict[str, float]:
        """All samples."""
        answer = self.ask("GET", "/metrics")
        self.assertEqual(answer.status, 200)
        lines = answer.body.decode().splitlines()
        return {
            sample: float(value)
            for sample, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        }

    def test_requests(self) -> None:
        """Requests are counted by method, route and class of status, with their bytes."""
        self.ask("PUT", "/objects/a", body=BODY)
        self.ask("GET", "/objects/a")
        self.ask("GET", "/objects/b")
        self.ask("BREW", "/objects/b")
        self.ask("GET", "/nowhere/at/all")
        metrics = self.metrics()
        self.assertEqual(
            {name: value for name, value in metrics.items() if "http_requests_total" in name},
            {
                'dostore_http_requests_total{method="PUT",route="objects",status="2xx"}': 1,
                'dostore_http_requests_total{method="GET",route="objects",status="2xx"}': 1,
                'dostore_http_requests_total{method="GET",route="objects",status="4xx"}': 1,
                'dostore_http_requests_total{method="other",route="objects",status="4xx"}': 1,
                'dostore_http_requests_total{method="GET",route="",status="4xx"}': 1,
            },
        )
        self.assertEqual(metrics["dostore_http_received_bytes_total"], len(BODY))
        self.assertGreater(metrics["dostore_http_sent_bytes_total"], len(BODY))

    def test_durations(self) -> None:
        """Buckets count up to each bound."""
        gate = self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        self.clock.advance(0.3)
        gate.open()
        metrics = self.metrics()
        name = "dostore_http_request_duration_seconds"
        labels = 'method="GET",route="objects"}'
        counts = [metrics[f'{name}_bucket{{le="{b}",{labels}'] for b in ("0.25", "0.5", "+Inf")]
        self.assertEqual(counts, [0, 1, 1])
        self.assertAlmostEqual(metrics[f"{name}_sum{{{labels}"], 0.3)

    def test_clients_that_went_away(self) -> None:
        """They are counted too, without a status."""
        self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        client.close()
        name = 'dostore_http_requests_total{method="GET",route="objects",status="none"}'
        self.assertEqual(self.metrics()[name], 1)

    def test_answers_that_were_cut(self) -> None:
        """So are they, whatever status they had begun with."""
        self.store.keep("a", b"x" * 3_000_000)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        client.close()
        name = 'dostore_http_requests_total{method="GET",route="objects",status="none"}'
        self.assertEqual(self.metrics()[name], 1)

    def test_connections(self) -> None:
        """How many there are, and what was refused before it was a request."""
        self.gate("find")
        idle, busy, wrong = (self.connect() for _ in range(3))
        busy.send(request_bytes("GET", "/objects/a"))
        wrong.send(b"nonsense\r\n")
        metrics = self.metrics()
        self.assertEqual(metrics['dostore_http_refused_total{status="400"}'], 1)
        self.assertEqual(metrics["dostore_http_connections"], 4)
        self.assertEqual(metrics["dostore_http_idle"], 2)
        self.assertEqual(metrics["dostore_http_running"], 2)
        self.assertFalse(idle.lost)

    def test_store(self) -> None:
        """What the store counts, and its nodes."""
        self.store.stats.degraded_writes = 3
        self.store.stats.repaired_shards = 7
        self.store.state = Readiness(True, 5, 4, 6, "Degraded.")
        metrics = self.metrics()
        self.assertEqual(metrics["dostore_degraded_writes_total"], 3)
        self.assertEqual(metrics["dostore_repaired_shards_total"], 7)
        self.assertEqual(metrics["dostore_nodes_live"], 5)
        self.assertEqual(metrics["dostore_nodes_writable"], 4)
        self.assertEqual(metrics["dostore_nodes_expected"], 6)
        self.assertEqual(metrics["dostore_ready"], 1)
