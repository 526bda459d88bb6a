"""Real drives that fill up, turn read-only or are taken away, under a store that runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.support.mounts import MountedStore, MountSpace
from tests.support.processes import Answer, BlockingStoreTestCase, wait_until
from tests.support.shard_files import holders, is_full, require_whole

MIB = 1 << 20
#: Its shards are larger than a small drive, and leave a store plenty to do after half of it.
LARGE_MIB = 96
SMALL_DRIVE_BYTES = 20 * MIB
HALF = LARGE_MIB // 2


class MountedDriveTests(BlockingStoreTestCase):
    """Six drives; the first two, or one of them, are mounted ones."""

    def setUp(self) -> None:
        """Make a space for mounts, and the folders of the drives."""
        super().setUp()
        self.space = MountSpace()
        self.addCleanup(self.space.close)
        self.base = Path(self.mktemp()).absolute()
        self.addCleanup(shutil.rmtree, self.base, ignore_errors=True)
        self.drives = [self.base / str(number) for number in range(1, 7)]
        for drive in self.drives:
            drive.mkdir(parents=True)
        self.seed = 0

    def start(self) -> MountedStore:
        """A store on the six drives that is ready."""
        store = MountedStore(
            self.base / "root", ["--drives", ",".join(map(str, self.drives))], space=self.space
        )
        self.addCleanup(store.kill)
        store.start()
        self.store = store
        return store

    def seen(self, drives: Iterable[Path]) -> list[Path]:
        """Where this process finds what is on drives."""
        return [self.space.path(drive) for drive in drives]

    def files(self, folder: str) -> list[Path]:
        """What is in one of the folders of every drive."""
        return [path for drive in self.seen(self.drives) for path in (drive / folder).glob("*")]

    def body(self, size: int) -> bytes:
        """Another body each time."""
        self.seed += 1
        return random.Random(self.seed).randbytes(size)

    def put_large(
        self, name: str, midway: Callable[[], None] | None = None
    ) -> tuple[Answer, bytes]:
        """PUT a large object, do something in the middle of it; the answer and the SHA-256."""
        block = self.body(MIB - 8)
        digest = hashlib.sha256()

        def generated() -> Iterator[bytes]:
            for number in range(LARGE_MIB):
                if number == HALF and midway is not None:
                    midway()
                chunk = number.to_bytes(8, "big") + block
                digest.update(chunk)
                yield chunk

        headers = {"Content-Length": str(LARGE_MIB * MIB)}
        answer = self.store.request("PUT", f"/objects/{name}", generated(), headers)
        return answer, digest.digest()

    def hash_of(self, name: str, midway: Callable[[], None] | None = None) -> bytes:
        """The SHA-256 of an object, after something was done in the middle of reading it."""
        connection = self.store.connect()
        try:
            connection.request("GET", f"/objects/{name}")
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            digest = hashlib.sha256(response.read(HALF * MIB))
            if midway is not None:
                midway()
            while chunk := response.read(MIB):
                digest.update(chunk)
            return digest.digest()
        finally:
            connection.close()

    def put_small(self, name: str) -> int:
        """PUT a small object; the status."""
        return self.store.request("PUT", f"/objects/{name}", self.body(4000)).status

    def usable(self) -> int:
        """How many drives take writes, as the store sees it."""
        told = json.loads(self.store.request("GET", "/health/ready").body)
        return int(told["nodes"]["writable"])

    def wait_usable(self, count: int) -> None:
        """Wait until so many drives take writes."""
        wait_until(f"{count} drives take writes", lambda: self.usable() == count)

    def wait_full(self, drives: Iterable[Path], shards: int = 6) -> None:
        """Wait until every content has so many shards, then read them all."""
        folders = self.seen(drives)
        wait_until(
            "all shards are there",
            lambda: all(is_full(each, shards) for each in holders(folders).values()),
        )
        require_whole(folders)

    def assert_nothing_kept(self) -> None:
        """Soon nothing of a write that failed is in objects/ or temp/."""
        wait_until("nothing is left", lambda: not self.files("temp") and not self.files("objects"))

    def problem(self, answer: Answer) -> str:
        """The detail of an answer that is a problem."""
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        return str(json.loads(answer.body)["detail"])

    # --- full ---

    def test_a_full_drive(self) -> None:
        """ENOSPC on one drive in the middle of a stream: the write succeeds on the others, the
        drive keeps nothing of it and is not filled by repair; with more room it gets its shard.
        """
        self.space.mount_small(self.drives[0], SMALL_DRIVE_BYTES)
        self.start()
        self.assertEqual(self.put_small("before"), 200)
        answer, digest = self.put_large("large")
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(self.hash_of("large"), digest)
        self.wait_usable(6)
        self.assertEqual(self.put_small("after"), 200)
        self.assertEqual(self.store.log().count("drive-1 is read-only"), 1)
        self.space.resize(self.drives[0], 10 * SMALL_DRIVE_BYTES)
        self.wait_usable(6)
        self.wait_full(self.drives)
        self.assertEqual(self.files("temp"), [])

    def test_two_full_drives(self) -> None:
        """ENOSPC on two of them: 507 that names them, nothing is kept anywhere, what was stored is
        served, and the next write that fits is taken.
        """
        for drive in self.drives[:2]:
            self.space.mount_small(drive, SMALL_DRIVE_BYTES)
        self.start()
        answer, _ = self.put_large("large")
        self.assertEqual(answer.status, 507, answer.body)
        self.assertRegex(self.problem(answer), "drive-1, drive-2 have no space left")
        self.assertEqual(self.store.request("GET", "/objects/large").status, 404)
        self.assert_nothing_kept()
        self.wait_usable(6)
        self.assertEqual(self.put_small("small"), 200)
        self.wait_full(self.drives)
        self.assertEqual(len(self.files("objects")), 6)

    def test_full_drives_stay_full(self) -> None:
        """Two drives without room for anything: 507 also for what is small, at once; reads go on;
        when room is made, writes are taken again without a restart.
        """
        for drive in self.drives[:2]:
            self.space.mount_small(drive, 2 * SMALL_DRIVE_BYTES)
        self.start()
        self.assertEqual(self.put_small("before"), 200)
        for drive in self.seen(self.drives[:2]):
            with contextlib.suppress(OSError), open(drive / "ballast", "wb") as ballast:
                while True:
                    ballast.write(bytes(4096))
                    ballast.flush()
        for _ in range(3):
            answer = self.store.request("PUT", "/objects/small", self.body(4000))
            self.assertEqual(answer.status, 507, answer.body)
            self.assertRegex(
                self.problem(answer), r"4 .* needs 5.* drive-1, drive-2 have no space left. Free"
            )
        self.assertEqual(self.store.request("GET", "/objects/before").status, 200)
        for drive in self.seen(self.drives[:2]):
            (drive / "ballast").unlink()
        self.wait_usable(6)
        self.assertEqual(self.put_small("small"), 200)
        self.wait_full(self.drives)
        self.assertEqual(len(self.files("objects")), 12)
        self.assertEqual(self.files("temp"), [])

    # --- read-only ---

    def test_a_drive_turns_read_only(self) -> None:
        """In the middle of a stream: the write succeeds on the others, what the drive has is read,
        and it gets its shard when it takes writes again.
        """
        self.space.mount_small(self.drives[0], 10 * SMALL_DRIVE_BYTES)
        self.start()
        answer, digest = self.put_large("large", lambda: self.space.make_read_only(self.drives[0]))
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(self.hash_of("large"), digest)
        self.wait_usable(5)
        self.assertEqual(self.put_small("small"), 200)
        self.space.unmount(self.drives[0])
        self.wait_usable(6)
        self.wait_full(self.drives)
        wait_until("nothing is left", lambda: not self.files("temp"))

    def test_two_drives_turn_read_only(self) -> None:
        """In the middle of a stream: 503 that says how many there are; nothing is kept; reads go
        on, and writes when one takes them again.
        """
        for drive in self.drives[:2]:
            self.space.mount_small(drive, 10 * SMALL_DRIVE_BYTES)
        self.start()
        body = self.body(300_000)
        self.assertEqual(self.store.request("PUT", "/objects/before", body).status, 200)

        def strike() -> None:
            for drive in self.drives[:2]:
                self.space.make_read_only(drive)

        answer, _ = self.put_large("large", strike)
        self.assertEqual(answer.status, 503, answer.body)
        self.assertRegex(self.problem(answer), r"4 .* a write needs 5.*(Try|try)")
        self.assertEqual(self.store.request("GET", "/objects/before").body, body)
        self.assertEqual(self.put_small("small"), 503)
        for drive in self.drives[:2]:
            self.space.unmount(drive)
        self.wait_usable(6)
        self.assertEqual(self.put_small("small"), 200)
        wait_until("nothing is left", lambda: not self.files("temp"))
        self.wait_full(self.drives)
        self.assertEqual(len(self.files("objects")), 12)

    # --- taken away ---

    def test_drives_are_taken_away(self) -> None:
        """One while an object is written, another while it is read: both succeed, nothing is put in
        the empty folders underneath, and the drives are whole again when they are back.
        """
        disks = [self.base / "disk-1", self.base / "disk-2"]
        for disk, drive in zip(disks, self.drives, strict=False):
            disk.mkdir()
            self.space.mount_small(disk, 10 * SMALL_DRIVE_BYTES)
            self.space.mount_again(disk, drive)
        self.start()
        answer, digest = self.put_large("large", lambda: self.space.unmount(self.drives[0]))
        self.assertEqual(answer.status, 200, answer.body)
        self.wait_usable(5)
        self.assertEqual(self.hash_of("large", lambda: self.space.unmount(self.drives[1])), digest)
        self.wait_usable(4)
        self.assertEqual(self.hash_of("large"), digest)
        answer = self.store.request("PUT", "/objects/small", self.body(4000))
        self.assertEqual(answer.status, 503, answer.body)
        self.assertRegex(self.problem(answer), r"4 of 6 .* needs 5")
        for drive in self.seen(self.drives[:2]):
            self.assertEqual(list(drive.iterdir()), [])
        for disk, drive in zip(disks, self.drives, strict=False):
            self.space.mount_again(disk, drive)
        self.wait_usable(6)
        self.assertEqual(self.put_small("small"), 200)
        self.wait_full(self.drives)
        wait_until("nothing is left", lambda: not self.files("temp"))
