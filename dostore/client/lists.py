"""``dostore ls``, ``versions``, ``stat``, ``rm`` and ``locate``: what there is, a line for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from dostore.client.answers import Entry, Prefix
from dostore.client.context import Context
from dostore.client.failures import OutOfReach, ReaderGone
from dostore.client.store import Selection
from dostore.client.text import shown
from dostore.core.names import ContentHash
from dostore.errors import DostoreError, InvalidRequest, NotFound

Line = tuple[Mapping[str, Any], str]


async def list_objects(context: Context, wanted: Selection, names_only: bool) -> None:
    """The newest versions, or only their names."""
    found = False
    async with aclosing(context.store.objects(wanted)) as pages:
        async for page in pages:
            found = True
            await context.output.results([_object_line(line, names_only) for line in page])
    if not found and (wanted.prefix or wanted.after):
        await context.output.failed(_nothing(wanted))


def _nothing(wanted: Selection) -> NotFound:
    what = f"begins with {wanted.prefix!r}" if wanted.prefix else ""
    then = f"comes after {wanted.after!r}" if wanted.after else ""
    return NotFound(f"There is no object whose name {' and '.join(filter(None, (what, then)))}.")


def _object_line(line: Entry | Prefix, names_only: bool) -> Line:
    name = shown(line.name)
    if names_only:
        return line.fields, name
    if isinstance(line, Prefix):
        return line.fields, f"{'':>15}  {'':20}  {name}"
    return line.fields, f"{line.size:>15,}  {_time(line.created)}  {name}"


def _time(created: str) -> str:
    """To the second, which is always as long."""
    return shown(f"{created[:19]}Z" if len(created) > 20 else created)


async def list_versions(context: Context, name: str, limit: int | None) -> None:
    """The versions of an object, oldest first."""
    async with aclosing(context.store.versions(name, limit=limit)) as pages:
        async for page in pages:
            await context.output.results([(line.fields, _version_line(line)) for line in page])


def _version_line(line: Entry) -> str:
    what = "deleted" if line.hash is None else f"{line.size:,}"
    return f"{line.version:>8}  {what:>15}  {_time(line.created)}  {line.hash or ''}".rstrip()


async def tell_about(context: Context, name: str, version: int | None) -> None:
    """All that is known of an object, or of one of its versions."""
    about = await context.store.about(name, version)
    fields = {
        "Name": about.name,
        "Version": about.version,
        "Size": about.size,
        "Hash": str(about.hash),
        "ContentType": about.content_type,
        "Modified": about.modified,
        "Meta": dict(about.meta),
    }
    rows = [
        ("name", about.name),
        ("version", str(about.version)),
        ("size", f"{about.size:,} bytes"),
        ("sha-256", str(about.hash)),
        ("type", about.content_type),
        ("modified", about.modified),
        *((f"meta {key}", value) for key, value in about.meta.items()),
    ]
    width = max(len(key) for key, _ in rows)
    text = "\n".join(f"{shown(key):<{width}}  {shown(value)}" for key, value in rows)
    await context.output.result(fields, text)


async def remove(context: Context, names: Sequence[str]) -> None:
    """Delete objects; failures of single ones are told, and the others go on."""
    for name in names:
        try:
            version = await context.store.delete(name)
        except (OutOfReach, ReaderGone):
            raise
        except DostoreError as error:
            await context.output.failed(error, Name=name)
            continue
        text = f"{shown(name)} is deleted" + (f" as of version {version}" if version else "")
        await context.output.result({"Name": name, "Version": version, "Deleted": True}, text)


async def locate(context: Context, name: str, is_hash: bool) -> None:
    """Who holds which shard of an object's content, or of a content."""
    if is_hash:
        try:
            content_hash = ContentHash.parse(name)
        except InvalidRequest as error:
            raise InvalidRequest(f"{name!r} is no hash: {error.detail}") from error
    else:
        content_hash = (await context.store.about(name)).hash
    try:
        holders = await context.store.locate(content_hash)
    except NotFound as error:
        raise NotFound(f"No node holds a shard of {content_hash}.") from error
    await context.output.results(
        [
            (
                {"Hash": str(content_hash), "Shard": int(index), "Address": address},
                f"{index:>3}  {shown(address)}",
            )
            for index, address in holders.items()
        ]
    )
