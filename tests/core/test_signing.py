"""Signatures: taken once, by one server, for what they were made for, within a minute."""

from __future__ import annotations

import base64
import hashlib
import hmac

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dostore.core.signing import (
    MAX_REMEMBERED,
    MIN_SECRET_BYTES,
    NONCE_BYTES,
    WINDOW_S,
    Signable,
    Signer,
    Verifier,
)
from dostore.errors import Unauthorized, Unavailable
from tests.support.cases import SyncTestCase
from tests.support.properties import prove

SECRET = b"correct horse battery staple"
NOW = 1_790_000_000.25
WHAT = Signable(b"PUT", b"10.29.1.1:12345", b"/objects/abc.1?x=y", b"SHA-256=abc")

visible = st.binary(max_size=40).map(lambda data: data.translate(None, b"\r\n"))
signables = st.builds(Signable, visible, visible, visible, visible)
nonces = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)
secrets = st.binary(min_size=MIN_SECRET_BYTES, max_size=80)


def nonce(number: int = 0) -> bytes:
    """A nonce that is another for each number."""
    return number.to_bytes(NONCE_BYTES, "big")


def sign(what: Signable = WHAT, now: float = NOW, number: int = 0) -> bytes:
    """A signature by the secret."""
    return Signer(SECRET).sign(what, now, nonce(number))


class SignatureTests(SyncTestCase):
    """What is taken and what is refused."""

    def refuse(self, authorization: bytes | None, what: Signable = WHAT, now: float = NOW) -> str:
        """The sentence by which a fresh verifier refuses."""
        error = self.assertRaises(Unauthorized, Verifier(SECRET).check, what, authorization, now)
        return str(error)

    def test_the_form(self) -> None:
        """The field is what the documentation says, so that others can make it too."""
        token = base64.urlsafe_b64encode(nonce(5)).rstrip(b"=")
        text = b"dostore-1\nPUT\n10.29.1.1:12345\n/objects/abc.1?x=y\n1790000000\n%b\nSHA-256=abc"
        mac = hmac.new(SECRET, text % token, hashlib.sha256).digest()
        self.assertEqual(
            sign(number=5),
            b"DOSTORE-HMAC-SHA256 time=1790000000, nonce=%b, mac=%b"
            % (token, base64.urlsafe_b64encode(mac).rstrip(b"=")),
        )

    @prove
    @given(secrets, signables, nonces, st.floats(0, 1e11))
    def test_what_was_signed_is_taken(
        self, secret: bytes, what: Signable, token: bytes, now: float
    ) -> None:
        """Any request that was signed by the secret is taken at that time."""
        Verifier(secret).check(what, Signer(secret).sign(what, now, token), now)

    @prove
    @given(signables, signables, nonces)
    def test_moved(self, signed: Signable, sent: Signable, token: bytes) -> None:
        """A signature speaks for its own request only."""
        if signed != sent:
            self.refuse(Signer(SECRET).sign(signed, NOW, token), sent)

    def test_each_part_counts(self) -> None:
        """Another method, host, path, query or digest, or none, is another request."""
        for change in (
            {"method": b"DELETE"},
            {"host": b"10.29.1.2:12345"},
            {"target": b"/objects/abc.2?x=y"},
            {"target": b"/objects/abc.1"},
            {"digest": b"SHA-256=abd"},
            {"digest": b""},
        ):
            self.refuse(sign(), evolve(WHAT, **change))

    @prove
    @given(secrets, nonces)
    def test_another_secret(self, secret: bytes, token: bytes) -> None:
        """Who does not know the secret cannot sign."""
        if secret != SECRET:
            self.refuse(Signer(secret).sign(WHAT, NOW, token))

    @prove
    @given(st.integers(0, 130), st.integers(0, 255))
    def test_one_byte_changed(self, position: int, byte: int) -> None:
        """No byte of the field can be another."""
        field = bytearray(sign())
        position %= len(field)
        if field[position] != byte:
            field[position] = byte
            # The last character of a base64 text has bits that mean nothing, but they count here.
            self.refuse(bytes(field))

    @prove
    @given(st.binary(max_size=200))
    def test_garbage(self, field: bytes) -> None:
        """Whatever else is in the field is refused, and nothing else happens."""
        self.refuse(field)

    def test_the_refusal_tells_nothing(self) -> None:
        """Missing, malformed, forged, stale and replayed all sound the same."""
        verifier = Verifier(SECRET)
        verifier.check(WHAT, sign(), NOW)
        replayed = self.assertRaises(Unauthorized, verifier.check, WHAT, sign(), NOW).detail
        told = {
            replayed,
            self.refuse(None),
            self.refuse(b"Basic abc"),
            self.refuse(sign()[:-1]),
            self.refuse(sign(), evolve(WHAT, method=b"GET")),
            self.refuse(sign(), now=NOW + 100),
        }
        self.assertEqual(len(told), 1)

    def test_the_secret_is_shown_nowhere(self) -> None:
        """No text that the objects make holds it."""
        for thing in (Signer(SECRET), Verifier(SECRET)):
            self.assertNotIn(SECRET.decode(), repr(thing))

    def test_short_secrets(self) -> None:
        """A secret that can be guessed is refused at once."""
        for kind in (Signer, Verifier):
            kind(b"x" * MIN_SECRET_BYTES)
            self.assertRaises(ValueError, kind, b"x" * (MIN_SECRET_BYTES - 1))


class WindowTests(SyncTestCase):
    """When a signature is taken."""

    def test_the_window(self) -> None:
        """A minute each way, and not a second more."""
        for late, taken in ((0, True), (59, True), (60, True), (61, False)):
            for sign_of in (-1, 1):
                now = int(NOW) + sign_of * late
                if taken:
                    Verifier(SECRET).check(WHAT, sign(), now)
                else:
                    self.assertRaises(Unauthorized, Verifier(SECRET).check, WHAT, sign(), now)

    @prove
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60))
    def test_never_twice(self, events: list[tuple[int, int]]) -> None:
        """Whatever comes in whatever order while time passes, no signature is taken twice."""
        verifier = Verifier(SECRET)
        taken: set[bytes] = set()
        now = NOW
        signatures = [sign(now=NOW + 37 * number, number=number) for number in range(10)]
        for number, seconds in events:
            now += seconds
            try:
                verifier.check(WHAT, signatures[number], now)
            except Unauthorized:
                continue
            self.assertNotIn(signatures[number], taken)
            taken.add(signatures[number])

    def test_a_signature_from_the_future_is_remembered_longer(self) -> None:
        """It could be used until two windows after it came, so that long it is not forgotten."""
        verifier = Verifier(SECRET)
        early = sign(now=NOW + WINDOW_S)
        verifier.check(WHAT, early, NOW)
        for seconds in range(0, 2 * WINDOW_S + 20, 5):
            self.assertRaises(Unauthorized, verifier.check, WHAT, early, NOW + seconds)
            verifier.check(WHAT, sign(now=NOW + seconds, number=seconds + 1), NOW + seconds)

    def test_memory_is_bounded_by_time(self) -> None:
        """What is older than the window is forgotten."""
        verifier = Verifier(SECRET)
        most = 0
        for second in range(600):
            verifier.check(WHAT, sign(now=NOW + second, number=second), NOW + second)
            most = max(most, len(verifier))
        self.assertLessEqual(most, WINDOW_S + 20)

    def test_a_full_memory_refuses(self) -> None:
        """With as many fresh signatures as can be remembered, further ones wait; none is forgotten,
        and in the next minutes there is room again."""
        verifier = Verifier(SECRET, capacity=3)
        for number in range(3):
            verifier.check(WHAT, sign(number=number), NOW)
        self.assertRaises(Unavailable, verifier.check, WHAT, sign(number=3), NOW)
        self.assertRaises(Unavailable, verifier.check, WHAT, sign(now=NOW + 30, number=3), NOW + 30)
        self.assertRaises(Unauthorized, verifier.check, WHAT, sign(number=0), NOW)
        verifier.check(WHAT, sign(now=NOW + 75, number=3), NOW + 75)
        self.assertEqual(len(verifier), 1)

    def test_only_what_is_signed_takes_room(self) -> None:
        """Nobody without the secret can fill the memory."""
        verifier = Verifier(SECRET, capacity=1)
        other = Signer(b"another secret that is long")
        for number in range(10):
            field = other.sign(WHAT, NOW, nonce(number))
            self.assertRaises(Unauthorized, verifier.check, WHAT, field, NOW)
        verifier.check(WHAT, sign(), NOW)

    def test_the_default_is_room_for_thousands_a_second(self) -> None:
        """A server that is as busy as it can be does not fill the memory."""
        self.assertGreaterEqual(MAX_REMEMBERED / (2 * WINDOW_S), 4000)
