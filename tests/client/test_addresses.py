"""URLs of servers, as users write them."""

from __future__ import annotations

from dostore.client.addresses import DEFAULT_URL, MAX_SERVERS, parse_addresses
from dostore.errors import ConfigError
from tests.support.cases import SyncTestCase


class AddressTests(SyncTestCase):
    """What ``--url`` and DOSTORE_URL take."""

    def parse(self, text: str) -> list[tuple[str, str]]:
        """What each is asked at, and called."""
        return [(each.base.decode(), each.host) for each in parse_addresses(text)]

    def test_one(self) -> None:
        """A URL, with and without what may be left out."""
        for text, base, host in (
            (DEFAULT_URL, "http://127.0.0.1:12345", "127.0.0.1:12345"),
            ("127.0.0.1:12345", "http://127.0.0.1:12345", "127.0.0.1:12345"),
            ("http://Store", "http://store", "store"),
            ("HTTP://store:80/", "http://store:80", "store:80"),
            ("http://[::1]:9/", "http://[::1]:9", "[::1]:9"),
            ("http://my_store.example:9/a/b%20c/", "http://my_store.example:9/a/b%20c", ""),
            ("http://bücher.example:9", "http://xn--bcher-kva.example:9", ""),
        ):
            self.assertEqual(self.parse(text)[0][0], base)
            if host:
                self.assertEqual(self.parse(text)[0][1], host)

    def test_several(self) -> None:
        """Commas and blanks separate them; one that is there twice counts once."""
        found = self.parse(" http://a:1,http://b:2\n c:3  http://a:1/, ")
        self.assertEqual([host for _, host in found], ["a:1", "b:2", "c:3"])
        self.assertEqual(str(parse_addresses("a:1")[0]), "a:1")

    def test_wrong(self) -> None:
        """What cannot be is refused, with what would be right."""
        for text in (
            "",
            " , ",
            "ftp://a",
            "http://",
            "http://a:b",
            "http://a:99999",
            "http://a:0",
            "http://u:p@a",
            "http://a?x=1",
            "http://a/#x",
            "http://a/?",
            "http://[::1",
            "http://a/\x1b[0m",
            "http://a/é",
            "http://..a\u2024b",
            "http://[fe80::1%25eth0]:1",
            "http://a\x00b",
            "http://" + "a" * 300,
            " ".join(f"a:{port}" for port in range(1, MAX_SERVERS + 2)),
        ):
            error = self.assertRaises(ConfigError, parse_addresses, text)
            self.assertTrue(error.detail.endswith("."), text)

    def test_no_tls(self) -> None:
        """Nobody is led to believe that bytes go encrypted."""
        error = self.assertRaises(ConfigError, parse_addresses, "https://a")
        self.assertIn("TLS", error.detail)
