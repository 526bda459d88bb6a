"""F5: data servers that come back without their disk, or with another one."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.clusters import DataServer
from tests.support.shared_cluster import MOUNTED, FaultCase, drive_of

SOME = 10


class OtherDiskTests(FaultCase):
    """Reads and writes go on, nothing is resurrected, and redundancy comes back in full."""

    def own(self, count: int) -> list[DataServer]:
        """Some data servers whose disks can be moved."""
        return self.chance.sample(self.cluster.data[MOUNTED:], count)

    def test_two_come_back_empty(self) -> None:
        """Two data servers come back with nothing: what they had is made again."""
        servers = self.chance.sample(self.cluster.data, 2)
        with self.load() as load:
            self.wait_count(load, SOME)
            for server in servers:
                server.kill()
                for path in drive_of(server).iterdir():
                    remove(path)
                server.start()
            self.wait_count(load, SOME)
            self.cluster.wait_ready()
        self.assert_all_right(load)

    def test_one_comes_back_empty_when_nobody_asks(self) -> None:
        """It is noticed when nobody reads or writes, and before it has been missed."""
        with self.load() as load:
            self.wait_count(load, SOME)
        (server,) = self.own(1)
        server.kill()
        server.wipe()
        server.start()
        self.assert_all_right(load)

    def test_an_old_disk_is_put_back(self) -> None:
        """A data server gets the disk back that it had some objects and deletions ago."""
        (server,) = self.own(1)
        old = server.folder.with_name("old")
        with self.load() as load:
            self.wait_count(load, SOME)
            server.kill()
            shutil.copytree(server.folder, old)
            server.start()
            self.cluster.wait_ready()
            self.wait_count(load, 2 * SOME)
            self.wait_count(load, 1, "DELETE")
            server.kill()
            server.wipe()
            old.rename(server.folder)
            server.start()
            self.wait_count(load, SOME)
            self.cluster.wait_ready()
        self.assert_all_right(load)

    def test_two_disks_are_swapped(self) -> None:
        """Two data servers get each other's disk: every shard is found where it is now."""
        one, other = self.own(2)
        aside = one.folder.with_name("aside")
        with self.load() as load:
            self.wait_count(load, SOME)
            one.kill()
            other.kill()
            one.folder.rename(aside)
            other.folder.rename(one.folder)
            aside.rename(other.folder)
            one.start()
            other.start()
            self.wait_count(load, SOME)
            self.cluster.wait_ready()
            self.wait_count(load, SOME)
        self.assert_all_right(load)

    def test_a_disk_is_cloned(self) -> None:
        """A data server gets a copy of another's disk in the place of its own: two have the same
        shard, and one is missing, until the copy makes room for that.
        """
        one, other = self.own(2)
        with self.load() as load:
            self.wait_count(load, SOME)
            one.kill()
            other.kill()
            other.wipe()
            shutil.copytree(one.folder, other.folder)
            one.start()
            other.start()
            self.wait_count(load, SOME)
            self.cluster.wait_ready()
        self.assert_all_right(load)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
