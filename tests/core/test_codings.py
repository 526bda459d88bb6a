"""Which content coding a client takes, and what is worth a try."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.codings import AS_THEY_ARE, Codings, may_shrink
from tests.support.cases import SyncTestCase
from tests.support.properties import prove


def codings(*lines: bytes, cache_control: bytes | None = None) -> Codings:
    """What a client with these lines of Accept-Encoding takes."""
    fields = {b"accept-encoding": lines}
    if cache_control is not None:
        fields[b"cache-control"] = (cache_control,)
    return Codings.of(fields)


class AcceptEncodingTests(SyncTestCase):
    """RFC 9110, section 12.5.3."""

    def test_gzip(self) -> None:
        """It is taken by its names, in any case, in a list, by a star, and with a weight."""
        for value in (
            b"gzip",
            b"GZip",
            b"x-gzip",
            b"gzip, deflate, br",
            b"deflate,, gzip ;q=1.0 ,",
            b"br;q=1.0, gzip;q=0.001, identity;q=0.001",
            b"gzip\t;\tQ=0.5",
            b"gzip;q=1.",
            b"*",
            b"*;q=0.1",
            b"br, *;q=0.5",
            b"identity;q=0.5, *;q=0.6",
        ):
            self.assertEqual(codings(value), Codings(gzip=True, identity=True), value)
        self.assertTrue(codings(b"br", b"gzip").gzip)

    def test_as_they_are(self) -> None:
        """Without the field, when it names others, and when gzip is refused or liked less."""
        self.assertEqual(Codings.of({}), AS_THEY_ARE)
        for value in (
            b"",
            b",",
            b"identity",
            b"br",
            b"gzip;q=0",
            b"gzip;q=0.",
            b"gzip;q=0.000",
            b"x-gzip;q=0",
            b"gzip;q=0, *",
            b"gzip, x-gzip;q=0",
            b"gzip;q=1, gzip;q=0",
            b"gzip;q=0.5, identity",
            b"gzip;q=0.5, identity;q=0.501",
            # What a browser sends for a video.
            b"identity;q=1, *;q=0",
        ):
            self.assertEqual(codings(value), AS_THEY_ARE, value)

    def test_identity_refused(self) -> None:
        """By its name, or by a star that nothing else is said against."""
        for value in (b"gzip, identity;q=0", b"gzip, *;q=0"):
            self.assertEqual(codings(value), Codings(gzip=True, identity=False), value)
        self.assertEqual(codings(b"*;q=0"), Codings(gzip=False, identity=False))
        self.assertEqual(codings(b"*;q=0, identity;q=0.1"), AS_THEY_ARE)

    def test_malformed(self) -> None:
        """What is not understood changes nothing."""
        for value in (
            b"gzip;q=1.5",
            b"gzip;q=.5",
            b"gzip;q=0.1234",
            b"gzip;q=-1",
            b"gzip;q= 1",
            b"gzip;q",
            b"gzip;level=9",
            b"gzip;q=1;q=1",
            b"gzip deflate",
            b'"gzip"',
            b"gzip, \xff",
            b"gzip," * 250,
        ):
            self.assertEqual(codings(value), AS_THEY_ARE, value)

    def test_no_transform(self) -> None:
        """A client that wants nothing changed gets nothing changed."""
        for value in (b"no-transform", b"max-age=0,\tNo-Transform ,no-cache"):
            self.assertEqual(codings(b"gzip", cache_control=value), AS_THEY_ARE)
        for value in (b"", b"no-cache", b"no-transforms", b"x no-transform", b"no-transform=1"):
            self.assertTrue(codings(b"gzip", cache_control=value).gzip)

    @prove
    @given(
        st.one_of(
            st.binary(max_size=64), st.text("gzip*;q=01., -xidenty\t", max_size=60).map(str.encode)
        )
    )
    def test_garbage(self, value: bytes) -> None:
        """Whatever is sent is an answer, never an error."""
        taken = codings(value)
        self.assertTrue(taken.gzip in (True, False) and taken.identity in (True, False))

    @prove
    @given(st.integers(0, 1000), st.integers(0, 1000))
    def test_weights(self, gzip: int, identity: int) -> None:
        """Gzip is sent when it is taken and not liked less."""
        value = b"gzip;q=%d.%03d, identity;q=%d.%03d" % (
            *divmod(gzip, 1000),
            *divmod(identity, 1000),
        )
        self.assertEqual(codings(value), Codings(0 < gzip >= identity, identity > 0))


class MediaTypeTests(SyncTestCase):
    """What is not even tried."""

    def test_compressed(self) -> None:
        """Pictures, sound, films, archives and documents that are archives inside."""
        for media_type in (
            "image/png",
            "IMAGE/JPEG ; q=1",
            "audio/mpeg",
            "video/mp4",
            "application/zip",
            "application/gzip",
            "application/x-gzip",
            "application/zstd",
            "application/epub+zip",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/vnd.oasis.opendocument.text",
            "font/woff2",
        ):
            self.assertFalse(may_shrink(media_type), media_type)

    def test_others(self) -> None:
        """The rest is tried, what nobody has named and what is no media type at all included."""
        for media_type in (
            "application/octet-stream",
            "text/plain; charset=utf-8",
            "application/json",
            "image/svg+xml",
            "application/x-tar",
            "font/ttf",
            "zip",
            "",
            ";",
        ):
            self.assertTrue(may_shrink(media_type), media_type)
