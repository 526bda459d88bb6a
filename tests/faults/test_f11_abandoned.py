"""F11: clients that die in the middle, and uploads that nobody finishes, leave nothing behind."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.processes import BlockingStoreTestCase, Store, wait_until

PUTS = 10_000
UPLOADS = 100
AT_A_TIME = 16

#: More than is written without a temporary file, so that some of each is on the drives.
SENT_BYTES = 1_100_000
_RESET = struct.pack("ii", 1, 0)


class F11(BlockingStoreTestCase):
    """Abandoned writes."""

    def test_clients_die(self) -> None:
        """10,000 PUTs break off, some with nothing on a drive yet, some with a lot: disk use is
        back at its base, and what was stored before is there.
        """
        store = self.start_store()
        self.assertEqual(store.request("PUT", "/objects/kept", b"kept" * 1000).status, 200)
        base = disk_use(store)
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            list(threads.map(lambda number: die(store, number), range(PUTS)))
        wait_until("nothing unfinished is left", lambda: not store.temp_files(), 60.0)
        wait_until("disk use is back at its base", lambda: disk_use(store) <= base, 60.0)
        listed = store.request("GET", "/objects/").body
        self.assertEqual(listed.count(b"\n"), 1)
        self.assertEqual(store.request("GET", "/objects/kept").body, b"kept" * 1000)

    def test_uploads_never_finished(self) -> None:
        """Uploads that nobody goes on with are swept; one that is touched meanwhile stays."""
        store = self.start_store("--upload-ttl=3")
        base = disk_use(store)
        targets = [begin(store, number) for number in range(UPLOADS)]
        self.assertGreater(disk_use(store), base + UPLOADS * SENT_BYTES)
        touched, *others = targets

        # To ask for an upload is to touch it, so until then only the drives are looked at.
        def swept() -> bool:
            self.assertEqual(store.request("HEAD", touched).status, 200)
            time.sleep(0.2)
            return disk_use(store) < base + 2 * SENT_BYTES

        wait_until("the uploads are swept", swept, 60.0)
        for other in others:
            self.assertEqual(store.request("HEAD", other).status, 404)
        rest = body(0)[SENT_BYTES:]
        answer = store.request("PUT", touched, rest, {"Range": f"bytes={SENT_BYTES}-"})
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(store.request("GET", "/objects/upload-0").body, body(0))
        self.assertEqual(store.temp_files(), [])


def body(number: int) -> bytes:
    """The bytes of an upload, no two alike."""
    return hashlib.shake_128(b"%d" % number).digest(SENT_BYTES + 50_000)


def begin(store: Store, number: int) -> str:
    """Open an upload and send most of it; its path."""
    data = body(number)
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    answer = store.request(
        "POST",
        f"/objects/upload-{number}",
        headers={"Digest": f"SHA-256={digest}", "Size": str(len(data))},
    )
    if answer.status != 201:
        raise AssertionError(answer)
    target = answer.headers["location"]
    answer = store.request("PUT", target, data[:SENT_BYTES])
    if answer.status != 200:
        raise AssertionError(answer)
    return target


def die(store: Store, number: int) -> None:
    """Send the beginning of a PUT and break off."""
    with socket.create_connection((store.host, store.port)) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        head = b"PUT /objects/dying-%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n"
        # Most of them die early, some when there are temporary files.
        sent = SENT_BYTES if number % 20 == 0 else number % 5000
        try:
            line.sendall(head % number + b"x" * sent)
        except OSError as error:
            raise AssertionError("the store broke off first") from error


def disk_use(store: Store) -> int:
    """Bytes of the files of all drives but the database's and its log's."""
    return sum(_size(path) for path in store.folder.glob("*/[otg]*/*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
