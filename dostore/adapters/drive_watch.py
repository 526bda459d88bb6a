"""The watch over drives: what each is good for, and the work in the background that it needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.adapters import drive_marker
from dostore.adapters.drive_marker import BadMarker, Found, Marker
from dostore.adapters.drive_opening import HUNG_AFTER_S, Drive, DriveOpening
from dostore.adapters.drive_state import DriveState
from dostore.adapters.files import Files
from dostore.adapters.journal import FULL
from dostore.adapters.node_local import DriveNode
from dostore.adapters.volume_emptying import next_to_empty
from dostore.background import Background
from dostore.errors import ConfigError, DostoreError, NodeUnavailable
from dostore.fanout import gather, with_timeout

_log = Logger()

#: Every drive is looked at this often.
WATCH_INTERVAL_S = 2.0

#: A drive none of whose calls ends for so many looks, while some wait, hangs too: a look may be
#: answered from the system's memory. A minute, for one sync of very much may take half of that.
STUCK_LOOKS = 30

#: A drive that was full takes writes again when this many bytes are free, so that it is not found
#: full again by the next write.
FREE_AGAIN_BYTES = 16 << 20

#: What was removed can be given back for this long.
GARBAGE_KEPT_S = 24 * 3600.0

#: On a full drive it makes room earlier. Nothing that is under way asks for it so late.
GARBAGE_KEPT_FULL_S = 3600.0

#: A full drive is purged at most this often.
_MAKE_ROOM_INTERVAL_S = 600.0
_PURGE_INTERVAL_S = 3600.0

#: How often temporary shards that nobody goes on with are looked for.
SWEEP_INTERVAL_S = 30.0


class DriveWatch:
    """Looks at the drives of one store, again and again.

    :param now: the time of day in seconds since the epoch, for the age of garbage.
    """

    def __init__(
        self,
        drives: Sequence[Drive],
        opening: DriveOpening,
        files: Files,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self._drives = drives
        self._opening = opening
        self._files = files
        self._clock = clock
        self._now = now
        self._background = Background("dostore.drives")
        self._joined: list[Callable[[str], None]] = []

    def tell(self, joined: Callable[[str], None]) -> None:
        """Have somebody told of each drive that comes back."""
        self._joined.append(joined)

    def start(self) -> None:
        """Begin."""
        for drive in self._drives:
            # Each by itself: one that hangs while it is scanned must not keep others from a look.
            self._background.periodic(
                f"watch {drive.node.address}",
                WATCH_INTERVAL_S,
                partial(self._watch_one, drive),
                self._clock,
            )
        self._background.periodic("purge", _PURGE_INTERVAL_S, self._purge, self._clock)
        self._background.run("first sweep", self.sweep())
        self._background.periodic("sweep", SWEEP_INTERVAL_S, self.sweep, self._clock)

    async def stop(self) -> None:
        """Look no more."""
        await self._background.stop(self._clock, 0.0)

    def trouble(self, node: DriveNode) -> None:
        """An operation met an error: look now, not at the next interval."""
        for drive in self._drives:
            if drive.node is node:
                self._background.run("look", self._watch_one(drive, recover=False))

    async def _watch_one(self, drive: Drive, *, recover: bool = True) -> None:
        """Look at a drive and draw the conclusions; never more than one look at a time.

        :param recover: whether a drive that takes no writes may take them again. Not right after an
            error, else one that passes a probe and then fails would go round without a pause.
        """
        if drive.looking:
            return
        drive.looking = True
        try:
            await self._conclude(drive, recover)
        finally:
            drive.looking = False
        node = drive.node
        takes = node.state is DriveState.LIVE or (node.full and node.state is DriveState.READ_ONLY)
        if takes and not drive.checkpointing and drive.store.journal.is_due():
            drive.checkpointing = True
            self._background.run(f"checkpoint {node.address}", self.checkpoint(drive))
        if takes and not drive.emptying:
            number = next_to_empty(drive.store.volumes, full=node.full)
            if number is not None:
                drive.emptying = True
                self._background.run(f"empty {node.address}", self._empty(drive, number))
        if takes and drive.losses != drive.store.volumes.losses:
            drive.losses = drive.store.volumes.losses
            # What is told of a node that comes: it may have other shards than before.
            node.arrivals += 1
            for joined in self._joined:
                joined(node.address)

    async def checkpoint(self, drive: Drive, last: bool = False) -> None:
        """See DriveNode; an error is told and no more."""
        try:
            await drive.node.checkpoint(last)
        except DostoreError as error:
            _log.warn("The journal is kept: {error}", error=error, address=drive.node.address)
        finally:
            drive.checkpointing = False

    async def _empty(self, drive: Drive, number: int) -> None:
        try:
            await drive.node.packed.empty(number, self._clock)
        except DostoreError as error:
            _log.warn(
                "{address} keeps volume {number}: {error}",
                address=drive.node.address,
                number=number,
                error=error,
            )
        finally:
            drive.emptying = False

    async def _conclude(self, drive: Drive, recover: bool) -> None:
        node = drive.node
        if self._stuck(drive):
            node.degrade(DriveState.AWAY, "none of its calls ends")
        if node.state is DriveState.AWAY and node.workers.backlog():
            # Nothing is sure of a drive while calls still hang in it.
            return
        try:
            what = await with_timeout(
                drive.watcher.run(self._look, drive),
                HUNG_AFTER_S,
                self._clock,
                lambda: NodeUnavailable(f"no answer in {HUNG_AFTER_S:g} s"),
            )
        except NodeUnavailable as error:
            node.degrade(DriveState.AWAY, error.detail)
            return
        except (ConfigError, BadMarker) as error:
            node.degrade(DriveState.AWAY, error.detail)
            self._opening.release(drive)
            return
        except OSError as error:
            state = DriveState.AWAY if node.state is DriveState.AWAY else DriveState.READ_ONLY
            node.degrade(state, error.strerror or "it fails", full=error.errno in FULL)
            if state is DriveState.READ_ONLY and node.full:
                self._background.run("make room", self._make_room(drive))
            return
        if what is Found.GONE or what is Found.STRANGE:
            node.degrade(DriveState.AWAY, f"{drive.folder} {what.value}")
            self._opening.release(drive)
        elif isinstance(what, Found) or node.state is DriveState.AWAY:
            await self._come_back(drive, what)
        elif node.state is DriveState.READ_ONLY and recover:
            node.recover()
            self._tell(node)

    def _stuck(self, drive: Drive) -> bool:
        """Whether calls have waited for so long, without one of them ending, that they hang."""
        node = drive.node
        if not node.calls or node.ended != drive.ended:
            drive.ended, drive.looks = node.ended, 0
        drive.looks += 1
        return drive.looks > STUCK_LOOKS

    def _look(self, drive: Drive) -> Marker | Found:
        """Runs on the watcher's thread."""
        what = drive_marker.look(drive.folder, self._files)
        if what is Found.EMPTY and self._is_mount_point(drive):
            return Found.GONE
        if isinstance(what, Marker):
            self._opening.require_ours(what, drive)
            free_bytes = self._files.free_bytes(drive.folder)
            drive.measured(free_bytes)
            if drive.node.state is not DriveState.AWAY and not drive.store.is_prepared():
                return Found.INCOMPLETE
            if drive.node.state is DriveState.READ_ONLY:
                drive.store.probe()
                if free_bytes < FREE_AGAIN_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return what

    def _is_mount_point(self, drive: Drive) -> bool:
        """Whether an empty folder is only where a drive was mounted: it is on its parent's now.

        To fill it would fill another drive, and hide what is there when the drive is mounted again.
        """
        device, _ = self._files.identity(drive.folder)
        parent, _ = self._files.identity(os.path.dirname(drive.folder))
        return bool(drive.device) and device != drive.device and device == parent

    async def _come_back(self, drive: Drive, what: Marker | Found) -> None:
        """A drive was away, or has lost folders, or another one, empty, is in its place."""
        node = drive.node
        missing = f"{drive.folder} {what.value}, and " if isinstance(what, Found) else ""
        node.degrade(DriveState.AWAY, f"{missing}it is being scanned")
        self._opening.release(drive)
        try:
            await self._opening.open(drive, what)
        except ConfigError as error:
            node.degrade(DriveState.AWAY, error.detail)
            return
        # Read again: _open has set it.
        if drive.node.state.name == DriveState.LIVE.name:
            self._tell(node)

    def _tell(self, node: DriveNode) -> None:
        _log.info("{address} is back", address=node.address)
        for joined in self._joined:
            joined(node.address)

    async def _make_room(self, drive: Drive) -> None:
        """A drive is full: what was removed need not be kept as long as elsewhere."""
        now_s = self._clock.seconds()
        if now_s - drive.purged_s < _MAKE_ROOM_INTERVAL_S:
            return
        drive.purged_s = now_s
        (outcome,) = await gather([drive.node.purge(self._now() - GARBAGE_KEPT_FULL_S)])
        if outcome.ok and outcome.value:
            _log.info(
                "{address}: {count} removed shards were deleted to make room",
                address=drive.node.address,
                count=outcome.value,
            )

    async def _purge(self) -> None:
        before = self._now() - GARBAGE_KEPT_S
        await gather(
            [
                drive.node.purge(before)
                for drive in self._drives
                if drive.node.state is DriveState.LIVE
            ]
        )

    async def sweep(self) -> None:
        """Remove temporary shards that were abandoned."""
        await gather(
            [
                drive.node.temps.sweep()
                for drive in self._drives
                if drive.node.state is DriveState.LIVE
            ]
        )

    # Stopping
