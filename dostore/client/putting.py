"""One file to one object, however often the line breaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen

from dostore.client.answers import Stored, error_of, whole
from dostore.client.attempts import Attempts
from dostore.client.failures import BadAnswer, Later, Refused
from dostore.client.meters import Meter, Meters
from dostore.client.output import Output
from dostore.client.sources import BLOCK_BYTES, Source, SourceFile
from dostore.client.state import Kept, Sending
from dostore.client.store import Store, Wanted, object_target
from dostore.client.text import size_text
from dostore.core.names import ContentHash
from dostore.errors import (
    Busy,
    Corrupt,
    DigestMismatch,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    Unavailable,
)
from dostore.http.exchange import Answer, Answered, Upload
from dostore.ports import IWorkers

#: A file of at most so many bytes goes by one request; what a broken line loses of it is little.
SMALL_BYTES = 4 << 20

#: What is handed to the connection at a time; it must be taken within SILENCE_S.
_PIECE_BYTES = 256 << 10

#: Time for the answer after the last byte: the servers may have to read all of it once more.
ANSWER_S = 120.0
_READ_BACK_BYTES_S = 20e6

#: How long an upload is left alone that another is at.
_BUSY_S = 2.0

#: So often an upload is begun anew because it was not there any more.
_MAX_LOSSES = 3

#: Bytes from an offset on, none at the end.
Read = Callable[[int], Coroutine[Any, Any, bytes]]


@frozen(slots=True)
class Done:
    """A file that was put.

    :ivar version: None: the newest version was the same already, and no other was made.
    :ivar sent: bytes that went over the line for it, this time.
    """

    hash: ContentHash
    size: int
    version: int | None
    sent: int

    @property
    def outcome(self) -> str:
        """In a word."""
        if self.version is None:
            return "unchanged"
        return "sent" if self.sent or not self.size else "present"


async def send(upload: Upload, read: Read, timeout_s: float, sent: Callable[[int], None]) -> Answer:
    """Write all that is read; the answer.

    :param timeout_s: for the answer, after the last byte.
    :param sent: told how many bytes were taken so far.
    :raises NodeUnavailable: the connection broke, or there is no answer.
    """
    offset = 0
    try:
        while data := await read(offset):
            view = memoryview(data)
            while view:
                piece, view = view[:_PIECE_BYTES], view[_PIECE_BYTES:]
                await upload.write([piece])
                offset += len(piece)
                sent(offset)
        return await upload.finish(timeout_s)
    except Answered as early:
        return early.answer
    finally:
        upload.abandon()


class Putter:
    """Puts files.

    :param kept: what is known of uploads that were begun before.
    """

    def __init__(
        self,
        store: Store,
        kept: Kept,
        workers: IWorkers,
        output: Output,
        meters: Meters,
        wanted: Wanted,
    ) -> None:
        self.store = store
        self.kept = kept
        self.workers = workers
        self.output = output
        self.wanted = wanted
        self._meters = meters

    async def put(self, source: Source) -> Done:
        """Put a file.

        :raises DostoreError: it could not be.
        """
        file = await SourceFile.open(source.path, self.workers)
        meter = self._meters.begin(source.path, file.identity.size)
        try:
            if file.identity.size <= SMALL_BYTES:
                return await self._put_small(source, file, meter)
            return await _Large(self, source, file, meter).put()
        finally:
            meter.end()
            file.close()

    async def _put_small(self, source: Source, file: SourceFile, meter: Meter) -> Done:
        data, content_hash = await file.read_whole()
        wanted = self.wanted.of_file(source.path)
        return await self.put_bytes(source.name, data, content_hash, wanted, meter)

    async def put_bytes(
        self, name: str, data: bytes, content_hash: ContentHash, wanted: Wanted, meter: Meter
    ) -> Done:
        """Put what fits in one request."""
        fields = wanted.fields(content_hash)
        attempts = self.attempts(meter)

        async def read(offset: int) -> bytes:
            return data[offset:]

        while True:
            upload = attempts.link.upload("PUT", object_target(name), fields, len(data))
            try:
                answer = await send(upload, read, ANSWER_S, meter.at)
                attempts.answered()
                if answer.status == 200:
                    stored = Stored.of(answer.headers)
                    return Done(content_hash, len(data), stored.version, len(data))
                raise error_of(answer)
            except PreconditionFailed:
                version = None
                if attempts.doubtful:
                    # It may well have been this file that was there already.
                    about = await self.store.about(name)
                    version = about.version if about.hash == content_hash else None
                return Done(content_hash, len(data), version, len(data))
            except Unavailable as error:
                await attempts.failed(error)

    def attempts(self, meter: Meter) -> Attempts:
        """Attempts whose failures are shown beside the file's progress, too."""

        def tell(text: str, pause_s: float) -> None:
            meter.say("waiting")
            self.output.trouble(text, pause_s)

        return self.store.attempts(tell)


class _Large:
    """One file that goes by a resumable upload."""

    def __init__(self, putter: Putter, source: Source, file: SourceFile, meter: Meter) -> None:
        self._putter = putter
        self._source = source
        self._file = file
        self._meter = meter
        self._wanted = putter.wanted.of_file(source.path)
        self._size = file.identity.size
        self._path = os.path.abspath(source.path)
        self._attempts = putter.attempts(meter)
        self._held = 0
        self._sent = 0

    async def put(self) -> Done:
        """Put it: go on where an earlier run stopped, or begin."""
        sending = await self._earlier()
        is_hash_old = resumes = sending is not None
        content_hash = sending.content_hash if sending else await self._hash()
        losses = 0
        while True:
            if sending is None:
                begun = await self._begin(content_hash)
                if isinstance(begun, Done):
                    return begun
                sending = begun
            try:
                done = await self._send(sending, resumes)
            except NotFound as error:
                # It was too old, or another store's.
                losses += 1
                if losses > _MAX_LOSSES:
                    raise Refused("The server lost the upload again and again.") from error
                sending, resumes = None, False
            except DigestMismatch:
                await self._forget(sending)
                await self._file.check_same()
                if not is_hash_old:
                    raise
                # A file may be changed and look the same.
                sending, resumes, is_hash_old = None, False, False
                content_hash = await self._hash()
            else:
                await self._forget(sending)
                return done

    async def _hash(self) -> ContentHash:
        self._meter.say("hashing")
        return await self._file.hash(self._meter.at)

    # The state that is kept

    async def _earlier(self) -> Sending | None:
        """The upload that an earlier run began, if it is still of use."""
        putter = self._putter
        sending: Sending | None = await putter.workers.run(
            putter.kept.sending, self._source.name, self._path
        )
        if sending is None:
            return None
        is_same = sending.identity == self._file.identity
        if is_same and sending.wanted == self._wanted.text():
            return sending
        if not is_same:
            await putter.output.note(
                f"{self._source.path} was changed since it was sent in part: it is sent anew."
            )
        await putter.store.drop_upload(sending.upload)
        return None

    async def _begin(self, content_hash: ContentHash) -> Sending | Done:
        """Open an upload; what has become of it if that was all there was to do."""
        putter = self._putter
        try:
            opened = await putter.store.open_upload(
                self._source.name, content_hash, self._size, self._wanted, self._attempts
            )
        except PreconditionFailed:
            return Done(content_hash, self._size, None, self._sent)
        if isinstance(opened, Stored):
            return self._done(content_hash, opened)
        identity = self._file.identity
        sending = Sending(
            self._source.name,
            self._path,
            identity.size,
            identity.mtime_ns,
            identity.inode,
            str(content_hash),
            opened,
            self._wanted.text(),
        )
        self._held = 0
        await putter.workers.run(putter.kept.keep_sending, sending)
        return sending

    async def _forget(self, sending: Sending) -> None:
        kept = self._putter.kept
        await self._putter.workers.run(kept.drop_sending, sending.name, sending.path)

    def _done(self, content_hash: ContentHash, stored: Stored) -> Done:
        if stored.hash != content_hash:
            raise Corrupt(
                f"The server says that it stored other bytes of {self._source.path} than were sent."
            )
        return Done(content_hash, self._size, stored.version, self._sent)

    # Sending

    async def _send(self, sending: Sending, resumes: bool) -> Done:
        """Send what the servers do not hold, until they hold it all.

        :raises NotFound: there is no such upload any more.
        :raises DigestMismatch: what they hold is not what was announced; they dropped it.
        """
        try:
            stored = await self._look(sending) if resumes else None
            if resumes and stored is None:
                await self._putter.output.note(
                    f"{self._source.path} goes on at {size_text(self._held)} of"
                    f" {size_text(self._size)}."
                )
            while stored is None:
                stored = await self._send_rest(sending) or await self._look(sending)
        except PreconditionFailed:
            # Meanwhile another has put the same.
            await self._putter.store.drop_upload(sending.upload)
            return Done(sending.content_hash, self._size, None, self._sent)
        return self._done(sending.content_hash, stored)

    async def _look(self, sending: Sending) -> Stored | None:
        """Ask how much the servers hold; the version, if they made it."""
        store = self._putter.store
        answer = await store.ask("HEAD", sending.upload, attempts=self._attempts)
        held = whole(answer.headers, b"upload-offset")
        if held > self._size:
            raise BadAnswer("The server holds more of the file than there is.")
        if held > self._held:
            self._attempts.progressed()
        self._held = held
        self._meter.at(held)
        return Stored.of(answer.headers) if b"x-object-version" in answer.headers else None

    async def _send_rest(self, sending: Sending) -> Stored | None:
        """Send from the first byte on that is not held; None: it has to be looked how far it came.

        :raises DostoreError: the server will not have it.
        """
        first, before = self._held, self._sent

        def sent(count: int) -> None:
            self._sent = before + count
            self._meter.at(first + count)
            if first + count == self._size:
                # The servers may have to read all of it once more.
                self._meter.say("finishing")

        async def read(offset: int) -> bytes:
            left = self._size - first - offset
            data = await self._file.read(first + offset, min(left, BLOCK_BYTES)) if left else b""
            if left and not data:
                raise self._file.changed()
            return data

        self._meter.say("")
        upload = self._attempts.link.upload(
            "PUT", sending.upload, [(b"Range", b"bytes=%d-" % first)], self._size - first
        )
        try:
            answer = await send(upload, read, ANSWER_S + self._size / _READ_BACK_BYTES_S, sent)
            self._attempts.answered()
            return self._judge(answer)
        except Busy:
            # Whoever is at it gets on, or has let go in a moment.
            await self._attempts.wait(f"{self._source.path} is still being received.", _BUSY_S)
        except Unavailable as error:
            await self._attempts.failed(error)
        return None

    def _judge(self, answer: Answer) -> Stored | None:
        """What the answer to a part means; None: there is more to be sent."""
        if answer.status == 200:
            is_complete = b"x-object-version" in answer.headers
            return Stored.of(answer.headers) if is_complete else None
        error = error_of(answer)
        if isinstance(error, RangeNotSatisfiable):
            raise Later("The servers hold less than they said.")
        raise error
