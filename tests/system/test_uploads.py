"""Resumable uploads to a store on one machine, and what only that can show."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.cases import slow
from tests.support.processes import BlockingStoreTestCase, Store, wait_until
from tests.support.upload_walks import SIZE, Upload, UploadWalks, digest_of


@slow
class EmbeddedWalks(UploadWalks, BlockingStoreTestCase):
    """One process, six drives."""

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.store = self.start_store()

    def servers(self) -> Sequence[Store]:
        """See UploadWalks."""
        return [self.store]

    def crash(self) -> None:
        """See UploadWalks."""
        self.store.restart()

    def temp_files(self) -> list[Path]:
        """See UploadWalks."""
        return self.store.temp_files()


@slow
class OptionTests(BlockingStoreTestCase):
    """What options change."""

    def test_not_at_once(self) -> None:
        """With --no-instant-uploads, who knows no more than a hash gets nothing by it."""
        store = self.start_store("--no-instant-uploads")
        data = os.urandom(SIZE)
        self.assertEqual(store.request("PUT", "/objects/theirs", data).status, 200)
        mine = Upload([store], "mine", data)
        self.assertEqual(mine.opened.status, 201)
        for body in (b"", bytes(SIZE)):
            answer = mine.ask("PUT", body)
            self.assertEqual(answer.status, 400 if body else 200)
            self.assertEqual(store.request("GET", "/objects/mine").status, 404)
        self.assertEqual(mine.ask("HEAD").status, 404)
        mine = Upload([store], "mine", data)
        self.assertEqual(mine.part(0).status, 200)
        self.assertEqual(store.request("GET", "/objects/mine").body, data)

    def test_time_to_live(self) -> None:
        """An upload that nobody touches for --upload-ttl is gone, and a token of another store
        leads nowhere.
        """
        store = self.start_store("--upload-ttl=1")
        other = self.start_store()
        upload = Upload([store], "a", os.urandom(SIZE))
        self.assertEqual(upload.part(0, 5000).status, 200)
        self.assertEqual(other.request("HEAD", upload.target).status, 404)
        time.sleep(1.5)
        # It is swept at the start and twice a minute.
        store.restart()
        wait_until("it is swept", lambda: not store.temp_files())
        self.assertEqual(upload.ask("HEAD").status, 404)
        fields = {"Digest": digest_of(upload.data), "Size": str(SIZE)}
        self.assertEqual(store.request("POST", "/objects/a", headers=fields).status, 201)

    def test_conditions(self) -> None:
        """Those of the POST hold at the end."""
        store = self.start_store()
        upload = Upload([store], "a", os.urandom(SIZE), **{"If-None-Match": "*"})
        self.assertEqual(store.request("PUT", "/objects/a", b"somebody was quicker").status, 200)
        self.assertEqual(upload.part(0).status, 412)
        self.assertEqual(store.request("GET", "/objects/a").body, b"somebody was quicker")
        refused = Upload([store], "a", os.urandom(SIZE), **{"If-None-Match": "*"})
        self.assertEqual(refused.opened.status, 412)
        self.assertEqual(store.request("DELETE", "/objects/a").status, 204)
        held = upload.held
        self.assertEqual(upload.part(held).status, 200)
        self.assertEqual(store.request("GET", "/objects/a").body, upload.data)
