"""F6: a data server is away while objects are written, overwritten and deleted, and back later."""

from __future__ import annotations

import json

from tests.support.shared_cluster import FaultCase


class AwayTests(FaultCase):
    """What it missed is neither lost nor undone."""

    def test_away_during_writes_and_deletions(self) -> None:
        """No deleted object is back and no overwritten one is read, neither right after the return
        nor when others are lost and what it missed is all there is.
        """
        api, other = self.cluster.api
        bodies = {
            name: self.chance.randbytes(size)
            for name, size in (("deleted", 5000), ("old", 300_000), ("new", 2_000_000), ("kept", 9))
        }
        paths = {name: f"/objects/{self.seed}/{name}" for name in bodies}
        for name in ("deleted", "old", "kept"):
            self.assertEqual(api.request("PUT", paths[name], bodies[name]).status, 200)
        away = self.chance.choice(self.cluster.data)
        away.kill()
        bodies["old"] = self.chance.randbytes(300_000)
        for name in ("old", "new"):
            self.assertEqual(other.request("PUT", paths[name], bodies[name]).status, 200)
        self.assertEqual(api.request("DELETE", paths["deleted"]).status, 204)
        # Again with what it had: the content is stored already, but for one shard.
        again = self.chance.randbytes(70_000)
        for path in ("again", "once-more"):
            answer = api.request("PUT", f"/objects/{self.seed}/{path}", again)
            self.assertEqual(answer.status, 200)
        away.start()
        self.check(bodies, paths)
        self.cluster.wait_ready()
        self.check(bodies, paths)
        self.cluster.wait_full()
        lost = self.chance.sample([s for s in self.cluster.data if s is not away], 2)
        for server in lost:
            server.kill()
        self.check(bodies, paths)
        for server in lost:
            server.start()
        self.cluster.wait_ready()
        self.check(bodies, paths)

    def check(self, bodies: dict[str, bytes], paths: dict[str, str]) -> None:
        """Each API server gives what was written last, and no more versions than were made."""
        for server in self.cluster.api:
            for name, path in paths.items():
                answer = server.request("GET", path)
                wanted = (404, None) if name == "deleted" else (200, bodies[name])
                found = (answer.status, answer.body if answer.status == 200 else None)
                self.assertEqual(found, wanted, (name, answer.body[:300]))
                versions = server.request("GET", path.replace("/objects/", "/versions/")).body
                numbers = [json.loads(line)["Version"] for line in versions.splitlines()]
                self.assertEqual(numbers, [1, 2] if name in ("deleted", "old") else [1])
