"""The command line of ``twistd dostore-data``."""

from __future__ import annotations

import os
import re
import resource

from twisted.application.service import IService, IServiceMaker
from twisted.plugin import getPlugins
from twisted.python import usage

from dostore.app.config import environment_variable
from dostore.app.data_config import read_data_config
from dostore.app.data_tap import Options, makeService
from tests.app.test_api_tap import FakeReactor
from tests.support.cases import SyncTestCase

BROKER = {"RABBITMQ_SERVER": "amqp://localhost"}


def parse(*arguments: str) -> Options:
    """What a command line gives."""
    options = Options()
    options.parseOptions(list(arguments))
    return options


class DataOptionsTests(SyncTestCase):
    """What may be typed."""

    def test_what_is_typed_reaches_the_config(self) -> None:
        """Values and switches end in the config."""
        options = parse("-l", "10.0.0.1:1", "-r", "/root", "--zone=a", "--no-shard-sync")
        config = read_data_config(options, BROKER, "/", 1024)
        self.assertEqual(
            (config.listen_host, config.storage_root, config.zone, config.shard_sync),
            ("10.0.0.1", "/root", "a", False),
        )

    def test_every_option_is_read(self) -> None:
        """No option can be typed that nobody looks at: its value, being wrong, is refused."""
        for name, _, _, _ in Options.optParameters:
            if name in ("storage-root", "access-log"):
                continue  # Any text is a path.
            options = parse(f"--{name}=?")
            error = self.assertRaises(usage.UsageError, read_data_config, options, BROKER, "/", 99)
            self.assertIn(f"--{name}: '?'", str(error))

    def test_help_tells_the_environment_variables(self) -> None:
        """Each option's variable stands in ``--help``, and so do those that have no option."""
        text = re.sub(r"\s+", " ", Options().getUsage())
        for name in [str(row[0]) for row in Options.optParameters + Options.optFlags]:
            self.assertIn(f"--{name}", text)
            self.assertIn(f"[environment: {environment_variable(name)}]", text)
        self.assertIn("RABBITMQ_SERVER", text)
        self.assertIn("DOSTORE_SECRET,", text)

    def test_no_secret_on_the_command_line(self) -> None:
        """Whoever lists processes would read it: only the name of its file can be told."""
        names = [str(row[0]) for row in Options.optParameters]
        self.assertEqual([name for name in names if "secret" in name], ["secret-file"])


class MakeDataServiceTests(SyncTestCase):
    """What twistd calls."""

    def setUp(self) -> None:
        """Put the limit of open files back at the end."""
        super().setUp()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def test_the_plugin(self) -> None:
        """twistd finds the service by its name, with these options and this function."""
        (plugin,) = (p for p in getPlugins(IServiceMaker) if p.tapname == "dostore-data")
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)

    def test_a_service(self) -> None:
        """Options make a service; nothing happens before it is started."""
        self.patch(os, "environ", dict(BROKER))
        folder = self.mktemp()
        service = makeService(parse(f"--storage-root={folder}"), FakeReactor())
        self.assertTrue(IService.providedBy(service))
        self.assertFalse(os.path.exists(folder))

    def test_a_wrong_value_ends_the_process(self) -> None:
        """The sentence goes to standard error by way of SystemExit, without a trace."""
        self.patch(os, "environ", dict(BROKER))
        error = self.assertRaises(SystemExit, makeService, parse("--zone=a b"), FakeReactor())
        self.assertTrue(str(error).startswith("dostore-data: --zone: 'a b' cannot be used"))
