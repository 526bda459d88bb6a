"""Temporary shards of a drive, and of a data server over HTTP."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock

from dostore.adapters.temp_http import HttpTemps
from dostore.ports import ITempShards
from tests.contract.temp import TempContract
from tests.support.cases import AsyncTestCase
from tests.support.data_server import DataServer, DataServerCase


def damage(folder: Path, token: str, at: int) -> None:
    """Change a byte of a temporary shard."""
    with open(folder / "temp" / token, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


class DriveTests(TempContract, AsyncTestCase):
    """On a drive."""

    pack_below = 0

    async def make_temps(self) -> ITempShards:
        """See TempContract."""
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        return DataServer(self.folder, clock=self.clock, pack_below=self.pack_below).temp

    async def restart(self, temps: ITempShards) -> ITempShards:
        """See TempContract."""
        return DataServer(self.folder, clock=self.clock, pack_below=self.pack_below).temp

    async def damage(self, token: str, at: int) -> None:
        """See TempContract."""
        damage(self.folder, token, at)


class PackedDriveTests(DriveTests):
    """On a drive where small shards are packed."""

    pack_below = 65536


class HttpTests(TempContract, DataServerCase):
    """On a data server, whose connections and claims go by a clock of their own."""

    async def make_temps(self) -> ITempShards:
        """See TempContract."""
        self.clock = Clock()
        self.server = self.serve(clock=self.clock, secret=b"a secret of this test")
        return self.connect()

    def connect(self) -> HttpTemps:
        """A client of the server."""
        node = self.client(self.server.address, secret=b"a secret of this test")
        temps = node.temps
        return temps

    async def restart(self, temps: ITempShards) -> ITempShards:
        """See TempContract."""
        await self.server.stop()
        self.servers.remove(self.server)
        old = self.server
        self.server = DataServer(old.folder, clock=self.clock, secret=old.secret)
        # As a process that is started again: where the one before was.
        self.server.listen(int(old.address.rpartition(":")[2]))
        self.servers.append(self.server)
        return self.connect()

    async def damage(self, token: str, at: int) -> None:
        """See TempContract."""
        damage(self.server.folder, token, at)
