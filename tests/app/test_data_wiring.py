"""The parts of a data server, put together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from dostore.adapters.files import Files
from dostore.adapters.node_local import DriveState
from dostore.app.data_config import DataConfig
from dostore.app.data_wiring import DataServer, build
from dostore.app.server import Threads
from dostore.core.broker_url import BrokerUrl
from dostore.errors import ConfigError, NodeUnavailable
from tests.support.cases import AsyncTestCase
from tests.support.ports import free_port
from tests.support.shards import sample

the_reactor: Any = reactor


class DataServerPartsTests(AsyncTestCase):
    """A data server that nobody can reach yet, with its broker away."""

    def setUp(self) -> None:
        """Choose a folder."""
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def config(self, listen_host: str = "127.0.0.1", secret: bytes | None = None) -> DataConfig:
        """Settings."""
        return DataConfig(
            listen_host=listen_host,
            listen_port=12345,
            address="10.0.0.1:12345",
            storage_root=str(self.folder),
            broker=BrokerUrl("127.0.0.1", free_port()),
            zone="rack-1",
            secret=secret,
            shard_sync=True,
            compression_level=None,
            pack_below=0,
            max_connections=10,
            kept_files=20,
            access_log=None,
            body_timeout_s=60.0,
            shutdown_grace_s=0.0,
        )

    async def started(self, config: DataConfig) -> DataServer:
        """The parts, started; they are stopped at the end."""
        threads = Threads(the_reactor)
        parts = DataServer(config, Files(), threads, the_reactor)
        self.addCleanup(threads.stop)
        self.addCleanup(lambda: Deferred.fromCoroutine(parts.stop()))
        await parts.start()
        parts.serving()
        return parts

    def dangers(self) -> int:
        """How many warnings were loud."""
        return sum("DANGER" in str(event.get("log_format")) for event in self.events)

    async def test_what_it_tells(self) -> None:
        """Its address, zone, room and whether it takes shards; nothing when it cannot be read."""
        parts = await self.started(self.config())
        node = parts._drive.node
        what = sample(10)
        await node.put(what.content, 1, what.shards[1])
        heartbeat = parts._describe()
        self.assertEqual((heartbeat.address, heartbeat.zone), ("10.0.0.1:12345", "rack-1"))
        self.assertTrue(heartbeat.writable)
        self.assertGreater(heartbeat.free_bytes or 0, 0)
        self.assertEqual(list(parts._held(what.content.hash)), [1])
        self.assertEqual(node.address, "10.0.0.1:12345")
        node.degrade(DriveState.READ_ONLY, "tired")
        self.assertFalse(parts._describe().writable)
        self.assertEqual(list(parts._held(what.content.hash)), [1])
        self.assertFalse(parts._status().writable)
        node.degrade(DriveState.AWAY, "gone")
        self.assertRaises(NodeUnavailable, parts._describe)
        self.assertRaises(NodeUnavailable, parts._held, what.content.hash)
        self.assertFalse(parts._status().readable)
        self.assertEqual(parts._status().contents, 1)
        await parts._tell()
        await parts._drives._watch.sweep()

    async def test_loud_without_a_secret(self) -> None:
        """Only where others can reach it, and only without a secret."""
        for host, secret, dangers in (
            ("127.0.0.1", None, 0),
            ("localhost", None, 0),
            ("::1", None, 0),
            ("10.0.0.1", b"x" * 32, 0),
            ("10.0.0.1", None, 1),
            ("", None, 2),
            ("node.example", None, 3),
        ):
            parts = await self.started(self.config(host, secret))
            self.assertEqual(self.dangers(), dangers, host)
            await parts.stop()

    def test_refused_before_it_starts(self) -> None:
        """What is wrong with the folder is told while somebody looks at the terminal."""
        build(self.config(), the_reactor)
        self.assertEqual(os.listdir(self.folder), [])
        (self.folder / "photo.jpg").write_bytes(b"mine")
        self.assertRaises(ConfigError, build, self.config(), the_reactor)
