"""Claims on temporary shards: who may write one, and until when."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from dostore.errors import Conflict
from dostore.ports import CLAIM_S

#: Claims that have ended are forgotten when there are more than this.
_CLAIMS = 1024


@frozen(slots=True)
class _Claim:
    """Who has a shard, and until when, by the clock."""

    owner: str
    until: float


class Claims:
    """Those on the shards of a drive.

    :param clock: how they run out.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._claims: dict[str, _Claim] = {}

    def owner(self, token: str) -> str | None:
        """Who claimed a shard last and has not given it back, be it that it has run out."""
        claim = self._claims.get(token)
        return None if claim is None else claim.owner

    def require(self, token: str, owner: str) -> None:
        """Refuse anybody but the owner.

        :raises Conflict: somebody else has it.
        """
        claim = self._claims.get(token)
        if claim is not None and claim.owner != owner and claim.until > self._clock.seconds():
            raise Conflict("Somebody else is writing this shard. Wait for the end of that.")

    def renew(self, token: str, owner: str) -> None:
        """Have a shard from now on; an owner without a name has none."""
        if not owner:
            return
        now = self._clock.seconds()
        self._claims[token] = _Claim(owner, now + CLAIM_S)
        if len(self._claims) > _CLAIMS:
            self._claims = {t: claim for t, claim in self._claims.items() if claim.until > now}

    def drop(self, token: str) -> None:
        """End a claim; nothing happens when there is none."""
        self._claims.pop(token, None)
