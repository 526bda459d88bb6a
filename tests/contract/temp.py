"""What every keeper of temporary shards promises, as tests.

A subclass, which is an AsyncTestCase too, says by :meth:`make_temps` how to get one that has none,
and by :meth:`restart` how to get it again after its process ended; ``clock`` is its clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.task import Clock

from dostore.errors import (
    BadShard,
    Conflict,
    DostoreError,
    IncompleteBody,
    InvalidRequest,
    NotFound,
    TooLarge,
)
from dostore.ports import CLAIM_S, MAX_NOTE_BYTES, ITempShards, Tail, TempAbout, TempState
from tests.support.machine import Bytes
from tests.support.shards import SCHEME, Sample, sample

if TYPE_CHECKING:
    from tests.support.cases import AsyncTestCase as _Base
else:
    _Base = object

BLOCK = SCHEME.block_size
OWNER, OTHER = "a" * 32, "b" * 32


class TempContract(_Base):
    """The promises of ITempShards."""

    clock: Clock

    async def make_temps(self) -> ITempShards:
        """One without shards."""
        raise NotImplementedError

    async def restart(self, temps: ITempShards) -> ITempShards:
        """The same as the next start of its process finds it."""
        raise NotImplementedError

    async def damage(self, token: str, at: int) -> None:
        """Change the shard's byte ``at`` behind its keeper's back."""
        raise NotImplementedError

    def about(self, what: Sample, index: int = 1, note: bytes = b"") -> TempAbout:
        """What is known of an upload's shard."""
        content = what.content
        return TempAbout(index, content.scheme, content.hash, content.size, note, 86_400)

    async def append(
        self,
        temps: ITempShards,
        token: str,
        data: bytes,
        offset: int | None = None,
        owner: str = "",
    ) -> int:
        """Append bytes."""
        source = Bytes(data)
        return await temps.append(token, source, offset, owner)  # type: ignore[arg-type]

    async def test_interface(self) -> None:
        """It provides the port."""
        self.assert_provides(ITempShards, await self.make_temps())

    async def test_what_is_known(self) -> None:
        """All that its opener told is told again, over a restart too."""
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size)
        for about in (
            self.about(what),
            self.about(what, 5, bytes(range(256)) * (MAX_NOTE_BYTES // 256)),
            TempAbout(0, SCHEME),
        ):
            token = await temps.open(about)
            for each in (temps, await self.restart(temps)):
                state = await each.about(token)
                self.assertEqual((state.about, state.held, state.tail), (about, 0, None))
        with self.assertRaises(DostoreError):
            await temps.open(self.about(what, 1, bytes(MAX_NOTE_BYTES + 1)))

    async def test_token_of_ones_own(self) -> None:
        """A token may be chosen, once, and has its form."""
        temps = await self.make_temps()
        about = self.about(sample(10))
        self.assertEqual(await temps.open(about, "0123456789abcdef" * 2), "0123456789abcdef" * 2)
        with self.assertRaises(Conflict):
            await temps.open(about, "0123456789abcdef" * 2)
        for wrong in ("a" * 31, "A" * 32, "a" * 33):
            with self.assertRaises(InvalidRequest):
                await temps.open(about, wrong)

    async def test_parts(self) -> None:
        """Parts of any size, over restarts, make the shard; what is held is whole blocks."""
        what = sample(600 * SCHEME.stripe_size + 5)
        plain = what.plain(1)
        temps = await self.make_temps()
        for step in (BLOCK, 7 * BLOCK + 1, len(plain)):
            token = await temps.open(self.about(what))
            held = 0
            turns = 0
            while held < len(plain):
                self.assertEqual((await temps.about(token)).held, held)
                await self.append(temps, token, plain[held : held + step], held)
                if turns % 50 == 0:
                    temps = await self.restart(temps)
                turns += 1
                held = (await temps.about(token)).held
                if held < len(plain):
                    held = held // BLOCK * BLOCK
                    await temps.cut(token, held)
            await self.assert_read(temps, token, plain)
            await temps.drop(token)

    async def assert_read(self, temps: ITempShards, token: str, plain: bytes) -> None:
        """The shard is what was appended, in whatever portions it is read."""
        for step in (BLOCK // 2 + 1, 5 * BLOCK, len(plain)):
            pieces = []
            at = 0
            while piece := await temps.read(token, at, step):
                self.assertLessEqual(len(piece), step)
                pieces.append(piece)
                at += len(piece)
            self.assertTrue(b"".join(pieces) == plain)

    async def test_offset(self) -> None:
        """A part that belongs elsewhere is refused, and changes nothing."""
        temps = await self.make_temps()
        token = await temps.open(self.about(sample(10 * SCHEME.stripe_size)))
        self.assertEqual(await self.append(temps, token, bytes(2 * BLOCK), 0), 2 * BLOCK)
        for offset in (0, BLOCK, 3 * BLOCK):
            with self.assertRaises(Conflict):
                await self.append(temps, token, bytes(BLOCK), offset)
        self.assertEqual((await temps.about(token)).held, 2 * BLOCK)

    async def test_a_source_that_fails(self) -> None:
        """What came before is kept."""
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size)
        token = await temps.open(self.about(what))
        source = Bytes(what.plain(1)[: 3 * BLOCK], IncompleteBody("gone"))
        with self.assertRaises(IncompleteBody):
            await temps.append(token, source, 0)  # type: ignore[arg-type]
        self.assertEqual((await temps.about(token)).held, 3 * BLOCK)
        self.assertEqual(await temps.read(token, 0, 3 * BLOCK), what.plain(1)[: 3 * BLOCK])

    async def test_too_much(self) -> None:
        """No more than the shard takes."""
        temps = await self.make_temps()
        what = sample(3 * SCHEME.stripe_size)
        token = await temps.open(self.about(what))
        with self.assertRaises(TooLarge):
            await self.append(temps, token, what.plain(1) + b"x")

    async def test_cut(self) -> None:
        """What is cut away is gone, and something else can come in its place."""
        temps = await self.make_temps()
        what = sample(20 * SCHEME.stripe_size + 5)
        token = await temps.open(self.about(what))
        await self.append(temps, token, b"x" * (12 * BLOCK))
        await temps.settle(token, None)
        await temps.cut(token, 12 * BLOCK)
        for held in (9 * BLOCK, 2 * BLOCK, 0):
            await temps.cut(token, held)
            self.assertEqual((await temps.about(token)).held, held)
        for wrong in (BLOCK, 1):
            with self.assertRaises(Conflict):
                await temps.cut(token, wrong)
        await self.append(temps, token, what.plain(1), 0)
        with self.assertRaises(Conflict):
            await temps.cut(token, BLOCK + 1)
        temps = await self.restart(temps)
        await self.assert_read(temps, token, what.plain(1))

    async def test_tails(self) -> None:
        """The last one counts, over a restart too; none takes away the one before."""
        temps = await self.make_temps()
        token = await temps.open(self.about(sample(10 * SCHEME.stripe_size)))
        for tail in (
            Tail(0, b"short"),
            Tail(3 * SCHEME.stripe_size, b"x" * (SCHEME.stripe_size - 1)),
            Tail(0, b""),
            None,
            Tail(1 << 40, b"far away"),
        ):
            await temps.settle(token, tail)
            for each in (temps, await self.restart(temps)):
                self.assertEqual((await each.about(token)).tail, tail)

    async def test_claims(self) -> None:
        """Who has claimed a shard is the only one to change it, until he releases it."""
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size)
        token = await temps.open(self.about(what, note=b"a note"))
        await temps.settle(token, Tail(0, b"tail"))
        state = await temps.claim(token, OWNER)
        self.assertEqual(state, await temps.about(token))
        self.assertEqual((state.about.note, state.tail), (b"a note", Tail(0, b"tail")))
        await temps.claim(token, OWNER)
        await self.assert_refused(temps, token, what, OTHER)
        await self.assert_refused(temps, token, what, "")
        # Another's release changes nothing.
        await temps.release(token, OTHER)
        await self.assert_refused(temps, token, what, OTHER)
        await self.append(temps, token, bytes(BLOCK), 0, OWNER)
        await temps.settle(token, None, OWNER)
        await temps.cut(token, 0, OWNER)
        await temps.release(token, OWNER)
        await temps.release(token, OWNER)
        await self.append(temps, token, what.plain(1), 0)
        await temps.claim(token, OTHER)
        await temps.commit(token, what.content, None, OTHER)

    async def assert_refused(
        self, temps: ITempShards, token: str, what: Sample, owner: str
    ) -> None:
        """Nothing can be changed by somebody else, but all be read."""
        await temps.about(token)
        await temps.read(token, 0, 1)
        if owner:
            with self.assertRaises(Conflict):
                await temps.claim(token, owner)
        with self.assertRaises(Conflict):
            await self.append(temps, token, bytes(BLOCK), None, owner)
        with self.assertRaises(Conflict):
            await temps.cut(token, 0, owner)
        with self.assertRaises(Conflict):
            await temps.settle(token, None, owner)
        with self.assertRaises(Conflict):
            await temps.commit(token, what.content, None, owner)

    async def test_claims_run_out(self) -> None:
        """A claim lasts for CLAIM_S after its last renewal."""
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size)
        token = await temps.open(self.about(what))
        await temps.claim(token, OWNER)
        for renew in (
            lambda: temps.claim(token, OWNER),
            lambda: self.append(temps, token, bytes(BLOCK), None, OWNER),
            lambda: temps.settle(token, None, OWNER),
        ):
            self.clock.advance(CLAIM_S - 0.5)
            await renew()
            self.clock.advance(CLAIM_S - 0.5)
            with self.assertRaises(Conflict):
                await temps.claim(token, OTHER)
            await temps.claim(token, OWNER)
        self.clock.advance(CLAIM_S + 0.5)
        await temps.claim(token, OTHER)
        await self.assert_refused(temps, token, what, OWNER)

    async def test_claims_and_restart(self) -> None:
        """They are forgotten with the process."""
        temps = await self.make_temps()
        token = await temps.open(self.about(sample(10)))
        await temps.claim(token, OWNER)
        temps = await self.restart(temps)
        await temps.claim(token, OTHER)

    async def test_who_wrote_last(self) -> None:
        """It is told, over a restart too, and how much of what is held is from before that, or was
        settled since.
        """
        temps = await self.make_temps()
        token = await temps.open(self.about(sample(20 * SCHEME.stripe_size)))
        self.assertEqual(await self.wrote(temps, token), ("", 0, 0))
        await self.append(temps, token, bytes(3 * BLOCK), 0, OWNER)
        for _ in range(2):
            self.assertEqual(await self.wrote(temps, token), (OWNER, 0, 3))
            temps = await self.restart(temps)
        await temps.settle(token, None, OWNER)
        await self.append(temps, token, bytes(2 * BLOCK), 3 * BLOCK, OWNER)
        self.assertEqual(await self.wrote(temps, token), (OWNER, 3, 5))
        await temps.release(token, OWNER)
        await self.append(temps, token, bytes(BLOCK), 5 * BLOCK, OTHER)
        for _ in range(2):
            self.assertEqual(await self.wrote(temps, token), (OTHER, 5, 6))
            temps = await self.restart(temps)
        await temps.cut(token, 2 * BLOCK, OTHER)
        await self.append(temps, token, bytes(2 * BLOCK), 2 * BLOCK, OTHER)
        owner, agreed, held = await self.wrote(temps, token)
        self.assertEqual((owner, held), (OTHER, 4))
        self.assertLessEqual(agreed, 2)

    async def wrote(self, temps: ITempShards, token: str) -> tuple[str, int, int]:
        """Who wrote last, and how many blocks are agreed upon and held."""
        state = await temps.about(token)
        return state.owner, state.agreed // BLOCK, state.held // BLOCK

    async def test_damage(self) -> None:
        """A block that is not what was appended is not given out."""
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size)
        token = await temps.open(self.about(what))
        await self.append(temps, token, what.plain(1))
        await self.damage(token, 3 * BLOCK + 17)
        with self.assertRaises(BadShard):
            await temps.read(token, 3 * BLOCK, 1)
        self.assertEqual(
            await temps.read(token, 4 * BLOCK, BLOCK), what.plain(1)[4 * BLOCK :][:BLOCK]
        )

    async def test_commit(self) -> None:
        """It is no temporary shard any more. How it ended is known if it was to be kept, over a
        restart and as often as it is asked, until it is dropped.
        """
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size + 5)
        other = sample(10 * SCHEME.stripe_size + 5, 1)
        content = what.content
        for keep_s in (None, 60):
            about = TempAbout(1, content.scheme, content.hash, content.size, b"note", keep_s)
            token = await temps.open(about)
            await self.append(temps, token, what.plain(1))
            await temps.claim(token, OWNER)
            await temps.commit(token, content, None, OWNER)
            if keep_s is None:
                await self.assert_gone(temps, token)
                continue
            committed = TempState(about, len(what.plain(1)), committed=True)
            with self.assertRaises(Conflict):
                await temps.claim(token, OTHER)
            self.assertEqual(await temps.claim(token, OWNER), committed)
            for _ in range(2):
                self.assertEqual(await temps.about(token), committed)
                self.assertEqual(await temps.claim(token, OWNER), committed)
                await temps.commit(token, content, None, OWNER)
                with self.assertRaises(InvalidRequest):
                    await temps.commit(token, other.content, None, OWNER)
                await self.assert_unchangeable(temps, token)
                temps = await self.restart(temps)
            await temps.drop(token)
            await self.assert_gone(temps, token)

    async def test_no_shard_of_it(self) -> None:
        """Too few bytes, or another content: nothing is kept."""
        temps = await self.make_temps()
        what = sample(10 * SCHEME.stripe_size)
        other = sample(10 * SCHEME.stripe_size, 1)
        for data, content, shard_hash in (
            (what.plain(1)[:-BLOCK], what.content, None),
            (what.plain(1), other.content, None),
            (what.plain(1), what.content, bytes(32)),
        ):
            token = await temps.open(self.about(what))
            await self.append(temps, token, data)
            with self.assertRaises(InvalidRequest):
                await temps.commit(token, content, shard_hash)
            await self.assert_gone(temps, token)

    async def test_drop(self) -> None:
        """It is gone, whoever has claimed it, and may be dropped again."""
        temps = await self.make_temps()
        token = await temps.open(self.about(sample(10)))
        await temps.claim(token, OWNER)
        await temps.drop(token)
        await temps.drop(token)
        await self.assert_gone(temps, token)
        await self.assert_gone(temps, "c" * 32)

    async def assert_gone(self, temps: ITempShards, token: str) -> None:
        """Nothing is known of it."""
        await self.assert_unchangeable(temps, token)
        for call in (
            lambda: temps.about(token),
            lambda: temps.claim(token, OWNER),
            lambda: temps.commit(token, sample(1).content, None),
        ):
            with self.assertRaises(NotFound):
                await call()

    async def assert_unchangeable(self, temps: ITempShards, token: str) -> None:
        """It is no temporary shard (any more)."""
        for call in (
            lambda: self.append(temps, token, b"", None, OWNER),
            lambda: temps.cut(token, 0, OWNER),
            lambda: temps.settle(token, None, OWNER),
            lambda: temps.read(token, 0, 1),
        ):
            with self.assertRaises(NotFound):
                await call()
