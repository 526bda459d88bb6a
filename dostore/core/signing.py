"""Signatures of requests inside the cluster: by a shared secret, once, to one server, for a minute.

::

    Authorization: DOSTORE-HMAC-SHA256 time=<seconds>, nonce=<base64url>, mac=<base64url>

    mac = HMAC-SHA256(secret, "dostore-1" LF method LF host LF target LF time LF nonce LF digest)

``host`` is the Host field, ``target`` path and query as they are sent, ``digest`` the Digest field
or nothing. ``time`` is decimal, in seconds since the epoch; the nonce has 16 bytes, 22 characters,
the mac 43. A body is covered by its Digest; a streamed one is covered by that of its commit.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from attrs import frozen

from dostore.errors import Unauthorized, Unavailable

SCHEME = b"DOSTORE-HMAC-SHA256"
NONCE_BYTES = 16

#: A shorter secret can be guessed.
MIN_SECRET_BYTES = 16

#: A signature is taken this many seconds before and after its time.
WINDOW_S = 60

#: Signatures that are remembered so that none is taken twice: some 4,000 a second for two windows,
#: in 50 MB.
MAX_REMEMBERED = 1 << 19

#: Signatures are forgotten together with all others of as many seconds.
_SLOT_S = 10

#: Of a MAC, 96 bits tell it from all others as well as 256.
_REMEMBERED_CHARACTERS = 16

_HEADER = re.compile(
    rb"DOSTORE-HMAC-SHA256 time=([0-9]{1,12}), nonce=([A-Za-z0-9_-]{22}), mac=([A-Za-z0-9_-]{43})"
)


@frozen(slots=True)
class Signable:
    """What a signature speaks for. All as it is sent; none holds a line break.

    :ivar target: the path and, after a ``?``, the query.
    :ivar digest: the Digest field; empty when there is none.
    """

    method: bytes
    host: bytes
    target: bytes
    digest: bytes = b""


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class _Key:
    """A secret, ready to be used; it is in no text that this object makes."""

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes")
        self._keyed = hmac.new(secret, digestmod=hashlib.sha256)

    def mac(self, what: Signable, time: bytes, nonce: bytes) -> bytes:
        """The MAC of a request, encoded."""
        lines = (b"dostore-1", what.method, what.host, what.target, time, nonce, what.digest)
        # A copy costs a third of what it costs to begin with the secret each time.
        keyed = self._keyed.copy()
        keyed.update(b"\n".join(lines))
        return _encode(keyed.digest())


class Signer:
    """Signs requests.

    :param secret: at least MIN_SECRET_BYTES.
    """

    __slots__ = ("_key",)

    def __init__(self, secret: bytes) -> None:
        self._key = _Key(secret)

    def sign(self, what: Signable, now: float, nonce: bytes) -> bytes:
        """The Authorization field of one request.

        :param now: seconds since the epoch.
        :param nonce: NONCE_BYTES random bytes, never used before.
        """
        time, token = b"%d" % now, _encode(nonce)
        mac = self._key.mac(what, time, token)
        return b"%b time=%b, nonce=%b, mac=%b" % (SCHEME, time, token, mac)


class Verifier:
    """Takes each signature once, within its window.

    :param window_s: seconds before and after a signature's time.
    :param capacity: how many signatures are remembered; with as many in the window, all further
        ones are refused: to forget one would be to let it be used again.
    """

    __slots__ = ("_capacity", "_key", "_remembered", "_slots", "_window_s")

    def __init__(
        self, secret: bytes, *, window_s: int = WINDOW_S, capacity: int = MAX_REMEMBERED
    ) -> None:
        self._key = _Key(secret)
        self._window_s = window_s
        self._capacity = capacity
        #: MACs by the slot of their signature's time: a slot is forgotten at one go.
        self._slots: dict[int, set[bytes]] = {}
        self._remembered = 0

    def __len__(self) -> int:
        """How many signatures are remembered."""
        return self._remembered

    def check(self, what: Signable, authorization: bytes | None, now: float) -> None:
        """Take a request's signature.

        :param authorization: the Authorization field; None: there is none.
        :param now: seconds since the epoch.
        :raises Unauthorized: it is missing, malformed, forged, stale or was used before. The error
            does not say which.
        :raises Unavailable: too many signatures are remembered to take another now.
        """
        match = _HEADER.fullmatch(authorization or b"")
        if match is None:
            raise _refused()
        time, nonce, mac = match.groups()
        if not hmac.compare_digest(self._key.mac(what, time, nonce), mac):
            raise _refused()
        if abs(int(time) - now) > self._window_s:
            raise _refused()
        self._remember(int(time), mac, now)

    def _remember(self, time: int, mac: bytes, now: float) -> None:
        slot = self._slots.get(time // _SLOT_S)
        if slot is None:
            self._forget(now)
            slot = self._slots[time // _SLOT_S] = set()
        token = mac[:_REMEMBERED_CHARACTERS]
        if token in slot:
            raise _refused()
        if self._remembered >= self._capacity:
            raise Unavailable("Too many requests within a minute. Try again in a moment.")
        slot.add(token)
        self._remembered += 1

    def _forget(self, now: float) -> None:
        """Forget the slots all of whose signatures would be refused for their age anyway."""
        for number in list(self._slots):
            if (number + 1) * _SLOT_S <= now - self._window_s:
                self._remembered -= len(self._slots.pop(number))


def _refused() -> Unauthorized:
    return Unauthorized("This takes only requests that are signed with the cluster's secret.")
