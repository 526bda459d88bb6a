"""Who is there, from the heartbeats that came."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from dostore.adapters.bus import Complaints, IBus
from dostore.adapters.remote_nodes import IRemoteNode
from dostore.core.messages import Heartbeat
from dostore.ports import Member

_log = Logger()

#: A node that is silent for so long is not live.
LIVE_S = 10.0

#: A node that is silent for so long is forgotten.
KNOWN_S = 3600.0

#: Suspicion ends by itself after so long, when no heartbeat can come to end it.
SUSPECT_S = 10.0

#: One that does not answer in time is only busy when its last heartbeat is not older than this.
LATE_S = 6.5

#: More nodes are not taken for true.
MAX_NODES = 1000


@define(eq=False)
class Peer:
    """A node, and what its last heartbeat said.

    :ivar heard_at: when that came, by the clock.
    :ivar suspected_until: it is not live before that.
    :ivar answers_until: it was asked and answered, so it can be read until then.
    """

    node: IRemoteNode
    last: Heartbeat
    heard_at: float
    suspected_until: float = float("-inf")
    answers_until: float = float("-inf")

    @property
    def address(self) -> str:
        """Where it is."""
        return self.last.address


class Membership:
    """Every node that was heard of lately.

    How long a node has been silent is told by the last sign of life of the broker, not by the
    clock: nobody can be heard through a broker that is away, so then everybody stays as they were.

    :param joined: called when a node becomes live, or writable, or has another life.
    """

    def __init__(
        self,
        bus: IBus,
        make_node: Callable[[str], IRemoteNode],
        clock: IReactorTime,
        joined: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._make_node = make_node
        self._clock = clock
        self._joined = joined
        self._complaints = Complaints(_log, clock)
        self._peers: dict[str, Peer] = {}
        self._kept: list[Peer] = []
        self._members: Sequence[Member] = ()
        self._met_at: float | None = None
        self._live: Sequence[Peer] = ()
        self._nodes: dict[str, IRemoteNode] = {}
        self._live_nodes: dict[str, IRemoteNode] = {}
        self._zones: dict[str, str] = {}
        # What was made of the peers holds until the broker is heard, or it is, as late as this.
        self._holds_until_heard = float("-inf")
        self._holds_until = float("-inf")

    # What happens

    def beat(self, heartbeat: Heartbeat) -> None:
        """A heartbeat came."""
        peer = self._peers.get(heartbeat.address)
        if peer is None:
            if not self._make_room():
                self._complaints.make(
                    "Too many nodes", f"{heartbeat.address} is one more than {MAX_NODES}"
                )
                return
            node = self._make_node(heartbeat.address)
            peer = Peer(node, heartbeat, float("-inf"))
            self._peers[heartbeat.address] = peer
        was_live, was_writable = self._is_well(peer), peer.last.writable
        reborn = peer.last.life != heartbeat.life
        changed = not was_live or peer.last != heartbeat
        peer.last, peer.heard_at = heartbeat, self._clock.seconds()
        peer.suspected_until = float("-inf")
        if changed:
            self._changed()
        if not was_live:
            _log.info("{address} is there", address=peer.address)
        if not was_live or reborn or (heartbeat.writable and not was_writable):
            self._joined(peer.address)

    def doubt(self, address: str) -> None:
        """A node did not answer in time: it is suspected, unless its last heartbeat is fresh.

        To leave out one that is busy would have the others do its work, until they are out too.
        """
        peer = self._peers.get(address)
        if peer is not None and self._clock.seconds() - peer.heard_at > LATE_S:
            self.suspect(address)

    def suspect(self, address: str) -> None:
        """A node did not take a connection: it is not live until it is heard again."""
        peer = self._peers.get(address)
        if peer is not None:
            if self._is_live(peer):
                _log.info("{address} is suspected to be away", address=address)
            peer.suspected_until = self._clock.seconds() + SUSPECT_S
            peer.answers_until = float("-inf")
            self._changed()

    def answered(self, address: str) -> None:
        """A node that is not heard of answers: it can be read, and takes no writes yet."""
        peer = self._peers.get(address)
        if peer is not None:
            _log.info("{address} answers, and was not heard of", address=address)
            peer.answers_until = self._clock.seconds() + LIVE_S
            self._changed()

    def broker(self, connected: bool) -> None:
        """The broker went away, or came back."""
        if not connected:
            self._kept = [peer for peer in self._peers.values() if self._is_heard(peer)]
            return
        if self._met_at is None:
            self._met_at = self._clock.seconds()
        # Those who were there have their time to be heard again, for they must come back too.
        for peer in self._kept:
            peer.heard_at = self._clock.seconds()
        self._kept = []
        self._changed()

    # What follows from it

    def settled(self) -> bool:
        """Whether the broker is known for so long that every node was heard that is there."""
        return self._met_at is not None and self._clock.seconds() - self._met_at >= LIVE_S

    def members(self) -> Sequence[Member]:
        """All that are known, by address."""
        self._make()
        return self._members

    def live(self) -> Sequence[Peer]:
        """The live ones, by address."""
        self._make()
        return self._live

    def nodes(self) -> dict[str, IRemoteNode]:
        """The nodes of all that are known, by address."""
        self._make()
        return self._nodes

    def live_nodes(self) -> dict[str, IRemoteNode]:
        """The nodes of the live ones, by address."""
        self._make()
        return self._live_nodes

    def away(self) -> dict[str, Peer]:
        """Those that are not live, by address."""
        live = self.live_nodes()
        return {address: peer for address, peer in self._peers.items() if address not in live}

    def zones(self) -> dict[str, str]:
        """The zones of all that are known, by address."""
        self._make()
        return self._zones

    def _make(self) -> None:
        """Make the above, unless it still holds."""
        if (
            self._bus.heard_at < self._holds_until_heard
            and self._clock.seconds() < self._holds_until
        ):
            return
        self._forget()
        now = self._clock.seconds()
        peers = sorted(self._peers.values(), key=lambda peer: peer.address)
        self._live = [peer for peer in peers if self._is_live(peer)]
        live = {peer.address for peer in self._live}
        self._members = [
            Member(
                peer.address,
                peer.node,
                peer.address in live,
                peer.last.writable and self._is_well(peer),
                peer.last.zone,
                free_bytes=peer.last.free_bytes,
            )
            for peer in peers
        ]
        self._nodes = {peer.address: peer.node for peer in peers}
        self._live_nodes = {peer.address: peer.node for peer in self._live}
        self._zones = {peer.address: peer.last.zone for peer in peers}
        self._holds_until_heard = min(
            [peer.heard_at + LIVE_S for peer in peers if self._is_heard(peer)]
            + [peer.heard_at + KNOWN_S for peer in peers],
            default=float("inf"),
        )
        times = [time for peer in peers for time in (peer.suspected_until, peer.answers_until)]
        self._holds_until = min((time for time in times if time > now), default=float("inf"))

    def _changed(self) -> None:
        self._holds_until = float("-inf")

    def _is_heard(self, peer: Peer) -> bool:
        return self._bus.heard_at - peer.heard_at < LIVE_S

    def _is_well(self, peer: Peer) -> bool:
        return self._is_heard(peer) and peer.suspected_until <= self._clock.seconds()

    def _is_live(self, peer: Peer) -> bool:
        return self._is_well(peer) or peer.answers_until > self._clock.seconds()

    def _forget(self) -> None:
        for address, peer in list(self._peers.items()):
            if self._bus.heard_at - peer.heard_at >= KNOWN_S:
                _log.info("{address} is forgotten", address=address)
                del self._peers[address]

    def _make_room(self) -> bool:
        """Whether there is room for one more, if need be in the place of one long silent."""
        if len(self._peers) < MAX_NODES:
            return True
        silent = [peer for peer in self._peers.values() if not self._is_heard(peer)]
        if silent:
            del self._peers[min(silent, key=lambda peer: peer.heard_at).address]
        return bool(silent)
