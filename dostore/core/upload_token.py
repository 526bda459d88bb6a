"""The token of a resumable upload: all that an API server needs to go on with it, signed.

::

    token   = base64url without padding of: body, mac
    body    = version (u8), opened (u48, ms), expires (u48, ms), upload id (16 bytes),
              hash (32 bytes), size (u64), k (u8), m (u8), block size (u32), nodes (u8), node ...,
              name (UTF-8)
    node    = the first 8 bytes of SHA-256(address) of the node that keeps the shard, in the order
              of the shards' indexes; zeros: that shard was not begun
    mac     = the first 16 bytes of HMAC-SHA256(key, "dostore upload token" NUL body)

Numbers are big-endian, times count from the epoch. The temporary shards go by tokens of their own,
which follow from the upload's id. However long names and addresses are, a token has less than 2,000
characters, which fits where URLs of 2 KB do, and it tells nobody where the nodes are.
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
from dostore.errors import NotFound

VERSION = 1
ID_BYTES = 16
MAC_BYTES = 16
NODE_BYTES = 8

#: No token is longer: one of a name of 1,024 bytes and the most shards that there can be is not.
MAX_TOKEN_CHARACTERS = 2000

_NO_NODE = bytes(NODE_BYTES)
_HEAD = struct.Struct(">B6s6s16s32sQBBIB")
_LABEL = b"dostore upload token\0"


@frozen(slots=True)
class UploadToken:
    """What a token says.

    :ivar upload: its id, which nobody can guess.
    :ivar nodes: what :func:`node_id` makes of the addresses of the nodes that keep the temporary
        shards, by the shards' indexes; None: no node has that one.
    :ivar opened: when it was opened, in milliseconds since the epoch.
    :ivar expires: when the token is no longer taken, likewise.
    """

    name: str
    hash: ContentHash
    size: int
    scheme: Scheme
    upload: bytes = field(repr=False)
    nodes: tuple[bytes | None, ...]
    opened: int
    expires: int

    def seal(self, key: bytes) -> str:
        """The token's text."""
        scheme = self.scheme
        head = _HEAD.pack(
            VERSION,
            self.opened.to_bytes(6, "big"),
            self.expires.to_bytes(6, "big"),
            self.upload,
            self.hash.digest,
            self.size,
            scheme.k,
            scheme.m,
            scheme.block_size,
            len(self.nodes),
        )
        body = head + b"".join(node or _NO_NODE for node in self.nodes) + self.name.encode("utf-8")
        return base64.urlsafe_b64encode(body + _mac(key, body)).rstrip(b"=").decode("ascii")

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
            version, opened, expires, upload, digest, size, k, m, block, count = _HEAD.unpack_from(
                body
            )
            if version != VERSION:
                raise ValueError("another version")
            end = _HEAD.size + count * NODE_BYTES
            if end > len(body):
                raise ValueError("a node is missing")
            nodes = [body[at : at + NODE_BYTES] for at in range(_HEAD.size, end, NODE_BYTES)]
            return cls(
                body[end:].decode("utf-8"),
                ContentHash(digest),
                size,
                Scheme(k, m, block),
                upload,
                tuple(None if node == _NO_NODE else node for node in nodes),
                int.from_bytes(opened, "big"),
                int.from_bytes(expires, "big"),
            )
        except (ValueError, struct.error) as error:
            raise no_such_upload() from error

    def shard_token(self, index: int) -> str:
        """What the temporary shard ``index`` goes by."""
        digest = hashlib.sha256(b"dostore temporary shard\0" + self.upload + bytes([index]))
        return digest.hexdigest()[:32]


def node_id(address: str) -> bytes:
    """What tokens call a node: short, and the same for everybody."""
    return hashlib.sha256(address.encode("utf-8")).digest()[:NODE_BYTES]


def derive_key(secret: bytes) -> bytes:
    """The key of tokens, from a secret that is used for other things too."""
    return hmac.new(secret, b"dostore upload key", hashlib.sha256).digest()


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, _LABEL + body, hashlib.sha256).digest()[:MAC_BYTES]


def no_such_upload() -> NotFound:
    """For a token that leads nowhere."""
    return NotFound("There is no such upload (any more). Open it anew by a POST.")
