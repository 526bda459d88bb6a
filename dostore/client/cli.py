"""The command line: ``dostore put``, ``get``, ``ls``, ``versions``, ``stat``, ``rm``, ``locate``.

Only what reads the command line is imported here, so that ``--help`` and mistakes are answered at
once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

import dostore
from dostore.client.addresses import DEFAULT_URL, Address, parse_addresses
from dostore.errors import ConfigError, InvalidName

if TYPE_CHECKING:
    from dostore.client.context import Context
    from dostore.client.program import Command

F = TypeVar("F", bound=Callable[..., Any])

MAX_JOBS = 64

_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE

_META_KEY = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")

_EPILOG = """\b
Exit status:
    0  all was done
    1  something failed
    2  the command line is wrong
    3  there is no such object
    4  no server can be reached, or none can do it now
    5  bytes are not those that their SHA-256 tells
  130  broken off by Ctrl-C; the same command again goes on from there
"""

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _addresses(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> Sequence[Address] | None:
    given: Sequence[Address] | None = context.obj
    if given is not None and context.get_parameter_source("url") is not _COMMAND_LINE:
        # Before the command's name it was given, too, which counts more than the environment.
        return given
    if value is None:
        return None
    try:
        return parse_addresses(value)
    except ConfigError as error:
        raise click.BadParameter(error.detail) from error


def _names(
    context: click.Context, parameter: click.Parameter, value: str | Sequence[str] | None
) -> str | Sequence[str] | None:
    """Refuse what cannot be the name of an object before anybody is asked for it."""
    from dostore.core.names import check_object_name

    for name in [value] if isinstance(value, str) else value or ():
        try:
            check_object_name(name)
        except InvalidName as error:
            raise click.BadParameter(error.detail) from error
    return value


def _meta(
    context: click.Context, parameter: click.Parameter, value: Sequence[str]
) -> Sequence[tuple[str, str]]:
    pairs = []
    for item in value:
        key, equals, text = item.partition("=")
        if not equals or not _META_KEY.fullmatch(key) or not _PRINTABLE.fullmatch(text):
            raise click.BadParameter(f"{item!r} is not KEY=VALUE in printable ASCII.")
        pairs.append((key.lower(), text.strip(" ")))
    if len({key for key, _ in pairs}) < len(pairs):
        raise click.BadParameter("A key is there twice.")
    return pairs


def _content_type(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    if value is not None and not (_PRINTABLE.fullmatch(value) and 0 < len(value) <= 255):
        raise click.BadParameter("A media type is printable ASCII of at most 255 characters.")
    return value


def _url(envvar: str | None) -> Callable[[F], F]:
    return click.option(
        "--url",
        metavar="URL[,URL...]",
        envvar=envvar,
        callback=_addresses,
        help="API servers of the store; one that is dead is left for the next. Also from"
        f" DOSTORE_URL.  [default: {DEFAULT_URL}]",
    )


def _common(function: F) -> F:
    """The options of every command."""
    for option in (
        click.option(
            "--retry-for",
            type=click.FloatRange(0),
            metavar="SECONDS",
            help="How long to try while nothing gets on.  [default: 300; 2 until a server answers]",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print failures only."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object a line, no progress."
        ),
        _url("DOSTORE_URL"),
    ):
        function = option(function)
    return function


_version = click.option(
    "--version", type=click.IntRange(1), metavar="N", help="Not the newest, but this one."
)

_jobs = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, MAX_JOBS),
    metavar="N",
    default=4,
    show_default=True,
    help="Transfers at a time.",
)


def _start(
    make: Callable[[Context], Any],
    options: dict[str, Any],
    *,
    bars: bool = False,
    resumable: bool = False,
) -> None:
    from dostore.client.program import Settings, run

    command: Command = make
    run(
        command,
        Settings(
            addresses=options["url"] or parse_addresses(DEFAULT_URL),
            patience_s=options["retry_for"],
            as_json=options["as_json"],
            quiet=options["quiet"],
            bars=bars and not options["as_json"] and not options["quiet"],
            resumable=resumable,
            jobs=options.get("jobs", 1),
        ),
        os.environ,
    )


@click.group(context_settings=_CONTEXT, epilog=_EPILOG)
@_url(None)
@click.version_option(dostore.__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context, url: Sequence[Address] | None) -> None:
    """Put files into a dostore object store, and get them back.

    What is broken off, by a bad line or by Ctrl-C, goes on where it stopped when the same command
    is run again.
    """
    context.obj = url


@main.command(short_help="Store files and folders.")
@click.argument("paths", metavar="FILE|FOLDER|-...", nargs=-1, required=True)
@click.option(
    "-t",
    "--to",
    metavar="NAME|PREFIX/",
    help="The object's name; or, with / at its end, what the names begin with.",
)
@_jobs
@click.option(
    "--content-type",
    metavar="TYPE",
    callback=_content_type,
    help="Media type to keep with each object.  [default: by the file's name]",
)
@click.option(
    "--meta", metavar="KEY=VALUE", multiple=True, callback=_meta, help="Kept with each object."
)
@click.option(
    "--always",
    is_flag=True,
    help="Make a new version even of what is stored under that name already.",
)
@_common
def put(paths: Sequence[str], to: str | None, **options: Any) -> None:
    """Store files, and folders with all that is in them; - stands for standard input.

    \b
      dostore put photo.jpg                     stores it as photo.jpg
      dostore put photo.jpg --to 2026/beach     as 2026/beach
      dostore put photos --to backup/           as backup/photos/…
      tar c /etc | dostore put - --to etc.tar

    A file that is stored under its name already is left alone, unless --always, --meta or
    --content-type is given. Large files are hashed first, go in parts, and go on where they stopped
    after a broken line or a restart of this command. Standard input cannot: it goes in one go.
    """
    from dostore.client.puts import STDIN, PutOptions, put_all
    from dostore.client.sources import check_apart
    from dostore.client.store import Wanted

    is_one = len(paths) == 1 and not os.path.isdir(paths[0])
    prefix = to if to is not None and to.endswith("/") else ""
    name = to if to and not prefix else None
    if STDIN in paths and (len(paths) > 1 or name is None):
        raise click.UsageError("Standard input is put alone, and needs --to NAME.")
    if name is not None and not is_one:
        raise click.UsageError(
            f"Several files cannot all be {name!r}. To have names begin with it, write --to {name}/"
        )
    try:
        if name is not None:
            _names(click.get_current_context(), None, name)  # type: ignore[arg-type]
        check_apart(paths)
    except ConfigError as error:
        raise click.UsageError(error.detail) from error
    wanted = Wanted(
        options["content_type"],
        tuple(options["meta"]),
        options["always"] or bool(options["meta"]) or options["content_type"] is not None,
    )
    what = PutOptions(paths, name, prefix, options["jobs"], wanted)
    _start(lambda context: put_all(context, what), options, bars=True, resumable=STDIN not in paths)


@main.command(short_help="Fetch objects.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "-t",
    "--to",
    metavar="FILE|FOLDER|-",
    help="Where to: a file, a folder (there already, or with / at its end), or - for standard"
    " output.  [default: the last part of the name, in the working folder]",
)
@click.option(
    "-r", "--recursive", is_flag=True, help="Get all objects whose names begin with NAME."
)
@_version
@_jobs
@_common
def get(names: Sequence[str], to: str | None, **options: Any) -> None:
    """Fetch objects, and check that each has the SHA-256 that the server tells.

    \b
      dostore get 2026/beach                    to the file beach
      dostore get 2026/beach --to photo.jpg     to photo.jpg
      dostore get etc.tar --to - | tar t
      dostore get -r backup/photos/ --to copy   all that is below, to the folder copy

    A file is there when it is whole; until then what there is of it is beside it, in
    FILE.dostore-part, and the same command goes on from there. A file that is the same already is
    left alone, another one is replaced.
    """
    from dostore.client.gets import STDOUT, GetOptions, get_all

    recursive, version = options["recursive"], options["version"]
    if not recursive:
        _names(click.get_current_context(), None, names)  # type: ignore[arg-type]
    if to == STDOUT and recursive:
        raise click.UsageError("Many objects cannot all go to standard output. Name a folder.")
    if version is not None and (recursive or len(names) > 1):
        raise click.UsageError("--version is of one object.")
    if to == "":
        raise click.UsageError("--to is empty.")
    is_folder = to is None or to == STDOUT or to.endswith("/") or os.path.isdir(to)
    if len(names) > 1 and not recursive and not is_folder:
        raise click.UsageError(f"{to} is no folder. To have it made, write --to {to}/")
    what = GetOptions(names, to, version, recursive, options["jobs"])
    is_file = to != STDOUT
    _start(lambda context: get_all(context, what), options, bars=is_file, resumable=is_file)


@main.command("ls", short_help="List objects.")
@click.argument("prefix", required=False, default="")
@click.option("-r", "--recursive", is_flag=True, help="List all names, not only up to the next /.")
@click.option("--delimiter", default="/", help="What to use instead of /.  [default: /]")
@click.option("-1", "--names", "names_only", is_flag=True, help="Print names only.")
@click.option("--after", default="", metavar="NAME", help="Only what comes after this name.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many lines.")
@_common
def list_(prefix: str, **options: Any) -> None:
    """List the objects whose names begin with PREFIX, all without one.

    Names that have a / after the prefix are one line, up to the /, as if they were in a folder.
    With --json the lines are those of the server.
    """
    from dostore.client.lists import list_objects
    from dostore.client.store import Selection

    delimiter = "" if options["recursive"] else options["delimiter"]
    wanted = Selection(prefix, options["after"], delimiter, options["limit"])
    _start(lambda context: list_objects(context, wanted, options["names_only"]), options)


@main.command(short_help="List the versions of an object.")
@click.argument("name", callback=_names)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many lines.")
@_common
def versions(name: str, limit: int | None, **options: Any) -> None:
    """List the versions of an object, oldest first: number, size, time, SHA-256."""
    from dostore.client.lists import list_versions

    _start(lambda context: list_versions(context, name, limit), options)


@main.command(short_help="Tell all about an object.")
@click.argument("name", callback=_names)
@_version
@_common
def stat(name: str, version: int | None, **options: Any) -> None:
    """Tell all that is known about an object: version, size, SHA-256, type, time, metadata."""
    from dostore.client.lists import tell_about

    _start(lambda context: tell_about(context, name, version), options)


@main.command(short_help="Delete objects.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, callback=_names)
@_common
def rm(names: Sequence[str], **options: Any) -> None:
    """Delete objects. Their older versions stay, and can be had with get --version."""
    from dostore.client.lists import remove

    _start(lambda context: remove(context, names), options)


@main.command(short_help="Tell which nodes hold an object.")
@click.argument("name")
@click.option("--hash", "is_hash", is_flag=True, help="NAME is the hash of a content.")
@_common
def locate(name: str, is_hash: bool, **options: Any) -> None:
    """Tell which node holds which shard of an object's newest version."""
    from dostore.client.lists import locate as locate_shards

    if not is_hash:
        _names(click.get_current_context(), None, name)  # type: ignore[arg-type]
    _start(lambda context: locate_shards(context, name, is_hash), options)
