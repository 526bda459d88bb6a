"""Time-outs, the cap on connections, the orderly end, and the access log."""

from __future__ import annotations

import os
import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from dostore.web.api.site import build_factory
from dostore.web.connections import Connections, HttpLimits
from dostore.web.deadlines import Deadlines
from tests.support.cases import SyncTestCase
from tests.support.http import HttpTestCase, request_bytes
from tests.support.properties import prove


class DeadlinesTests(SyncTestCase):
    """Deadlines."""

    @prove
    @given(st.lists(st.sampled_from(["tick", "start a", "start b", "stop a"]), max_size=30))
    def test_none_is_early_or_forgotten(self, steps: list[str]) -> None:
        """A thing expires three or four ticks after its last start, unless it is stopped."""
        deadlines: Deadlines[str] = Deadlines(3.0)
        started: dict[str, int] = {}
        now = 0
        for step in steps:
            verb, _, thing = step.partition(" ")
            if verb == "start":
                deadlines.start(thing)
                started[thing] = now
            elif verb == "stop":
                deadlines.stop(thing)
                started.pop(thing, None)
            else:
                now += 1
                expired = deadlines.advance()
                self.assertEqual(
                    sorted(expired), sorted(t for t in started if now - started[t] > 3)
                )
                for each in expired:
                    del started[each]
            self.assertEqual(sorted(deadlines.all()), sorted(started))
            self.assertEqual(len(deadlines), len(started))

    def test_oldest(self) -> None:
        """The one that was started first, and not again."""
        deadlines: Deadlines[str] = Deadlines(3.0)
        self.assertIsNone(deadlines.oldest())
        for thing in "aba":
            deadlines.start(thing)
        self.assertEqual(deadlines.oldest(), "b")
        self.assertIn("a", deadlines)


class TimeoutTests(HttpTestCase):
    """Clients that do nothing."""

    def test_idle(self) -> None:
        """A connection without a request is closed after a minute, a new one too."""
        client, other = self.connect(), self.connect()
        other.send(request_bytes("GET", "/health/live"))
        self.tick(59)
        self.assertFalse(client.lost or other.lost)
        self.tick(3)
        self.assertTrue(client.lost and other.lost)
        self.assertEqual(client.received, b"")

    def test_idle_again(self) -> None:
        """Each request starts that minute anew."""
        client = self.connect()
        for _ in range(4):
            self.tick(50)
            client.send(request_bytes("GET", "/health/live"))
        self.assertEqual(len(client.answers()), 4)

    def test_slow_header_section(self) -> None:
        """It is the whole header section that must come in time, not its next byte."""
        for data in (request_bytes("GET", "/health/live"), b"GET /" + b"a" * 100):
            client = self.connect()
            for byte in data[:60]:
                client.send(bytes([byte]))
                self.tick(1)
                if client.ended:
                    break
            self.assertEqual(client.answer().status, 408)
            self.tick(7)
            self.assertTrue(client.lost)

    def test_slow_handler(self) -> None:
        """A request that takes long on our side is not the client's fault."""
        gate = self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        self.tick(1000)
        gate.open()
        self.assertEqual(client.answer().status, 404)

    def test_clock_that_jumps(self) -> None:
        """An hour that passed on the clock only closes nothing."""
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", {"Content-Length": "2"}) + b"a")
        idle = self.connect()
        self.clock.advance(3600)
        client.send(b"b")
        self.assertEqual(client.answer().status, 200)
        self.assertFalse(idle.lost)

    def test_nothing_ticks_without_connections(self) -> None:
        """A server without clients wakes up for nothing."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        client = self.connect()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        client.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CapTests(HttpTestCase):
    """More clients than connections."""

    limits = HttpLimits(max_connections=3)

    def test_idle_ones_make_room(self) -> None:
        """The one that has been idle for longest is closed for a new one."""
        clients = [self.connect() for _ in range(3)]
        clients[0].send(request_bytes("GET", "/health/live"))
        new = self.connect()
        new.send(request_bytes("GET", "/health/live"))
        self.settle()
        self.assertEqual([client.lost for client in clients], [False, True, False])
        self.assertEqual(new.answer().status, 200)
        self.assertEqual(self.factory.connection_count, 3)

    def test_half_heads_make_room(self) -> None:
        """Where none is idle, one that has not sent its header section yet is closed."""
        self.gate("find")
        busy = [self.connect() for _ in range(2)]
        for client in busy:
            client.send(request_bytes("GET", "/objects/a"))
        half = self.connect()
        half.send(b"GET / HT")
        new = self.connect()
        new.send(request_bytes("GET", "/health/live"))
        self.settle()
        self.assertTrue(half.lost)
        self.assertEqual(new.answer().status, 200)

    def test_busy_ones_stay(self) -> None:
        """Where all are at work, the new one is told to come again."""
        gate = self.gate("find")
        clients = [self.connect() for _ in range(3)]
        for client in clients:
            client.send(request_bytes("GET", "/objects/a"))
        new = self.connect()
        new.send(request_bytes("GET", "/health/live"))
        answer = new.answer()
        self.assertEqual((answer.status, answer.headers["connection"]), (503, "close"))
        self.assertEqual(answer.headers["retry-after"], "5")
        self.tick(7)
        self.assertTrue(new.lost)
        gate.open()
        self.assertEqual([client.answer().status for client in clients], [404] * 3)

    def test_too_many_even_to_be_told(self) -> None:
        """At some point a new connection is closed without a word."""
        self.gate("find")
        for _ in range(3):
            self.connect().send(request_bytes("GET", "/objects/a"))
        told = [self.connect() for _ in range(256)]
        self.assertFalse(any(client.refused for client in told))
        self.assertTrue(self.connect().refused)
        self.tick(7)
        self.assertFalse(self.connect().refused)


class DrainTests(HttpTestCase):
    """The end of a server."""

    def drain(self, timeout_s: float = 30.0) -> Deferred[bool]:
        """Begin the end."""
        return Deferred.fromCoroutine(self.factory.drain(timeout_s))

    def test_nothing_to_do(self) -> None:
        """Without clients it is over at once."""
        self.assertTrue(self.successResultOf(self.drain()))

    def test_idle_and_new_ones(self) -> None:
        """Idle connections and half header sections are closed, new connections refused."""
        idle, half = self.connect(), self.connect()
        half.send(b"GET / HT")
        drained = self.drain()
        self.assertTrue(self.connect().refused)
        self.settle()
        self.assertTrue(idle.lost and half.lost)
        self.assertTrue(self.successResultOf(drained))

    def test_requests_under_way(self) -> None:
        """They are answered, as the last of their connections."""
        find, commit = self.gate("find"), self.gate("commit")
        getter, putter = self.connect(), self.connect()
        getter.send(request_bytes("GET", "/objects/a"))
        putter.send(request_bytes("PUT", "/objects/a", {"Content-Length": "6"}) + b"abc")
        drained = self.drain()
        self.tick(10)
        self.assertNoResult(drained)
        putter.send(b"def")
        find.open()
        commit.open()
        self.settle()
        for client, status in ((getter, 404), (putter, 200)):
            answer = client.answer()
            self.assertEqual((answer.status, answer.headers["connection"]), (status, "close"))
            self.assertTrue(client.lost)
        self.assertTrue(self.successResultOf(drained))

    def test_answers_under_way(self) -> None:
        """An answer that began before goes to its end; then the connection is closed."""
        self.store.keep("a", b"x" * 5_000_000)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/a"))
        drained = self.drain()
        self.settle()
        client.read_on()
        self.settle()
        self.assertEqual(len(client.answer().body), 5_000_000)
        self.assertTrue(client.lost)
        self.assertTrue(self.successResultOf(drained))

    def test_too_slow(self) -> None:
        """What is not done in time is cut."""
        self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        sender = self.connect()
        sender.send(request_bytes("PUT", "/objects/a", {"Content-Length": "6"}) + b"abc")
        drained = self.drain()
        self.tick(29)
        self.assertNoResult(drained)
        self.tick(2)
        self.settle()
        self.assertTrue(client.aborted and sender.aborted)
        self.assertFalse(self.successResultOf(drained))
        self.assertEqual(self.store.metadata.names, {})

    def test_commit_that_is_too_slow(self) -> None:
        """A commit in its middle is not broken off; it gets a moment more."""
        gate = self.gate("commit")
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", body=b"abc"))
        drained = self.drain()
        self.tick(32)
        self.assertTrue(client.aborted)
        self.assertNoResult(drained)
        gate.open()
        self.assertFalse(self.successResultOf(drained))
        self.assertEqual(len(self.store.metadata.names["a"]), 1)

    def test_commit_that_hangs(self) -> None:
        """But the end comes."""
        gate = self.gate("commit")
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", body=b"abc"))
        drained = self.drain()
        self.tick(40)
        self.assertFalse(self.successResultOf(drained))
        gate.open()


class AccessLogTests(HttpTestCase):
    """The access log."""

    def build(self) -> Connections:
        """A factory with a log."""
        self.path = self.mktemp()
        factory = build_factory(
            self.store,  # type: ignore[arg-type]
            clock=self.clock,
            access_log=self.path,
        )
        factory.startFactory()
        self.addCleanup(factory.stopFactory)
        return factory

    def lines(self) -> list[str]:
        """What is in the log."""
        self.factory.stopFactory()
        with open(self.path, encoding="ascii") as log:
            return log.read().splitlines()

    def test_combined_format(self) -> None:
        """A line for each request, in the format that every log reader knows."""
        self.ask("PUT", "/objects/a%20b", {"User-Agent": "curl/8", "Referer": "http://x/"}, b"abc")
        self.ask("GET", "/objects/a%20b?version=1")
        (put, get) = self.lines()
        self.assertEqual(
            put,
            '127.0.0.1 - - [01/Jan/1970:00:00:00 +0000] "PUT /objects/a%20b HTTP/1.1" 200 -'
            ' "http://x/" "curl/8"',
        )
        self.assertIn('"GET /objects/a%20b?version=1 HTTP/1.1" 200 3 "-" "-"', get)

    def test_no_secrets(self) -> None:
        """Neither credentials, nor cookies, nor parameters that may be signatures."""
        self.ask(
            "GET",
            "/objects/a?X-Signature=hush1&version=1&token=hush2",
            {
                "Authorization": "Basic hush3",
                "Cookie": "session=hush4",
                "Referer": "http://x/?key=hush5",
                "X-Object-Meta-Key": "hush6",
            },
        )
        (line,) = self.lines()
        self.assertNotIn("hush", line)
        self.assertIn("/objects/a?X-Signature=...&version=1&token=...", line)

    def test_no_forged_lines(self) -> None:
        """What a client sends cannot end a line or a quoted part of it."""
        self.ask("GET", '/objects/"x\\', {"User-Agent": 'a" 200 \t\\ é'})
        (line,) = self.lines()
        self.assertRegex(line, re.compile(r'"GET /objects/\\x22x\\x5c HTTP/1.1" 404'))
        self.assertTrue(line.endswith('"a\\x22 200 \\x09\\x5c \\xe9"'), line)

    def test_client_that_went_away(self) -> None:
        """It has no status, which is written as 499."""
        self.gate("find")
        client = self.connect()
        client.send(request_bytes("GET", "/objects/a"))
        client.close()
        self.assertIn(" 499 - ", self.lines()[0])

    def test_full_drive(self) -> None:
        """A log that cannot be written stops nobody."""
        os.close(self.factory._access_log or 0)
        self.factory._access_log = os.open("/dev/full", os.O_WRONLY)
        client = self.connect()
        client.send(request_bytes("GET", "/health/live"))
        self.tick(2)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertIsNone(self.factory._access_log)
        client.send(request_bytes("GET", "/health/live"))
        self.settle()
        self.assertEqual([answer.status for answer in client.answers()], [200, 200])

    def test_whole_lines(self) -> None:
        """Several processes may write to one log: no line is ever in the middle of another."""
        writes: list[bytes] = []

        def write(descriptor: int, data: bytes) -> int:
            writes.append(bytes(data))
            return len(data)

        patch = self.patch(os, "write", write)
        for number in range(1000):
            self.ask("GET", f"/objects/{number}")
        self.tick(2)
        patch.restore()
        self.assertTrue(all(data.endswith(b"\n") for data in writes))
        self.assertEqual(b"".join(writes).count(b"\n"), 1000)
        self.assertLess(len(writes), 100)

    def test_written_within_a_second_or_two(self) -> None:
        """Lines do not wait for a buffer to fill."""
        client = self.connect()
        client.send(request_bytes("GET", "/health/live"))
        self.tick(2)
        with open(self.path, encoding="ascii") as log:
            self.assertEqual(len(log.readlines()), 1)

    def test_no_log_without_a_path(self) -> None:
        """By default nothing is written about requests."""
        quiet = build_factory(self.store, clock=self.clock)  # type: ignore[arg-type]
        quiet.startFactory()
        self.assertIsNone(quiet._access_log)
        quiet.stopFactory()
