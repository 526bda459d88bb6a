"""dostore.core.broker_url: RABBITMQ_SERVER."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from dostore.core.broker_url import BrokerUrl, parse_broker_url
from dostore.errors import ConfigError
from tests.support.cases import SyncTestCase
from tests.support.properties import prove


class BrokerUrlTests(SyncTestCase):
    """Reading the URL of the broker."""

    def test_forms(self) -> None:
        """All parts, and RabbitMQ's defaults for those that are left out."""
        for text, url in {
            "amqp://test:test@localhost:5672": BrokerUrl("localhost", 5672, "test", "test"),
            "amqp://mq": BrokerUrl("mq"),
            "amqp://mq/": BrokerUrl("mq"),
            "amqp://mq/store": BrokerUrl("mq", vhost="store"),
            "amqp://mq/%2Fa%2fb": BrokerUrl("mq", vhost="/a/b"),
            "amqp://u%40x:p%3Aw%2F@[::1]:77/v": BrokerUrl("::1", 77, "u@x", "p:w/", "v"),
            "amqp://u:@mq": BrokerUrl("mq", user="u", password=""),
        }.items():
            self.assertEqual(parse_broker_url(text), url)

    def test_refused(self) -> None:
        """Anything else is refused in a sentence that does not repeat a password."""
        for text in (
            "",
            "localhost:5672",
            "http://u:secret@mq",
            "amqps://u:secret@mq",
            "amqp://",
            "amqp://u:secret@",
            "amqp://u:secret@mq:port",
            "amqp://u:secret@mq:0",
            "amqp://u:secret@mq:65536",
            "amqp://u:secret@mq/v?heartbeat=5",
            "amqp://u:secret@mq#x",
            "amqp://u:secret@mq\n",
            "amqp://u:secret@m q",
            "amqp://u:secret@é",
            "amqp://u:secret@[::1",
        ):
            error = self.assertRaises(ConfigError, parse_broker_url, text)
            self.assertNotIn("secret", error.detail)
            self.assertIn("RABBITMQ_SERVER", error.detail)

    def test_no_password_shown(self) -> None:
        """Neither text form tells the password."""
        url = parse_broker_url("amqp://me:secret@mq:77/v")
        self.assertNotIn("secret", f"{url} {url!r}")
        self.assertEqual(str(url), "mq:77 (v)")
        self.assertEqual(str(BrokerUrl("::1")), "[::1]:5672")

    @prove
    @given(st.text(max_size=40).map("amqp://".__add__) | st.text(max_size=40))
    def test_garbage(self, text: str) -> None:
        """Garbage is ConfigError and nothing else."""
        with contextlib.suppress(ConfigError):
            parse_broker_url(text)
