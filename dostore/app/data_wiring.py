"""A data server: one drive, its HTTP API, and the word to the others that it is there."""

from __future__ import annotations

import time
import uuid
from ipaddress import ip_address
from typing import Any

from twisted.application.service import IService
from twisted.internet.endpoints import HostnameEndpoint
from twisted.logger import Logger

from dostore.adapters import drive_marker
from dostore.adapters.amqp_link import AmqpLink
from dostore.adapters.announcer_amqp import Announcer
from dostore.adapters.drive_opening import Drive
from dostore.adapters.drive_state import DriveState
from dostore.adapters.drives import DriveSet
from dostore.adapters.files import Files
from dostore.app.data_config import DataConfig
from dostore.app.server import COMPUTE_THREADS, Listen, Server, Threads
from dostore.background import Background
from dostore.core.messages import Heartbeat
from dostore.core.names import ContentHash
from dostore.web.connections import Connections, HttpLimits
from dostore.web.data.site import build_factory
from dostore.web.data.status import NodeStatus

_log = Logger(namespace="dostore")

#: A connection to the broker takes no longer to be made.
_BROKER_CONNECT_S = 5.0

#: How often the drive's free space is measured, and how soon others are told that its state is
#: another.
_MEASURE_INTERVAL_S = 5.0
_TELL_INTERVAL_S = 0.5


def build(config: DataConfig, reactor: Any) -> IService:
    """A data server that is not started yet.

    :raises ConfigError: its folder cannot be used: it is another program's, a drive of a store on
        one machine, made by a newer program, or in use.
    """
    files = Files()
    threads = Threads(reactor)
    _preflight(config, files)
    parts = DataServer(config, files, threads, reactor)
    listen = Listen(config.listen_host, config.listen_port, config.shutdown_grace_s)
    return Server("dostore-data", parts, listen, threads, reactor, parts.serving)


def _preflight(config: DataConfig, files: Files) -> None:
    """Find what is wrong with the folder while it can still be told on the terminal. Blocks."""
    folder = config.storage_root
    try:
        what = drive_marker.look(folder, files)
        if drive_marker.require_ours(what, None, None, folder) is not None:
            files.close(drive_marker.lock(folder, files))
    except OSError as error:
        # Starting tells whether that lasts.
        _log.warn("{folder} cannot be looked at: {error}", folder=folder, error=error)


class DataServer:
    """The parts of a data server (see server.Parts).

    It listens, and tells that it is there, when its drive has been scanned and not before: until
    then it could not say what it has, and to say that it has nothing would have others repair what
    is not lost.
    """

    def __init__(self, config: DataConfig, files: Files, threads: Threads, reactor: Any) -> None:
        self._config = config
        self._files = files
        self._threads = threads
        self._reactor = reactor
        self._background = Background("dostore.data")
        self._drives = DriveSet(
            [config.storage_root],
            None,
            files=files,
            make_workers=threads.make,
            clock=reactor,
            now=time.time,
            sync=config.shard_sync,
            compression_level=config.compression_level,
            pack_below=config.pack_below,
            kept_files=config.kept_files,
            address=lambda _: config.address,
        )
        self._drive: Drive = self._drives.drives[0]
        self._free_bytes: int | None = None
        self._told: tuple[DriveState, bool, int] | None = None
        self._life = uuid.uuid4().hex
        self._serving = False
        broker = config.broker
        endpoint = HostnameEndpoint(reactor, broker.host, broker.port, timeout=_BROKER_CONNECT_S)
        self._link = AmqpLink(broker, endpoint, reactor, name=f"dostore-data {config.address}")
        self._announcer = Announcer(self._link, self._describe, self._held, reactor)

    async def start(self) -> Connections:
        """See server.Parts."""
        config = self._config
        await self._drives.start()
        await self._measure()
        if not config.shard_sync:
            _log.warn("Shards are not synced: a power cut loses objects that were acknowledged")
        if config.secret is None:
            self._warn_without_secret()
        return build_factory(
            self._drive.node,
            self._drive.node.temps,
            status=self._status,
            workers=self._threads.make("compute", COMPUTE_THREADS),
            clock=self._reactor,
            now=time.time,
            secret=config.secret,
            limits=HttpLimits(
                max_connections=config.max_connections, body_timeout_s=config.body_timeout_s
            ),
            access_log=config.access_log,
            whole_now=self._drive.node.whole_now,
        )

    def _warn_without_secret(self) -> None:
        if _is_loopback(self._config.listen_host):
            return
        _log.critical(
            "DANGER: there is no DOSTORE_SECRET, so whoever reaches {address} can read, change and"
            " delete all that is stored. Give all servers of the cluster the same secret.",
            address=self._config.address,
        )

    def serving(self) -> None:
        """Requests are answered: tell the others."""
        self._serving = True
        self._link.start()
        self._announcer.start()
        for name, interval_s, step in (
            ("measure", _MEASURE_INTERVAL_S, self._measure),
            ("tell", _TELL_INTERVAL_S, self._tell),
        ):
            self._background.periodic(name, interval_s, step, self._reactor)

    # What is told of the drive

    def _describe(self) -> Heartbeat:
        """The heartbeat of now. Of a drive that cannot be read there is none."""
        if self._serving:
            self._drive.node.require(DriveState.LIVE, DriveState.READ_ONLY)
        writable = self._drive.node.state is DriveState.LIVE
        return Heartbeat(
            self._config.address,
            self._config.zone,
            self._free_bytes,
            writable,
            life=f"{self._life}.{self._drive.node.arrivals}",
        )

    def _held(self, content_hash: ContentHash) -> Any:
        node = self._drive.node
        node.require(DriveState.LIVE, DriveState.READ_ONLY)
        return node.held(content_hash)

    def _status(self) -> NodeStatus:
        node = self._drive.node
        return NodeStatus(
            node.state is not DriveState.AWAY,
            node.state is DriveState.LIVE,
            node.reason or "All is well.",
            node.contents,
            self._free_bytes,
            self._link.connected,
        )

    async def _tell(self) -> None:
        """Have a heartbeat out of its turn when the drive's state is another."""
        node = self._drive.node
        now = (node.state, node.full, node.arrivals)
        if now != self._told:
            self._told = now
            self._announcer.beat()

    async def _measure(self) -> None:
        try:
            free_bytes: int = await self._drive.watcher.run(
                self._files.free_bytes, self._config.storage_root
            )
        except OSError as error:
            _log.warn("The free space cannot be measured: {error}", error=error)
        else:
            self._free_bytes = free_bytes

    def describe(self) -> str:
        """See server.Parts."""
        zone = f", zone {self._config.zone}" if self._config.zone else ""
        return (
            f"shards of {self._drive.node.contents} contents in {self._config.storage_root};"
            f" it is {self._config.address}{zone} to the cluster at {self._config.broker}"
        )

    async def stop(self) -> None:
        """See server.Parts."""
        await self._announcer.stop()
        await self._link.stop()
        await self._background.stop(self._reactor, 0.0)
        await self._drives.stop()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
