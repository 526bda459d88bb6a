"""``dostore get``: objects to files, to standard output, or all of a prefix to a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Sequence
from typing import Any

from attrs import frozen

from dostore.client.answers import Entry, Prefix
from dostore.client.context import Context
from dostore.client.destinations import Place, StreamSink, Target, relative_parts
from dostore.client.failures import BadAnswer, OutOfReach, ReaderGone, local
from dostore.client.feed import Feed, work_off
from dostore.client.getting import Getter, Got, Wish
from dostore.client.store import Selection
from dostore.client.text import count_text, seconds_text, shown, size_text
from dostore.errors import DostoreError, NotFound

#: What stands for standard output.
STDOUT = "-"


@frozen(slots=True)
class GetOptions:
    """What is to be got, and to where.

    :ivar names: of objects, or, with ``recursive``, prefixes.
    :ivar to: a file, a folder, or STDOUT; None: files in the working folder.
    :ivar version: of the one object; None: the newest.
    :ivar jobs: objects at a time.
    """

    names: Sequence[str]
    to: str | None = None
    version: int | None = None
    recursive: bool = False
    jobs: int = 4


async def get_all(context: Context, options: GetOptions) -> None:
    """Get everything; failures of single objects are told, and the others go on."""
    await context.workers.run(context.kept.sweep)
    if options.to == STDOUT:
        await _to_stream(context, options, context.stdout, "Standard output")
        return
    await _GetAll(context, options).run()
    if context.kept.trouble:
        await context.output.note(
            f"{context.kept.trouble}. Had this been broken off, it would have to begin anew."
        )


async def _to_stream(context: Context, options: GetOptions, descriptor: int, title: str) -> None:
    getter = Getter(context.store, context.kept, context.workers, context.output)
    for name in options.names:
        meter = context.meters.begin(name, None)
        sink = StreamSink(descriptor, title, context.workers)
        try:
            await getter.get_stream(Wish(name, options.version), sink, meter)
        finally:
            meter.end()


class _GetAll:
    """The objects of one command, several at a time."""

    def __init__(self, context: Context, options: GetOptions) -> None:
        self._context = context
        self._options = options
        self._output = context.output
        self._getter = Getter(context.store, context.kept, context.workers, context.output)
        self._target: Target | None = None
        self._is_one = len(options.names) == 1 and not options.recursive
        self._prefix = ""
        self._pages: AsyncIterator[Sequence[Entry | Prefix]] | None = None
        self._count = self._unchanged = self._bytes = self._received = 0

    async def run(self) -> None:
        """Get them."""
        context, options = self._context, self._options
        began = context.clock.seconds()
        to = options.to
        is_folder = to is None or to.endswith("/") or os.path.isdir(to)
        if options.recursive or is_folder:
            self._target = await context.workers.run(Target, to or ".")
        elif await context.workers.run(_is_stream, to):
            descriptor = await context.workers.run(_open_stream, to)
            try:
                await _to_stream(context, options, descriptor, str(to))
            finally:
                os.close(descriptor)
            return
        try:
            if options.recursive:
                for prefix in options.names:
                    await self._below(prefix)
            else:
                wishes = [Wish(name, options.version) for name in options.names]
                context.meters.expect(len(wishes), 0)
                await work_off(_feed(wishes), options.jobs, self._get)
        finally:
            if self._target is not None:
                self._target.close()
        if not self._is_one:
            await self._summary(context.clock.seconds() - began)

    async def _below(self, prefix: str) -> None:
        """Get all whose names begin with a prefix."""
        context = self._context
        self._prefix = prefix
        pages = context.store.objects(Selection(prefix))
        found = 0

        async def more() -> Sequence[Wish]:
            nonlocal found
            async for page in pages:
                wishes = [
                    Wish(line.name, line.version, line.size, line.hash)
                    for line in page
                    if isinstance(line, Entry)
                ]
                if len(wishes) < len(page):
                    raise BadAnswer("The listing has a line that was not asked for.")
                found += len(wishes)
                context.meters.expect(len(wishes), sum(wish.size or 0 for wish in wishes))
                return wishes
            return ()

        await work_off(Feed(more), self._options.jobs, self._get)
        if not found:
            raise NotFound(f"There is no object whose name begins with {prefix!r}.")

    async def _get(self, wish: Wish) -> None:
        context = self._context
        path = title = ""
        try:
            place = await context.workers.run(self._place, wish.name)
            path, title = place.path, place.title
            meter = context.meters.begin(wish.name, wish.size)
            try:
                got = await self._getter.get_file(wish, place, meter)
            finally:
                meter.end()
                place.close()
        except (OutOfReach, ReaderGone):
            raise
        except DostoreError as error:
            if repr(wish.name) not in error.detail:
                error.detail = f"{wish.name}: {error.detail}"
            await self._output.failed(error, Name=wish.name)
            return
        self._count += 1
        self._unchanged += got.was_there
        self._bytes += got.size
        self._received += got.received
        if self._is_one or not context.meters.live or self._output.as_json:
            await self._output.result(_fields(wish.name, path, got), _line(wish.name, title, got))

    def _place(self, name: str) -> Place:
        options = self._options
        if self._target is None:
            return Place.of(str(options.to))
        if options.recursive:
            return self._target.place(relative_parts(name, self._prefix))
        # A single object: by the last part of its name.
        return self._target.place(relative_parts(name, name))

    async def _summary(self, seconds: float) -> None:
        parts = [f"{count_text(self._count, 'object')} with {size_text(self._bytes)} got"]
        if self._unchanged:
            parts.append(f"{self._unchanged} of them were there already")
        if self._output.failures:
            parts.append(f"{len(self._output.failures)} FAILED")
        speed = ""
        if seconds >= 0.1 and self._received >= 1e6:
            speed = f", {size_text(self._received / seconds)}/s"
        await self._output.remark(f"{', '.join(parts)}, in {seconds_text(seconds)}{speed}.")


def _feed(wishes: list[Wish]) -> Feed[Wish]:
    async def more() -> Sequence[Wish]:
        batch, wishes[:] = list(wishes), []
        return batch

    return Feed(more)


def _is_stream(path: str) -> bool:
    """Whether what is there is neither a file nor a folder: a pipe, a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Whoever writes it will tell.
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _open_stream(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise local(error, f"{path} cannot be written") from error


def _fields(name: str, path: str, got: Got) -> dict[str, Any]:
    return {
        "Name": name,
        "File": path,
        "Version": got.version,
        "Size": got.size,
        "Hash": str(got.hash),
        "Outcome": got.outcome,
        "Received": got.received,
    }


def _line(name: str, path: str, got: Got) -> str:
    if got.was_there:
        return f"{shown(path)} is unchanged: {size_text(got.size)}, as in {shown(name)}"
    return f"{shown(path)}: {size_text(got.size)} from {shown(name)} version {got.version}"
