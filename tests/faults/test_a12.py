"""A12: an object that is a page, opened in a browser."""

from __future__ import annotations

from tests.support.http import HttpTestCase


class A12(HttpTestCase):
    """Objects in browsers."""

    def test_sandbox(self) -> None:
        """A page from the store has no script, no form, no origin, and keeps its declared type."""
        page = b"<html><script>fetch('/objects/secret')</script>"
        self.ask("PUT", "/objects/page", {"Content-Type": "text/html"}, page)
        for method in ("GET", "HEAD"):
            answer = self.ask(method, "/objects/page")
            self.assertEqual(answer.headers["content-type"], "text/html")
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            policy = answer.headers["content-security-policy"]
            self.assertEqual(policy, "sandbox; default-src 'none'")

    def test_all_answers(self) -> None:
        """No answer's type is guessed, errors and listings included."""
        for method, target in (
            ("GET", "/objects/none"),
            ("GET", "/objects/"),
            ("GET", "/versions/"),
            ("GET", "/metrics"),
            ("GET", "/health/ready"),
            ("GET", "/<script>"),
            ("BREW", "/objects/a"),
            ("GET", "/\x7f\x80"),
        ):
            answer = self.ask(method, target)
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff", target)
            self.assertNotIn("html", answer.headers["content-type"])
            self.assertNotIn(b"<script>", answer.body)
