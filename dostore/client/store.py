"""The requests of the native API, each tried until it is answered."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from urllib.parse import quote, urlencode

from attrs import evolve, field, frozen

from dostore.client.answers import (
    About,
    Entry,
    Prefix,
    Stored,
    error_of,
    one_field,
    parse_holders,
    parse_line,
    whole,
)
from dostore.client.attempts import Attempts, Servers
from dostore.client.failures import BadAnswer
from dostore.core.httpfields import META_PREFIX, format_digest
from dostore.core.names import MAX_NAME_BYTES, ContentHash, escape_base64
from dostore.errors import Busy, DostoreError, NotFound, Unavailable
from dostore.http.exchange import MAX_ERROR_BYTES, Answer, Field

#: Lines of a listing that are asked for at once.
PAGE_LINES = 1000

#: A line has a name, which JSON may double, metadata, a type, and little else.
MAX_PAGE_BYTES = PAGE_LINES * (2 * MAX_NAME_BYTES + 2 * 8192 + 2048)

#: What names tell by themselves, whatever this machine has been set up for.
_TYPES = mimetypes.MimeTypes()
_CODED_TYPES = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
}

Tell = Callable[[str, float], None]


@frozen(slots=True)
class Wanted:
    """What a version is to be, besides its content.

    :ivar content_type: None: nobody says.
    :ivar always: make a version even if the newest one has these bytes already.
    """

    content_type: str | None = None
    meta: Sequence[tuple[str, str]] = field(factory=tuple)
    always: bool = False

    def fields(self, content_hash: ContentHash | None) -> list[Field]:
        """The header fields that say so, for a content if its hash is known."""
        fields: list[Field] = []
        if content_hash is not None:
            fields.append((b"Digest", format_digest(content_hash)))
            if not self.always:
                fields.append((b"If-None-Match", f'"{content_hash}"'.encode("ascii")))
        if self.content_type is not None:
            fields.append((b"Content-Type", self.content_type.encode("ascii")))
        fields += [
            (META_PREFIX + key.encode("ascii"), value.encode("ascii")) for key, value in self.meta
        ]
        return fields

    def of_file(self, path: str) -> Wanted:
        """The same for a file, whose name may tell its media type."""
        if self.content_type is not None:
            return self
        media_type, coding = _TYPES.guess_type(path)
        if coding is not None:
            media_type = _CODED_TYPES.get(coding)
        return evolve(self, content_type=media_type)

    def text(self) -> str:
        """In a form that can be kept and compared."""
        return json.dumps([self.content_type, list(self.meta), self.always])


@frozen(slots=True)
class Selection:
    """Which part of a listing is wanted.

    :ivar limit: at most so many lines; None: all.
    """

    prefix: str = ""
    after: str = ""
    delimiter: str = ""
    limit: int | None = None


def object_target(name: str, version: int | None = None) -> str:
    """The path of an object, and the query for one of its versions."""
    return f"/objects/{quote(name, safe='/')}" + (f"?version={version}" if version else "")


class Store:
    """A store, through whichever of its API servers answers.

    :param tell: told of failures that something follows upon; see Attempts.
    """

    def __init__(self, servers: Servers, tell: Tell) -> None:
        self.servers = servers
        self._tell = tell

    def attempts(self, tell: Tell | None = None) -> Attempts:
        """For what is more than a request and its answer."""
        return Attempts(self.servers, tell or self._tell)

    async def ask(
        self,
        method: str,
        target: str,
        fields: Sequence[Field] = (),
        *,
        attempts: Attempts | None = None,
        limit: int = MAX_ERROR_BYTES,
    ) -> Answer:
        """The answer to a request without a body, if it is a success.

        :raises DostoreError: what the answer says; OutOfReach: there was none.
        """
        attempts = attempts or self.attempts()
        while True:
            try:
                answer = await attempts.link.ask(method, target, fields, limit=limit)
                attempts.answered()
                if 200 <= answer.status < 300:
                    return answer
                raise error_of(answer)
            except Unavailable as error:
                await attempts.failed(error)

    # Objects

    async def about(self, name: str, version: int | None = None) -> About:
        """What there is to know of a version; of the newest one unless it is told which.

        :raises NotFound: there is none, or it is a tombstone.
        """
        target = object_target(name, version)
        try:
            answer = await self.ask("HEAD", target)
        except NotFound as error:
            # The answer to a HEAD cannot say why; that to a GET can.
            with suppress(NotFound):
                await self.ask("GET", target, [(b"Range", b"bytes=0-0")])
            raise no_such_object(name, version) from error
        return About.of(name, answer.headers, whole(answer.headers, b"content-length"))

    async def delete(self, name: str) -> int | None:
        """Make a tombstone: the number of that version; None: an attempt whose answer was lost
        must have made it.

        :raises NotFound: there is no such object.
        """
        attempts = self.attempts()
        try:
            answer = await self.ask("DELETE", object_target(name), attempts=attempts)
        except NotFound as error:
            if attempts.doubtful:
                return None
            raise no_such_object(name) from error
        return whole(answer.headers, b"x-object-version")

    async def locate(self, content_hash: ContentHash) -> dict[str, str]:
        """Who holds which shard of a content.

        :raises NotFound: nobody holds one.
        """
        target = f"/locate/{escape_base64(content_hash.digest)}"
        return parse_holders((await self.ask("GET", target, limit=1 << 20)).body)

    # Listings

    async def objects(self, wanted: Selection) -> AsyncGenerator[Sequence[Entry | Prefix], None]:
        """The newest versions that are no tombstones, page by page."""
        after, left = wanted.after, wanted.limit
        while left is None or left > 0:
            asked = PAGE_LINES if left is None else min(left, PAGE_LINES)
            query = {"prefix": wanted.prefix, "after": after, "delimiter": wanted.delimiter}
            page = await self._page("/objects/", {**query, "limit": str(asked)})
            for line in page:
                # Or it might go on for ever, or be about what was not asked for.
                if line.name <= after or not line.name.startswith(wanted.prefix):
                    raise BadAnswer("The listing is not in order.")
                after = line.name
            if len(page) > asked:
                raise BadAnswer("The listing is longer than was asked for.")
            if page:
                yield page
            if len(page) < asked:
                return
            left = None if left is None else left - len(page)

    async def versions(
        self, name: str, after: int = 0, limit: int | None = None
    ) -> AsyncGenerator[Sequence[Entry], None]:
        """The versions of an object, oldest first, page by page.

        :raises NotFound: there never was such an object.
        """
        while limit is None or limit > 0:
            asked = PAGE_LINES if limit is None else min(limit, PAGE_LINES)
            target = f"/versions/{quote(name, safe='/')}"
            try:
                page = await self._page(target, {"after": str(after), "limit": str(asked)})
            except NotFound as error:
                raise NotFound(f"There never was an object {name!r}.") from error
            entries = [line for line in page if isinstance(line, Entry)]
            for entry in entries:
                if entry.name != name or entry.version <= after:
                    raise BadAnswer("The listing is not in order.")
                after = entry.version
            if len(page) > asked or len(entries) < len(page):
                raise BadAnswer("The listing is not what was asked for.")
            if entries:
                yield entries
            if len(page) < asked:
                return
            limit = None if limit is None else limit - len(page)

    async def _page(self, target: str, query: dict[str, str]) -> list[Entry | Prefix]:
        given = urlencode({key: value for key, value in query.items() if value}, quote_via=quote)
        answer = await self.ask("GET", f"{target}?{given}", limit=MAX_PAGE_BYTES)
        return [parse_line(line) for line in answer.body.split(b"\n") if line]

    # Uploads

    async def open_upload(
        self,
        name: str,
        content_hash: ContentHash,
        size: int,
        wanted: Wanted,
        attempts: Attempts,
    ) -> str | Stored:
        """Begin an upload: its path, for parts. The version, when the content is there already.

        :raises PreconditionFailed: the newest version has this content.
        """
        fields = [*wanted.fields(content_hash), (b"Size", b"%d" % size)]
        answer = await self.ask("POST", object_target(name), fields, attempts=attempts)
        if answer.status == 200:
            return Stored.of(answer.headers)
        location = one_field(answer.headers, b"location")
        if location is None or not is_upload(location):
            raise BadAnswer("The answer does not say where the upload is.")
        return location

    async def drop_upload(self, upload: str) -> None:
        """Give an upload up, if it is still there."""
        try:
            await self.ask("DELETE", upload)
        except (NotFound, Busy):
            return


def is_upload(path: object) -> bool:
    """Whether it can be the path of an upload."""
    return (
        isinstance(path, str)
        and path.startswith("/temp/")
        and len(path) <= 4096
        and path.removeprefix("/temp/").replace("-", "").replace("_", "").isalnum()
        and path.isascii()
    )


def no_such_object(name: str, version: int | None = None) -> DostoreError:
    """For a name that leads nowhere."""
    if version is not None:
        return NotFound(f"There is no version {version} of {name!r} that can be read.")
    return NotFound(f"There is no object {name!r}, or it is deleted.")
