"""Resumable uploads as a client sees them: tests of a store that runs, in whatever shape.

A subclass, which is a SyncTestCase too, says which servers there are and how they crash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import Answer, Store, wait_until

if TYPE_CHECKING:
    from tests.support.cases import SyncTestCase as _Base
else:
    _Base = object

SIZE = 100_000

#: A stripe of four blocks of 64 KiB.
STRIPE = 4 * 65_536

#: A part whose line broke, or whose server died, holds the upload no longer than this.
PATIENCE_S = 60.0


def digest_of(data: bytes) -> str:
    """The Digest field of a content."""
    return "SHA-256=" + base64.b64encode(hashlib.sha256(data).digest()).decode()


class Upload:
    """A client's upload.

    :ivar target: the path that its parts are put to.
    :param servers: takes one after the other.
    """

    def __init__(self, servers: Sequence[Store], name: str, data: bytes, **headers: str) -> None:
        self.data = data
        self.name = name
        self._servers = servers
        self._turn = 0
        fields = {"Digest": digest_of(data), "Size": str(len(data))} | headers
        self.opened = self.server().request("POST", f"/objects/{name}", headers=fields)
        self.target = self.opened.headers.get("location", "")

    def server(self) -> Store:
        """The next server."""
        self._turn += 1
        return self._servers[self._turn % len(self._servers)]

    def ask(
        self, method: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """A request about it."""
        return self.server().request(method, self.target, body, headers)

    def part(self, first: int, last: int | None = None) -> Answer:
        """Send bytes of the content, from ``first`` up to ``last``."""
        return self.ask("PUT", self.data[first:last], {"Range": f"bytes={first}-"})

    @property
    def held(self) -> int:
        """How much is held."""
        answer = self.ask("HEAD")
        if answer.status != 200:
            raise AssertionError(answer)
        if answer.headers["content-length"] != answer.headers["upload-offset"]:
            raise AssertionError(answer)
        return int(answer.headers["content-length"])

    def begin_part(self, first: int, length: int) -> socket.socket:
        """A connection on which a part is under way whose bytes the caller sends."""
        server = self.server()
        line = socket.create_connection((server.host, server.port))
        head = (
            f"PUT {self.target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n"
            f"Range: bytes={first}-\r\n\r\n"
        )
        line.sendall(head.encode("ascii"))
        return line

    def wait_free(self) -> None:
        """Wait until no part is under way."""

        def free() -> bool:
            answer = self.part(self.held, self.held)
            if answer.status not in (200, 409):
                raise AssertionError(answer)
            return answer.status == 200

        wait_until("no part is under way", free, PATIENCE_S)


class UploadWalks(_Base):
    """The tests."""

    def servers(self) -> Sequence[Store]:
        """The API servers, which run."""
        raise NotImplementedError

    def crash(self) -> None:
        """Kill all servers of the store without a word, and start them again."""
        raise NotImplementedError

    def temp_files(self) -> list[Path]:
        """What is on the drives and was not committed."""
        raise NotImplementedError

    def upload(self, data: bytes, name: str = "", **headers: str) -> Upload:
        """A new upload."""
        name = name or f"walk-{os.urandom(8).hex()}"
        made = Upload(self.servers(), name, data, **headers)
        self.assertEqual(made.opened.status, 201, made.opened.body)
        return made

    def assert_stored(self, upload: Upload, answer: Answer) -> None:
        """It is complete, and the object is right."""
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["digest"], digest_of(upload.data))
        for server in self.servers():
            found = server.request("GET", f"/objects/{upload.name}")
            self.assertEqual((found.status, found.body == upload.data), (200, True))
            self.assertEqual(found.headers["x-object-version"], answer.headers["x-object-version"])

    def assert_problem(self, answer: Answer, status: int) -> str:
        """The detail of a refusal."""
        self.assertEqual(answer.status, status, answer.body)
        told = json.loads(answer.body)
        self.assertEqual(told["status"], status)
        return str(told["detail"])

    def test_walk(self) -> None:
        """100,000 bytes: half of them, what is held, a gap, an overlap, the object, and what a
        client is told that did not hear of its end.
        """
        upload = self.upload(os.urandom(SIZE))
        self.assertEqual(upload.held, 0)
        answer = upload.part(0, 50_000)
        self.assertEqual((answer.status, answer.headers["upload-offset"]), (200, "50000"))
        self.assertEqual(upload.held, 50_000)
        answer = upload.part(60_000)
        self.assertIn("50000 bytes are held", self.assert_problem(answer, 416))
        self.assertEqual(json.loads(answer.body)["held"], 50_000)
        self.assertEqual(answer.headers["upload-offset"], "50000")
        self.assertEqual(answer.headers["content-range"], "bytes */50000")
        self.assertEqual(upload.held, 50_000)
        done = upload.part(32_000)
        self.assert_stored(upload, done)
        for again in (upload.part(50_000), upload.part(SIZE), upload.ask("HEAD")):
            self.assert_stored(upload, again)
        listed = self.servers()[0].request("GET", f"/versions/{upload.name}").body
        self.assertEqual(listed.count(b"\n"), 1)

    def test_wrong_hash(self) -> None:
        """Known when all is there: 400, and nothing is left."""
        before = self.temp_files()
        upload = self.upload(os.urandom(SIZE))
        wrong = os.urandom(SIZE)
        self.assertEqual(upload.ask("PUT", wrong[:60_000]).status, 200)
        answer = upload.ask("PUT", wrong[60_000:], {"Range": "bytes=60000-"})
        self.assertIn("is given up", self.assert_problem(answer, 400))
        self.assertEqual(upload.ask("HEAD").status, 404)
        self.assert_problem(upload.part(0), 404)
        found = self.servers()[0].request("GET", f"/objects/{upload.name}")
        self.assertEqual(found.status, 404)
        wait_until("nothing is left", lambda: set(self.temp_files()) <= set(before))

    def test_broken_lines_and_crashes(self) -> None:
        """All that came before a line broke is held, also what is short of a stripe, and whatever
        is killed after that.
        """
        upload = self.upload(os.urandom(4 * STRIPE + 12_345))
        held = 0
        for length in (1, 5000, STRIPE - 5001, STRIPE + 1, STRIPE + 777):
            with upload.begin_part(held, len(upload.data) - held) as line:
                line.sendall(upload.data[held : held + length])
            held += length
            wait_until(f"{held} bytes are held", lambda held=held: upload.held == held, PATIENCE_S)  # type: ignore[misc]
            upload.wait_free()
            if length in (5000, STRIPE + 777):
                self.crash()
                self.assertEqual(upload.held, held)
        self.assert_stored(upload, upload.part(held))

    def test_crash_in_a_part(self) -> None:
        """Everything is killed while bytes come: what was held stays held, and one goes on."""
        upload = self.upload(os.urandom(9 * STRIPE))
        self.assertEqual(upload.part(0, 100_000).status, 200)
        with upload.begin_part(100_000, len(upload.data) - 100_000) as line:
            line.sendall(upload.data[100_000 : 6 * STRIPE])
            time.sleep(0.3)
            self.crash()
        held = upload.held
        self.assertGreaterEqual(held, 100_000)
        upload.wait_free()
        self.assert_stored(upload, upload.part(held))

    def test_two_at_once(self) -> None:
        """One part is received, the other refused for now; nothing is mixed."""
        upload = self.upload(os.urandom(3 * STRIPE))
        other = bytes(3 * STRIPE)
        with upload.begin_part(0, len(upload.data)) as line:
            line.sendall(upload.data[: STRIPE + 5])
            # What comes slowly is safe after some seconds.
            wait_until("the part is received", lambda: upload.held == STRIPE + 5, PATIENCE_S)
            for _ in range(4):
                answer = upload.ask("PUT", other)
                self.assertIn("Another part", self.assert_problem(answer, 409))
                self.assertEqual(answer.headers["retry-after"].isdigit(), True)
            line.sendall(upload.data[STRIPE + 5 :])
            self.assertEqual(line.recv(12), b"HTTP/1.1 200")
        self.assert_stored(upload, upload.part(len(upload.data)))

    def test_one_part_after_the_other(self) -> None:
        """A client that does not wait between two parts is never told that it should."""
        upload = self.upload(os.urandom(SIZE))
        for first in range(0, SIZE, 5000):
            self.assertEqual(upload.part(first, first + 5000).status, 200)
        self.assert_stored(upload, upload.part(SIZE))

    def test_given_up(self) -> None:
        """204, then 404, and nothing is left."""
        before = self.temp_files()
        upload = self.upload(os.urandom(2 * STRIPE))
        self.assertEqual(upload.part(0, STRIPE + 3).status, 200)
        self.assertEqual(upload.ask("DELETE").status, 204)
        for method in ("HEAD", "DELETE", "PUT"):
            self.assertEqual(upload.ask(method, b"" if method == "PUT" else None).status, 404)
        wait_until("nothing is left", lambda: set(self.temp_files()) <= set(before))

    def test_at_once(self) -> None:
        """A content that is there is not sent again; its name and metadata are new."""
        data = os.urandom(SIZE)
        first = self.upload(data)
        self.assert_stored(first, first.part(0))
        fields = {"Content-Type": "a/b", "X-Object-Meta-Colour": "blue"}
        second = Upload(self.servers(), first.name + "-2", data, **fields)
        self.assertNotIn("location", second.opened.headers)
        self.assert_stored(second, second.opened)
        found = self.servers()[0].request("HEAD", f"/objects/{second.name}")
        self.assertEqual(found.headers["content-type"], "a/b")
        self.assertEqual(found.headers["x-object-meta-colour"], "blue")
        # Who says another size does not have the content.
        fields = {"Digest": digest_of(data), "Size": str(SIZE - 1)}
        answer = self.servers()[0].request("POST", "/objects/guessed", headers=fields)
        self.assertEqual(answer.status, 201)

    def test_long_names_and_notes(self) -> None:
        """The longest name and all the metadata there may be: the token has its size all the same.
        More than can be kept is refused.
        """
        name = "n" * 900 + os.urandom(62).hex()
        meta = {f"X-Object-Meta-{number:02}": '"' * 100 for number in range(64)}
        upload = self.upload(os.urandom(1000), name, **meta, **{"Content-Type": "a/" + "b" * 250})
        self.assertLess(len(upload.target), 2048)
        self.assertRegex(upload.target, "^/temp/[A-Za-z0-9_-]+$")
        self.assert_stored(upload, upload.part(0))
        found = self.servers()[0].request("HEAD", f"/objects/{name}")
        self.assertEqual(found.headers["x-object-meta-63"], '"' * 100)
        fields = {"Digest": digest_of(b"a"), "Size": "1", "If-Match": ",".join(['"\xe9"'] * 3900)}
        answer = self.servers()[0].request("POST", "/objects/a", headers=fields)
        self.assertIn("too long together", self.assert_problem(answer, 400))

    def test_bad_openings(self) -> None:
        """Sizes and digests that are none, a body: 400, and nothing is opened."""
        before = self.temp_files()
        right = {"Digest": digest_of(b"abc"), "Size": "3"}
        for wrong, status in (
            *(({"Size": size}, 400) for size in ("-1", "", "abc", "1.5", "1e5", "0x10", "+3")),
            *(({"Size": size}, 400) for size in ("3, 3", "9" * 23, "9" * 15_000)),
            ({"Size": str(2**63 - 1)}, 413),
            ({"Size": str(5 * 2**40 + 1)}, 413),
            ({"Digest": "SHA-256=abc"}, 400),
            ({"Digest": "md5=abc"}, 400),
        ):
            answer = self.servers()[0].request("POST", "/objects/bad", headers=right | wrong)
            self.assert_problem(answer, status)
        for missing in ("Size", "Digest"):
            fields = {name: value for name, value in right.items() if name != missing}
            self.assert_problem(
                self.servers()[0].request("POST", "/objects/bad", headers=fields), 400
            )
        for body in (b"abc", iter([b"abc"])):
            answer = self.servers()[0].request("POST", "/objects/bad", body, right)
            self.assert_problem(answer, 400)
        self.assertEqual(set(self.temp_files()) - set(before), set())

    def test_bad_parts(self) -> None:
        """Parts that cannot be right are refused, and leave what is held as it is."""
        upload = self.upload(os.urandom(SIZE))
        self.assertEqual(upload.part(0, 1000).status, 200)
        data = upload.data
        for field in (
            "bytes=", "bytes=5-2", "bytes=-0", "bytes=-5", "bytes=1000", "bytes=a-", "items=1000-",
            "bytes=1000-,2000-", "bytes=" + "0-," * 5000, "bytes=" + "9" * 30 + "-", "1000-",
            "bytes=1000-1999",
        ):  # fmt: skip
            answer = upload.ask("PUT", data[1000:1500], {"Range": field})
            self.assert_problem(answer, 400)
        # More than was announced, with and without a length.
        for body in (data + b"x", iter([data, b"x"])):
            answer = upload.server().request("PUT", upload.target, body)
            self.assertIn("beyond the 100000 bytes", self.assert_problem(answer, 400))
            upload.wait_free()
        answer = upload.ask("PUT", b"", {"Range": "bytes=" + "9" * 19 + "-"})
        self.assertEqual(answer.status, 400)
        held = upload.held
        self.assertIn(held, (1000, SIZE))
        self.assertEqual(upload.ask("POST").status, 405)
        self.assertEqual(upload.ask("GET").status, 405)
        self.assert_stored(upload, upload.part(held))

    def test_bad_tokens(self) -> None:
        """A token that was cut, changed or invented leads nowhere, and nothing tells why."""
        upload = self.upload(os.urandom(1000))
        right = upload.target.removeprefix("/temp/")
        details = set()
        for token in (
            "", "a", right[:-1], right[1:], right[: len(right) // 2], right + "A", right + "=",
            "B" + right[1:], right[:50] + ("A" if right[50] != "A" else "B") + right[51:],
            right[:-1] + ("A" if right[-1] != "A" else "Q"), "../objects/x", "%2e%2e%2fobjects",
            "A" * 1999, "A" * 12_000, right.swapcase(), "%00", right.replace(right[9], "%C3%A9"),
        ):  # fmt: skip
            upload.target = f"/temp/{token}"
            for method in ("PUT", "DELETE"):
                answer = upload.ask(method, b"" if method == "PUT" else None)
                details.add(self.assert_problem(answer, 404))
            self.assertEqual(upload.ask("HEAD").status, 404)
        self.assertEqual(details, {"There is no such upload (any more). Open it anew by a POST."})
        upload.target = "/temp/" + "A" * (1 << 20)
        self.assertEqual(upload.ask("HEAD").status, 414)
        upload.target = f"/temp/{right}"
        self.assertEqual(upload.held, 0)
