"""The command line: what is understood, and what is refused before anybody is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import dostore
from dostore.client import cli, program
from dostore.client.gets import GetOptions
from dostore.client.program import Settings
from dostore.client.puts import PutOptions
from dostore.client.store import Selection, Wanted
from tests.support.cases import SyncTestCase

ROOT = Path(__file__).parent.parent.parent


class CliCase(SyncTestCase):
    """Runs the command line, but for what it would start."""

    def setUp(self) -> None:
        """Be in an empty folder, and note what would be started."""
        super().setUp()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        before = os.getcwd()
        os.chdir(folder)
        self.addCleanup(os.chdir, before)
        self.settings: Settings | None = None
        self.called: tuple[str, tuple[Any, ...]] | None = None

        def run(command: Any, settings: Settings, environ: object) -> None:
            self.settings = settings
            command("the context")

        self.patch(program, "run", run)

    def type(self, *words: str, **environ: str) -> Result:
        """What becomes of a command line."""
        return CliRunner(env={"DOSTORE_URL": None, **environ}).invoke(cli.main, words)

    def accepted(self, function: str, *words: str, **environ: str) -> tuple[Any, ...]:
        """What a command's function is called with, besides the context."""
        module, _, name = function.rpartition(".")
        called: list[tuple[Any, ...]] = []
        self.patch(
            import_module(module), name, lambda context, *arguments: called.append(arguments)
        )
        result = self.type(*words, **environ)
        self.assertEqual((result.exit_code, result.output), (0, ""), result.exception)
        (arguments,) = called
        return arguments

    def refused(self, *words: str, **environ: str) -> str:
        """What is printed about a command line that cannot be."""
        result = self.type(*words, **environ)
        self.assertEqual(result.exit_code, 2, result.output)
        self.assertIsNone(self.settings)
        self.assertIn("Error: ", result.output)
        return result.output.partition("Error: ")[2].strip()


class PutTests(CliCase):
    """``put``."""

    def put(self, *words: str) -> PutOptions:
        """What it is told to do."""
        (options,) = self.accepted("dostore.client.puts.put_all", "put", *words)
        assert isinstance(options, PutOptions)
        return options

    def test_what(self) -> None:
        """Files by their own names, by another, or below a prefix."""
        os.mkdir("d")
        self.assertEqual(self.put("a"), PutOptions(("a",)))
        self.assertEqual(self.put("a", "--to", "n/m"), PutOptions(("a",), name="n/m"))
        self.assertEqual(self.put("a", "-t", "n/"), PutOptions(("a",), prefix="n/"))
        self.assertEqual(self.put("d", "a", "-t", "n/"), PutOptions(("d", "a"), prefix="n/"))
        self.assertEqual(self.put("-", "-t", "n"), PutOptions(("-",), name="n"))
        self.assertEqual(self.put("a", "-j", "7").jobs, 7)

    def test_how(self) -> None:
        """What is said of a version makes one, whether the bytes are new or not."""
        self.assertEqual(self.put("a").wanted, Wanted())
        self.assertEqual(self.put("a", "--always").wanted, Wanted(always=True))
        self.assertEqual(
            self.put(
                "a", "--content-type", "a/b", "--meta", "Colour= blue ", "--meta", "b=="
            ).wanted,
            Wanted("a/b", (("colour", "blue"), ("b", "=")), always=True),
        )

    def test_settings(self) -> None:
        """Progress, and that it goes on, is of files only."""
        self.put("a", "--retry-for", "3.5")
        assert self.settings is not None
        self.assertEqual(self.settings.patience_s, 3.5)
        self.assertTrue(self.settings.bars and self.settings.resumable)
        self.put("-", "-t", "n", "-q")
        self.assertTrue(self.settings.quiet)
        self.assertFalse(self.settings.bars or self.settings.resumable)
        self.put("a", "--json")
        self.assertTrue(self.settings.as_json)
        self.assertFalse(self.settings.bars)

    def test_refused(self) -> None:
        """What cannot be meant is told, with what would be right."""
        os.mkdir("d")
        for words, expected in (
            ((), "Missing argument"),
            (("-",), "Standard input is put alone, and needs --to NAME."),
            (("-", "-t", "n/"), "Standard input is put alone"),
            (("-", "a", "-t", "n"), "Standard input is put alone"),
            (("a", "b", "-t", "n"), "write --to n/"),
            (("d", "-t", "n"), "write --to n/"),
            (("a", "d/a"), "a and d/a would be the same object."),
            (("a", "-t", "n\x1bx"), "control character"),
            (("a", "-t", "x" * 1025), "at most 1024"),
            (("a", "-j", "0"), "'--jobs'"),
            (("a", "-j", "65"), "'--jobs'"),
            (("a", "--meta", "a"), "is not KEY=VALUE"),
            (("a", "--meta", "=a"), "is not KEY=VALUE"),
            (("a", "--meta", "ü=a"), "is not KEY=VALUE"),
            (("a", "--meta", "a=ü"), "is not KEY=VALUE"),
            (("a", "--meta", "a=1\r\nX: 2"), "is not KEY=VALUE"),
            (("a", "--meta", "a=1", "--meta", "A=2"), "A key is there twice."),
            (("a", "--content-type", "x\ny"), "printable ASCII"),
            (("a", "--content-type", ""), "printable ASCII"),
            (("a", "--retry-for", "-1"), "--retry-for"),
            (("a", "--url", "https://x"), "TLS"),
        ):
            self.assertIn(expected, self.refused("put", *words))


class GetTests(CliCase):
    """``get``."""

    def get(self, *words: str) -> GetOptions:
        """What it is told to do."""
        (options,) = self.accepted("dostore.client.gets.get_all", "get", *words)
        assert isinstance(options, GetOptions)
        return options

    def test_what(self) -> None:
        """One object, several, all of a prefix."""
        os.mkdir("d")
        self.assertEqual(self.get("a"), GetOptions(("a",)))
        self.assertEqual(self.get("a", "-t", "f"), GetOptions(("a",), to="f"))
        self.assertEqual(self.get("a", "b", "-t", "d"), GetOptions(("a", "b"), to="d"))
        self.assertEqual(self.get("a", "b", "-t", "e/"), GetOptions(("a", "b"), to="e/"))
        self.assertEqual(self.get("-r", "a/"), GetOptions(("a/",), recursive=True))
        self.assertEqual(self.get("-r", ""), GetOptions(("",), recursive=True))
        self.assertEqual(self.get("a", "--version", "3"), GetOptions(("a",), version=3))
        assert self.settings is not None
        self.assertTrue(self.settings.bars and self.settings.resumable)
        self.get("a", "b", "-t", "-")
        self.assertFalse(self.settings.bars or self.settings.resumable)

    def test_refused(self) -> None:
        """What cannot be meant is told."""
        for words, expected in (
            ((), "Missing argument"),
            (("",), "The object name is empty."),
            (("a", "b", "-t", "f"), "f is no folder. To have it made, write --to f/"),
            (("-r", "a", "-t", "-"), "Name a folder."),
            (("a", "b", "--version", "1"), "--version is of one object."),
            (("-r", "a", "--version", "1"), "--version is of one object."),
            (("a", "--version", "0"), "'--version'"),
            (("a", "-t", ""), "--to is empty."),
        ):
            self.assertIn(expected, self.refused("get", *words))


class OtherTests(CliCase):
    """The others, and what is common to all."""

    def test_lists(self) -> None:
        """What each of them is told to do."""
        lists = "dostore.client.lists"
        for function, words, expected in (
            ("list_objects", ("ls",), (Selection(delimiter="/"), False)),
            ("list_objects", ("ls", "-r1", "p"), (Selection("p"), True)),
            (
                "list_objects",
                ("ls", "--delimiter", "-", "--after", "x", "--limit", "5"),
                (Selection("", "x", "-", 5), False),
            ),
            ("list_versions", ("versions", "a", "--limit", "5"), ("a", 5)),
            ("tell_about", ("stat", "a", "--version", "5"), ("a", 5)),
            ("remove", ("rm", "a", "b"), (("a", "b"),)),
            ("locate", ("locate", "a"), ("a", False)),
            ("locate", ("locate", "--hash", "x"), ("x", True)),
        ):
            self.assertEqual(self.accepted(f"{lists}.{function}", *words), expected)

    def test_refused(self) -> None:
        """Names that cannot be, and options that are none."""
        for words in (
            ("versions", ""),
            ("stat", "a\nb"),
            ("rm", "a", ""),
            ("locate", ""),
            ("ls", "--limit", "0"),
            ("ls", "a", "b"),
            ("nix",),
            ("ls", "--nix"),
        ):
            self.refused(*words)

    def hosts(self) -> list[str]:
        """The servers that would be asked."""
        assert self.settings is not None
        return [address.host for address in self.settings.addresses]

    def test_where(self) -> None:
        """The command's option counts more than the one before it, than the environment."""
        remove = "dostore.client.lists.remove"
        self.accepted(remove, "rm", "a")
        self.assertEqual(self.hosts(), ["127.0.0.1:12345"])
        self.accepted(remove, "rm", "a", DOSTORE_URL="http://e:1 e:2")
        self.assertEqual(self.hosts(), ["e:1", "e:2"])
        self.accepted(remove, "--url", "b:1,b:2", "rm", "a", DOSTORE_URL="http://e:1")
        self.assertEqual(self.hosts(), ["b:1", "b:2"])
        self.accepted(remove, "--url", "b:1", "rm", "a", "--url", "c:1", DOSTORE_URL="http://e:1")
        self.assertEqual(self.hosts(), ["c:1"])
        self.accepted(remove, "rm", "a", DOSTORE_URL="")
        self.assertEqual(self.hosts(), ["127.0.0.1:12345"])

    def test_help(self) -> None:
        """It says what each command does, and what the exit status means."""
        for words in (("--help",), ("put", "-h"), ("get", "-h"), ("ls", "-h"), ("rm", "-h")):
            result = self.type(*words)
            self.assertEqual(result.exit_code, 0)
            self.assertIn("Usage: ", result.output)
        self.assertIn("no server can be reached", self.type("-h").output)
        version = self.type("--version").output
        self.assertIn(dostore.__version__, version)

    def test_quick(self) -> None:
        """Help and mistakes are answered without loading what makes requests."""
        code = (
            "import sys; import dostore.client.cli;"
            "loaded = {name.partition('.')[0] for name in sys.modules};"
            "print(sorted({'twisted', 'treq', 'rich'} & loaded))"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        self.assertEqual(found.stdout, "[]\n")
