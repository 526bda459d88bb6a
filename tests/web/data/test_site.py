"""A data server's requests and answers, over loopback."""

from __future__ import annotations

import base64
import hashlib
import os

from dostore.adapters.http_link import HttpLink
from dostore.adapters.node_local import DriveState
from dostore.core.datafields import ShardDigest, block_lengths, unframe
from dostore.core.scheme import Scheme
from dostore.core.shardfile import ShardFileBuilder, check_of
from dostore.http.body import Broken
from dostore.http.exchange import Answer
from dostore.web.data.shards import MAX_PUT_BYTES, STEP_BYTES
from dostore.web.data.temp import MAX_CHECKED_BYTES
from tests.support.data_server import DataServerCase
from tests.support.shards import SCHEME, Sample, sample

#: The example of the design: 36 bytes in four quarters.
SEED = b"this object will be seperated to 4+2"
SEED_HASH = base64.b64encode(hashlib.sha256(SEED).digest()).decode()
PATH = SEED_HASH.replace("/", "%2F")
QUARTERS = (
    "%2FQbxVU4EOPqz%2F2DYStzA19gOT5KBh2eEeuktmV3NFgY=",
    "S8JnDgiwWnfNud06pGE+%2FEHgmBzNpFAEg6s%2FgR0J4Cw=",
    "syDfa6hGt2PmnadawXz8SSr2zaalOCW6zCT3Ky7BcW4=",
    "0aX0oLlWMm02ane45F2KxC79KTwjBUmuh1GwXcfRqH4=",
)


class SiteCase(DataServerCase):
    """A data server, and requests to it."""

    def setUp(self) -> None:
        """Start it."""
        super().setUp()
        self.server = self.serve()
        self.node = self.server.node
        self.link: HttpLink = self.client(self.server.address).link

    async def ask(
        self, method: str, path: str, body: bytes | None = None, /, **fields: str
    ) -> Answer:
        """An answer; fields' names have underscores for hyphens."""
        named = [(n.replace("_", "-").encode(), v.encode()) for n, v in fields.items()]
        pieces = None if body is None else [body]
        return await self.link.ask(
            method.encode(), path.encode(), named, pieces, limit=1 << 24, again=False
        )

    async def status(
        self, method: str, path: str, body: bytes | None = None, /, **fields: str
    ) -> int:
        """The status of an answer."""
        return (await self.ask(method, path, body, **fields)).status

    def field(self, answer: Answer, name: str) -> str | None:
        """The value of a field that is there once, or None."""
        lines = answer.headers.getRawHeaders(name.lower().encode())
        self.assertLessEqual(len(lines), 1)
        return lines[0].decode() if lines else None

    async def put(self, what: Sample, index: int) -> str:
        """Have a shard on the drive; its path."""
        await self.node.put(what.content, index, what.shards[index])
        return f"/objects/{what.content.hash.escaped}.{index}"

    def shard_path(self, index: int) -> str:
        """The file of a shard."""
        (name,) = [n for n in self.server.names("objects") if f".{index}." in n]
        return str(self.server.folder / "objects" / name)

    def damage(self, index: int, at: int = 0) -> None:
        """Flip a bit of a shard's file."""
        with open(self.shard_path(index), "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))


class PutTests(SiteCase):
    """Whole shards in one request."""

    async def test_the_example(self) -> None:
        """The quarters of the example are files with the names that the design tells."""
        for index, quarter in enumerate(QUARTERS):
            server = self.serve()
            link = self.client(server.address).link
            body = SEED[index * 9 :][:9]
            fields = [
                (b"Size", b"36"),
                (b"Digest", ShardDigest(body=hashlib.sha256(body).digest()).format()),
            ]
            answer = await link.ask(b"PUT", f"/objects/{PATH}.{index}".encode(), fields, [body])
            self.assertEqual(answer.status, 200)
            self.assertEqual(server.names("objects"), [f"{PATH}.{index}.{quarter}"])

    async def test_again(self) -> None:
        """A shard that is there is put in its place once more."""
        for _ in range(2):
            self.assertEqual(
                await self.status("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36"), 200
            )
        self.assertEqual(len(self.server.names("objects")), 1)

    async def test_another_shard(self) -> None:
        """A second shard of a content is refused, and the answer says which one is here."""
        await self.ask("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36")
        answer = await self.ask("PUT", f"/objects/{PATH}.1", SEED[9:18], Size="36")
        self.assertEqual((answer.status, self.field(answer, "X-Shard")), (409, "0"))
        self.assertEqual(len(self.server.names("objects")), 1)

    async def test_only_new(self) -> None:
        """A shard that is put as new is kept if nothing of its content is here, or can be given
        back; else what is here is told, and nothing changes.
        """

        async def put(index: int) -> Answer:
            body = SEED[index * 9 :][:9]
            fields = {"Size": "36", "If_None_Match": "*"}
            return await self.ask("PUT", f"/objects/{PATH}.{index}", body, **fields)

        self.assertEqual((await put(1)).status, 200)
        for deleted in (False, True):
            for index in (1, 2):
                answer = await put(index)
                self.assertEqual((answer.status, self.field(answer, "X-Shard")), (412, "1"))
            if not deleted:
                await self.ask("DELETE", f"/objects/{PATH}")
        self.assertEqual(self.server.names("objects"), [])

    async def test_another_shard_in_place_of_a_damaged_one(self) -> None:
        """A shard that is found damaged is not in the way."""
        await self.ask("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36")
        self.damage(0, at=os.path.getsize(self.shard_path(0)) - 3)
        self.assertEqual(await self.status("PUT", f"/objects/{PATH}.1", SEED[9:18], Size="36"), 200)
        (name,) = self.server.names("objects")
        self.assertTrue(name.startswith(f"{PATH}.1."))

    async def test_another_shard_in_place_of_a_deleted_one(self) -> None:
        """What was deleted is not in the way either, and does not come back beside the new one."""
        await self.ask("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36")
        await self.ask("DELETE", f"/objects/{PATH}")
        self.assertEqual(await self.status("PUT", f"/objects/{PATH}.1", SEED[9:18], Size="36"), 200)
        self.assertEqual(await self.status("GET", f"/objects/{PATH}.0"), 404)
        self.assertEqual(len(self.server.names("objects")), 1)

    async def test_wrong_digests(self) -> None:
        """A body that is not what was promised is not kept."""
        wrong = ShardDigest(body=bytes(32)).format().decode()
        other = ShardDigest(shard=bytes(32)).format().decode()
        large = sample(40 * SCHEME.stripe_size)
        path = f"/objects/{large.content.hash.escaped}.0"
        fields = {"Size": str(large.content.size), "X_Scheme": "4+2/4096"}
        for digest in (wrong, other, "SHA-256=x"):
            self.assertEqual(
                await self.status("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36", Digest=digest),
                400,
            )
            self.assertEqual(
                await self.status("PUT", path, large.plain(0), Digest=digest, **fields), 400
            )
        self.assertEqual(self.server.names("objects"), [])

    async def test_right_digests(self) -> None:
        """Of a larger shard too, both kinds may be told."""
        large = sample(40 * SCHEME.stripe_size)
        builder = ShardFileBuilder(0, SCHEME)
        builder.add(large.shards[0])
        digest = ShardDigest(
            hashlib.sha256(large.plain(0)).digest(), builder.finish(large.content)[1].shard_hash
        )
        status = await self.status(
            "PUT",
            f"/objects/{large.content.hash.escaped}.0",
            large.plain(0),
            Size=str(large.content.size),
            X_Scheme="4+2/4096",
            Digest=digest.format().decode(),
        )
        self.assertEqual(status, 200)

    async def test_what_is_wrong(self) -> None:
        """Each mistake has its status, and nothing is kept."""
        cases: list[tuple[int, str, bytes | None, dict[str, str]]] = [
            (400, f"/objects/{PATH}.0", SEED[:8], {"Size": "36"}),
            (400, f"/objects/{PATH}.0", SEED[:9], {"Size": "40"}),
            (400, f"/objects/{PATH}.0", SEED[:9], {}),
            (400, f"/objects/{PATH}.0", SEED[:9], {"Size": "-36"}),
            (400, f"/objects/{PATH}.0", SEED[:9], {"Size": "36", "X_Scheme": "x"}),
            (400, f"/objects/{PATH}.6", SEED[:9], {"Size": "36"}),
            (400, f"/objects/{PATH}", SEED[:9], {"Size": "36"}),
            (400, "/objects/-.0", SEED[:9], {"Size": "36"}),
            (400, "/objects/..%2f..%2fx.0", SEED[:9], {"Size": "36"}),
            (400, f"/objects/{PATH}.0", None, {"Size": "36"}),
            (413, f"/objects/{PATH}.0", bytes(MAX_PUT_BYTES + 1), {"Size": "36"}),
            (400, "/objects/", SEED[:9], {"Size": "36"}),
            (404, "/elsewhere", SEED[:9], {"Size": "36"}),
        ]
        for status, path, body, fields in cases:
            answer = await self.ask("PUT", path, body, **fields)
            self.assertEqual(answer.status, status, (path, fields, answer.body))
        self.assertEqual(self.server.names("objects"), [])
        self.assertEqual(self.server.names("temp"), [])

    async def test_states_of_the_drive(self) -> None:
        """503 for a drive that takes no shards."""
        self.node.degrade(DriveState.READ_ONLY, "tired")
        answer = await self.ask("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36")
        self.assertEqual(answer.status, 503)
        self.assertIsNotNone(self.field(answer, "Retry-After"))


class GetTests(SiteCase):
    """Reading shards."""

    async def test_any_shard(self) -> None:
        """Without an index, whichever is here; the answer says which and what it is."""
        await self.put(sample(100_000), 3)
        content = sample(100_000).content
        for path in (f"/objects/{content.hash.escaped}", f"/objects/{content.hash.escaped}.3"):
            answer = await self.ask("GET", path)
            self.assertEqual((answer.status, answer.body), (200, sample(100_000).plain(3)))
            self.assertEqual(
                [self.field(answer, n) for n in ("X-Shard", "X-Content", "Size", "X-Scheme")],
                ["3", str(content.hash), "100000", "4+2/4096"],
            )
        head = await self.ask("HEAD", f"/objects/{content.hash.escaped}.3")
        self.assertEqual(
            (head.status, self.field(head, "Content-Length"), self.field(head, "X-Shard")),
            (200, str(len(sample(100_000).plain(3))), "3"),
        )
        head = await self.ask("HEAD", f"/objects/{content.hash.escaped}")
        self.assertEqual((head.status, self.field(head, "X-Shard")), (200, "3"))
        self.assertEqual(await self.status("GET", f"/objects/{content.hash.escaped}.2"), 404)

    async def test_missing(self) -> None:
        """404, and 400 for what is no name."""
        for method in ("GET", "HEAD"):
            self.assertEqual(await self.status(method, f"/objects/{PATH}"), 404)
            self.assertEqual(await self.status(method, f"/objects/{PATH}.1"), 404)
            self.assertEqual(await self.status(method, "/objects/abc"), 400)

    async def test_ranges(self) -> None:
        """Bytes of the shard, wherever blocks begin; only the blocks that are touched are read."""
        what = sample(100 * SCHEME.stripe_size - 3)
        path = await self.put(what, 1)
        plain = what.plain(1)
        size = len(plain)
        for first, last in ((0, 0), (5, 10), (4095, 4096), (4096, 8191), (100, size - 1)):
            answer = await self.ask("GET", path, Range=f"bytes={first}-{last}")
            self.assertEqual((answer.status, answer.body), (206, plain[first : last + 1]))
            self.assertEqual(self.field(answer, "Content-Range"), f"bytes {first}-{last}/{size}")
        self.assertEqual((await self.ask("GET", path, Range="bytes=-9")).body, plain[-9:])
        self.assertEqual((await self.ask("GET", path, Range=f"bytes={size - 2}-")).body, plain[-2:])
        answer = await self.ask("GET", path, Range=f"bytes={size}-")
        self.assertEqual(
            (answer.status, self.field(answer, "Content-Range")), (416, f"bytes */{size}")
        )
        self.damage(1, at=50 * SCHEME.block_size)
        answer = await self.ask("GET", path, Range="bytes=0-8191")
        self.assertEqual((answer.status, answer.body), (206, plain[:8192]))

    async def test_framed(self) -> None:
        """With checks between the blocks, whole or from block to block."""
        what = sample(100 * SCHEME.stripe_size - 3)
        path = await self.put(what, 1)
        content, plain, block = what.content, what.plain(1), SCHEME.block_size
        answer = await self.ask("GET", path, X_Framed="1")
        self.assertEqual(self.field(answer, "X-Framed"), "1")
        self.assertEqual(b"".join(unframe(answer.body, block_lengths(content, 0, 100))), plain)
        answer = await self.ask("GET", path, X_Framed="1", Range=f"bytes={98 * block}-")
        self.assertEqual(
            b"".join(unframe(answer.body, block_lengths(content, 98, 2))), plain[98 * block :]
        )
        for span in ("bytes=1-", "bytes=0-5", f"bytes=0-{block}"):
            self.assertEqual(await self.status("GET", path, X_Framed="1", Range=span), 400)

    async def test_held_back(self) -> None:
        """A shard larger than what is wanted at once is only told of."""
        what = sample(100 * SCHEME.stripe_size)
        path = await self.put(what, 1)
        size = len(what.plain(1))
        answer = await self.ask("GET", path, X_Inline=str(size - 1))
        self.assertEqual(
            (answer.status, answer.body, self.field(answer, "X-Held-Back")), (200, b"", "1")
        )
        self.assertEqual(self.field(answer, "Size"), str(what.content.size))
        answer = await self.ask("GET", path, X_Inline=str(size))
        self.assertEqual((answer.body, self.field(answer, "X-Held-Back")), (what.plain(1), None))

    async def test_damaged(self) -> None:
        """A damaged shard is 410 when that is known in time, and is out of the way."""
        for at, framed in ((0, "0"), (-3, "1")):
            server = self.serve()
            self.server, self.node = server, server.node
            self.link = self.client(server.address).link
            path = await self.put(sample(100_000), 2)
            self.damage(2, at=at % os.path.getsize(self.shard_path(2)))
            answer = await self.ask("GET", path, X_Framed=framed)
            self.assertEqual(answer.status, 410)
            self.assertEqual(self.server.names("objects"), [])
            self.assertEqual(len(self.server.names("garbage")), 1)
            self.assertEqual(await self.status("GET", path), 404)

    async def test_damaged_in_the_middle(self) -> None:
        """What was sent already ends in the middle; no byte of the damaged block is sent."""
        what = sample(200 * SCHEME.stripe_size)
        path = await self.put(what, 2)
        blocks = STEP_BYTES // SCHEME.block_size
        self.damage(2, at=(blocks + 3) * SCHEME.block_size)
        streamed = await self.link.stream(b"GET", path.encode())
        self.assertEqual(streamed.status, 200)
        got = b""
        with self.assertRaises(Broken):
            while True:
                got += await streamed.body.read(SCHEME.block_size)
        self.assertEqual(got, what.plain(2)[: len(got)])
        self.assertLessEqual(len(got), STEP_BYTES)
        self.assertEqual(len(self.server.names("garbage")), 1)
        self.flushLoggedErrors()

    async def test_empty(self) -> None:
        """The shards of no bytes have none."""
        path = await self.put(sample(0), 2)
        for fields in ({}, {"X_Framed": "1"}):
            answer = await self.ask("GET", path, **fields)
            self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(await self.status("GET", path, Range="bytes=0-"), 416)


class TempTests(SiteCase):
    """Shards over several requests."""

    async def begin(self, path: str, **fields: str) -> str:
        """A temporary shard's path."""
        answer = await self.ask("POST", path, b"", **fields)
        self.assertEqual(answer.status, 201)
        self.assertEqual(self.field(answer, "Location"), "/temp/" + answer.body.decode())
        return "/temp/" + answer.body.decode()

    async def test_checked(self) -> None:
        """A body that is not what its check says is not appended, nor one that is too long for
        that.
        """
        temp = await self.begin(f"/temp/{PATH}.1", Size="36")
        right = ShardDigest(check=check_of(SEED[9:12])).format().decode()
        for body, status in ((SEED[9:12], 204), (SEED[9:13], 400), (b"", 400)):
            self.assertEqual(await self.status("PATCH", temp, body, Digest=right), status)
        self.assertEqual((await self.ask("GET", temp)).body, SEED[9:12])
        long = bytes(MAX_CHECKED_BYTES + 1)
        digest = ShardDigest(check=check_of(long)).format().decode()
        self.assertEqual(await self.status("PATCH", temp, long, Digest=digest), 413)
        self.assertEqual(await self.status("PATCH", temp, b"x", Digest="dostore-check=x"), 400)

    async def test_as_designed(self) -> None:
        """POST with Size, PATCH, HEAD, GET and PUT, with nothing that only a dostore knows."""
        temp = await self.begin(f"/temp/{PATH}.1", Size="36")
        self.assertEqual(await self.status("PATCH", temp, SEED[9:12]), 204)
        answer = await self.ask("PATCH", temp, SEED[12:18], Upload_Offset="3")
        self.assertEqual((answer.status, self.field(answer, "Upload-Offset")), (204, "9"))
        head = await self.ask("HEAD", temp)
        self.assertEqual((head.status, self.field(head, "Content-Length")), (200, "9"))
        self.assertEqual((await self.ask("GET", temp)).body, SEED[9:18])
        self.assertEqual(await self.status("PUT", temp, b""), 200)
        self.assertEqual(self.server.names("objects"), [f"{PATH}.1.{QUARTERS[1]}"])
        self.assertEqual(await self.status("HEAD", temp), 404)

    async def test_without_knowing(self) -> None:
        """Hash and size may come with the commit."""
        temp = await self.begin("/temp/-.1")
        await self.ask("PATCH", temp, SEED[9:18])
        self.assertEqual(await self.status("PUT", temp, b""), 400)
        self.assertEqual(await self.status("PUT", temp, b"", Size="36"), 400)
        self.assertEqual(await self.status("PUT", temp, b"", X_Content="nonsense", Size="36"), 400)
        self.assertEqual(await self.status("PUT", temp, b"", X_Content=SEED_HASH, Size="36"), 200)
        self.assertEqual(self.server.names("objects"), [f"{PATH}.1.{QUARTERS[1]}"])

    async def test_wrong_size(self) -> None:
        """A commit of too little is refused, and nothing is kept."""
        temp = await self.begin(f"/temp/{PATH}.1", Size="36")
        await self.ask("PATCH", temp, SEED[9:17])
        self.assertEqual(await self.status("PUT", temp, b""), 400)
        self.assertEqual((self.server.names("temp"), self.server.names("objects")), ([], []))

    async def test_offset(self) -> None:
        """An offset that is not what is held: 409, and what is held stays."""
        temp = await self.begin(f"/temp/{PATH}.1", Size="36")
        await self.ask("PATCH", temp, SEED[9:12])
        for offset, status in (("0", 409), ("4", 409), ("-1", 400), ("x", 400)):
            self.assertEqual(await self.status("PATCH", temp, b"abc", Upload_Offset=offset), status)
        self.assertEqual((await self.ask("GET", temp)).body, SEED[9:12])

    async def test_there_already(self) -> None:
        """A commit of what is there is a success, and drops the temporary one."""
        for _ in range(2):
            temp = await self.begin(f"/temp/{PATH}.1", Size="36")
            await self.ask("PATCH", temp, SEED[9:18])
            self.assertEqual(await self.status("PUT", temp, b""), 200)
            self.assertEqual(self.server.names("temp"), [])
        self.assertEqual(len(self.server.names("objects")), 1)

    async def test_another_shard(self) -> None:
        """Refused at the beginning when the content is known, else at the commit."""
        await self.ask("PUT", f"/objects/{PATH}.0", SEED[:9], Size="36")
        answer = await self.ask("POST", f"/temp/{PATH}.1", b"", Size="36")
        self.assertEqual((answer.status, self.field(answer, "X-Shard")), (409, "0"))
        temp = await self.begin("/temp/-.1")
        await self.ask("PATCH", temp, SEED[9:18])
        answer = await self.ask("PUT", temp, b"", X_Content=SEED_HASH, Size="36")
        self.assertEqual((answer.status, self.field(answer, "X-Shard")), (409, "0"))
        self.assertEqual(self.server.names("temp"), [])

    async def test_drop(self) -> None:
        """DELETE drops it, and may be repeated."""
        temp = await self.begin("/temp/-.1")
        await self.ask("PATCH", temp, b"abc")
        for _ in range(2):
            self.assertEqual(await self.status("DELETE", temp), 204)
        self.assertEqual(self.server.names("temp"), [])
        for method in ("HEAD", "GET", "PATCH", "PUT"):
            self.assertEqual(
                await self.status(method, temp, b"" if method in ("PATCH", "PUT") else None), 404
            )

    async def test_what_is_wrong(self) -> None:
        """Each mistake has its status."""
        for status, path, fields in (
            (400, f"/temp/{PATH}", {}),
            (400, f"/temp/{PATH}.6", {}),
            (400, "/temp/abc.1", {}),
            (400, f"/temp/{PATH}.1", {"Size": "x"}),
            (400, f"/temp/{PATH}.1", {"X_Scheme": "x"}),
            (404, "/temp/..%2fobjects%2fx", {"method": "HEAD"}),
            (404, "/temp/../dostore.json", {"method": "GET"}),
            (404, "/temp/", {"method": "DELETE"}),
            (405, "/glance", {"method": "GET"}),
        ):
            named = dict(fields)
            method = named.pop("method", "POST")
            body = b"" if method == "POST" else None
            self.assertEqual(await self.status(method, path, body, **named), status, path)
        self.assertEqual(self.server.names("temp"), [])


class OtherTests(SiteCase):
    """What else is asked."""

    async def test_contents(self) -> None:
        """renew, modified, discard, delete."""
        what = sample(1000)
        await self.put(what, 2)
        name = what.content.hash.escaped
        os.utime(self.shard_path(2), (1000.5, 1000.5))
        self.assertEqual((await self.ask("GET", f"/modified/{name}")).body, b"1000.500000")
        self.assertEqual(await self.status("POST", f"/renew/{name}", b""), 204)
        self.assertGreater(float((await self.ask("GET", f"/modified/{name}")).body), 1e9)
        self.assertEqual(await self.status("POST", f"/discard/{name}", b""), 400)
        self.assertEqual(await self.status("DELETE", f"/objects/{name}.2"), 400)
        self.assertEqual(await self.status("POST", f"/discard/{name}.2", b""), 204)
        self.assertEqual(await self.status("GET", f"/modified/{name}"), 404)
        await self.put(what, 2)
        self.assertEqual(await self.status("DELETE", f"/objects/{name}"), 204)
        self.assertEqual(self.server.names("objects"), [])

    async def test_lists(self) -> None:
        """glance and inventory."""
        what = sample(1000)
        await self.put(what, 2)
        name = what.content.hash.escaped
        body = f"{name}.1 1000 4+2/4096\n{name}.2 1000 4+2/4096\n".encode()
        self.assertEqual((await self.ask("POST", "/glance", body)).body, b"0\n")
        self.assertEqual(await self.status("POST", "/glance", b"nonsense"), 400)
        self.assertEqual(await self.status("POST", "/glance", b"x" * (1 << 20)), 413)
        page = what.content.hash.digest[0]
        answer = await self.ask("GET", f"/inventory/{page}")
        self.assertEqual(answer.body.decode(), f"{what.content.hash} 2\n")
        self.assertEqual((await self.ask("GET", f"/inventory/{(page + 1) % 256}")).body, b"")
        for wrong in ("256", "-1", "x", "", "0001"):
            self.assertEqual(await self.status("GET", f"/inventory/{wrong}"), 404)

    async def test_health(self) -> None:
        """Alive while the process is, ready while the drive can be read."""
        self.assertEqual(await self.status("GET", "/health/live"), 200)
        self.assertEqual(await self.status("GET", "/health/ready"), 200)
        self.node.degrade(DriveState.READ_ONLY, "tired")
        answer = await self.ask("GET", "/health/ready")
        self.assertEqual((answer.status, b'"writable": false' in answer.body), (200, True))
        self.node.degrade(DriveState.AWAY, "gone")
        self.assertEqual(await self.status("GET", "/health/ready"), 503)
        self.assertEqual(await self.status("GET", "/health/live"), 200)
        self.assertEqual(await self.status("GET", f"/objects/{PATH}"), 503)

    async def test_metrics(self) -> None:
        """Requests by what they ask for, and how the drive is."""
        await self.ask("GET", f"/objects/{PATH}")
        text = (await self.ask("GET", "/metrics")).body.decode()
        self.assertIn('route="objects"', text)
        self.assertIn("dostore_node_writable 1.0", text)

    async def test_default_scheme(self) -> None:
        """Without X-Scheme it is 4 + 2 with the default block."""
        what = sample(70_000 * 4, scheme=Scheme())
        path = f"/objects/{what.content.hash.escaped}.0"
        self.assertEqual(
            await self.status("PUT", path, what.plain(0), Size=str(what.content.size)), 200
        )
        self.assertEqual(self.field(await self.ask("HEAD", path), "X-Scheme"), "4+2/65536")
