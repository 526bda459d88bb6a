"""dostore.core.messages: what servers tell each other, and what nobody may."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.messages import (
    ASK,
    FREE_HEADER,
    MAX_BODY_BYTES,
    NOTHING,
    REPLIES_HEADER,
    VERSION_HEADER,
    WRITABLE_HEADER,
    ZONE_HEADER,
    Heartbeat,
    LocateReply,
    check_address,
    check_reply_queue,
    locate_body,
    locate_body_of_go,
    parse_request,
)
from dostore.core.names import ContentHash
from dostore.errors import BadMessage
from tests.support.cases import SyncTestCase
from tests.support.properties import content_hashes, prove, texts

HASH = ContentHash.parse("2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY=")

addresses = st.builds(
    "{}:{}".format,
    st.sampled_from(["10.29.1.1", "127.0.0.1", "[::1]", "[fe80::1]", "data-1.example", "a_b"]),
    st.integers(1, 65535),
)
zones = st.from_regex(r"[A-Za-z0-9._-]{0,64}", fullmatch=True)

#: Bodies that are no message at all.
GARBAGE = (
    b"",
    b"x",
    b"null",
    b"1",
    b"[]",
    b'"',
    b"'10.29.1.1:12345'",
    b'"10.29.1.1:12345',
    b'"10.29.1.1:12345"x',
    b'"\xff"',
    b'"\\ud800"',
    b'"' + b"a" * MAX_BODY_BYTES + b'"',
    b"[" * MAX_BODY_BYTES,
    b'{"a":' * (MAX_BODY_BYTES // 5),
    b'{"Addr":' + b"[" * (MAX_BODY_BYTES - 8),
    '"10.29.1.1:12345"'.encode("utf-16"),
)


class AddressTests(SyncTestCase):
    """``host:port``."""

    @prove
    @given(addresses)
    def test_taken(self, address: str) -> None:
        """Names, IPv4 and IPv6 addresses with a port are taken as they are."""
        self.assertEqual(check_address(address), address)

    def test_refused(self) -> None:
        """What nobody can connect to, or what would be more than an address in a URL."""
        for address in (
            "",
            ":",
            ":12345",
            "host",
            "host:",
            "host:0",
            "host:080",
            "host:65536",
            "host:+1",
            "host:1\n",
            "host:\u0661",
            "ho st:1",
            "host/path:1",
            "user@host:1",
            "http://host:1",
            "-host:1",
            "a..b:1",
            f"{'a' * 64}:1",
            f"{'a.' * 127}a:1",
            "1.2.3:1",
            "1.2.3.256:1",
            "0.0.0.0:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "::1:1",
            "[::1:1",
            "[::]:1",
            "[ff02::1]:1",
            "[fe80::1%eth0]:1",
            "[1.2.3.4]:1",
            "é:1",
        ):
            with self.assertRaises(BadMessage, msg=address):
                check_address(address)

    def test_told_shortly(self) -> None:
        """The error repeats no more of an address than fits a line."""
        error = self.assertRaises(BadMessage, check_address, "x" * 1000)
        self.assertLess(len(error.detail), 120)


class HeartbeatTests(SyncTestCase):
    """A data server is there."""

    def test_example(self) -> None:
        """The body is the JSON string that the Go design sends; the rest is in headers."""
        heartbeat = Heartbeat("10.29.1.1:12345", "rack-1", 123456789, writable=False, life="5f1c.1")
        self.assertEqual(heartbeat.body(), b'"10.29.1.1:12345"')
        self.assertEqual(
            heartbeat.headers(),
            {
                "dostore": "1",
                "dostore-zone": "rack-1",
                "dostore-free-bytes": "123456789",
                "dostore-writable": "false",
                "dostore-life": "5f1c.1",
            },
        )

    @prove
    @given(
        st.builds(
            Heartbeat,
            addresses,
            zones,
            st.none() | st.integers(0, 10**18),
            st.booleans(),
            life=zones,
        )
    )
    def test_round_trip(self, heartbeat: Heartbeat) -> None:
        """What is sent is read."""
        self.assertEqual(Heartbeat.parse(heartbeat.body(), heartbeat.headers()), heartbeat)

    def test_of_go(self) -> None:
        """A Go node sends no headers: it takes shards, and it does not say that it has nothing."""
        heartbeat = Heartbeat.parse(b'"10.29.1.1:12345"', {})
        self.assertEqual(heartbeat, Heartbeat("10.29.1.1:12345", answers=False))
        self.assertTrue(heartbeat.writable)

    def test_other_headers(self) -> None:
        """Headers of others mean nothing; a later version's are read as far as they are known."""
        headers = {VERSION_HEADER: "2", "x-trace": 7, "dostore-mood": "good", ZONE_HEADER: "z"}
        self.assertEqual(Heartbeat.parse(b'"a:1"', headers), Heartbeat("a:1", "z"))

    def test_bad_bodies(self) -> None:
        """Every other body is refused."""
        for body in (*GARBAGE, ASK, b'"10.29.1.1"', b'{"Addr":"a:1","ID":0}'):
            with self.assertRaises(BadMessage, msg=body[:40]):
                Heartbeat.parse(body, {})

    def test_bad_headers(self) -> None:
        """A header with a value that it cannot have makes the message a bad one."""
        for name, values in {
            ZONE_HEADER: ["a b", "x" * 65, 1, b"\xff", None, "z\n"],
            FREE_HEADER: ["", "-1", "1.5", "1e3", "01", "1" * 20, 5, True, "\u0663", "1\n"],
            WRITABLE_HEADER: ["yes", "", "TRUE", True, 1, "true\n"],
        }.items():
            for value in values:
                with self.assertRaises(BadMessage, msg=f"{name}: {value!r}"):
                    Heartbeat.parse(b'"a:1"', {name: value})

    def test_bad_values(self) -> None:
        """One's own heartbeat is held to the same rules."""
        self.assertRaises(BadMessage, Heartbeat, ":12345")
        self.assertRaises(BadMessage, Heartbeat, "a:1", "my zone")


class RequestTests(SyncTestCase):
    """What reaches a data server."""

    def test_example(self) -> None:
        """A locate is the quoted hash; for Go nodes the form in file names."""
        self.assertEqual(locate_body(HASH), b'"2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="')
        self.assertEqual(
            locate_body_of_go(HASH), b'"2MRHhgqkvILs04RzLIEpZBzpgos%2F9QlNKRXEh7cMngY="'
        )

    @prove
    @given(content_hashes)
    def test_round_trip(self, content_hash: ContentHash) -> None:
        """Both forms of a hash are read."""
        self.assertEqual(parse_request(locate_body(content_hash)), content_hash)
        self.assertEqual(parse_request(locate_body_of_go(content_hash)), content_hash)

    def test_ask(self) -> None:
        """An empty string asks for a heartbeat."""
        self.assertIsNone(parse_request(ASK))

    def test_reply_queue(self) -> None:
        """Answers go to any queue but RabbitMQ's pseudo-queues."""
        for name in ("amq.gen-x", "mine", "\udcff"):
            self.assertEqual(check_reply_queue(name), name)
        self.assertRaises(BadMessage, check_reply_queue, "amq.rabbitmq.reply-to.g2.x")

    def test_bad_bodies(self) -> None:
        """Every other body is refused."""
        for body in (*GARBAGE, b'"test"', b'"../../etc/passwd"', b'"' + b"A" * 44 + b'"'):
            with self.assertRaises(BadMessage, msg=body[:40]):
                parse_request(body)


class LocateReplyTests(SyncTestCase):
    """What a data server has."""

    def test_example(self) -> None:
        """The body is what the design says; how many there are is in a header."""
        reply = LocateReply("10.29.1.1:12345", 3, 2)
        self.assertEqual(reply.body(), b'{"Addr": "10.29.1.1:12345", "ID": 3}')
        self.assertEqual(reply.headers(), {"dostore": "1", "dostore-replies": "2"})

    @prove
    @given(st.builds(LocateReply, addresses, st.integers(NOTHING, 255), st.integers(1, 256)))
    def test_round_trip(self, reply: LocateReply) -> None:
        """What is sent is read."""
        self.assertEqual(LocateReply.parse(reply.body(), reply.headers()), reply)

    def test_of_go(self) -> None:
        """A Go node writes ``Id``, knows other keys perhaps, and sends no headers."""
        body = b'{"Addr":"10.29.1.1:12345","Id":4,"Size":[1,{"a":2}]}'
        self.assertEqual(LocateReply.parse(body, {}), LocateReply("10.29.1.1:12345", 4))

    def test_bad_bodies(self) -> None:
        """Every other body is refused."""
        for body in (
            *GARBAGE,
            b"{}",
            b'{"Addr":"a:1"}',
            b'{"ID":1}',
            b'{"Addr":"a:1","ID":"1"}',
            b'{"Addr":"a:1","ID":1.0}',
            b'{"Addr":"a:1","ID":true}',
            b'{"Addr":"a:1","ID":null}',
            b'{"Addr":"a:1","ID":NaN}',
            b'{"Addr":"a:1","ID":-2}',
            b'{"Addr":"a:1","ID":256}',
            b'{"Addr":"a:1","ID":' + b"9" * 900 + b"}",
            b'{"Addr":"a:1","ID":1,"Id":2}',
            b'{"Addr":["a:1"],"ID":1}',
            b'{"Addr":":1","ID":1}',
            b'{"Addr":"a:1","ID":1}{}',
        ):
            with self.assertRaises(BadMessage, msg=body[:40]):
                LocateReply.parse(body, {})

    def test_bad_headers(self) -> None:
        """A number of answers that cannot be makes the message a bad one."""
        for value in ("0", "257", "-1", "x", 2, None):
            with self.assertRaises(BadMessage, msg=repr(value)):
                LocateReply.parse(b'{"Addr":"a:1","ID":1}', {REPLIES_HEADER: value})


class GarbageTests(SyncTestCase):
    """Whatever comes is a message or BadMessage."""

    @prove
    @given(
        st.binary(max_size=80)
        | texts.map(lambda text: json.dumps(text).encode())
        | st.dictionaries(
            st.sampled_from(["Addr", "ID", "id", "x"]),
            texts | st.integers() | st.floats() | st.none() | st.lists(st.booleans()),
        ).map(lambda value: json.dumps(value).encode()),
        st.dictionaries(
            st.sampled_from([ZONE_HEADER, FREE_HEADER, WRITABLE_HEADER, REPLIES_HEADER]),
            texts | st.integers() | st.binary() | st.none(),
        ),
    )
    def test_garbage(self, body: bytes, headers: dict[str, object]) -> None:
        """Any body with any headers, to each reader."""
        for parse in (Heartbeat.parse, LocateReply.parse):
            with contextlib.suppress(BadMessage):
                parse(body, headers)
        with contextlib.suppress(BadMessage):
            parse_request(body)

    def test_size_first(self) -> None:
        """A body of 100 MB is refused before anything of it is read."""
        body = memoryview(bytes(100_000_000))  # bytes(body) or a parse would raise TypeError
        for parse in (Heartbeat.parse, LocateReply.parse):
            error = self.assertRaises(BadMessage, parse, body, {})
            self.assertIn("100000000 bytes", error.detail)


class DocumentedTests(SyncTestCase):
    """docs/bus-messages.rst."""

    def test_examples(self) -> None:
        """The examples of the page are what is sent, and all of them."""
        page = (Path(__file__).parents[2] / "docs" / "bus-messages.rst").read_text()
        examples = re.findall(r"::\n\n    (.*)\n\n", page)
        sent = [
            Heartbeat("10.29.1.1:12345").body(),
            ASK,
            locate_body(HASH),
            LocateReply("10.29.1.1:12345", 3).body(),
            LocateReply("10.29.1.1:12345", NOTHING).body(),
        ]
        self.assertEqual(examples, [body.decode() for body in sent])

    def test_headers(self) -> None:
        """Every header that is sent is on the page."""
        page = (Path(__file__).parents[2] / "docs" / "bus-messages.rst").read_text()
        sent = Heartbeat("a:1", free_bytes=1).headers() | LocateReply("a:1", 0).headers()
        self.assertEqual([name for name in sent if name not in page], [])
        self.assertEqual(len(sent), 5)
