"""Requests to Elasticsearch: failover, patience, bounds, and secrets that stay secret."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine
from typing import Any

from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from dostore.adapters.elastic_address import Address, parse_addresses
from dostore.adapters.elastic_answers import (
    Answer,
    AnswerTooLarge,
    NoAnswer,
    Refused,
    check_block,
    error_of,
)
from dostore.adapters.elastic_link import NDJSON, ElasticLink, LinkLimits
from dostore.adapters.meta_elastic import ElasticMetadata
from dostore.core.names import ContentHash
from dostore.errors import ConfigError, MetadataUnavailable
from tests.contract.metadata import draft
from tests.support.cases import SyncTestCase

LIMITS = LinkLimits(max_answer_bytes=100_000)

#: Time for several attempts that end by silence.
LIMITS_QUICK = LinkLimits(attempt_timeout_s=1.0)

PASSWORD = "s3cr3t-Passw0rd"

#: What a server does with a request.
Script = Callable[[Request], bytes | int]


def answer(status: int, body: object, kind: str = "application/json") -> Script:
    """A whole answer."""

    def script(request: Request) -> bytes:
        request.setResponseCode(status)
        request.setHeader("Content-Type", kind)
        return body.encode() if isinstance(body, str) else json.dumps(body).encode()

    return script


def silence(request: Request) -> int:
    """No answer, ever."""
    return NOT_DONE_YET


def truncated(request: Request) -> int:
    """An answer that ends before its length."""
    request.setHeader("Content-Length", "1000")
    request.write(b'{"cut":')
    request.loseConnection()
    return NOT_DONE_YET


def stalled(request: Request) -> int:
    """An answer that begins and does not go on."""
    request.setHeader("Content-Length", "1000")
    request.write(b'{"slow":')
    return NOT_DONE_YET


GOOD = answer(200, {"ok": True})
HTML = answer(200, "<html><body>Welcome</body></html>", "text/html")


class _Root(Resource):
    """Plays the scripts of each host, the last one for ever."""

    isLeaf = True

    def __init__(self, scripts: dict[str, list[Script]], seen: list[tuple[Request, bytes]]) -> None:
        super().__init__()
        self._scripts = scripts
        self._seen = seen

    def render(self, request: Request) -> bytes | int:
        host = request.requestHeaders.getRawHeaders("Host", [""])[0].partition(":")[0]
        assert request.content is not None
        self._seen.append((request, request.content.read()))
        scripts = self._scripts[host]
        return (scripts.pop(0) if len(scripts) > 1 else scripts[0])(request)


@implementer(IAgent)
class _Network:
    """The real agent and a real site in memory; hosts without a script refuse connections."""

    def __init__(self, scripts: dict[str, list[Script]], seen: list[tuple[Request, bytes]]) -> None:
        self._scripts = scripts
        self.agent = RequestTraversalAgent(_Root(scripts, seen))

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        host = uri.decode().partition("://")[2].partition(":")[0]
        if host == "unknown":
            return fail(DNSLookupError("no such host"))
        if host not in self._scripts:
            return fail(ConnectionRefusedError("refused"))
        result: Deferred[IResponse] = self.agent.request(method, uri, headers, bodyProducer)
        return result


@implementer(ILogObserver)
class _Observer:
    """Keeps the text of what is logged."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self, event: LogEvent) -> None:
        self._lines.append(eventAsText(event))


class LinkTestCase(SyncTestCase):
    """A link to servers that do as they are told, on a clock that goes when it is told."""

    def setUp(self) -> None:
        """Catch what is logged."""
        super().setUp()
        self.clock = Clock()
        self.seen: list[tuple[Request, bytes]] = []
        self.lines: list[str] = []
        observer = _Observer(self.lines)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def link(
        self, servers: str, limits: LinkLimits = LIMITS, **scripts: list[Script]
    ) -> ElasticLink:
        """A link to ``servers``, which play ``scripts`` by host."""
        self.network = _Network(scripts, self.seen)
        return ElasticLink(HTTPClient(self.network), parse_addresses(servers), self.clock, limits)

    def start(self, link: ElasticLink, *args: Any, **more: Any) -> Deferred[Answer]:
        """Begin a call."""
        call = Deferred.fromCoroutine(link.call(*(args or ("GET", "/")), **more))
        self.network.agent.flush()
        return call

    def outcome(self, call: Deferred[Answer], seconds: float = 60.0) -> Any:
        """What a call comes to within so many seconds of the clock: an answer or an exception."""
        done: list[Any] = []
        _ = call.addBoth(done.append)
        for _ in range(int(seconds * 20)):
            if done:
                break
            self.clock.advance(0.05)
            self.network.agent.flush()
        self.assertTrue(done, "the call did not end")
        return done[0].value if isinstance(done[0], Failure) else done[0]

    def hosts(self) -> list[str]:
        """Which host each request went to."""
        values = [r.requestHeaders.getRawHeaders("Host", [""])[0] for r, _ in self.seen]
        return [value.partition(":")[0] for value in values]


class AnswerTests(LinkTestCase):
    """What becomes of an answer."""

    def test_json_is_an_answer(self) -> None:
        """A status and what the JSON says; a missing document is an answer too."""
        link = self.link("a:9200", a=[GOOD, answer(404, {"found": False})])
        self.assertEqual(self.outcome(self.start(link)), Answer(200, {"ok": True}))
        self.assertEqual(self.outcome(self.start(link)), Answer(404, {"found": False}))

    def test_what_is_sent(self) -> None:
        """The method, the path with its query, the body with its type, and who asks."""
        link = self.link(f"http://user:{PASSWORD}@a:9200/es/", a=[GOOD])
        self.outcome(self.start(link, "POST", "/x/_bulk?timeout=5s", b"{}\n", content_type=NDJSON))
        ((request, body),) = self.seen
        self.assertEqual(request.method, b"POST")
        self.assertEqual(request.uri, b"/es/x/_bulk?timeout=5s")
        self.assertEqual(body, b"{}\n")
        headers = request.requestHeaders
        self.assertEqual(headers.getRawHeaders("Content-Type"), [NDJSON])
        credentials = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        self.assertEqual(headers.getRawHeaders("Authorization"), [f"Basic {credentials}"])

    def test_html_is_no_elasticsearch(self) -> None:
        """A web page fails at once, with a sentence that says what answered."""
        link = self.link("a:9200", a=[HTML])
        error = self.outcome(self.start(link), 0.1)
        self.assertIsInstance(error, Refused)
        self.assertIn("text/html", error.detail)
        self.assertIn("ES_SERVER", error.detail)
        self.assertNotIn("Welcome", error.detail)
        # It was no answer to what was asked, so nobody knows whether that was done.
        self.assertTrue(error.sent)

    def test_html_from_one_server_is_passed_over(self) -> None:
        """Another server that is an Elasticsearch serves."""
        link = self.link("a,b", a=[HTML], b=[GOOD])
        for _ in range(4):
            self.assertEqual(self.outcome(self.start(link), 0.1), Answer(200, {"ok": True}))

    def test_html_of_a_proxy_is_waited_out(self) -> None:
        """A proxy's page that says "bad gateway" is a server that is away."""
        page = answer(502, "<h1>Bad gateway</h1>", "text/html")
        link = self.link("a", a=[page, page, GOOD])
        self.assertEqual(self.outcome(self.start(link)), Answer(200, {"ok": True}))

    def test_json_that_is_no_answer(self) -> None:
        """Lists, numbers, JSON too deep to read and half of it are no answers."""
        for body in ("[]", "17", "null", "", "[" * 90_000, '{"a":', "\ud800", '{"a":1}}'):
            link = self.link("a", a=[answer(200, body.encode("utf-8", "replace").decode())])
            error = self.outcome(self.start(link), 0.1)
            self.assertIsInstance(error, Refused, body[:20])

    def test_redirects_are_not_followed(self) -> None:
        """What redirects is no Elasticsearch, and the password goes nowhere else."""

        def elsewhere(request: Request) -> bytes:
            request.redirect(b"http://b:9200/")
            return b"{}"

        link = self.link(f"u:{PASSWORD}@a", a=[elsewhere], b=[GOOD])
        self.assertIsInstance(self.outcome(self.start(link), 0.1), Refused)
        self.assertEqual(self.hosts(), ["a"])

    def test_wrong_password(self) -> None:
        """401 and 403 are told as what they are, at once."""
        for status in (401, 403):
            told = {"error": {"type": "security_exception", "reason": f"no {PASSWORD}"}}
            link = self.link(f"u:{PASSWORD}@a", a=[answer(status, told)])
            error = self.outcome(self.start(link), 0.1)
            self.assertIsInstance(error, Refused)
            self.assertIn("password", error.detail)
            self.assertNotIn(PASSWORD, error.detail)

    def test_a_blocked_index(self) -> None:
        """A write block is no reason to wait, and the sentence says what to free."""
        reason = "index [m] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage]"
        told = {"error": {"type": "cluster_block_exception", "reason": reason}}
        for status in (403, 429):
            link = self.link("a", a=[answer(status, told)])
            error = self.outcome(self.start(link), 0.1)
            self.assertIsInstance(error, Refused)
            self.assertIn("Free space", error.detail)
            self.assertFalse(error.sent)
        check_block("version_conflict_engine_exception [x]: nothing of blocks")

    def test_error_of(self) -> None:
        """The type and the reason of an error, cut to a length, whatever JSON it is."""
        told = {"error": {"type": "t" * 1000, "reason": ["r"]}}
        kind, reason = error_of(Answer(400, told))
        self.assertEqual((len(kind), reason), (300, "['r']"))
        for body in ({}, {"error": "text"}, {"error": None}):
            self.assertEqual(error_of(Answer(400, body)), ("", ""))

    def test_too_large_an_answer(self) -> None:
        """It is not read to its end, and not asked for again."""
        link = self.link("a", a=[answer(200, {"x": "y" * 200_000})])
        self.assertIsInstance(self.outcome(self.start(link), 0.1), AnswerTooLarge)
        self.assertEqual(len(self.seen), 1)

    def test_too_large_a_request(self) -> None:
        """A proxy that takes no such body is named as the reason."""
        link = self.link("a", a=[answer(413, "<h1>Too large</h1>", "text/html")])
        error = self.outcome(self.start(link), 0.1)
        self.assertIsInstance(error, Refused)
        self.assertIn("16 MiB", error.detail)


class PatienceTests(LinkTestCase):
    """When it is tried again, and until when."""

    def test_429_is_tried_again(self) -> None:
        """A server that is busy gets a pause, each longer than the one before."""
        busy = answer(429, {"error": {"type": "es_rejected_execution_exception", "reason": ""}})
        link = self.link("a", a=[busy, busy, busy, GOOD])
        call = self.start(link)
        counts = []
        for _ in range(16):
            counts.append(len(self.seen))
            self.clock.advance(0.05)
            self.network.agent.flush()
        self.assertEqual(self.successResultOf(call), Answer(200, {"ok": True}))
        # After 0.1, 0.2 and 0.4 s, in steps of 0.05 of which sums fall a little short.
        self.assertEqual([counts.index(n) for n in (1, 2, 3, 4)], [0, 2, 7, 15])

    def test_503_for_ever(self) -> None:
        """It fails when the total time is over, and says that it may have been acted upon."""
        link = self.link("a", a=[answer(503, {"error": {"type": "no_master"}})])
        error = self.outcome(self.start(link), LIMITS.total_timeout_s)
        self.assertIsInstance(error, NoAnswer)
        self.assertTrue(error.sent)
        self.assertIn("503", error.detail)
        self.assertLess(len(self.seen), 12)

    def test_429_for_ever(self) -> None:
        """What was turned away was surely not done."""
        link = self.link("a", a=[answer(429, {})])
        error = self.outcome(self.start(link), LIMITS.total_timeout_s)
        self.assertIsInstance(error, NoAnswer)
        self.assertFalse(error.sent)

    def test_refused_connections_for_ever(self) -> None:
        """Nobody there: it fails in bounded time, nothing was sent."""
        for server in ("away", "unknown"):
            link = self.link(server, a=[GOOD])
            error = self.outcome(self.start(link), LIMITS.total_timeout_s)
            self.assertIsInstance(error, NoAnswer)
            self.assertFalse(error.sent)
            self.assertNotIn("away", error.detail.replace("Try again later", ""))

    def test_a_server_that_never_answers(self) -> None:
        """Silence ends with the attempt's time, and the next server is asked."""
        link = self.link("a,b", a=[GOOD], b=[silence])
        call = self.start(link)
        self.assertEqual(self.hosts(), ["b"])
        self.assertEqual(self.outcome(call), Answer(200, {"ok": True}))
        self.assertLessEqual(self.clock.seconds(), LIMITS.total_timeout_s)

    def test_silence_for_ever(self) -> None:
        """All silent: it fails when the total time is over."""
        link = self.link("a,b", a=[silence], b=[stalled])
        error = self.outcome(self.start(link), LIMITS.total_timeout_s + 0.1)
        self.assertIsInstance(error, NoAnswer)
        self.assertTrue(error.sent)
        self.assertEqual(len(self.seen), 2)

    def test_truncated_answers(self) -> None:
        """Half an answer is none, and the request is sent again."""
        link = self.link("a", a=[truncated, stalled, GOOD], limits=LIMITS_QUICK)
        self.assertEqual(self.outcome(self.start(link)), Answer(200, {"ok": True}))
        self.assertEqual(len(self.seen), 3)

    def test_once(self) -> None:
        """A write is sent to one server once, whatever comes of it."""
        for script in (silence, truncated, answer(503, {}), answer(429, {})):
            self.seen.clear()
            link = self.link("a,b", a=[script], b=[script])
            error = self.outcome(self.start(link, "POST", "/_bulk", b"x", once=True))
            self.assertIsInstance(error, NoAnswer)
            self.assertEqual(len(self.seen), 1)

    def test_cancelling(self) -> None:
        """A call that nobody waits for is not tried again."""
        link = self.link("a,b", a=[silence], b=[silence])
        call = self.start(link)
        call.cancel()
        self.failureResultOf(call, CancelledError)
        self.clock.advance(100)
        self.network.agent.flush()
        self.assertEqual(len(self.seen), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer_is_left(self) -> None:
        """An answer ends everything that waited for it."""
        link = self.link("a", a=[GOOD])
        self.outcome(self.start(link))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FailoverTests(LinkTestCase):
    """Several addresses."""

    def test_servers_take_turns(self) -> None:
        """Each call goes to the next server."""
        link = self.link("a,b,c", a=[GOOD], b=[GOOD], c=[GOOD])
        for _ in range(6):
            self.outcome(self.start(link))
        self.assertEqual(sorted(self.hosts()[:3]), ["a", "b", "c"])
        self.assertEqual(self.hosts()[:3], self.hosts()[3:])

    def test_a_server_that_is_away_costs_one_attempt(self) -> None:
        """The next server is asked without a pause; the one that failed is left alone a while."""
        link = self.link("a,b", a=[answer(503, {}), GOOD], b=[GOOD])
        for _ in range(4):
            self.assertEqual(self.outcome(self.start(link), 0.01).status, 200)
        self.assertEqual(self.hosts().count("a"), 1)
        self.clock.advance(LIMITS.aside_s)
        for _ in range(2):
            self.outcome(self.start(link))
        self.assertEqual(self.hosts().count("a"), 2)

    def test_refused_connection(self) -> None:
        """A server that is not there is passed over."""
        link = self.link("gone,b", b=[GOOD])
        for _ in range(4):
            self.assertEqual(self.outcome(self.start(link), 0.01).status, 200)

    def test_failures_are_counted_and_logged_once(self) -> None:
        """Who relies on what a server said can tell that something failed since."""
        link = self.link("a", a=[answer(503, {}), answer(503, {}), GOOD])
        self.assertEqual(link.failures, 0)
        self.outcome(self.start(link))
        self.assertEqual(link.failures, 2)
        self.assertEqual(len([line for line in self.lines if "fails" in line]), 1)
        self.assertEqual(len([line for line in self.lines if "answers again" in line]), 1)


class SecretTests(LinkTestCase):
    """Row A11: the password is for the server alone."""

    def test_a11_password_is_never_told(self) -> None:
        """Not in an error, a log line or anything's text, whatever fails."""
        told: list[str] = []
        url = f"http://elastic:{PASSWORD}@a:9200"
        for script in (HTML, truncated, silence, answer(401, {}), answer(503, {})):
            link = self.link(url, a=[script])
            error = self.outcome(self.start(link))
            told += [str(error), repr(error), error.detail, *self._causes(error)]
        link = self.link(f"elastic:{PASSWORD}@gone")
        error = self.outcome(self.start(link))
        told += [str(error), error.detail, repr(parse_addresses(url)), str(vars(link))]
        secret = base64.b64encode(f"elastic:{PASSWORD}".encode()).decode()
        for text in [*told, *self.lines]:
            self.assertNotIn(PASSWORD, text)
            self.assertNotIn(secret, text)
        self.assertTrue(self.lines)

    def _causes(self, error: BaseException | None) -> list[str]:
        texts = []
        while error is not None:
            texts += [str(error), repr(error)]
            error = error.__cause__
        return texts

    def test_a11_wrong_addresses_are_told_without_their_password(self) -> None:
        """The sentence shows the host that is wrong, and nothing before the ``@``."""
        for text in (
            f"http://u:{PASSWORD}@",
            f"ftp://u:{PASSWORD}@a",
            f"u:{PASSWORD}@a:port",
            f"u:{PASSWORD}@a:99999",
            f"u:{PASSWORD}@a b",
            f"http://u:{PASSWORD}@[::1",
            f"http://u:{PASSWORD}@a/?x=y",
            f"u:{PASSWORD}\x00@a",
            f"http://u:{PASSWORD}@a/\u00e9",
        ):
            with self.assertRaises(ConfigError) as caught:
                parse_addresses(text)
            error = caught.exception
            for told in self._causes(error):
                self.assertNotIn(PASSWORD, told)
            # A traceback would show the reason behind it, which may quote the password.
            self.assertTrue(error.__suppress_context__ or error.__context__ is None)


class StoreTests(LinkTestCase):
    """The metadata store on what is no Elasticsearch."""

    def test_every_call_fails_in_words(self) -> None:
        """HTML, other JSON, an old Elasticsearch, garbled versions: told as MetadataUnavailable."""
        scripts = [HTML, GOOD, answer(404, {}), answer(400, {"error": "x"})]
        for number in ("6.8.0", "x", "7", [7]):
            scripts.append(answer(200, {"version": {"number": number}}))
        for number in ("7.10.2", "8.19.0"):
            # It says that it is one, but what it says of the index is nonsense.
            scripts.append(answer(200, {"version": {"number": number}}))
        for script in scripts:
            store = ElasticMetadata(self.link("a", a=[script]), self.clock, lambda: 0.0)
            for call in (
                store.add(draft("a")),
                store.latest("a"),
                store.get("a", 1),
                store.history("a", 1, 9),
                store.current("", "", 9),
                store.versions("", "", 1, 9),
                store.referenced([ContentHash(bytes(32))]),
                store.created(),
                store.ping(),
            ):
                coroutine: Coroutine[Any, Any, Any] = call
                error = self.outcome(Deferred.fromCoroutine(coroutine))
                self.assertIsInstance(error, MetadataUnavailable)
                self.assertRegex(error.detail, r"\.$")


class AddressTests(SyncTestCase):
    """What ES_SERVER may say."""

    def test_forms(self) -> None:
        """Bare hosts, ports, URLs, several with commas, IPv6, paths, and escapes in passwords."""
        for text, urls in (
            ("localhost:9200", ["http://localhost:9200"]),
            ("es", ["http://es:9200"]),
            ("http://ES.example", ["http://es.example:9200"]),
            ("https://es.example:443/path/", ["https://es.example:443/path"]),
            ("http://[::1]:9201", ["http://[::1]:9201"]),
            ("a:1, b:2,http://c:3,", ["http://a:1", "http://b:2", "http://c:3"]),
            ("10.29.102.173:9200", ["http://10.29.102.173:9200"]),
        ):
            self.assertEqual([address.url for address in parse_addresses(text)], urls)

    def test_credentials(self) -> None:
        """User and password are percent-decoded, and an address without has none."""
        (one,) = parse_addresses("https://us%65r:p%40ss%3Aword@h")
        expected = base64.b64encode(b"user:p@ss:word").decode()
        self.assertEqual(one, Address("https://h:9200", f"Basic {expected}"))
        self.assertIsNone(parse_addresses("h")[0].authorization)

    def test_no_address(self) -> None:
        """Nothing, or nothing but commas, is a wrong setting."""
        for text in ("", " ", ",", " , "):
            with self.assertRaises(ConfigError) as caught:
                parse_addresses(text)
            self.assertIn("ES_SERVER", caught.exception.detail)
