"""ITempShards on a drive of this machine: shards that are written over several requests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.drive_state import DriveState
from dostore.adapters.temp_claims import Claims
from dostore.adapters.temp_files import TempFiles
from dostore.adapters.temp_upload import Upload, boot_id, is_token
from dostore.core.model import Content
from dostore.errors import (
    BadShard,
    Conflict,
    DostoreError,
    InvalidRequest,
    NotFound,
    TooLarge,
)
from dostore.fanout import to_the_end
from dostore.ports import (
    MAX_NOTE_BYTES,
    IByteSource,
    ITempShards,
    Tail,
    TempAbout,
    TempState,
)

if TYPE_CHECKING:
    from dostore.adapters.node_local import DriveNode

T = TypeVar("T")

_log = Logger()

#: What nobody has touched for this long is removed, unless it is to be kept for another time.
ABANDONED_AFTER_S = 1800.0

#: Bytes that are read from a body and written at a time: one more than API servers mostly send in a
#: request, so that its end is seen at once.
_STEP_BYTES = (2 << 20) + 1

#: A shard whose size is not known is not larger than this.
_MAX_SHARD_BYTES = 1 << 50

#: What is known of this many shards is kept in memory, up to a block and a stripe each; of others,
#: the files tell it when it is asked for.
_REMEMBERED = 256


@implementer(ITempShards)
class TempShards:
    """The temporary shards of a drive.

    :param now: the time of day in seconds since the epoch, for the age of what is abandoned.
    :param clock: how claims run out.
    :param boot: what tells this start of the machine from every other.
    """

    def __init__(
        self,
        node: DriveNode,
        now: Callable[[], float],
        clock: IReactorTime,
        boot: str | None = None,
    ) -> None:
        self._node = node
        self._now = now
        self._clock = clock
        self._files = TempFiles(node.store, boot_id() if boot is None else boot)
        self._uploads: dict[str, Upload] = {}
        self._busy: set[str] = set()
        self._committing: dict[str, Upload] = {}
        self._claims = Claims(clock)
        self._loading: dict[str, list[Deferred[None]]] = {}

    async def open(self, about: TempAbout, token: str | None = None) -> str:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        if token is not None and not is_token(token):
            raise InvalidRequest("A token is 32 hexadecimal digits.")
        if len(about.note) > MAX_NOTE_BYTES:
            raise InvalidRequest(f"A note has at most {MAX_NOTE_BYTES} bytes.")
        try:
            upload = await self._node.call(self._files.create, about, token)
        except OSError as error:
            raise self._node.translated(error, "begin a shard") from error
        self._remember(upload)
        return upload.token

    def _remember(self, upload: Upload) -> None:
        self._uploads[upload.token] = upload
        if len(self._uploads) > _REMEMBERED:
            for token, each in self._uploads.items():
                # What is no whole block yet is nowhere else.
                if token not in self._busy and not each.pending:
                    del self._uploads[token]
                    return

    async def about(self, token: str) -> TempState:
        """See ITempShards."""
        self._require_token(token)
        self._node.require(DriveState.LIVE, DriveState.READ_ONLY)
        try:
            upload = await self._found(token)
            tail = await self._reading(token, self._node.call(self._look, token))
        except NotFound:
            committing = self._committing.get(token)
            if committing is None:
                return await self._committed(token)
            # Its file is where it belongs already, but not durably.
            upload, tail = committing, None
        return TempState(
            upload.about,
            upload.told,
            tail,
            owner=upload.owner,
            agreed=upload.agreed,
        )

    async def _committed(self, token: str) -> TempState:
        """The state of a shard that is durable.

        :raises NotFound: it is not, or that is not known any more.
        """
        about = await self._reading(token, self._node.call(self._files.committed, token))
        if about is None or about.keep_s is None or about.hash is None or about.size is None:
            raise self._gone(token)
        if about.index not in self._node.held(about.hash):
            raise self._gone(token)
        return TempState(about, about.scheme.shard_size(about.size), committed=True)

    def _look(self, token: str) -> Tail | None:
        self._files.touch(token)
        return self._files.tail(token)

    async def _found(self, token: str) -> Upload:
        """A shard, to be read only."""
        upload = self._uploads.get(token)
        if upload is None and token in self._busy and token not in self._loading:
            # Taking it up might cut away what is being written.
            raise Conflict("The shard is being written. Try again.")
        return upload or await self._load(token)

    # Claims

    async def claim(self, token: str, owner: str) -> TempState:
        """See ITempShards."""
        self._require_token(token)
        if not is_token(owner):
            raise InvalidRequest("An owner is 32 hexadecimal digits.")
        had = self._claims.owner(token)
        self._claims.require(token, owner)
        if token in self._busy and had != owner:
            raise Conflict("Another request is writing this shard. Wait for its end.")
        self._claims.renew(token, owner)
        try:
            return await self.about(token)
        except DostoreError:
            if had is None:
                self._claims.drop(token)
            raise

    async def release(self, token: str, owner: str) -> None:
        """See ITempShards."""
        self._require_token(token)
        if self._claims.owner(token) == owner:
            self._claims.drop(token)

    # Writing

    async def append(
        self, token: str, source: IByteSource, offset: int | None, owner: str = ""
    ) -> int:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        with self._alone(token, owner):
            upload = await self._take_up(token)
            if offset not in (None, upload.held):
                raise Conflict(
                    f"{upload.held} bytes are held, not {offset}. Go on after those that are."
                )
            upload.before = upload.held
            try:
                await self._pump(upload, source, owner)
            except OSError as error:
                # The file knows better than the memory how far this came.
                self._uploads.pop(token, None)
                if isinstance(error, FileNotFoundError):
                    raise self._gone(token) from error
                raise self._node.translated(error, "write a shard") from error
            finally:
                upload.before = None
            return upload.held

    async def cut(self, token: str, held: int, owner: str = "") -> None:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        with self._alone(token, owner):
            upload = await self._take_up(token)
            self._uploads.pop(token, None)
            cut = await self._writing(token, self._node.call(self._files.cut, upload, held))
            self._remember(cut)

    async def settle(self, token: str, tail: Tail | None, owner: str = "") -> None:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        with self._alone(token, owner):
            upload = await self._take_up(token)
            await self._writing(token, self._node.call(self._files.settle, upload, tail, owner))

    async def _writing(self, token: str, coro: Coroutine[Any, Any, T]) -> T:
        try:
            return await coro
        except FileNotFoundError as error:
            self._uploads.pop(token, None)
            raise self._gone(token) from error
        except OSError as error:
            self._uploads.pop(token, None)
            raise self._node.translated(error, "write a shard") from error

    async def _reading(self, token: str, coro: Coroutine[Any, Any, T]) -> T:
        try:
            return await coro
        except FileNotFoundError as error:
            self._uploads.pop(token, None)
            raise self._gone(token) from error
        except OSError as error:
            raise self._node.translated(error, "read a shard") from error

    async def _pump(self, upload: Upload, source: IByteSource, owner: str) -> None:
        """Append what the source yields: one step is written while the next is read."""
        about = upload.about
        most = _MAX_SHARD_BYTES if about.size is None else about.scheme.shard_size(about.size)
        room = most - upload.held
        writing: Deferred[None] | None = None
        ended = False
        try:
            while not ended:
                data, ended = await _next(source)
                if not data:
                    break
                room -= len(data)
                if room < 0:
                    raise TooLarge(f"The shard has {most} bytes. Send no more than that.")
                running, writing = writing, None
                if running is not None:
                    await running
                writing = Deferred.fromCoroutine(
                    self._node.call(self._files.append, upload, data, owner, ended)
                )
        finally:
            try:
                if writing is not None:
                    await writing
            finally:
                if upload.temp.fd is not None:
                    await self._node.call(self._files.close, upload)

    async def read(self, token: str, offset: int, size: int) -> bytes:
        """See ITempShards."""
        self._require_token(token)
        self._node.require(DriveState.LIVE, DriveState.READ_ONLY)
        upload = await self._found(token)
        size = min(size, upload.held - offset)
        if size <= 0:
            return b""
        return await self._reading(token, self._node.call(self._files.read, upload, offset, size))

    async def commit(
        self, token: str, content: Content, shard_hash: bytes | None, owner: str = ""
    ) -> None:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        with self._alone(token, owner):
            try:
                upload = await self._take_up(token)
            except NotFound:
                _require_same((await self._committed(token)).about, content)
                return
            about = upload.about
            self._committing[token] = upload
            try:
                _require_same(about, content)
                await self._finish(upload, content, shard_hash)
                await self._node.commit(content, about.index, (), upload.temp)
            except (DostoreError, CancelledError) as error:
                self._uploads.pop(token, None)
                if about.keep_s is None or isinstance(error, InvalidRequest):
                    self._drop_later(upload)
                raise
            finally:
                del self._committing[token]
            self._uploads.pop(token, None)
            if about.keep_s is None:
                self._claims.drop(token)
                self._clean(lambda: self._files.forget(token))
            else:
                self._clean(lambda: self._files.close_book(token))

    async def _finish(self, upload: Upload, content: Content, shard_hash: bytes | None) -> None:
        held = upload.held
        try:
            await self._node.call(self._files.finish, upload, content, shard_hash)
        except ValueError as error:
            raise InvalidRequest(
                f"The {held} bytes that are held are no shard of a content of {content.size}"
                " bytes. Nothing is kept: send the shard again."
            ) from error
        except FileNotFoundError as error:
            raise self._gone(upload.token) from error
        except OSError as error:
            raise self._node.translated(error, "sync a shard") from error

    async def drop(self, token: str) -> None:
        """See ITempShards.

        :raises Conflict: it is being committed.
        """
        self._require_token(token)
        self._node.require(DriveState.LIVE, DriveState.READ_ONLY)
        if token in self._committing:
            raise Conflict("The shard is being committed: it cannot be dropped any more.")
        upload = self._uploads.pop(token, None)
        self._claims.drop(token)
        try:
            await self._node.call(self._files.drop, token, upload)
        except OSError as error:
            raise self._node.translated(error, "drop a shard") from error

    def _drop_later(self, upload: Upload) -> None:
        self._clean(lambda: self._files.drop(upload.token, upload))

    def _clean(self, step: Callable[[], None]) -> None:
        """Remove what is not needed any more; a drive that refuses is swept later."""
        self._node.workers.submit(step).add_done_callback(self._node.log_failure)

    async def sweep(self) -> int:
        """Remove what was abandoned; how many shards."""
        self._node.require(DriveState.LIVE)
        spared = frozenset(self._busy) | self._node.writing
        try:
            swept = await self._node.call(self._files.sweep, self._now(), ABANDONED_AFTER_S, spared)
        except OSError as error:
            raise self._node.translated(error, "sweep what was abandoned") from error
        for name in swept:
            self._uploads.pop(name, None)
        if swept:
            _log.info(
                "{address}: {n} abandoned shards removed",
                address=self._node.address,
                n=len(swept),
            )
        return len(swept)

    @contextmanager
    def _alone(self, token: str, owner: str) -> Iterator[None]:
        self._require_token(token)
        self._claims.require(token, owner)
        if token in self._busy:
            raise Conflict("Another request is writing this shard. Wait for its end.")
        self._busy.add(token)
        self._claims.renew(token, owner)
        try:
            yield
        except NotFound:
            # A claim on nothing.
            self._claims.drop(token)
            raise
        finally:
            self._busy.discard(token)
            if self._claims.owner(token) is not None:
                self._claims.renew(token, owner)

    async def _take_up(self, token: str) -> Upload:
        upload = self._uploads.get(token)
        return await self._load(token) if upload is None else upload

    async def _load(self, token: str) -> Upload:
        """What the files tell of a shard. One at a time looks, for looking cuts away."""
        while (waiters := self._loading.get(token)) is not None:
            waiter: Deferred[None] = Deferred()
            waiters.append(waiter)
            await waiter
            if token in self._uploads:
                return self._uploads[token]
        self._loading[token] = []
        return await to_the_end(self._load_alone(token))

    async def _load_alone(self, token: str) -> Upload:
        try:
            upload = await self._node.call(self._files.resume, token)
            self._remember(upload)
            return upload
        except FileNotFoundError as error:
            raise self._gone(token) from error
        except BadShard as error:
            _log.warn("A temporary shard is dropped: {error}", error=error)
            await self.drop(token)
            raise self._gone(token) from error
        except OSError as error:
            raise self._node.translated(error, "read a shard") from error
        finally:
            for waiter in self._loading.pop(token):
                if not waiter.called:
                    waiter.callback(None)

    def _require_token(self, token: str) -> None:
        if not is_token(token):
            raise self._gone(token)

    @staticmethod
    def _gone(token: str) -> NotFound:
        return NotFound("There is no such temporary shard (any more). Begin it anew.")


def _require_same(about: TempAbout, content: Content) -> None:
    if (
        about.scheme != content.scheme
        or about.hash not in (None, content.hash)
        or about.size not in (None, content.size)
    ):
        raise InvalidRequest("The shard was begun as one of another content.")


async def _next(source: IByteSource) -> tuple[bytes, bool]:
    """The next step of a body, and whether it is the last; of one that broke, first all that came.

    :raises DostoreError: it broke, and all that came is handed out.
    """
    try:
        data = await source.read(_STEP_BYTES)
        return data, len(data) < _STEP_BYTES
    except DostoreError:
        return await source.read_some(_STEP_BYTES), False
