"""The commands of README.rst do what it says that they do."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from attrs import frozen

from tests.support.processes import ROOT, BlockingStoreTestCase, Store

README = ROOT / "README.rst"


@frozen(slots=True)
class Command:
    """A line that begins with ``$``, and the lines below it; ``...`` there stands for anything."""

    line: str
    output: str


def code_blocks(language: str) -> list[list[str]]:
    """The lines of each code block in a language, without their indentation."""
    found = []
    for match in re.finditer(
        rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", README.read_text(), re.MULTILINE
    ):
        found.append([line[3:] for line in match[1].rstrip().splitlines()])
    return found


def commands() -> list[Command]:
    """All that one is told to type, in order."""
    found: list[Command] = []
    for block in code_blocks("console"):
        for line in block:
            if line.startswith("$ "):
                found.append(Command(line[2:], ""))
            else:
                last = found.pop()
                found.append(Command(last.line, f"{last.output}{line}\n"))
    return found


def matches(expected: str, output: str) -> bool:
    """Whether the output is what was expected, ``...`` standing for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.rstrip("\n").split("..."))
    return re.fullmatch(pattern, output.rstrip("\n"), re.DOTALL) is not None


class ReadmeTests(BlockingStoreTestCase):
    """Each command is run as written, but for the port, the folder, and where ``dostore`` is."""

    def test_commands(self) -> None:
        """In order, against one store; what they print is what is printed below them."""
        if shutil.which("curl") is None:
            self.skipTest("curl is not installed")
        typed = [command for command in commands() if not command.line.startswith("make ")]
        self.assertTrue(len(typed) > 10)
        folder = Path(self.mktemp()).absolute()
        store = Store(folder / "data")
        self.addCleanup(store.kill)
        store.start()
        environ = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DOSTORE_URL": store.url,
            "XDG_STATE_HOME": str(folder / "state"),
        }
        for command in typed:
            line = command.line.replace("12345", str(store.port))
            line = re.sub(r"^curl ", "curl -sS ", line)
            done = subprocess.run(
                ["bash", "-c", line],
                cwd=folder,
                env=environ,
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""), command.line)
            if not matches(command.output, done.stdout):
                self.fail(f"$ {line}\n{done.stdout}\nand not\n{command.output}")

    def test_make_run(self) -> None:
        """``make run`` in the checkout is a store, on the address and in the folder it is told."""
        folder = Path(self.mktemp()).absolute()
        store = Store(folder / "data")
        # As in the README: settings are given to make.
        command = f"make run LISTEN_ADDRESS=:{store.port} STORAGE_ROOT={shlex.quote(str(folder))}"
        log = open(folder.with_suffix(".log"), "wb")  # noqa: SIM115 - outlives this function
        self.addCleanup(log.close)
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.addCleanup(_kill_group, process)
        store.process = process
        store.wait_ready()
        self.assertEqual(store.request("PUT", "/objects/x", b"y").status, 200)
        self.assertTrue((folder / "1" / "objects").is_dir())
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)

    def test_what_is_made_is_in_the_makefile(self) -> None:
        """Each ``make`` target that the README names exists and is described."""
        named = set(re.findall(r"\bmake ([a-z-]+)", README.read_text()))
        described = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.M))
        self.assertTrue({"run", "demo", "bench"} <= named)
        self.assertEqual(named - described, set())


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
