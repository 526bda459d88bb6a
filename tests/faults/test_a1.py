"""A1: hostile names are opaque data or refused, and nothing outside the store is touched."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.http import parse_answer
from tests.support.processes import BlockingStoreTestCase, Store

#: Taken: to a store they are names like any other.
OPAQUE = (
    b"..",
    b"/../../../../../etc/passwd",
    b"../../1/objects/x",
    b"a/../../b",
    b"%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    b"..%5c..%5cwindows",
    b"%5c%5chost%5cshare",
    b"/etc/passwd",
    b"C:",
    b"-rf",
    b"~",
    b"$(reboot)",
    b"'; DROP TABLE versions; --",
    b"%25%30%30",
    b"%EF%BF%BD",
    b"a" * 1024,
)

#: Refused.
REFUSED = (
    b"%00",
    b"a%00b",
    b"a%0d%0ab",
    b"%1b[2J",
    b"%7f",
    b"%ff",
    b"%c0%ae%c0%ae%c0%af",
    b"%ed%a0%80",
    b"%f4%90%80%80",
    b"%",
    b"%2",
    b"%zz",
    b"a" * 1025,
    b"%61" * 1025,
)


def exchange(store: Store, method: bytes, name: bytes, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request with a name just as it is; the status and the body."""
    connection = store.connect()
    try:
        connection.connect()
        head = b"%b /objects/%b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" % (method, name)
        connection.sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while data := connection.sock.recv(65536):
            received += data
    finally:
        connection.close()
    answer, _ = parse_answer(received, method.decode(), True)
    return answer.status, answer.body


class A1(BlockingStoreTestCase):
    """Names."""

    def test_names(self) -> None:
        """Each is kept as an object of its own or refused, and no file appears elsewhere."""
        store = self.start_store()
        around = store.folder.parent
        before = self.outside(around, store.folder)
        for number, name in enumerate(OPAQUE):
            name = name.replace(b" ", b"%20")
            body = b"object %d" % number
            self.assertEqual(exchange(store, b"PUT", name, body)[0], 200, name)
            self.assertEqual(exchange(store, b"GET", name), (200, body), name)
        for name in REFUSED:
            for method in (b"PUT", b"GET", b"DELETE"):
                status, body = exchange(store, method, name)
                self.assertEqual(status, 400, name)
                self.assertEqual(json.loads(body)["status"], 400)
        self.assertEqual(self.outside(around, store.folder), before)
        # Only the store's own names are in its folders, six shards for each object.
        self.assertEqual(len(store.shard_files()), 6 * len(OPAQUE))
        self.assertEqual(len(exchange(store, b"GET", b"")[1].splitlines()), len(OPAQUE))

    def outside(self, around: Path, folder: Path) -> list[str]:
        """What is beside the store's own folder, and how large, but for its growing log."""
        return sorted(
            f"{path} {path.stat().st_size}"
            for path in around.rglob("*")
            if folder not in (path, *path.parents) and path.suffix != ".log"
        )
