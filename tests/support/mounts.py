"""Mounts of one's own: small drives, and drives that are taken away.

They are in a mount namespace that ends with the process of the tests. Root makes one; anybody else
makes it within a user namespace, where the system allows that.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.support.processes import Store


class MountSpace:
    """A mount namespace, held by a process that ends when this one does.

    :raises SkipTest: the system lets us have none.
    """

    def __init__(self) -> None:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["unshare", *user, "--mount", "sh", "-c", "echo here; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"here\n":
            _, why = self._holder.communicate()
            raise SkipTest(f"no mounts here: {why.decode(errors='replace').strip()}")
        self._enter = ["nsenter", f"--target={self._holder.pid}", "--mount"]
        if user:
            self._enter += ["--user", "--preserve-credentials"]

    def command(self, command: Sequence[str]) -> list[str]:
        """What runs a command among these mounts, as the same process."""
        return [*self._enter, "--", *command]

    def run(self, *command: str) -> None:
        """Run a command among these mounts, to its end."""
        subprocess.run(self.command(command), check=True, timeout=30)

    def path(self, path: Path) -> Path:
        """How this process sees what is mounted at a path."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def mount_small(self, folder: Path, size_bytes: int) -> None:
        """Mount a drive of its own at a folder: real, empty and small."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))

    def resize(self, folder: Path, size_bytes: int) -> None:
        """Give a small drive another size."""
        self.run("mount", "-o", f"remount,size={size_bytes}", str(folder))

    def mount_again(self, source: Path, folder: Path) -> None:
        """Mount at a folder what is mounted at another."""
        self.run("mount", "--bind", str(source), str(folder))

    def make_read_only(self, folder: Path) -> None:
        """Have what is mounted at a folder take no writes, through new descriptors at least."""
        self.mount_again(folder, folder)
        self.run("mount", "-o", "remount,bind,ro", str(folder))

    def unmount(self, folder: Path) -> None:
        """Take away the last that was mounted at a folder, open files or not."""
        self.run("umount", "--lazy", str(folder))

    def close(self) -> None:
        """End it; every mount goes with it."""
        self._holder.communicate()


class MountedStore(Store):
    """A store whose process sees the mounts of a space."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        options: Iterable[str] = (),
        *,
        space: MountSpace,
        **how: Any,
    ) -> None:
        super().__init__(folder, options, **how)
        self._space = space

    def command(self) -> list[str]:
        """What :meth:`spawn` runs."""
        return self._space.command(super().command())
