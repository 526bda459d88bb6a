"""SIGTERM: what is under way may end, nothing new begins, and the process is gone in time."""

from __future__ import annotations

import os
import signal
import socket
import time

from tests.support.processes import BlockingStoreTestCase, Store, wait_until

MIB = 1 << 20


class StoppingTests(BlockingStoreTestCase):
    """A real process and a real signal."""

    def terminate(self, store: Store) -> None:
        """SIGTERM, and wait until no connection is taken any more."""
        store.signal(signal.SIGTERM)
        wait_until("new connections are refused", lambda: not _is_open(store.port))

    def test_when_idle(self) -> None:
        """It ends at once, with status 0, a client that only stays connected notwithstanding."""
        store = self.start_store()
        connection = store.connect()
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        began = time.monotonic()
        self.assertEqual(store.stop(), 0)
        self.assertTrue(time.monotonic() - began < 10.0)
        connection.close()

    def test_an_upload_under_way_ends(self) -> None:
        """A slow PUT is taken to its end, acknowledged, and there after the next start."""
        store = self.start_store()
        body = os.urandom(12 * MIB)
        connection = store.connect()
        connection.putrequest("PUT", "/objects/slow")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[: 6 * MIB])
        wait_until("shards are being written", store.temp_files)
        self.terminate(store)
        connection.send(body[6 * MIB :])
        response = connection.getresponse()
        self.assertEqual((response.status, response.read()), (200, b""))
        connection.close()
        self.assertEqual(store.wait_exit(), 0)
        store.start()
        self.assertEqual(store.request("GET", "/objects/slow").body, body)

    def test_a_download_under_way_ends(self) -> None:
        """A slow GET gets every byte."""
        store = self.start_store()
        body = os.urandom(32 * MIB)
        self.assertEqual(store.request("PUT", "/objects/large", body).status, 200)
        connection = store.connect()
        connection.request("GET", "/objects/large")
        response = connection.getresponse()
        start = response.read(MIB)
        self.terminate(store)
        self.assertEqual(start + response.read(), body)
        connection.close()
        self.assertEqual(store.wait_exit(), 0)

    def test_what_does_not_end_is_ended(self) -> None:
        """After the grace an upload that stands still is dropped, and nothing is left of it."""
        store = self.start_store("--shutdown-grace=0.5")
        connection = store.connect()
        connection.putrequest("PUT", "/objects/never")
        connection.putheader("Content-Length", str(12 * MIB))
        connection.endheaders()
        connection.send(os.urandom(6 * MIB))
        wait_until("shards are being written", store.temp_files)
        began = time.monotonic()
        self.assertEqual(store.stop(), 0)
        self.assertTrue(0.4 < time.monotonic() - began < 15.0)
        connection.close()
        store.start()
        self.assertEqual((store.temp_files(), store.shard_files()), ([], []))
        self.assertEqual(store.request("GET", "/objects/never").status, 404)

    def test_interrupt(self) -> None:
        """Ctrl-C is as good as SIGTERM."""
        store = self.start_store()
        store.signal(signal.SIGINT)
        self.assertEqual(store.wait_exit(), 0)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
