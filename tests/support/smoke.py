"""Puts an object in a store that some ``twistd`` starts, and gets it back: smoke TWISTD FOLDER."""

from __future__ import annotations

import os
import sys

from tests.support.processes import Store


def main(twistd: str, folder: str) -> None:
    """Exit with a sentence when anything is not as it should be."""
    store = Store(folder, twistd=twistd)
    try:
        store.start()
        body = os.urandom(1_000_003)
        put = store.request("PUT", "/objects/smoke", body)
        got = store.request("GET", "/objects/smoke")
        if (put.status, got.status, got.body) != (200, 200, body):
            sys.exit(f"PUT answered {put.status}, GET {got.status} and {len(got.body)} bytes")
        if store.stop() != 0:
            sys.exit(f"the store did not stop cleanly:\n{store.log()}")
    finally:
        store.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
