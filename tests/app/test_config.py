"""What an operator sets, and what becomes of it."""

from __future__ import annotations

from attrs import evolve
from twisted.python import usage

from dostore.app.config import MAX_DRIVES, Config, expand_drives, read_config
from dostore.core.scheme import Scheme
from tests.support.cases import SyncTestCase

DEFAULT = Config(
    listen_host="127.0.0.1",
    listen_port=12345,
    storage_root="/srv/data",
    drives=tuple(f"/srv/data/{number}" for number in range(1, 7)),
    scheme=Scheme(4, 2),
    write_quorum=5,
    copies_below=0,
    require_digest=False,
    shard_sync=True,
    compression_level=None,
    pack_below=0,
    max_object_size=5 << 40,
    max_connections=137,
    kept_files=0,
    access_log=None,
    body_timeout_s=60.0,
    shutdown_grace_s=30.0,
    upload_ttl_s=86400,
    instant_uploads=True,
)


def read(environ: dict[str, str] | None = None, /, **options: object) -> Config:
    """A Config of options whose hyphens are written as underscores."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return read_config(named, environ or {}, "/srv", open_files=1024)


class ReadConfigTests(SyncTestCase):
    """Options, environment and defaults."""

    def refused(self, environ: dict[str, str] | None = None, /, **options: object) -> str:
        """The sentence by which the setting is refused."""
        return str(self.assertRaises(usage.UsageError, read, environ, **options))

    def test_defaults(self) -> None:
        """With nothing set, the store is on this machine only, 4 + 2, and safe."""
        self.assertEqual(read(), DEFAULT)

    def test_what_twistd_passes_when_nothing_is_given(self) -> None:
        """None and 0, as usage.Options leaves what was not given, are no settings."""
        self.assertEqual(read(listen=None, drives=None, require_digest=0), DEFAULT)

    def test_every_option(self) -> None:
        """Each option sets its own field and no other."""
        self.assertEqual(
            read(
                listen="example.org:80",
                storage_root="/srv/names",
                drives="/mnt/a,/mnt/b,/mnt/c,/mnt/d",
                data_shards="3",
                parity_shards="1",
                write_quorum="4",
                copies_below="8K",
                require_digest=1,
                no_shard_sync=1,
                compression="gzip",
                compression_level="0",
                pack_below="64K",
                max_object_size="10M",
                max_connections="7",
                workers="3",
                access_log="log/access",
                body_timeout="1.5",
                shutdown_grace="0",
                upload_ttl="7",
                no_instant_uploads=1,
            ),
            Config(
                listen_host="example.org",
                listen_port=80,
                storage_root="/srv/names",
                drives=("/mnt/a", "/mnt/b", "/mnt/c", "/mnt/d"),
                scheme=Scheme(3, 1),
                write_quorum=4,
                copies_below=8192,
                require_digest=True,
                shard_sync=False,
                compression_level=0,
                pack_below=65536,
                max_object_size=10 << 20,
                max_connections=7,
                kept_files=0,
                access_log="/srv/log/access",
                body_timeout_s=1.5,
                shutdown_grace_s=0.0,
                upload_ttl_s=7,
                instant_uploads=False,
                workers=3,
            ),
        )

    def test_every_environment_variable(self) -> None:
        """Each variable sets what its option sets."""
        self.assertEqual(
            read(
                {
                    "LISTEN_ADDRESS": ":0",
                    "STORAGE_ROOT": "elsewhere",
                    "DOSTORE_DRIVES": "d{1...3}",
                    "DOSTORE_DATA_SHARDS": "3",
                    "DOSTORE_PARITY_SHARDS": "0",
                    "DOSTORE_WRITE_QUORUM": "3",
                    "DOSTORE_COPIES_BELOW": "262144",
                    "DOSTORE_REQUIRE_DIGEST": "yes",
                    "DOSTORE_NO_SHARD_SYNC": "1",
                    "DOSTORE_COMPRESSION": "gzip",
                    "DOSTORE_COMPRESSION_LEVEL": "3",
                    "DOSTORE_PACK_BELOW": "1",
                    "DOSTORE_MAX_OBJECT_SIZE": "3",
                    "DOSTORE_MAX_CONNECTIONS": "1000000",
                    "DOSTORE_WORKERS": "64",
                    "DOSTORE_ACCESS_LOG": "/var/log/dostore",
                    "DOSTORE_BODY_TIMEOUT": "5",
                    "DOSTORE_SHUTDOWN_GRACE": "86400",
                    "DOSTORE_UPLOAD_TTL": "31536000",
                    "DOSTORE_NO_INSTANT_UPLOADS": "1",
                }
            ),
            Config(
                listen_host="",
                listen_port=0,
                storage_root="/srv/elsewhere",
                drives=("/srv/d1", "/srv/d2", "/srv/d3"),
                scheme=Scheme(3, 0),
                write_quorum=3,
                copies_below=262_144,
                require_digest=True,
                shard_sync=False,
                compression_level=3,
                pack_below=1,
                max_object_size=3,
                max_connections=1_000_000,
                kept_files=0,
                access_log="/var/log/dostore",
                body_timeout_s=5.0,
                shutdown_grace_s=86400.0,
                upload_ttl_s=31_536_000,
                instant_uploads=False,
                workers=64,
            ),
        )

    def test_copies(self) -> None:
        """Small contents may be copies where these are fewer than the shards that others need."""
        self.assertEqual(read(copies_below="0").copies_below, 0)
        self.assertEqual(
            self.refused(copies_below="257K"),
            "--copies-below: '257K' cannot be used: give 0 or at most 256K: copies of more take"
            " more room than shards.",
        )
        for k, m in (("2", "2"), ("2", "1"), ("1", "0"), ("3", "2")):
            options = {"data_shards": k, "parity_shards": m}
            text = self.refused(copies_below="1", **options)
            self.assertTrue(text.startswith("--copies-below 1 cannot be used with"), text)
            self.assertEqual(read(copies_below="0", **options).copies_below, 0)

    def test_packing(self) -> None:
        """It is off; what is large is not packed; volumes that are open leave fewer for clients."""
        self.assertEqual(read(pack_below="0").pack_below, 0)
        self.assertEqual(read(pack_below="1M").pack_below, 1 << 20)
        for wrong in ("1048577", "-1", "x", "00"):
            self.assertIn("--pack-below", self.refused(pack_below=wrong))
        self.assertLess(read(pack_below="1").max_connections, read().max_connections)

    def test_compression(self) -> None:
        """It is off, also when only a level is told; switched on, it is fast."""
        for options, level in (
            ({"compression": "none", "compression_level": "2"}, None),
            ({"compression_level": "2"}, None),
            ({"compression": "gzip"}, 1),
        ):
            self.assertEqual(read(**options).compression_level, level)
        self.assertEqual(
            self.refused(compression="zstd"),
            "--compression: 'zstd' cannot be used: give none or gzip.",
        )
        self.assertEqual(
            self.refused({"DOSTORE_COMPRESSION_LEVEL": "9"}),
            "DOSTORE_COMPRESSION_LEVEL: '9' cannot be used: give a whole number from 0 to 3.",
        )

    def test_an_option_counts_more_than_the_environment(self) -> None:
        """Where both are given, the option is taken and the variable is not even looked at."""
        self.assertEqual(
            read({"LISTEN_ADDRESS": "nonsense"}, listen="10.1.2.3:4").listen_host, "10.1.2.3"
        )

    def test_a_variable_set_to_nothing_is_not_set(self) -> None:
        """``LISTEN_ADDRESS= twistd …`` means the default."""
        names = ["LISTEN_ADDRESS", "DOSTORE_REQUIRE_DIGEST", "RABBITMQ_SERVER", "ES_SERVER"]
        self.assertEqual(read(dict.fromkeys(names, "")), DEFAULT)

    def test_switches_in_the_environment(self) -> None:
        """A switch takes the usual words for on and off and refuses others by name."""
        self.assertFalse(read({"DOSTORE_REQUIRE_DIGEST": "Off"}).require_digest)
        self.assertTrue(read({"DOSTORE_REQUIRE_DIGEST": "TRUE"}).require_digest)
        self.assertEqual(
            self.refused({"DOSTORE_REQUIRE_DIGEST": "perhaps"}),
            "DOSTORE_REQUIRE_DIGEST: 'perhaps' cannot be used: give 1 (on) or 0 (off).",
        )

    def test_the_source_of_a_wrong_value_is_named(self) -> None:
        """The sentence names the option, or the variable, that holds the value."""
        self.assertEqual(
            self.refused(listen="12345"),
            "--listen: '12345' cannot be used: write host:port or :port, with a port from 0 to"
            " 65535.",
        )
        self.assertEqual(
            self.refused({"LISTEN_ADDRESS": "12345"}),
            "LISTEN_ADDRESS: '12345' cannot be used: write host:port or :port, with a port from 0"
            " to 65535.",
        )

    def test_addresses(self) -> None:
        """Names, IPv4, bracketed IPv6, and none for all."""
        for text, host, port in [
            (":12345", "", 12345),
            ("localhost:1", "localhost", 1),
            ("0.0.0.0:65535", "0.0.0.0", 65535),
            ("[::1]:80", "::1", 80),
            ("[0:0::1]:80", "::1", 80),
        ]:
            config = read(listen=text)
            self.assertEqual((config.listen_host, config.listen_port), (host, port))

    def test_wrong_addresses(self) -> None:
        """What is no address is refused and named."""
        for text in (
            "",
            ":",
            "host",
            "host:",
            ":65536",
            ":-1",
            ":+1",
            ":1_0",
            ":\u0661",
            "::1:80",
            "[::1]",
            "[::1:80",
            "[nonsense]:80",
            "a b:80",
            "-a:80",
            "http://host:80",
        ):
            self.assertIn(f"--listen: {text!r}", self.refused(listen=text))

    def test_wrong_numbers(self) -> None:
        """Each number has its range."""
        for name, text in [
            ("data-shards", "0"),
            ("data-shards", "33"),
            ("data-shards", "four"),
            ("data-shards", ""),
            ("parity-shards", "-1"),
            ("parity-shards", "32"),
            ("parity-shards", "2.0"),
            ("write-quorum", "4"),
            ("write-quorum", "7"),
            ("max-connections", "0"),
            ("max-connections", "1000001"),
            ("max-connections", "9" * 5000),
            ("body-timeout", "0"),
            ("body-timeout", "nan"),
            ("body-timeout", "inf"),
            ("body-timeout", "1e3"),
            ("shutdown-grace", "-1"),
            ("shutdown-grace", "86401"),
            ("max-object-size", "0"),
            ("max-object-size", "1X"),
            ("max-object-size", "1.5G"),
            ("max-object-size", "9223372036854775808"),
            ("max-object-size", "8388608T"),
        ]:
            self.assertIn(f"--{name}: {text!r}", self.refused(**{name: text}))

    def test_sizes(self) -> None:
        """Sizes take K, M, G and T of 1,024, in either case."""
        for text, size in [("1", 1), ("2k", 2048), ("3M", 3 << 20), ("4g", 4 << 30)]:
            self.assertEqual(read(max_object_size=text).max_object_size, size)

    def test_write_quorum_follows_the_scheme(self) -> None:
        """It is k + 1 by default, or k where there is no parity; it can be raised only."""
        self.assertEqual(read(data_shards="8", parity_shards="3").write_quorum, 9)
        self.assertEqual(read(data_shards="1", parity_shards="0").write_quorum, 1)
        self.assertEqual(read(data_shards="1", parity_shards="0").drives, ("/srv/data/1",))
        self.assertIn("give 1", self.refused(data_shards="1", parity_shards="0", write_quorum="2"))
        self.assertIn("from 5 to 6", self.refused(write_quorum="4"))

    def test_too_many_shards(self) -> None:
        """k + m is bounded, and the sentence names both options."""
        self.assertEqual(read(data_shards="30").scheme.shards, 32)
        sentence = self.refused(data_shards="30", parity_shards="3")
        self.assertIn("--data-shards 30 and --parity-shards 3", sentence)

    def test_default_connections_leave_files_for_everyone(self) -> None:
        """Even when all read at once, each with k + m shards, no file is refused."""
        few = read_config({}, {}, "/srv", open_files=20)
        self.assertEqual(few, evolve(DEFAULT, max_connections=16))
        many = read_config({}, {}, "/srv", open_files=1 << 30)
        self.assertEqual(many, evolve(DEFAULT, max_connections=4096, kept_files=8192))
        some = read_config({}, {}, "/srv", open_files=20_000)
        self.assertEqual(some, evolve(DEFAULT, max_connections=2133, kept_files=5000))
        self.assertLessEqual(some.max_connections * 7 + some.kept_files + 64, 20_000)


class DrivesTests(SyncTestCase):
    """The list of drive folders."""

    def refused(self, text: str) -> str:
        """The sentence by which ``--drives`` is refused."""
        return str(self.assertRaises(usage.UsageError, read, drives=text))

    def test_more_drives_than_shards(self) -> None:
        """Spare drives are taken, in the order given."""
        self.assertEqual(
            read(drives="/7,/6,/5,/4,/3,/2,/1").drives, ("/7", "/6", "/5", "/4", "/3", "/2", "/1")
        )

    def test_too_few(self) -> None:
        """Two shards on one drive would be lost together."""
        self.assertIn("5 folders are named, and 4 data and 2 parity", self.refused("/d{1...5}"))

    def test_the_same_twice(self) -> None:
        """However it is spelled, a folder counts once."""
        self.assertIn("/srv/a is named twice", self.refused("a,b,c,d,e,./x/../a/"))

    def test_one_within_another(self) -> None:
        """A folder within another would be lost with it."""
        self.assertIn("/a/b is within /a", self.refused("/a,/c,/d,/e,/f,/a/b"))
        self.assertIn("is within /", self.refused("/,/c,/d,/e,/f,/g"))

    def test_names_that_only_begin_alike(self) -> None:
        """/a and /ab are two folders."""
        self.assertEqual(len(read(drives="/a,/ab,/abc,/b,/c,/d").drives), 6)

    def test_ellipsis(self) -> None:
        """One or several, with the zeros that the first number has."""
        for text, drives in [
            ("/a,/b", ["/a", "/b"]),
            (" /a , /b ", ["/a", "/b"]),
            ("/d{1...3}", ["/d1", "/d2", "/d3"]),
            ("/d{08...10}/x", ["/d08/x", "/d09/x", "/d10/x"]),
            ("/{1...2}/{3...4}", ["/1/3", "/1/4", "/2/3", "/2/4"]),
            ("/a,/d{5...5}", ["/a", "/d5"]),
        ]:
            self.assertEqual(expand_drives(text), drives)

    def test_wrong_lists(self) -> None:
        """What names no folder, or too many to be meant, is refused at once."""
        for text in (
            "",
            "/a,,/b",
            "/a,",
            "/d{2...1}",
            "/d{1..6}",
            "/d{1...",
            "/d{a...b}",
            "/d{1...6}}",
            "/d{1...999999999}",
            "/{1...99}/{1...99}/{1...99}",
            f"/d{{0...{MAX_DRIVES}}}",
            f"/d{{1...{MAX_DRIVES}}},/e",
        ):
            self.assertRaises(ValueError, expand_drives, text)
            self.assertIn(f"--drives: {text!r}", self.refused(text))
