"""What a store refuses to start with: one sentence on standard error, and exit status 1."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.processes import BlockingStoreTestCase, Store


class RefusalTests(BlockingStoreTestCase):
    """A real ``twistd``, with settings or folders that cannot be used."""

    def refused(self, store: Store, *, in_log: bool = False) -> str:
        """What a store says before it ends: on standard error, or what is met later, in its log."""
        done = subprocess.run(
            store.command(),
            cwd=store.folder.parent,
            env=store.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        return done.stdout if in_log else done.stderr

    def test_a_wrong_option(self) -> None:
        """The option and its value are named."""
        sentence = self.refused(self.make_store("--data-shards=many"))
        self.assertEqual(
            sentence,
            "dostore-api: --data-shards: 'many' cannot be used: give a whole number from 1 to"
            " 32.\n",
        )

    def test_a_wrong_environment_variable(self) -> None:
        """The variable is named."""
        sentence = self.refused(self.make_store(environ={"DOSTORE_MAX_OBJECT_SIZE": "much"}))
        self.assertIn("DOSTORE_MAX_OBJECT_SIZE: 'much' cannot be used", sentence)

    def test_a_cluster(self) -> None:
        """A store that should join a cluster does not start alone."""
        sentence = self.refused(self.make_store(environ={"ES_SERVER": "localhost:9200"}))
        self.assertIn("ES_SERVER is set", sentence)

    def test_another_scheme(self) -> None:
        """Folders of 4 + 2 are not opened as 3 + 3, and the sentence tells the way out."""
        store = self.start_store()
        store.stop()
        store.options = ["--data-shards=3", "--parity-shards=3"]
        self.assertIn("--data-shards 4 --parity-shards 2", self.refused(store))

    def test_a_newer_format(self) -> None:
        """A drive that a later version made is left alone."""
        store = self.start_store()
        store.stop()
        for number in range(1, 7):
            marker = store.folder / str(number) / "dostore.json"
            fields = json.loads(marker.read_bytes())
            fields["format"] += 1
            marker.write_text(json.dumps(fields))
        self.assertIn("newer dostore", self.refused(store))

    def test_in_use(self) -> None:
        """Two processes never share a folder; the first one goes on."""
        store = self.start_store()
        other = self.make_store()
        other.folder = store.folder
        self.assertIn("in use by another", self.refused(other))
        self.assertEqual(store.request("PUT", "/objects/still", b"here").status, 200)

    def test_drives_of_two_stores(self) -> None:
        """Folders of different stores are not mixed."""
        one, other = self.start_store(), self.start_store()
        one.stop()
        other.stop()
        drives = [one.folder / str(number) for number in range(1, 6)] + [other.folder / "6"]
        one.options = ["--drives=" + ",".join(map(str, drives))]
        self.assertIn("another store", self.refused(one))

    def test_folders_with_other_files(self) -> None:
        """A folder full of somebody's files does not become a drive by a typing error."""
        store = self.make_store()
        letters = store.folder / "3" / "letters"
        letters.mkdir(parents=True)
        self.assertIn("holds other files", self.refused(store))
        self.assertEqual(list((store.folder / "3").iterdir()), [letters])

    def test_a_port_in_use(self) -> None:
        """The address is named."""
        store = self.start_store()
        other = self.make_store()
        other.port = store.port
        self.assertIn(str(store.port), self.refused(other, in_log=True))

    def test_a_root_that_is_a_file(self) -> None:
        """The path is named."""
        store = self.make_store()
        Path(store.folder).parent.mkdir(parents=True, exist_ok=True)
        Path(store.folder).write_text("not a folder")
        self.assertIn(f"--storage-root: {store.folder} is no folder", self.refused(store))
