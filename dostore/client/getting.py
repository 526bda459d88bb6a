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
        self._store = store
        self._kept = kept
        self._workers = workers
        self._output = output

    async def get_stream(self, wish: Wish, sink: StreamSink, meter: Meter) -> Got:
        """Get an object to where it cannot be taken back.

        :raises DostoreError: it could not be got, or not to its end.
        """
        flow = _Flow(wish, sink, self._attempts(meter), meter, None)
        about = await self._flow(flow, wish, _nothing)
        return Got(about.hash, about.size, about.version, flow.received)

    async def get_file(self, wish: Wish, place: Place, meter: Meter) -> Got:
        """Get an object to a file, which has it from one moment to the next.

        :raises DostoreError: it could not be got.
        """
        there = await self._workers.run(place.size)
        same: ContentHash | None = None
        if there is not None and wish.size in (None, there):
            meter.say("comparing")
            same = await self._workers.run(place.hash)
            if same == wish.hash:
                return Got(same, there, wish.version, 0, was_there=True)
        sink = await FileSink.open(place, self._workers)
        try:
            return await self._fill(wish, place, sink, same, meter)
        except _Same:
            assert same is not None and there is not None, "or nothing can be the same"
            await sink.discard()
            return Got(same, there, wish.version, 0, was_there=True)
        except (Corrupt, BadAnswer, NotFound):
            await sink.discard()
            raise
        finally:
            if not sink.held:
                await sink.discard()
                await self._workers.run(self._kept.drop_fetching, place.path)
            sink.close()

    async def _fill(
        self, wish: Wish, place: Place, sink: FileSink, same: ContentHash | None, meter: Meter
    ) -> Got:
        fetching: Fetching | None = await self._workers.run(self._kept.fetching, place.path)
        noted = fetching.content_hash if fetching and fetching.name == wish.name else None

        async def keep(about: About) -> None:
            nonlocal noted
            if noted != about.hash:
                noted = about.hash
                now = Fetching(wish.name, place.path, about.version, about.size, str(about.hash))
                await self._workers.run(self._kept.keep_fetching, now)

        older = await self._resume(wish, sink, fetching)
        etag = None if same is None else f'"{same}"'.encode("ascii")
        flow = _Flow(wish, sink, self._attempts(meter), meter, older, etag)
        about = await self._flow(flow, wish, keep)
        await sink.finish()
        await self._workers.run(self._kept.drop_fetching, place.path)
        return Got(about.hash, about.size, about.version, flow.received)

    async def _resume(self, wish: Wish, sink: FileSink, fetching: Fetching | None) -> About | None:
        """What the part that an earlier run left is of, if it is of use."""
        if (
            fetching is None
            or fetching.name != wish.name
            or wish.version not in (None, fetching.version)
            or wish.hash not in (None, fetching.content_hash)
        ):
            await sink.restart()
            return None
        await sink.resume(fetching.size)
        if not sink.held:
            return None
        await self._output.note(
            f"{wish.name} goes on at {size_text(sink.held)} of {size_text(fetching.size)}."
        )
        return About(fetching.name, fetching.version, fetching.size, fetching.content_hash)

    async def _flow(self, flow: _Flow, wish: Wish, keep: Keep) -> About:
        try:
            return await flow.run(keep)
        except NotFound as error:
            raise no_such_object(wish.name, wish.version) from error

    def _attempts(self, meter: Meter) -> Attempts:
        def tell(text: str, pause_s: float) -> None:
            meter.say("waiting")
            self._output.trouble(text, pause_s)

        return self._store.attempts(tell)


async def _nothing(about: About) -> None:
    """Notes nothing."""


async def _beginning(streamed: Streamed) -> bytes:
    """As much of a body as an error may have."""
    data = b""
    while len(data) < MAX_ERROR_BYTES and (piece := await streamed.body.read_some(MAX_ERROR_BYTES)):
        data += piece
    return data[:MAX_ERROR_BYTES]
