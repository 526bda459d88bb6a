"""ITempShards on a drive of this machine: shards that are written over several requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from dostore.adapters.node_local import DriveNode, DriveState
from dostore.adapters.temp_files import TempFiles, Upload, is_token
from dostore.core.model import Content
from dostore.errors import (
    BadShard,
    Conflict,
    DostoreError,
    InvalidRequest,
    NotFound,
    TooLarge,
)
from dostore.ports import IByteSource, ITempShards, TempAbout

_log = Logger()

#: What nobody has touched for this long is removed.
ABANDONED_AFTER_S = 1800.0

#: Bytes that are read from a body and written at a time.
_STEP_BYTES = 256 * 1024

#: A shard whose size is not known is not larger than this.
_MAX_SHARD_BYTES = 1 << 50

#: What is known of this many shards is kept in memory, up to a block each; of others, the files
#: tell it when it is asked for.
_REMEMBERED = 256


@implementer(ITempShards)
class TempShards:
    """The temporary shards of a drive.

    :param now: the time of day in seconds since the epoch, for the age of what is abandoned.
    """

    def __init__(self, node: DriveNode, now: Callable[[], float]) -> None:
        self._node = node
        self._now = now
        self._files = TempFiles(node.store)
        self._uploads: dict[str, Upload] = {}
        self._busy: set[str] = set()
        self._committing: set[str] = set()

    async def open(self, about: TempAbout) -> str:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        try:
            upload = await self._node.call(self._files.create, about)
        except OSError as error:
            raise self._node.translated(error, "begin a shard") from error
        self._remember(upload)
        return upload.token

    def _remember(self, upload: Upload) -> None:
        self._uploads[upload.token] = upload
        if len(self._uploads) > _REMEMBERED:
            for token in self._uploads:
                if token not in self._busy:
                    del self._uploads[token]
                    return

    async def about(self, token: str) -> tuple[TempAbout, int]:
        """See ITempShards. Asking counts as touching."""
        self._require_token(token)
        self._node.require(DriveState.LIVE, DriveState.READ_ONLY)
        upload = self._uploads.get(token)
        try:
            await self._node.call(self._files.touch, token)
            if upload is not None:
                return upload.about, upload.held
            return await self._node.call(self._files.about, token)
        except FileNotFoundError as error:
            raise self._gone(token) from error
        except BadShard as error:
            await self.drop(token)
            raise self._gone(token) from error
        except OSError as error:
            raise self._node.translated(error, "read a shard") from error

    async def append(self, token: str, source: IByteSource, offset: int | None) -> int:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        with self._alone(token):
            upload = await self._take_up(token)
            if offset not in (None, upload.held):
                raise Conflict(
                    f"{upload.held} bytes are held, not {offset}. Go on after those that are."
                )
            try:
                await self._pump(upload, source)
            except OSError as error:
                # The file knows better than the memory how far this came.
                self._uploads.pop(token, None)
                if isinstance(error, FileNotFoundError):
                    raise self._gone(token) from error
                raise self._node.translated(error, "write a shard") from error
            return upload.held

    async def _pump(self, upload: Upload, source: IByteSource) -> None:
        """Append what the source yields: one step is written while the next is read."""
        about = upload.about
        most = _MAX_SHARD_BYTES if about.size is None else about.scheme.shard_size(about.size)
        room = most - upload.held
        writing: Deferred[None] | None = None
        try:
            while data := await source.read(_STEP_BYTES):
                room -= len(data)
                if room < 0:
                    raise TooLarge(f"The shard has {most} bytes. Send no more than that.")
                running, writing = writing, None
                if running is not None:
                    await running
                writing = Deferred.fromCoroutine(self._node.call(self._files.append, upload, data))
        finally:
            try:
                if writing is not None:
                    await writing
            finally:
                await self._node.call(self._files.close, upload)

    async def read(self, token: str, offset: int, size: int) -> bytes:
        """See ITempShards."""
        about, held = await self.about(token)
        size = min(size, held - offset)
        if size <= 0:
            return b""
        try:
            data = await self._node.call(self._files.read, token, about, offset, size)
        except FileNotFoundError as error:
            raise self._gone(token) from error
        except OSError as error:
            raise self._node.translated(error, "read a shard") from error
        return data

    async def commit(self, token: str, content: Content, shard_hash: bytes | None) -> None:
        """See ITempShards."""
        self._node.require(DriveState.LIVE)
        with self._alone(token):
            upload = await self._take_up(token)
            about = upload.about
            self._committing.add(token)
            try:
                if (
                    about.scheme != content.scheme
                    or about.hash not in (None, content.hash)
                    or about.size not in (None, content.size)
                ):
                    raise InvalidRequest("The shard was begun as one of another content.")
                await self._finish(upload, content, shard_hash)
                await self._node.commit(content, about.index, (), upload.temp)
            except (DostoreError, CancelledError):
                self._uploads.pop(token, None)
                self._drop_later(upload)
                raise
            finally:
                self._committing.discard(token)
            self._uploads.pop(token, None)
            self._clean(lambda: self._files.forget(token))

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
        """Remove what was abandoned; how many files."""
        self._node.require(DriveState.LIVE)
        before = self._now() - ABANDONED_AFTER_S
        try:
            swept = await self._node.call(self._files.sweep, before, frozenset(self._busy))
        except OSError as error:
            raise self._node.translated(error, "sweep what was abandoned") from error
        for name in swept:
            self._uploads.pop(name, None)
        if swept:
            _log.info(
                "{address}: {n} files of abandoned shards removed",
                address=self._node.address,
                n=len(swept),
            )
        return len(swept)

    @contextmanager
    def _alone(self, token: str) -> Iterator[None]:
        self._require_token(token)
        if token in self._busy:
            raise Conflict("Another request is writing this shard. Wait for its end.")
        self._busy.add(token)
        try:
            yield
        finally:
            self._busy.discard(token)

    async def _take_up(self, token: str) -> Upload:
        upload = self._uploads.get(token)
        if upload is not None:
            return upload
        try:
            upload = await self._node.call(self._files.resume, token)
        except FileNotFoundError as error:
            raise self._gone(token) from error
        except BadShard as error:
            _log.warn("A temporary shard is dropped: {error}", error=error)
            await self.drop(token)
            raise self._gone(token) from error
        except OSError as error:
            raise self._node.translated(error, "read a shard") from error
        self._remember(upload)
        return upload

    def _require_token(self, token: str) -> None:
        if not is_token(token):
            raise self._gone(token)

    @staticmethod
    def _gone(token: str) -> NotFound:
        return NotFound("There is no such temporary shard (any more). Begin it anew.")
