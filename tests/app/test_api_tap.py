"""The command line of ``twistd dostore-api``."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable

from twisted.application.service import IService, IServiceMaker
from twisted.internet.task import Clock
from twisted.plugin import getPlugins
from twisted.python import usage

from dostore.app.api_tap import Options, makeService
from dostore.app.config import environment_variable, read_config
from dostore.app.process import allow_open_files
from tests.support.cases import SyncTestCase


def parse(*arguments: str) -> Options:
    """What a command line gives."""
    options = Options()
    options.parseOptions(list(arguments))
    return options


class FakeReactor(Clock):
    """A reactor that never runs."""

    def callFromThread(self, function: Callable[[], None]) -> None:
        """Nothing is called from a thread before the start."""
        raise AssertionError("called from a thread")

    def callWhenRunning(self, function: Callable[..., None], *args: object) -> None:
        """Never."""


class OptionsTests(SyncTestCase):
    """What may be typed."""

    def test_what_is_typed_reaches_the_config(self) -> None:
        """Long and short forms, values and switches, end in the Config."""
        options = parse(
            *("-l", ":1", "-r", "/root", "-d", "/d{1...4}", "-k", "3", "-m", "1"),
            *("--require-digest", "--no-shard-sync", "--access-log=/log"),
        )
        config = read_config(options, {}, "/", 1024)
        self.assertEqual(
            (config.listen_port, config.storage_root, config.drives, config.access_log),
            (1, "/root", ("/d1", "/d2", "/d3", "/d4"), "/log"),
        )
        self.assertEqual((config.scheme.k, config.scheme.m), (3, 1))
        self.assertTrue(config.require_digest)
        self.assertFalse(config.shard_sync)

    def test_nothing_typed_is_the_default(self) -> None:
        """Options that are not given leave every default."""
        self.assertEqual(read_config(parse(), {}, "/", 99), read_config({}, {}, "/", 99))

    def test_every_option_is_read(self) -> None:
        """No option can be typed that nobody looks at: its value, being wrong, is refused."""
        for name, _, _, _ in Options.optParameters:
            if name in ("storage-root", "access-log", "secret-file"):
                continue  # Any text is a path.
            options = parse(f"--{name}=?")
            error = self.assertRaises(usage.UsageError, read_config, options, {}, "/", 99)
            self.assertIn(f"--{name}: '?'", str(error))

    def test_help_tells_the_environment_variables(self) -> None:
        """Each option's variable stands in ``--help``."""
        text = re.sub(r"\s+", " ", Options().getUsage())
        for name in [str(row[0]) for row in Options.optParameters + Options.optFlags]:
            self.assertIn(f"--{name}", text)
            self.assertIn(f"[environment: {environment_variable(name)}]", text)

    def test_unknown(self) -> None:
        """What is no option, and what is left over, is a usage error."""
        self.assertRaises(usage.UsageError, parse, "--nonsense")
        self.assertRaises(usage.UsageError, parse, "leftover")


class MakeServiceTests(SyncTestCase):
    """What twistd calls."""

    def setUp(self) -> None:
        """Put the limit of open files back at the end."""
        super().setUp()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def test_the_plugin(self) -> None:
        """twistd finds the service by its name, with these options and this function."""
        (plugin,) = (p for p in getPlugins(IServiceMaker) if p.tapname == "dostore-api")
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)

    def test_a_service(self) -> None:
        """Options make a service; nothing happens before it is started."""
        folder = self.mktemp()
        service = makeService(parse(f"--storage-root={folder}"), FakeReactor())
        self.assertTrue(IService.providedBy(service))
        self.assertFalse(os.path.exists(folder))

    def test_a_wrong_value_ends_the_process(self) -> None:
        """The sentence goes to standard error by way of SystemExit, without a trace."""
        error = self.assertRaises(SystemExit, makeService, parse("--listen=x"), FakeReactor())
        self.assertTrue(str(error).startswith("dostore-api: --listen: 'x' cannot be used"))

    def test_paths_that_cannot_be_used(self) -> None:
        """A file as the storage root, or an access log in no folder, ends it: both are named."""
        path = os.path.abspath(self.mktemp())
        with open(path, "w"):
            pass
        for name, wrong, words in (
            ("storage-root", path, "is no folder"),
            ("access-log", f"{path}/log", "cannot be written: Not a directory"),
        ):
            options = parse("--storage-root", f"{path}-root", f"--{name}={wrong}")
            error = self.assertRaises(SystemExit, makeService, options, FakeReactor())
            self.assertIn(f"--{name}: {wrong} {words}", str(error))

    def test_the_limit_of_open_files_is_raised(self) -> None:
        """As far as the system allows and the store has use for, and never lowered."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        allowed = allow_open_files()
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.assertEqual(allowed, soft)
        self.assertTrue(soft > 256)
        self.assertEqual(allow_open_files(), soft)
