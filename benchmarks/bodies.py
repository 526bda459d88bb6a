"""What the measured objects are made of: cheap to vary, the same for a store and its reference.

A content is one mebibyte of fixed bytes, repeated and cut to its size, with a label in place of its
first 16 bytes. So no two contents are alike, for a store keeps the same content only once, and
making one costs the client next to nothing.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct

MIB = 1 << 20

#: A content's salt and number, which make it its own.
LABEL = struct.Struct(">QQ")

_WORDS = 400


def _text() -> bytes:
    """Bytes that gzip makes a third of: lines of words."""
    source = random.Random(11)
    letters = "etaoinshrdlucmfw"
    words = ["".join(source.choices(letters, k=source.randint(2, 9))) for _ in range(_WORDS)]
    text = " ".join(source.choices(words, k=MIB // 2))
    return text.encode("ascii")[:MIB]


RANDOM = random.Random(7).randbytes(MIB)
TEXT = _text()


def material(text: bool) -> bytes:
    """The mebibyte that contents repeat; ``text``: one that can be compressed."""
    return TEXT if text else RANDOM


def part(salt: int, number: int, offset: int, size: int, *, text: bool = False) -> bytes:
    """Some bytes of a content."""
    base = material(text)
    repeated = base * (2 + size // MIB)
    start = offset % MIB
    cut = repeated[start : start + size]
    label = LABEL.pack(salt, number)[offset:]
    return label[:size] + cut[len(label) :] if label else cut


def sha256(salt: int, number: int, size: int, *, text: bool = False) -> bytes:
    """The hash of a content."""
    hasher = hashlib.sha256()
    for offset in range(0, size, MIB):
        hasher.update(part(salt, number, offset, min(MIB, size - offset), text=text))
    return hasher.digest()


def in_memory(text: bool) -> int:
    """The descriptor of a file in memory with the material, for sendfile."""
    descriptor = os.memfd_create("body", os.MFD_CLOEXEC)
    os.write(descriptor, material(text))
    return descriptor
