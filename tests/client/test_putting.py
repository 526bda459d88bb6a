"""One file to one object: what is sent, what is sent again, and what is kept for the next run."""

from __future__ import annotations

import os
import random
from typing import Any

from dostore.client import putting
from dostore.client.failures import BadAnswer, LocalTrouble, OutOfReach, Refused
from dostore.client.meters import Meters
from dostore.client.putting import Done, Putter
from dostore.client.sources import Source
from dostore.client.store import Wanted
from dostore.errors import (
    Busy,
    Corrupt,
    DigestMismatch,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from tests.support.client import URLS, ClientTestCase
from tests.support.http import until
from tests.support.wire import Fate

#: What a test's large file has; what is small for it is much smaller.
SIZE = 1_000_003


class PutCase(ClientTestCase):
    """A client that takes files of more than 10,000 bytes for large ones."""

    def setUp(self) -> None:
        """See ClientTestCase."""
        super().setUp()
        self.patch(putting, "SMALL_BYTES", 10_000)
        self.data = random.Random(1).randbytes(SIZE)

    def put(self, path: str, name: str = "n", urls: str = URLS, **wanted: Any) -> Done:
        """Put a file by a client that begins anew."""
        context = self.context(urls)
        putter = Putter(
            context.store,
            context.kept,
            context.workers,
            context.output,
            Meters(),
            Wanted(**wanted),
        )
        return self.finish(putter.put(Source(path, name)))

    def stored(self, name: str = "n") -> bytes:
        """The bytes of the newest version."""
        (content,) = self.store.metadata.names[name][-1].contents
        return self.store.contents[content.hash]

    def versions(self, name: str = "n") -> int:
        """How many versions there are."""
        return len(self.store.metadata.names.get(name, ()))

    def requests(self) -> list[str]:
        """The method and, of the path, the beginning, of each request."""
        return [head.partition("-")[0].split(" HTTP")[0] for head in self.wire.heads]


class SmallTests(PutCase):
    """Files that go by one request."""

    def test_one_request(self) -> None:
        """A small file takes one request, which says its hash, its length and its type."""
        done = self.put(self.file("a.html", b"<p>"))
        self.assertEqual((done.version, done.size, done.sent, done.outcome), (1, 3, 3, "sent"))
        self.assertEqual(self.stored(), b"<p>")
        (head,) = self.wire.heads
        self.assertIn("PUT /objects/n HTTP/1.1", head)
        self.assertIn("Content-Length: 3", head)
        self.assertIn(f"Digest: SHA-256={done.hash}", head)
        self.assertIn("User-Agent: dostore/", head)
        self.assertNotIn("Accept-Encoding", head)
        self.assertEqual(self.store.metadata.names["n"][-1].content_type, "text/html")
        self.assertEqual(self.state_files(), [])

    def test_empty(self) -> None:
        """A file without bytes is an object without bytes."""
        self.assertEqual(self.put(self.file("a", b"")).outcome, "sent")
        self.assertEqual(self.stored(), b"")

    def test_unchanged(self) -> None:
        """What the newest version has already is not stored again, unless that is wanted."""
        path = self.file("a", b"same")
        self.put(path)
        self.assertEqual(self.put(path).outcome, "unchanged")
        self.assertEqual(self.versions(), 1)
        self.assertEqual(self.put(path, always=True).version, 2)
        self.file("a", b"different")
        self.assertEqual(self.put(path).version, 3)

    def test_what_is_kept_with_it(self) -> None:
        """A type and metadata that are told are kept."""
        self.put(self.file("a", b"x"), content_type="a/b", meta=(("colour", "blue"),))
        version = self.store.metadata.names["n"][-1]
        self.assertEqual((version.content_type, version.meta), ("a/b", {"colour": "blue"}))

    def test_strange_names(self) -> None:
        """A name arrives as it is, whatever is in it."""
        path = self.file("a", b"x")
        for name in ("a//b", "../..", "a b%2F+?#&=;", "é/日本/\U0010ffff", "/", ".", "a:b@[x]"):
            self.put(path, name)
            self.assertEqual(self.stored(name), b"x")

    def test_a_broken_line(self) -> None:
        """A request that broke off is sent again, by another server first."""
        self.wire.fates.extend([Fate(refused=True), Fate(up=300), Fate(down=10)])
        self.put(self.file("a", b"x" * 9000))
        self.assertEqual(self.wire.connections, ["one:1", "two:2", "one:1", *["two:2"] * 2])
        self.assertEqual(self.versions(), 1)

    def test_a_lost_answer(self) -> None:
        """When the answer was lost, the second request finds that it is done: one version."""
        self.wire.fates.append(Fate(down=10))
        done = self.put(self.file("a", b"x"))
        self.assertEqual((done.outcome, done.version), ("sent", 1))
        self.assertEqual(self.versions(), 1)

    def test_refused(self) -> None:
        """What a server refuses for good is not tried again, and says why."""
        self.store.failures["put"] = InvalidRequest("Not on a Sunday.")
        error = self.assertRaises(Refused, self.put, self.file("a", b"x"))
        self.assertEqual(error.detail, "Not on a Sunday.")
        self.assertEqual(len(self.wire.heads), 1)

    def test_no_file(self) -> None:
        """What cannot be read is told, before anybody is asked."""
        error = self.assertRaises(LocalTrouble, self.put, str(self.folder / "none"))
        self.assertEqual(
            error.detail, f"{self.folder}/none cannot be read: No such file or directory."
        )
        os.mkfifo(self.folder / "pipe")
        self.assertRaises(LocalTrouble, self.put, str(self.folder / "pipe"))
        self.assertEqual(self.wire.heads, [])


class LargeTests(PutCase):
    """Files that go by resumable uploads."""

    def test_at_once(self) -> None:
        """Without a break it is opened and sent in one part, and nothing is kept of it."""
        done = self.put(self.file("a", self.data))
        self.assertEqual((done.version, done.sent, done.outcome), (1, SIZE, "sent"))
        self.assertEqual(self.stored(), self.data)
        self.assertEqual(self.requests(), ["POST /objects/n", "PUT /temp/token"])
        self.assertIn(f"Content-Length: {SIZE}", self.wire.heads[1])
        self.assertIn("Range: bytes=0-", self.wire.heads[1])
        self.assertEqual(self.state_files(), [])

    def test_there_already(self) -> None:
        """Bytes that the store has are not sent; those that the name has make no version."""
        path = self.file("a", self.data)
        self.store.keep("other", self.data)
        self.store.uploads.instant = self.store.metadata.names["other"][-1]
        done = self.put(path)
        self.assertEqual((done.outcome, done.sent), ("present", 0))
        self.store.keep("n", self.data)
        self.assertEqual(self.put(path).outcome, "unchanged")

    def test_breaks(self) -> None:
        """After each break it goes on where the server says, with whichever server answers."""
        self.wire.fates.extend(
            [Fate(), Fate(up=300_000), Fate(), Fate(up=200_000), Fate(refused=True), Fate(), Fate()]
        )
        done = self.put(self.file("a", self.data))
        self.assertEqual(self.stored(), self.data)
        self.assertEqual(self.versions(), 1)
        # What was given to the connection and not sent when it broke counts twice.
        self.assertLess(done.sent, SIZE + 2 * (256 * 1024 + 1))
        # Over the wire went each byte once, and the requests' header sections.
        self.assertLess(sum(self.wire.sent.values()), SIZE + 8 * 1000)
        self.assertEqual(set(self.wire.connections), {"one:1", "two:2"})

    def test_next_run(self) -> None:
        """When no server can be reached any more the next run goes on where this one stopped,
        without hashing the file again.
        """
        path = self.file("a", self.data)
        self.wire.fates.extend([Fate(), Fate(up=600_000)])
        self.store.failures["progress"] = Unavailable("The nodes are away.")
        error = self.assertRaises(OutOfReach, self.put, path)
        self.assertIn("Try again later", error.detail)
        self.assertEqual(len(self.state_files()), 1)
        mode = os.stat(self.folder / "state" / self.state_files()[0]).st_mode
        self.assertEqual(mode & 0o777, 0o600)
        del self.store.failures["progress"]
        self.wire.heads.clear()
        self.wire.sent.clear()
        done = self.put(path)
        self.assertEqual(self.requests(), ["HEAD /temp/token", "PUT /temp/token"])
        self.assertLess(done.sent, SIZE - 500_000)
        self.assertLess(sum(self.wire.sent.values()), SIZE - 500_000)
        self.assertEqual(self.stored(), self.data)
        self.assertEqual(self.state_files(), [])
        self.assertIn("goes on at", self.complaints()[-1])

    def begin(self, path: str, up: int = 600_000) -> None:
        """Have a run stop in the middle of a file."""
        self.wire.fates.extend([Fate(), Fate(up=up)])
        self.store.failures["progress"] = Unavailable("The nodes are away.")
        self.assertRaises(OutOfReach, self.put, path)
        del self.store.failures["progress"]
        self.wire.heads.clear()

    def test_changed_between_runs(self) -> None:
        """A file that was changed meanwhile is sent anew, and the old upload is given up."""
        path = self.file("a", self.data)
        self.begin(path)
        self.file("a", self.data[::-1])
        self.put(path)
        self.assertEqual(self.stored(), self.data[::-1])
        self.assertEqual(self.requests()[:2], ["DELETE /temp/token", "POST /objects/n"])
        self.assertIn("was changed since", "".join(self.complaints()))

    def test_changed_unseen(self) -> None:
        """One that was changed and looks the same is found out by its hash, and sent anew."""
        path = self.file("a", self.data)
        before = os.stat(path)
        self.begin(path)
        with open(path, "r+b") as file:
            file.seek(SIZE - 10)
            file.write(b"!")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.put(path)
        with open(path, "rb") as file:
            self.assertEqual(self.stored(), file.read())
        self.assertEqual(self.state_files(), [])

    def test_wanted_otherwise(self) -> None:
        """Another type than the last run's is not what that upload would become."""
        path = self.file("a", self.data)
        self.begin(path)
        self.put(path, content_type="a/b")
        self.assertEqual(self.store.metadata.names["n"][-1].content_type, "a/b")

    def test_gone_upload(self) -> None:
        """An upload that the servers do not know any more is begun anew; the hash is known."""
        path = self.file("a", self.data)
        self.begin(path)
        self.store.uploads.opened.clear()
        self.put(path)
        self.assertEqual(self.stored(), self.data)
        self.assertEqual(
            self.requests(), ["HEAD /temp/token", "POST /objects/n", "PUT /temp/token"]
        )

    def test_never_there(self) -> None:
        """A server that loses every upload is not asked for ever."""
        self.store.failures["receive"] = NotFound("There is no such upload.")
        error = self.assertRaises(Refused, self.put, self.file("a", self.data))
        self.assertIn("again and again", error.detail)

    def test_completed_unheard(self) -> None:
        """When the answer to the last byte was lost, the server tells that it is done."""
        self.wire.fates.extend([Fate(), Fate(down=10)])
        done = self.put(self.file("a", self.data))
        self.assertEqual((done.version, done.sent), (1, SIZE))
        self.assertEqual(self.versions(), 1)
        self.assertEqual(
            self.requests(), ["POST /objects/n", "PUT /temp/token", "HEAD /temp/token"]
        )

    def test_damaged_on_the_way(self) -> None:
        """A wrong hash at the end is an error of its own, and the next run begins anew."""
        self.store.failures["receive"] = DigestMismatch("The SHA-256 of all bytes is another.")
        self.assertRaises(DigestMismatch, self.put, self.file("a", self.data))
        self.assertEqual(self.state_files(), [])

    def test_changed_while_sent(self) -> None:
        """A file that shrinks while it is sent is told of, and no version is made."""
        path = self.file("a", self.data)
        gate = self.gate("open_upload")
        context = self.context()
        putter = Putter(
            context.store, context.kept, self.workers, context.output, Meters(), Wanted()
        )
        task = self.start(putter.put(Source(path, "n")))
        self.settle()
        os.truncate(path, 300_000)
        gate.open()
        self.clock.pump([0.0] * 50)
        error = self.failureResultOf(task, LocalTrouble).value
        self.assertIn("was changed while it was read", error.detail)
        self.assertEqual(self.versions(), 0)

    def test_stored_otherwise(self) -> None:
        """A server that says that it stored something else is not believed to have done it."""
        self.store.keep("other", b"other")
        self.store.uploads.instant = self.store.metadata.names["other"][-1]
        error = self.assertRaises(Corrupt, self.put, self.file("a", self.data))
        self.assertIn("other bytes", error.detail)

    def test_holds_too_much(self) -> None:
        """Nor one that says that it holds more than there is."""
        path = self.file("a", self.data)
        self.begin(path)
        (upload,) = self.store.uploads.opened.values()
        upload[4].extend(b"x" * SIZE)
        self.assertRaises(BadAnswer, self.put, path)

    def test_less_than_was_held(self) -> None:
        """When servers lost some of what they held, it is sent again from there."""
        path = self.file("a", self.data)
        self.begin(path)
        context = self.context()
        putter = Putter(
            context.store, context.kept, self.workers, context.output, Meters(), Wanted()
        )
        gate = self.gate("receive")
        task = self.start(putter.put(Source(path, "n")))
        until(self.clock, lambda: len(self.wire.heads) == 2)
        (upload,) = self.store.uploads.opened.values()
        del upload[4][1000:]
        self.settle()
        gate.open()
        self.clock.pump([0.1] * 100)
        self.assertEqual(self.successResultOf(task).version, 1)
        self.assertEqual(self.stored(), self.data)

    def test_another_is_at_it(self) -> None:
        """While another sends the same upload this one waits, however long that takes."""
        self.store.failures["receive"] = Busy("Another part is being received.")
        context = self.context()
        putter = Putter(
            context.store, context.kept, self.workers, context.output, Meters(), Wanted()
        )
        task = self.start(putter.put(Source(self.file("a", self.data), "n")))
        self.clock.pump([0.25] * 4 * 600)
        self.assertNoResult(task)
        asked = len(self.wire.heads)
        # Twice in two seconds: to send, and to see how far it is.
        self.assertLess(asked, 2 * 600 + 10)
        del self.store.failures["receive"]
        self.clock.pump([0.1] * 100)
        self.assertEqual(self.successResultOf(task).version, 1)

    def test_stored_by_another(self) -> None:
        """When another has put the same meanwhile, that is as good."""
        path = self.file("a", self.data)
        self.begin(path)
        self.store.keep("n", self.data)
        self.store.failures["receive"] = PreconditionFailed("If-None-Match does not hold.")
        done = self.put(path)
        self.assertEqual(done.outcome, "unchanged")
        self.assertEqual((self.versions(), self.store.uploads.opened), (1, {}))
