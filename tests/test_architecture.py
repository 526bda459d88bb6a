"""What the layout promises: who may import whom."""

from __future__ import annotations

import ast
import configparser
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.cases import SyncTestCase

ROOT = Path(__file__).parent.parent

#: A layer may import itself and those before it.
LAYERS = (
    "errors",
    "core",
    "ports",
    "fanout",
    "streams",
    "background",
    "loglines",
    "threads",
    "packets",
    "http",
    "client",
    "service",
    "adapters",
    "web",
    "app",
)

#: What the order alone would allow.
FORBIDDEN = {
    ("service", "streams"),
    ("service", "threads"),
    ("service", "packets"),
    ("service", "http"),
    ("web", "adapters"),
    # The client is a program of its own.
    *((layer, "client") for layer in ("service", "adapters", "web", "app")),
}

#: A pure function gets these passed in: files, sockets, the clock, chance, threads.
IMPURE = {
    "asyncio",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "tempfile",
    "threading",
    "time",
    "twisted",
}


@functools.cache
def imports(path: Path) -> list[str]:
    """The dotted names that a module imports anywhere in it; of ``from a import b``, ``a.b``."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{path} has a relative import; they are not used here")
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """Each module of the product, by its place in the package."""
    for path in sorted((ROOT / "dostore").rglob("*.py")):
        yield str(path.relative_to(ROOT / "dostore").with_suffix("")), path


def layer_of(dotted: str) -> str | None:
    """The layer that an imported name of ours is in; None for the package itself and for others."""
    parts = dotted.split(".")
    if parts[0] != "dostore" or len(parts) == 1 or parts[1] == "__version__":
        return None
    return parts[1]


class ImportDirectionTests(SyncTestCase):
    """Dependencies point one way."""

    def test_every_module_has_a_layer(self) -> None:
        """A new top-level module takes its place in the order before it is used."""
        found = {name.split("/")[0] for name, _ in modules()} - {"__init__"}
        self.assertEqual(found - set(LAYERS), set())

    def test_imports_point_one_way(self) -> None:
        """No module imports a layer that is above its own."""
        wrong = []
        for name, path in modules():
            own = name.split("/")[0]
            if own == "__init__":
                continue
            for imported in imports(path):
                layer = layer_of(imported)
                if layer is None:
                    continue
                allowed = LAYERS.index(layer) <= LAYERS.index(own)
                if not allowed or (own, layer) in FORBIDDEN:
                    wrong.append(f"dostore/{name}.py imports {imported}")
        self.assertEqual(wrong, [])

    def test_the_package_itself_imports_nothing(self) -> None:
        """Importing dostore has no effect but to tell its version."""
        self.assertEqual(imports(ROOT / "dostore" / "__init__.py"), [])

    def test_core_is_pure(self) -> None:
        """No module in core can reach a reactor, a file, a socket, a clock or chance."""
        wrong = [
            f"dostore/{name}.py imports {imported}"
            for name, path in modules()
            if name.startswith("core/")
            for imported in imports(path)
            if imported.split(".")[0] in IMPURE
        ]
        self.assertEqual(wrong, [])

    def test_each_foreign_library_has_one_place(self) -> None:
        """pyeclib is behind core/reedsolomon, txAMQP behind one adapter, SQLite behind several."""
        users: dict[str, set[str]] = {"pyeclib": set(), "sqlite3": set(), "txamqp": set()}
        for name, path in modules():
            for imported in imports(path):
                if imported.split(".")[0] in users:
                    users[imported.split(".")[0]].add(name)
        self.assertEqual(users["pyeclib"], {"core/reedsolomon"})
        self.assertEqual(users["txamqp"], {"adapters/amqp_client"})
        self.assertEqual({name.split("/")[0] for name in users["sqlite3"]} - {"adapters"}, set())

    def test_foreign_libraries_are_declared(self) -> None:
        """What the product imports, an installation of it brings along, and nothing else."""
        imported = {name.split(".")[0] for _, path in modules() for name in imports(path)} - set(
            sys.stdlib_module_names
        )
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        declared = re.findall(r"^\w+", setup["options"]["install_requires"], re.MULTILINE)
        self.assertEqual(imported - {"dostore"}, {name.split(".")[0].lower() for name in declared})

    def test_only_app_imports_the_reactor(self) -> None:
        """Whatever needs a clock or a reactor is given one."""
        wrong = [
            name
            for name, path in modules()
            if "twisted.internet.reactor" in imports(path) and not name.startswith("app/")
        ]
        self.assertEqual(wrong, [])

    def test_the_plugin_imports_nothing_of_ours(self) -> None:
        """``twistd --help`` in any environment loads the plugin file and must stay quick."""
        plugin = ROOT / "twisted" / "plugins" / "dostore_plugins.py"
        self.assertEqual(imports(plugin), ["twisted.application.service.ServiceMaker"])

    def test_the_plugin_folders_are_no_packages(self) -> None:
        """An ``__init__.py`` there would hide Twisted itself."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])
