"""Ranges as they should not be, sent to a real process."""

from __future__ import annotations

import json
import os

from tests.support.processes import Answer, BlockingStoreTestCase

SIZE = 1_000_000


class BadRangeTests(BlockingStoreTestCase):
    """Each is refused, or ignored where RFC 9110 has it so; no byte too many is sent."""

    def setUp(self) -> None:
        """A store with an object."""
        super().setUp()
        self.store = self.start_store()
        self.body = os.urandom(SIZE)
        self.assertEqual(self.store.request("PUT", "/objects/a", self.body).status, 200)

    def range(self, *lines: str) -> Answer:
        """The answer to a request for ranges, each line a field of its own."""
        connection = self.store.connect()
        try:
            connection.putrequest("GET", "/objects/a", skip_accept_encoding=True)
            for line in lines:
                connection.putheader("Range", line)
            connection.putheader("Accept-Encoding", "gzip")
            connection.endheaders()
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def assert_refused(self, status: int, *lines: str) -> Answer:
        """A problem document."""
        answer = self.range(*lines)
        self.assertEqual(answer.status, status, lines[0][:40])
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        self.assertEqual(json.loads(answer.body)["status"], status)
        return answer

    def test_malformed(self) -> None:
        """400."""
        for value in (
            "bytes=", "bytes", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=1-2-3", "bytes=+1-2",
            "bytes=--1", "bytes=0x10-", "bytes=1.5-2", "bytes=,", "bytes=0-0;1-1", "bytes=0-,0-",
            "bytes=" + "9" * 20 + "-", "bytes=-" + "9" * 5000,
        ):  # fmt: skip
            self.assert_refused(400, value)

    def test_without_a_byte(self) -> None:
        """416, with the size."""
        for value in ("bytes=-0", f"bytes={SIZE}-", "bytes=" + "9" * 19 + "-", "bytes=-0,-0"):
            answer = self.assert_refused(416, value)
            self.assertEqual(answer.headers["content-range"], f"bytes */{SIZE}")

    def test_many(self) -> None:
        """10,000 ranges, in one line or two, and 17."""
        self.assert_refused(400, "bytes=" + "-1," * 5000, "-1," * 5000)
        self.assert_refused(400, "bytes=" + ",".join(f"{n}-{n}" for n in range(17)))
        self.assertEqual(
            self.range("bytes=" + ",".join(f"{n}-" for n in range(10_000))).status, 431
        )

    def test_other_units(self) -> None:
        """They are ignored: the whole object."""
        for value in ("lines=1-2", "byte=0-1", "nonsense", "", "=0-1", "bytes 0-1"):
            answer = self.range(value)
            self.assertEqual((answer.status, answer.body), (200, self.body), value)

    def test_it_goes_on(self) -> None:
        """What is right is served all the same."""
        answer = self.range("bytes=10-19")
        self.assertEqual((answer.status, answer.body), (206, self.body[10:20]))
