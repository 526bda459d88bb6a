"""The walk-through of the design that dostore follows, typed with curl, on one machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.support.processes import BlockingStoreTestCase, Store, wait_until

HASH = "2MRHhgqkvILs04RzLIEpZBzpgos%2F9QlNKRXEh7cMngY="
DATA_SHARDS = [
    f"{HASH}.0.%2FQbxVU4EOPqz%2F2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
    f"{HASH}.1.S8JnDgiwWnfNud06pGE+%2FEHgmBzNpFAEg6s%2FgR0J4Cw=",
    f"{HASH}.2.syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
    f"{HASH}.3.0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
]


class WalkthroughTests(BlockingStoreTestCase):
    """Each command as it was written, but for the address."""

    if shutil.which("curl") is None:
        skip = "curl is not installed"

    def setUp(self) -> None:
        """Start a store."""
        super().setUp()
        self.store: Store = self.start_store()

    def type(self, command: str) -> tuple[int, str]:
        """Run a command in the storage root; the status that curl got, and the body.

        ``10.29.1.1:12345`` and its like stand for this store.
        """
        for address in ("127.0.0.1:12345", "10.29.2.2:12345", "10.29.2.1:12345"):
            command = command.replace(address, f"127.0.0.1:{self.store.port}")
        command = command.replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.store.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def shard(self, index: int) -> Path:
        """The file of shard ``index`` of the 36-byte object."""
        return next(path for path in self.store.shard_files() if f"{HASH}.{index}." in path.name)

    def test_put_and_get(self) -> None:
        """The first two commands store an object and get it back."""
        status, body = self.type(
            'curl -v 127.0.0.1:12345/objects/test -XPUT -d "this is a test object"'
        )
        self.assertEqual((status, body), (200, ""))
        self.assertEqual(
            self.type("curl -v 127.0.0.1:12345/objects/test"), (200, "this is a test object")
        )

    def test_digests_versions_and_locate(self) -> None:
        """A digest that is not the body's is refused, the right one taken; versions, deletion."""
        put = (
            'curl -v 10.29.2.2:12345/objects/test -XPUT -d "This is object content version-1"'
            ' -H "Digest: SHA-256={}"'
        )
        status, body = self.type(put.format("9AimTha2kCISf8bVfi1jPXo2BzY="))
        self.assertEqual(status, 400)
        self.assertIn("detail", json.loads(body))
        right = "DrkE6D0mP4aGOU37mPqUrpauEk5LRso0LBt6jnwISv0="
        self.assertEqual(self.type(put.format(right))[0], 200)

        status, body = self.type(f"curl -v 10.29.2.2:12345/locate/{right}")
        self.assertEqual((status, sorted(json.loads(body))), (200, list("012345")))
        self.assertEqual(len(set(json.loads(body).values())), 6)

        content = (200, "This is object content version-1")
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test"), content)
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test\\?version=1"), content)
        status, body = self.type("curl -v 10.29.2.2:12345/versions/test")
        told = json.loads(body)
        self.assertEqual(
            (told["Name"], told["Version"], told["Size"], told["Hash"]), ("test", 1, 32, right)
        )
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test -XDELETE")[0], 204)
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test")[0], 404)
        self.assertEqual(self.type("curl -v 10.29.2.2:12345/objects/test\\?version=1"), content)

    def test_shards(self) -> None:
        """The 36 bytes are in the named files; a lost and an overwritten one come back; three
        lost are too many.
        """
        status, _ = self.type(
            "curl -v 10.29.2.2:12345/objects/test5 -XPUT"
            ' -d "this object will be seperated to 4+2"'
            ' -H "Digest: SHA-256=2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="'
        )
        self.assertEqual(status, 200)
        names = sorted(path.name for path in self.store.shard_files())
        self.assertEqual(len(names), 6)
        self.assertEqual(names[:4], DATA_SHARDS)
        self.assertEqual(self.store.temp_files(), [])
        content = (200, "this object will be seperated to 4+2")
        self.assertEqual(self.type("curl 10.29.2.1:12345/objects/test5"), content)

        removed, overwritten = self.shard(4), self.shard(0)
        before = removed.read_bytes(), overwritten.read_bytes()
        self.type(f"rm '{removed}'")
        self.type(f"echo errMsg > '{overwritten}'")
        self.assertEqual(self.type("curl 10.29.2.1:12345/objects/test5"), content)
        wait_until(
            "both files are back",
            lambda: (
                removed.exists()
                and overwritten.exists()
                and (removed.read_bytes(), overwritten.read_bytes()) == before
            ),
        )

        self.type("rm [1-3]/objects/*")
        status, body = self.type("curl -v 10.29.2.1:12345/objects/test5")
        self.assertEqual(status, 404)
        detail = json.loads(body)["detail"]
        self.assertRegex(detail, r"\b3\b.*\b4\b")
