"""What is known of a temporary shard, and how data servers tell it. See ``docs/data-api.rst``.

::

    state = line LF tail
    line  = JSON: index, scheme [k, m, block size], hash, size, keep, note (base64), held, start,
            check, committed, agreed, owner

``start`` is null when there is no tail; ``check`` is the XXH3-128 of the tail, in hexadecimal.
"""

from __future__ import annotations

import base64
import json
import re

from attrs import field, frozen

from dostore.core.names import ContentHash
from dostore.core.scheme import Scheme
from dostore.core.shardfile import check_of
from dostore.errors import DostoreError, InvalidRequest

_OWNER = re.compile("(?:[0-9a-f]{32})?")

#: Bytes that the opener of a temporary shard may have kept with it.
MAX_NOTE_BYTES = 32 * 1024


@frozen(slots=True)
class TempAbout:
    """What is known of a temporary shard from its beginning.

    :ivar hash: of the content; None: not known yet.
    :ivar size: bytes of the content; None: not known yet.
    :ivar note: what its opener wants to find again, up to MAX_NOTE_BYTES.
    :ivar keep_s: how long it is kept when nobody touches it; None: as long as the node likes.
    """

    index: int
    scheme: Scheme
    hash: ContentHash | None = None
    size: int | None = None
    note: bytes = field(default=b"", repr=False)
    keep_s: int | None = None


@frozen(slots=True)
class Tail:
    """Bytes of a content that are no whole stripe yet.

    :ivar start: where in the content they begin.
    """

    start: int
    data: bytes = field(repr=False)


@frozen(slots=True)
class TempState:
    """How far a temporary shard has come.

    :ivar held: plain bytes of the shard: whole blocks, the last of which may be a short one.
    :ivar committed: it has become a durable shard.
    :ivar owner: who wrote to it last; empty: nobody, or it is not known.
    :ivar agreed: plain bytes, from the first on, that were here when that owner began, or were
        settled since.
    """

    about: TempAbout
    held: int
    tail: Tail | None = None
    committed: bool = False
    owner: str = ""
    agreed: int = 0


def format_temp_state(state: TempState) -> bytes:
    """The state as it is sent."""
    about, tail = state.about, state.tail
    scheme = about.scheme
    data = b"" if tail is None else tail.data
    fields = {
        "index": about.index,
        "scheme": [scheme.k, scheme.m, scheme.block_size],
        "hash": None if about.hash is None else str(about.hash),
        "size": about.size,
        "keep": about.keep_s,
        "note": base64.b64encode(about.note).decode("ascii"),
        "held": state.held,
        "start": None if tail is None else tail.start,
        "check": check_of(data).hex(),
        "committed": state.committed,
        "agreed": state.agreed,
        "owner": state.owner,
    }
    return json.dumps(fields).encode("ascii") + b"\n" + data


def parse_temp_state(data: bytes) -> TempState:
    """Read what :func:`format_temp_state` made.

    :raises InvalidRequest: it was not.
    """
    line, _, rest = data.partition(b"\n")
    try:
        fields = json.loads(line)
        if check_of(rest).hex() != fields["check"]:
            raise ValueError("the tail does not match its check")
        held, start, index = fields["held"], fields["start"], fields["index"]
        content_hash, size, keep_s = fields["hash"], fields["size"], fields["keep"]
        committed, agreed, owner = fields["committed"], fields["agreed"], fields["owner"]
        if type(committed) is not bool or not _OWNER.fullmatch(owner):
            raise ValueError("a field is of another kind")
        numbers = (held, index, agreed, *(n for n in (start, size, keep_s) if n is not None))
        if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
            raise ValueError("a number is none")
        about = TempAbout(
            index,
            Scheme(*fields["scheme"]),
            None if content_hash is None else ContentHash.parse(content_hash),
            size,
            base64.b64decode(fields["note"], validate=True),
            keep_s,
        )
    except (ValueError, KeyError, TypeError, AttributeError, DostoreError) as error:
        raise InvalidRequest("That is no state of a temporary shard.") from error
    tail = None if start is None else Tail(start, rest)
    return TempState(about, held, tail, committed, owner, agreed)
