"""A tour of the store that can be watched and trusted: ``make demo``.

It starts a store in a temporary folder, does what an operator and a client would do, checks every
answer and ends with exit status 1 at the first thing that is wrong. Each step shows what one would
type.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tarfile
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from dostore.core.names import ShardName
from tests.support.processes import Answer, Store, wait_until

MIB = 1 << 20
LARGE_BYTES = 200 * MIB
#: From each source: so many files, none larger.
SMALL_FILES = 40
SMALL_FILE_BYTES = 500_000

#: Where files are found on any machine that can run this.
SOURCES = ("/usr/share", "/usr/lib", "/usr/bin", os.path.dirname(os.__file__), sys.prefix)

QUARTERS = b"this object will be seperated to 4+2"
QUARTERS_HASH = "2MRHhgqkvILs04RzLIEpZBzpgos/9QlNKRXEh7cMngY="
QUARTERS_DATA_SHARDS = (
    "%2FQbxVU4EOPqz%2F2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
    "S8JnDgiwWnfNud06pGE+%2FEHgmBzNpFAEg6s%2FgR0J4Cw=",
    "syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
    "0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
)


class Tour:
    """The steps, in order. Each leaves the store as the next expects it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "data")
        self.checks = 0
        self.steps = 0
        self.large = folder / "large.tar"
        self.large_hash = ""
        self.files: dict[str, bytes] = {}

    def run(self) -> None:
        """All steps.

        :raises SystemExit: something is wrong.
        """
        began = time.monotonic()
        try:
            self.starts()
            self.keeps_a_small_object()
            self.keeps_files()
            self.keeps_a_large_file()
            self.reads_through_damage()
            self.says_what_is_lost()
            self.keeps_versions()
            self.survives_a_drive()
            self.survives_a_kill()
            self.stops()
        except (AssertionError, OSError) as error:
            print(f"\nWRONG: {error}\n\nThe end of the store's log:\n", file=sys.stderr)
            print(self.store.log()[-4000:], file=sys.stderr)
            raise SystemExit(1) from error
        finally:
            self.store.kill()
        seconds = time.monotonic() - began
        print(
            f"\n{self.checks} checks in {self.steps} steps, all as they should be; {seconds:.0f} s."
        )

    # --- how it is told ---

    def step(self, title: str) -> None:
        """Begin a step."""
        self.steps += 1
        print(f"\n{self.steps}. {title}")

    def typed(self, command: str) -> None:
        """What one would type, with the usual port."""
        print(f"   $ {command}")

    def told(self, text: str) -> None:
        """What came of it."""
        for line in text.splitlines():
            print(f"     {line}")

    def check(self, what: str, found: object, expected: object) -> None:
        """Go on only when it is as expected."""
        self.checks += 1
        if found != expected:
            raise AssertionError(f"{what}: {str(found)[:500]!r}, and not {str(expected)[:500]!r}")

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Go on only when it becomes true in time."""
        self.checks += 1
        wait_until(what, holds, timeout_s)

    # --- what it talks to the store by ---

    def get(self, path: str) -> Answer:
        """A GET of something that fits in memory."""
        return self.store.request("GET", path)

    def put(self, name: str, body: bytes, digest: str = "") -> Answer:
        """A PUT of something that fits in memory."""
        headers = {"Digest": f"SHA-256={digest}"} if digest else {}
        return self.store.request("PUT", f"/objects/{quote(name)}", body, headers)

    def hash_of(self, path: str) -> str:
        """The hash of an object's bytes as they arrive, never all in memory."""
        connection = self.store.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            self.check(f"GET {path}", response.status, 200)
            digest = hashlib.sha256()
            while chunk := response.read(MIB):
                digest.update(chunk)
            return b64encode(digest.digest()).decode()
        finally:
            connection.close()

    def shards(self, content_hash: str) -> dict[int, Path]:
        """A content's shard files by their index."""
        found = {}
        for path in self.store.shard_files():
            name = ShardName.parse(path.name)
            if name is not None and str(name.content_hash) == content_hash:
                found[name.index] = path
        return found

    # --- the steps ---

    def starts(self) -> None:
        """One command, nothing else."""
        self.step("A store starts: one command, six drive folders, no other service.")
        self.typed("twistd -n --pidfile= dostore-api --storage-root data")
        began = time.monotonic()
        self.store.start()
        self.told(f"ready after {time.monotonic() - began:.1f} s")
        self.check(
            "drive folders", all((self.store.folder / str(n)).is_dir() for n in range(1, 7)), True
        )

    def keeps_a_small_object(self) -> None:
        """In, out, and where it is."""
        self.step("An object goes in and comes out.")
        self.typed(
            f'curl -XPUT 127.0.0.1:12345/objects/test5 -d "{QUARTERS.decode()}"'
            f' -H "Digest: SHA-256={QUARTERS_HASH}"'
        )
        self.check("PUT", self.put("test5", QUARTERS, QUARTERS_HASH).status, 200)
        self.typed("curl 127.0.0.1:12345/objects/test5")
        answer = self.get("/objects/test5")
        self.told(answer.body.decode())
        self.check("GET", (answer.status, answer.body), (200, QUARTERS))
        wrong = self.put("test5", QUARTERS[:-1], QUARTERS_HASH)
        self.check("a PUT whose Digest is another body's", wrong.status, 400)
        self.typed("ls data/*/objects")
        shards = self.shards(QUARTERS_HASH)
        for _, path in sorted(shards.items()):
            self.told(f"drive {path.parent.parent.name}: {path.name}")
        self.check("six shards", sorted(shards), [0, 1, 2, 3, 4, 5])
        self.check("on six drives", len({path.parent for path in shards.values()}), 6)
        for index, expected in enumerate(QUARTERS_DATA_SHARDS):
            self.check(f"shard {index}", shards[index].name.split(".")[2], expected)

    def keeps_files(self) -> None:
        """A few MB of this machine's own files."""
        self.step("Files of this machine go in, each under its own path, and are compared.")
        self.typed("curl -T /usr/… 127.0.0.1:12345/objects/files/usr/…")
        for source in SOURCES:
            for path in islice(own_files(source, SMALL_FILE_BYTES), SMALL_FILES):
                self.files[f"files{path}"] = path.read_bytes()
        for name, body in self.files.items():
            self.check(f"PUT {name}", self.put(name, body).status, 200)
        total = sum(map(len, self.files.values()))
        self.told(f"{len(self.files)} files, {total / 1e6:.1f} MB")
        self.compare_files()
        self.typed("curl '127.0.0.1:12345/objects/?prefix=files/'")
        listing = self.get("/objects/?prefix=files/&limit=1000").body.splitlines()
        names = [json.loads(line)["Name"] for line in listing]
        self.check("the listing", names, sorted(self.files))
        self.told(f"{len(names)} names, in order")

    def compare_files(self) -> None:
        """Every file is still what it was."""
        for name, body in self.files.items():
            answer = self.get(f"/objects/{quote(name)}")
            self.check(f"GET {name}", (answer.status, answer.body == body), (200, True))

    def make_large_file(self) -> None:
        """A tar of more than LARGE_BYTES, of this machine's files, some twice when they are few."""
        with tarfile.open(self.large, "w") as tar:
            turn = 0
            while tar.offset < LARGE_BYTES:
                turn += 1
                for path in chain.from_iterable(own_files(each, LARGE_BYTES) for each in SOURCES):
                    tar.add(path, f"{turn}{path}", recursive=False)
                    if tar.offset >= LARGE_BYTES:
                        break
                if tar.offset == 0:
                    raise AssertionError(f"there are no files in {SOURCES}")
        with open(self.large, "rb") as file:
            self.large_hash = b64encode(hashlib.file_digest(file, "sha256").digest()).decode()

    def keeps_a_large_file(self) -> None:
        """More than fits in what the store may keep in memory."""
        self.step("A large file streams in and out; the store's memory stays small.")
        self.make_large_file()
        size = self.large.stat().st_size
        self.typed("tar cf large.tar /usr/… && curl -T large.tar 127.0.0.1:12345/objects/large.tar")
        self.store.forget_peak()
        began = time.monotonic()
        with open(self.large, "rb") as file:
            self.check("PUT", self.send("large.tar", file, size).status, 200)
        seconds = time.monotonic() - began
        self.told(f"in:  {size / MIB:.0f} MiB in {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s")
        self.typed("curl 127.0.0.1:12345/objects/large.tar | cmp - large.tar")
        began = time.monotonic()
        self.check("the bytes", self.hash_of("/objects/large.tar"), self.large_hash)
        seconds = time.monotonic() - began
        self.told(f"out: {size / MIB:.0f} MiB in {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s")
        peak = self.store.peak_resident_bytes()
        self.told(f"at most {peak / MIB:.0f} MiB resident")
        self.check("less than 300 MiB resident", peak < 300 * MIB, True)
        self.step("The same content under another name takes no more room.")
        before = self.disk_bytes()
        self.typed("curl -T large.tar 127.0.0.1:12345/objects/copy.tar")
        with open(self.large, "rb") as file:
            self.check("PUT", self.send("copy.tar", file, size).status, 200)
        self.check("the copy", self.hash_of("/objects/copy.tar"), self.large_hash)
        self.check("shards are stored once", self.disk_bytes(), before)
        self.told(f"{before / MIB:.0f} MiB in shard files before and after")

    def send(self, name: str, file: BinaryIO, size: int) -> Answer:
        """A PUT from a file."""
        return self.store.request(
            "PUT", f"/objects/{quote(name)}", file, {"Content-Length": str(size)}, timeout_s=300.0
        )

    def disk_bytes(self) -> int:
        """What all shard files take."""
        return sum(path.stat().st_size for path in self.store.shard_files())

    def reads_through_damage(self) -> None:
        """As many as m shards may be gone or wrong."""
        self.step("One shard is deleted and another one damaged; the bytes are right all the same.")
        for path, content_hash in (
            ("/objects/test5", QUARTERS_HASH),
            ("/objects/large.tar", self.large_hash),
        ):
            shards = self.shards(content_hash)
            gone, damaged = shards[1], shards[2]
            sound = {index: _hash_file(shards[index]) for index in shards}
            self.typed(f"rm {self.short(gone)}")
            gone.unlink()
            if content_hash == QUARTERS_HASH:
                self.typed(f"echo errMsg > {self.short(damaged)}")
                damaged.write_text("errMsg\n")
            else:
                self.typed(f"printf X | dd conv=notrunc seek=… of={self.short(damaged)}")
                _flip_a_byte(damaged)
            self.typed(f"curl 127.0.0.1:12345{path}")
            self.check("the bytes", self.hash_of(path), content_hash)
            self.wait(
                f"both shards of {path} are back",
                functools.partial(self.are_sound, content_hash, sound),
            )
            self.told("the right bytes, and both shards are back, the same to the last byte")

    def are_sound(self, content_hash: str, sound: dict[int, bytes]) -> bool:
        """Whether all shards are there, each on a drive of its own, with the bytes that they had.

        Two that are made at the same time may change places.
        """
        shards = self.shards(content_hash)
        return (
            len({path.parent for path in shards.values()}) == len(sound)
            and {index: _hash_file(path) for index, path in shards.items()} == sound
        )

    def short(self, path: Path) -> str:
        """A path as one would type it in the storage root's parent."""
        shown = str(path.relative_to(self.folder))
        return f"'{shown[:26]}…{shown[-12:]}'"

    def says_what_is_lost(self) -> None:
        """More than m lost: an answer that says so."""
        self.step("Three of six shards are lost: the answer says how many there are.")
        body = b"an object that will be lost"
        self.check("PUT", self.put("lost", body).status, 200)
        shards = self.shards(b64encode(hashlib.sha256(body).digest()).decode())
        for index in (0, 2, 4):
            shards[index].unlink()
        self.typed("rm … … … && curl 127.0.0.1:12345/objects/lost")
        answer = self.get("/objects/lost")
        self.check("GET", answer.status, 404)
        self.told(json.loads(answer.body)["detail"])

    def keeps_versions(self) -> None:
        """Versions, and deletion."""
        self.step("Each PUT is a new version; a DELETE is one as well.")
        for body in (b"the first", b"the second"):
            self.typed(f'curl -XPUT -d "{body.decode()}" 127.0.0.1:12345/objects/note')
            self.check("PUT", self.put("note", body).status, 200)
        self.check("the newest", self.get("/objects/note").body, b"the second")
        self.typed("curl '127.0.0.1:12345/objects/note?version=1'")
        self.told(self.get("/objects/note?version=1").body.decode())
        self.check("version 1", self.get("/objects/note?version=1").body, b"the first")
        self.typed("curl -XDELETE 127.0.0.1:12345/objects/note")
        self.check("DELETE", self.store.request("DELETE", "/objects/note").status, 204)
        self.check("GET afterwards", self.get("/objects/note").status, 404)
        self.check("version 1 afterwards", self.get("/objects/note?version=1").body, b"the first")
        self.typed("curl 127.0.0.1:12345/versions/note")
        versions = self.get("/versions/note").body.decode()
        self.told(versions)
        told = [json.loads(line) for line in versions.splitlines()]
        self.check("versions", [each["Version"] for each in told], [1, 2, 3])
        self.check("sizes", [each["Size"] for each in told], [9, 10, 0])

    def survives_a_drive(self) -> None:
        """A drive goes, all goes on; an empty one comes, and all is as it was."""
        self.step("A drive is lost while the store runs; then an empty one is put in its place.")
        drive = self.store.folder / "6"
        shards = {path.name for path in drive.glob("objects/*")}
        self.typed("mv data/6 lost")
        drive.rename(self.folder / "lost")
        self.compare_files()
        self.check("the large file", self.hash_of("/objects/large.tar"), self.large_hash)
        self.check("a PUT meanwhile", self.put("meanwhile", b"with five drives").status, 200)
        self.told(f"{len(self.files)} files and large.tar read without it; a PUT is taken")
        self.typed("mkdir data/6")
        drive.mkdir()
        # The lost object's shard, if it was there, cannot come back.
        lost = b64encode(hashlib.sha256(b"an object that will be lost").digest()).decode()
        wanted = {name for name in shards if not name.startswith(lost.replace("/", "%2F"))}
        self.wait(
            "the empty drive has every shard again",
            lambda: wanted <= {path.name for path in drive.glob("objects/*")},
            timeout_s=120.0,
        )
        self.told(f"its {len(wanted)} shards were made again")
        meanwhile = b64encode(hashlib.sha256(b"with five drives").digest()).decode()
        self.wait(
            "the object that was written meanwhile has all its shards",
            lambda: len(self.shards(meanwhile)) == 6,
        )
        self.compare_files()

    def survives_a_kill(self) -> None:
        """What was acknowledged is there."""
        self.step("The process is killed and started again: all is there.")
        self.typed("kill -9 …; twistd -n --pidfile= dostore-api --storage-root data")
        self.store.restart()
        self.compare_files()
        self.check("the large file", self.hash_of("/objects/large.tar"), self.large_hash)
        self.check("the one meanwhile", self.get("/objects/meanwhile").body, b"with five drives")
        self.check("nothing left in temp/", self.store.temp_files(), [])
        self.told("every object, compared again; nothing is left in temp/")

    def stops(self) -> None:
        """SIGTERM."""
        self.step("It stops when it is asked to.")
        self.typed("kill …")
        self.check("exit status", self.store.stop(), 0)


def own_files(source: str, most_bytes: int) -> Iterator[Path]:
    """Readable, regular, non-empty files of this machine, in a fixed order."""
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            try:
                regular = path.is_file() and not path.is_symlink()
                if regular and 0 < path.stat().st_size <= most_bytes:
                    str(path).encode()
                    path.open("rb").close()
                    yield path
            except (OSError, UnicodeError):
                continue


def _hash_file(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _flip_a_byte(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def main() -> None:
    """Run the tour in a folder that is removed afterwards."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="dostore-tour-") as folder:
        Tour(Path(folder)).run()


if __name__ == "__main__":
    main()
