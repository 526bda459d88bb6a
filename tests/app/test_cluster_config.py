"""What the operator of a cluster sets: for an API server, and for a data server."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from attrs import evolve
from twisted.python import usage

from dostore.adapters.elastic_address import Address
from dostore.app.config import ClusterConfig, Config, read_config
from dostore.app.data_config import DataConfig, read_data_config
from dostore.core.broker_url import BrokerUrl
from tests.support.cases import SyncTestCase

PASSWORD = "tell-nobody"
BROKER = f"amqp://there:{PASSWORD}@rabbit.example:5673/store"
SERVERS = {"RABBITMQ_SERVER": BROKER, "ES_SERVER": f"https://me:{PASSWORD}@one:9201,two"}
SECRET = "correct horse battery staple"

DATA = DataConfig(
    listen_host="10.29.1.1",
    listen_port=12345,
    address="10.29.1.1:12345",
    storage_root="/srv",
    broker=BrokerUrl("rabbit.example", 5673, "there", PASSWORD, "store"),
    zone="",
    secret=None,
    shard_sync=True,
    compression_level=None,
    pack_below=0,
    max_connections=480,
    kept_files=0,
    access_log=None,
    body_timeout_s=60.0,
    shutdown_grace_s=30.0,
)
PLACE = {"LISTEN_ADDRESS": "10.29.1.1:12345", "STORAGE_ROOT": "/srv", "RABBITMQ_SERVER": BROKER}


def no_file(path: str, limit: int) -> bytes:
    """There is no file that could be read."""
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class _Case(SyncTestCase):
    def file_of(self, content: bytes) -> Callable[[str, int], bytes]:
        """What reads /run/secret."""

        def read_file(path: str, limit: int) -> bytes:
            self.assertEqual(path, "/run/secret")
            return content[:limit]

        return read_file

    def read_api(
        self,
        environ: dict[str, str],
        read_file: Callable[[str, int], bytes] = no_file,
        **options: object,
    ) -> Config:
        """An API server's config."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return read_config(named, environ, "/run", 1024, read_file)

    def read_data(
        self,
        environ: dict[str, str] | None = None,
        read_file: Callable[[str, int], bytes] = no_file,
        **options: object,
    ) -> DataConfig:
        """A data server's config."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return read_data_config(named, PLACE | (environ or {}), "/run", 1024, read_file)

    def sentence(
        self, function: Callable[..., object], *arguments: object, **options: object
    ) -> str:
        """The sentence by which a call is refused; it tells no secret."""
        text = str(self.assertRaises(usage.UsageError, function, *arguments, **options))
        self.assertNotIn(PASSWORD, text)
        return text


class ApiServerTests(_Case):
    """An API server of a cluster."""

    def test_both_make_a_cluster(self) -> None:
        """With RabbitMQ and Elasticsearch named, there are no drives."""
        config = self.read_api(SERVERS)
        cluster = config.cluster
        assert cluster is not None
        self.assertEqual(cluster.rabbitmq, DATA.broker)
        self.assertEqual(
            [address.url for address in cluster.elasticsearch],
            ["https://one:9201", "http://two:9200"],
        )
        self.assertEqual((config.drives, cluster.secret), ((), None))

    def test_neither_is_the_store_alone(self) -> None:
        """Variables that are set to nothing are not set."""
        self.assertIsNone(self.read_api({"RABBITMQ_SERVER": "", "ES_SERVER": ""}).cluster)

    def test_one_alone_is_refused(self) -> None:
        """The sentence names the other."""
        for there, missing in (("RABBITMQ_SERVER", "ES_SERVER"), ("ES_SERVER", "RABBITMQ_SERVER")):
            text = self.sentence(self.read_api, {there: SERVERS[there]})
            self.assertTrue(text.startswith(f"{there} is set, but {missing} is not."), text)

    def test_what_only_data_servers_have(self) -> None:
        """Drives, and how shards are written to them, are no API server's affair here."""
        text = self.sentence(self.read_api, SERVERS, drives="/a,/b")
        self.assertTrue(text.startswith("--drives is set, but in a cluster"), text)
        text = self.sentence(self.read_api, SERVERS | {"DOSTORE_DRIVES": "/a"})
        self.assertTrue(text.startswith("DOSTORE_DRIVES is set, but in a cluster"), text)
        text = self.sentence(self.read_api, SERVERS, no_shard_sync=1)
        self.assertIn("data servers keep the shards", text)
        text = self.sentence(self.read_api, SERVERS, compression="gzip")
        self.assertTrue(text.startswith("--compression is set, but in a cluster"), text)
        text = self.sentence(self.read_api, SERVERS, pack_below="1")
        self.assertTrue(text.startswith("--pack-below is set, but in a cluster"), text)

    def test_index(self) -> None:
        """The names are in the index that is told, by default the one of old."""
        for options, environ, index in (
            ({}, {}, "metadata"),
            ({}, {"DOSTORE_METADATA_INDEX": "a.b-1"}, "a.b-1"),
            ({"metadata_index": "told"}, {"DOSTORE_METADATA_INDEX": "a"}, "told"),
        ):
            cluster = self.read_api(SERVERS | environ, no_file, **options).cluster
            assert cluster is not None
            self.assertEqual(cluster.metadata_index, index)
        for wrong in ("-a", "_a", ".", "A", "a*", "a,b", "a/b", "a" * 129, "a b", "a?"):
            told = self.sentence(self.read_api, SERVERS, metadata_index=wrong)
            self.assertTrue(told.startswith(f"--metadata-index: '{wrong}' cannot"), told)

    def test_wrong_addresses(self) -> None:
        """What is wrong is told without what may be secret in it."""
        for variable, text in (
            ("RABBITMQ_SERVER", f"http://there:{PASSWORD}@rabbit"),
            ("RABBITMQ_SERVER", f"amqp://there:{PASSWORD}@rabbit:port"),
            ("ES_SERVER", f"https://me:{PASSWORD}@"),
            ("ES_SERVER", f"https://me:{PASSWORD}@one:port"),
            ("ES_SERVER", f"ftp://me:{PASSWORD}@one"),
        ):
            told = self.sentence(self.read_api, SERVERS | {variable: text})
            self.assertIn(variable, told)

    def test_secrets_are_not_shown(self) -> None:
        """No text form of the config has the secret or a password in it."""
        config = self.read_api(SERVERS | {"DOSTORE_SECRET": SECRET})
        assert config.cluster is not None
        self.assertEqual(config.cluster.secret, SECRET.encode())
        for text in (repr(config), str(config), f"{config.cluster.rabbitmq}"):
            for hidden in (SECRET, PASSWORD, "YjM"):
                self.assertNotIn(hidden, text)
        shown = repr(ClusterConfig(DATA.broker, (Address("http://a", "Basic abc"),), b"hidden"))
        self.assertNotIn("abc", shown)
        self.assertNotIn("hidden", shown)


class SecretTests(_Case):
    """Where the secret comes from; the same for both kinds of servers."""

    def test_from_a_file(self) -> None:
        """The line end after it does not count; the file is named by option or environment."""
        read_file = self.file_of(SECRET.encode() + b"\r\n")
        for environ, options in (
            ({}, {"secret_file": "secret"}),
            ({"DOSTORE_SECRET_FILE": "/run/secret"}, {}),
        ):
            api = self.read_api(SERVERS | environ, read_file, **options)
            assert api.cluster is not None
            self.assertEqual(api.cluster.secret, SECRET.encode())
            data = self.read_data(environ, read_file, **options)
            self.assertEqual(data, evolve(DATA, secret=SECRET.encode()))

    def test_twice(self) -> None:
        """With two, nobody knows which one counts."""
        environ = {"DOSTORE_SECRET": SECRET, "DOSTORE_SECRET_FILE": "/run/secret"}
        text = self.sentence(self.read_data, environ)
        self.assertIn("DOSTORE_SECRET and DOSTORE_SECRET_FILE are both set", text)
        text = self.sentence(self.read_data, {"DOSTORE_SECRET": SECRET}, secret_file="x")
        self.assertIn("DOSTORE_SECRET and --secret-file are both set", text)

    def test_no_file(self) -> None:
        """A secret that cannot be read is no reason to go on without one."""
        text = self.sentence(self.read_data, secret_file="secret")
        self.assertEqual(text, "--secret-file: 'secret' cannot be used: No such file or directory.")

    def test_lengths(self) -> None:
        """Short ones can be guessed, and very long ones are something else; neither is shown."""
        for secret, taken in ((15, False), (16, True), (1024, True), (1025, False), (9999, False)):
            text = "s" * secret
            for read in (
                lambda text=text: self.read_data({"DOSTORE_SECRET": text}),
                lambda text=text: self.read_data(
                    {}, self.file_of(text.encode() + b"\n"), secret_file="secret"
                ),
            ):
                if taken:
                    self.assertEqual(read().secret, text.encode())
                else:
                    told = self.sentence(read)
                    self.assertIn("16 to 1024 bytes", told)
                    self.assertNotIn("sss", told)


class DataServerTests(_Case):
    """A data server."""

    def test_the_variables_of_old(self) -> None:
        """LISTEN_ADDRESS, STORAGE_ROOT and RABBITMQ_SERVER are all that it takes."""
        self.assertEqual(self.read_data(), DATA)

    def test_every_option(self) -> None:
        """Each option sets its own field and no other."""
        config = self.read_data(
            listen=":7000",
            advertise="node-1.example:7001",
            storage_root="disk",
            zone="rack-3",
            no_shard_sync=1,
            compression="gzip",
            compression_level="2",
            pack_below="1000",
            max_connections="9",
            access_log="log",
            body_timeout="2",
            shutdown_grace="1.5",
        )
        self.assertEqual(
            config,
            DataConfig(
                listen_host="",
                listen_port=7000,
                address="node-1.example:7001",
                storage_root="/run/disk",
                broker=DATA.broker,
                zone="rack-3",
                secret=None,
                shard_sync=False,
                compression_level=2,
                pack_below=1000,
                max_connections=9,
                kept_files=0,
                access_log="/run/log",
                body_timeout_s=2.0,
                shutdown_grace_s=1.5,
            ),
        )

    def test_every_environment_variable(self) -> None:
        """Each option has its variable."""
        config = self.read_data(
            {
                "DOSTORE_ADVERTISE": "[2001:db8::1]:80",
                "DOSTORE_ZONE": "a.b",
                "DOSTORE_NO_SHARD_SYNC": "yes",
                "DOSTORE_COMPRESSION": "gzip",
                "DOSTORE_PACK_BELOW": "64K",
                "DOSTORE_MAX_CONNECTIONS": "20",
                "DOSTORE_ACCESS_LOG": "/log",
                "DOSTORE_BODY_TIMEOUT": "5",
                "DOSTORE_SHUTDOWN_GRACE": "0",
                "DOSTORE_SECRET": SECRET,
            }
        )
        self.assertEqual(
            config,
            evolve(
                DATA,
                address="[2001:db8::1]:80",
                zone="a.b",
                shard_sync=False,
                compression_level=1,
                pack_below=65536,
                max_connections=20,
                access_log="/log",
                body_timeout_s=5.0,
                shutdown_grace_s=0.0,
                secret=SECRET.encode(),
            ),
        )

    def test_without_a_broker(self) -> None:
        """Nobody would ever hear of such a data server."""
        text = self.sentence(self.read_data, {"RABBITMQ_SERVER": ""})
        self.assertTrue(text.startswith("RABBITMQ_SERVER is not set."), text)

    def test_an_address_that_others_cannot_use(self) -> None:
        """To listen everywhere, or on any port, takes --advertise; that must be one server's."""
        for listen in (":12345", "0.0.0.0:12345", "[::]:12345", "10.0.0.1:0"):
            text = self.sentence(self.read_data, listen=listen)
            self.assertIn("--advertise", text)
            config = self.read_data(listen=listen, advertise="node:1")
            self.assertEqual(config.address, "node:1")
        for wrong in ("node", "node:0", "0.0.0.0:1", ":1", "a b:1", "[::1:1", ""):
            text = self.sentence(self.read_data, advertise=wrong)
            self.assertTrue(text.startswith(f"--advertise: {wrong!r} cannot be used"), text)

    def test_an_ipv6_address(self) -> None:
        """It is told in brackets."""
        self.assertEqual(self.read_data(listen="[2001:db8::2]:99").address, "[2001:db8::2]:99")

    def test_wrong_zones(self) -> None:
        """A zone is a short word."""
        for wrong in ("a b", "ä", "x" * 65, "a\n"):
            text = self.sentence(self.read_data, zone=wrong)
            self.assertTrue(text.startswith("--zone: "), text)

    def test_secrets_are_not_shown(self) -> None:
        """No text form of the config has the secret or the password in it."""
        config = self.read_data({"DOSTORE_SECRET": SECRET})
        for text in (repr(config), str(config)):
            self.assertNotIn(SECRET, text)
            self.assertNotIn(PASSWORD, text)
