"""What is written about a temporary shard: what it is to become, and what of it is durable."""

from __future__ import annotations

import base64
import json

from attrs import define

from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shardfile import check_of
from dostore.errors import BadShard, DostoreError
from dostore.ports import Tail, TempAbout


def about_to_bytes(about: TempAbout, boot: str) -> bytes:
    """What is known of a shard from its beginning.

    :param boot: the start of the machine that it was begun in.
    """
    scheme = about.scheme
    fields: dict[str, object] = {
        "boot": boot,
        "index": about.index,
        "scheme": [scheme.k, scheme.m, scheme.block_size],
        "hash": None if about.hash is None else str(about.hash),
        "size": about.size,
        "keep": about.keep_s,
        "note": base64.b64encode(about.note).decode("ascii"),
    }
    return json.dumps(fields).encode() + b"\n"


def about_from_bytes(data: bytes) -> tuple[TempAbout, str]:
    """Read what :func:`about_to_bytes` made: what is known, and the boot.

    :raises BadShard: it is damaged.
    """
    try:
        fields = json.loads(data)
        content_hash, size, keep_s = fields["hash"], fields["size"], fields.get("keep")
        about = TempAbout(
            int(fields["index"]),
            Scheme(*map(int, fields["scheme"])),
            None if content_hash is None else ContentHash.parse(str(content_hash)),
            None if size is None else int(size),
            base64.b64decode(fields.get("note", ""), validate=True),
            None if keep_s is None else int(keep_s),
        )
        return about, str(fields["boot"])
    except (ValueError, KeyError, TypeError, DostoreError) as error:
        raise BadShard("What is known of the temporary shard is damaged.") from error


@define
class Settled:
    """What is durable of a temporary shard.

    :ivar boot: the start of the machine that it was written in.
    """

    boot: str
    blocks: int
    tail: Tail | None

    def to_bytes(self) -> bytes:
        """The file's content: a line, then the tail."""
        tail = self.tail or Tail(0, b"")
        fields = {
            "boot": self.boot,
            "blocks": self.blocks,
            "start": None if self.tail is None else tail.start,
            "check": check_of(tail.data).hex(),
        }
        return json.dumps(fields).encode() + b"\n" + tail.data

    @classmethod
    def from_bytes(cls, data: bytes) -> Settled:
        """Read the file's content.

        :raises ValueError: it is damaged.
        """
        line, _, rest = data.partition(b"\n")
        try:
            fields = json.loads(line)
            start = fields["start"]
            if check_of(rest).hex() != fields["check"]:
                raise ValueError("the tail does not match its check")
            tail = None if start is None else Tail(int(start), rest)
            return cls(str(fields["boot"]), int(fields["blocks"]), tail)
        except (KeyError, TypeError) as error:
            raise ValueError("a field is missing") from error
