"""kill -9 in the middle of writing: what was acknowledged is there, the rest is all or nothing."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading

from tests.support.processes import BlockingStoreTestCase, Store

NAMES = ("a", "b", "c/d")
WRITERS = 6


class Writer(threading.Thread):
    """Writes versions of a few names until the store goes away."""

    def __init__(self, store: Store, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.number = number
        self.chance = random.Random(f"{seed}.{number}")
        self.sent: list[tuple[str, bytes]] = []
        #: Name and version number, and the SHA-256 of the body.
        self.acknowledged: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        """Write until it fails."""
        try:
            while True:
                name = self.chance.choice(NAMES)
                size = self.chance.choice((0, 1, 36, 5000, 300_000, 1_500_000))
                body = self.chance.randbytes(size)
                self.sent.append((name, hashlib.sha256(body).digest()))
                answer = self.store.request("PUT", f"/objects/{name}", body, timeout_s=20.0)
                if answer.status == 200:
                    number = int(answer.headers["x-object-version"])
                    self.acknowledged[name, number] = hashlib.sha256(body).hexdigest()
        except (OSError, http.client.HTTPException):
            return


class CrashTests(BlockingStoreTestCase):
    """A real process and SIGKILL."""

    def test_kill_while_writing(self) -> None:
        """After each of several kills every acknowledged version is read back, byte by byte."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")  # noqa: T201 - to run it again
        chance = random.Random(seed)
        store = self.start_store()
        acknowledged: dict[tuple[str, int], str] = {}
        sent: set[str] = set()
        for _ in range(4):
            writers = [
                Writer(store, number, chance.randrange(1 << 32)) for number in range(WRITERS)
            ]
            for writer in writers:
                writer.start()
            writers[0].join(chance.uniform(0.2, 1.2))
            store.kill()
            for writer in writers:
                writer.join(30.0)
                self.assertFalse(writer.is_alive())
                acknowledged |= writer.acknowledged
                sent |= {digest.hex() for _, digest in writer.sent}
            store.start()
            self.assertEqual(store.temp_files(), [])
            self.check_versions(store, acknowledged, sent)
        self.assertTrue(acknowledged)

    def check_versions(
        self, store: Store, acknowledged: dict[tuple[str, int], str], sent: set[str]
    ) -> None:
        """Numbers have no gaps, bodies are such as were sent, and no promised version lacks."""
        found: dict[tuple[str, int], str] = {}
        for name in NAMES:
            answer = store.request("GET", f"/versions/{name}")
            versions = [json.loads(line) for line in answer.body.splitlines()]
            if answer.status == 404:
                versions = []
            numbers = [version["Version"] for version in versions]
            self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
            for number in numbers:
                got = store.request("GET", f"/objects/{name}?version={number}")
                self.assertEqual(got.status, 200, got.body)
                found[name, number] = hashlib.sha256(got.body).hexdigest()
        self.assertEqual({key: found.get(key) for key in acknowledged}, acknowledged)
        self.assertEqual(set(found.values()) - sent, set())
