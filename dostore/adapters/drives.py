"""ICluster on one machine: the drives, who they are, and a watch over how they are."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters import drive_marker
from dostore.adapters.drive_marker import BadMarker, Found, Marker
from dostore.adapters.drive_puts import Puts
from dostore.adapters.drive_store import DriveStore
from dostore.adapters.files import Files
from dostore.adapters.node_local import FULL, DriveNode, DriveState
from dostore.adapters.volume_emptying import next_to_empty
from dostore.adapters.volume_state import Place
from dostore.background import Background
from dostore.core.model import Content
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import Scheme
from dostore.core.window import Window
from dostore.errors import AlreadyHeld, ConfigError, DostoreError, NodeUnavailable
from dostore.fanout import gather, with_timeout
from dostore.ports import ICluster, Member
from dostore.threads import IWorkers

_log = Logger()

#: Every drive is looked at this often.
WATCH_INTERVAL_S = 2.0

#: A look that takes longer than this says that the drive hangs.
HUNG_AFTER_S = 3.0

#: A drive none of whose calls ends for so many looks, while some wait, hangs too: a look may be
#: answered from the system's memory. A minute, for one sync of very much may take half of that.
STUCK_LOOKS = 30

#: A drive that was full takes writes again when this many bytes are free, so that it is not found
#: full again by the next write.
FREE_AGAIN_BYTES = 16 << 20

#: Stopping waits so long for small shards to be synced in their files.
STOP_S = 10.0

#: What was removed can be given back for this long.
GARBAGE_KEPT_S = 24 * 3600.0

#: On a full drive it makes room earlier. Nothing that is under way asks for it so late.
GARBAGE_KEPT_FULL_S = 3600.0

#: A full drive is purged at most this often.
_MAKE_ROOM_INTERVAL_S = 600.0
_PURGE_INTERVAL_S = 3600.0

#: To read so much from the system's memory, and verify it, takes the reactor a few tenths of a
#: millisecond; to have it done by threads would take it longer.
AT_ONCE_BYTES = 1 << 20

#: How often temporary shards that nobody goes on with are looked for.
SWEEP_INTERVAL_S = 30.0


@define(eq=False)
class Drive:
    """A drive's folder and its parts.

    :ivar workers: threads for its shards.
    :ivar watcher: one thread for looking at it, so that a look never queues behind work.
    :ivar looks: how many looks found ``ended`` calls ended, and others waiting.
    :ivar losses: how many of its shards were found gone when others were last told.
    :ivar device: the number of the file system that its folder was on.
    :ivar free_bytes: its room when it was last looked at.
    :ivar purged_s: when it was last purged to make room, by the reactor's clock.
    """

    folder: str
    node: DriveNode
    watcher: IWorkers
    number: int = 0
    lock_fd: int | None = None
    looking: bool = False
    checkpointing: bool = False
    emptying: bool = False
    losses: int = 0
    ended: int = 0
    looks: int = 0
    device: int = 0
    free_bytes: int | None = None
    purged_s: float = float("-inf")

    @property
    def store(self) -> DriveStore:
        """Its files."""
        return self.node.store


@implementer(ICluster)
class DriveSet:
    """The drives of a store on this machine.

    :param folders: one for each drive, absolute, at least k + m.
    :param scheme: how the contents of a store on this machine are cut; None: the one folder is a
        data server's, which keeps shards of every scheme.
    :param make_workers: threads by name and number.
    :param compression_level: to compress shards by; None: not to.
    :param pack_below: shards of contents of fewer bytes are packed.
    :param kept_files: how many files of shards are kept open.
    :param address: what the drive of a number is called.
    :param soon: calls at the end of the reactor's turn, so that what comes together is written
        together.
    :param call_in_reactor: calls in the reactor's thread what the drives' threads have to tell.
    :param now: the time of day in seconds since the epoch, for the age of garbage and of what was
        abandoned.
    """

    asking_costs = False

    def __init__(
        self,
        folders: Sequence[str],
        scheme: Scheme | None,
        *,
        files: Files,
        make_workers: Callable[[str, int], IWorkers],
        clock: IReactorTime,
        now: Callable[[], float],
        sync: bool = True,
        compression_level: int | None = None,
        pack_below: int = 0,
        kept_files: int = 0,
        address: Callable[[int], str] = "drive-{}".format,
        soon: Callable[[Callable[[], None]], object] = lambda call: call(),
        call_in_reactor: Callable[[Callable[[], None]], object] = lambda call: call(),
    ) -> None:
        self._scheme = scheme
        self._address = address
        self._files = files
        self._clock = clock
        self._now = now
        self._background = Background("dostore.drives")
        self._puts = Puts(clock, soon, call_in_reactor)
        self._joined: list[Callable[[str], None]] = []
        self._members: Sequence[Member] = ()
        self._told: list[tuple[str, DriveState, bool, int | None]] | None = None
        self.store_id = ""
        self.temp_files_removed = 0
        self.drives = [
            Drive(
                folder,
                DriveNode(
                    address(position),
                    DriveStore(
                        folder,
                        files,
                        sync=sync,
                        compression_level=compression_level,
                        pack_below=pack_below,
                        kept_files=kept_files // len(folders),
                        now=now,
                    ),
                    make_workers(f"drive-{position}", 4),
                    self._trouble,
                    clock=clock,
                    now=now,
                ),
                make_workers(f"watch-{position}", 1),
            )
            for position, folder in enumerate(folders, 1)
        ]

    # ICluster

    def members(self) -> Sequence[Member]:
        """See ICluster."""
        told = [
            (drive.node.address, drive.node.state, drive.node.full, drive.free_bytes)
            for drive in self.drives
        ]
        if told != self._told:
            self._told = told
            self._members = [
                Member(
                    address,
                    drive.node,
                    state is not DriveState.AWAY,
                    state is DriveState.LIVE,
                    full=full,
                    free_bytes=free_bytes,
                )
                for drive, (address, state, full, free_bytes) in zip(self.drives, told, strict=True)
            ]
        return self._members

    def expected(self, content_hash: ContentHash, shards: int) -> Mapping[int, Sequence[str]]:
        """See ICluster. The drives' indexes are in memory, so it is what is there."""
        found: dict[int, list[str]] = {}
        for drive in self.drives:
            if drive.node.state is not DriveState.AWAY:
                for index in drive.node.held(content_hash):
                    found.setdefault(index, []).append(drive.node.address)
        return found

    def read_now(self, content: Content, start: int, stop: int) -> memoryview | None:
        """See ICluster."""
        window = Window.around(content, start, stop)
        if window is None or window.size > AT_ONCE_BYTES:
            return None
        found: dict[int, tuple[DriveNode, ShardName | Place]] = {}
        for drive in self.drives:
            for name in drive.node.names(content.hash):
                found[name.index] = (drive.node, name)
        if not all(index in found for index in window.shards):
            return None
        buffer = memoryview(bytearray(window.size))
        told = memoryview(bytearray(window.told_bytes))
        for index in window.shards:
            node, name = found[index]
            if not node.read_now(name, window, buffer, told):
                return None
        return buffer[window.before : window.before + stop - start]

    async def fetch(self, content: Content) -> bytes | None:
        """See ICluster: nothing is on another machine."""
        return None

    async def locate(
        self, content_hash: ContentHash, everywhere: bool = True
    ) -> Mapping[int, Sequence[str]]:
        """See ICluster."""
        return self.expected(content_hash, 0)

    def placed(self, content_hash: ContentHash, holders: Mapping[int, str]) -> None:
        """See ICluster. The drives know by themselves."""

    def settled(self) -> bool:
        """See ICluster. The drives are known from the start."""
        return True

    def complaint(self) -> str:
        """See ICluster. The drives are all there is."""
        return ""

    def watch(self, joined: Callable[[str], None]) -> None:
        """See ICluster."""
        self._joined.append(joined)

    def pace(self, follow: Callable[[Callable[[], None]], bool]) -> None:
        """Have small contents wait for what is being done with those before; see Puts."""
        self._puts.follow = follow

    async def put(
        self,
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[bytes | memoryview]],
        need: int,
    ) -> Mapping[int, Exception | None]:
        """See ICluster."""
        return await self._puts.put(content, placed, shards, need)

    async def put_new(
        self,
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[bytes | memoryview]],
        need: int,
    ) -> Mapping[int, Exception | None]:
        """See ICluster. Who is asked nothing that costs has no need of it."""
        holders = {d.node.address for d in self.drives if d.node.held(content.hash)}
        outcomes: dict[int, Exception | None] = {
            index: AlreadyHeld(f"{address} has a shard of this content.")
            for index, address in placed.items()
            if address in holders
        }
        free = {index: address for index, address in placed.items() if index not in outcomes}
        outcomes.update(await self._puts.put(content, free, shards, need))
        return outcomes

    # Starting

    async def start(self) -> None:
        """Take the drives, scan them and begin to watch them.

        A drive that is out of reach is left away; a new folder becomes a drive.

        :raises ConfigError: a folder is another store's, was made with another k + m or by a newer
            program, holds other files, is in use, or no drive can be reached at all.
        """
        looks = await gather([self._first_look(drive) for drive in self.drives])
        found: list[tuple[Drive, Marker | Found]] = []
        for drive, look in zip(self.drives, looks, strict=True):
            if isinstance(look.error, (OSError, BadMarker)):
                found.append((drive, Found.GONE))
            else:
                found.append((drive, look.value))
        self._identify(found)
        for drive, look in zip(self.drives, looks, strict=True):
            if isinstance(look.error, (OSError, BadMarker)):
                # Only now it is known what the drive is called.
                drive.node.degrade(DriveState.AWAY, _reason(look.error))
        opened = await gather(
            [self._open(drive, what) for drive, what in found if what is not Found.GONE]
        )
        for outcome in opened:
            if outcome.error is not None:
                await self.stop()
                raise outcome.error
        if not any(drive.node.state is DriveState.LIVE for drive in self.drives):
            await self.stop()
            raise ConfigError(
                "None of the drives can be used: "
                + "; ".join(f"{d.folder}: {d.node.reason}" for d in self.drives)
            )
        for drive in self.drives:
            # Each by itself: one that hangs while it is scanned must not keep others from a look.
            self._background.periodic(
                f"watch {drive.node.address}",
                WATCH_INTERVAL_S,
                partial(self._watch_one, drive),
                self._clock,
            )
        self._background.periodic("purge", _PURGE_INTERVAL_S, self._purge, self._clock)
        self._background.run("first sweep", self._sweep())
        self._background.periodic("sweep", SWEEP_INTERVAL_S, self._sweep, self._clock)

    async def _first_look(self, drive: Drive) -> Marker | Found:
        def look() -> Marker | Found:
            if not self._files.is_folder(drive.folder):
                self._files.make_folder(drive.folder)
                self._files.sync_folder(os.path.dirname(drive.folder))
            return drive_marker.look(drive.folder, self._files)

        what: Marker | Found = await with_timeout(
            drive.watcher.run(look),
            HUNG_AFTER_S,
            self._clock,
            lambda: OSError(0, "it hangs"),
        )
        drive_marker.require_ours(what, None, self._scheme, drive.folder)
        return what

    def _identify(self, found: Sequence[tuple[Drive, Marker | Found]]) -> None:
        """Settle the store's id and every drive's number.

        A drive keeps the number that its marker says, wherever it is mounted now.
        """
        markers = [(drive, what) for drive, what in found if isinstance(what, Marker)]
        for drive, what in found:
            # Beside drives of a store it is one of them, for whatever shards are in it tell what
            # they are. Alone it might be anybody's.
            if what is Found.UNMARKED and not markers:
                raise ConfigError(
                    f"{drive.folder} {what.value}, and so has every other drive. Restore one of "
                    f"the files {drive_marker.FILE_NAME}, or give dostore empty folders."
                )
        self.store_id = markers[0][1].store if markers else str(uuid.uuid4())
        taken: dict[int, str] = {}
        for drive, marker in markers:
            marker.require(self.store_id, self._scheme, drive.folder)
            if marker.number in taken:
                raise ConfigError(
                    f"{drive.folder} and {taken[marker.number]} are both drive {marker.number}: "
                    "one is a copy. Remove it, or empty its folder to have it rebuilt."
                )
            taken[marker.number] = drive.folder
            drive.number = marker.number
        for position, drive in enumerate(self.drives, 1):
            if drive.number == 0:
                free = [n for n in range(1, len(self.drives) + 1) if n not in taken]
                drive.number = position if position in free else free[0]
                taken[drive.number] = drive.folder
            drive.node.address = self._address(drive.number)
        self._puts.begin(drive.node for drive in self.drives)

    async def _open(self, drive: Drive, what: Marker | Found) -> None:
        try:
            self.temp_files_removed += await drive.node.workers.run(self._prepare, drive, what)
            index, garbage = await drive.node.workers.run(drive.store.scan)
        except OSError as error:
            self._release(drive)
            drive.node.degrade(DriveState.AWAY, error.strerror or "it fails")
            return
        drive.node.come(index, garbage)
        _log.info(
            "{address} at {folder}: shards of {contents} contents",
            address=drive.node.address,
            folder=drive.folder,
            contents=drive.node.contents,
        )

    def _prepare(self, drive: Drive, what: Marker | Found) -> int:
        """Runs on a worker thread. How many temporary files were removed."""
        drive.lock_fd = drive_marker.lock(drive.folder, self._files)
        # First: without it, folders that a crash here leaves would be taken for somebody's files.
        if what is Found.EMPTY or what is Found.UNMARKED:
            marker = Marker.made(self.store_id, drive.number, self._scheme)
            drive_marker.write(drive.folder, marker, self._files)
        drive.store.prepare()
        drive.device, _ = self._files.identity(drive.folder)
        drive.free_bytes = self._files.free_bytes(drive.folder)
        return drive.store.clean_temp()

    # Watching

    def _trouble(self, node: DriveNode) -> None:
        """An operation met an error: look now, not at the next interval."""
        for drive in self.drives:
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
            self._background.run(f"checkpoint {node.address}", self._checkpoint(drive))
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

    async def _checkpoint(self, drive: Drive, last: bool = False) -> None:
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
            self._release(drive)
            return
        except OSError as error:
            state = DriveState.AWAY if node.state is DriveState.AWAY else DriveState.READ_ONLY
            node.degrade(state, error.strerror or "it fails", full=error.errno in FULL)
            if state is DriveState.READ_ONLY and node.full:
                self._background.run("make room", self._make_room(drive))
            return
        if what is Found.GONE or what is Found.STRANGE:
            node.degrade(DriveState.AWAY, f"{drive.folder} {what.value}")
            self._release(drive)
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
            what.require(self.store_id, self._scheme, drive.folder)
            if what.number != drive.number:
                raise ConfigError(
                    f"{drive.folder} holds drive {what.number}, not {drive.number}. "
                    "Restart dostore to have drives in other places taken for what they are."
                )
            drive.free_bytes = self._files.free_bytes(drive.folder)
            if drive.node.state is not DriveState.AWAY and not drive.store.is_prepared():
                return Found.INCOMPLETE
            if drive.node.state is DriveState.READ_ONLY:
                drive.store.probe()
                if drive.free_bytes < FREE_AGAIN_BYTES:
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
        self._release(drive)
        try:
            await self._open(drive, what)
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
                for drive in self.drives
                if drive.node.state is DriveState.LIVE
            ]
        )

    async def _sweep(self) -> None:
        """Remove temporary shards that were abandoned."""
        await gather(
            [
                drive.node.temps.sweep()
                for drive in self.drives
                if drive.node.state is DriveState.LIVE
            ]
        )

    # Stopping

    def _release(self, drive: Drive) -> None:
        drive.node.release()
        fd, drive.lock_fd = drive.lock_fd, None
        if fd is not None:
            os.close(fd)

    async def stop(self) -> None:
        """Stop watching and give the drives free."""
        await self._background.stop(self._clock, 0.0)
        # Else the next start would do it.
        await gather(
            [
                with_timeout(
                    self._checkpoint(drive, last=True),
                    STOP_S,
                    self._clock,
                    lambda: NodeUnavailable("The journal is kept."),
                )
                for drive in self.drives
                if drive.node.state is DriveState.LIVE
            ]
        )
        for drive in self.drives:
            drive.node.stop()
            self._release(drive)
        # Those who wait have been told.
        self._puts.stop()


def _reason(error: OSError | BadMarker) -> str:
    if isinstance(error, BadMarker):
        return error.detail
    return error.strerror or "it fails"
