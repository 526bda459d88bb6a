"""One object to one file or stream: what comes, what comes again, and what is never kept."""

from __future__ import annotations

import hashlib
import os
import random
from base64 import b64encode
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from dostore.client import getting, store
from dostore.client.destinations import PART_SUFFIX, Place, StreamSink
from dostore.client.failures import BadAnswer, LocalTrouble, OutOfReach, ReaderGone, Refused
from dostore.client.getting import Getter, Got, Wish
from dostore.client.lists import list_objects
from dostore.client.meters import Meter
from dostore.core.names import ContentHash
from dostore.errors import Corrupt, NotFound, RangeNotSatisfiable, Unavailable
from tests.support.client import URL, URLS, ClientTestCase
from tests.support.http import until
from tests.support.wire import Fate

SIZE = 1_000_003


class GetCase(ClientTestCase):
    """A client that takes objects of more than 10,000 bytes for large ones."""

    def setUp(self) -> None:
        """See ClientTestCase."""
        super().setUp()
        self.patch(getting, "SMALL_BYTES", 10_000)
        self.data = random.Random(1).randbytes(SIZE)
        self.path = self.folder / "f"
        self.part = self.folder / ("f" + PART_SUFFIX)

    def getter(self, urls: str = URLS) -> Getter:
        """A client that begins anew."""
        context = self.context(urls)
        return Getter(context.store, context.kept, context.workers, context.output)

    def get(self, name: str = "n", urls: str = URLS, **known: Any) -> Got:
        """Get an object to the file."""
        place = Place.of(str(self.path))
        try:
            return self.finish(self.getter(urls).get_file(Wish(name, **known), place, Meter()))
        finally:
            place.close()

    def ranges(self) -> list[str]:
        """The Range of each GET, or nothing."""
        return [
            next((line[7:] for line in head.split("\r\n") if line.startswith("Range: ")), "")
            for head in self.wire.heads
        ]


class FileTests(GetCase):
    """To a file."""

    def test_at_once(self) -> None:
        """One request, and nothing but the file is left."""
        for data in (b"", b"x", self.data):
            self.store.keep("n", data)
            got = self.get()
            self.assertEqual(
                (got.size, got.received, got.outcome), (len(data),) * 2 + ("received",)
            )
            self.assertEqual(self.path.read_bytes(), data)
            self.assertFalse(self.part.exists())
            self.assertEqual(self.state_files(), [])
            self.path.unlink()
        self.assertEqual(len(self.wire.heads), 3)

    def test_versions(self) -> None:
        """The newest version, or the one that is asked for."""
        for data in (b"1", b"22", b"333"):
            self.store.keep("n", data)
        self.assertEqual(self.get().version, 3)
        self.assertEqual(self.get(version=1).version, 1)
        self.assertEqual(self.path.read_bytes(), b"1")
        error = self.assertRaises(NotFound, self.get, version=4)
        self.assertEqual(error.detail, "There is no version 4 of 'n' that can be read.")
        self.assertEqual(self.path.read_bytes(), b"1")

    def test_not_there(self) -> None:
        """What is not there leaves no file."""
        error = self.assertRaises(NotFound, self.get, "none")
        self.assertEqual(error.detail, "There is no object 'none', or it is deleted.")
        self.assertEqual(os.listdir(self.folder), [])

    def test_there_already(self) -> None:
        """A file that has the bytes already is left alone; the server need not send them."""
        self.store.keep("n", self.data)
        self.path.write_bytes(self.data)
        os.utime(self.path, (1, 1))
        got = self.get()
        self.assertEqual((got.outcome, got.received), ("unchanged", 0))
        digest = ContentHash(got.hash.digest)
        self.assertIn(f'If-None-Match: "{digest}"', self.wire.heads[0])
        # When it is known what comes, nobody is asked.
        got = self.get(size=SIZE, hash=digest, version=1)
        self.assertEqual((got.outcome, len(self.wire.heads)), ("unchanged", 1))
        self.assertEqual(self.path.stat().st_mtime, 1)
        self.path.write_bytes(self.data[:-1] + b"!")
        self.assertEqual(self.get(size=SIZE, hash=digest).received, SIZE)
        self.path.write_bytes(b"short")
        self.assertEqual(self.get(size=SIZE, hash=digest).received, SIZE)
        self.assertEqual(self.path.read_bytes(), self.data)
        self.assertEqual(sorted(os.listdir(self.folder)), ["f", "state"])
        self.assertEqual(self.state_files(), [])

    def test_breaks(self) -> None:
        """After each break it goes on from the byte where it stopped, with whichever server."""
        self.store.keep("n", self.data)
        self.wire.fates.extend([Fate(down=300_000), Fate(refused=True), Fate(down=300_000)])
        got = self.get()
        self.assertEqual(self.path.read_bytes(), self.data)
        self.assertEqual(got.received, SIZE)
        first, second, third = self.ranges()
        self.assertEqual(first, "")
        self.assertTrue(second.startswith("bytes=299"), second)
        self.assertTrue(third.startswith("bytes=5"), third)
        self.assertIn("If-Range: ", self.wire.heads[2])
        self.assertIn("?version=1", self.wire.heads[2])
        self.assertEqual(self.wire.connections, ["one:1", "two:2", "one:1", "two:2"])

    def test_overwritten_meanwhile(self) -> None:
        """What has begun goes on with the same version when another one is made."""
        self.store.keep("n", self.data)
        self.wire.fates.append(Fate(down=300_000))
        gate = self.gate("read")
        place = Place.of(str(self.path))
        task = self.start(self.getter().get_file(Wish("n"), place, Meter()))
        self.settle()
        self.store.keep("n", b"new")
        gate.open()
        self.clock.pump([0.1] * 100)
        self.assertEqual(self.successResultOf(task).version, 1)
        place.close()
        self.assertEqual(self.path.read_bytes(), self.data)

    def begin(self) -> int:
        """Have a run stop in the middle; how many bytes it left."""
        self.wire.fates.extend([Fate(down=300_000), *[Fate(refused=True)] * 40])
        self.assertRaises(OutOfReach, self.get)
        self.wire.fates.clear()
        self.wire.heads.clear()
        self.assertFalse(self.path.exists())
        return self.part.stat().st_size

    def test_next_run(self) -> None:
        """The next run goes on where this one stopped."""
        self.store.keep("n", self.data)
        left = self.begin()
        self.assertTrue(299_000 < left < 300_000, left)
        got = self.get()
        self.assertEqual((got.received, self.ranges()), (SIZE - left, [f"bytes={left}-"]))
        self.assertEqual(self.path.read_bytes(), self.data)
        self.assertEqual(sorted(os.listdir(self.folder)), ["f", "state"])
        self.assertEqual(self.state_files(), [])
        self.assertIn("n goes on at 300 kB of 1.0 MB.", self.complaints()[-1])

    def test_changed_between_runs(self) -> None:
        """When there is a newer version the next run begins with that."""
        self.store.keep("n", self.data)
        self.begin()
        self.store.keep("n", self.data[::-1])
        self.assertEqual(self.get().received, SIZE)
        self.assertEqual(self.path.read_bytes(), self.data[::-1])
        self.assertEqual(len(self.wire.heads), 1)

    def test_shorter_between_runs(self) -> None:
        """Also when that is shorter than what is there."""
        self.store.keep("n", self.data)
        self.begin()
        self.store.keep("n", b"x" * 20_000)
        self.get()
        self.assertEqual(self.path.read_bytes(), b"x" * 20_000)

    def test_another_object_between_runs(self) -> None:
        """What was left of one object is no beginning of another."""
        self.store.keep("n", self.data)
        self.store.keep("other", self.data)
        self.begin()
        self.get("other")
        self.assertEqual(self.ranges(), [""])
        self.begin_again_with_version_known()

    def begin_again_with_version_known(self) -> None:
        """What the listing tells is what is got, whatever was left."""
        self.path.unlink()
        self.begin()
        self.store.keep("n", b"y" * 20_000)
        content_hash = self.store.metadata.names["n"][-1].contents[0].hash
        got = self.get(version=2, size=20_000, hash=content_hash)
        self.assertEqual((got.received, self.ranges()), (20_000, [""]))

    def test_deleted_between_runs(self) -> None:
        """When it is gone, so is what was left of it."""
        self.store.keep("n", self.data)
        self.begin()
        self.finish(self.store.delete("n"))
        self.assertRaises(NotFound, self.get)
        self.assertEqual((os.listdir(self.folder), self.state_files()), (["state"], []))

    def test_damaged_between_runs(self) -> None:
        """What was damaged meanwhile is found by the hash, and all is got once more."""
        self.store.keep("n", self.data)
        left = self.begin()
        with open(self.part, "r+b") as file:
            file.write(b"!!!")
        got = self.get()
        self.assertEqual(self.path.read_bytes(), self.data)
        self.assertEqual(got.received, SIZE - left + SIZE)

    def test_part_lost_between_runs(self) -> None:
        """Nor does it matter when the part is gone, or is all there."""
        self.store.keep("n", self.data)
        self.begin()
        self.part.unlink()
        self.assertEqual(self.get().received, SIZE)
        self.path.unlink()
        self.begin()
        self.part.write_bytes(self.data)
        self.assertEqual(self.get().received, 1)
        self.assertEqual(self.path.read_bytes(), self.data)

    def test_small_ones_leave_nothing(self) -> None:
        """Of a small object nothing is kept when it is broken off."""
        self.store.keep("n", b"x" * 9000)
        self.wire.fates.extend([Fate(down=5000), *[Fate(refused=True)] * 40])
        self.assertRaises(OutOfReach, self.get)
        self.assertEqual(os.listdir(self.folder), [])

    def test_cancelled(self) -> None:
        """What is broken off by the user can go on, too."""
        self.store.keep("n", self.data)
        self.wire.fates.append(Fate(down=300_000))
        place = Place.of(str(self.path))
        task = self.start(self.getter(URL).get_file(Wish("n"), place, Meter()))
        self.clock.pump([0.0] * 30)
        self.assertNoResult(task)
        task.cancel()
        self.settle()
        self.failureResultOf(task)
        place.close()
        self.assertTrue(self.part.exists())
        self.get()
        self.assertNotEqual(self.ranges()[-1], "")

    def test_servers_trouble(self) -> None:
        """What a server cannot do now is tried again."""
        self.store.keep("n", b"x")
        self.store.failures["open"] = Unavailable("Too few nodes.")
        place = Place.of(str(self.path))
        task = self.start(self.getter().get_file(Wish("n"), place, Meter()))
        self.clock.pump([0.1] * 20)
        self.assertNoResult(task)
        del self.store.failures["open"]
        self.clock.pump([0.1] * 100)
        self.successResultOf(task)
        place.close()
        self.assertIn("dostore: Too few nodes. Trying again", self.complaints()[0])

    def test_no_room(self) -> None:
        """What cannot be written is told, before anybody is asked."""
        self.path.mkdir()
        self.assertRaises(LocalTrouble, self.get)
        self.assertEqual(self.wire.heads, [])


class StreamTests(GetCase):
    """To standard output."""

    def setUp(self) -> None:
        """A pipe that a file takes the place of."""
        super().setUp()
        self.output = open(self.folder / "out", "w+b")  # noqa: SIM115 - outlives this function
        self.addCleanup(self.output.close)

    def start_get(self) -> Deferred[Got]:
        """Begin to get an object."""
        sink = StreamSink(self.output.fileno(), "Standard output", self.workers)
        return self.start(self.getter().get_stream(Wish("n"), sink, Meter()))

    def got(self) -> bytes:
        """What came out."""
        return (self.folder / "out").read_bytes()

    def test_breaks(self) -> None:
        """It goes on after a break, with the same version; each byte comes out once."""
        self.store.keep("n", self.data)
        self.wire.fates.append(Fate(down=300_000))
        gate = self.gate("read")
        task = self.start_get()
        self.settle()
        self.store.keep("n", b"new")
        gate.open()
        self.clock.pump([0.1] * 100)
        self.assertEqual(self.successResultOf(task).received, SIZE)
        self.assertEqual(self.got(), self.data)
        self.assertEqual(self.state_files(), [])

    def test_not_there(self) -> None:
        """Nothing comes out."""
        task = self.start_get()
        self.settle()
        self.clock.pump([0.0] * 5)
        self.failureResultOf(task, NotFound)
        self.assertEqual(self.got(), b"")

    def test_reader_gone(self) -> None:
        """When nobody reads any more it ends, without a request more."""
        self.store.keep("n", self.data)
        reading, writing = os.pipe()
        os.close(reading)
        self.addCleanup(os.close, writing)
        sink = StreamSink(writing, "Standard output", self.workers)
        task = self.start(self.getter().get_stream(Wish("n"), sink, Meter()))
        self.clock.pump([0.1] * 30)
        self.failureResultOf(task, ReaderGone)
        self.assertEqual(len(self.wire.heads), 1)


class _Liar(Resource):
    """A server that answers as a test wants it."""

    isLeaf = True

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__()
        self.status = status
        self.headers = headers
        self.body = body

    def render(self, request: Request) -> bytes:
        """See IResource."""
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        return self.body


class LiarTests(GetCase):
    """Servers that are none, or lie."""

    def lie(self, status: int = 200, body: bytes = b"12345", **change: str | None) -> _Liar:
        """A server whose answer is right but for what is changed; None: left out."""
        digest = b64encode(hashlib.sha256(b"12345").digest()).decode()
        headers = {"X-Object-Version": "1", "Digest": f"SHA-256={digest}", "ETag": f'"{digest}"'}
        for name, value in change.items():
            headers[name.replace("_", "-")] = value or ""
            if value is None:
                del headers[name.replace("_", "-")]
        liar = _Liar(status, headers, body)
        site: Any = Site(liar, reactor=self.clock)
        self.wire.servers = {"one:1": site}
        return liar

    def test_right(self) -> None:
        """The answer that the others differ from is taken."""
        self.lie()
        self.get(urls=URL)
        self.assertEqual(self.path.read_bytes(), b"12345")

    def test_wrong_bytes(self) -> None:
        """Bytes of another hash never become the file, and have an error of their own."""
        self.path.write_bytes(b"old")
        self.lie(body=b"12346")
        self.assertRaises(Corrupt, self.get, urls=URL)
        self.assertEqual(self.path.read_bytes(), b"old")
        self.assertEqual(os.listdir(self.folder), ["f"])

    def test_no_dostore(self) -> None:
        """An answer without what dostore tells is not taken for an object."""
        for change in ({"X_Object_Version": None}, {"Digest": None}, {"Digest": "SHA-256=x"}):
            self.lie(**change)
            self.assertRaises(BadAnswer, self.get, urls=URL)
        self.lie(206, Content_Range="bytes 0-4/5")
        self.assertRaises(BadAnswer, self.get, urls=URL)
        self.lie(301, Location="http://elsewhere/")
        self.assertRaises(Refused, self.get, urls=URL)
        self.assertEqual(os.listdir(self.folder), [])

    def test_not_what_was_listed(self) -> None:
        """Another content than the listing told is no success."""
        self.lie()
        other = ContentHash(b"x" * 32)
        self.assertRaises(BadAnswer, self.get, urls=URL, version=1, size=5, hash=other)

    def test_endless_errors(self) -> None:
        """Of an error that does not end only so much is read."""
        self.lie(400, b"x" * 10**6)
        error = self.assertRaises(Refused, self.get, urls=URL)
        self.assertEqual(error.detail, "The server answered 400 Bad Request.")

    def test_endless_listings(self) -> None:
        """A page that is longer than any page is not read to its end, nor asked for again."""
        self.patch(store, "MAX_PAGE_BYTES", 100_000)
        liar = self.lie(200, b"x" * 10**6)
        context = self.context(URL)
        self.assertRaises(
            BadAnswer, self.finish, list_objects(context, store.Selection(), names_only=False)
        )
        self.assertEqual((len(self.wire.heads), liar.status), (1, 200))

    def test_no_such_range(self) -> None:
        """A server that has less than there is already is asked for all, and then believed."""
        self.store.keep("n", self.data)
        self.wire.fates.extend([Fate(down=300_000), *[Fate(refused=True)] * 40])
        self.assertRaises(OutOfReach, self.get, urls=URL)
        self.wire.fates.clear()
        self.wire.heads.clear()
        self.lie(416)
        self.assertRaises(RangeNotSatisfiable, self.get, urls=URL)
        self.assertEqual([bool(each) for each in self.ranges()], [True, False])

    def test_too_much(self) -> None:
        """More than the object has is not written."""
        self.lie(206, b"x" * 10, Content_Range="bytes 0-4/5")
        sink = StreamSink(os.open(os.devnull, os.O_WRONLY), "It", self.workers)
        self.addCleanup(os.close, sink._descriptor)
        getter = self.getter(URL)
        self.assertRaises(BadAnswer, self.finish, getter.get_stream(Wish("n"), sink, Meter()))
        self.assertEqual(sink.held, 0)

    def test_changed_under_way(self) -> None:
        """What went out cannot be taken back when the rest is of something else."""
        self.store.keep("n", self.data)
        self.wire.fates.append(Fate(down=300_000))
        sink = StreamSink(os.open(os.devnull, os.O_WRONLY), "It", self.workers)
        self.addCleanup(os.close, sink._descriptor)
        task = self.start(self.getter(URL).get_stream(Wish("n"), sink, Meter()))
        until(self.clock, lambda: sink.held > 0)
        self.lie()
        self.clock.pump([0.1] * 50)
        error = self.failureResultOf(task, Refused).value
        self.assertEqual(error.detail, "'n' was changed while it was got.")

    def test_another_part(self) -> None:
        """A part of something else, or from elsewhere, is not put together with what is there."""
        self.store.keep("n", self.data)
        factory = self.wire.servers
        for change in (
            {"Content_Range": f"bytes 0-{SIZE - 1}/{SIZE}"},
            {"Content_Range": "bytes 299000-1000001/1000003"},
            {"Content_Range": None},
        ):
            self.wire.servers = factory
            self.wire.fates.extend([Fate(down=300_000), *[Fate(refused=True)] * 40])
            self.assertRaises(OutOfReach, self.get, urls=URL)
            self.wire.fates.clear()
            self.lie(206, **change)
            self.assertRaises(BadAnswer, self.get, urls=URL)
            self.assertEqual(os.listdir(self.folder), ["state"])
