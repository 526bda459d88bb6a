"""Whole commands: many files, many objects, listings; what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import random
from typing import Any

from dostore.client import puts, putting, store
from dostore.client.answers import Prefix, parse_line
from dostore.client.failures import BadAnswer, Exit, OutOfReach, Refused, exit_of_all
from dostore.client.gets import GetOptions, get_all
from dostore.client.lists import list_objects, list_versions, locate, remove, tell_about
from dostore.client.puts import PutOptions, put_all
from dostore.client.store import Selection, Wanted
from dostore.errors import ContentLost, Corrupt, InvalidRequest, NotFound
from tests.support.client import ClientTestCase
from tests.support.http import until
from tests.support.wire import Fate

HASH_OF_A = "ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="


class CommandCase(ClientTestCase):
    """A client in a folder of its own."""

    def setUp(self) -> None:
        """Be in the folder."""
        super().setUp()
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        self.failures: list[Exit] = []

    def command(self, function: Any, *arguments: Any, **how: Any) -> Exit:
        """Run a command; its exit status."""
        self.out.seek(0)
        self.out.truncate()
        self.err.seek(0)
        self.err.truncate()
        context = self.context(**how)
        self.finish(function(context, *arguments))
        return exit_of_all(context.output.failures)

    def objects(self) -> list[str]:
        """The names of all objects."""
        return sorted(self.store.metadata.names)

    def records(self) -> list[dict[str, Any]]:
        """What was printed as JSON."""
        return [json.loads(line) for line in self.lines()]


class PutTests(CommandCase):
    """``dostore put``."""

    def test_folder(self) -> None:
        """All files of a folder, several at a time; a line for each, and one for all."""
        for number in range(200):
            self.file(f"f/{number % 7}/{number}", b"x" * number)
        status = self.command(put_all, PutOptions(["f"], prefix="p/", jobs=8))
        self.assertEqual(status, Exit.OK)
        self.assertEqual(len(self.objects()), 200)
        self.assertIn("p/f/3/3 version 1: 3 bytes from f/3/3", self.lines())
        self.assertEqual(self.lines()[-1], "200 files with 19.9 kB put, in 0.0 s.")
        self.command(put_all, PutOptions(["f"], prefix="p/"))
        self.assertIn("p/f/3/3 is unchanged: 3 bytes, as in f/3/3", self.lines())
        self.assertEqual(
            self.lines()[-1], "200 files with 19.9 kB put, 200 of them unchanged, in 0.0 s."
        )

    def test_one_fails(self) -> None:
        """The others are put all the same; the status says that one was not."""
        for name in "abc":
            self.file(f"f/{name}", b"x")
        os.symlink("/nowhere", "f/link")
        with open(os.fsencode("f/") + b"\xff", "wb"):
            pass
        status = self.command(put_all, PutOptions(["f", "none"]))
        self.assertEqual(status, Exit.FAILED)
        self.assertEqual(self.objects(), ["f/a", "f/b", "f/c"])
        self.assertEqual(
            self.complaints(),
            [
                "dostore: f/link is a link to nothing that is a file: passed over.",
                r"dostore: f/\xff cannot name an object: The object name holds half a character."
                " Send it as UTF-8. Or put it alone, with --to NAME.",
                "dostore: none cannot be read: No such file or directory.",
            ],
        )
        self.assertEqual(self.lines()[-1], "3 files with 3 bytes put, 2 FAILED, in 0.0 s.")

    def test_server_refuses_one(self) -> None:
        """What the server refuses is told with the file that it is about."""
        self.store.failures["put"] = InvalidRequest("Not on a Sunday.")
        self.file("f/a", b"x")
        self.assertEqual(self.command(put_all, PutOptions(["f"])), Exit.FAILED)
        self.assertEqual(self.complaints(), ["dostore: f/a: Not on a Sunday."])

    def test_no_server(self) -> None:
        """When no server is there nothing else is tried."""
        for number in range(100):
            self.file(f"f/{number}", b"x")
        self.wire.servers = {}
        with self.assertRaises(OutOfReach) as caught:
            self.command(put_all, PutOptions(["f"], jobs=3), patience_s=None)
        self.assertIn("one:1 cannot be reached: connection refused.", caught.exception.detail)
        self.assertLess(len(self.wire.connections), 3 * 10)

    def test_json(self) -> None:
        """A line for each file, failures among them; nothing else is on standard output."""
        self.file("f/a", b"a")
        self.assertEqual(self.command(put_all, PutOptions(["f"]), as_json=True), Exit.OK)
        (record,) = self.records()
        self.assertEqual(
            record,
            {
                "File": "f/a",
                "Name": "f/a",
                "Version": 1,
                "Size": 1,
                "Hash": HASH_OF_A,
                "Outcome": "sent",
                "Sent": 1,
            },
        )
        self.command(put_all, PutOptions(["f", "none"], jobs=1), as_json=True)
        first, second = self.records()
        self.assertEqual((first["Outcome"], first["Version"]), ("unchanged", None))
        self.assertEqual((second["File"], second["Exit"]), ("none", 1))
        self.assertIn("No such file", second["Error"])

    def test_quiet(self) -> None:
        """Only failures are told."""
        self.file("f/a", b"a")
        self.command(put_all, PutOptions(["f", "none"]), quiet=True)
        self.assertEqual((self.lines(), len(self.complaints())), ([], 1))

    def test_one_file(self) -> None:
        """One file, with the name that is told, and no line for all."""
        self.file("a", b"a")
        self.command(put_all, PutOptions(["a"], name="x/y"))
        self.assertEqual(self.lines(), ["x/y version 1: 1 byte from a"])
        self.command(put_all, PutOptions(["a"]))
        self.assertEqual(self.lines(), ["a version 1: 1 byte from a"])

    def test_already_stored(self) -> None:
        """Bytes that were stored under another name are said to have been."""
        self.patch(puts, "SMALL_BYTES", 10)
        self.patch(putting, "SMALL_BYTES", 10)
        self.store.keep("other", b"x" * 100)
        self.store.uploads.instant = self.store.metadata.names["other"][-1]
        self.file("a", b"x" * 100)
        self.command(put_all, PutOptions(["a"]))
        self.assertEqual(self.lines(), ["a version 1: 100 bytes that were stored already from a"])
        self.file("f/a", b"x" * 100)
        self.command(put_all, PutOptions(["f"]))
        self.assertEqual(
            self.lines()[-1],
            "1 file with 100 bytes put, 1 of bytes that were stored already, in 0.0 s.",
        )

    def test_no_state(self) -> None:
        """Where nothing can be kept for the next run, that is told once."""
        self.file("state", b"")
        self.patch(putting, "SMALL_BYTES", 10)
        for name in "abc":
            self.file(f"f/{name}", name.encode() * 100)
        self.assertEqual(self.command(put_all, PutOptions(["f"])), Exit.OK)
        (line,) = self.complaints()
        self.assertIn("state cannot be written: ", line)
        self.assertEqual(len(self.objects()), 3)


class StandardInputTests(CommandCase):
    """``dostore put -``."""

    def setUp(self) -> None:
        """Take 100,000 bytes for many."""
        super().setUp()
        self.patch(puts, "SMALL_BYTES", 100_000)
        self.patch(puts, "BLOCK_BYTES", 30_000)

    def put(self, data: bytes, **how: Any) -> Exit:
        """Put what comes from a file in the place of a pipe."""
        self.file("in", data)
        descriptor = os.open("in", os.O_RDONLY)
        try:
            return self.command(
                put_all, PutOptions(["-"], name="n", wanted=Wanted("a/b")), stdin=descriptor, **how
            )
        finally:
            os.close(descriptor)

    def stored(self) -> bytes:
        """What the object has."""
        (content,) = self.store.metadata.names["n"][-1].contents
        return self.store.contents[content.hash]

    def test_short(self) -> None:
        """What is short goes with its hash, and may be sent again."""
        self.wire.fates.append(Fate(up=300))
        self.assertEqual(self.put(b"x" * 1000), Exit.OK)
        self.assertEqual(self.stored(), b"x" * 1000)
        self.assertIn("Digest: SHA-256=", self.wire.heads[-1])
        self.assertEqual(self.lines(), ["n version 1: 1.0 kB from standard input"])
        self.put(b"")
        self.assertEqual(self.stored(), b"")

    def test_long(self) -> None:
        """What is long goes in chunks, while it comes."""
        data = random.Random(1).randbytes(1_000_003)
        self.assertEqual(self.put(data, as_json=True), Exit.OK)
        self.assertEqual(self.stored(), data)
        self.assertIn("Transfer-Encoding: chunked", self.wire.heads[-1])
        (record,) = self.records()
        self.assertEqual(
            (record["Size"], record["Sent"], record["File"]), (len(data),) * 2 + ("-",)
        )
        self.assertEqual(self.store.metadata.names["n"][-1].content_type, "a/b")

    def test_no_server_yet(self) -> None:
        """As long as no server is there nothing is lost."""
        self.wire.fates.extend([Fate(refused=True)] * 3)
        self.assertEqual(self.put(b"x" * 200_000), Exit.OK)
        self.assertEqual(len(self.stored()), 200_000)

    def test_broken(self) -> None:
        """What broke off cannot be sent again, and it is told what can be done."""
        self.wire.fates.extend([Fate(), Fate(up=100_000)])
        with self.assertRaises(Refused) as caught:
            self.put(b"x" * 1_000_000)
        self.assertIn("Write it to a file first", caught.exception.detail)
        self.assertEqual(self.objects(), [])

    def test_refused(self) -> None:
        """What the server refuses is told as it says it."""
        self.store.failures["put"] = InvalidRequest("Not on a Sunday.")
        with self.assertRaises(Refused) as caught:
            self.put(b"x" * 1_000_000)
        self.assertEqual(caught.exception.detail, "Not on a Sunday.")

    def test_cannot_be_read(self) -> None:
        """Standard input may be closed."""
        with self.assertRaises(Exception) as caught:
            self.command(put_all, PutOptions(["-"], name="n"), stdin=os.open(".", os.O_RDONLY))
        self.assertIn("Standard input cannot be read: Is a directory.", str(caught.exception))


class GetTests(CommandCase):
    """``dostore get``."""

    def keep(self, *names: str) -> None:
        """Store objects that have their own names as bytes."""
        for name in names:
            self.store.keep(name, name.encode())

    def get(self, *names: str, **options: Any) -> Exit:
        """Get objects."""
        how = {key: options.pop(key) for key in ("as_json", "stdout") if key in options}
        return self.command(get_all, GetOptions(names, **options), **how)

    def files(self, folder: str = ".") -> list[str]:
        """All files below a folder."""
        return sorted(
            os.path.relpath(os.path.join(path, name), folder)
            for path, _, names in os.walk(folder)
            for name in names
        )

    def test_here(self) -> None:
        """Without a word on where to, it is the last part of the name, here."""
        self.keep("a/b/c")
        self.assertEqual(self.get("a/b/c"), Exit.OK)
        self.assertEqual(self.lines(), ["c: 5 bytes from a/b/c version 1"])
        self.assertEqual(self.files(), ["c"])
        self.get("a/b/c")
        self.assertEqual(self.lines(), ["c is unchanged: 5 bytes, as in a/b/c"])

    def test_to(self) -> None:
        """To a file, to a folder that is there or shall be, or to what is neither."""
        self.keep("a/b")
        os.mkdir("d")
        os.mkfifo("pipe")
        for to in ("f", "d", "e/f/"):
            self.get("a/b", to=to)
        self.assertEqual(self.files(), ["d/b", "e/f/b", "f", "pipe"])
        reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        self.get("a/b", to="pipe")
        self.assertEqual(os.read(reading, 100), b"a/b")
        os.close(reading)
        self.get("a/b", to="/dev/null")
        self.assertFalse(os.path.isfile("/dev/null"))

    def test_several(self) -> None:
        """One that is not there does not keep the others from coming."""
        self.keep("a", "b/c")
        self.assertEqual(self.get("a", "none", "b/c"), Exit.NOT_FOUND)
        self.assertEqual(self.files(), ["a", "c"])
        self.assertEqual(
            self.complaints(), ["dostore: There is no object 'none', or it is deleted."]
        )
        self.assertEqual(self.lines()[-1], "2 objects with 4 bytes got, 1 FAILED, in 0.0 s.")

    def test_folder(self) -> None:
        """All below a prefix, over several pages; again, nothing comes."""
        self.patch(store, "PAGE_LINES", 7)
        names = [f"p/q/{number % 5}/{number}" for number in range(40)]
        self.keep(*names, "p/other", "p/qq")
        self.assertEqual(self.get("p/q/", recursive=True, to="t", jobs=3), Exit.OK)
        self.assertEqual(self.files("t"), sorted(name[4:] for name in names))
        requests = len(self.wire.heads)
        self.get("p/q/", recursive=True, to="t")
        self.assertEqual(len(self.wire.heads) - requests, 6)
        self.assertEqual(
            self.lines()[-1],
            "40 objects with 310 bytes got, 40 of them were there already, in 0.0 s.",
        )
        self.get("p/q", recursive=True, to="u")
        self.assertEqual(len(self.files("u")), 41)
        with self.assertRaises(NotFound) as caught:
            self.get("none", recursive=True)
        self.assertIn("begins with 'none'", caught.exception.detail)

    def test_ways_out(self) -> None:
        """Names that lead out of the folder are told, and nothing is written there."""
        good = ["d/a", "d/b/c", "d/..."]
        bad = ["d/../x", "d//x", "d/../../../../tmp/x", "d/./x", "d/", "d/b/../../x", "d/y/"]
        self.keep(*good, *bad)
        self.assertEqual(self.get("d/", recursive=True, to="t/u"), Exit.FAILED)
        self.assertEqual(self.files(), ["t/u/...", "t/u/a", "t/u/b/c"])
        self.assertEqual(len(self.complaints()), len(bad))
        self.assertEqual(self.lines()[-1], "3 objects with 13 bytes got, 7 FAILED, in 0.0 s.")
        # Even an absolute one can be had, by itself.
        self.keep("/etc/passwd")
        self.assertEqual(self.get("/etc/passwd"), Exit.OK)
        self.assertEqual(self.get("d/../x", to="x"), Exit.OK)
        self.assertTrue({"passwd", "x"} < set(self.files()))
        self.assertEqual(self.get("d/"), Exit.FAILED)

    def test_file_and_folder(self) -> None:
        """Of ``a`` and ``a/b`` one is got, and the other is told."""
        self.keep("d/a", "d/a/b")
        self.assertEqual(self.get("d/", recursive=True, to="t", jobs=1), Exit.FAILED)
        self.assertEqual(self.files("t"), ["a"])
        (line,) = self.complaints()
        self.assertIn("d/a/b: t/a is a file or a link", line)

    def test_links(self) -> None:
        """A link below the folder leads nowhere."""
        self.keep("d/link/x", "d/y")
        os.makedirs("t")
        os.makedirs("outside")
        os.symlink("../outside", "t/link")
        os.symlink("../outside/y", "t/y")
        self.assertEqual(self.get("d/", recursive=True, to="t"), Exit.FAILED)
        self.assertEqual(os.listdir("outside"), [])
        self.assertEqual(len(self.complaints()), 2)

    def test_output(self) -> None:
        """To standard output come the bytes, and nothing else."""
        self.keep("a", "b")
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.get("a", "b", to="-", stdout=writing)
        self.assertEqual(os.read(reading, 100), b"ab")
        os.close(writing)
        self.assertEqual((self.lines(), self.complaints()), ([], []))

    def test_versions(self) -> None:
        """An older version."""
        self.store.keep("a", b"1")
        self.store.keep("a", b"2")
        self.get("a", version=1)
        with open("a", "rb") as file:
            self.assertEqual(file.read(), b"1")

    def test_json(self) -> None:
        """A line for each object, failures among them."""
        self.keep("a")
        self.assertEqual(self.get("a", "none", as_json=True), Exit.NOT_FOUND)
        first, second = sorted(self.records(), key=lambda record: record["Name"])
        self.assertEqual(
            first,
            {
                "Name": "a",
                "File": str(self.folder / "a"),
                "Version": 1,
                "Size": 1,
                "Hash": HASH_OF_A,
                "Outcome": "received",
                "Received": 1,
            },
        )
        self.assertEqual((second["Name"], second["Exit"]), ("none", 3))

    def test_prefixes_in_a_listing(self) -> None:
        """A server that folds what was not to be folded is not obeyed."""
        self.keep("a")
        self.patch(store, "parse_line", lambda line: Prefix("a"))
        with self.assertRaises(BadAnswer):
            self.get("", recursive=True)


class ListTests(CommandCase):
    """``ls``, ``versions``, ``stat``, ``rm``, ``locate``."""

    def setUp(self) -> None:
        """Some objects."""
        super().setUp()
        for name in ("a", "b/c", "b/d/e", "f\x9b31m"):
            self.store.keep(name, name.encode(), meta={"colour": "blue"})

    def test_ls(self) -> None:
        """A line for each, and for what looks like a folder."""
        self.assertEqual(self.command(list_objects, Selection(delimiter="/"), False), Exit.OK)
        self.assertEqual(
            self.lines(),
            [
                "              1  2026-11-23T08:30:00Z  a",
                "                                       b/",
                r"              6  2026-11-23T08:30:00Z  f\x9b31m",
            ],
        )
        self.command(list_objects, Selection("b/", limit=1), True)
        self.assertEqual(self.lines(), ["b/c"])
        self.command(list_objects, Selection(after="a", delimiter="/"), True)
        self.assertEqual(self.lines(), ["b/", r"f\x9b31m"])

    def test_ls_nothing(self) -> None:
        """A prefix of nothing has a status of its own; an empty store has not."""
        self.assertEqual(self.command(list_objects, Selection("x"), False), Exit.NOT_FOUND)
        self.assertEqual(
            self.complaints(), ["dostore: There is no object whose name begins with 'x'."]
        )
        self.command(list_objects, Selection(after="x"), False)
        self.assertIn("comes after 'x'", self.complaints()[0])
        self.store.metadata.names.clear()
        self.assertEqual(self.command(list_objects, Selection(), False), Exit.OK)

    def test_ls_json(self) -> None:
        """The server's lines, in ASCII."""
        self.command(list_objects, Selection(delimiter="/"), False, as_json=True)
        first, second, third = self.records()
        self.assertEqual(first["Meta"], {"colour": "blue"})
        self.assertEqual((second, third["Name"]), ({"Prefix": "b/"}, "f\x9b31m"))
        self.assertTrue(self.out.getvalue().isascii())

    def test_pages(self) -> None:
        """However many there are, they come a page at a time."""
        self.patch(store, "PAGE_LINES", 3)
        self.store.metadata.names.clear()
        names = [f"{number:03}" for number in range(20)]
        for name in names:
            self.store.keep(name, b"x")
        for limit, requests in ((None, 7), (3, 1), (4, 2), (20, 7), (21, 7)):
            self.wire.heads.clear()
            self.command(list_objects, Selection(limit=limit), True)
            self.assertEqual(self.lines(), names[:limit])
            self.assertEqual(len(self.wire.heads), requests, limit)

    def test_a_page_breaks(self) -> None:
        """A page that broke off is asked for again; no line comes twice."""
        self.patch(store, "PAGE_LINES", 3)
        self.wire.fates.extend([Fate(), Fate(down=300)])
        self.command(list_objects, Selection(), True)
        self.assertEqual(self.lines(), ["a", "b/c", "b/d/e", r"f\x9b31m"])

    def test_a_listing_that_lies(self) -> None:
        """One that goes round in circles, or is of something else, ends."""
        for name in ("a", "0", "zz"):
            self.patch(store, "parse_line", lambda line, name=name: Prefix(name))
            with self.assertRaises(BadAnswer):
                self.command(list_objects, Selection("b"), False)
        self.patch(store, "parse_line", parse_line)
        self.patch(store, "PAGE_LINES", 2)
        with self.assertRaises(BadAnswer):
            self.finish(consume(self.context().store.versions("a"), self))

    def test_versions(self) -> None:
        """A line for each, tombstones too."""
        self.store.keep("a", b"12345")
        self.finish(self.store.delete("a"))
        self.assertEqual(self.command(list_versions, "a", None), Exit.OK)
        self.assertEqual(
            self.lines(),
            [
                f"       1                1  2026-11-23T08:30:00Z  {HASH_OF_A}",
                "       2                5  2026-11-23T08:30:00Z"
                "  WZRHGrsBESr8wYFZ9sx0tPURuZgG2lmzyvWpwXPKz8U=",
                "       3          deleted  2026-11-23T08:30:00Z",
            ],
        )
        self.command(list_versions, "a", 2, as_json=True)
        self.assertEqual([record["Version"] for record in self.records()], [1, 2])
        with self.assertRaises(NotFound) as caught:
            self.command(list_versions, "none", None)
        self.assertEqual(caught.exception.detail, "There never was an object 'none'.")

    def test_many_versions(self) -> None:
        """They come a page at a time, too."""
        self.patch(store, "PAGE_LINES", 3)
        for number in range(10):
            self.store.keep("a", b"%d" % number)
        for limit, found in ((None, 11), (3, 3), (4, 4), (50, 11)):
            self.command(list_versions, "a", limit)
            self.assertEqual(len(self.lines()), found)

    def test_stat(self) -> None:
        """All that is known."""
        self.assertEqual(self.command(tell_about, "a", None), Exit.OK)
        self.assertEqual(
            self.lines(),
            [
                "name         a",
                "version      1",
                "size         1 bytes",
                f"sha-256      {HASH_OF_A}",
                "type         text/plain",
                "modified     Mon, 23 Nov 2026 08:30:00 GMT",
                "meta colour  blue",
            ],
        )
        self.command(tell_about, "a", 1, as_json=True)
        (record,) = self.records()
        self.assertEqual((record["Hash"], record["Meta"]), (HASH_OF_A, {"colour": "blue"}))
        for name, version in (("none", None), ("a", 7)):
            with self.assertRaises(NotFound):
                self.command(tell_about, name, version)

    def test_lost(self) -> None:
        """Of a content that is lost it is told so, and not that there is no such object."""
        self.store.failures["open"] = ContentLost("Only 3 shards are left.", found=3, needed=4)
        for function, arguments in ((tell_about, ("a", None)), (locate, ("a", False))):
            with self.assertRaises(Corrupt) as caught:
                self.command(function, *arguments)
            self.assertEqual(caught.exception.detail, "Only 3 shards are left.")
        self.assertEqual(self.command(get_all, GetOptions(["a"])), Exit.WRONG_BYTES)
        self.assertEqual(self.complaints(), ["dostore: a: Only 3 shards are left."])

    def test_rm(self) -> None:
        """Each is deleted; one that is not there is told, and the others are deleted."""
        self.assertEqual(self.command(remove, ["a", "none", "b/c"]), Exit.NOT_FOUND)
        self.assertEqual(
            self.lines(), ["a is deleted as of version 2", "b/c is deleted as of version 2"]
        )
        self.assertEqual(len(self.complaints()), 1)
        self.command(remove, ["b/d/e"], as_json=True)
        self.assertEqual(self.records(), [{"Name": "b/d/e", "Version": 2, "Deleted": True}])

    def test_rm_unheard(self) -> None:
        """When the answer was lost, that it is not there any more is as good."""
        self.wire.fates.append(Fate(down=10))
        self.assertEqual(self.command(remove, ["a"]), Exit.OK)
        self.assertEqual(self.lines(), ["a is deleted"])
        self.assertEqual(len(self.store.metadata.names["a"]), 2)
        # Where nothing was sent it is what it seems.
        self.wire.fates.append(Fate(refused=True))
        self.assertEqual(self.command(remove, ["a"]), Exit.NOT_FOUND)

    def test_locate(self) -> None:
        """Who holds which shard, of a name or of a hash."""
        for name, is_hash in (("a", False), (HASH_OF_A, True)):
            self.assertEqual(self.command(locate, name, is_hash), Exit.OK)
            self.assertEqual(self.lines()[:2], ["  0  /drives/1", "  1  /drives/2"])
        self.command(locate, "a", False, as_json=True)
        self.assertEqual(self.records()[5], {"Hash": HASH_OF_A, "Shard": 5, "Address": "/drives/6"})
        for name, is_hash, kind in (
            ("none", False, NotFound),
            ("A" * 43 + "=", True, NotFound),
            ("x", True, InvalidRequest),
        ):
            with self.assertRaises(kind):
                self.command(locate, name, is_hash)

    def test_silence(self) -> None:
        """A server that takes a request and never answers is left for the next one."""
        self.wire.fates.append(Fate(silent=True))
        self.assertEqual(
            self.command(tell_about, "a", None, urls="http://one:1,http://two:2", patience_s=600.0),
            Exit.OK,
        )
        self.assertEqual(self.wire.connections, ["one:1", "two:2"])


async def consume(pages: Any, case: ListTests) -> None:
    """Read versions of which each page is the first one."""
    case.store.keep("a", b"2")
    case.store.keep("a", b"3")
    async for page in pages:
        case.patch(store, "parse_line", lambda line, entry=page[0]: entry)


class InterruptTests(CommandCase):
    """What is broken off by the user."""

    def test_put(self) -> None:
        """All transfers end, and nothing goes on."""
        for number in range(20):
            self.file(f"f/{number}", b"x" * 1000)
        gate = self.gate("put")
        context = self.context()
        task = self.start(put_all(context, PutOptions(["f"], jobs=3)))
        until(self.clock, lambda: len(self.wire.heads) == 3)
        self.settle()
        task.cancel()
        self.settle()
        self.failureResultOf(task)
        gate.open()
        self.settle()
        self.assertEqual(len(self.wire.heads), 3)
