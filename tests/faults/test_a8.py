"""A8: what is kept with an object cannot break an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.http import HttpTestCase
from tests.support.properties import prove

HOSTILE = (
    b"a\nSet-Cookie: b=c",
    b"a\rSet-Cookie: b=c",
    b"a\n\n<html>",
    b"a\r\n\t\r\n<html>",
    b"a\x00b",
    b"a\x0bb",
    b"a\x85b",
    b"a\tb",
    b"a\x7fb",
    b"caf\xc3\xa9",
    b"caf\xe9",
    b"\xff",
)


class A8(HttpTestCase):
    """Kept fields."""

    def put(self, field: bytes, value: bytes) -> int:
        """The status of a PUT with a field; its object, if one was made, must be harmless."""
        client = self.connect()
        client.send(
            b"PUT /objects/a HTTP/1.1\r\nHost: a\r\n%b: %b\r\nContent-Length: 1\r\n\r\nx"
            % (field, value)
        )
        self.settle()
        status = client.answers()[0].status
        client.close()
        if status == 200:
            answer = self.ask("GET", "/objects/a")
            self.assertNotIn("set-cookie", answer.headers)
            self.assertEqual(answer.body, b"x")
            self.assertEqual(answer.headers[field.decode().lower()], value.decode().strip(" \t"))
        return status

    def test_values(self) -> None:
        """All are refused, and no object is made."""
        for field in (b"X-Object-Meta-A", b"Content-Type"):
            for value in HOSTILE:
                self.assertEqual(self.put(field, value), 400, value)
        self.assertEqual(self.store.metadata.names, {})

    def test_fields_of_a_client(self) -> None:
        """A field of its own in a request is none of the answer."""
        self.ask("PUT", "/objects/a", {"Set-Cookie": "a=b", "Location": "http://evil/"}, b"x")
        answer = self.ask("GET", "/objects/a")
        self.assertNotIn("set-cookie", answer.headers)
        self.assertNotIn("location", answer.headers)

    def test_keys(self) -> None:
        """A key is a token, or the request is refused."""
        for field in (
            b"X-Object-Meta-A\x00", b"X-Object-Meta-\xc3\xa9", b"X-Object-Meta-A B",
            b"X-Object-Meta-", b"X-Object-Meta-(a)", b"X-Object-Meta-A\r\n\r\nGET",
        ):  # fmt: skip
            self.assertEqual(self.put(field, b"v"), 400, field)
        self.assertEqual(self.store.metadata.names, {})

    @prove
    @given(st.binary(max_size=40).filter(lambda value: b"\r\n" not in value))
    def test_any_value(self, value: bytes) -> None:
        """Any bytes within a line come back as they were, or are refused."""
        self.assertIn(self.put(b"X-Object-Meta-A", value), (200, 400))
