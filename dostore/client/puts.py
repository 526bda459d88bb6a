"""``dostore put``: files, folders, and what comes in by a pipe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import field, frozen

from dostore.client.answers import Stored, error_of
from dostore.client.context import Context
from dostore.client.failures import OutOfReach, ReaderGone, Refused, local
from dostore.client.feed import Feed, work_off
from dostore.client.putting import ANSWER_S, SMALL_BYTES, Done, Putter, send
from dostore.client.sources import BLOCK_BYTES, Passed, Source, measure, take, walk, walk_one
from dostore.client.store import Wanted, object_target
from dostore.client.text import count_text, seconds_text, shown, size_text
from dostore.core.names import ContentHash
from dostore.errors import Corrupt, DostoreError, Unavailable

#: Files that are looked up at a time.
_BATCH = 64

#: What stands for standard input.
STDIN = "-"


@frozen(slots=True)
class PutOptions:
    """What is to be put, and how.

    :ivar paths: files and folders; STDIN alone for standard input.
    :ivar name: of the object, when there is one file; None: after the files.
    :ivar prefix: what names begin with, when they are after the files.
    :ivar jobs: files at a time.
    """

    paths: Sequence[str]
    name: str | None = None
    prefix: str = ""
    jobs: int = 4
    wanted: Wanted = field(factory=Wanted)


async def put_all(context: Context, options: PutOptions) -> None:
    """Put everything; failures of single files are told, and the others go on."""
    await context.workers.run(context.kept.sweep)
    if list(options.paths) == [STDIN]:
        assert options.name is not None, "standard input has no name"
        await _put_stdin(context, options.name, options.wanted)
        return
    await _PutAll(context, options).run()
    if context.kept.trouble:
        await context.output.note(
            f"{context.kept.trouble}. Had this been broken off, it would have to begin anew."
        )


class _PutAll:
    """The files of one command, several at a time."""

    def __init__(self, context: Context, options: PutOptions) -> None:
        self._context = context
        self._options = options
        self._output = context.output
        self._putter = Putter(
            context.store,
            context.kept,
            context.workers,
            context.output,
            context.meters,
            options.wanted,
        )
        self._items: Iterator[Source | Passed] = (
            walk(options.paths, options.prefix)
            if options.name is None
            else walk_one(options.paths[0], options.name)
        )
        self._is_one = options.name is not None or (
            len(options.paths) == 1 and not os.path.isdir(options.paths[0])
        )
        self._counts = {"sent": 0, "present": 0, "unchanged": 0}
        self._bytes = 0
        self._sent = 0

    async def run(self) -> None:
        """Put them."""
        context = self._context
        began = context.clock.seconds()

        async def more() -> Sequence[Source | Passed]:
            found: Sequence[Source | Passed] = await context.workers.run(take, self._items, _BATCH)
            return found

        if context.meters.live:
            # The files are counted while the first ones are on their way.
            _ = context.workers.submit(measure, self._options.paths, context.meters.expect)
        await work_off(Feed(more), self._options.jobs, self._put)
        if not self._is_one:
            await self._summary(context.clock.seconds() - began)

    async def _put(self, item: Source | Passed) -> None:
        if isinstance(item, Passed):
            if item.error is None:
                await self._output.note(item.why)
            else:
                await self._output.failed(item.error, File=item.path)
            return
        try:
            done = await self._putter.put(item)
        except (OutOfReach, ReaderGone):
            raise
        except DostoreError as error:
            await self._output.failed(_about(item, error), File=item.path, Name=item.name)
            return
        self._counts[done.outcome] += 1
        self._bytes += done.size
        self._sent += done.sent
        if self._is_one or not self._output.meters.live or self._output.as_json:
            await self._output.result(_fields(item.path, item.name, done), _line(item, done))

    async def _summary(self, seconds: float) -> None:
        """What has become of many files, in a line."""
        files = sum(self._counts.values())
        parts = [f"{count_text(files, 'file')} with {size_text(self._bytes)} put"]
        if self._counts["unchanged"]:
            parts.append(f"{self._counts['unchanged']} of them unchanged")
        if self._counts["present"]:
            parts.append(f"{self._counts['present']} of bytes that were stored already")
        if self._output.failures:
            parts.append(f"{len(self._output.failures)} FAILED")
        speed = (
            f", {size_text(self._sent / seconds)}/s" if seconds >= 0.1 and self._sent >= 1e6 else ""
        )
        await self._output.remark(f"{', '.join(parts)}, in {seconds_text(seconds)}{speed}.")


def _about(source: Source, error: DostoreError) -> DostoreError:
    """The error, with the file that it is about if it does not say so itself."""
    if not error.detail.startswith(source.path):
        error.detail = f"{source.path}: {error.detail}"
    return error


def _fields(path: str, name: str, done: Done) -> dict[str, Any]:
    return {
        "File": path,
        "Name": name,
        "Version": done.version,
        "Size": done.size,
        "Hash": str(done.hash),
        "Outcome": done.outcome,
        "Sent": done.sent,
    }


def _line(source: Source, done: Done) -> str:
    size = size_text(done.size)
    if done.version is None:
        return f"{shown(source.name)} is unchanged: {size}, as in {shown(source.path)}"
    how = " that were stored already" if done.outcome == "present" else ""
    return f"{shown(source.name)} version {done.version}: {size}{how} from {shown(source.path)}"


# Standard input


async def _put_stdin(context: Context, name: str, wanted: Wanted) -> None:
    """Put what comes in, which can be read once only."""
    meter = context.meters.begin("standard input", None)
    source = Source("standard input", name)
    putter = Putter(
        context.store, context.kept, context.workers, context.output, context.meters, wanted
    )
    try:
        first, ended = await context.workers.run(_fill, context.stdin, SMALL_BYTES)
        if ended:
            content_hash = ContentHash(hashlib.sha256(first).digest())
            done = await putter.put_bytes(name, first, content_hash, wanted, meter)
        else:
            done = await _put_stream(context, putter, name, first)
    finally:
        meter.end()
    await context.output.result(_fields(STDIN, name, done), _line(source, done))


async def _put_stream(context: Context, putter: Putter, name: str, first: bytes) -> Done:
    """Put what is too long to be kept: it goes by one request, in chunks."""
    hasher = hashlib.sha256()
    size = 0
    meter = context.meters.begin("standard input", None)
    attempts = putter.attempts(meter)
    # Nothing is lost yet when a server is not there at all.
    while True:
        try:
            answer = await attempts.link.ask("GET", "/health/live")
            if answer.status != 200:
                raise error_of(answer)
            attempts.progressed()
            break
        except Unavailable as error:
            await attempts.failed(error)

    async def read(offset: int) -> bytes:
        nonlocal size
        data: bytes = first if not offset else await context.workers.run(_read, context.stdin)
        await context.workers.run(hasher.update, data)
        size += len(data)
        return data

    fields = putter.wanted.fields(None)
    upload = attempts.link.upload("PUT", object_target(name), fields, None)
    try:
        answer = await send(upload, read, ANSWER_S, meter.at)
        if answer.status != 200:
            raise error_of(answer)
    except Unavailable as error:
        raise Refused(
            f"Standard input could not be sent to its end: {error.detail} It cannot be read again."
            " Write it to a file first, and put that: a file goes on where it stopped."
        ) from error
    finally:
        meter.end()
    stored = Stored.of(answer.headers)
    content_hash = ContentHash(hasher.digest())
    if stored.hash != content_hash:
        raise Corrupt("The server says that it stored other bytes than were sent.")
    return Done(content_hash, size, stored.version, size)


def _fill(descriptor: int, limit: int) -> tuple[bytes, bool]:
    """All that comes, up to more than ``limit`` bytes; whether it is all."""
    data = bytearray()
    while len(data) <= limit:
        piece = _read(descriptor)
        if not piece:
            return bytes(data), True
        data += piece
    return bytes(data), False


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, BLOCK_BYTES)
    except OSError as error:
        raise local(error, "Standard input cannot be read") from error
