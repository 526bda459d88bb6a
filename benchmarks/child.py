"""A process of its own that is told what to do by lines of JSON, and answers by them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any


class ChildFailed(Exception):
    """It could not do what it was told, or ended."""


class Child:
    """The end that tells. The process ends with its standard input.

    :param module: what it runs.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def hear(self) -> Any:
        """Its next line.

        :raises ChildFailed: it tells of an error, or has ended; what it said went to stderr.
        """
        assert self.process.stdout is not None, "it is a pipe"
        line = self.process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._module} has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildFailed(answer["error"])
        return answer

    def ask(self, request: Any) -> Any:
        """Tell it a line, and hear its answer."""
        assert self.process.stdin is not None, "it is a pipe"
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return self.hear()

    def close(self) -> None:
        """Have it end, and wait for that. Idempotent."""
        self.process.communicate()


def serve(answers: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
    """The other end: an answer for each line until there are no more."""
    for answer in answers(json.loads(line) for line in sys.stdin.buffer):
        say(answer)


def say(answer: Any) -> None:
    """Send a line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
