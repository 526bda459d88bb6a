"""A11: secrets are in no log, error body or metric."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support.processes import BlockingStoreTestCase

SECRET = "hush-hush-4711"

HEADERS = {
    "Authorization": f"Bearer {SECRET}",
    "Proxy-Authorization": f"Basic {SECRET}",
    "Cookie": f"session={SECRET}",
    "X-Amz-Security-Token": SECRET,
    "X-Object-Meta-Key": SECRET,
    "Referer": f"http://a/?token={SECRET}",
}

QUERY = f"X-Amz-Signature={SECRET}&token={SECRET}&{SECRET}"


class A11(BlockingStoreTestCase):
    """Secrets."""

    def test_nowhere(self) -> None:
        """Nothing that is written about requests has what clients sent in confidence."""
        store = self.make_store()
        access_log = Path(store.folder).with_name("access.log")
        store.options.append(f"--access-log={access_log}")
        store.start()
        texts = []
        for method, target, body in (
            ("PUT", "/objects/a", b"abc"),
            ("PUT", "/objects/a", None),
            ("PUT", "/objects/%00", b"abc"),
            ("GET", "/objects/none", None),
            ("GET", "/objects/a?version=x", None),
            ("GET", "/nowhere", None),
            ("BREW", "/objects/a", None),
            ("GET", "/locate/x", None),
        ):
            target += ("&" if "?" in target else "?") + QUERY
            answer = store.request(method, target, body, HEADERS)
            if method != "PUT" or answer.status != 200:
                self.assertGreaterEqual(answer.status, 400, target)
                texts.append(answer.body.decode())
        # Requests that the parser itself refuses, and one that breaks off.
        for data in (
            f"GET /?{SECRET} HTTP/9\r\n\r\n",
            f"GET / HTTP/1.1\r\nAuthorization {SECRET}\r\n\r\n",
            f"PUT /objects/a?{QUERY} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{SECRET[:5]}",
        ):
            with socket.create_connection(("127.0.0.1", store.port), 10.0) as client:
                client.sendall(data.encode())
                client.shutdown(socket.SHUT_WR)
                while received := client.recv(65536):
                    texts.append(received.decode())
        texts.append(store.request("GET", "/metrics").body.decode())
        self.assertEqual(store.stop(), 0)
        texts.append(store.log())
        log = access_log.read_text()
        self.assertIn("/objects/none?X-Amz-Signature=...&token=...", log)
        texts.append(log)
        for text in texts:
            self.assertNotIn(SECRET, text)
