"""ICluster on one machine: the drives, who they are, and a watch over how they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.drive_marker import Found
from dostore.adapters.drive_opening import Drive, DriveOpening
from dostore.adapters.drive_puts import Puts
from dostore.adapters.drive_store import DriveStore
from dostore.adapters.drive_watch import DriveWatch
from dostore.adapters.files import Files
from dostore.adapters.node_local import DriveNode, DriveState, Pages
from dostore.core.model import Content
from dostore.core.names import ContentHash, ShardName
from dostore.core.scheme import Scheme
from dostore.core.shard_places import InFile, InVolume, ShardPlace
from dostore.core.window import Window
from dostore.errors import AlreadyHeld, ConfigError, NodeUnavailable
from dostore.fanout import gather, with_timeout
from dostore.ports import ICluster, Member
from dostore.threads import IWorkers

_log = Logger()

#: Every drive is looked at this often.
WATCH_INTERVAL_S = 2.0

#: Stopping waits so long for small shards to be synced in their files.
STOP_S = 10.0

#: To read so much from the system's memory, and verify it, takes the reactor a few tenths of a
#: millisecond; to have it done by threads would take it longer.
AT_ONCE_BYTES = 1 << 20


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
        self._clock = clock
        self._puts = Puts(clock, soon, call_in_reactor)
        self._members: Sequence[Member] | None = None
        self._pages: Sequence[Pages] | None = None
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
        self._opening = DriveOpening(self.drives, scheme, files, clock, address)
        self._watch = DriveWatch(self.drives, self._opening, files, clock, now)
        for drive in self.drives:
            drive.node.changed = self._changed

    @property
    def store_id(self) -> str:
        """Of the store that the drives are of; known when they are started."""
        return self._opening.store_id

    @property
    def temp_files_removed(self) -> int:
        """How many files of unfinished shards a crash had left."""
        return self._opening.temp_files_removed

    def _trouble(self, node: DriveNode) -> None:
        self._watch.trouble(node)

    # ICluster

    def members(self) -> Sequence[Member]:
        """See ICluster."""
        members = self._members
        if members is None:
            members = self._members = [
                Member(
                    drive.node.address,
                    drive.node,
                    drive.node.state is not DriveState.AWAY,
                    drive.node.state is DriveState.LIVE,
                    full=drive.node.full,
                    free_bytes=drive.free_bytes,
                )
                for drive in self.drives
            ]
        return members

    def _changed(self) -> None:
        """What is told of the drives may be otherwise. Called on any thread."""
        self._members = self._pages = None

    def expected(self, content_hash: ContentHash, shards: int) -> Mapping[int, Sequence[str]]:
        """See ICluster. The drives' indexes are in memory, so it is what is there."""
        found: dict[int, list[str]] = {}
        if not self._may_have(content_hash.digest):
            return found
        for drive in self.drives:
            if drive.node.state is not DriveState.AWAY:
                for index in drive.node.held(content_hash):
                    found.setdefault(index, []).append(drive.node.address)
        return found

    async def look_again(self, content_hash: ContentHash) -> bool:
        """See ICluster. A drive is looked at all the time."""
        return False

    def _may_have(self, digest: bytes) -> bool:
        """Whether any drive may have something of a content; only by chance none has.

        None has of most that is asked for: each content that is put.
        """
        pages = self._pages
        if pages is None:
            pages = self._pages = [drive.node.pages() for drive in self.drives]
        first = digest[0]
        number = first << 7 | digest[1] >> 1
        for files, garbage, packed, removed in pages:
            if (
                digest in files[first]
                or digest in packed[number]
                or digest in garbage[first]
                or digest in removed[number]
            ):
                return True
        return False

    def read_now(self, content: Content, start: int, stop: int) -> memoryview | None:
        """See ICluster."""
        window = Window.around(content, start, stop)
        if window is None or window.size > AT_ONCE_BYTES:
            return None
        found: dict[int, DriveNode] = {}
        for drive in self.drives:
            for index in drive.node.readable(content.hash):
                found[index] = drive.node
        for index in window.shards:
            if index not in found:
                return None
        buffer = memoryview(bytearray(window.size))
        for index in window.shards:
            if not found[index].read_now(index, window, buffer):
                return None
        return buffer[window.before : window.before + stop - start]

    def places(self, content: Content) -> list[ShardPlace]:
        """Where the data shards of a content are, as far as they can be read."""
        found: dict[int, ShardPlace] = {}
        for position, drive in enumerate(self.drives):
            for name in drive.node.names(content.hash):
                if name.index >= content.scheme.k:
                    continue
                if isinstance(name, ShardName):
                    found[name.index] = InFile(position, name.index, name.shard_hash)
                elif (seed := drive.store.volumes.seed_of(name.volume)) is not None:
                    found[name.index] = InVolume(
                        position, name.index, name.volume, seed, name.offset, name.length
                    )
        return list(found.values())

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
        self._watch.tell(joined)

    def pace(self, follow: Callable[[Callable[[], None]], bool]) -> None:
        """Have small contents wait for what is being done with those before; see Puts."""
        self._puts.follow = follow

    async def put(
        self,
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[bytes | memoryview]],
        need: int,
        *,
        only_new: bool = False,
    ) -> Mapping[int, Exception | None]:
        """See ICluster."""
        if not only_new:
            return await self._puts.put(content, placed, shards, need)
        # Where asking costs nothing, nobody has need of this.
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
        found = await self._opening.begin()
        self._puts.begin(drive.node for drive in self.drives)
        self._changed()
        opened = await gather(
            [self._opening.open(drive, what) for drive, what in found if what is not Found.GONE]
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
        self._watch.start()

    async def stop(self) -> None:
        """Stop watching and give the drives free."""
        await self._watch.stop()
        # Else the next start would do it.
        await gather(
            [
                with_timeout(
                    self._watch.checkpoint(drive, last=True),
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
            self._opening.release(drive)
        # Those who wait have been told.
        self._puts.stop()
