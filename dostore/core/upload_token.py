"""The token of a resumable upload: all that an API server needs to go on with it, signed.

::

    token   = base64url without padding of: body, mac
    body    = version (u8), opened (u48, ms), expires (u48, ms), upload id (16 bytes),
              hash (32 bytes), size (u64), k (u8), m (u8), block size (u32), names
    names   = length (u16) and UTF-8 of the object's name, then of each shard's node's address, in
              the order of the shards' indexes; of length 0: that shard was not begun
    mac     = the first 16 bytes of HMAC-SHA256(key, "dostore upload token" NUL body)

Numbers are big-endian, times count from the epoch. The temporary shards go by tokens of their own,
which follow from the upload's id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

from attrs import field, frozen

from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.errors import InvalidName, NotFound

VERSION = 1
ID_BYTES = 16
MAC_BYTES = 16

#: A longer token would not fit where URLs of 2 KB do.
MAX_TOKEN_CHARACTERS = 2000

_HEAD = struct.Struct(">B6s6s16s32sQBBI")
_LENGTH = struct.Struct(">H")
_LABEL = b"dostore upload token\0"


@frozen(slots=True)
class UploadToken:
    """What a token says.

    :ivar upload: its id, which nobody can guess.
    :ivar addresses: of the nodes that keep the temporary shards, by the shards' indexes; empty: no
        node has that one.
    :ivar opened: when it was opened, in milliseconds since the epoch.
    :ivar expires: when the token is no longer taken, likewise.
    """

    name: str
    hash: ContentHash
    size: int
    scheme: Scheme
    upload: bytes = field(repr=False)
    addresses: tuple[str, ...]
    opened: int
    expires: int

    def seal(self, key: bytes) -> str:
        """The token's text.

        :raises InvalidName: it would be too long.
        """
        scheme = self.scheme
        body = _HEAD.pack(
            VERSION,
            self.opened.to_bytes(6, "big"),
            self.expires.to_bytes(6, "big"),
            self.upload,
            self.hash.digest,
            self.size,
            scheme.k,
            scheme.m,
            scheme.block_size,
        )
        for text in (self.name, *self.addresses):
            encoded = text.encode("utf-8")
            body += _LENGTH.pack(len(encoded)) + encoded
        token = base64.urlsafe_b64encode(body + _mac(key, body)).rstrip(b"=").decode("ascii")
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise InvalidName(
                "The name is too long for a resumable upload to nodes with names as long as these"
                " have. Choose a shorter one, or send the object in one PUT."
            )
        return token

    @classmethod
    def open(cls, text: str, key: bytes, now: float) -> UploadToken:
        """Read a token.

        :param now: seconds since the epoch.
        :raises NotFound: it was not made with this key, or has expired. The error does not say
            which.
        """
        if len(text) > MAX_TOKEN_CHARACTERS:
            raise no_such_upload()
        try:
            data = base64.b64decode(
                text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, UnicodeEncodeError) as error:
            raise no_such_upload() from error
        body, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
        if not hmac.compare_digest(_mac(key, body), mac):
            raise no_such_upload()
        # Of several texts that decode to the same bytes, one is the token.
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != text:
            raise no_such_upload()
        token = cls._parse(body)
        if token.expires <= now * 1000:
            raise no_such_upload()
        return token

    @classmethod
    def _parse(cls, body: bytes) -> UploadToken:
        """Read a body that was made here, or by another version of this program."""
        try:
            version, opened, expires, upload, digest, size, k, m, block = _HEAD.unpack_from(body)
            if version != VERSION:
                raise ValueError("another version")
            names = []
            at = _HEAD.size
            while at < len(body):
                (length,) = _LENGTH.unpack_from(body, at)
                at += _LENGTH.size + length
                names.append(body[at - length : at].decode("utf-8"))
            return cls(
                names[0],
                ContentHash(digest),
                size,
                Scheme(k, m, block),
                upload,
                tuple(names[1:]),
                int.from_bytes(opened, "big"),
                int.from_bytes(expires, "big"),
            )
        except (ValueError, IndexError, struct.error) as error:
            raise no_such_upload() from error

    def shard_token(self, index: int) -> str:
        """What the temporary shard ``index`` goes by."""
        digest = hashlib.sha256(b"dostore temporary shard\0" + self.upload + bytes([index]))
        return digest.hexdigest()[:32]


def derive_key(secret: bytes) -> bytes:
    """The key of tokens, from a secret that is used for other things too."""
    return hmac.new(secret, b"dostore upload key", hashlib.sha256).digest()


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, _LABEL + body, hashlib.sha256).digest()[:MAC_BYTES]


def no_such_upload() -> NotFound:
    """For a token that leads nowhere."""
    return NotFound("There is no such upload (any more). Open it anew by a POST.")
