"""One object to one file or stream, however often the line breaks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen

from dostore.client.answers import About, content_range, error_of
from dostore.client.attempts import Attempts
from dostore.client.destinations import FileSink, Place, StreamSink
from dostore.client.failures import BadAnswer, Refused
from dostore.client.meters import Meter
from dostore.client.output import Output
from dostore.client.state import Fetching, Kept
from dostore.client.store import Store, no_such_object, object_target
from dostore.client.text import size_text
from dostore.core.names import ContentHash
from dostore.errors import Corrupt, NotFound, RangeNotSatisfiable, Unavailable
from dostore.http.exchange import MAX_ERROR_BYTES, Answer, Field, Streamed
from dostore.ports import IWorkers

#: Of a smaller object nothing is kept when it is broken off.
SMALL_BYTES = 4 << 20

#: What is written at a time, at most.
_PIECE_BYTES = 1 << 20

Sink = FileSink | StreamSink

#: Told what it is that comes, before the first byte of it is written.
Keep = Callable[[About], Coroutine[Any, Any, None]]


@frozen(slots=True)
class Wish:
    """What is to be got.

    :ivar version: None: the newest.
    :ivar size: what is known of it before; None: nothing.
    """

    name: str
    version: int | None = None
    size: int | None = None
    hash: ContentHash | None = None


@frozen(slots=True)
class Got:
    """A version that is where it should be.

    :ivar received: bytes that came over the line for it, this time.
    """

    hash: ContentHash
    size: int
    version: int | None
    received: int
    was_there: bool = False

    @property
    def outcome(self) -> str:
        """In a word."""
        return "unchanged" if self.was_there else "received"


class _Same(Exception):
    """The file that is there has these bytes already."""


class _Flow:
    """One object on its way to a sink.

    :param about: what the bytes that the sink holds already are of; None: it holds none.
    :param same: an entity tag: an object with it is not wanted.
    """

    def __init__(
        self,
        wish: Wish,
        sink: Sink,
        attempts: Attempts,
        meter: Meter,
        about: About | None,
        same: bytes | None = None,
    ) -> None:
        self._wish = wish
        self._sink = sink
        self._attempts = attempts
        self._meter = meter
        self._about = about
        self._is_older = about is not None
        self._same = same
        self.received = 0

    async def run(self, keep: Keep) -> About:
        """Receive all; what it is.

        :raises _Same: it is not wanted.
        :raises Corrupt: it is not what the server says that it is.
        """
        sink = self._sink
        while True:
            try:
                about = await self._receive(keep)
            except NotFound as error:
                raise no_such_object(self._wish.name, self._wish.version) from error
            except RangeNotSatisfiable:
                if not sink.held:
                    raise
                await self._again()
                continue
            except Unavailable as error:
                await self._attempts.failed(error)
                continue
            if sink.hash() == about.hash:
                return about
            if not self._is_older:
                raise Corrupt(
                    f"What came of {self._wish.name!r} is not what the server says that it is, by"
                    " its SHA-256. Get it again."
                )
            # What an earlier run left may have been damaged since.
            await self._again()

    async def _again(self) -> None:
        if not self._sink.restartable:
            raise Refused(f"{self._wish.name!r} was changed while it was got.")
        await self._sink.restart()
        self._about, self._is_older = None, False

    async def _receive(self, keep: Keep) -> About:
        """One attempt."""
        sink = self._sink
        streamed = await self._attempts.link.stream("GET", self._target(), self._fields())
        body = streamed.body
        try:
            about = await self._begin(streamed)
            await keep(about)
            self._attempts.progressed()
            self._meter.whole(about.size)
            self._meter.say("")
            self._meter.at(sink.held)
            while data := await body.read_some(_PIECE_BYTES):
                if sink.held + len(data) > about.size:
                    raise BadAnswer("More came than the object has.")
                await sink.write(data)
                self.received += len(data)
                self._attempts.progressed()
                self._meter.at(sink.held)
        finally:
            body.abandon()
        if sink.held < about.size:
            raise BadAnswer("Less came than the object has.")
        return about

    def _target(self) -> str:
        version = self._wish.version
        if version is None and self._about is not None and not self._is_older:
            # What has begun goes on with the same version, whatever comes after it.
            version = self._about.version
        return object_target(self._wish.name, version)

    def _fields(self) -> list[Field]:
        if self._about is not None and self._sink.held:
            return [(b"Range", b"bytes=%d-" % self._sink.held), (b"If-Range", self._about.etag)]
        return [] if self._same is None else [(b"If-None-Match", self._same)]

    async def _begin(self, streamed: Streamed) -> About:
        """Judge the beginning of an answer: what the bytes that come are of."""
        self._attempts.answered()
        status, headers = streamed.status, streamed.headers
        if status == 304:
            raise _Same
        if status == 206 and self._about is not None:
            first, size = content_range(headers)
            about = About.of(self._wish.name, headers, size)
            if (first, size, about.hash) != (self._sink.held, self._about.size, self._about.hash):
                raise BadAnswer("The answer is not the range that was asked for.")
        elif status == 200 and streamed.length is not None:
            about = About.of(self._wish.name, headers, streamed.length)
            if self._sink.held:
                await self._again()
            self._is_older = False
        elif status in (200, 206):
            raise BadAnswer("The answer is not what was asked for.")
        else:
            raise error_of(Answer(status, headers, await _beginning(streamed)))
        if self._wish.hash not in (None, about.hash):
            raise BadAnswer(f"{self._wish.name!r} is not what the listing says that it is.")
        self._about = about
        return about


class Getter:
    """Gets objects."""

    def __init__(self, store: Store, kept: Kept, workers: IWorkers, output: Output) -> None:
        self.kept = kept
        self.workers = workers
        self.output = output
        self._store = store

    async def get_stream(self, wish: Wish, sink: StreamSink, meter: Meter) -> Got:
        """Get an object to where it cannot be taken back.

        :raises DostoreError: it could not be got, or not to its end.
        """
        flow = _Flow(wish, sink, self.attempts(meter), meter, None)
        about = await flow.run(_nothing)
        return Got(about.hash, about.size, about.version, flow.received)

    async def get_file(self, wish: Wish, place: Place, meter: Meter) -> Got:
        """Get an object to a file, which has it from one moment to the next.

        :raises DostoreError: it could not be got.
        """
        there = await self.workers.run(place.size)
        same: ContentHash | None = None
        if there is not None and wish.size in (None, there):
            meter.say("comparing")
            same = await self.workers.run(place.hash)
            if same == wish.hash:
                return Got(same, there, wish.version, 0, was_there=True)
        sink = await FileSink.open(place, self.workers)
        file = _File(self, wish, place, sink, meter)
        try:
            return await file.fill(None if same is None else f'"{same}"'.encode("ascii"))
        except _Same:
            assert same is not None and there is not None, "or nothing can be the same"
            return Got(same, there, wish.version, 0, was_there=True)
        finally:
            try:
                await file.tidy()
            finally:
                sink.close()

    def attempts(self, meter: Meter) -> Attempts:
        """Attempts whose failures are shown beside the transfer's progress, too."""

        def tell(text: str, pause_s: float) -> None:
            meter.say("waiting")
            self.output.trouble(text, pause_s)

        return self._store.attempts(tell)


class _File:
    """One object on its way to a file."""

    def __init__(
        self, getter: Getter, wish: Wish, place: Place, sink: FileSink, meter: Meter
    ) -> None:
        self._getter = getter
        self._wish = wish
        self._place = place
        self._sink = sink
        self._meter = meter
        self._noted: Fetching | None = None
        self._is_whole = False

    async def fill(self, same: bytes | None) -> Got:
        """Receive what is missing.

        :param same: see _Flow.
        """
        getter, sink = self._getter, self._sink
        older = await self._resume() if sink.left else None
        flow = _Flow(self._wish, sink, getter.attempts(self._meter), self._meter, older, same)
        try:
            about = await flow.run(self._keep)
        except (Corrupt, BadAnswer, NotFound):
            # What is there of it is of no use.
            sink.held = 0
            raise
        await sink.finish()
        self._is_whole = True
        return Got(about.hash, about.size, about.version, flow.received)

    async def _resume(self) -> About | None:
        """What the part that an earlier run left is of, if it is of use."""
        wish, sink = self._wish, self._sink
        noted = self._noted = await self._getter.workers.run(
            self._getter.kept.fetching, self._place.path
        )
        if (
            noted is None
            or noted.name != wish.name
            or wish.version not in (None, noted.version)
            or wish.hash not in (None, noted.content_hash)
        ):
            await sink.restart()
            return None
        await sink.resume(noted.size)
        if not sink.held:
            return None
        await self._getter.output.note(
            f"{wish.name} goes on at {size_text(sink.held)} of {size_text(noted.size)}."
        )
        return About(noted.name, noted.version, noted.size, noted.content_hash)

    async def _keep(self, about: About) -> None:
        now = Fetching(
            self._wish.name, self._place.path, about.version, about.size, str(about.hash)
        )
        # Of what is small it is not worth the while.
        if about.size > SMALL_BYTES and now != self._noted:
            self._noted = now
            await self._getter.workers.run(self._getter.kept.keep_fetching, now)

    async def tidy(self) -> None:
        """Leave what the next run needs, and nothing else."""
        resumable = not self._is_whole and self._noted is not None and self._sink.held > 0
        if resumable:
            return
        if not self._is_whole:
            await self._sink.discard()
        if self._noted is not None:
            await self._getter.workers.run(self._getter.kept.drop_fetching, self._place.path)


async def _nothing(about: About) -> None:
    """Notes nothing."""


async def _beginning(streamed: Streamed) -> bytes:
    """As much of a body as an error may have."""
    data = b""
    while len(data) < MAX_ERROR_BYTES and (piece := await streamed.body.read_some(MAX_ERROR_BYTES)):
        data += piece
    return data[:MAX_ERROR_BYTES]
