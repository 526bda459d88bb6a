"""A9: headers of the inside, sent from the outside."""

from __future__ import annotations

import json

from tests.support.http import HttpTestCase

INTERNAL = {
    "X-Shard": "0",
    "X-Object-Version": "7",
    "X-Forwarded-For": "10.0.0.1",
    "X-Forwarded-Host": "evil",
    "X-Real-IP": "10.0.0.1",
    "Forwarded": "for=10.0.0.1",
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/health/live",
    "X-Rewrite-URL": "/health/live",
    "X-Dostore-Signature": "abc",
    "Authorization": "Dostore abc",
    "Upload-Offset": "10",
    "Size": "3",
    "ETag": '"x"',
    "Last-Modified": "Mon, 23 Nov 2020 08:30:00 GMT",
    "Hash": "x",
    "Created": "x",
}


class A9(HttpTestCase):
    """Internal headers."""

    def test_ignored(self) -> None:
        """Every answer is what it is without them, but for the version's number."""
        bodies = []
        for headers in ({}, INTERNAL):
            put = self.ask("PUT", "/objects/a", headers, b"abc")
            got = self.ask("GET", "/objects/a", headers)
            listed = self.ask("GET", "/versions/a", headers)
            line = json.loads(listed.body.splitlines()[-1])
            for answer in (put, got):
                del answer.headers["x-object-version"]
            del line["Version"]
            bodies.append((put.status, put.headers, got.status, got.headers, got.body, line))
        self.assertEqual(bodies[0], bodies[1])
        versions = self.store.metadata.names["a"]
        self.assertEqual([version.number for version in versions], [1, 2])
        self.assertEqual([dict(version.meta) for version in versions], [{}, {}])
