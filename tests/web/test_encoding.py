"""Answers with gzip: who gets it, of what, and what is said about it."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Sequence

from twisted.internet.defer import Deferred

from dostore.core.httpfields import format_etag, format_gzip_etag
from dostore.core.model import Version
from dostore.errors import Unavailable
from dostore.ports import IByteSink
from dostore.web.encoding import MIN_BYTES, GzipSink, looks_worth_it
from tests.support.cases import SyncTestCase
from tests.support.http import Answer, HttpTestCase, request_bytes
from tests.support.workers import InlineWorkers

KIB, MIB = 1 << 10, 1 << 20
TEXT = b"".join(b"%d: this line is about the number %d\n" % (n, n * n) for n in range(90_000))
NOISE = random.Random(8).randbytes(2 * MIB)
SMALL = TEXT[: 5 * KIB]
GZIP = {"Accept-Encoding": "gzip"}


class CountingWorkers(InlineWorkers):
    """Counts what was given to them."""

    calls = 0

    async def run(self, function: object, *args: object) -> object:  # type: ignore[override]
        """See IWorkers."""
        self.calls += 1
        return await super().run(function, *args)  # type: ignore[arg-type]


class EncodingTestCase(HttpTestCase):
    """A store with a small and a large object that shrink."""

    def setUp(self) -> None:
        """Store them."""
        super().setUp()
        self.workers = self.store.workers = CountingWorkers()
        self.store.keep("small", SMALL)
        self.store.keep("large", TEXT)

    def tags(self, name: str) -> tuple[str, str]:
        """The entity tags of an object as it is, and with gzip."""
        content_hash = self.store.metadata.names[name][-1].contents[0].hash
        return format_etag(content_hash).decode(), format_gzip_etag(content_hash).decode()

    def assert_plain(self, answer: Answer, data: bytes) -> None:
        """The bytes as they are."""
        self.assertEqual((answer.status, answer.complete), (200, True))
        self.assertEqual(answer.body, data)
        self.assertEqual(answer.headers["content-length"], str(len(data)))
        self.assertEqual(answer.headers["accept-ranges"], "bytes")
        self.assertEqual(answer.headers["vary"], "Accept-Encoding")
        self.assertNotIn("content-encoding", answer.headers)
        self.assertNotIn("x-object-size", answer.headers)

    def assert_gzip(self, answer: Answer, data: bytes) -> None:
        """The gzip of them."""
        self.assertEqual((answer.status, answer.complete), (200, True))
        self.assertEqual(gzip.decompress(answer.body), data)
        self.assertEqual(answer.headers["content-encoding"], "gzip")
        self.assertEqual(answer.headers["vary"], "Accept-Encoding")
        self.assertEqual(answer.headers["x-object-size"], str(len(data)))
        self.assertNotIn("accept-ranges", answer.headers)


def assert_cut(test: SyncTestCase, answer: Answer) -> None:
    """Neither the chunks of an answer nor the gzip within them end."""
    test.assertEqual((answer.status, answer.complete), (200, False))
    test.assertEqual(answer.headers["content-encoding"], "gzip")
    unzip = zlib.decompressobj(31)
    unzip.decompress(answer.body)
    test.assertFalse(unzip.eof)


class GzipTests(EncodingTestCase):
    """GET and HEAD."""

    def test_small(self) -> None:
        """A small object is sent at once, with the length that it has on the wire."""
        answer = self.ask("GET", "/objects/small", GZIP)
        self.assert_gzip(answer, SMALL)
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))
        self.assertLess(len(answer.body), len(SMALL) // 2)
        self.assertEqual(self.workers.calls, 0)

    def test_large(self) -> None:
        """A large one in chunks, while it is read, by threads."""
        answer = self.ask("GET", "/objects/large", GZIP)
        self.assert_gzip(answer, TEXT)
        self.assertEqual(answer.headers["transfer-encoding"], "chunked")
        self.assertNotIn("content-length", answer.headers)
        self.assertLess(len(answer.body), len(TEXT) // 2)
        self.assertEqual(self.workers.calls, -(-len(TEXT) // MIB))

    def test_between(self) -> None:
        """What is not large and takes a while all the same is left to threads, too."""
        self.store.keep("between", TEXT[: 100 * KIB])
        answer = self.ask("GET", "/objects/between", GZIP)
        self.assert_gzip(answer, TEXT[: 100 * KIB])
        self.assertEqual(answer.headers["content-length"], str(len(answer.body)))
        self.assertEqual(self.workers.calls, 1)

    def test_zeros(self) -> None:
        """100 MiB of nothing are next to nothing."""
        self.store.keep("zeros", bytes(100 * MIB))
        answer = self.ask("GET", "/objects/zeros", GZIP)
        self.assert_gzip(answer, bytes(100 * MIB))
        self.assertLess(len(answer.body), MIB // 2)

    def test_what_is_said_of_it(self) -> None:
        """The digest is the object's own; the entity tag is of the bytes that are sent."""
        for name in ("small", "large"):
            plain = self.ask("GET", f"/objects/{name}").headers
            zipped = self.ask("GET", f"/objects/{name}", GZIP).headers
            self.assertEqual((plain["etag"], zipped["etag"]), self.tags(name))
            for field in ("digest", "x-object-version", "last-modified", "content-type"):
                self.assertEqual(plain[field], zipped[field])
            self.assertEqual(plain["content-security-policy"], zipped["content-security-policy"])

    def test_head(self) -> None:
        """The same headers as of GET, and no body."""
        self.store.keep("noise", NOISE)
        for name in ("small", "large", "noise"):
            got = self.ask("GET", f"/objects/{name}", GZIP)
            headed = self.ask("HEAD", f"/objects/{name}", GZIP)
            self.assertEqual(got.head, headed.head, name)
            self.assertEqual(headed.body, b"")

    def test_who_does_not_want_it(self) -> None:
        """Without the field, when another coding or none is wanted, and of HTTP/1.0."""
        for name, data in (("small", SMALL), ("large", TEXT)):
            for headers in (
                {},
                {"Accept-Encoding": ""},
                {"Accept-Encoding": "br, deflate"},
                {"Accept-Encoding": "gzip;q=0, *"},
                {"Accept-Encoding": "gzip;q=0.5, identity"},
                {"Accept-Encoding": "gzip;q=2"},
                {"Accept-Encoding": "gzip", "Cache-Control": "no-transform"},
            ):
                self.assert_plain(self.ask("GET", f"/objects/{name}", headers), data)
            client = self.connect()
            client.send(
                b"GET /objects/%b HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
                % name.encode()
            )
            self.settle()
            self.assert_plain(client.answer(), data)
        self.assertEqual(self.workers.calls, 0)

    def test_what_does_not_shrink(self) -> None:
        """Noise, too little, nothing at all, and types that are compressed already."""
        for name, data, content_type in (
            ("noise", NOISE, "application/octet-stream"),
            ("some-noise", NOISE[: 10 * KIB], "application/octet-stream"),
            ("little", TEXT[: MIN_BYTES - 1], "text/plain"),
            ("nothing", b"", "text/plain"),
            ("picture", TEXT, "image/png"),
            ("archive", SMALL, "application/zip"),
        ):
            self.store.keep(name, data, content_type)
            self.assert_plain(self.ask("GET", f"/objects/{name}", GZIP), data)

    def test_who_takes_nothing_else(self) -> None:
        """Who refuses the bytes as they are gets gzip of whatever it is."""
        only = {"Accept-Encoding": "gzip, identity;q=0"}
        for name, data in (("noise", NOISE), ("little", b"a"), ("nothing", b"")):
            self.store.keep(name, data, "image/png")
            self.assert_gzip(self.ask("GET", f"/objects/{name}", only), data)

    def test_old_versions(self) -> None:
        """They have their own tags."""
        self.store.keep("small", SMALL + SMALL)
        answer = self.ask("GET", "/objects/small?version=1", GZIP)
        self.assert_gzip(answer, SMALL)
        self.assertNotEqual(answer.headers["etag"], self.tags("small")[1])

    def test_errors(self) -> None:
        """Problem documents are sent as they are."""
        answer = self.ask("GET", "/objects/none", GZIP)
        self.assertEqual(answer.status, 404)
        self.assertIn("detail", json.loads(answer.body))


class CutTests(EncodingTestCase):
    """What goes wrong on the way."""

    def test_failure(self) -> None:
        """A failure after the first bytes cuts the connection."""
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/large", GZIP))
        self.store.failures["read"] = Unavailable("Too many nodes are away.")
        client.read_on()
        self.settle()
        self.assertTrue(client.aborted)
        assert_cut(self, client.answer())

    def test_wrong_length(self) -> None:
        """A body that is not as long as its version says is never made to look whole."""
        (version,) = self.store.metadata.names["large"]
        for data in (TEXT[:-1], TEXT + b"."):
            self.store.contents[version.contents[0].hash] = data
            client = self.connect()
            client.send(request_bytes("GET", "/objects/large", GZIP))
            self.settle()
            self.assertTrue(client.aborted)
            assert_cut(self, client.answer())

    def test_slow_clients(self) -> None:
        """No more is read than a client takes."""
        noisy = b"".join(NOISE[at : at + KIB] + bytes(KIB) for at in range(0, len(NOISE), KIB))
        self.store.keep("noisy", noisy)
        client = self.connect(reading=False)
        client.send(request_bytes("GET", "/objects/noisy", GZIP))
        self.settle()
        (reader,) = self.store.readers
        self.assertGreaterEqual(reader.left, 2 * MIB)
        client.read_on()
        self.settle()
        self.assert_gzip(client.answer(), noisy)

    def test_client_that_goes_away(self) -> None:
        """Nothing is left of the answer, also when a worker is at it."""
        gate: Deferred[None] = Deferred()

        class Stuck(InlineWorkers):
            async def run(self, function: object, *args: object) -> object:  # type: ignore[override]
                await gate
                return []

        self.store.workers = Stuck()
        client = self.connect()
        client.send(request_bytes("GET", "/objects/large", GZIP))
        client.close()
        self.settle()
        (reader,) = self.store.readers
        self.assertEqual(reader.closed, 1)


class RangeTests(EncodingTestCase):
    """Parts are of the object as it is."""

    def test_ranges(self) -> None:
        """They are never compressed, one or several."""
        for value, length in (("bytes=0-2047", 2048), ("bytes=0-999999", 1_000_000)):
            answer = self.ask("GET", "/objects/large", {"Range": value, **GZIP})
            self.assertEqual((answer.status, answer.body), (206, TEXT[:length]))
            self.assertNotIn("content-encoding", answer.headers)
            self.assertEqual(answer.headers["etag"], self.tags("large")[0])
            self.assertEqual(answer.headers["vary"], "Accept-Encoding")
        answer = self.ask("GET", "/objects/large", {"Range": "bytes=0-1,4-5", **GZIP})
        self.assertEqual(answer.status, 206)
        self.assertNotIn("content-encoding", answer.headers)

    def test_if_range(self) -> None:
        """Who has a part of the gzip form gets it anew, and whole."""
        plain, zipped = self.tags("large")
        headers = {"Range": "bytes=2048-", **GZIP}
        self.assertEqual(
            self.ask("GET", "/objects/large", {"If-Range": plain, **headers}).status, 206
        )
        self.assert_gzip(self.ask("GET", "/objects/large", {"If-Range": zipped, **headers}), TEXT)

    def test_other_units(self) -> None:
        """A range in another unit than bytes is ignored, as if it were not there."""
        self.assert_gzip(self.ask("GET", "/objects/large", {"Range": "lines=1-2", **GZIP}), TEXT)


class ConditionTests(EncodingTestCase):
    """Entity tags of both forms."""

    def test_not_modified(self) -> None:
        """Either form is known, to those who may be sent it; the answer says which it is."""
        plain, zipped = self.tags("large")
        for headers, etag in (
            ({"If-None-Match": plain}, plain),
            ({"If-None-Match": plain, **GZIP}, plain),
            ({"If-None-Match": zipped, **GZIP}, zipped),
            ({"If-None-Match": "W/" + zipped, **GZIP}, zipped),
            ({"If-None-Match": f'"x", {zipped}', **GZIP}, zipped),
        ):
            for method in ("GET", "HEAD"):
                answer = self.ask(method, "/objects/large", headers)
                self.assertEqual((answer.status, answer.headers["etag"]), (304, etag), headers)
                self.assertEqual(answer.headers["vary"], "Accept-Encoding")
                self.assertNotIn("content-encoding", answer.headers)

    def test_gzip_form_for_who_cannot_read_it(self) -> None:
        """A cache that has only gzip gets the bytes for a client that does not take gzip."""
        self.assert_plain(
            self.ask("GET", "/objects/large", {"If-None-Match": self.tags("large")[1]}), TEXT
        )

    def test_writes(self) -> None:
        """Who read the gzip form may replace or delete what it read, and nothing else."""
        zipped = self.ask("GET", "/objects/small", GZIP).headers["etag"]
        self.assertEqual(self.ask("GET", "/objects/small", {"If-Match": zipped}).status, 200)
        self.assertEqual(
            self.ask("PUT", "/objects/small", {"If-None-Match": zipped}, b"x").status, 412
        )
        self.assertEqual(self.ask("PUT", "/objects/small", {"If-Match": zipped}, b"x").status, 200)
        self.assertEqual(self.ask("PUT", "/objects/small", {"If-Match": zipped}, b"y").status, 412)
        self.assertEqual(self.ask("DELETE", "/objects/small", {"If-Match": zipped}).status, 412)


class ListingTests(HttpTestCase):
    """Listings shrink well."""

    def test_listing(self) -> None:
        """One of some length is compressed, page by page."""
        self.store.workers = workers = CountingWorkers()
        for number in range(2500):
            self.store.keep(f"name-{number:04}", b"")
        plain = self.ask("GET", "/objects/")
        self.assertEqual(plain.headers["vary"], "Accept-Encoding")
        self.assertNotIn("content-encoding", plain.headers)
        self.assertEqual(workers.calls, 0)
        for target in ("/objects/", "/versions/"):
            answer = self.ask("GET", target, GZIP)
            self.assertTrue(answer.complete)
            self.assertEqual(answer.headers["content-encoding"], "gzip")
            self.assertEqual(gzip.decompress(answer.body), plain.body)
            self.assertLess(len(answer.body), len(plain.body) // 4)
            self.assertEqual(answer.head, self.ask("HEAD", target, GZIP).head)
        self.assertGreater(workers.calls, 2)

    def test_short(self) -> None:
        """A short one is not, nor an empty one."""
        for _ in range(2):
            answer = self.ask("GET", "/objects/", GZIP)
            self.assertTrue(answer.complete)
            self.assertNotIn("content-encoding", answer.headers)
            self.store.keep("a", b"")

    def test_failure(self) -> None:
        """A listing that breaks off has no gzip end."""
        for number in range(2500):
            self.store.keep(f"name-{number:04}", b"")
        pages = [self.store.metadata.current]

        async def fail_soon(prefix: str, start: str, limit: int) -> Sequence[Version]:
            if not pages:
                raise Unavailable("The metadata store is away.")
            return await pages.pop()(prefix, start, limit)

        self.patch(self.store.metadata, "current", fail_soon)
        client = self.connect()
        client.send(request_bytes("GET", "/objects/", GZIP))
        self.settle()
        self.assertTrue(client.aborted)
        assert_cut(self, client.answer())


class PartsTests(SyncTestCase):
    """The pieces that it is made of."""

    def test_sink(self) -> None:
        """It writes to the sink behind it, and all only at its end."""
        written: list[bytes] = []

        class Sink:
            async def write(self, pieces: list[bytes]) -> None:
                written.extend(pieces)

        sink = GzipSink(Sink(), InlineWorkers())  # type: ignore[arg-type]
        self.assert_provides(IByteSink, sink)
        pieces: list[bytes | memoryview] = [
            TEXT[:10],
            memoryview(TEXT)[10 : 50 * KIB],
            b"",
            TEXT[50 * KIB : 90 * KIB],
        ]
        for piece in pieces:
            self.successResultOf(Deferred.fromCoroutine(sink.write([piece])))
        self.assertEqual(sink.taken, 90 * KIB)
        unzip = zlib.decompressobj(31)
        unzip.decompress(b"".join(written))
        self.assertFalse(unzip.eof)
        self.successResultOf(Deferred.fromCoroutine(sink.finish()))
        self.assertEqual(gzip.decompress(b"".join(written)), TEXT[: 90 * KIB])

    def test_sample(self) -> None:
        """The beginning alone decides nothing."""
        self.assertTrue(looks_worth_it([TEXT]))
        self.assertTrue(looks_worth_it([NOISE[: 8 * KIB], memoryview(bytes(MIB))]))
        self.assertFalse(looks_worth_it([NOISE]))
        self.assertFalse(looks_worth_it([TEXT[:KIB], NOISE]))
        self.assertTrue(looks_worth_it([SMALL]))
        self.assertFalse(looks_worth_it([NOISE[:KIB]]))
        self.assertFalse(looks_worth_it([]))
