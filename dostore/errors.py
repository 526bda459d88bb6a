"""The one error tree: every failure that a caller may meet is one of these.

Each class carries the HTTP ``status`` that tells it best and whether the same call may succeed
later (``retryable``); only the web layer reads them. ``detail`` is one or two sentences for the
person who made the call: what is wrong, and what to do. It never holds a secret or a path of the
server.
"""

from __future__ import annotations


class DostoreError(Exception):
    """Abstract root of the tree.

    :ivar detail: a sentence for the caller, safe to send over the wire.
    """

    status = 500
    title = "Internal error"
    retryable = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotFound(DostoreError):
    """What was asked for is not there."""

    status = 404
    title = "Not found"


class Deleted(NotFound):
    """The version that was asked for is a tombstone."""

    title = "Deleted"


class ShardMissing(NotFound):
    """A node was asked for a shard that it does not hold."""

    title = "Shard missing"


class ContentLost(NotFound):
    """Fewer than k shards of a content are left anywhere.

    :ivar found: the number of sound shards.
    :ivar needed: the number that reading takes (k).
    """

    title = "Content lost"

    def __init__(self, detail: str, *, found: int, needed: int) -> None:
        super().__init__(detail)
        self.found = found
        self.needed = needed


class InvalidRequest(DostoreError):
    """The request itself is wrong; repeating it will not help."""

    status = 400
    title = "Bad request"


class InvalidName(InvalidRequest):
    """An object name that is empty, too long, not UTF-8 or holds control characters."""

    title = "Bad object name"


class DigestMismatch(InvalidRequest):
    """The body's SHA-256 is not the one that its Digest header promised."""

    title = "Digest mismatch"


class IncompleteBody(InvalidRequest):
    """The body ended before its announced length, or the client went away."""

    title = "Incomplete body"


class ClientGone(DostoreError):
    """The client went away while it was being answered: there is nobody to tell."""

    status = 400
    title = "Client gone"


class Unauthorized(DostoreError):
    """The request is not signed as it must be; the detail does not say what is wrong with it."""

    status = 401
    title = "Unauthorized"


class MethodNotAllowed(DostoreError):
    """The resource exists but does not take this method.

    :ivar allowed: the methods that it takes.
    """

    status = 405
    title = "Method not allowed"

    def __init__(self, detail: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.allowed = allowed


class LengthRequired(DostoreError):
    """A request that must have a body has neither Content-Length nor chunked encoding."""

    status = 411
    title = "Length required"


class RequestTimeout(DostoreError):
    """The client stopped sending in the middle of its request."""

    status = 408
    title = "Request timeout"


class Conflict(DostoreError):
    """Another writer was there first."""

    status = 409
    title = "Conflict"


class AlreadyHeld(Conflict):
    """A node has, or is getting, shards of a content that was taken for new; it has kept none."""

    title = "Already held"


class Busy(Conflict):
    """Another writer is at it, and will have done soon."""

    title = "Busy"
    retryable = True


class PreconditionFailed(DostoreError):
    """``If-Match`` or its like does not hold for the current version."""

    status = 412
    title = "Precondition failed"


class ExpectationFailed(DostoreError):
    """The client expects what is not known."""

    status = 417
    title = "Expectation failed"


class TargetTooLong(DostoreError):
    """The line that says what is asked for is longer than any that means something."""

    status = 414
    title = "URI too long"


class HeadTooLarge(DostoreError):
    """A header section has more bytes or lines than are taken."""

    status = 431
    title = "Header section too large"


class UnknownCoding(DostoreError):
    """A body comes in a coding that cannot be undone."""

    status = 501
    title = "Not implemented"


class RangeNotSatisfiable(DostoreError):
    """No byte of what there is lies in the range.

    :ivar size: how many bytes there are.
    """

    status = 416
    title = "Range not satisfiable"

    def __init__(self, detail: str, *, size: int) -> None:
        super().__init__(detail)
        self.size = size


class TooLarge(DostoreError):
    """The body is larger than the store takes."""

    status = 413
    title = "Too large"


class NoSpace(DostoreError):
    """A drive, or so many that a write cannot be kept, is full."""

    status = 507
    title = "No space left"


class Unavailable(DostoreError):
    """Something that is needed is out of reach for now."""

    status = 503
    title = "Unavailable"
    retryable = True


class NodeUnavailable(Unavailable):
    """A node cannot be reached, or its drive fails."""

    title = "Node unavailable"


class MetadataUnavailable(Unavailable):
    """The metadata store cannot be reached, or cannot make a write durable."""

    title = "Metadata unavailable"


class OutcomeUnknown(MetadataUnavailable):
    """A version may have been made or not, or may be made yet: the metadata store did not say.

    What the version would refer to must not be removed at once.
    """

    title = "Outcome unknown"


class QuorumNotMet(Unavailable):
    """Fewer nodes took part than the operation needs.

    :ivar outcomes: for each node asked, its address and how it failed (empty: it did not).
    """

    title = "Not enough nodes"

    def __init__(self, detail: str, *, outcomes: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.outcomes = outcomes or {}


class Corrupt(DostoreError):
    """Stored bytes are not what was written."""

    title = "Corrupt"


class BadShard(Corrupt):
    """A shard file whose footer or block does not match its check, or is another shard's."""

    title = "Bad shard"


class BadMessage(DostoreError):
    """A message of the broker that is not what its exchange or queue is for. It is dropped."""

    title = "Bad message"


class NewerFormat(Unavailable):
    """A stored thing is whole, but of a format that a newer program wrote."""

    title = "Newer format"
    retryable = False


class ConfigError(DostoreError):
    """A setting, or the folder that it names, cannot be used; the process must not start."""

    title = "Wrong configuration"
