"""The messages of the cluster: what API servers and data servers tell each other over the broker.

``docs/bus-messages.rst`` is the norm. A body is JSON and is what the Go design's programs send;
what is told besides is in headers, so that they can be read by those programs and read them.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from dostore.core.names import ContentHash
from dostore.errors import BadMessage, InvalidRequest

#: Fanout exchanges: what is published there reaches every API server, every data server.
API_SERVERS = "apiServers"
DATA_SERVERS = "dataServers"

#: No message is longer; nothing that is gets parsed.
MAX_BODY_BYTES = 1024

#: Marks a message of a server that keeps to version 1 of what is told in headers.
VERSION_HEADER = "dostore"
VERSION = "1"
ZONE_HEADER = "dostore-zone"
FREE_HEADER = "dostore-free-bytes"
WRITABLE_HEADER = "dostore-writable"
LIFE_HEADER = "dostore-life"
REPLIES_HEADER = "dostore-replies"

#: An answer's shard number when there is none.
NOTHING = -1
_MAX_SHARDS = 256

_MAX_HOST_CHARS = 253
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_ZONE = re.compile(r"[A-Za-z0-9._-]{0,64}\Z")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z")

_PSEUDO_QUEUE = "amq.rabbitmq."

#: What a message has in its headers, as a broker's client gives it.
Headers = Mapping[str, object]


def check_address(address: str) -> str:
    """The address, when another server can be reached by it: a host, a colon and a port.

    The host is a name, an IPv4 address or an IPv6 address in brackets, and one machine's: not
    ``0.0.0.0``, not a multicast group.

    :raises BadMessage: it is not.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not _PORT.match(port) or int(port) > 65535 or not _is_host(host):
        shown = address if len(address) <= 64 else address[:64] + "…"
        raise BadMessage(f"{shown!r} is not an address of a server: host:port.")
    return address


def _is_host(host: str) -> bool:
    try:
        if host.startswith("["):
            if not host.endswith("]") or "%" in host:
                return False
            ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9.]*", host):
            ip = ipaddress.IPv4Address(host)
        else:
            return len(host) <= _MAX_HOST_CHARS and all(map(_LABEL.match, host.split(".")))
    except ValueError:
        return False
    return not (ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255")


def check_reply_queue(name: str) -> str:
    """The name of a queue that answers can be sent to.

    :raises BadMessage: it is one of RabbitMQ's pseudo-queues, whose names it takes apart: to send
        to one that is not of its making ends the sender's connection.
    """
    if name.startswith(_PSEUDO_QUEUE):
        raise BadMessage("A locate's answers are wanted in a queue that is none.")
    return name


def check_zone(zone: str) -> str:
    """The zone, when it can be told: at most 64 letters, digits, ``.``, ``_`` and ``-``.

    :raises BadMessage: it is not.
    """
    if not _ZONE.match(zone):
        raise BadMessage("A zone is at most 64 letters, digits, '.', '_' and '-'.")
    return zone


@frozen(slots=True)
class Heartbeat:
    """A data server is there.

    :ivar zone: what it shares with the nodes that are likely to fail together with it.
    :ivar free_bytes: how much it can still keep; None when it does not say.
    :ivar writable: it takes shards.
    :ivar life: another text after each start of the server and each return of its drive: what it
        has may have changed. Empty when it does not say.
    :ivar answers: it answers a locate also when it has nothing, as a Go node does not.
    """

    address: str = field(converter=check_address)
    zone: str = field(default="", converter=check_zone)
    free_bytes: int | None = None
    writable: bool = True
    answers: bool = True
    life: str = field(default="", converter=check_zone)

    def body(self) -> bytes:
        """What is published."""
        return json.dumps(self.address).encode()

    def headers(self) -> dict[str, str]:
        """What is published with it."""
        told = {
            VERSION_HEADER: VERSION,
            ZONE_HEADER: self.zone,
            WRITABLE_HEADER: "true" if self.writable else "false",
        }
        if self.free_bytes is not None:
            told[FREE_HEADER] = str(self.free_bytes)
        if self.life:
            told[LIFE_HEADER] = self.life
        return told

    @classmethod
    def parse(cls, body: bytes, headers: Headers) -> Heartbeat:
        """Read one.

        :raises BadMessage: it is anything else.
        """
        return cls(
            _parse_string(body),
            _header(headers, ZONE_HEADER, _ZONE, ""),
            _number(headers, FREE_HEADER),
            _header(headers, WRITABLE_HEADER, _TRUTH, "true") == "true",
            VERSION_HEADER in headers,
            _header(headers, LIFE_HEADER, _ZONE, ""),
        )


_TRUTH = re.compile(r"(true|false)\Z")


def locate_body(content_hash: ContentHash) -> bytes:
    """What asks data servers for the shards of a content."""
    return json.dumps(str(content_hash)).encode()


def locate_body_of_go(content_hash: ContentHash) -> bytes:
    """The same for Go nodes, which know a hash only as it is in paths and file names."""
    return json.dumps(content_hash.escaped).encode()


#: Asks data servers for a heartbeat now. To a Go node it is a locate of nothing that exists.
ASK = b'""'


def parse_request(body: bytes) -> ContentHash | None:
    """Read what came to a data server: the hash of a locate, or None when a heartbeat is asked for.

    A hash is taken as it is or with ``/`` written ``%2F``.

    :raises BadMessage: it is anything else.
    """
    text = _parse_string(body)
    if not text:
        return None
    try:
        return ContentHash.parse(text.replace("%2F", "/"))
    except InvalidRequest as error:
        raise BadMessage(f"A locate asks for no hash. {error.detail}") from error


@frozen(slots=True)
class LocateReply:
    """A data server has a shard, or nothing, of the content that was asked for.

    :ivar shard: its index, or NOTHING.
    :ivar replies: how many such messages answer the one question.
    """

    address: str = field(converter=check_address)
    shard: int
    replies: int = 1

    def body(self) -> bytes:
        """What is sent."""
        return json.dumps({"Addr": self.address, "ID": self.shard}).encode()

    def headers(self) -> dict[str, str]:
        """What is sent with it."""
        return {VERSION_HEADER: VERSION, REPLIES_HEADER: str(self.replies)}

    @classmethod
    def parse(cls, body: bytes, headers: Headers) -> LocateReply:
        """Read one. As in Go, the keys may be in any case, and there may be others.

        :raises BadMessage: it is anything else.
        """
        pairs: list[tuple[str, object]] = _parse(body, b"{")
        told: dict[str, object] = {}
        for key, value in pairs:
            if key.lower() in told:
                raise BadMessage("A locate's answer has a key twice.")
            told[key.lower()] = value
        address, shard = told.get("addr"), told.get("id")
        # A truth value is an int to Python.
        if not isinstance(address, str) or not isinstance(shard, int) or isinstance(shard, bool):
            raise BadMessage('A locate\'s answer is {"Addr": "<address>", "ID": <shard>}.')
        if not NOTHING <= shard < _MAX_SHARDS:
            raise BadMessage("A locate's answer has a shard number that no shard has.")
        replies = _number(headers, REPLIES_HEADER)
        if replies is not None and not 1 <= replies <= _MAX_SHARDS:
            raise BadMessage("A locate's answer has a number of answers that cannot be.")
        return cls(address, shard, 1 if replies is None else replies)


def _parse_string(body: bytes) -> str:
    text: str = _parse(body, b'"')
    return text


def _parse(body: bytes, first: bytes) -> Any:
    """The JSON value of a body that begins with ``first``, which tells its type.

    An object is given as the list of its pairs.
    """
    if len(body) > MAX_BODY_BYTES:
        raise BadMessage(f"The message has {len(body)} bytes; none has more than {MAX_BODY_BYTES}.")
    if body[:1] != first:
        raise BadMessage(f"The message does not begin with {first.decode()}.")
    try:
        return json.loads(body.decode(), object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise BadMessage("The message is no JSON.") from error


def _header(headers: Headers, name: str, form: re.Pattern[str], default: str) -> str:
    value = headers.get(name, default)
    if not isinstance(value, str) or not form.match(value):
        raise BadMessage(f"The header {name} has a value that cannot be.")
    return value


def _number(headers: Headers, name: str) -> int | None:
    if name not in headers:
        return None
    return int(_header(headers, name, _NUMBER, ""))
