"""Resumable uploads to a cluster, each part to another API server than the last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.support.cases import slow
from tests.support.processes import Store
from tests.support.shared_cluster import FaultCase, drive_of
from tests.support.upload_walks import STRIPE, UploadWalks


@slow
class ClusterWalks(UploadWalks, FaultCase):
    """Two API servers, six data servers."""

    def servers(self) -> Sequence[Store]:
        """See UploadWalks."""
        return self.cluster.api

    def crash(self) -> None:
        """See UploadWalks."""
        for server in self.cluster.servers:
            server.kill()
        self.cluster.start()

    def temp_files(self) -> list[Path]:
        """See UploadWalks."""
        return [path for s in self.cluster.data for path in (drive_of(s) / "temp").iterdir()]

    def test_a_data_server_dies(self) -> None:
        """One that keeps a part of the upload is killed in the middle of a part, and comes back
        empty: the upload goes on without it, and every shard is there in the end.
        """
        upload = self.upload(os.urandom(12 * STRIPE + 5))
        self.assertEqual(upload.part(0, 3 * STRIPE).status, 200)
        killed = self.chance.choice(self.cluster.data)
        with upload.begin_part(3 * STRIPE, 5 * STRIPE) as line:
            line.sendall(upload.data[3 * STRIPE : 6 * STRIPE])
            killed.kill()
            line.sendall(upload.data[6 * STRIPE : 8 * STRIPE])
            line.settimeout(60.0)
            self.assertEqual(line.recv(12), b"HTTP/1.1 200")
        self.assertEqual(upload.held, 8 * STRIPE)
        killed.start()
        self.cluster.wait_ready()
        self.assert_stored(upload, upload.part(8 * STRIPE))
        self.cluster.wait_full()
