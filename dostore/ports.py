"""The ports: what the service asks of metadata, of the cluster and of a node.

Each has an adapter for one machine, which is also the fake of the service's tests, and later one
for a cluster; ``tests/contract`` states the promises below as tests and runs them against every
adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from attrs import frozen
from zope.interface import Attribute, Interface

from dostore.core.model import Content, Draft, ShardInfo, Version
from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.temp_state import MAX_NOTE_BYTES as MAX_NOTE_BYTES
from dostore.core.temp_state import Tail as Tail
from dostore.core.temp_state import TempAbout as TempAbout
from dostore.core.temp_state import TempState as TempState

#: How long the slower nodes get when enough others have done their part.
PUT_GRACE_S = 5.0

#: A claim on a temporary shard lasts this long, unless it is renewed or released before.
CLAIM_S = 10.0

#: Raises a DostoreError when a write is not permitted on top of the current version (None: there is
#: none). It may be called more than once, on any thread, and must be a pure function.
Check = Callable[[Version | None], None]


class IWorkers(Interface):
    """Runs blocking functions away from the reactor's thread."""

    async def run(function: Callable[..., Any], *args: object) -> Any:
        """Call from the reactor's thread: what ``function(*args)`` returns or raises.

        Cancelling drops the result; a function that has begun runs to its end.
        """

    def submit(function: Callable[..., Any], *args: object) -> Future[Any]:
        """Call from any thread: the outcome as a Future, set in the worker's thread."""

    def backlog() -> int:
        """How many jobs wait or run."""


class IByteSource(Interface):
    """Bytes that arrive; awaiting is the back-pressure."""

    async def read(size: int) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end, none after it.

        :raises DostoreError: when the rest cannot be had (IncompleteBody, RequestTimeout).
        """

    async def read_some(size: int) -> bytes:
        """What has come and was not read, at most ``size`` bytes; waits until there is any. None at
        the end.

        All that came before the source failed is handed out before the error.

        :raises DostoreError: see :meth:`read`.
        """


class IByteSink(Interface):
    """Bytes that leave; awaiting is the back-pressure."""

    async def write(pieces: Sequence[bytes | memoryview]) -> None:
        """Take the pieces, in order, and return when more is welcome.

        The pieces may not be changed afterwards.
        """


class IMetadataStore(Interface):
    """Versions of objects.

    Numbers of a name are 1, 2, 3, …: they never repeat and never skip, whatever number of writers.
    What a returned :meth:`add` wrote is durable and seen by every later read. Names are ordered by
    code points. Every method raises MetadataUnavailable when the store is out of reach.
    """

    async def add(draft: Draft, check: Check | None = None) -> Version:
        """Make the next version of ``draft.name`` and number it.

        ``check`` is applied to the very version that this one follows; its error is raised as is
        and nothing is written.
        """

    async def latest(name: str) -> Version | None:
        """The newest version, tombstones included."""

    async def get(name: str, number: int) -> Version | None:
        """Version ``number``, or None."""

    async def history(name: str, first: int, limit: int) -> Sequence[Version]:
        """At most ``limit`` versions of one name numbered ``first`` or more, ascending."""

    async def current(prefix: str, start: str, limit: int) -> Sequence[Version]:
        """The newest versions that are no tombstones, of names >= ``start`` that begin with
        ``prefix``; at most ``limit``, ascending by name.
        """

    async def versions(prefix: str, start: str, first: int, limit: int) -> Sequence[Version]:
        """Every version of names that begin with ``prefix``, ascending by name, then number, from
        version ``first`` of the name ``start`` on (all versions of later names); at most ``limit``.
        """

    async def referenced(hashes: Collection[ContentHash]) -> set[ContentHash]:
        """Those of ``hashes`` that some version refers to."""

    async def created() -> float:
        """When this store of versions began, in seconds since the epoch. Contents that are older
        may belong to one that was lost.
        """

    async def ping() -> None:
        """Return when the store can take reads and writes."""


class IShardReader(Interface):
    """An open shard. Its footer was verified; blocks are verified as they are read."""

    info: ShardInfo = Attribute("What the footer says.")

    async def read(first: int, count: int) -> bytes | memoryview:
        """The plain bytes of ``count`` blocks from block ``first`` on.

        :raises BadShard: a block does not match its check; nothing of this call is returned, other
            blocks may still be read.
        :raises NodeUnavailable: the node is out of reach.
        """

    async def close() -> None:
        """Release the shard. Idempotent."""


class IShardWriter(Interface):
    """A shard that is being written; nothing of it can be read before the commit."""

    async def write(blocks: Sequence[bytes | memoryview]) -> None:
        """Append blocks; only the last block of a shard may be shorter than the scheme's.

        Returns when more is welcome, which may be before the bytes are on disk. The blocks may not
        be changed afterwards.

        :raises NodeUnavailable, NoSpace: this write or an earlier one failed; abort is all that is
            left.
        """

    async def commit(content: Content) -> None:
        """Make the shard durable and findable as a shard of ``content``."""

    async def abort() -> None:
        """Leave nothing behind. Idempotent; does nothing after a commit."""


class ITempShards(Interface):
    """Shards that are written over several requests, maybe over several lives of the process.

    Each goes by a token that cannot be guessed. What was appended stays when the process ends. Who
    writes one that others might write too claims it: until the claim is released, or was not
    renewed for CLAIM_S, every change by another owner, and by none, is refused with Conflict.

    Every method raises NodeUnavailable like a node's, and those that take a token NotFound when
    there is no such shard (any more). Each use of a token puts off its sweep.
    """

    async def open(about: TempAbout, token: str | None = None) -> str:
        """Begin a temporary shard; its token.

        :param token: 32 hexadecimal digits that it shall have; None: any.
        :raises Conflict: the token is taken.
        """

    async def about(token: str) -> TempState:
        """What is known of it, at little cost however large it is."""

    async def claim(token: str, owner: str) -> TempState:
        """Have it for oneself, from now on or for CLAIM_S more; what is known of it.

        :param owner: 32 hexadecimal digits, chosen anew by each writer.
        :raises Conflict: another owner has it.
        """

    async def release(token: str, owner: str) -> None:
        """End a claim. Another's, or none: nothing happens."""

    async def append(token: str, source: IByteSource, offset: int | None, owner: str = "") -> int:
        """Append all that the source yields; how many bytes are held then. Renews the claim.

        What came before the source failed is kept, as far as it is whole blocks.

        :param offset: how many bytes must be held before; None: any number.
        :raises Conflict: another number is held, another call is under way, or another owner has
            it.
        :raises TooLarge: more than the shard takes; what was too much is not kept.
        :raises NoSpace: the drive is full.
        """

    async def cut(token: str, held: int, owner: str = "") -> None:
        """Forget what comes after the first ``held`` bytes, which are whole blocks.

        :raises Conflict: fewer bytes are held, another call is under way, or another owner has it.
        """

    async def settle(token: str, tail: Tail | None, owner: str = "") -> None:
        """Make what is held durable, and ``tail`` in the place of the tail from before.

        A power cut takes what was appended after this, and nothing else. Renews the claim.

        :raises Conflict: another call is under way, or another owner has it.
        :raises NoSpace: the drive is full; the tail from before is kept.
        """

    async def read(token: str, offset: int, size: int) -> bytes:
        """Up to ``size`` of the bytes held, from ``offset`` on; fewer than asked for is no end.

        :raises BadShard: a block is not what was appended.
        """

    async def commit(
        token: str, content: Content, shard_hash: bytes | None, owner: str = ""
    ) -> None:
        """Make it a durable shard of ``content``; it is no temporary one any more.

        One that was opened with its content and how long to keep it is still known, as committed,
        until it is dropped or as long as that: it can be asked for, claimed and committed again.

        :param shard_hash: what the shard's hash must be; None: anything.
        :raises InvalidRequest: the bytes held are no shard of such a content, or have another hash.
            Nothing is kept.
        :raises Conflict: another owner has it.
        """

    async def drop(token: str) -> None:
        """Remove it, if it is there, whoever has claimed it. An append under way fails.

        Of one that is committed, only what tells of that is removed.
        """


class IShardNode(Interface):
    """A place that keeps shards: a drive or a data server.

    Every method raises NodeUnavailable when the place is out of reach or its drive fails.
    """

    address: str = Attribute("What the node is called, stable over restarts.")
    temps: ITempShards = Attribute("The node's shards that are written over several requests.")

    async def begin(index: int, scheme: Scheme) -> IShardWriter:
        """Start shard ``index`` of a content whose hash may not be known yet."""

    async def put(content: Content, index: int, blocks: Sequence[bytes | memoryview]) -> None:
        """Keep one whole small shard, in one step; durable on return.

        :raises NoSpace: the drive is full; nothing is left behind.
        """

    async def open(content_hash: ContentHash, index: int, size: int | None = None) -> IShardReader:
        """Open a shard for reading.

        :param size: plain bytes of the shard, when they are known: a large one may be asked for in
            another way.
        :raises ShardMissing: the node does not hold it.
        :raises BadShard: it does, but its footer is damaged or another shard's. The node has put
        the
            file out of the way.
        """

    async def holds(content_hash: ContentHash) -> Collection[int]:
        """The indexes of the shards that the node has of a content, as far as it knows."""

    async def renew(content_hash: ContentHash) -> None:
        """Set the time of a content's shards to now, so that no collector takes them for old."""

    async def modified(content_hash: ContentHash) -> float:
        """When a shard of a content was last written or renewed here, in seconds since the epoch.

        :raises ShardMissing: the node has none of it.
        """

    async def glance(
        wanted: Sequence[tuple[Content, int]],
    ) -> Sequence[tuple[Content, int]]:
        """Those of the wanted shards that are not there or not whole. Asked for many at once, and
        shards that were found right and not touched since are not read again, so it costs little.
        """

    async def discard(content_hash: ContentHash, index: int) -> None:
        """Put a damaged shard out of the way, into ``garbage/``. Not there: nothing happens."""

    async def delete(content_hash: ContentHash) -> None:
        """Move every shard of a content to ``garbage/``. Idempotent."""

    async def inventory(page: int) -> Mapping[ContentHash, Collection[int]]:
        """What the node holds of contents whose hash begins with the byte ``page`` (0 to 255)."""


@frozen(slots=True)
class Member:
    """A node as the cluster sees it now.

    :ivar live: it answers; its shards can be read.
    :ivar writable: it is live and takes shards (its drive is neither full nor read-only).
    :ivar zone: what it shares with the nodes that are likely to fail together with it.
    :ivar full: it is not writable because it has no room.
    :ivar free_bytes: what it has room for, as it was last told; None: not known.
    """

    address: str
    node: IShardNode
    live: bool
    writable: bool
    zone: str = ""
    full: bool = False
    free_bytes: int | None = None


class ICluster(Interface):
    """Who keeps shards."""

    asking_costs: bool = Attribute(
        "Whether asking a node what it has takes about as long as having it keep a small shard."
    )

    def members() -> Sequence[Member]:
        """Every node that is known, the ones that are away included, in a stable order.

        As long as nothing has changed it may be, and mostly is, the very same object.
        """

    def expected(content_hash: ContentHash, shards: int) -> Mapping[int, Sequence[str]]:
        """Where the shards 0 … ``shards - 1`` of a content should be: addresses by shard index.

        Asks nobody, so it may be wrong: a shard that is not there is looked for by :meth:`locate`.
        """

    def read_now(content: Content, start: int, stop: int) -> memoryview | None:
        """The bytes ``start`` … ``stop - 1`` (at least one) of a content, verified, if they are few
        and all in this machine's memory, so that nothing has to be waited for.

        :returns: None when they cannot be had so, for whatever reason: open the shards.
        """

    async def fetch(content: Content) -> bytes | None:
        """All bytes of a small content, its blocks verified, from the nodes where its data shards
        should be, when they are on other machines.

        :returns: None when they cannot be had so, for whatever reason: open the shards.
        """

    async def locate(
        content_hash: ContentHash, everywhere: bool = True
    ) -> Mapping[int, Sequence[str]]:
        """Which live nodes say that they hold which shards: addresses by shard index.

        Returns when every node asked has said what it has, or had its time to.

        :param everywhere: ask every live node; else only those that the content ranks first, where
            it is unless nodes came or went.
        """

    async def look_again(content_hash: ContentHash) -> bool:
        """Ask nodes that count as away, and should have some of a content, whether they are there:
        for who would else have to say that it is out of reach. Soon after it was in vain, for
        whomever, nobody is asked.

        :returns: whether some answered; they are live for a while, but take no writes.
        """

    async def put(
        content: Content,
        placed: Mapping[int, str],
        shards: Sequence[Sequence[bytes | memoryview]],
        need: int,
        *,
        only_new: bool = False,
    ) -> Mapping[int, Exception | None]:
        """Put whole small shards, each on a node, as IShardNode.put does.

        As soon as ``need`` are there, or so many have failed that ``need`` no longer can be, the
        others get PUT_GRACE_S more; those that are left then are given up, and may be there later
        all the same. So they may when the caller is cancelled.

        :param placed: the address of the node for each shard, by index.
        :param shards: the blocks of each shard.
        :param only_new: the content is taken for new: a node that has any shard of it, can give one
            back, or is getting one, keeps nothing, and AlreadyHeld is why. So of several who put
            the same content so at the same time, one at most meets no AlreadyHeld.
        :returns: by index, None for a shard that is there, durably, else why it is not; nothing
            for those that were given up.
        """

    def placed(content_hash: ContentHash, holders: Mapping[int, str]) -> None:
        """Note that shards were written to these addresses, for :meth:`expected`."""

    def settled() -> bool:
        """Whether every node there is has had its time to be known. Before that, what is not found
        may be on one that is not.
        """

    def complaint() -> str:
        """What an operator should know of the cluster itself, in a sentence; empty: nothing."""

    def watch(joined: Callable[[str], None]) -> None:
        """Have ``joined(address)`` called whenever a node becomes live or writable again, or may
        have other shards than before.
        """
