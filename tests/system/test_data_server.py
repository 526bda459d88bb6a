"""``twistd dostore-data`` as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from dostore.errors import NodeUnavailable, ShardMissing
from tests.support.data_server import DataServerCase, the_reactor
from tests.support.ports import free_port
from tests.support.processes import ROOT, wait_until
from tests.support.shards import SCHEME, sample

SECRET = "correct horse battery staple"
PASSWORD = "tell-nobody"


class DataServerProcessTests(DataServerCase):
    """A data server whose broker is out of reach: it serves all the same, and keeps trying."""

    def setUp(self) -> None:
        """Choose a folder and a port."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.log_path = self.folder.with_suffix(".log")
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self.addCleanup(self.kill)

    def spawn(self, *options: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start the process."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith("DOSTORE_")
        }
        own = {
            "PYTHONPATH": str(ROOT),
            "LISTEN_ADDRESS": self.address,
            "STORAGE_ROOT": str(self.folder),
            "RABBITMQ_SERVER": f"amqp://there:{PASSWORD}@127.0.0.1:{free_port()}",
            "DOSTORE_SECRET": SECRET,
        }
        twistd = Path(sys.executable).parent / "twistd"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(twistd), "-n", "--pidfile=", "dostore-data", *options],
                cwd=self.folder.parent,
                env=inherited | own | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """What it has printed."""
        return self.log_path.read_text(errors="replace")

    async def start(self, *options: str, **environ: str) -> Any:
        """Start it; a node that speaks to it, when it serves."""
        process = self.spawn(*options, **environ)
        secret = environ.get("DOSTORE_SECRET", SECRET).encode() or None
        node = self.client(self.address, secret=secret)
        began = time.monotonic()
        while True:
            try:
                await node.inventory(0)
                return node
            except NodeUnavailable:
                if process.poll() is not None or time.monotonic() > began + 60:
                    raise AssertionError(f"it does not serve:\n{self.log()}") from None
                await deferLater(the_reactor, 0.05)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return int(await deferToThread(self.process.wait, 60))

    async def test_without_a_broker(self) -> None:
        """It serves who knows the secret, refuses others, and ends with status 0 when told."""
        node = await self.start("--zone=rack-1")
        small, large = sample(4000), sample(400 * SCHEME.stripe_size, 1)
        await node.put(small.content, 1, small.shards[1])
        writer = await node.begin(2, SCHEME)
        for at in range(0, 400, 16):
            await writer.write(large.shards[2][at : at + 16])
        await writer.commit(large.content)
        for what, index in ((small, 1), (large, 2)):
            reader = await node.open(what.content.hash, index)
            got = await reader.read(0, SCHEME.stripe_count(what.content.size))
            self.assertEqual(got, what.plain(index))
            await reader.close()
        stranger = self.client(self.address).link
        self.assertEqual((await stranger.ask(b"GET", b"/metrics")).status, 401)
        self.assertEqual((await stranger.ask(b"GET", b"/health/live")).status, 200)
        await deferToThread(wait_until, "the broker is missed", lambda: "is away" in self.log())
        self.assertEqual(await self.stop(), 0)
        log = self.log()
        self.assertIn("shards of 0 contents", log)
        self.assertIn("zone rack-1", log)
        self.assertIn("is away", log)
        self.assertNotIn("DANGER", log)
        for hidden in (SECRET, PASSWORD):
            self.assertNotIn(hidden, log)

    async def test_killed(self) -> None:
        """After kill -9 it has what it had; a write that was cut is found by its token."""
        node = await self.start()
        what, cut = sample(4000), sample(100 * SCHEME.stripe_size, 1)
        await node.put(what.content, 1, what.shards[1])
        writer = await node.begin(2, SCHEME)
        await writer.write(cut.shards[2])
        target = writer._target

        async def held() -> int:
            answer = await node.link.ask(b"HEAD", target)
            return int(answer.headers.getRawHeaders(b"upload-offset", [b"0"])[0])

        began = time.monotonic()
        while not (before := await held()) and time.monotonic() < began + 30:
            await deferLater(the_reactor, 0.02)
        self.kill()
        with self.assertRaises(NodeUnavailable):
            await writer.commit(cut.content)
        # It cannot be told, and sweeps by itself.
        await writer.abort()
        node = await self.start()
        self.assertEqual(list(await node.holds(what.content.hash)), [1])
        after = await held()
        self.assertGreaterEqual(after, before)
        rest = cut.plain(2)[after:]
        offset = (b"Upload-Offset", b"%d" % after)
        answer = await node.link.ask(b"PATCH", target, [offset], [rest], again=False)
        self.assertEqual(answer.status, 204)
        fields = [
            (b"X-Content", str(cut.content.hash).encode()),
            (b"Size", b"%d" % cut.content.size),
        ]
        self.assertEqual((await node.link.ask(b"PUT", target, fields, [])).status, 200)
        reader = await node.open(cut.content.hash, 2)
        self.assertEqual(await reader.read(0, 100), cut.plain(2))
        await reader.close()
        with self.assertRaises(ShardMissing):
            await node.open(cut.content.hash, 1)
        self.assertEqual(await self.stop(), 0)

    async def test_without_a_secret(self) -> None:
        """On loopback nobody else can reach it; elsewhere it says loudly what that means."""
        await self.start(DOSTORE_SECRET="")
        self.assertEqual(await self.stop(), 0)
        self.assertNotIn("DANGER", self.log())
        port = self.address.rpartition(":")[2]
        await self.start(
            f"--advertise={self.address}", LISTEN_ADDRESS=f":{port}", DOSTORE_SECRET=""
        )
        self.assertEqual(await self.stop(), 0)
        self.assertIn("DANGER: there is no DOSTORE_SECRET", self.log())

    async def test_refusals(self) -> None:
        """What cannot be is told in a sentence, by exit status 1, and touches nothing."""
        (self.folder / "photo.jpg").write_bytes(b"mine")
        for environ, sentence in (
            ({}, "holds other files"),
            ({"RABBITMQ_SERVER": ""}, "RABBITMQ_SERVER is not set"),
            ({"LISTEN_ADDRESS": ":12345"}, "--advertise"),
            ({"DOSTORE_SECRET": "short"}, "16 to 1024 bytes"),
        ):
            process = self.spawn(**environ)
            self.assertEqual(await deferToThread(process.wait, 60), 1)
            self.assertIn(sentence, self.log())
        self.assertEqual(os.listdir(self.folder), ["photo.jpg"])
        self.assertNotIn("Traceback", self.log())

    async def test_in_use(self) -> None:
        """Two data servers on one folder would lose shards."""
        await self.start()
        first = self.process
        self.process = None
        assert first is not None
        self.addCleanup(first.wait)
        self.addCleanup(first.kill)
        second = self.spawn(LISTEN_ADDRESS=f"127.0.0.1:{free_port()}")
        self.assertEqual(await deferToThread(second.wait, 60), 1)
        self.assertIn("in use by another dostore process", self.log())

    async def test_folders_made_beforehand(self) -> None:
        """The folders that the Go design has its operator make are taken."""
        (self.folder / "objects").mkdir()
        (self.folder / "temp").mkdir()
        await self.start()
        self.assertEqual(await self.stop(), 0)
        self.assertIn("dostore.json", os.listdir(self.folder))
