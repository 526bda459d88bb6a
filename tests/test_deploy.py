"""What is in deploy/ says what the servers understand."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dostore.app import api_tap, data_tap
from dostore.app.config import read_config
from dostore.app.data_config import read_data_config
from dostore.app.settings import environment_variable
from tests.support.cases import SyncTestCase

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"

SECRET = "the-secret-of-the-cluster"

#: The commands of twistd, and what reads their settings.
COMMANDS: dict[str, tuple[Any, Callable[..., object]]] = {
    "dostore-api": (api_tap.Options, read_config),
    "dostore-data": (data_tap.Options, read_data_config),
}

#: Those that stand for no option.
VARIABLES = {"RABBITMQ_SERVER", "ES_SERVER", "DOSTORE_SECRET"}


def read(command: list[str], environ: Mapping[str, str]) -> Any:
    """The configuration of a server that is started so."""
    plugin, *arguments = command
    options_class, read_settings = COMMANDS[plugin]
    options = options_class()
    options.parseOptions(arguments)

    def secret(path: str, limit: int) -> bytes:
        return SECRET.encode()

    return read_settings(options, environ, "/var/lib/dostore", 65536, secret)


def known_variables(plugin: str) -> set[str]:
    """What a server looks at in its environment."""
    options_class, _ = COMMANDS[plugin]
    declared = [*options_class.optParameters, *options_class.optFlags]
    return VARIABLES | {environment_variable(names[0]) for names in declared}


class ComposeTests(SyncTestCase):
    """deploy/compose.yaml and deploy/Dockerfile."""

    def setUp(self) -> None:
        """Read both."""
        super().setUp()
        self.compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        image = (DEPLOY / "Dockerfile").read_text()
        (line,) = re.findall(r"^ENV (.+)$", image, re.MULTILINE)
        self.image_environ = dict(pair.split("=", 1) for pair in line.split())
        self.ours = {
            name: service
            for name, service in self.compose["services"].items()
            if "build" in service
        }

    def test_every_server_can_be_started(self) -> None:
        """Options and variables are known, and make a cluster of one secret."""
        kinds = []
        for name, service in self.ours.items():
            environ = self.image_environ | service["environment"]
            self.assertEqual(set(environ) - known_variables(service["command"][0]), set(), name)
            environ["DOSTORE_SECRET"] = re.sub(
                r"^\$\{DOSTORE_SECRET:\?.*\}$", SECRET, environ["DOSTORE_SECRET"]
            )
            config = read(service["command"], environ)
            kinds.append(service["command"][0])
            if service["command"][0] == "dostore-data":
                self.assertEqual(config.address, f"{name}:12345")
                self.assertEqual(config.secret, SECRET.encode())
                self.assertEqual(config.broker.host, "rabbitmq")
                self.assertIn(f"{name}:{config.storage_root}", service["volumes"])
            else:
                self.assertEqual(config.cluster.secret, SECRET.encode())
                self.assertEqual(config.cluster.rabbitmq.host, "rabbitmq")
                self.assertEqual(config.cluster.elasticsearch[0].url, "http://elasticsearch:9200")
            self.assertTrue(config.listen_port == 12345 and not config.listen_host)
        self.assertEqual((kinds.count("dostore-data"), kinds.count("dostore-api")), (6, 2))

    def test_zones(self) -> None:
        """Losing a zone loses no more shards than there are parity shards."""
        zones = [
            read(service["command"], {"RABBITMQ_SERVER": "amqp://a", "LISTEN_ADDRESS": ":1"}).zone
            for service in self.ours.values()
            if service["command"][0] == "dostore-data"
        ]
        self.assertEqual({zones.count(zone) for zone in zones}, {2})

    def test_names_are_declared(self) -> None:
        """Volumes, and services that others wait for, are there and can tell their health."""
        services = self.compose["services"]
        for name, service in services.items():
            for volume in service.get("volumes", ()):
                self.assertIn(volume.partition(":")[0], self.compose["volumes"], name)
            for needed in service.get("depends_on", ()):
                self.assertIn("healthcheck", services[needed], name)

    def test_only_this_machine(self) -> None:
        """What there are no accounts for is published on loopback only."""
        published = [port for s in self.compose["services"].values() for port in s.get("ports", ())]
        self.assertEqual(len(published), 2)
        for port in published:
            self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_the_image_starts_what_is_installed(self) -> None:
        """The files that the Dockerfile names are in the checkout."""
        text = (DEPLOY / "Dockerfile").read_text()
        (constraint,) = re.findall(r"--constraint (\S+)", text)
        self.assertTrue((ROOT / constraint).exists())
        (default,) = re.findall(r'^CMD \["([\w-]+)"\]', text, re.MULTILINE)
        self.assertIn(default, COMMANDS)


class UnitTests(SyncTestCase):
    """The units of systemd."""

    def examples(self, text: str) -> dict[str, str]:
        """The settings that a unit's head gives as examples, and those that it sets."""
        found = re.findall(r"^(?:#     |Environment=)([A-Z_]+)=(\S+)$", text, re.MULTILINE)
        return {name: value.replace("…", "password").replace("%i", "sdb") for name, value in found}

    def test_settings(self) -> None:
        """What stands there as an example can be used."""
        for path in DEPLOY.glob("systemd/*.service"):
            text = path.read_text()
            (plugin,) = re.findall(r"^ExecStart=\S+/twistd .*(dostore-\w+)$", text, re.MULTILINE)
            settings = self.examples(text)
            self.assertTrue(len(settings) > 3)
            self.assertEqual(set(settings) - known_variables(plugin), set())
            alone = {"STORAGE_ROOT", "DOSTORE_DRIVES"} if plugin == "dostore-api" else set()
            read([plugin], {k: v for k, v in settings.items() if k not in alone})
            if alone:
                read([plugin], {key: settings[key] for key in alone})

    def test_systemd_takes_them(self) -> None:
        """systemd has nothing to say against them."""
        if shutil.which("systemd-analyze") is None:
            self.skipTest("there is no systemd-analyze")
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        for path in DEPLOY.glob("systemd/*.service"):
            # An instance of a template; and a program that is there.
            copy = folder / path.name.replace("@.", "@sdb.")
            copy.write_text(path.read_text().replace("/opt/dostore/bin/twistd", "/bin/true"))
            done = subprocess.run(
                ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""), path.name)
