"""Errors of requests, as the rest of the program has them."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, DNSLookupError, getConnectError
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived

from dostore.errors import NodeUnavailable
from dostore.http.body import Broken
from dostore.http.exchange import NotConnected, translate
from tests.support.cases import SyncTestCase


class TranslateTests(SyncTestCase):
    """What comes of foreign errors."""

    def test_kinds(self) -> None:
        """Whether another connection may do, and a reason that people understand."""
        done = Failure(ConnectionDone())
        for error, kind, text in (
            (
                getConnectError((111, "x")),
                NotConnected,
                "a:1 cannot be reached: connection refused.",
            ),
            (getConnectError((113, "x")), NotConnected, "a:1 cannot be reached: no route to host."),
            (
                DNSLookupError("no such name"),
                NotConnected,
                "a:1 cannot be reached: DNS lookup failed: no such name.",
            ),
            (
                ResponseNeverReceived([done]),
                Broken,
                "a:1 cannot be reached: the connection broke.",
            ),
            (
                RequestTransmissionFailed([done]),
                Broken,
                "a:1 cannot be reached: the connection broke.",
            ),
            (
                ResponseFailed([Failure(ParseError("x", b"y"))]),
                NodeUnavailable,
                "a:1 cannot be reached: it does not speak HTTP.",
            ),
        ):
            found = translate(error, "a:1")
            self.assertIs(type(found), kind)
            self.assertEqual(str(found), text)

    def test_given_up(self) -> None:
        """What was given up here is no failure of the server."""
        found = translate(ResponseNeverReceived([Failure(CancelledError())]), "a:1")
        self.assertIsInstance(found, CancelledError)
