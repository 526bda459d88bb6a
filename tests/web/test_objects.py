"""``/objects/<name>``: storing, reading, deleting, and what is said about each."""

from __future__ import annotations

import base64
import hashlib
import json

from dostore.errors import (
    ContentLost,
    Corrupt,
    IncompleteBody,
    NodeUnavailable,
    NoSpace,
    QuorumNotMet,
    Unavailable,
)
from dostore.web.connections import HttpLimits
from tests.support.http import Answer, HttpTestCase, request_bytes

BODY = b"this object will be seperated to 4+2"
HASH = "2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="
DIGEST = f"SHA-256={HASH}"
ETAG = f'"{HASH}"'


def sha256(data: bytes) -> str:
    """The base64 of a SHA-256."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


class ObjectTestCase(HttpTestCase):
    """Says what went wrong."""

    def assert_problem(self, answer: Answer, status: int, *words: str) -> None:
        """A problem document with that status, whose detail has these words."""
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        document = json.loads(answer.body)
        self.assertEqual(document["status"], status)
        self.assertTrue(document["title"])
        for word in words:
            self.assertIn(word, document["detail"])


class PutTests(ObjectTestCase):
    """PUT."""

    def test_gone_before_the_body(self) -> None:
        """A client that goes away before its body is asked for is no fault of the program."""
        gate = self.gate("put")
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/a", None, BODY)[:-1])
        client.close()
        self.settle()
        gate.open()
        self.settle()
        (error,) = self.store.put_errors
        self.assertIsInstance(error, IncompleteBody)
        self.assertEqual(self.store.metadata.names, {})

    def test_put_and_get(self) -> None:
        """What is put is got, with all that is known about it."""
        answer = self.ask("PUT", "/objects/test5", {"Digest": DIGEST, "Content-Type": "a/b"}, BODY)
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["digest"], DIGEST)
        self.assertEqual(answer.headers["etag"], ETAG)
        self.assertEqual(answer.headers["x-object-version"], "1")
        self.assertEqual(answer.headers["content-length"], "0")
        answer = self.ask("GET", "/objects/test5")
        self.assertEqual((answer.status, answer.body), (200, BODY))
        wanted = {
            "content-length": "36",
            "content-type": "a/b",
            "digest": DIGEST,
            "etag": ETAG,
            "x-object-version": "1",
            "last-modified": "Mon, 23 Nov 2026 08:30:00 GMT",
            "accept-ranges": "bytes",
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox; default-src 'none'",
            "date": "Thu, 01 Jan 1970 00:00:00 GMT",
        }
        self.assertEqual({name: answer.headers.get(name) for name in wanted}, wanted)
        self.assertTrue(answer.headers["server"].startswith("dostore/"))

    def test_as_curl_does_it(self) -> None:
        """The first walk of the design this follows."""
        headers = {
            "User-Agent": "curl/7.77.0",
            "Accept": "*/*",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self.assertEqual(
            self.ask("PUT", "/objects/test", headers, b"this is a test object").status, 200
        )
        answer = self.ask("GET", "/objects/test")
        self.assertEqual(answer.body, b"this is a test object")
        self.assertEqual(answer.headers["content-type"], "application/x-www-form-urlencoded")

    def test_empty_and_chunked(self) -> None:
        """An object of nothing, and one whose length was not announced."""
        self.assertEqual(self.ask("PUT", "/objects/none", body=b"").status, 200)
        answer = self.ask("GET", "/objects/none")
        self.assertEqual((answer.body, answer.headers["content-length"]), (b"", "0"))
        client = self.connect()
        client.send(request_bytes("PUT", "/objects/c", {"Transfer-Encoding": "chunked"}))
        client.send(b"24\r\n" + BODY + b"\r\n0\r\n\r\n")
        self.assertEqual(client.answer().headers["digest"], DIGEST)

    def test_versions(self) -> None:
        """Each PUT makes the next version; older ones stay."""
        for number in (1, 2, 3):
            answer = self.ask("PUT", "/objects/a", body=b"%d" % number)
            self.assertEqual(answer.headers["x-object-version"], str(number))
        self.assertEqual(self.ask("GET", "/objects/a").body, b"3")
        self.assertEqual(self.ask("GET", "/objects/a?version=1").body, b"1")
        self.assert_problem(self.ask("GET", "/objects/a?version=4"), 404)

    def test_meta(self) -> None:
        """X-Object-Meta-* comes back with the object."""
        self.ask("PUT", "/objects/a", {"X-Object-Meta-Colour": "light blue"}, b"a")
        answer = self.ask("GET", "/objects/a")
        self.assertEqual(answer.headers["x-object-meta-colour"], "light blue")

    def test_digest(self) -> None:
        """A digest that is not the body's leaves no version."""
        wrong = f"SHA-256={sha256(b'another')}"
        self.assert_problem(self.ask("PUT", "/objects/a", {"Digest": wrong}, BODY), 400, "SHA-256")
        for malformed in ("SHA-256=abc", "MD5=abc", "x", "SHA-256=9AimTha2kCISf8bVfi1jPXo2BzY="):
            answer = self.ask("PUT", "/objects/a", {"Digest": malformed}, BODY)
            self.assert_problem(answer, 400, "SHA-256")
        self.assertEqual(self.store.metadata.names, {})

    def test_names(self) -> None:
        """Names are opaque UTF-8 of 1 to 1,024 bytes; the rest is refused."""
        for escaped in (
            "..", "../../etc/passwd", "a/../b", "%2e%2e%2f", "..%5c", "a//b", "a/", "/", "a/b",
            "a/b/c", "%25", "a%20b", "a+b", "%F4%8F%BF%BF", "x" * 1024, "%C3%A9" * 512, "%3F",
        ):  # fmt: skip
            body = escaped.encode()
            self.assertEqual(self.ask("PUT", f"/objects/{escaped}", body=body).status, 200, escaped)
            self.assertEqual(self.ask("GET", f"/objects/{escaped}").body, body)
        for escaped in ("", "%00", "a%0Ab", "%ff", "%c3", "%", "%zz", "x" * 1025, "%C3%A9" * 513):
            for method in ("PUT", "DELETE"):
                self.assert_problem(self.ask(method, f"/objects/{escaped}", body=b""), 400)
        self.assertEqual(self.ask("GET", "/objects/%C3%A9" + "%C3%A9" * 511).status, 200)

    def test_needs_a_length(self) -> None:
        """A PUT that announces no body at all gets 411."""
        self.assert_problem(self.ask("PUT", "/objects/a"), 411, "Content-Length")

    def test_version_in_a_put(self) -> None:
        """Nobody can write into the past."""
        for method in ("PUT", "DELETE"):
            self.assert_problem(self.ask(method, "/objects/a?version=1", body=b""), 400, "version")
        self.assertEqual(self.ask("PUT", "/objects/a?x=1", body=b"").status, 200)

    def test_part_of_an_object(self) -> None:
        """RFC 9110 section 14.5: a server that cannot put parts must not take one for the whole."""
        answer = self.ask("PUT", "/objects/a", {"Content-Range": "bytes 0-1/5"}, b"ab")
        self.assert_problem(answer, 400, "part")

    def test_conditions(self) -> None:
        """If-None-Match: * creates and If-Match replaces."""
        create = {"If-None-Match": "*"}
        self.assertEqual(self.ask("PUT", "/objects/a", create, BODY).status, 200)
        self.assert_problem(self.ask("PUT", "/objects/a", create, b"b"), 412)
        self.assertEqual(self.ask("PUT", "/objects/a", {"If-Match": ETAG}, b"b").status, 200)
        self.assert_problem(self.ask("PUT", "/objects/a", {"If-Match": ETAG}, b"c"), 412)
        self.assert_problem(self.ask("PUT", "/objects/a", {"If-Match": "unquoted"}, b"c"), 400)
        self.assert_problem(self.ask("DELETE", "/objects/a", {"If-Match": ETAG}), 412)
        self.assertEqual(len(self.store.metadata.names["a"]), 2)

    def test_race(self) -> None:
        """Of two that create at the same time, one does, although both were told to go on."""
        gate = self.gate("commit")
        clients = [self.connect(), self.connect()]
        for client in clients:
            client.send(request_bytes("PUT", "/objects/a", {"If-None-Match": "*"}, b"x"))
        gate.open()
        self.assertEqual(sorted(c.answer().status for c in clients), [200, 412])

    def test_failures(self) -> None:
        """What the store cannot do has its own status; what may pass says when to ask again.

        None of it is told in the log by each request: the parts that fail tell it once.
        """
        lines = self.logged()
        for failure, status, retry in (
            (NoSpace("All drives are full."), 507, False),
            (QuorumNotMet("3 of 5 nodes.", outcomes={"/drives/1": "EIO"}), 503, True),
            (NodeUnavailable("It hangs."), 503, True),
            (Unavailable("It hangs."), 503, True),
        ):
            self.store.failures["put"] = failure
            answer = self.ask("PUT", "/objects/a", body=b"x")
            self.assert_problem(answer, status, failure.detail)
            self.assertEqual("retry-after" in answer.headers, retry)
            self.assertNotIn(b"drives/1", answer.body)
        self.assertEqual(lines, [])


class GetTests(ObjectTestCase):
    """GET and HEAD."""

    def test_missing(self) -> None:
        """No object, a tombstone, content that is lost, nodes that are away."""
        self.assert_problem(self.ask("GET", "/objects/a"), 404)
        self.store.keep("a", BODY)
        self.store.failures["open"] = ContentLost("3 shards are left of 4.", found=3, needed=4)
        self.assert_problem(self.ask("GET", "/objects/a"), 404, "3", "4")
        self.store.failures["open"] = Unavailable("Wait.")
        answer = self.ask("GET", "/objects/a")
        self.assert_problem(answer, 503, "Wait.")
        self.assertEqual(answer.headers["retry-after"], "5")
        self.store.failures.clear()
        self.assertEqual(self.ask("DELETE", "/objects/a").status, 204)
        self.assert_problem(self.ask("GET", "/objects/a"), 404)
        self.assertEqual(self.ask("GET", "/objects/a?version=1").body, BODY)
        self.assert_problem(self.ask("GET", "/objects/a?version=2"), 404)

    def test_corrupt_before_the_first_byte(self) -> None:
        """Damage that is met in time is told instead of sent."""
        self.store.keep("a", BODY)
        self.store.failures["read"] = Corrupt("Two blocks are damaged.")
        self.assert_problem(self.ask("GET", "/objects/a"), 500, "damaged")

    def test_bad_versions(self) -> None:
        """Only numbers name versions."""
        self.store.keep("a", BODY)
        for text in ("0", "-1", "x", "", str(2**64), "1&version=1", "1.", "%31%"):
            self.assert_problem(self.ask("GET", f"/objects/a?version={text}"), 400)
        self.assert_problem(self.ask("GET", "/objects/a?version"), 400)
        self.assertEqual(self.ask("GET", "/objects/a?version=1&x=y").body, BODY)

    def test_conditions(self) -> None:
        """What the client has need not be sent again."""
        self.store.keep("a", BODY)
        for headers, status in (
            ({"If-None-Match": ETAG}, 304),
            ({"If-None-Match": "W/" + ETAG}, 304),
            ({"If-None-Match": '"x"'}, 200),
            ({"If-None-Match": '"x"', "If-Modified-Since": "Mon, 23 Nov 2026 08:30:00 GMT"}, 200),
            ({"If-Modified-Since": "Mon, 23 Nov 2026 08:30:00 GMT"}, 304),
            ({"If-Modified-Since": "Mon, 23 Nov 2026 08:29:59 GMT"}, 200),
            ({"If-Match": '"x"'}, 412),
            ({"If-Unmodified-Since": "Mon, 23 Nov 2026 08:29:59 GMT"}, 412),
            ({"If-None-Match": "x"}, 400),
        ):
            for method in ("GET", "HEAD"):
                answer = self.ask(method, "/objects/a", headers)
                self.assertEqual(answer.status, status, headers)
                if status == 304:
                    self.assertEqual(answer.headers["etag"], ETAG)
                    self.assertNotIn("content-length", answer.headers)
        # What is not there has no entity tag to compare.
        self.assertEqual(self.ask("GET", "/objects/b", {"If-None-Match": "*"}).status, 404)

    def test_conditions_need_no_content(self) -> None:
        """304 and 412 come without opening the content."""
        self.store.keep("a", BODY)
        self.store.failures["open"] = Unavailable("Wait.")
        self.assertEqual(self.ask("GET", "/objects/a", {"If-None-Match": ETAG}).status, 304)

    def test_head_is_get_without_a_body(self) -> None:
        """All headers are the same, of answers and of errors."""
        self.store.keep("a", BODY)
        self.store.keep("big", b"x" * 3_000_000)
        self.store.keep("deleted", BODY)
        self.ask("DELETE", "/objects/deleted")
        for target in (
            "/objects/a",
            "/objects/big",
            "/objects/a?version=x",
            "/objects/deleted",
            "/objects/none",
            "/objects/%00",
            "/objects/",
            "/versions/a",
            "/versions/none",
            "/versions/",
            f"/locate/{HASH}",
            "/locate/x",
            "/health/live",
            "/health/ready",
            "/nowhere",
        ):
            got, headed = self.ask("GET", target), self.ask("HEAD", target)
            self.assertEqual(got.head, headed.head, target)
            self.assertEqual(headed.body, b"")

    def test_head_of_lost_content(self) -> None:
        """HEAD does not promise what GET could not keep."""
        self.store.keep("a", BODY)
        self.store.failures["open"] = ContentLost("3 of 4.", found=3, needed=4)
        self.assertEqual(self.ask("HEAD", "/objects/a").status, 404)


class DeleteTests(ObjectTestCase):
    """DELETE."""

    def test_delete(self) -> None:
        """A tombstone, once; a new object may follow, with the next number."""
        self.store.keep("a", BODY)
        answer = self.ask("DELETE", "/objects/a")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.headers["x-object-version"], "2")
        self.assertNotIn("content-length", answer.headers)
        self.assert_problem(self.ask("DELETE", "/objects/a"), 404)
        self.assertEqual(self.ask("PUT", "/objects/a", body=b"x").headers["x-object-version"], "3")

    def test_conditions(self) -> None:
        """A delete may be bound to what is deleted."""
        self.store.keep("a", BODY)
        self.assertEqual(self.ask("DELETE", "/objects/a", {"If-Match": '"x"'}).status, 412)
        self.assertEqual(self.ask("DELETE", "/objects/a", {"If-Match": ETAG}).status, 204)


class MethodTests(ObjectTestCase):
    """Methods that are not taken."""

    def test_allow(self) -> None:
        """405 says what is."""
        for method in ("PATCH", "OPTIONS", "TRACE", "get", "CONNECT"):
            answer = self.ask(method, "/objects/a", body=b"")
            self.assert_problem(answer, 405, "GET")
            self.assertEqual(answer.headers["allow"], "DELETE, GET, HEAD, POST, PUT")
        for target in ("/versions/a", "/versions/", "/health/live", "/metrics", f"/locate/{HASH}"):
            answer = self.ask("PUT", target, body=b"")
            self.assert_problem(answer, 405)
            self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_unknown_paths(self) -> None:
        """404, with a word on where objects are."""
        for target in ("/", "/objects", "/x", "/objectsx/a", "//objects/a", "/health/", "/tempx"):
            self.assert_problem(self.ask("GET", target), 404, "/objects/")


class RequiredDigestTests(ObjectTestCase):
    """A server that takes no object without a digest."""

    require_digest = True

    def test_digest_is_required(self) -> None:
        """400 without, 200 with."""
        self.assert_problem(self.ask("PUT", "/objects/a", body=BODY), 400, "Digest")
        self.assertEqual(self.ask("PUT", "/objects/a", {"Digest": DIGEST}, BODY).status, 200)


class SmallLimitTests(ObjectTestCase):
    """A server that takes ten bytes."""

    limits = HttpLimits(max_object_bytes=10)

    def test_size_limit(self) -> None:
        """Ten fit and eleven do not, announced or not."""
        self.assertEqual(self.ask("PUT", "/objects/a", body=b"x" * 10).status, 200)
        self.assert_problem(self.ask("PUT", "/objects/a", body=b"x" * 11), 413, "10")
        for size, status in ((10, 200), (11, 413)):
            client = self.connect()
            client.send(request_bytes("PUT", "/objects/c", {"Transfer-Encoding": "chunked"}))
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size))
            self.assertEqual(client.answer().status, status)
        self.assertEqual(len(self.store.metadata.names["c"]), 1)
